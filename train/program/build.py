"""The compiled program of one run or of several vmapped runs.

Everything in this repository that trains a network uses a :class:`Program`: the
loop, the sweep, the studies, the benchmarks and the tests. Nothing else merges
a network, creates a mesh or compiles a step.

A program has *members*: runs that differ in their seeds, their learning rates
and the hyperparameters of their optimizer (momenta, weight decay, the
probability of a random control). These are arguments of the compiled code, not
constants. All arms with one network and one kind of optimizer therefore share
the compiled code: within a process through :func:`_functions`, across processes
through JAX's compilation cache.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import math
import os
import pathlib
from typing import Any, Literal, TypeVar

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np

import models
from train import config as config_lib
from train import errors
from train import onednn
from train.data import dataset as dataset_lib
from train.devices import processes
from train.program import augmentation
from train.program import optimizers
from train.program import schedules
from train.program import step as step_lib
from train.program.step import Epoch
from train.program.step import EvalMetrics
from train.program.step import Images
from train.program.step import Seeds
from train.program.step import StepMetrics
from train.program.step import TrainState

_Tree = TypeVar('_Tree')

_MOST_STEPS_PER_DISPATCH = 100

# XLA's scheduler that overlaps collectives with computing on GPUs.
_OVERLAP = 'xla_gpu_enable_latency_hiding_scheduler'

# A sweep of the paper's experiments uses fewer structures than this.
_MOST_KEPT = 32

# Settings in which members may differ: seeds, everything that determines the
# learning rates, and the settings of the optimizer.
_FREE = (
  *config_lib.SEEDS,
  *{
    setting
    for optimizer in optimizers.OPTIMIZERS.values()
    for setting in (*optimizer.numbers, *optimizer.options)
  },
  'optimizer',
  'learning_rate',
  'schedule',
  'decay_start',
  'decay_rate',
  'milestones',
  'milestone_factor',
  'warmup_epochs',
  'cycle_epochs',
  'polynomial_power',
  'final_learning_rate',
)


def can_share(configs: Sequence[config_lib.Config]) -> bool:
  """Whether runs can be members of one program.

  They can if they differ only in seeds, schedules and the hyperparameters of
  their optimizer.
  """

  def shared(config: config_lib.Config) -> Any:
    settings = {
      name: value
      for name, value in config_lib.to_json(config).items()
      if name not in _FREE
    }
    return settings, optimizers.get(config).structure_of(config)

  return all(shared(config) == shared(configs[0]) for config in configs)


def by_member(tree: _Tree) -> list[_Tree]:
  """Splits the axis of members of NumPy arrays."""
  members = len(jax.tree.leaves(tree)[0])
  return [jax.tree.map(lambda x: x[i], tree) for i in range(members)]


def each_by_member(trees: Sequence[_Tree]) -> list[list[_Tree]]:
  """The trees of each member, from trees of all members: NumPy arrays."""
  return [list(own) for own in zip(*map(by_member, trees), strict=True)]


class Program:
  """The computation of one or more runs.

  Every array of a state, of metrics and of an :class:`Epoch` has a leading
  axis of members, of length 1 for a single run. Inside the compiled code a
  single run has no such axis, because `jax.vmap` slows convolutions on a CPU.

  Args:
    configs: The settings of the members, see :func:`can_share`.
    dataset: Their images.
    devices: The devices over which a batch is sharded. Default: all.
    optimizer: Replaces the optimizer in the settings.
    param_dtype: dtype of the parameters and of the optimizer's state.

  Raises:
    ValueError: If the runs cannot be members of one program.
    UsageError: If ``--convolutions onednn`` or ``--batch-norm device`` is not
      possible on these devices, or ``--normalization imagenet`` with these
      images.
  """

  def __init__(
    self,
    configs: Sequence[config_lib.Resolved],
    dataset: dataset_lib.Dataset,
    *,
    devices: Sequence[jax.Device] | None = None,
    optimizer: optimizers.Optimizer | None = None,
    param_dtype: str = 'float32',
  ):
    if not can_share(configs):
      raise ValueError(
        'Runs of one program may differ only in seeds, schedules and the'
        ' hyperparameters of their optimizer.'
      )
    self.configs = list(configs)
    self.devices = tuple(jax.devices() if devices is None else devices)
    self.dataset = dataset
    self.examples = len(dataset.train)
    config = configs[0]
    self.steps_per_epoch = -(-self.examples // config.batch_size)
    self._on_cpu = self.devices[0].platform == 'cpu'
    self.dtype: str = config.dtype
    if self.dtype == 'auto':
      self.dtype = 'float32' if self._on_cpu else 'bfloat16'
    self._optimizers = [optimizer or optimizers.get(c) for c in configs]
    network = models.NETWORKS[config.model]
    channels = dataset.train.images.shape[-1]
    if config.normalization == 'imagenet' and channels != 3:
      raise errors.UsageError(
        f'--normalization must be dataset for {dataset.name}, whose images have'
        f' {channels} channel, got imagenet.'
      )
    self.title = network.title_of(config)
    self.convolutions = _choose_convolutions(config, network, self.devices)
    self._of = _functions(
      _Structure(
        model=config.model,
        network=tuple(network.settings_of(config).items()),
        image_shape=dataset.train.images.shape[1:],
        num_classes=dataset.num_classes,
        dtype=self.dtype,
        convolutions=self.convolutions,
        batch_norm_parts=_choose_batch_norm_parts(
          config, network, self.examples, self.devices
        ),
        param_dtype=param_dtype,
        optimizer=self._optimizers[0].structure_of(config),
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        examples=self.examples,
        crop_padding=dataset.crop_padding,
        flip=dataset.flip,
        reflect=config.padding == 'reflection',
        label_smoothing=config.label_smoothing,
        ema_decay=config.ema_decay,
        deterministic=config.deterministic,
        members=len(configs),
        devices=self.devices,
      )
    )
    self.replicated = self._of.replicated
    self._starts: dict[int, list[jax.Array]] = {}

  # ------------------------------------------------------------------- inputs

  def place(
    self, dataset: dataset_lib.Dataset | None = None
  ) -> tuple[Images, Images]:
    """Transfers the training and the test images to the devices.

    Args:
      dataset: Replaces the data set of the program; images of the same shape.
    """
    dataset = dataset or self.dataset
    train, test = (
      self.place_split(split, dataset)
      for split in (dataset.train, dataset.test)
    )
    return train, test

  def place_split(
    self, split: dataset_lib.Split, dataset: dataset_lib.Dataset | None = None
  ) -> Images:
    """Transfers the images of one split to the devices.

    Args:
      split: A split of the data set.
      dataset: The data set whose training images define the normalization.
        Default: that of the program.
    """
    mean, std = self.normalization(dataset)
    images = Images(_as_rows(split.images), split.labels, mean, std)
    return processes.replicate(images, self.replicated)

  def normalization(
    self, dataset: dataset_lib.Dataset | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel, of pixels in [0, 1]."""
    if self.configs[0].normalization == 'imagenet':
      return (
        np.asarray(augmentation.IMAGENET_MEAN, np.float32),
        np.asarray(augmentation.IMAGENET_STD, np.float32),
      )
    return (dataset or self.dataset).channel_statistics()

  @functools.cached_property
  def seeds(self) -> Seeds:
    """The members' seeds, on the devices."""
    seeds = Seeds(
      *(
        np.asarray([getattr(c, f'{name}_seed') for c in self.configs]).astype(
          np.uint32
        )
        for name in Seeds._fields
      )
    )
    return processes.replicate(seeds, self.replicated)

  def epoch(self, number: int) -> Epoch:
    """The inputs of an epoch, counted from 1."""
    rates = self.learning_rates(number).astype(np.float32)
    numbers = self._numbers(number)
    number_, rates, numbers = processes.replicate(
      (np.int32(number), rates, numbers), self.replicated
    )
    return Epoch(self._compile_order()(self.seeds, number_), rates, numbers)

  def learning_rates(self, epoch: int) -> np.ndarray:
    """The learning rates of the steps of an epoch, counted from 1.

    Returns:
      shape=(members, steps), dtype=float64.
    """
    steps = (epoch - 1) * self.steps_per_epoch + np.arange(self.steps_per_epoch)
    return np.stack(
      [
        schedules.learning_rates(config, self.steps_per_epoch, steps)
        for config in self.configs
      ]
    )

  def _numbers(self, epoch: int = 1) -> dict[str, np.ndarray]:
    of_members = [
      optimizer.numbers_of(config, epoch)
      for optimizer, config in zip(self._optimizers, self.configs, strict=True)
    ]
    return {
      name: np.asarray([numbers[name] for numbers in of_members], np.float32)
      for name in of_members[0]
    }

  # -------------------------------------------------------------------- steps

  def init(self) -> TrainState:
    """The members' states at step 0."""
    params, batch_stats = self._of.compile(
      'init', lambda: self._of.jit(self._of.init).lower(self.seeds), quick=True
    )(self.seeds)
    return self.init_from(params, batch_stats)

  def init_from(self, params: Any, batch_stats: Any) -> TrainState:
    """The states at step 0 with the given parameters and statistics."""
    numbers = processes.replicate(self._numbers(), self.replicated)
    arguments = (self.seeds, numbers, params, batch_stats)
    return self._of.compile(
      'init_from',
      lambda: self._of.jit(self._of.init_from).lower(*arguments),
      quick=True,
    )(*arguments)

  def plan(self, steps_done: int = 0) -> Iterator[tuple[int, int]]:
    """The dispatches of an epoch, or of its remaining steps.

    Args:
      steps_done: Finished steps of the epoch.

    Yields:
      Batch size and number of steps of each dispatch.
    """
    batch_size = self.configs[0].batch_size
    most = self.configs[0].steps_per_dispatch or self._most_steps()
    full, last = divmod(self.examples, batch_size)
    # All dispatches have one length, so that they share one compiled program.
    length = max(
      n for n in range(1, min(most, max(full, 1)) + 1) if full % n == 0
    )
    while steps_done < full:
      # Single steps up to the start of the next dispatch.
      steps = length if steps_done % length == 0 else 1
      yield batch_size, steps
      steps_done += steps
    if last and steps_done == full:
      yield last, 1

  def _most_steps(self) -> int:
    """The default number of steps per dispatch."""
    if self.devices[0].platform == 'cpu':
      return 1
    return _MOST_STEPS_PER_DISPATCH

  def train(
    self,
    state: TrainState,
    data: Images,
    epoch: Epoch,
    size: int,
    steps: int = 1,
  ) -> tuple[TrainState, StepMetrics]:
    """Trains for some steps. Donates the old state.

    Args:
      state: The members' states.
      data: The training images, from :meth:`place`.
      epoch: From :meth:`epoch`.
      size: Images of each step: the batch size, or less for the last step.
      steps: Number of steps.

    Returns:
      The states after them, and metrics of shape=(members, steps).
    """
    result = self.compile_train(size, steps)(state, data, self.seeds, epoch)
    if self._on_cpu and len(self.devices) > 1:
      # Queued steps with collectives deadlock on simulated devices if the host
      # is busy, and XLA then aborts the process.
      jax.block_until_ready(result)
    return result

  def train_epoch(
    self,
    state: TrainState,
    data: Images,
    number: int,
    learning_rate: float | None = None,
  ) -> tuple[TrainState, StepMetrics]:
    """Trains for an epoch, counted from 1.

    Args:
      state: The members' states.
      data: The training images, from :meth:`place`.
      number: The number of the epoch.
      learning_rate: Replaces the schedule.

    Returns:
      The states after the epoch, and metrics of shape=(members, steps), on the
      host.
    """
    epoch = self.epoch(number)
    if learning_rate is not None:
      epoch = epoch._replace(
        learning_rates=jnp.full_like(epoch.learning_rates, learning_rate)
      )
    measured = []
    for size, steps in self.plan():
      state, of_steps = self.train(state, data, epoch, size, steps)
      measured.append(of_steps)
    fetched = jax.device_get(measured)
    return state, jax.tree.map(lambda *x: np.concatenate(x, -1), *fetched)

  def evaluate(self, state: TrainState, data: Images) -> list[EvalMetrics]:
    """The sums of each evaluation step, each of shape=(members,).

    With ``--ema-decay`` the averaged weights are evaluated.
    """
    examples = len(data.labels)
    compiled = self.compile_eval(examples)
    params, batch_stats = state.evaluated
    return [
      compiled(params, batch_stats, data, start)
      for start in self._eval_starts(examples)
    ]

  def _eval_starts(self, examples: int) -> list[jax.Array]:
    if examples not in self._starts:
      starts = range(0, examples, self.configs[0].eval_batch_size)
      self._starts[examples] = processes.replicate(
        [np.int32(x) for x in starts], self.replicated
      )
    return self._starts[examples]

  def are_finite(self, state: TrainState) -> np.ndarray:
    """shape=(members,), dtype=bool: whether all their parameters are finite."""
    return jax.device_get(self._compile_are_finite()(state.params))

  @property
  def train_step(self) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """One training step, for use inside another compiled program.

    ``(state, data, seeds, epoch, size) -> (state, metrics)``.
    """
    return self._of.train_step

  # --------------------------------------------------------------- host copies

  def fetch(self, state: TrainState) -> list[TrainState]:
    """The state of each member, without the leading axis, as NumPy arrays."""
    return by_member(jax.device_get(state))

  def stack(self, states: Sequence[TrainState]) -> TrainState:
    """The inverse of :meth:`fetch`, on the devices."""
    stacked = jax.tree.map(lambda *x: np.stack(x), *states)
    return processes.replicate(stacked, self.replicated)

  def write_weights(self, state: TrainState, path: pathlib.Path) -> None:
    """Writes the evaluated weights of a member, for :func:`models.load`.

    Args:
      state: From :meth:`fetch`.
      path: The file.
    """
    config = self.configs[0]
    params, batch_stats = state.evaluated
    mean, std = self.normalization()
    network = models.NETWORKS[config.model]
    models.save(
      path,
      nnx.merge_state(params, batch_stats),
      config.model,
      image_shape=self.dataset.train.images.shape[1:],
      num_classes=self.dataset.num_classes,
      settings=network.settings_of(config),
      mean=mean.tolist(),
      std=std.tolist(),
      dataset=self.dataset.name,
    )

  # ------------------------------------------------------ shapes, compilation

  def shape_member(self) -> TrainState:
    """Shapes and dtypes of the state of one member, without computation."""
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self._shapes()[0]
    )

  def count_parameters(self) -> int:
    """Number of parameters of one member."""
    return sum(x.size for x in jax.tree.leaves(self.shape_member().params))

  def compile(self, steps_done: int = 0) -> None:
    """Compiles what a run needs after ``steps_done`` steps of an epoch."""
    for size, steps in {*self.plan(), *self.plan(steps_done)}:
      self.compile_train(size, steps)
    self.compile_eval()
    if self.dataset.validation is not None:
      self.compile_eval(len(self.dataset.validation))
    self._compile_order()
    self._compile_are_finite()

  def compile_train(self, size: int, steps: int = 1) -> Any:
    """The compiled steps ``(state, data, seeds, epoch)``, kept for the next
    program of the same structure.
    """
    key = ('train', size, steps, self._data_shapes())
    return self._of.compile(key, lambda: self.lower_train(size, steps))

  def compile_eval(self, examples: int | None = None) -> Any:
    """The compiled evaluation step ``(params, batch_stats, data, start)``.

    Args:
      examples: Images of the split. Default: those of the test split.
    """
    examples = examples or len(self.dataset.test)
    key = ('eval', examples)
    return self._of.compile(key, lambda: self.lower_eval(examples))

  def lower_train(
    self, size: int | None = None, steps: int = 1, *, donate: bool = True
  ) -> Any:
    """The lowered training steps. The devices need not be present."""
    state, train, _, seeds, epoch = self._shapes()
    program = functools.partial(
      self._of.train_steps,
      size=size or self.configs[0].batch_size,
      steps=steps,
    )
    donated = 0 if donate else ()
    return self._of.jit(program, donate_argnums=donated).lower(
      state, train, seeds, epoch
    )

  def lower_eval(self, examples: int | None = None) -> Any:
    """The lowered evaluation step, see :meth:`compile_eval`."""
    state, _, test, *_ = self._shapes()

    def resize(shape: Any) -> Any:
      return shape.update(shape=(examples, *shape.shape[1:]))

    data = test
    if examples is not None:
      data = test._replace(
        images=resize(test.images), labels=resize(test.labels)
      )
    return self._of.jit(self._of.eval_step).lower(
      state.params, state.batch_stats, data, self._shape_number()
    )

  def _compile_order(self) -> Any:
    def lower() -> Any:
      seeds = self._shapes()[3]
      return self._of.jit(self._of.order).lower(seeds, self._shape_number())

    return self._of.compile('order', lower, quick=True)

  def _compile_are_finite(self) -> Any:
    def lower() -> Any:
      state = self._shapes()[0]
      return self._of.jit(self._of.are_finite).lower(state.params)

    return self._of.compile('are_finite', lower, quick=True)

  def _shape_number(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((), jnp.int32, sharding=self.replicated)

  def _shapes(self) -> tuple[TrainState, Images, Images, Seeds, Epoch]:
    members = len(self.configs)
    numbers = self._numbers()
    seeds = Seeds(*[np.zeros(members, np.uint32)] * len(Seeds._fields))
    epoch = Epoch(
      np.zeros((members, self.examples), np.int32),
      np.zeros((members, self.steps_per_epoch), np.float32),
      numbers,
    )
    state = self._of.shape_state(seeds, numbers)
    dataset = self.dataset
    statistic = np.zeros(dataset.train.images.shape[-1], np.float32)
    train, test = (
      Images(_as_rows(split.images), split.labels, statistic, statistic)
      for split in (dataset.train, dataset.test)
    )
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=self.replicated
      ),
      (state, train, test, seeds, epoch),
    )

  def _data_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return self.dataset.train.images.shape, self.dataset.test.images.shape


