"""The paper's experiments: configurations as objects, which make their names.

`python -m train list` shows them, `python -m train run NAME` runs one, and
`python -m train sweep GROUP` all of a section. Every experiment of the paper
has three scales: its own, for one GPU; `medium-`, a fifth of its epochs on a
narrower and shallower network, which two CPU cores train in half an hour; and
`small-`, a tenth of its epochs on a smaller network yet and 5,000 images of
half the width and height. Schedules keep their proportions.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import enum
import itertools
from typing import Any

from train import config as config_lib
from train import errors
from train.config import Config

# Settings that make no other experiment.
_SAME_EXPERIMENT = config_lib.OWN_TO_EACH_RUN


@dataclasses.dataclass(frozen=True)
class Scale:
  """Network, images and epochs that experiments are run at."""

  name: str
  """In one word."""
  prefix: str
  """What the names of its experiments begin with."""
  title: str


OWN = Scale('own', '', 'the default job')
PAPER = Scale('paper', '', "the paper's own size")
MEDIUM = Scale('medium', 'medium-', 'the medium scale')
SMALL = Scale('small', 'small-', 'the small scale')


class Takes(enum.Enum):
  """What an arm takes over from the run of LCAM that it follows."""

  SHARE = 'share of horizontal steps'
  SHARE_OF_EACH_EPOCH = 'share of horizontal steps of each epoch'
  MEAN_MOMENTUM = 'mean momentum'

  @property
  def setting(self) -> str:
    """The setting that it becomes."""
    return 'momentum' if self is Takes.MEAN_MOMENTUM else _PROBABILITY


_PROBABILITY = 'horizontal_probability'


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A named configuration."""

  section: str
  """The group that it belongs to, such as figure4 or ablation."""
  dataset: str | None
  """The data set, where the section has more than one."""
  arm: str
  """What tells it from the others of its section and data set."""
  scale: Scale
  summary: str
  """What it is, and where in the paper."""
  size: str
  """Network, images and epochs, in words."""
  duration: str
  """How long one run takes, and where."""
  config: Config
  follows: 'Experiment | None' = None
  """The experiment of LCAM that this one takes a setting over from, seed by
  seed."""
  takes: Takes | None = None
  """What it takes over."""
  reads_off: int | None = None
  """The epoch at which the paper reads off its error; ``None``: the last."""
  changes: tuple[tuple[str, Any], ...] = ()
  """Settings in which it differs from the registered one."""

  @property
  def group(self) -> str:
    """What `sweep` calls all arms of its section and scale."""
    return f'{self.scale.prefix}{self.section}'

  @property
  def unchanged(self) -> str:
    """The name that the experiment is registered under."""
    parts = (self.group, self.dataset, self.arm)
    return '-'.join(part for part in parts if part is not None)

  @property
  def name(self) -> str:
    """Such as `figure4-cifar100-lcam + depth 10, epochs 3`."""
    if not self.changes:
      return self.unchanged
    changes = ', '.join(f'{name} {_text(x)}' for name, x in self.changes)
    return f'{self.unchanged} + {changes}'

  @property
  def folder(self) -> str:
    """The name as a folder: without blanks."""
    changes = ''.join(f'+{name}={_text(x)}' for name, x in self.changes)
    return self.unchanged + changes.replace(' ', '_').replace('/', '_')

  def record(self) -> dict[str, Any]:
    """What config.json says of it; see :func:`of_record`."""
    return {'experiment': self.unchanged, 'changes': dict(self.changes)}

  def change(self, settings: Mapping[str, Any]) -> 'Experiment':
    """The experiment with other settings, which is one of its own.

    What changes where or how fast it computes, and seeds, make no other
    experiment.
    """
    changed = {
      name: value
      for name, value in settings.items()
      if name not in _SAME_EXPERIMENT and getattr(self.config, name) != value
    }
    follows, takes = self.follows, self.takes
    if takes is not None and takes.setting in changed:
      follows = takes = None
    return dataclasses.replace(
      self,
      config=dataclasses.replace(self.config, **settings),
      # A control of a changed run follows the run with the same changes.
      follows=follows.change(settings) if follows else None,
      takes=takes,
      changes=tuple({**dict(self.changes), **changed}.items()),
    )

  @property
  def planned(self) -> Config:
    """The settings, with some value in place of what is to be taken over."""
    if self.takes is None:
      return self.config
    value: Any = 0.5 if self.takes is Takes.MEAN_MOMENTUM else (0.5,)
    return dataclasses.replace(self.config, **{self.takes.setting: value})


