"""The pure training and evaluation steps.

The batch loss is made here, as the mean over the global batch, and passed to
the optimizer as ``value``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from train import augmentation
from train import optimizers
from train.config import Config


class TrainState(NamedTuple):
  """All that a run carries from step to step, and all that it saves."""

  step: jax.Array  # shape=(), dtype=int32: steps done.
  params: Any  # nnx.State of the model's nnx.Param.
  batch_stats: Any  # nnx.State of the model's nnx.BatchStat.
  opt_state: Any


class Images(NamedTuple):
  """A split of the data set, on the device."""

  # shape=(examples, height, width, channels), dtype=uint8.
  images: jax.Array | np.ndarray
  # shape=(examples,), dtype=int32.
  labels: jax.Array | np.ndarray


class Keys(NamedTuple):
  """PRNG keys of what is random in a step, the same for the whole run."""

  augmentation: jax.Array
  dropout: jax.Array


class StepMetrics(NamedTuple):
  """What one training step measured. Scalars."""

  loss: jax.Array  # float32: mean over the batch.
  correct: jax.Array  # int32: images whose largest logit is the label's.
  momentum: jax.Array  # float32: what this step was taken with.
  horizontal: jax.Array  # float32: 1 if that is the horizontal momentum.


class EvalMetrics(NamedTuple):
  """Sums over the images of one evaluation step. Scalars."""

  loss: jax.Array  # float32.
  correct: jax.Array  # int32.


def init_state(
  model: nnx.Module, optimizer: optax.GradientTransformationExtraArgs
) -> tuple[TrainState, Any]:
  """Splits a new model into the state that trains and the rest.

  Args:
    model: A freshly initialised model.
    optimizer: The optimizer of its parameters.

  Returns:
    The state at step 0, and what of the model does not train: its own dropout
    streams.
  """
  _, params, batch_stats, rest = nnx.split(  # type: ignore[misc]
    model, nnx.Param, nnx.BatchStat, ...
  )
  state = TrainState(
    step=jnp.zeros([], jnp.int32),
    params=params,
    batch_stats=batch_stats,
    opt_state=optimizer.init(params),
  )
  return state, rest


def make_train_step(
  config: Config,
  graphdef: nnx.GraphDef,
  rest: Any,
  optimizer: optax.GradientTransformationExtraArgs,
  *,
  steps_per_epoch: int,
  crop_padding: int,
  flip: bool,
  mean: jax.typing.ArrayLike,
  deviation: jax.typing.ArrayLike,
  batch_sharding: jax.sharding.Sharding,
) -> Callable[..., tuple[TrainState, StepMetrics]]:
  """Builds the training step of a run.

  Args:
    config: A resolved configuration.
    graphdef: Structure of the model.
    rest: From :func:`init_state`.
    optimizer: The optimizer.
    steps_per_epoch: Training steps of one epoch.
    crop_padding: See :func:`augmentation.crop_and_flip`.
    flip: See :func:`augmentation.crop_and_flip`.
    mean: See :func:`augmentation.normalize`.
    deviation: See :func:`augmentation.normalize`.
    batch_sharding: How a batch is spread over the devices.

  Returns:
    A function ``(state, data, order, keys, batch_size) -> (state, metrics)``,
    where ``order`` has shape=(examples,), dtype=int32: the epoch's permutation
    of the training set. ``batch_size`` is static: the configuration's, or
    less for the last step of an epoch.
  """

  def train_step(
    state: TrainState,
    data: Images,
    order: jax.Array,
    keys: Keys,
    batch_size: int,
  ) -> tuple[TrainState, StepMetrics]:
    start = (state.step % steps_per_epoch) * config.batch_size
    chosen = jax.lax.dynamic_slice(order, (start,), (batch_size,))
    chosen = jax.lax.with_sharding_constraint(chosen, batch_sharding)
    labels = data.labels[chosen]
    images = augmentation.crop_and_flip(
      jax.random.fold_in(keys.augmentation, state.step),
      data.images[chosen],
      padding=crop_padding,
      flip=flip,
    )
    images = augmentation.normalize(images, mean, deviation)
    dropout_key = jax.random.fold_in(keys.dropout, state.step)

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
      model = nnx.merge(graphdef, params, state.batch_stats, rest, copy=True)
      model.train()
      logits = model(images, rngs=nnx.Rngs(dropout=dropout_key))
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return losses.mean(), (logits, nnx.state(model, nnx.BatchStat))

    (loss, (logits, batch_stats)), grads = jax.value_and_grad(
      loss_fn, has_aux=True
    )(state.params)
    updates, opt_state = optimizer.update(
      grads, state.opt_state, state.params, value=loss
    )
    momentum, horizontal = optimizers.step_momentum(
      config, before=state.opt_state, after=opt_state
    )
    new_state = TrainState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    metrics = StepMetrics(
      loss=loss,
      correct=_count_correct(logits, labels),
      momentum=momentum,
      horizontal=horizontal,
    )
    return new_state, metrics

  return train_step


def repeat(
  train_step: Callable[..., tuple[TrainState, StepMetrics]],
) -> Callable[..., tuple[TrainState, StepMetrics]]:
  """Several training steps in one program.

  Args:
    train_step: From :func:`make_train_step`.

  Returns:
    ``(state, data, order, keys, batch_size, steps) -> (state, metrics)``, where
    each of the metrics has shape=(steps,). ``batch_size`` and ``steps`` are
    static.
  """

  def train_steps(
    state: TrainState,
    data: Images,
    order: jax.Array,
    keys: Keys,
    batch_size: int,
    steps: int,
  ) -> tuple[TrainState, StepMetrics]:
    def one(carry: TrainState, _: None) -> tuple[TrainState, StepMetrics]:
      return train_step(carry, data, order, keys, batch_size)

    if steps == 1:
      # Not a loop: on a CPU the convolutions of a loop are slow.
      state, metrics = one(state, None)
      return state, jax.tree.map(lambda x: x[None], metrics)
    return jax.lax.scan(one, state, length=steps)

  return train_steps


def make_eval_step(
  graphdef: nnx.GraphDef,
  rest: Any,
  *,
  examples: int,
  mean: jax.typing.ArrayLike,
  deviation: jax.typing.ArrayLike,
  batch_sharding: jax.sharding.Sharding,
) -> Callable[..., EvalMetrics]:
  """Builds the evaluation step of a run.

  Args:
    graphdef: Structure of the model.
    rest: From :func:`init_state`.
    examples: Images of the split.
    mean: See :func:`augmentation.normalize`.
    deviation: See :func:`augmentation.normalize`.
    batch_sharding: How a batch is spread over the devices.

  Returns:
    A function ``(params, batch_stats, data, start, batch_size) -> metrics`` on
    the images from ``start`` on, of which there may be less than
    ``batch_size``, which is static.
  """

  def eval_step(
    params: Any,
    batch_stats: Any,
    data: Images,
    start: jax.Array,
    batch_size: int,
  ) -> EvalMetrics:
    positions = start + jnp.arange(batch_size)
    positions = jax.lax.with_sharding_constraint(positions, batch_sharding)
    exists = positions < examples
    chosen = jnp.minimum(positions, examples - 1)
    labels = data.labels[chosen]
    images = augmentation.normalize(data.images[chosen], mean, deviation)
    model = nnx.merge(graphdef, params, batch_stats, rest, copy=True)
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
  # In float32, exact to 2**24, several devices send it along with the loss.
  return jnp.sum(correct, where=where, dtype=jnp.float32).astype(jnp.int32)
