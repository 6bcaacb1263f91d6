"""The paper's experiments by name: configurations, no code.

`python -m train list` shows them, `python -m train run NAME` runs one, and
`python -m train sweep PREFIX` all that begin so. Every experiment of the
paper has two sizes: its own, for one GPU, and under `small-` a tenth of its
epochs on a small network and 5,000 images of half the width and height, with
the same proportions, for two CPU cores.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import re
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
  """Network, images and epochs."""
  duration: str
  """How long one run takes, and where."""
  config: Config
  follows: str | None = None
  """The experiment of LCAM whose share of horizontal steps, or mean momentum,
  this one takes over, seed by seed."""


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

_READ_OFF_EPOCH = 120

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

# An epoch of a small run and its test, measured.
_SMALL_EPOCH_SECONDS = 2.4

# A training image of WRN-28-10, and half of what an H200 does in bfloat16.
_FLOP_PER_IMAGE = 31.5e9
_FLOP_PER_SECOND = 395e12


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


@dataclasses.dataclass(frozen=True)
class _Arm:
  """One experiment at the paper's own size."""

  name: str
  summary: str
  config: Config
  follows: str | None = None


def _make(dataset: str, *settings: dict[str, Any]) -> Config:
  merged = {key: value for part in settings for key, value in part.items()}
  return dataclasses.replace(_PAPER, dataset=dataset, **merged)


def _figures_2_and_3() -> Iterator[_Arm]:
  for figure, dataset, arms in (
    ('figure2', 'cifar10', _FIGURE2),
    ('figure3', 'cifar100', _FIGURE3),
  ):
    for arm, (summary, settings) in arms.items():
      yield _Arm(
        f'{figure}-{arm}',
        f'Figure {figure[-1]}, {dataset}, steps at 30, 60, 90: {summary}.',
        _make(dataset, settings),
      )


def _figure_4_and_table_1(dataset: str) -> Iterator[_Arm]:
  """The paper's arms, and the controls that it lacks."""
  pair = _PAIRS[dataset]
  yield _Arm(
    f'figure4-{dataset}-lcam',
    f'Figure 4 and Table 1, {dataset}: LCAM, horizontal {pair[0]}, vertical'
    f' {pair[1]}.',
    _make(dataset, _FINAL, _lcam(*pair)),
  )
  for momentum in (0.9, 0.93, 0.915):
    yield _Arm(
      f'figure4-{dataset}-fixed-{momentum}',
      f'Control of Figure 4, {dataset}: fixed momentum {momentum}.',
      _make(dataset, _FINAL, _fixed(momentum)),
    )
  yield _Arm(
    f'figure4-{dataset}-steps-120',
    f'Control of Table 1, {dataset}: the steps of the WRN paper in 120 epochs.',
    _make(dataset, _fixed(0.9), {'epochs': 120, 'milestones': (36, 72, 96)}),
  )
  yield _Arm(
    f'figure4-{dataset}-cosine-120',
    f'Control of Table 1, {dataset}: cosine annealing in 120 epochs.',
    _make(dataset, _fixed(0.9), {'epochs': 120, 'schedule': 'cosine'}),
  )
  yield _Arm(
    f'table1-{dataset}-wrn',
    f'Table 1, {dataset}: the WRN paper, 200 epochs, steps at 60, 120, 160.',
    _make(dataset, _fixed(0.9), {'epochs': 200, 'milestones': (60, 120, 160)}),
  )
  yield _Arm(
    f'table1-{dataset}-cosine',
    f'Table 1, {dataset}: cosine annealing, 200 epochs.',
    _make(dataset, _fixed(0.9), {'epochs': 200, 'schedule': 'cosine'}),
  )


