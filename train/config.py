"""Every setting of one run: typed, checked, saved and compared.

The command line makes a :class:`Config`. :func:`check` rejects settings out of
range. :func:`resolve` fills in the defaults that depend on other settings and
returns a :class:`Resolved`.
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

# The choices of these flags are the registered names.
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

# The settings in which repetitions of one experiment differ.
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
  """Data set. digits is part of scikit-learn and requires no files. folder and
  npz are your own: --data-dir is a folder with train/CLASS/*.png and
  test/CLASS/*.png, or an .npz file with train_images, train_labels,
  test_images, test_labels."""

  data_dir: DataDir = None
  """Directory of the data set's files; for npz, the file."""

  train_examples: Annotated[int | None, command_line.default('all')] = None
  """Train only on the first N examples that are not held out."""

  validation_examples: Annotated[int | None, command_line.default('none')] = (
    None
  )
  """Hold out N training images, the same for every seed. Their loss and error
  are recorded beside those of the test set."""

  image_size: Annotated[int | None, command_line.default('unchanged')] = None
  """Shrink the images to N x N by averaging."""

  normalization: Literal['dataset', 'imagenet'] = 'dataset'
  """Source of the channel means and standard deviations. imagenet is the
  authors' choice."""

  padding: Literal['zeros', 'reflection'] = 'zeros'
  """Padding of random crops: zeros, as in the authors' program, or reflection
  at the edge, as in the WRN paper."""


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
  """The network and its arithmetic."""

  model: Model = 'wrn'
  """Network: a Wide ResNet, or a small multilayer perceptron."""

  depth: int = 10
  """wrn: depth, 6n + 4."""

  widen_factor: int = 1
  """wrn: width, a factor on 16, 32 and 64 channels."""

  hidden_layers: int = 1
  """mlp: layers before the last one."""

  hidden_size: int = 64
  """mlp: units of each hidden layer."""

  dropout_rate: float = 0.0
  """Dropout rate: for wrn between the convolutions of a block, for mlp after
  each hidden layer."""

  dtype: Dtype = 'auto'
  """Arithmetic of the network. auto: float32 on a CPU, else bfloat16."""

  convolutions: Literal['auto', 'xla', 'onednn'] = 'auto'
  """Implementation of convolutions on one CPU device. auto: oneDNN, which is
  faster, if `python -m train.onednn build` has built it, else XLA. With onednn
  a kernel of that build also computes batch norm with ReLU."""

  batch_norm: Literal['global', 'device'] = 'global'
  """wrn: batch norm statistics in training. global: over the whole batch, so
  that the number of devices does not matter. device: over each device's own
  images, without communication."""

  remat: bool = False
  """wrn: recompute the activations of each block for the gradients. Saves
  memory, and is slower."""


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
  """The optimizer and its hyperparameters."""

  epochs: int = 20
  """Passes over the training set."""

  batch_size: int = 128
  """Images per step, over all devices. The last, short batch is kept."""

  optimizer: Optimizer = 'lcam'
  """Optimizer. coin is a random control: it chooses between the momenta of lcam
  at random."""

  learning_rate: Annotated[
    float | None,
    command_line.default("the optimizer's, 0.1 for momentum SGD"),
  ] = None
  """Initial learning rate."""

  weight_decay: float = 5e-4
  """Factor of the parameters to add to the gradients (adamw: to the update)."""

  horizontal_momentum: float = 0.93
  """lcam: momentum (Adam: b1) after a loss at or below the mean of the epoch.
  coin: one of its two momenta."""

  vertical_momentum: float = 0.9
  """lcam: momentum (Adam: b1) after a loss above the mean of the epoch. coin:
  the other of its two momenta."""

  initial_momentum: float = 0.9
  """lcam, coin: momentum of the first step."""

  inclusive: bool = True
  """lcam: whether a loss equal to the mean is horizontal. --no-inclusive is the
  authors' program."""

  reaction: Literal['next', 'current'] = 'next'
  """lcam: the step on which a loss acts. next is Algorithm 1."""

  loss_decay: Annotated[
    float | None, command_line.default('none, the mean of the epoch')
  ] = None
  """lcam: compare losses with a moving average of this decay per step."""

  horizontal_probability: Annotated[
    tuple[float, ...] | None, command_line.default('none; coin requires it')
  ] = None
  """coin: probability of the horizontal momentum at each step, independent of
  the loss. One value, or one per epoch; the last applies to all later ones."""

  momentum: float = 0.9
  """sgd: the fixed momentum."""

  nesterov: bool = False
  """lcam, coin, sgd: Nesterov momentum."""

  label_smoothing: float = 0.0
  """Fraction of each label that is spread over all classes in training. The
  training loss, which controls lcam, uses the smoothed labels."""

  ema_decay: Annotated[float | None, command_line.default('none')] = None
  """Test an exponential moving average of the weights and the batch norm
  statistics, with this decay per step; less in the first steps."""


@dataclasses.dataclass(frozen=True)
class ScheduleSettings:
  """The learning rate schedule, which starts from --learning-rate."""

  schedule: Schedule = 'exponential'
  """Learning rate schedule. exponential is the paper's per-step decay."""

  decay_start: Annotated[
    float | None, command_line.default('a fifth of the run')
  ] = None
  """exponential: epochs before the decay; 30 of the authors' 150."""

  decay_rate: Annotated[
    float | None,
    command_line.default("to decay as much as the authors' 150 epochs"),
  ] = None
  """exponential: factor per step; 0.99985 in the authors' program."""

  milestones: Annotated[
    tuple[float, ...] | None,
    command_line.default('1/5, 2/5 and 3/5 of the run'),
  ] = None
  """steps: epochs after which the rate drops; 30, 60 and 90 of the authors'
  150."""

  milestone_factor: float = 0.2
  """steps: factor at each milestone."""

  warmup_epochs: Annotated[
    float | None,
    command_line.default('5 percent of the run; of one-cycle 30 percent'),
  ] = None
  """warm-up: epochs of linear increase. one-cycle: epochs until the peak."""

  cycle_epochs: Annotated[
    float | None, command_line.default('a fifth of the run')
  ] = None
  """warm-restarts: epochs of the first cycle; each following one is twice as
  long. cyclical: epochs of each cycle."""

  polynomial_power: float = 1.0
  """polynomial: power of the decay."""

  final_learning_rate: float = 0.0
  """cosine, warm-restarts, polynomial: the final rate. cyclical: the lowest
  rate."""


@dataclasses.dataclass(frozen=True)
class RunSettings:
  """Seeds, tests, checkpoints and speed."""

  seed: int = 0
  """Seed of everything without a seed of its own."""

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
  """Seed of the random choices of coin."""

  eval_every: int = 1
  """Test after every N epochs, and always after the last epoch and the one
  whose error an experiment reports."""

  eval_batch_size: int = 500
  """Images per step when testing. Affects only speed and memory."""

  steps_per_dispatch: Annotated[
    int | None,
    command_line.default('1 on a CPU, else 100'),
  ] = None
  """Maximum number of training steps in one compiled loop. In a loop,
  convolutions are slow on a CPU."""

  deterministic: bool = False
  """GPU: use only operations that are deterministic bit for bit. Slower."""

  checkpoint_every: int = 1
  """Epochs between checkpoints."""

  checkpoint_seconds: float = 600.0
  """Seconds after which a checkpoint is also written within an epoch."""


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
  """Settings without defaults that depend on other settings.

  ``None`` remains a value of ``data_dir``, ``train_examples``,
  ``validation_examples``, ``image_size``, ``loss_decay``,
  ``horizontal_probability``, ``ema_decay`` and ``steps_per_dispatch``.
  """

  # `field()` removes the inherited defaults.
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
    """Groups with these settings; other flags have their defaults."""

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
    f'below --epochs {config.epochs} for one-cycle, which decays afterwards',
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
    config: The settings from the command line.
    steps_per_epoch: Training steps of one epoch, including the short batch.

  Raises:
    UsageError: If there are more steps than an int32 counter can hold.
  """
  if config.epochs * steps_per_epoch > MOST_STEPS:
    raise errors.UsageError(
      f'--epochs must be at most {MOST_STEPS // steps_per_epoch} with'
      f' {steps_per_epoch} steps per epoch, got {config.epochs}.'
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
  """Warnings about settings that are valid but probably not intended.

  Args:
    config: The settings.
    examples: Number of training images.

  Returns:
    One sentence per warning.
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
    # An absolute path does not depend on the working directory.
    settings['data_dir'] = config.data_dir.absolute()
  for name, value in settings.items():
    if isinstance(value, pathlib.Path):
      settings[name] = str(value)
    elif isinstance(value, tuple):
      settings[name] = list(value)
  return settings


def from_json(content: Mapping[str, Any]) -> Config:
  """The inverse of :func:`to_json`.

  Args:
    content: Checked values of all settings; other fields are ignored.
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
  """The resolved settings of a recorded run; see :func:`from_json`.

  Args:
    content: Checked values of all settings.
    where: The name of the run, for the error.

  Raises:
    UsageError: If a setting that should be resolved is ``None``.
  """
  for name in Resolved.__annotations__:
    if content[name] is None:
      raise errors.UsageError(f'{where} lacks the setting {name}.')
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
  """The settings, by flag, that must be equal in all processes of a run."""
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
    given: The configuration from the command line.
    resolved: The same, resolved.
    saved: Another resolved configuration, from :func:`to_json`.

  Returns:
    One phrase per difference, such as ``'--epochs 30 (was 20)'``. Defaults that
    depend on other settings are included only if nothing else differs.
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
  """The flag of a setting on the command line."""
  return '--' + name.replace('_', '-')
