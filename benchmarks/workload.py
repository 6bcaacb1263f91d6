"""The training step of a run, put together as train.loop does, without a run.

Data are noise in the shape of a data set unless one is given: what the images
show changes no time.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np

from train import config as config_lib
from train import data
from train import networks
from train import optimizers
from train import schedules
from train import step as step_lib


def noise(
  examples: int, size: int = 32, channels: int = 3, padding: int = 4
) -> data.Dataset:
  """Random images, augmented as CIFAR's are."""
  random = np.random.default_rng(0)

  def split(count: int) -> data.Split:
    shape = (count, size, size, channels)
    return data.Split(
      random.integers(0, 256, shape, np.uint8),
      random.integers(0, 10, count, np.int32),
    )

  return data.Dataset(
    'noise',
    num_classes=10,
    train=split(examples),
    test=split(max(1, examples // 10)),
    crop_padding=padding,
    flip=True,
  )


def of_network(
  depth: int,
  widen_factor: int,
  batch_size: int,
  *,
  devices: Sequence[jax.Device] | None = None,
  **settings: Any,
) -> 'Workload':
  """A Wide ResNet on noise in the shape of CIFAR-10, for a few steps."""
  config = config_lib.Config(
    dataset='cifar10',
    depth=depth,
    widen_factor=widen_factor,
    batch_size=batch_size,
    **settings,
  )
  return Workload(config, noise(4 * batch_size), devices=devices)


class Workload:
  """What a run computes, lowered for shapes or started on a device.

  Args:
    config: Its settings.
    dataset: Its images.
    seeds: Seeds in one vmapped program.
    devices: What the batch is spread over. Default: the first device.
    param_dtype: dtype of the parameters and of their trace. A run's are
      float32.
  """

  def __init__(
    self,
    config: config_lib.Config,
    dataset: data.Dataset,
    *,
    seeds: int = 1,
    devices: Sequence[jax.Device] | None = None,
    param_dtype: Any = jnp.float32,
  ):
    examples = len(dataset.train)
    self.steps_per_epoch = -(-examples // config.batch_size)
    self.config = config_lib.resolve(config, self.steps_per_epoch)
    self.dataset = dataset
    self.seeds = seeds
    devices = devices or jax.devices()[:1]
    mesh = jax.make_mesh(
      (len(devices),), ('batch',), axis_types=(AxisType.Auto,), devices=devices
    )
    self.replicated = NamedSharding(mesh, PartitionSpec())
    by_batch = NamedSharding(mesh, PartitionSpec('batch'))
    schedule = schedules.make_schedule(self.config, self.steps_per_epoch)
    self.optimizer = optimizers.make_optimizer(
      self.config, schedule, self.steps_per_epoch
    )
    dtype = 'float32' if config.dtype == 'auto' else config.dtype

    make_model = functools.partial(
      networks.make_network, config, dataset, dtype
    )

    def init(key: jax.Array) -> tuple[step_lib.TrainState, Any]:
      model = make_model(key)
      params = nnx.state(model, nnx.Param)
      nnx.update(model, jax.tree.map(lambda x: x.astype(param_dtype), params))
      return step_lib.init_state(model, self.optimizer)

    graphdef = nnx.graphdef(nnx.eval_shape(make_model, jax.random.key(0)))
    # XLA leaves out the parameters that nobody asks for.
    rest = jax.jit(lambda key: init(key)[1])(jax.random.key(0))
    self._init = init
    mean, deviation = dataset.channel_statistics()
    common: dict[str, Any] = {
      'mean': mean,
      'deviation': deviation,
      'batch_sharding': by_batch,
    }
    self._train_steps = step_lib.repeat(
      step_lib.make_train_step(
        self.config,
        graphdef,
        rest,
        self.optimizer,
        steps_per_epoch=self.steps_per_epoch,
        crop_padding=dataset.crop_padding,
        flip=dataset.flip,
        **common,
      )
    )
    self._eval_step = step_lib.make_eval_step(
      graphdef, rest, examples=len(dataset.test), **common
    )

  def make_arguments(self) -> tuple[Any, ...]:
    """State, images, order and keys, as a first epoch begins."""
    examples = len(self.dataset.train)
    keys = jax.random.split(jax.random.key(0), self.seeds)

    def of_seed(key: jax.Array) -> tuple[Any, ...]:
      state, _ = self._init(key)
      order = jax.random.permutation(key, examples)
      return state, order, step_lib.Keys(key, key)

    state, order, step_keys = jax.jit(
      self._over_seeds(of_seed), out_shardings=self.replicated
    )(keys if self.seeds > 1 else keys[0])
    train = self.dataset.train
    images = jax.device_put(
      step_lib.Images(train.images, train.labels), self.replicated
    )
    return state, images, order, step_keys

  def shape_arguments(self) -> tuple[Any, ...]:
    """The shapes of :meth:`make_arguments`; nothing is allocated."""
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=self.replicated
      ),
      jax.eval_shape(self.make_arguments),
    )

  def lower(
    self, batch_size: int | None = None, *, steps: int = 1, donate: bool = True
  ) -> Any:
    """A program of one training step or more, lowered."""
    program = functools.partial(
      self._train_steps,
      batch_size=batch_size or self.config.batch_size,
      steps=steps,
    )
    return jax.jit(
      self._over_seeds(program, (0, None, 0, 0)),
      donate_argnums=0 if donate else (),
      out_shardings=self.replicated,
    ).lower(*self.shape_arguments())

  def compile_eval(self) -> Callable[..., Any]:
    """The evaluation step ``(params, batch_stats, images, start)``."""
    state, *_ = self.shape_arguments()
    test = self.dataset.test
    return (
      jax.jit(
        functools.partial(
          self._eval_step, batch_size=self.config.eval_batch_size
        )
      )
      .lower(
        state.params,
        state.batch_stats,
        step_lib.Images(test.images, test.labels),
        jax.ShapeDtypeStruct((), jnp.int32),
      )
      .compile()
    )

  def start(self, program: Any = None) -> Callable[[int], None]:
    """Gives a function that runs a compiled program n times.

    Args:
      program: From :meth:`lower`, compiled. Default: that of one step.
    """
    program = program or self.lower().compile()
    state, *rest = self.make_arguments()

    def advance(times: int) -> None:
      nonlocal state
      for _ in range(times):
        state, _ = program(state, *rest)
      jax.block_until_ready(state)

    return advance

  def start_epochs(self) -> Callable[[], None]:
    """Compiles the steps, and gives a function that makes those of an epoch.

    The last step may have fewer images than the others.
    """
    full, last = divmod(len(self.dataset.train), self.config.batch_size)
    steps = [self.lower().compile()] * full
    if last:
      steps.append(self.lower(last).compile())
    state, *rest = self.make_arguments()

    def epoch() -> None:
      nonlocal state
      for step in steps:
        state, _ = step(state, *rest)
      jax.block_until_ready(state)

    return epoch

  def _over_seeds(
    self, fn: Callable[..., Any], in_axes: Any = 0
  ) -> Callable[..., Any]:
    return jax.vmap(fn, in_axes) if self.seeds > 1 else fn
