"""The experiments of the paper: named configurations.

`python -m train list` lists them, `python -m train run NAME` runs one, and
`python -m train sweep GROUP` runs a section. Every experiment of the paper has
three scales: the paper's, for one GPU; `medium-`, a fifth of the epochs with a
narrower and shallower network, which two CPU cores train in 25 to 70 minutes;
and `small-`, a tenth of the epochs with an even smaller network and 5,000
images of half the width and height. Schedules keep their proportions.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import enum
import itertools
from typing import Any

from train import config as config_lib
from train import errors
from train.config import Config

# Settings in which runs of one experiment may differ.
_SAME_EXPERIMENT = config_lib.OWN_TO_EACH_RUN


@dataclasses.dataclass(frozen=True)
class Scale:
  """A size of network, images and epochs."""

  name: str
  """One word."""
  prefix: str
  """Prefix of the names of its experiments."""
  title: str


OWN = Scale('own', '', 'the default job')
PAPER = Scale('paper', '', "the paper's own size")
MEDIUM = Scale('medium', 'medium-', 'the medium scale')
SMALL = Scale('small', 'small-', 'the small scale')


class Takes(enum.Enum):
  """The quantity that a control takes from the run of LCAM that it follows."""

  SHARE = 'share of horizontal steps'
  SHARE_OF_EACH_EPOCH = 'share of horizontal steps of each epoch'
  MEAN_MOMENTUM = 'mean momentum'

  @property
  def setting(self) -> str:
    """The setting that receives it."""
    return 'momentum' if self is Takes.MEAN_MOMENTUM else _PROBABILITY


_PROBABILITY = 'horizontal_probability'


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A named configuration."""

  section: str
  """A group of experiments, such as figure4 or ablation."""
  dataset: str | None
  """The data set, if the section has more than one."""
  arm: str
  """The name within the section and data set."""
  scale: Scale
  summary: str
  """What it trains, and its place in the paper."""
  size: str
  """Network, images and epochs, in words."""
  duration: str
  """Duration of one run, and the hardware."""
  config: Config
  follows: 'Experiment | None' = None
  """The experiment of LCAM whose run of the same seed provides a setting."""
  takes: Takes | None = None
  """The quantity that it takes from that run."""
  reads_off: int | None = None
  """The epoch whose error the paper reports; ``None``: the last."""
  changes: tuple[tuple[str, Any], ...] = ()
  """Settings in which it differs from the registered experiment."""

  @property
  def group(self) -> str:
    """The name of all arms of its section and scale, for `sweep`."""
    return f'{self.scale.prefix}{self.section}'

  @property
  def unchanged(self) -> str:
    """The name under which the experiment is registered."""
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
    """The name without blanks, for a folder."""
    changes = ''.join(f'+{name}={_text(x)}' for name, x in self.changes)
    return self.unchanged + changes.replace(' ', '_').replace('/', '_')

  def record(self) -> dict[str, Any]:
    """Its fields in config.json; see :func:`of_record`."""
    return {'experiment': self.unchanged, 'changes': dict(self.changes)}

  def change(self, settings: Mapping[str, Any]) -> 'Experiment':
    """Returns the experiment with other settings.

    It gets another name, unless they are only seeds or settings that affect
    where or how fast it computes.
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
    """The settings, with a placeholder for the quantity to take."""
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
# reports the error of epoch 120.
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

# Epochs of the paper per epoch of the scale.
_SMALL_FACTOR = 10
_MEDIUM_FACTOR = 5

# Measured on two cores with AVX-512, including the test. The medium scale takes
# 100 s an epoch on two cores with AVX2 alone.
_SMALL_EPOCH_SECONDS = 2.4
_MEDIUM_EPOCH_SECONDS = 60

# FLOP of WRN-28-10, and half the bfloat16 rate of an H200.
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
  """``None``: epoch 120 of the authors' 150, otherwise the last."""


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
  """The arms of the paper, the sources of its Table 1, and further controls.

  Of these controls, the authors' program contains fixed 0.9, in the file of its
  Figure 5.
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
    ' 120, 160, Nesterov momentum, crops padded with reflections.',
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
    f'Table 1 read literally, {dataset}: cosine annealing, 200 epochs.',
    _make(dataset, _fixed(0.9), {'epochs': 200, 'schedule': 'cosine'}),
  )
  # From the SGDR paper, which uses no Nesterov momentum; its program pads with
  # zeros.
  yield _Arm(
    'table1',
    dataset,
    'sgdr-wrn',
    f"Control of Table 1, {dataset}: the SGDR paper's rerun of the WRN paper,"
    ' without Nesterov momentum.',
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
    f'Control of Table 1, {dataset}: cosine annealing as in the SGDR paper, 200'
    ' epochs.',
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
    f"Ablation, {dataset}: random control with LCAM's share of horizontal"
    ' steps, independent of the loss.',
    coin,
    follows,
    Takes.SHARE,
  )
  yield _Arm(
    'ablation',
    dataset,
    'coin-by-epoch',
    f"Ablation, {dataset}: random control with LCAM's share of horizontal steps"
    ' in each epoch, independent of the loss.',
    coin,
    follows,
    Takes.SHARE_OF_EACH_EPOCH,
  )
  yield _Arm(
    'ablation',
    dataset,
    'time-average',
    f'Ablation, {dataset}: momentum fixed at the mean of LCAM.',
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
    f'Ablation, {dataset}: the loss selects the momentum of its own step.',
    _make(dataset, _FINAL, lcam, {'reaction': 'current'}),
  )
  yield _Arm(
    'ablation',
    dataset,
    'strict',
    f'Ablation, {dataset}: < instead of <=, nothing else.',
    _make(dataset, _FINAL, lcam, {'inclusive': False}),
  )
  yield _Arm(
    'ablation',
    dataset,
    'moving-average',
    f'Ablation, {dataset}: a moving average instead of the mean of the epoch.',
    # About a quarter of an epoch of 391 steps.
    _make(dataset, _FINAL, lcam, {'loss_decay': 0.99}),
  )
  for factor, word in ((0.5, 'half'), (2, 'twice')):
    # The learning rate in proportion to the batch: Goyal et al., 2017.
    size = {
      'batch_size': int(_PAPER.batch_size * factor),
      'learning_rate': 0.1 * factor,
      # Per step, so that the decay per epoch is the same.
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
    f"The authors' program, {dataset}: < instead of <=, decay one epoch later,"
    ' ImageNet normalization.',
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
      f'Section 4.4, {dataset}: random control, {optimizer} whose b1 takes the'
      ' same two values in the same shares.',
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
  """Divides the epochs by a factor, with the same proportions."""

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
    # The default leads to the same final rate in fewer steps.
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
    # A run stops at the epoch that the paper reports.
    epochs=reads_off or shortened.epochs,
    # The same final rate, with as many steps per epoch as the paper.
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
    # The authors run 150 epochs; controls of 120 end at the reported epoch.
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
  """Finds an experiment by its place. KeyError if there is none."""
  return _BY_PLACE[scale, section, dataset, arm]


def members(
  scale: Scale, section: str, dataset: str | None = None
) -> list[Experiment]:
  """All arms of a section at a scale, of one data set if it has several."""
  return [
    e
    for e in EXPERIMENTS.values()
    if (e.scale, e.section, e.dataset) == (scale, section, dataset)
  ]


def groups() -> dict[str, list[Experiment]]:
  """The experiments by group."""
  found: dict[str, list[Experiment]] = {}
  for experiment in EXPERIMENTS.values():
    found.setdefault(experiment.group, []).append(experiment)
  return found


def get(name: str) -> Experiment:
  """The experiment of this name. UsageError suggests the nearest name."""
  if name in EXPERIMENTS:
    return EXPERIMENTS[name]
  raise errors.UsageError(
    f'There is no experiment {name!r}.'
    f'{errors.did_you_mean(name, EXPERIMENTS)} `python -m train list` shows'
    ' them all.'
  )


def select(name: str) -> list[Experiment]:
  """Selects experiments by name or group.

  Args:
    name: An experiment; a group, such as `figure2` or `small-figure4`; or a
      group and a data set, such as `small-figure4-cifar10`.
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
    f'There is no experiment or group {name!r}.'
    f'{errors.did_you_mean(name, sorted(names))} `python -m train list` shows'
    ' them all.'
  )


