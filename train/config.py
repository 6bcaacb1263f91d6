"""Every setting of one run: typed, checked, saved and compared.

A :class:`Config` is what the command line makes. :func:`check` refuses what is
out of range, :func:`resolve` fills in what was left open and makes a
:class:`Resolved`.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
import pathlib
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, cast

import tyro

import models
from train import command_line
from train import errors
from train import sources
from train.program import optimizers

_T = TypeVar('_T')

# The choices of these flags are what is registered.
if TYPE_CHECKING:
  Dataset = str
  Model = str
  Optimizer = str
else:
  Dataset = Literal[tuple(sources.SOURCES)]
  Model = Literal[tuple(models.NETWORKS)]
  Optimizer = Literal[tuple(optimizers.OPTIMIZERS)]
Dtype = Literal['auto', 'float32', 'bfloat16']
Schedule = Literal[
  'exponential',
  'steps',
  'cosine',
  'warm-restarts',
  'one-cycle',
  'polynomial',
  'cyclical',
  'warm-up',
  'constant',
]

DataDir = Annotated[
  pathlib.Path | None, command_line.default("TensorFlow Datasets' own")
]

# The paper's final runs decay by 0.99985 a step (section 4.3). The authors run
# 150 epochs of 391 steps, the last 120 of which decay.
_PAPER_DECAY_RATE = 0.99985
_PAPER_DECAY_STEPS = 120 * 391

# Steps are counted in int32.
MOST_STEPS = 2**31 - 1

# The settings that tell repetitions of one experiment apart.
SEEDS = (
  'seed',
  'init_seed',
  'order_seed',
  'augmentation_seed',
  'dropout_seed',
  'coin_seed',
)


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """The images."""

  dataset: Dataset = 'digits'
  """The images. digits is scikit-learn's and needs no files. folder and npz are
  your own: --data-dir is a folder with train/CLASS/*.png and test/CLASS/*.png,
  or an .npz file with train_images, train_labels, test_images, test_labels."""

  data_dir: DataDir = None
  """Directory of the data set's files; of npz, the file."""

  train_examples: Annotated[int | None, command_line.default('all')] = None
  """Train on the first N examples only, of those that are not held out."""

  validation_examples: Annotated[int | None, command_line.default('none')] = (
    None
  )
  """Hold out N training images, the same ones whatever the seed. Their loss and
  error are recorded beside those of the test set."""

  image_size: Annotated[int | None, command_line.default('as they are')] = None
  """Shrink the images to N x N by averaging."""

  normalization: Literal['dataset', 'imagenet'] = 'dataset'
  """Source of the channel means and standard deviations. imagenet is the
  authors' choice."""

  padding: Literal['zeros', 'reflection'] = 'zeros'
  """What a crop shows beyond the image: zeros, as the authors' program has it,
  or the image mirrored at its edge, as the WRN paper has it."""


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
  """What is trained."""

  model: Model = 'wrn'
  """The network: a Wide ResNet, or a small multilayer perceptron."""

  depth: int = 10
  """wrn: depth, 6n + 4."""

  widen_factor: int = 1
  """wrn: width, a factor on 16, 32 and 64 channels."""

  hidden_layers: int = 1
  """mlp: layers before the last one."""

  hidden_size: int = 64
  """mlp: units of each hidden layer."""

  dropout_rate: float = 0.0
  """Dropout: of wrn between the convolutions of a block, of mlp after each
  hidden layer."""

  dtype: Dtype = 'auto'
  """Arithmetic of the network. auto: float32 on a CPU, else bfloat16."""

  convolutions: Literal['auto', 'xla', 'onednn'] = 'auto'
  """What computes convolutions on one CPU device. auto: oneDNN where `python -m
  train.onednn build` has built it, which is faster, else XLA. With onednn batch
  norm and its ReLU are also computed by a kernel of that build."""

  batch_norm: Literal['global', 'device'] = 'global'
  """wrn: whose statistics a batch norm takes in training. global: those of the
  whole batch, so that a run means the same on any number of devices. device:
  those of a device's own images, which are sent nowhere."""

  remat: bool = False
  """wrn: compute the activations of a block again for the gradients, instead of
  keeping them. Less memory, slower."""


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
  """How it is trained."""

  epochs: int = 20
  """Passes over the training set."""

  batch_size: int = 128
  """Images a step, over all devices. The last, short batch is kept."""

  optimizer: Optimizer = 'lcam'
  """Method of optimization."""

  learning_rate: Annotated[
    float | None, command_line.default('of the optimizer, 0.1 for momentum SGD')
  ] = None
  """Initial learning rate."""

  weight_decay: float = 5e-4
  """Factor of the parameters that is added to the gradients (adamw: to the
  update)."""

  horizontal_momentum: float = 0.93
  """lcam: momentum (of Adam: b1) after a loss at or below the epoch's mean.
  coin: one of its two momenta."""

  vertical_momentum: float = 0.9
  """lcam: momentum after a loss above the epoch's mean. coin: the other of its
  two momenta."""

  initial_momentum: float = 0.9
  """lcam, coin: momentum of the first step."""

  inclusive: bool = True
  """lcam: whether a loss equal to the mean is horizontal. --no-inclusive is the
  authors' program."""

  reaction: Literal['next', 'current'] = 'next'
  """lcam: the step on which a loss acts. next is Algorithm 1."""

  loss_decay: Annotated[
    float | None, command_line.default('no, the mean of the epoch')
  ] = None
  """lcam: compare with a moving average that forgets by this factor a step."""

  horizontal_probability: Annotated[
    tuple[float, ...] | None, command_line.default('none; coin needs it')
  ] = None
  """coin: probability of the horizontal momentum at each step, whatever the
  loss. One for the run, or one for each epoch, the last for all that follow."""

  momentum: float = 0.9
  """sgd: the fixed momentum."""

  nesterov: bool = False
  """lcam, coin, sgd: Nesterov's momentum."""

  label_smoothing: float = 0.0
  """Part of each label that is spread over all classes, in training. The
  training loss, which lcam looks at, is of the smoothed labels."""

  ema_decay: Annotated[float | None, command_line.default('none')] = None
  """Test an exponential moving average of the weights and of the batch norms'
  statistics, which forgets by this factor a step; less in the first steps."""


@dataclasses.dataclass(frozen=True)
class ScheduleSettings:
  """The learning rate over time, from --learning-rate on."""

  schedule: Schedule = 'exponential'
  """Learning rate over time. exponential is the paper's per-step decay."""

  decay_start: Annotated[
    float | None, command_line.default('a fifth of the run')
  ] = None
  """exponential: epochs before the decay; 30 of the authors' 150."""

  decay_rate: Annotated[
    float | None,
    command_line.default("to end at the fraction of the authors' 150"),
  ] = None
  """exponential: factor a step; 0.99985 in the authors' program."""

  milestones: Annotated[
    tuple[float, ...] | None,
    command_line.default('1/5, 2/5 and 3/5 of the run'),
  ] = None
  """steps: epochs after which the rate drops; 30, 60 and 90 of the authors'
  150."""

  milestone_factor: float = 0.2
  """steps: factor at each milestone."""

  warmup_epochs: Annotated[
    float | None, command_line.default('5 and 30 percent of the run')
  ] = None
  """warm-up: epochs of linear increase. one-cycle: epochs until the peak."""

  cycle_epochs: Annotated[
    float | None, command_line.default('a fifth of the run')
  ] = None
  """warm-restarts: epochs of the first cycle, each next is twice as long.
  cyclical: epochs of each cycle."""

  polynomial_power: float = 1.0
  """polynomial: power of the decay."""

  final_learning_rate: float = 0.0
  """cosine, warm-restarts, polynomial: the rate at the end. cyclical: the
  lowest rate."""


@dataclasses.dataclass(frozen=True)
class RunSettings:
  """Seeds, tests, checkpoints and speed."""

  seed: int = 0
  """Seed of everything that has no seed of its own."""

  init_seed: Annotated[int | None, command_line.default('--seed')] = None
  """Seed of the initial parameters."""

  order_seed: Annotated[int | None, command_line.default('--seed')] = None
  """Seed of the order of the training images."""

  augmentation_seed: Annotated[int | None, command_line.default('--seed')] = (
    None
  )
  """Seed of crops and flips."""

  dropout_seed: Annotated[int | None, command_line.default('--seed')] = None
  """Seed of the dropout masks."""

  coin_seed: Annotated[int | None, command_line.default('--seed')] = None
  """Seed of the coin."""

  eval_every: int = 1
  """Test after every N epochs; always after the last and after the one that an
  experiment is read off at."""

  eval_batch_size: int = 500
  """Images a step when testing. Changes speed and memory only."""

  steps_per_dispatch: Annotated[
    int | None,
    command_line.default('1 on a CPU, or with remat on GPUs; else 100'),
  ] = None
  """Most training steps in one compiled program. On a CPU convolutions are slow
  inside a loop, and on several GPUs remat saves no memory there."""

  deterministic: bool = False
  """GPU: only operations that give the same bits each time. Slower."""

  checkpoint_every: int = 1
  """Epochs between checkpoints."""

  checkpoint_seconds: float = 600.0
  """Seconds after which a checkpoint is written within an epoch too."""


@dataclasses.dataclass(frozen=True)
class Config(
  RunSettings,
  ScheduleSettings,
  OptimizerSettings,
  NetworkSettings,
  DataSettings,
):
  """Train one network on one data set with one seed.

  The fields are in the order of the groups, from the data on.
  """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resolved(Config):
  """Settings in which nothing is open that follows from others.

  What may be ``None`` still says no by it: ``data_dir``, ``train_examples``,
  ``validation_examples``, ``image_size``, ``loss_decay``,
  ``horizontal_probability``, ``ema_decay`` and ``steps_per_dispatch``.
  """

  # Each without the default that it would inherit.
  learning_rate: float = dataclasses.field()
  decay_start: float = dataclasses.field()
  decay_rate: float = dataclasses.field()
  milestones: tuple[float, ...] = dataclasses.field()
  warmup_epochs: float = dataclasses.field()
  cycle_epochs: float = dataclasses.field()
  init_seed: int = dataclasses.field()
  order_seed: int = dataclasses.field()
  augmentation_seed: int = dataclasses.field()
  dropout_seed: int = dataclasses.field()
  coin_seed: int = dataclasses.field()


@dataclasses.dataclass(frozen=True)
class Groups:
  """The settings of a run as the command line shows them, in groups."""

  data: tyro.conf.OmitArgPrefixes[DataSettings] = DataSettings()
  network: tyro.conf.OmitArgPrefixes[NetworkSettings] = NetworkSettings()
  optimizer: tyro.conf.OmitArgPrefixes[OptimizerSettings] = OptimizerSettings()
  schedule: tyro.conf.OmitArgPrefixes[ScheduleSettings] = ScheduleSettings()
  run: tyro.conf.OmitArgPrefixes[RunSettings] = RunSettings()

  @classmethod
  def of(cls, config: Config) -> Self:
    """These settings, and the defaults of all other flags."""

    def part(kind: Callable[..., _T]) -> _T:
      names = [field.name for field in dataclasses.fields(cast(Any, kind))]
      return kind(**{name: getattr(config, name) for name in names})

    return cls(
      part(DataSettings),
      part(NetworkSettings),
      part(OptimizerSettings),
      part(ScheduleSettings),
      part(RunSettings),
    )

  @property
  def config(self) -> Config:
    groups = (self.data, self.network, self.optimizer, self.schedule, self.run)
    return Config(**{k: v for group in groups for k, v in vars(group).items()})


def check(config: Config) -> None:
  """Raises UsageError for the first setting that is out of range."""

  def require(name: str, ok: bool, allowed: str) -> None:
    if not ok:
      given = getattr(config, name)
      raise errors.UsageError(f'{flag(name)} must be {allowed}, got {given}.')

  def require_each(names: str, test: Any, allowed: str) -> None:
    for name in names.split():
      given = getattr(config, name)
      require(name, given is None or test(given), allowed)

  require(
    'depth',
    config.depth >= 10 and (config.depth - 4) % 6 == 0,
    '6n + 4 for a whole n of at least 1 (10, 16, 22, 28, ...)',
  )
  require(
    'normalization',
    config.normalization == 'dataset'
    or sources.get(config.dataset).channels != 1,
    f'dataset for {config.dataset}, whose images have one channel',
  )
  require_each(
    'train_examples validation_examples image_size widen_factor hidden_size'
    ' epochs batch_size eval_every eval_batch_size steps_per_dispatch'
    ' checkpoint_every',
    lambda n: n >= 1,
    'at least 1',
  )
  require('depth', config.depth <= 1000, 'at most 1000')
  require('widen_factor', config.widen_factor <= 100, 'at most 100')
  require('hidden_layers', 0 <= config.hidden_layers <= 1000, 'from 0 to 1000')
  require('hidden_size', config.hidden_size <= 100_000, 'at most 100000')
  require_each(
    'batch_size eval_every eval_batch_size steps_per_dispatch checkpoint_every',
    lambda n: n <= MOST_STEPS,
    f'at most {MOST_STEPS}',
  )
  require_each(
    'horizontal_momentum vertical_momentum initial_momentum momentum'
    ' dropout_rate label_smoothing ema_decay',
    lambda x: 0 <= x < 1,
    'in [0, 1)',
  )
  require_each(
    'learning_rate',
    lambda x: 0 < x < math.inf,
    'a finite number above 0',
  )
  require_each(
    'weight_decay final_learning_rate decay_start warmup_epochs'
    ' checkpoint_seconds',
    lambda x: 0 <= x < math.inf,
    'a finite number of at least 0',
  )
  require(
    'warmup_epochs',
    config.schedule != 'one-cycle'
    or config.warmup_epochs is None
    or config.warmup_epochs < config.epochs,
    f'below --epochs {config.epochs} for one-cycle, which then descends',
  )
  require_each(
    'cycle_epochs polynomial_power',
    lambda x: 0 < x < math.inf,
    'a finite number above 0',
  )
  require_each(
    'horizontal_probability',
    lambda p: len(p) >= 1 and all(0 <= x <= 1 for x in p),
    'one or more numbers in [0, 1]',
  )
  require(
    'horizontal_probability',
    'horizontal_probability' not in optimizers.get(config).numbers
    or config.horizontal_probability is not None,
    f'given for --optimizer {config.optimizer}',
  )
  require_each('loss_decay', lambda x: 0 < x < 1, 'in (0, 1)')
  require_each('decay_rate milestone_factor', lambda x: 0 < x <= 1, 'in (0, 1]')
  require_each(
    'milestones',
    lambda m: all(0 <= x < math.inf for x in m) and list(m) == sorted(set(m)),
    'finite, at least 0 and increasing',
  )
  require_each(
    ' '.join(SEEDS),
    lambda n: 0 <= n < 2**32,
    'from 0 to 4294967295',
  )


def resolve(config: Config, steps_per_epoch: int) -> Resolved:
  """Fills in the defaults that depend on other settings.

  Args:
    config: As the command line gave it.
    steps_per_epoch: Training steps of one epoch, the short batch included.

  Raises:
    UsageError: There are more steps than a counter can hold.
  """
  if config.epochs * steps_per_epoch > MOST_STEPS:
    raise errors.UsageError(
      f'--epochs must be at most {MOST_STEPS // steps_per_epoch} of'
      f' {steps_per_epoch} steps, got {config.epochs}.'
    )

  epochs = config.epochs
  decay_start = epochs / 5 if config.decay_start is None else config.decay_start
  decay_steps = max(1.0, (epochs - decay_start) * steps_per_epoch)
  filled: dict[str, Any] = {
    'learning_rate': optimizers.get(config).learning_rate,
    'decay_start': decay_start,
    'decay_rate': _PAPER_DECAY_RATE ** (_PAPER_DECAY_STEPS / decay_steps),
    'milestones': (epochs / 5, 2 * epochs / 5, 3 * epochs / 5),
    'warmup_epochs': (0.3 if config.schedule == 'one-cycle' else 0.05) * epochs,
    'cycle_epochs': epochs / 5,
    **dict.fromkeys(SEEDS, config.seed),
  }
  given = {k: v for k, v in as_dict(config).items() if v is not None}
  return Resolved(**{**as_dict(config), **filled, **given})


def notes(config: Resolved, examples: int) -> list[str]:
  """What of the settings is allowed, and hardly meant.

  Args:
    config: The settings.
    examples: Images to train on.

  Returns:
    A sentence each, which names both numbers.
  """
  found = []
  if config.batch_size > examples:
    found.append(
      f'--batch-size {config.batch_size} is more than the {examples} training'
      ' images: each epoch is one step on all of them.'
    )
  late: dict[str, tuple[str, Any]] = {
    'exponential': ('decay_start', config.decay_start),
    'steps': ('milestones', max(config.milestones, default=0)),
    'warm-up': ('warmup_epochs', config.warmup_epochs),
  }
  name, epoch = late.get(config.schedule, ('', 0))
  if epoch >= config.epochs:
    found.append(
      f'{flag(name)} {getattr(config, name)} is not reached: the run ends'
      f' after --epochs {config.epochs}.'
    )
  return found


def as_dict(config: Config) -> dict[str, Any]:
  """The settings by name."""
  return {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(config)
  }


def to_json(config: Config) -> dict[str, Any]:
  """The settings as plain JSON values."""
  settings = dataclasses.asdict(config)
  if config.data_dir is not None:
    # So that it is found again from elsewhere.
    settings['data_dir'] = config.data_dir.absolute()
  for name, value in settings.items():
    if isinstance(value, pathlib.Path):
      settings[name] = str(value)
    elif isinstance(value, tuple):
      settings[name] = list(value)
  return settings


def from_json(content: Mapping[str, Any]) -> Config:
  """The configuration that :func:`to_json` has made these values of.

  Args:
    content: Checked values of all settings; what is none is left out.
  """
  settings = {
    field.name: content[field.name] for field in dataclasses.fields(Config)
  }
  for name, kind in (
    ('data_dir', pathlib.Path),
    ('milestones', tuple),
    ('horizontal_probability', tuple),
  ):
    if settings[name] is not None:
      settings[name] = kind(settings[name])
  return Config(**settings)


def resolved_from_json(content: Mapping[str, Any], where: str) -> Resolved:
  """The settings of a run that has begun; see :func:`from_json`.

  Args:
    content: Checked values of all settings.
    where: Names the run.

  Raises:
    UsageError: One is open.
  """
  for name in Resolved.__annotations__:
    if content[name] is None:
      raise errors.UsageError(f'{where} does not say the setting {name}.')
  return Resolved(**as_dict(from_json(content)))


# Settings that change where or how fast a run computes, not what.
FREE_TO_CHANGE = frozenset(
  {
    'data_dir',
    'convolutions',
    'remat',
    'eval_batch_size',
    'steps_per_dispatch',
    'deterministic',
    'checkpoint_every',
    'checkpoint_seconds',
  }
)

# Settings in which runs of one experiment may differ.
OWN_TO_EACH_RUN = FREE_TO_CHANGE | {'eval_every', *SEEDS}


def of_all_processes(resolved: Resolved) -> dict[str, Any]:
  """The settings by flag that must be the same in all processes of a run."""
  return {
    flag(name): value
    for name, value in to_json(resolved).items()
    if name != 'data_dir'
  }


def differences(
  given: Config, resolved: Resolved, saved: dict[str, Any]
) -> list[str]:
  """Settings in which a configuration differs from a saved one.

  Args:
    given: The configuration as the command line gave it.
    resolved: The same, resolved.
    saved: What :func:`to_json` made of another resolved one.

  Returns:
    One phrase a difference, such as ``'--epochs 30 (was 20)'``. Defaults that
    follow from other settings are named only where nothing else differs.
  """
  different = {
    name: f'{flag(name)} {value} (was {saved.get(name)})'
    for name, value in to_json(resolved).items()
    if name not in FREE_TO_CHANGE and saved.get(name) != value
  }
  chosen = [
    phrase
    for name, phrase in different.items()
    if getattr(given, name) is not None
  ]
  return chosen or list(different.values())


def flag(name: str) -> str:
  """What a setting is called on the command line."""
  return '--' + name.replace('_', '-')