def _text(value: Any) -> str:
  if isinstance(value, tuple):
    return ' '.join(map(str, value))
  return str(value)


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

# Epochs of the paper to one of a scale.
_SMALL_FACTOR = 10
_MEDIUM_FACTOR = 5

# An epoch and its test, measured.
_SMALL_EPOCH_SECONDS = 2.4
_MEDIUM_EPOCH_SECONDS = 60

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

  section: str
  dataset: str | None
  arm: str
  summary: str
  config: Config
  follows: '_Arm | None' = None
  takes: Takes | None = None
  reads_off: int | None = None
  """``None``: epoch 120 of the authors' 150, elsewhere the last."""


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
        figure,
        None,
        arm,
        f'Figure {figure[-1]}, {dataset}, steps at 30, 60, 90: {summary}.',
        _make(dataset, settings),
      )


def _final_lcam(dataset: str) -> _Arm:
  pair = _PAIRS[dataset]
  return _Arm(
    'figure4',
    dataset,
    'lcam',
    f'Figure 4 and Table 1, {dataset}: LCAM, horizontal {pair[0]}, vertical'
    f' {pair[1]}.',
    _make(dataset, _FINAL, _lcam(*pair)),
  )


def _figure_4_and_table_1(dataset: str) -> Iterator[_Arm]:
  """The paper's arms, those that its Table 1 takes its figures from, and
  controls that the paper lacks. Of these, the authors' program has the fixed
  0.9, in the file of its Figure 5.
  """
  yield _final_lcam(dataset)
  for momentum in (0.9, 0.93, 0.915):
    yield _Arm(
      'figure4',
      dataset,
      f'fixed-{momentum}',
      f'Control of Figure 4, {dataset}: fixed momentum {momentum}.',
      _make(dataset, _FINAL, _fixed(momentum)),
    )
  yield _Arm(
    'figure4',
    dataset,
    'steps-120',
    f'Control of Table 1, {dataset}: the steps of the WRN paper in 120 epochs.',
    _make(dataset, _fixed(0.9), {'epochs': 120, 'milestones': (36, 72, 96)}),
  )
  yield _Arm(
    'figure4',
    dataset,
    'cosine-120',
    f'Control of Table 1, {dataset}: cosine annealing in 120 epochs.',
    _make(dataset, _fixed(0.9), {'epochs': 120, 'schedule': 'cosine'}),
  )
  steps = {'epochs': 200, 'milestones': (60, 120, 160)}
  yield _Arm(
    'table1',
    dataset,
    'wrn',
    f'Table 1, {dataset}: the WRN paper as published, 200 epochs, steps at 60,'
    " 120, 160, Nesterov's momentum, crops padded with reflections.",
    _make(
      dataset,
      _fixed(0.9),
      {**steps, 'nesterov': True, 'padding': 'reflection'},
    ),
  )
  yield _Arm(
    'table1',
    dataset,
    'cosine',
    f'Table 1 as it reads, {dataset}: cosine annealing, 200 epochs.',
    _make(dataset, _fixed(0.9), {'epochs': 200, 'schedule': 'cosine'}),
  )
  # Of the SGDR paper, which has no Nesterov momentum; its program pads with
  # zeros.
  yield _Arm(
    'table1',
    dataset,
    'sgdr-wrn',
    f"Control of Table 1, {dataset}: the SGDR paper's rerun of the WRN paper,"
    " without Nesterov's momentum.",
    _make(dataset, _fixed(0.9), steps),
  )
  sgdr = {'epochs': 200, 'learning_rate': 0.05}
  yield _Arm(
    'table1',
    dataset,
    'sgdr',
    f'Table 1, {dataset}: SGDR as published, warm restarts after 10, 30, 70 and'
    ' 150 epochs.',
    _make(
      dataset,
      _fixed(0.9),
      {**sgdr, 'schedule': 'warm-restarts', 'cycle_epochs': 10},
    ),
    reads_off=150,
  )
  yield _Arm(
    'table1',
    dataset,
    'sgdr-cosine',
    f'Control of Table 1, {dataset}: cosine annealing as the SGDR paper has it,'
    ' 200 epochs.',
    _make(dataset, _fixed(0.9), {**sgdr, 'schedule': 'cosine'}),
  )