def _choose_convolutions(
  config: config_lib.Config,
  network: models.Network,
  devices: Sequence[jax.Device],
) -> Literal['xla', 'onednn']:
  """The implementation of the convolutions: ``xla`` or ``onednn``.

  That of batch norm in training follows it.
  """
  if config.convolutions == 'xla' or not network.convolves:
    return 'xla'
  reason = onednn.why_not()
  if len(devices) > 1 or devices[0].platform != 'cpu':
    reason = 'It is for programs of one CPU device.'
  if reason is None:
    return 'onednn'
  if config.convolutions == 'onednn':
    raise errors.UsageError(f'--convolutions onednn is not possible. {reason}')
  return 'xla'


def _choose_batch_norm_parts(
  config: config_lib.Config,
  network: models.Network,
  examples: int,
  devices: Sequence[jax.Device],
) -> int:
  """The number of parts of a batch that batch norm treats separately."""
  count = len(devices)
  if config.batch_norm == 'global' or not network.normalizes:
    return 1
  sizes = [min(config.batch_size, examples), examples % config.batch_size]
  for size in filter(None, sizes):
    if size % count:
      raise errors.UsageError(
        f'--batch-norm device must have the same number of images on each of'
        f' {count} devices, got a batch of {size}.'
      )
  return count


