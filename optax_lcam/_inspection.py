"""Reading LCAM's part of an optimizer's state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_lcam import _lcam


class Reading(NamedTuple):
  """What a training loop logs; see :func:`read`."""

  momentum: jax.Array  # shape=(), dtype=float32: beta of the next step.
  phase: jax.Array  # shape=(), dtype=int32: a Phase, that of the last loss.
  mean_loss: jax.Array  # shape=(), dtype=float32: NaN before the first loss.
  step: jax.Array  # shape=(), dtype=int32: steps of the epoch so far.


def read(opt_state: Any) -> Reading:
  """Finds LCAM's part of an optimizer's state and says where LCAM stands.

  It looks through :func:`optax.chain`, :func:`optax.partition`,
  :func:`optax.inject_hyperparams`, :func:`multi_steps`, Flax's ``opt_state``
  and any other nesting of containers that JAX knows. It moves no data and
  waits for no computation, and works under ``jax.jit`` and on the batched
  states of ``jax.vmap``.

  Args:
    opt_state: A state of an optimizer that holds :func:`lcam`. If it holds more
      than one, as under :func:`optax.partition`, the first is read: they see
      the same losses, so phase, mean and step are the same in all.

  Returns:
    A :class:`Reading`, a NamedTuple of scalars (of arrays of the batch's shape
    under ``jax.vmap``):

    * ``momentum``, float32 in [0, 1): the momentum of the next step (with
      ``reaction='current'``, of the last).
    * ``phase``, int32: the :class:`Phase` of the last loss.
    * ``mean_loss``, float32, in the loss's unit: the mean of the epoch so far,
      or the moving average with ``loss_decay``. NaN where there is no loss in
      it, as right after the last step of an epoch.
    * ``step``, int32: steps of the epoch so far, from 0 to ``steps_per_epoch -
      1``; 0 where no epoch exists.

  Raises:
    ValueError: There is no :class:`LcamState` in ``opt_state``.

  Examples:
    >>> import jax.numpy as jnp, optax, optax_lcam
    >>> optimizer = optax.chain(
    ...     optax.clip_by_global_norm(1.0), optax_lcam.lcam_sgd(0.1))
    >>> params = jnp.array([1., 2.])
    >>> state = optimizer.init(params)
    >>> for loss in (1., 3.):
    ...   _, state = optimizer.update(params, state, params, value=loss)
    >>> reading = optax_lcam.read(state)
    >>> optax_lcam.Phase(int(reading.phase)).name  # 3 is above the mean of 1, 3
    'VERTICAL'
    >>> print(reading.momentum, reading.mean_loss, reading.step)
    0.9 2.0 2

  References:
    Zhang et al., `A Simple Asymmetric Momentum Make SGD Greatest Again
    <https://arxiv.org/abs/2309.02130>`_, 2023: phases in section 4,
    :math:`L_m(t)` in Algorithm 1.
  """
  is_lcam = lambda x: isinstance(x, _lcam.LcamState)
  found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_lcam) if is_lcam(x)]
  if not found:
    raise ValueError(
      '`opt_state` must hold the state of `optax_lcam.lcam`, got a'
      f' {type(opt_state).__name__} without one.'
    )
  # The leaves, as Flax wraps each of them.
  scalars = jax.tree.leaves(found[0]._replace(trace=None))
  state = _lcam.LcamState._make([*scalars, None])
  return Reading(
    momentum=state.momentum,
    phase=state.phase,
    mean_loss=_mean_loss(state.loss_sum, state.loss_count, state.step_count),
    step=state.step_count,
  )


@jax.jit  # one dispatch, as training loops log often
def _mean_loss(
  loss_sum: jax.Array, loss_count: jax.Array, step_count: jax.Array
) -> jax.Array:
  # Without an epoch the average itself is in the place of the sum.
  divisor = jnp.where(step_count == 0, jnp.minimum(loss_count, 1), loss_count)
  return loss_sum / divisor.astype(jnp.float32)