def grid(
  experiment: Experiment, axes: Mapping[str, Sequence[Any]]
) -> list[Experiment]:
  """An experiment with every combination of some settings.

  Args:
    experiment: The experiment.
    axes: The values of each setting.
  """
  return [
    experiment.change(dict(zip(axes, values, strict=True)))
    for values in itertools.product(*axes.values())
  ]


def of_record(settings: Mapping[str, Any]) -> Experiment | None:
  """Identifies the experiment of a run by its settings, not only by its name.

  Args:
    settings: The contents of its config.json.

  Returns:
    The registered experiment, with changes if the settings differ; ``None`` if
    the name is not registered.
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
    # None depends on other settings. Old records lack new settings.
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
  # The settings may be those of another registered experiment, for example in a
  # run from before an experiment was redefined.
  place = registered.scale, registered.section, registered.dataset
  for other in members(*place):
    if other.takes is None and _same(other.config, found.config):
      return other
  return found


def _same(config: Config, other: Config) -> bool:
  """Whether two configurations belong to one experiment."""
  return all(
    getattr(config, field.name) == getattr(other, field.name)
    for field in dataclasses.fields(Config)
    if field.name not in _SAME_EXPERIMENT
  )


def _tuple(value: Any) -> Any:
  """Converts a JSON value to the type of a setting."""
  return tuple(value) if isinstance(value, list) else value


def read_off_epoch(experiment: Experiment | None, epochs: int) -> int:
  """The epoch whose error is reported.

  Args:
    experiment: The experiment of the run, if any.
    epochs: Number of epochs of the run.

  Returns:
    That of the paper in proportion to the run, such as epoch 120 of the
    authors' 150 or 12 of 15 at the small scale; otherwise the last.
  """
  reads_off = experiment and experiment.reads_off
  return min(epochs, reads_off or epochs)


def is_tested(
  experiment: Experiment | None, epoch: int, epochs: int, eval_every: int
) -> bool:
  """Whether a run is tested after an epoch.

  Args:
    experiment: The experiment of the run, if any.
    epoch: The epoch, from 1.
    epochs: Number of epochs of the run.
    eval_every: The setting.

  Returns:
    Also true for the last epoch and the one whose error is reported.
  """
  read_off = read_off_epoch(experiment, epochs)
  return epoch % eval_every == 0 or epoch in (epochs, read_off)