@dataclasses.dataclass(frozen=True)
class _Structure:
  """What compiled code depends on. Programs with equal structures share it."""

  model: str
  network: tuple[tuple[str, Any], ...]
  image_shape: tuple[int, ...]
  num_classes: int
  dtype: str
  convolutions: str
  batch_norm_parts: int
  param_dtype: str
  optimizer: Any
  """See :meth:`train.program.optimizers.Optimizer.structure_of`."""
  batch_size: int
  eval_batch_size: int
  examples: int
  crop_padding: int
  flip: bool
  reflect: bool
  label_smoothing: float
  ema_decay: float | None
  deterministic: bool
  members: int
  devices: tuple[jax.Device, ...]


def _compiler_options(structure: _Structure, *, quick: bool) -> dict[str, Any]:
  """Options of XLA, see :meth:`_Functions.compile`."""
  # Also disables XLA's autotuning.
  options: dict[str, Any] = {
    'xla_gpu_deterministic_ops': structure.deterministic
  }
  # This scheduler may compute the gradients of all kernels last. It keeps
  # their inputs until then, also those that remat should save. One GPU has
  # no collectives to overlap.
  saves_memory = len(structure.devices) == 1 or dict(structure.network).get(
    'remat', False
  )
  is_chosen = _OVERLAP in os.environ.get('XLA_FLAGS', '')
  if structure.devices[0].platform == 'gpu' and saves_memory and not is_chosen:
    options[_OVERLAP] = False
  if quick:
    options['xla_backend_optimization_level'] = 1
  return options