def _ablations(dataset: str) -> Iterator[_Arm]:
  """LCAM's final run with one thing changed."""
  lcam = _lcam(*_PAIRS[dataset])
  follows = _final_lcam(dataset)
  coin = _make(dataset, _FINAL, lcam, {'optimizer': 'coin'})
  yield _Arm(
    'ablation',
    dataset,
    'coin',
    f"Ablation, {dataset}: a coin that switches at LCAM's own rate and does"
    ' not look at the loss.',
    coin,
    follows,
    Takes.SHARE,
  )
  yield _Arm(
    'ablation',
    dataset,
    'coin-by-epoch',
    f"Ablation, {dataset}: a coin that switches at LCAM's own rate in each"
    ' epoch and does not look at the loss.',
    coin,
    follows,
    Takes.SHARE_OF_EACH_EPOCH,
  )
  yield _Arm(
    'ablation',
    dataset,
    'time-average',
    f"Ablation, {dataset}: momentum fixed at the mean of LCAM's own.",
    _make(dataset, _FINAL, {'optimizer': 'sgd'}),
    follows,
    Takes.MEAN_MOMENTUM,
  )
  horizontal, vertical = _PAIRS[dataset]
  yield _Arm(
    'ablation',
    dataset,
    'swapped',
    f'Ablation, {dataset}: the two momenta swapped, horizontal {vertical},'
    f' vertical {horizontal}.',
    _make(dataset, _FINAL, _lcam(vertical, horizontal)),
  )
  yield _Arm(
    'ablation',
    dataset,
    'current',
    f'Ablation, {dataset}: the loss chooses the momentum of its own step.',
    _make(dataset, _FINAL, lcam, {'reaction': 'current'}),
  )
  yield _Arm(
    'ablation',
    dataset,
    'strict',
    f'Ablation, {dataset}: < for <= alone.',
    _make(dataset, _FINAL, lcam, {'inclusive': False}),
  )
  yield _Arm(
    'ablation',
    dataset,
    'moving-average',
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
      'ablation',
      dataset,
      f'{word}-batch-lcam',
      f'Ablation, {dataset}: LCAM with {word} the batch and learning rate.',
      _make(dataset, _FINAL, lcam, size),
    )
    yield _Arm(
      'ablation',
      dataset,
      f'{word}-batch-fixed-0.9',
      f'Ablation, {dataset}: fixed momentum 0.9 with {word} the batch and'
      ' learning rate.',
      _make(dataset, _FINAL, _fixed(0.9), size),
    )


def _others(dataset: str) -> Iterator[_Arm]:
  yield _Arm(
    'authors',
    dataset,
    'lcam',
    f"The authors' program, {dataset}: < for <=, decay one epoch later,"
    " ImageNet's normalisation.",
    _make(dataset, _AUTHORS, _lcam(*_PAIRS[dataset])),
  )
  for optimizer in ('adam', 'adamw', 'rmsprop', 'adagrad'):
    yield _Arm(
      'adaptive',
      dataset,
      optimizer,
      f'Section 4.4, {dataset}: {optimizer} on the same network.',
      _make(dataset, _FINAL, {'optimizer': optimizer, 'learning_rate': None}),
    )
  horizontal, vertical = _PAIRS[dataset]
  for optimizer in ('adam', 'adamw'):
    settings = {**_lcam(horizontal, vertical), 'learning_rate': None}
    loss_controlled = _Arm(
      'adaptive',
      dataset,
      f'{optimizer}-loss-controlled',
      f'Section 4.4, {dataset}: {optimizer} whose b1 follows the loss,'
      f' horizontal {horizontal}, vertical {vertical}.',
      _make(
        dataset,
        _FINAL,
        {**settings, 'optimizer': f'{optimizer}-loss-controlled'},
      ),
    )
    yield loss_controlled
    yield _Arm(
      'adaptive',
      dataset,
      f'{optimizer}-coin',
      f'Section 4.4, {dataset}: {optimizer} whose b1 takes the same two values'
      ' at random, at the same rate.',
      _make(dataset, _FINAL, {**settings, 'optimizer': f'{optimizer}-coin'}),
      loss_controlled,
      Takes.SHARE,
    )


def _of_the_paper() -> Iterator[_Arm]:
  yield from _figures_2_and_3()
  for family in (_figure_4_and_table_1, _ablations, _others):
    for dataset in _PAIRS:
      yield from family(dataset)


def _shorten(config: Config, factor: int) -> Config:
  """Part of the epochs, in the same proportions."""

  def part(epochs: float | None) -> float | None:
    return None if epochs is None else epochs / factor

  milestones = config.milestones
  return dataclasses.replace(
    config,
    epochs=config.epochs // factor,
    decay_start=part(config.decay_start),
    milestones=milestones and tuple(m / factor for m in milestones),
    cycle_epochs=part(config.cycle_epochs),
    checkpoint_every=5,
  )