def _ablations(dataset: str) -> Iterator[_Arm]:
  """LCAM's final run with one thing changed."""
  lcam = _lcam(*_PAIRS[dataset])
  follows = f'figure4-{dataset}-lcam'
  yield _Arm(
    f'ablation-{dataset}-coin',
    f"Ablation, {dataset}: a coin that switches at LCAM's own rate and does"
    ' not look at the loss.',
    _make(dataset, _FINAL, lcam, {'optimizer': 'coin'}),
    follows,
  )
  yield _Arm(
    f'ablation-{dataset}-time-average',
    f"Ablation, {dataset}: momentum fixed at the mean of LCAM's own.",
    _make(dataset, _FINAL, {'optimizer': 'sgd'}),
    follows,
  )
  yield _Arm(
    f'ablation-{dataset}-current',
    f'Ablation, {dataset}: the loss chooses the momentum of its own step.',
    _make(dataset, _FINAL, lcam, {'reaction': 'current'}),
  )
  yield _Arm(
    f'ablation-{dataset}-strict',
    f'Ablation, {dataset}: < for <= alone.',
    _make(dataset, _FINAL, lcam, {'inclusive': False}),
  )
  yield _Arm(
    f'ablation-{dataset}-moving-average',
    f"Ablation, {dataset}: a moving average for the epoch's mean.",
    # A quarter of an epoch of 391 steps, about.
    _make(dataset, _FINAL, lcam, {'loss_decay': 0.99}),
  )
  for factor, word in ((0.5, 'half'), (2, 'twice')):
    # The learning rate in proportion to the batch: Goyal et al., 2017.
    size = {
      'batch_size': int(_PAPER.batch_size * factor),
      'learning_rate': 0.1 * factor,
      # Per step, so that an epoch decays as much.
      'decay_rate': _FINAL['decay_rate'] ** factor,
    }
    yield _Arm(
      f'ablation-{dataset}-{word}-batch-lcam',
      f'Ablation, {dataset}: LCAM with {word} the batch and learning rate.',
      _make(dataset, _FINAL, lcam, size),
    )
    yield _Arm(
      f'ablation-{dataset}-{word}-batch-fixed-0.9',
      f'Ablation, {dataset}: fixed momentum 0.9 with {word} the batch and'
      ' learning rate.',
      _make(dataset, _FINAL, _fixed(0.9), size),
    )


def _others(dataset: str) -> Iterator[_Arm]:
  yield _Arm(
    f'authors-{dataset}-lcam',
    f"The authors' program, {dataset}: < for <=, decay one epoch later,"
    " ImageNet's normalisation.",
    _make(dataset, _AUTHORS, _lcam(*_PAIRS[dataset])),
  )
  for optimizer in ('adam', 'adamw', 'rmsprop', 'adagrad'):
    yield _Arm(
      f'adaptive-{dataset}-{optimizer}',
      f'Section 4.4, {dataset}: {optimizer} on the same network.',
      _make(dataset, _FINAL, {'optimizer': optimizer, 'learning_rate': None}),
    )
  horizontal, vertical = _PAIRS[dataset]
  for optimizer in ('adam', 'adamw'):
    name = f'adaptive-{dataset}-{optimizer}'
    settings = {**_lcam(horizontal, vertical), 'learning_rate': None}
    yield _Arm(
      f'{name}-loss-controlled',
      f'Section 4.4, {dataset}: {optimizer} whose b1 follows the loss,'
      f' horizontal {horizontal}, vertical {vertical}.',
      _make(
        dataset,
        _FINAL,
        {**settings, 'optimizer': f'{optimizer}-loss-controlled'},
      ),
    )
    yield _Arm(
      f'{name}-coin',
      f'Section 4.4, {dataset}: {optimizer} whose b1 takes the same two values'
      ' at random, at the same rate.',
      _make(dataset, _FINAL, {**settings, 'optimizer': f'{optimizer}-coin'}),
      f'{name}-loss-controlled',
    )