class _Functions:
  """The functions of a structure, and their compiled versions."""

  def __init__(self, structure: _Structure):
    mesh = jax.make_mesh(
      (len(structure.devices),),
      ('batch',),
      axis_types=(AxisType.Auto,),
      devices=structure.devices,
    )
    self.replicated = NamedSharding(mesh, PartitionSpec())
    by_batch = NamedSharding(mesh, PartitionSpec('batch'))
    self._structure = structure
    self._compiled: dict[Any, Any] = {}
    self._state: TrainState | None = None
    self._network = self._make_network()
    self._rule = step_lib.Rule.of(
      structure.optimizer,
      steps_per_epoch=-(-structure.examples // structure.batch_size),
    )

    train_step = step_lib.make_train_step(
      self._network,
      self._rule,
      batch_size=structure.batch_size,
      image_shape=structure.image_shape,
      crop_padding=structure.crop_padding,
      flip=structure.flip,
      reflect=structure.reflect,
      label_smoothing=structure.label_smoothing,
      ema_decay=structure.ema_decay,
      batch_sharding=by_batch,
    )
    over_members = functools.partial(_over_members, structure.members)
    self.train_step = over_members(train_step, (0, None, 0, 0))
    self.train_steps = over_members(
      step_lib.repeat(train_step), (0, None, 0, 0)
    )
    self.eval_step = over_members(
      step_lib.make_eval_step(
        self._network,
        batch_size=structure.eval_batch_size,
        image_shape=structure.image_shape,
        batch_sharding=by_batch,
      ),
      (0, 0, None, None),
    )
    self.jit = functools.partial(jax.jit, out_shardings=self.replicated)
    self.init = over_members(self._init, (0,))
    self.init_from = over_members(self._init_from, (0, 0, 0, 0))
    self.order = over_members(self._order, (0, None))
    self.are_finite = over_members(_all_finite, (0,))

  def shape_state(self, seeds: Seeds, numbers: dict[str, Any]) -> TrainState:
    """Shapes and dtypes of the members' states; traced once."""
    if self._state is None:
      self._state = jax.eval_shape(
        lambda: self.init_from(seeds, numbers, *self.init(seeds))
      )
    return self._state

  def compile(
    self, key: Any, lower: Callable[[], Any], *, quick: bool = False
  ) -> Any:
    """Compiles a function once.

    Args:
      key: The key in the cache.
      lower: Returns the lowered function.
      quick: Whether to reduce compilation time for a function that runs rarely.
        On a CPU the initialization otherwise takes as long to compile as a
        training step.
    """
    if key not in self._compiled:
      options = _compiler_options(self._structure, quick=quick)
      self._compiled[key] = lower().compile(options)
    return self._compiled[key]

  def _make_model(self, key: jax.Array) -> nnx.Module:
    structure = self._structure
    options = dict(structure.network)
    if structure.convolutions == 'onednn':
      options['conv_general_dilated'] = onednn.conv_general_dilated
    network = models.NETWORKS[structure.model]
    if network.normalizes:
      options['batch_norm_parts'] = structure.batch_norm_parts
      if structure.convolutions == 'onednn':
        options['batch_norm_relu'] = onednn.batch_norm_relu
    model = network.build(
      image_shape=structure.image_shape,
      num_classes=structure.num_classes,
      dtype=jnp.dtype(structure.dtype),
      rngs=nnx.Rngs(params=key, dropout=0),
      **options,
    )
    if structure.param_dtype != 'float32':
      dtype = jnp.dtype(structure.param_dtype)
      params = nnx.state(model, nnx.Param)
      nnx.update(model, jax.tree.map(lambda x: x.astype(dtype), params))
    return model

  def _make_network(self) -> step_lib.Network:
    abstract = nnx.eval_shape(self._make_model, jax.random.key(0))
    graphdef, _, _, rest = nnx.split(  # type: ignore[misc]
      abstract, nnx.Param, nnx.BatchStat, ...
    )

    def blank(leaf: Any) -> jax.Array:
      if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
      return jnp.zeros(leaf.shape, leaf.dtype)

    return step_lib.Network(graphdef, lambda: jax.tree.map(blank, rest))

  def _init(self, seeds: Seeds) -> tuple[Any, Any]:
    # Separate from the optimizer, so that programs with one network share it.
    model = self._make_model(seeds.init_key())
    params, batch_stats = nnx.state(model, nnx.Param, nnx.BatchStat)
    return params, batch_stats

  def _init_from(
    self,
    seeds: Seeds,
    numbers: dict[str, Any],
    params: Any,
    batch_stats: Any,
  ) -> TrainState:
    # The state does not depend on the learning rate.
    optimizer = self._rule.build(0.0, numbers, seeds)
    return TrainState(
      step=jnp.zeros([], jnp.int32),
      params=params,
      batch_stats=batch_stats,
      opt_state=optimizer.init(params),
      average=None
      if self._structure.ema_decay is None
      else (params, batch_stats),
    )

  def _order(self, seeds: Seeds, epoch: jax.Array) -> jax.Array:
    return jax.random.permutation(
      seeds.order_key(epoch), self._structure.examples
    )


_functions = functools.lru_cache(_MOST_KEPT)(_Functions)


def _as_rows(images: np.ndarray) -> np.ndarray:
  # Not -1, which fails for zero images.
  return images.reshape(len(images), math.prod(images.shape[1:]))


def _all_finite(params: Any) -> jax.Array:
  leaves = jax.tree.leaves(params)
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def _over_members(
  members: int, fn: Callable[..., Any], in_axes: tuple[int | None, ...]
) -> Callable[..., Any]:
  """Adds an axis of members to the arguments and results of a function.

  Args:
    members: Number of members.
    fn: A function of one member.
    in_axes: As for :func:`jax.vmap`, for the positional arguments. Keywords are
      static.
  """

  def over_members(*arguments: Any, **static: Any) -> Any:
    of_one = functools.partial(fn, **static)
    if members > 1:
      return jax.vmap(of_one, in_axes)(*arguments)
    own = [
      argument
      if axis is None
      else jax.tree.map(lambda x: jnp.squeeze(x, 0), argument)
      for argument, axis in zip(arguments, in_axes, strict=True)
    ]
    return jax.tree.map(lambda x: x[None], of_one(*own))

  return over_members
