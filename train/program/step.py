"""The pure training and evaluation steps.

The batch loss is computed here, as the mean over the global batch, and passed
to the optimizer as ``value``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.program import augmentation

# Each kind of randomness has its own stream, even if the seeds are equal.
_INIT, _ORDER, _AUGMENTATION, _DROPOUT = range(4)

# Explicit, so that a seed gives the same numbers for every default of JAX.
_PRNG = 'threefry2x32'


class TrainState(NamedTuple):
  """Everything that a run carries from step to step and saves."""

  step: jax.Array  # shape=(), dtype=int32: steps done.
  params: Any  # nnx.State of the model's nnx.Param.
  batch_stats: Any  # nnx.State of the model's nnx.BatchStat.
  opt_state: Any
  # The parameters and statistics averaged over the steps, with --ema-decay.
  average: tuple[Any, Any] | None = None

  @property
  def evaluated(self) -> tuple[Any, Any]:
    """The parameters and statistics to evaluate."""
    return self.average or (self.params, self.batch_stats)


class Images(NamedTuple):
  """A split of the data set, on the device."""

  # shape=(examples, height * width * channels), dtype=uint8. With separate axes
  # a gather on a TPU would first copy all images into padded tiles.
  images: jax.Array | np.ndarray
  # shape=(examples,), dtype=int32.
  labels: jax.Array | np.ndarray
  # shape=(channels,), dtype=float32: for normalization.
  mean: jax.Array | np.ndarray
  std: jax.Array | np.ndarray

  def take(
    self, chosen: jax.Array, image_shape: tuple[int, ...]
  ) -> tuple[jax.Array, jax.Array]:
    """Images of shape=(len(chosen), *image_shape), and their labels."""
    images = self.images[chosen].reshape(-1, *image_shape)
    return images, self.labels[chosen]


class Seeds(NamedTuple):
  """The seeds of a run. shape=(), dtype=uint32 each."""

  init: Any
  order: Any
  augmentation: Any
  dropout: Any
  coin: Any

  def init_key(self) -> jax.Array:
    return jax.random.fold_in(_key(self.init), _INIT)

  def order_key(self, epoch: jax.Array) -> jax.Array:
    key = jax.random.fold_in(_key(self.order), _ORDER)
    return jax.random.fold_in(key, epoch)

  def augmentation_key(self, step: jax.Array) -> jax.Array:
    key = jax.random.fold_in(_key(self.augmentation), _AUGMENTATION)
    return jax.random.fold_in(key, step)

  def dropout_key(self, step: jax.Array) -> jax.Array:
    key = jax.random.fold_in(_key(self.dropout), _DROPOUT)
    return jax.random.fold_in(key, step)

  def coin_key(self) -> jax.Array:
    return _key(self.coin)


def _key(seed: Any) -> jax.Array:
  return jax.random.key(seed, impl=_PRNG)


class Epoch(NamedTuple):
  """The inputs of an epoch of training."""

  # shape=(examples,), dtype=int32: a permutation of the training set.
  order: Any
  # shape=(steps,), dtype=float32.
  learning_rates: Any
  # shape=(), dtype=float32 each: numeric settings of the optimizer by name.
  numbers: dict[str, Any]


class StepMetrics(NamedTuple):
  """Metrics of one training step. Scalars."""

  loss: jax.Array  # float32: mean over the batch.
  correct: jax.Array  # int32: correctly classified images.
  momentum: jax.Array  # float32: of this step.
  horizontal: jax.Array  # float32: 1 if that is the horizontal momentum.


class EvalMetrics(NamedTuple):
  """Sums over the images of one evaluation step. Scalars."""

  loss: jax.Array  # float32.
  correct: jax.Array  # int32.


class Network(NamedTuple):
  """A network without its parameters."""

  graphdef: Any
  rest: Callable[[], Any]
  """Returns the rest of the model: its own dropout streams, which no step
  uses."""

  def merge(self, params: Any, batch_stats: Any) -> Any:
    return nnx.merge(self.graphdef, params, batch_stats, self.rest(), copy=True)


class Rule(NamedTuple):
  """The optimizer of a run without its numeric settings."""

  make: Callable[..., optax.GradientTransformation]
  make_log: Callable[..., tuple[Any, Any]] | None
  options: dict[str, Any]
  steps_per_epoch: int

  @classmethod
  def of(cls, structure: Any, steps_per_epoch: int) -> 'Rule':
    """From :meth:`train.program.optimizers.Optimizer.structure_of`."""
    make, make_log, _, options = structure
    return cls(make, make_log, dict(options), steps_per_epoch)

  def build(
    self, learning_rate: Any, numbers: dict[str, Any], seeds: Seeds
  ) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(
      self.make(
        learning_rate,
        steps_per_epoch=self.steps_per_epoch,
        coin_key=seeds.coin_key(),
        **self.options,
        **numbers,
      )
    )

  def log(
    self, before: Any, after: Any, numbers: dict[str, Any]
  ) -> tuple[jax.Array, jax.Array]:
    """The momentum of a step, and 1 if it is the horizontal one, else 0.

    Returns:
      shape=(), dtype=float32 each; NaN if the optimizer has no phases.
    """
    if self.make_log is None:
      return jnp.float32(jnp.nan), jnp.float32(jnp.nan)
    return self.make_log(before, after, **self.options, **numbers)


def make_train_step(
  network: Network,
  rule: Rule,
  *,
  batch_size: int,
  image_shape: tuple[int, ...],
  crop_padding: int,
  flip: bool,
  reflect: bool,
  batch_sharding: jax.sharding.Sharding,
  label_smoothing: float = 0.0,
  ema_decay: float | None = None,
) -> Callable[..., tuple[TrainState, StepMetrics]]:
  """Builds the training step of a run.

  Args:
    network: The network.
    rule: The optimizer.
    batch_size: Images of each step, except the last one of an epoch.
    image_shape: Height, width and channels.
    crop_padding: See :func:`augmentation.crop_and_flip`.
    flip: See :func:`augmentation.crop_and_flip`.
    reflect: See :func:`augmentation.crop_and_flip`.
    batch_sharding: The sharding of a batch.
    label_smoothing: Fraction of each label that is spread over all classes.
    ema_decay: Decay per step of the moving average of the weights.

  Returns:
    A function ``(state, data, seeds, epoch, size) -> (state, metrics)`` of
    :class:`TrainState`, :class:`Images`, :class:`Seeds` and :class:`Epoch`.
    ``size`` is static: ``batch_size``, or less for the last step of an epoch.
  """

  def train_step(
    state: TrainState,
    data: Images,
    seeds: Seeds,
    epoch: Epoch,
    size: int,
  ) -> tuple[TrainState, StepMetrics]:
    position = state.step % rule.steps_per_epoch
    chosen = jax.lax.dynamic_slice(
      epoch.order, (position * batch_size,), (size,)
    )
    chosen = jax.lax.with_sharding_constraint(chosen, batch_sharding)
    images, labels = data.take(chosen, image_shape)
    images = augmentation.crop_and_flip(
      seeds.augmentation_key(state.step),
      images,
      padding=crop_padding,
      flip=flip,
      reflect=reflect,
    )
    images = augmentation.normalize(images, data.mean, data.std)
    dropout_key = seeds.dropout_key(state.step)

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
      model = network.merge(params, state.batch_stats)
      model.train()
      logits = model(images, rngs=nnx.Rngs(dropout=dropout_key))
      losses = _cross_entropy(logits, labels, label_smoothing)
      return losses.mean(), (logits, nnx.state(model, nnx.BatchStat))

    (loss, (logits, batch_stats)), grads = jax.value_and_grad(
      loss_fn, has_aux=True
    )(state.params)
    optimizer = rule.build(epoch.learning_rates[position], epoch.numbers, seeds)
    updates, opt_state = optimizer.update(
      grads, state.opt_state, state.params, value=loss
    )
    momentum, horizontal = rule.log(state.opt_state, opt_state, epoch.numbers)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if ema_decay is not None:
      average = _average(
        average, (params, batch_stats), ema_decay, state.step + 1
      )
    new_state = TrainState(
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
      average=average,
    )
    metrics = StepMetrics(
      loss=loss,
      correct=_count_correct(logits, labels),
      momentum=momentum,
      horizontal=horizontal,
    )
    return new_state, metrics

  return train_step


def _cross_entropy(
  logits: jax.Array, labels: jax.Array, smoothing: float
) -> jax.Array:
  if not smoothing:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
  return optax.softmax_cross_entropy(
    logits, optax.smooth_labels(one_hot, smoothing)
  )


def _average(average: Any, newest: Any, decay: float, step: jax.Array) -> Any:
  """The moving average after a step, counted from 1.

  As in TensorFlow, the decay is smaller in the first steps, so that little of
  the initial weights remains.
  """
  now = step.astype(jnp.float32)
  decay_now = jnp.minimum(decay, (1 + now) / (10 + now))
  return jax.tree.map(
    lambda old, new: (decay_now * old + (1 - decay_now) * new).astype(
      old.dtype
    ),
    average,
    newest,
  )


def repeat(
  train_step: Callable[..., tuple[TrainState, StepMetrics]],
) -> Callable[..., tuple[TrainState, StepMetrics]]:
  """Repeats a training step in one program.

  Args:
    train_step: From :func:`make_train_step`.

  Returns:
    ``(state, data, seeds, epoch, size, steps) -> (state, metrics)``, where each
    of the metrics has shape=(steps,). ``size`` and ``steps`` are static.
  """

  def train_steps(
    state: TrainState,
    data: Images,
    seeds: Seeds,
    epoch: Epoch,
    size: int,
    steps: int,
  ) -> tuple[TrainState, StepMetrics]:
    def one(carry: TrainState, _: None) -> tuple[TrainState, StepMetrics]:
      return train_step(carry, data, seeds, epoch, size)

    if steps == 1:
      # No loop: on a CPU convolutions inside a loop are slow.
      state, metrics = one(state, None)
      return state, jax.tree.map(lambda x: x[None], metrics)
    return jax.lax.scan(one, state, length=steps)

  return train_steps


def make_eval_step(
  network: Network,
  *,
  batch_size: int,
  image_shape: tuple[int, ...],
  batch_sharding: jax.sharding.Sharding,
) -> Callable[..., EvalMetrics]:
  """Builds the evaluation step of a run.

  Args:
    network: The network.
    batch_size: Images per step.
    image_shape: Height, width and channels.
    batch_sharding: The sharding of a batch.

  Returns:
    A function ``(params, batch_stats, data, start) -> metrics`` for the images
    from ``start`` on, which may be fewer than ``batch_size``.
  """

  def eval_step(
    params: Any, batch_stats: Any, data: Images, start: jax.Array
  ) -> EvalMetrics:
    examples = len(data.labels)
    positions = start + jnp.arange(batch_size)
    positions = jax.lax.with_sharding_constraint(positions, batch_sharding)
    exists = positions < examples
    chosen = jnp.minimum(positions, examples - 1)
    images, labels = data.take(chosen, image_shape)
    images = augmentation.normalize(images, data.mean, data.std)
    model = network.merge(params, batch_stats)
    model.eval()
    logits = model(images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return EvalMetrics(
      loss=jnp.sum(losses, where=exists),
      correct=_count_correct(logits, labels, exists),
    )

  return eval_step


def _count_correct(
  logits: jax.Array, labels: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  correct = jnp.argmax(logits, axis=-1) == labels
  # In float32 (exact up to 2**24), so that one reduction sums it and the loss.
  return jnp.sum(correct, where=where, dtype=jnp.float32).astype(jnp.int32)
