"""Gradient accumulation that also accumulates the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_lcam import _exact_mean
from optax_lcam import _validation


class MultiStepsState(NamedTuple):
  """State of :func:`multi_steps`: Optax's state and the mean loss so far."""

  loss_mean: jax.Array  # shape=(), dtype=float32: mean of the losses.
  loss_residual: jax.Array  # shape=(), dtype=float32: its rounding error.
  multi_steps: optax.MultiStepsState


def multi_steps(
  tx: optax.GradientTransformation,
  every_k: int | Callable[[jax.Array], jax.typing.ArrayLike],
  *,
  should_skip_update_fn: Callable[..., tuple[jax.Array, Any]] | None = None,
  accumulator_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Accumulates gradients and losses over ``every_k`` micro-batches.

  :class:`optax.MultiSteps` averages the gradients of :math:`k` micro-batches
  but passes only the last micro-batch's ``value`` to its inner transformation.
  LCAM would then compare a noisier loss with the mean and make different
  choices. This wrapper passes the mean :math:`\frac{1}{k} \sum_i L_i`, so that
  :math:`k` micro-batches are equivalent to one full batch: parameters, trace,
  mean loss and momenta agree up to rounding. ``steps_per_epoch`` counts full
  batches.

  The micro-batches should have equal sizes, and each loss should be the mean
  over its micro-batch. With a mapped axis (``jax.pmap``, ``jax.shard_map``),
  average the gradients over the axis first, so that all replicas skip the same
  micro-batches.

  Args:
    tx: The transformation to apply to the accumulated gradients, such as
      :func:`lcam`, :func:`lcam_sgd` or a chain that contains one of them.
    every_k: Micro-batches per full batch, at least 1, or a schedule: a function
      of the number of full batches so far.
    should_skip_update_fn: As in :class:`optax.MultiSteps`, for example
      :func:`optax.skip_not_finite`. A skipped micro-batch contributes neither
      its gradients nor its loss. ``None`` skips nothing; a non-finite loss then
      makes the mean non-finite, and LCAM ignores that mean.
    accumulator_dtype: dtype of the accumulated gradients. ``None`` uses
      float32, or the parameters' dtype where that is wider or complex.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs`, which can be used inside
    :func:`optax.chain`. Its ``update`` takes the micro-batch's loss as
    ``value`` and returns zeros until the full batch is complete.

  Raises:
    ValueError: If ``every_k`` is neither callable nor an integer of at least 1;
      from ``update``, as for :func:`lcam`.
    TypeError: From ``update``, as for :func:`lcam`.

  Examples:
    >>> import jax.numpy as jnp, optax, optax_lcam
    >>> optimizer = optax_lcam.multi_steps(optax_lcam.lcam_sgd(0.1), every_k=2)
    >>> params = jnp.array([1., 2.])
    >>> state = optimizer.init(params)
    >>> for loss, grads in [(1., [1., 0.]), (3., [0., 1.])]:
    ...   updates, state = optimizer.update(
    ...       jnp.array(grads), state, params, value=loss)
    ...   params = optax.apply_updates(params, updates)
    ...   print(params)
    [1. 2.]
    [0.95 1.95]
    >>> print(optax_lcam.read(state).mean_loss)  # the mean of 1 and 3
    2.0

  References:
    Zhang et al., `A Simple Asymmetric Momentum Make SGD Greatest Again
    <https://arxiv.org/abs/2309.02130v1>`_, 2023: :math:`L(t)` of Algorithm 1 is
    the loss of the whole batch of the iteration.
  """
  if not callable(every_k):
    _validation.check_every_k(every_k)
    every_k = int(every_k)

  def skip(*args: Any) -> tuple[jax.Array, Any]:
    if should_skip_update_fn is None:
      return jnp.array(False), ()
    return should_skip_update_fn(*args)

  def accumulator(
    tree: Any, skip_fn: Callable[..., tuple[jax.Array, Any]]
  ) -> optax.MultiSteps:
    dtype = accumulator_dtype
    if dtype is None:
      dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(tree))
    return optax.MultiSteps(
      tx, every_k, should_skip_update_fn=skip_fn, accumulator_dtype=dtype
    )

  def init_fn(params: optax.Params) -> MultiStepsState:
    return MultiStepsState(
      loss_mean=jnp.zeros([], jnp.float32),
      loss_residual=jnp.zeros([], jnp.float32),
      multi_steps=accumulator(params, skip).init(params),
    )

  def update_fn(
    updates: optax.Updates,
    state: MultiStepsState,
    params: optax.Params | None = None,
    *,
    value: jax.typing.ArrayLike | None = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, MultiStepsState]:
    loss = _validation.as_loss(value)
    inner = state.multi_steps
    loss_mean, loss_residual = _exact_mean.move(
      state.loss_mean,
      state.loss_residual,
      loss,
      1 / (inner.mini_step + 1).astype(jnp.float32),
    )
    skipped = skip(updates, inner.gradient_step, params)
    new_updates, new_inner = accumulator(
      inner.acc_grads, lambda *_: skipped
    ).update(updates, inner, params, value=loss_mean, **extra_args)
    # A skipped micro-batch leaves the mean as it was; a full batch resets it.
    is_skipped, is_complete = skipped[0], new_inner.mini_step == 0

    def next_mean(new: jax.Array, old: jax.Array) -> jax.Array:
      return jnp.where(is_skipped, old, jnp.where(is_complete, 0.0, new))

    return new_updates, MultiStepsState(
      loss_mean=next_mean(loss_mean, state.loss_mean),
      loss_residual=next_mean(loss_residual, state.loss_residual),
      multi_steps=new_inner,
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
