"""What the paper shows and claims, by the names of the experiments.

The order of a report on the paper's experiments, at either size.
"""

from collections.abc import Iterator
import dataclasses
from typing import Literal

from train.statistics import Verdict

DATASETS = {'cifar10': 'CIFAR-10', 'cifar100': 'CIFAR-100'}

# Table 1: test error in percent.
TABLE_1 = {
  'table1-cifar10-wrn': 4.00,
  'table1-cifar10-cosine': 4.03,
  'figure4-cifar10-lcam': 3.98,
  'table1-cifar100-wrn': 19.25,
  'table1-cifar100-cosine': 19.58,
  'figure4-cifar100-lcam': 19.22,
}


@dataclasses.dataclass(frozen=True)
class Family:
  """Experiments that belong into one figure or table."""

  title: str
  picture: str | None
  """Stem of the picture of their curves."""
  members: tuple[str, ...]
  """Names of experiments, without `small-`."""
  against: str | None = None
  """The one to compare the others with. None: every pair."""


_MOMENTA = ('fixed-0.9', 'fixed-0.95', 'horizontal-0.95', 'vertical-0.95')

FIGURE_2 = Family(
  'Figure 2: CIFAR-10, steps at 1/5, 2/5 and 3/5 of the run',
  'figure2',
  tuple(f'figure2-{arm}' for arm in _MOMENTA),
)
FIGURE_3 = Family(
  'Figure 3: CIFAR-100, steps at 1/5, 2/5 and 3/5 of the run',
  'figure3',
  tuple(
    f'figure3-{arm}' for arm in (*_MOMENTA, 'horizontal-0.93', 'vertical-0.93')
  ),
)
# The curves of Figure 4, each with the controls that the paper lacks.
FIGURE_4 = {
  dataset: tuple(
    f'figure4-{dataset}-{arm}'
    for arm in ('lcam', 'fixed-0.9', 'fixed-0.93', 'fixed-0.915')
  )
  for dataset in DATASETS
}


def families() -> Iterator[Family]:
  """All, in the order of the report."""
  yield FIGURE_2
  yield FIGURE_3
  for dataset, name in DATASETS.items():
    yield Family(
      f'Figure 4 and Table 1: {name}, the final schedule',
      None,
      (
        f'table1-{dataset}-wrn',
        f'table1-{dataset}-cosine',
        f'table1-{dataset}-sgdr',
        f'table1-{dataset}-sgdr-cosine',
        *FIGURE_4[dataset],
        f'figure4-{dataset}-steps-120',
        f'figure4-{dataset}-cosine-120',
      ),
      against=f'figure4-{dataset}-lcam',
    )
  for dataset, name in DATASETS.items():
    yield Family(
      f'Ablations of the final run: {name}',
      None,
      (
        f'figure4-{dataset}-lcam',
        *(
          f'ablation-{dataset}-{arm}'
          for arm in (
            'coin',
            'coin-by-epoch',
            'time-average',
            'swapped',
            'current',
            'strict',
            'moving-average',
          )
        ),
        f'authors-{dataset}-lcam',
      ),
      against=f'figure4-{dataset}-lcam',
    )
    for word in ('half', 'twice'):
      yield Family(
        f'{word.capitalize()} the batch size: {name}',
        None,
        (
          f'ablation-{dataset}-{word}-batch-lcam',
          f'ablation-{dataset}-{word}-batch-fixed-0.9',
        ),
      )
  for dataset, name in DATASETS.items():
    yield Family(
      f'Adaptive optimizers (section 4.4): {name}',
      f'adaptive-{dataset}',
      (
        f'figure4-{dataset}-lcam',
        f'figure4-{dataset}-fixed-0.9',
        *(
          f'adaptive-{dataset}-{optimizer}'
          for optimizer in (
            'adam',
            'adam-loss-controlled',
            'adam-coin',
            'adamw',
            'adamw-loss-controlled',
            'adamw-coin',
            'rmsprop',
            'adagrad',
          )
        ),
      ),
      against=f'figure4-{dataset}-lcam',
    )