def _small(config: Config) -> Config:
  return dataclasses.replace(
    _shorten(config, _SMALL_FACTOR),
    depth=10,
    widen_factor=1,
    train_examples=5000,
    image_size=16,
    # More steps for the same images: 157 an epoch.
    batch_size=config.batch_size // 4,
    # Left open, it leads to the same final rate in fewer steps.
    decay_rate=None,
    # Again a quarter of an epoch.
    loss_decay=config.loss_decay and 0.975,
  )


def _medium(config: Config, reads_off: int | None) -> Config:
  shortened = _shorten(config, _MEDIUM_FACTOR)
  return dataclasses.replace(
    shortened,
    depth=16,
    widen_factor=1,
    # A run stops where the paper reads off.
    epochs=reads_off or shortened.epochs,
    # The same final rate, in as many steps an epoch as the paper's.
    decay_rate=config.decay_rate and config.decay_rate**_MEDIUM_FACTOR,
  )


def _gpu_minutes(config: Config) -> float:
  images = 50_000 * config.epochs
  return images * _FLOP_PER_IMAGE / _FLOP_PER_SECOND / 60


def _digits() -> Iterator[Experiment]:
  for arm, summary, settings in (
    ('lcam', 'LCAM 0.93/0.9', _lcam(0.93, 0.9)),
    ('fixed', 'fixed momentum 0.9', _fixed(0.9)),
  ):
    yield Experiment(
      section='digits',
      dataset=None,
      arm=arm,
      scale=OWN,
      summary=f'The default job, on handwritten digits: {summary}.',
      size='WRN-10-1, 1,437 images of 8x8, 12 epochs',
      duration='4 seconds on 2 CPU cores',
      config=dataclasses.replace(_DIGITS, **settings),
    )


def _at_the_papers_size(arm: _Arm) -> Experiment:
  return Experiment(
    section=arm.section,
    dataset=arm.dataset,
    arm=arm.arm,
    scale=PAPER,
    summary=arm.summary,
    size=f'WRN-28-10, 50,000 images of 32x32, {arm.config.epochs} epochs',
    duration=(
      f'about {_gpu_minutes(arm.config):.0f} minutes on one H200 by its FLOP'
    ),
    config=arm.config,
    follows=_at_the_papers_size(arm.follows) if arm.follows else None,
    takes=arm.takes,
    # The authors run 150 epochs; controls of 120 end where the paper reads.
    reads_off=arm.reads_off
    or (_READ_OFF_EPOCH if arm.config.epochs == _PAPER.epochs else None),
  )


def _at_the_small_size(arm: _Arm) -> Experiment:
  large, config = _at_the_papers_size(arm), _small(arm.config)
  return dataclasses.replace(
    large,
    scale=SMALL,
    summary=f'{arm.summary[:-1]}; small.',
    size=f'WRN-10-1, 5,000 images of 16x16, {config.epochs} epochs',
    duration=(
      f'{config.epochs * _SMALL_EPOCH_SECONDS:.0f} seconds on 2 CPU cores'
    ),
    config=config,
    follows=_at_the_small_size(arm.follows) if arm.follows else None,
    reads_off=large.reads_off and large.reads_off // _SMALL_FACTOR,
  )


def _at_the_medium_size(arm: _Arm) -> Experiment:
  large = _at_the_papers_size(arm)
  reads_off = large.reads_off and large.reads_off // _MEDIUM_FACTOR
  config = _medium(arm.config, reads_off)
  return dataclasses.replace(
    large,
    scale=MEDIUM,
    summary=f'{arm.summary[:-1]}; medium.',
    size=f'WRN-16-1, 50,000 images of 32x32, {config.epochs} epochs',
    duration=(
      f'{config.epochs * _MEDIUM_EPOCH_SECONDS / 60:.0f} minutes on 2 CPU cores'
    ),
    config=config,
    follows=_at_the_medium_size(arm.follows) if arm.follows else None,
    reads_off=reads_off,
  )


def _all() -> Iterator[Experiment]:
  yield from _digits()
  for arm in _of_the_paper():
    yield _at_the_papers_size(arm)
    yield _at_the_medium_size(arm)
    yield _at_the_small_size(arm)


EXPERIMENTS = {experiment.name: experiment for experiment in _all()}

_BY_PLACE = {
  (e.scale, e.section, e.dataset, e.arm): e for e in EXPERIMENTS.values()
}