def _of_the_paper() -> Iterator[_Arm]:
  yield from _figures_2_and_3()
  for family in (_figure_4_and_table_1, _ablations, _others):
    for dataset in _PAIRS:
      yield from family(dataset)


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
    image_size=16,
    # More steps for the same images: 157 an epoch.
    batch_size=config.batch_size // 4,
    epochs=config.epochs // _SMALL_FACTOR,
    decay_start=tenth(config.decay_start),
    # Left open, it leads to the same final rate in fewer steps.
    decay_rate=None,
    milestones=milestones and tuple(m / _SMALL_FACTOR for m in milestones),
    # Again a quarter of an epoch.
    loss_decay=config.loss_decay and 0.975,
    checkpoint_every=5,
  )


def _gpu_minutes(config: Config) -> float:
  images = 50_000 * config.epochs
  return images * _FLOP_PER_IMAGE / _FLOP_PER_SECOND / 60


def _all() -> Iterator[Experiment]:
  for name, summary, settings in (
    ('digits-lcam', 'LCAM 0.93/0.9', _lcam(0.93, 0.9)),
    ('digits-fixed', 'fixed momentum 0.9', _fixed(0.9)),
  ):
    yield Experiment(
      name,
      f'The default job, on handwritten digits: {summary}.',
      'WRN-10-1, 1,437 images of 8x8, 12 epochs',
      '4 seconds on 2 CPU cores',
      dataclasses.replace(_DIGITS, **settings),
    )
  for arm in _of_the_paper():
    yield Experiment(
      arm.name,
      arm.summary,
      f'WRN-28-10, 50,000 images of 32x32, {arm.config.epochs} epochs',
      f'about {_gpu_minutes(arm.config):.0f} minutes on one H200 by its FLOP',
      arm.config,
      arm.follows,
    )
    small = _small(arm.config)
    yield Experiment(
      f'small-{arm.name}',
      f'{arm.summary[:-1]}; small.',
      f'WRN-10-1, 5,000 images of 16x16, {small.epochs} epochs',
      f'{small.epochs * _SMALL_EPOCH_SECONDS:.0f} seconds on 2 CPU cores',
      small,
      arm.follows and f'small-{arm.follows}',
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


def grid(
  experiment: Experiment,
  horizontal_momenta: Sequence[float],
  vertical_momenta: Sequence[float],
) -> list[Experiment]:
  """An experiment of LCAM under every pair of momenta.

  Args:
    experiment: Any of optimizer lcam.
    horizontal_momenta: Those to try.
    vertical_momenta: Those to try with each of them.

  Raises:
    UsageError: It is not an experiment of LCAM.
  """
  if experiment.config.optimizer != 'lcam':
    raise errors.UsageError(
      '--horizontal-momenta and --vertical-momenta need experiments of lcam,'
      f' got {experiment.name}, which is of {experiment.config.optimizer}.'
    )
  return [
    dataclasses.replace(
      experiment,
      name=f'{experiment.name}-h{horizontal}-v{vertical}',
      config=dataclasses.replace(
        experiment.config,
        horizontal_momentum=horizontal,
        vertical_momentum=vertical,
      ),
    )
    for horizontal in horizontal_momenta
    for vertical in vertical_momenta
  ]


def without_momenta(name: str) -> str:
  """The name of the experiment that :func:`grid` has made this one of."""
  return re.sub(r'-h[\d.e-]+-v[\d.e-]+$', '', name)


def read_off_epoch(name: str | None, epochs: int) -> int:
  """The epoch at which the paper reads off the error of an experiment.

  Args:
    name: Of either size, or ``None``.
    epochs: Of the run.

  Returns:
    Epoch 120 of the authors' 150, or in proportion; elsewhere the last.
  """
  full = EXPERIMENTS.get((name or '').removeprefix('small-'))
  if full is None or full.config.epochs != _PAPER.epochs:
    return epochs
  return max(1, round(epochs * _READ_OFF_EPOCH / _PAPER.epochs))


def select(name: str) -> list[Experiment]:
  """The experiment of this name, or all whose names begin with it and a dash.

  So `figure2` is all arms of Figure 2.
  """
  family = [e for n, e in EXPERIMENTS.items() if n.startswith(f'{name}-')]
  return [EXPERIMENTS[name]] if name in EXPERIMENTS else family or [get(name)]
