"""The paper's experiments by name: configurations, no code.

`python -m train list` shows them, `python -m train run NAME` runs one, and
`python -m train sweep PREFIX` all that begin so. Every experiment of the
paper has two sizes: its own, for one GPU, and under `small-` a tenth of its
epochs on a small network and 5,000 images, with the same proportions, for two
CPU cores.
"""

from collections.abc import Iterator
import dataclasses
from typing import Any

from train import errors
from train.config import Config


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A named configuration."""

  name: str
  summary: str
  """What it is, and where in the paper."""
  scale: str
  """Network, images, epochs, and the machine that it is meant for."""
  config: Config


_DIGITS = Config(
  dataset='digits',
  depth=10,
  widen_factor=1,
  epochs=12,
  batch_size=64,
  checkpoint_every=6,
)

# Section 4: WRN28-10 without dropout. The authors run 150 epochs; the paper
# reads off epoch 120.
_PAPER = Config(
  depth=28,
  widen_factor=10,
  epochs=150,
  batch_size=128,
  learning_rate=0.1,
  weight_decay=5e-4,
  schedule='steps',
  milestones=(30, 60, 90),
  milestone_factor=0.2,
)

# Section 4.3: constant for 30 epochs, then x0.99985 after every step.
_FINAL: dict[str, Any] = {
  'schedule': 'exponential',
  'decay_start': 30,
  'decay_rate': 0.99985,
}

# The authors' program starts one epoch later, and decays before the step. An
# epoch has 391 steps.
_AUTHORS: dict[str, Any] = {
  **_FINAL,
  'decay_start': 31 - 1 / 391,
  'inclusive': False,
  'normalization': 'imagenet',
}

_SMALL_FACTOR = 10


def _lcam(horizontal: float, vertical: float) -> dict[str, Any]:
  return {
    'optimizer': 'lcam',
    'horizontal_momentum': horizontal,
    'vertical_momentum': vertical,
  }


def _fixed(momentum: float) -> dict[str, Any]:
  return {'optimizer': 'sgd', 'momentum': momentum}


_FIGURE2 = {
  'fixed-0.9': ('fixed momentum 0.9', _fixed(0.9)),
  'fixed-0.95': ('fixed momentum 0.95', _fixed(0.95)),
  'horizontal-0.95': ('horizontal 0.95, vertical 0.9', _lcam(0.95, 0.9)),
  'vertical-0.95': ('horizontal 0.9, vertical 0.95', _lcam(0.9, 0.95)),
}
_FIGURE3 = {
  **_FIGURE2,
  'horizontal-0.93': ('horizontal 0.93, vertical 0.9', _lcam(0.93, 0.9)),
  'vertical-0.93': ('horizontal 0.9, vertical 0.93', _lcam(0.9, 0.93)),
}
# The authors' final pairs.
_PAIRS = {'cifar10': (0.9, 0.95), 'cifar100': (0.93, 0.9)}


def _of_the_paper() -> Iterator[tuple[str, str, Config]]:
  """Name, summary and full-size configuration of each experiment."""

  def make(dataset: str, *settings: dict[str, Any]) -> Config:
    merged = {key: value for part in settings for key, value in part.items()}
    return dataclasses.replace(
      _PAPER,
      dataset=dataset,  # type: ignore[arg-type]
      **merged,
    )

  for figure, dataset, arms in (
    ('figure2', 'cifar10', _FIGURE2),
    ('figure3', 'cifar100', _FIGURE3),
  ):
    for arm, (summary, settings) in arms.items():
      yield (
        f'{figure}-{arm}',
        f'Figure {figure[-1]}, {dataset}, steps at 30, 60, 90: {summary}.',
        make(dataset, settings),
      )

  for dataset, pair in _PAIRS.items():
    # Figure 4 and Table 1, and the controls that they lack.
    lcam = _lcam(*pair)
    pair_words = f'horizontal {pair[0]}, vertical {pair[1]}'
    yield (
      f'figure4-{dataset}-lcam',
      f'Figure 4 and Table 1, {dataset}: LCAM, {pair_words}.',
      make(dataset, _FINAL, lcam),
    )
    for momentum in (0.9, 0.93, 0.915):
      yield (
        f'figure4-{dataset}-fixed-{momentum}',
        f'Control of Figure 4, {dataset}: fixed momentum {momentum}.',
        make(dataset, _FINAL, _fixed(momentum)),
      )
    yield (
      f'figure4-{dataset}-steps-120',
      f'Control of Table 1, {dataset}: the steps of the WRN paper in 120'
      ' epochs.',
      make(dataset, _fixed(0.9), {'epochs': 120, 'milestones': (36, 72, 96)}),
    )
    yield (
      f'figure4-{dataset}-cosine-120',
      f'Control of Table 1, {dataset}: cosine annealing in 120 epochs.',
      make(dataset, _fixed(0.9), {'epochs': 120, 'schedule': 'cosine'}),
    )
    yield (
      f'table1-{dataset}-wrn',
      f'Table 1, {dataset}: the WRN paper, 200 epochs, steps at 60, 120, 160.',
      make(dataset, _fixed(0.9), {'epochs': 200, 'milestones': (60, 120, 160)}),
    )
    yield (
      f'table1-{dataset}-cosine',
      f'Table 1, {dataset}: cosine annealing, 200 epochs.',
      make(dataset, _fixed(0.9), {'epochs': 200, 'schedule': 'cosine'}),
    )
    yield (
      f'authors-{dataset}-lcam',
      f"The authors' program, {dataset}: < for <=, decay one epoch later,"
      " ImageNet's normalisation.",
      make(dataset, _AUTHORS, lcam),
    )
    yield (
      f'ablation-{dataset}-current',
      f'Ablation, {dataset}: the loss chooses the momentum of its own step.',
      make(dataset, _FINAL, lcam, {'reaction': 'current'}),
    )
    yield (
      f'ablation-{dataset}-strict',
      f'Ablation, {dataset}: < for <= alone.',
      make(dataset, _FINAL, lcam, {'inclusive': False}),
    )
    yield (
      f'ablation-{dataset}-moving-average',
      f"Ablation, {dataset}: a moving average for the epoch's mean.",
      make(dataset, _FINAL, lcam, {'loss_decay': 0.99}),
    )
    for optimizer in ('adam', 'adamw', 'rmsprop', 'adagrad'):
      yield (
        f'adaptive-{dataset}-{optimizer}',
        f'Section 4.4, {dataset}: {optimizer} on the same network.',
        make(dataset, _FINAL, {'optimizer': optimizer, 'learning_rate': None}),
      )


def _small(config: Config) -> Config:
  """A tenth of the epochs, the same proportions, the same final rate."""

  def tenth(epochs: float | None) -> float | None:
    return None if epochs is None else epochs / _SMALL_FACTOR

  milestones = config.milestones
  return dataclasses.replace(
    config,
    depth=10,
    widen_factor=1,
    train_examples=5000,
    epochs=config.epochs // _SMALL_FACTOR,
    decay_start=tenth(config.decay_start),
    # Left open, it leads to the same final rate in fewer steps.
    decay_rate=None,
    milestones=milestones and tuple(m / _SMALL_FACTOR for m in milestones),
    checkpoint_every=5,
  )


def _all() -> Iterator[Experiment]:
  for name, summary, settings in (
    ('digits-lcam', 'LCAM 0.93/0.9', _lcam(0.93, 0.9)),
    ('digits-fixed', 'fixed momentum 0.9', _fixed(0.9)),
  ):
    yield Experiment(
      name,
      f'The default job, on handwritten digits: {summary}.',
      'WRN-10-1, 12 epochs; seconds on 2 CPU cores',
      dataclasses.replace(_DIGITS, **settings),
    )
  for name, summary, config in _of_the_paper():
    yield Experiment(
      name,
      summary,
      f'WRN-28-10, {config.epochs} epochs; hours on one GPU',
      config,
    )
    small = _small(config)
    yield Experiment(
      f'small-{name}',
      f'{summary[:-1]}; small.',
      f'WRN-10-1, 5,000 images, {small.epochs} epochs; minutes on 2 CPU cores',
      small,
    )


EXPERIMENTS = {experiment.name: experiment for experiment in _all()}


def get(name: str) -> Experiment:
  """The experiment of this name, or UsageError with the nearest one."""
  if name in EXPERIMENTS:
    return EXPERIMENTS[name]
  raise errors.UsageError(
    f'There is no experiment {name!r}.'
    f'{errors.did_you_mean(name, EXPERIMENTS)} `python -m train list` shows'
    ' them all.'
  )


def select(name: str) -> list[Experiment]:
  """The experiment of this name, or all whose names begin with it and a dash.

  So `figure2` is all arms of Figure 2.
  """
  family = [e for n, e in EXPERIMENTS.items() if n.startswith(f'{name}-')]
  return [EXPERIMENTS[name]] if name in EXPERIMENTS else family or [get(name)]