def find(
  scale: Scale, section: str, dataset: str | None, arm: str
) -> Experiment:
  """The experiment of a place. KeyError where there is none."""
  return _BY_PLACE[scale, section, dataset, arm]


def members(
  scale: Scale, section: str, dataset: str | None = None
) -> list[Experiment]:
  """All arms of a section at a scale, of one data set where it has several."""
  return [
    e
    for e in EXPERIMENTS.values()
    if (e.scale, e.section, e.dataset) == (scale, section, dataset)
  ]


def groups() -> dict[str, list[Experiment]]:
  """The experiments by what `sweep` accepts for all of them."""
  found: dict[str, list[Experiment]] = {}
  for experiment in EXPERIMENTS.values():
    found.setdefault(experiment.group, []).append(experiment)
  return found


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
  """The experiments of a name or a group.

  Args:
    name: Of an experiment; of a group, such as `figure2` or `small-figure4`; or
      of a group and a data set, such as `small-figure4-cifar10`.
  """
  if name in EXPERIMENTS:
    return [EXPERIMENTS[name]]
  found = [
    experiment
    for experiment in EXPERIMENTS.values()
    if name in (experiment.group, f'{experiment.group}-{experiment.dataset}')
  ]
  if found:
    return found
  names = {*EXPERIMENTS, *groups()}
  raise errors.UsageError(
    f'There is no experiment and no group {name!r}.'
    f'{errors.did_you_mean(name, sorted(names))} `python -m train list` shows'
    ' them all.'
  )


def grid(
  experiment: Experiment, axes: Mapping[str, Sequence[Any]]
) -> list[Experiment]:
  """An experiment under every combination of some settings.

  Args:
    experiment: Any.
    axes: The values of each setting.
  """
  return [
    experiment.change(dict(zip(axes, values, strict=True)))
    for values in itertools.product(*axes.values())
  ]


def of_record(settings: Mapping[str, Any]) -> Experiment | None:
  """The experiment that a run is of, by its settings and not by its name alone.

  Args:
    settings: The content of its config.json.

  Returns:
    The registered one; one with changes where the settings are others; ``None``
    where no such name is registered.
  """
  registered = EXPERIMENTS.get(settings.get('experiment') or '')
  if registered is None:
    return None
  settings = {name: _tuple(value) for name, value in settings.items()}
  changes: dict[str, Any] = settings.get('changes') or {}
  changed = {name: _tuple(value) for name, value in changes.items()}
  for field in dataclasses.fields(Config):
    given, own = (
      settings.get(field.name),
      getattr(registered.config, field.name),
    )
    # What is left open follows from the rest. Old records lack new settings.
    if field.name not in settings or own is None or given == own:
      continue
    if field.name in _SAME_EXPERIMENT:
      continue
    takes = registered.takes
    if takes is not None and takes.setting == field.name:
      continue
    changed[field.name] = given
  found = registered.change(changed)
  if not found.changes:
    return found
  # What another one is registered for, such as a run of before an experiment
  # was defined anew, is of that one.
  place = registered.scale, registered.section, registered.dataset
  for other in members(*place):
    if other.takes is None and _same(other.config, found.config):
      return other
  return found


def _same(config: Config, other: Config) -> bool:
  """Whether two configurations are of one experiment."""
  return all(
    getattr(config, field.name) == getattr(other, field.name)
    for field in dataclasses.fields(Config)
    if field.name not in _SAME_EXPERIMENT
  )


def _tuple(value: Any) -> Any:
  """A value of JSON as a setting has it."""
  return tuple(value) if isinstance(value, list) else value


def read_off_epoch(experiment: Experiment | None, epochs: int) -> int:
  """The epoch at which the error of a run is read off.

  Args:
    experiment: What the run is of, if anything.
    epochs: Of the run.

  Returns:
    Epoch 120 of the authors' 150, a tenth of it at the small scale; elsewhere
    the last.
  """
  reads_off = experiment and experiment.reads_off
  return min(epochs, reads_off or epochs)


def is_tested(
  experiment: Experiment | None, epoch: int, epochs: int, eval_every: int
) -> bool:
  """Whether the figures of tests of an epoch are recorded.

  Args:
    experiment: What the run is of, if anything.
    epoch: From 1.
    epochs: Of the run.
    eval_every: The setting.

  Returns:
    Also true for the last epoch, and the one whose error is read off.
  """
  read_off = read_off_epoch(experiment, epochs)
  return epoch % eval_every == 0 or epoch in (epochs, read_off)