@dataclasses.dataclass(frozen=True)
class Claim:
  """That one experiment has a lower error than another, or the same."""

  dataset: str
  """As people write it."""
  subject: str
  other: str
  source: str
  first: str
  second: str
  expected: Verdict = Verdict.BETTER

  @property
  def words(self) -> str:
    if self.expected == Verdict.BETTER:
      return f'{self.dataset}: {self.subject} is better than {self.other}'
    return f'{self.dataset}: {self.subject} and {self.other} are very close'


def claims() -> list[Claim]:
  """What the paper says, and the three things that it leaves open.

  The last claims for each data set are not the paper's own words: they are what
  must hold if the loss is to be the reason for its results.
  """

  def momenta(
    figure: Literal['2', '3'],
    first: str,
    second: str,
    expected: Verdict = Verdict.BETTER,
  ) -> Claim:
    dataset, section = {
      '2': ('CIFAR-10', '4.1'),
      '3': ('CIFAR-100', '4.2'),
    }[figure]
    return Claim(
      dataset,
      first.replace('-', ' '),
      second.replace('-', ' '),
      f'Figure {figure}, {section}',
      f'figure{figure}-{first}',
      f'figure{figure}-{second}',
      expected,
    )

  listed = [
    momenta('2', 'vertical-0.95', 'fixed-0.9'),
    momenta('2', 'vertical-0.95', 'fixed-0.95'),
    momenta('2', 'vertical-0.95', 'horizontal-0.95'),
    momenta('2', 'fixed-0.9', 'fixed-0.95'),
    momenta('2', 'fixed-0.9', 'horizontal-0.95'),
    momenta('3', 'horizontal-0.93', 'fixed-0.9'),
    momenta('3', 'horizontal-0.93', 'fixed-0.95'),
    momenta('3', 'vertical-0.93', 'fixed-0.9'),
    momenta('3', 'vertical-0.93', 'fixed-0.95'),
    momenta('3', 'horizontal-0.93', 'vertical-0.93', Verdict.EQUIVALENT),
    momenta('3', 'vertical-0.93', 'vertical-0.95'),
    momenta('3', 'horizontal-0.93', 'horizontal-0.95'),
  ]
  for dataset, name in DATASETS.items():
    for other, source, second in (
      ('steps over 5/3 of the epochs', 'Table 1', f'table1-{dataset}-wrn'),
      (
        'cosine annealing over 5/3 of the epochs',
        'Table 1',
        f'table1-{dataset}-cosine',
      ),
      (
        'fixed 0.9 on the same schedule',
        'implied',
        f'figure4-{dataset}-fixed-0.9',
      ),
      (
        'momentum fixed at its own mean',
        'implied',
        f'ablation-{dataset}-time-average',
      ),
      ('a coin of its own rate', 'implied', f'ablation-{dataset}-coin'),
    ):
      lcam = f'figure4-{dataset}-lcam'
      listed.append(Claim(name, 'LCAM', other, source, lcam, second))
  return listed


SMALL_SCALE = """\
The small scale is this program with another configuration: WRN-10-1 (some
80,000 parameters instead of 36 million), the first 5,000 training images shrunk
to 16x16, all 10,000 test images, batches of 32, a tenth of the epochs, the
paper's learning rate and weight decay, the decay at the same shares of the run
and the same final rate.

**What it can tell:** whether the rule itself, momentum that follows the loss,
changes the outcome of a short training by more than the seeds do, in which
direction, and whether a coin that does not look at the loss does the same.

**What it cannot tell:** whether WRN-28-10 reaches the paper's figures. This
network never comes near to fitting its training images, so its error says more
about how fast it learns than about how well it generalises; a momentum that
amounts to a higher learning rate has another worth here than in a run of 25
times as many steps. The paper's "over L2 regularization" needs those steps
too: learning rate times weight decay, summed over the run, is 1/25 of the
paper's."""
