"""Reading LCAM's part of an optimizer's state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_lcam import _exact_mean
from optax_lcam import _lcam
from optax_lcam import _loss_controlled


class Reading(NamedTuple):
  """What a training loop logs; see :func:`read`."""

  momentum: jax.Array  # shape=(), dtype=float32: the next step's number.
  phase: jax.Array  # shape=(), dtype=int32: a Phase, that of the last loss.
  mean_loss: jax.Array  # shape=(), dtype=float32: NaN before the first loss.
  step: jax.Array  # shape=(), dtype=int32: steps of the epoch so far.
  last_epoch_mean: jax.Array  # shape=(), dtype=float32: NaN in the first epoch.


def read(opt_state: Any) -> Reading:
  """Finds LCAM's part of an optimizer's state and says where LCAM stands.

  It looks through :func:`optax.chain`, :func:`optax.partition`,
  :func:`optax.inject_hyperparams`, :func:`multi_steps`, Flax's ``opt_state``
  and any other nesting of containers that JAX knows. It moves no data and
  waits for no computation, and works under ``jax.jit`` and on the batched
  states of ``jax.vmap``.

  Args:
    opt_state: A state of an optimizer that holds :func:`lcam` or, within
      :func:`optax.inject_hyperparams`, :func:`loss_controlled`. If it holds
      more than one, as under :func:`optax.partition`, the first is read: they
      see the same losses, so phase, means and step are the same in all, where
      their arguments are.

  Returns:
    A :class:`Reading`, a NamedTuple of scalars (of arrays of the batch's shape
    under ``jax.vmap``):

    * ``momentum``, float32: the momentum of the next step, or the number of
      :func:`loss_controlled`, whatever its unit (with ``reaction='current'``,
      of the last step). Optax's ``hyperparams`` hold that of the last step.
    * ``phase``, int32: the :class:`Phase` of the last loss.
    * ``mean_loss``, float32, in the loss's unit: the mean of the epoch so far,
      or the moving average with ``loss_decay``. NaN where there is no loss in
      it, as right after the last step of an epoch.
    * ``step``, int32: steps of the epoch so far, from 0 to ``steps_per_epoch -
      1``; 0 where no epoch exists.
    * ``last_epoch_mean``, float32, in the loss's unit: the mean of the epoch
      that ended last, from its last step on. NaN before the first end, where
      no loss of that epoch was finite, and where no epoch exists.

  Raises:
    ValueError: There is neither an :class:`LcamState` nor a
      :class:`LossControlledState` in ``opt_state``.

  .. note::
    ``read`` itself passes under ``jax_debug_nans``, and no state holds a NaN.
    But that setting refuses each NaN that a jitted function returns: within
    one, return what you need of the reading, or read outside.

  Examples:
    >>> import jax.numpy as jnp, optax, optax_lcam
    >>> optimizer = optax.chain(
    ...     optax.clip_by_global_norm(1.0),
    ...     optax_lcam.lcam_sgd(0.1, steps_per_epoch=3))
    >>> params = jnp.array([1., 2.])
    >>> state = optimizer.init(params)
    >>> for loss in (1., 3.):
    ...   _, state = optimizer.update(params, state, params, value=loss)
    >>> reading = optax_lcam.read(state)
    >>> optax_lcam.Phase(int(reading.phase)).name  # 3 is above the mean of 1, 3
    'VERTICAL'
    >>> print(reading.momentum, reading.mean_loss, reading.step)
    0.9 2.0 2
    >>> _, state = optimizer.update(params, state, params, value=5.)
    >>> reading = optax_lcam.read(state)  # the epoch has ended
    >>> print(reading.last_epoch_mean, reading.mean_loss, reading.step)
    3.0 nan 0

  References:
    Zhang et al., `A Simple Asymmetric Momentum Make SGD Greatest Again
    <https://arxiv.org/abs/2309.02130>`_, 2023: phases in section 4,
    :math:`L_m(t)` in Algorithm 1.
  """
  faces = (_lcam.LcamState, _loss_controlled.LossControlledState)
  is_rule = lambda x: isinstance(x, faces)
  found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_rule) if is_rule(x)]
  if not found:
    raise ValueError(
      '`opt_state` must hold the state of `optax_lcam.lcam` or'
      f' `optax_lcam.loss_controlled`, got a {type(opt_state).__name__} without'
      ' one.'
    )
  first = found[0]
  if isinstance(first, _lcam.LcamState):
    first = first._replace(trace=None)
  # The leaves, as Flax wraps each of them.
  state = _loss_controlled.LossControlledState._make(jax.tree.leaves(first))
  with jax.debug_nans(False):  # NaN is what is wanted where there is no mean
    mean_loss, last_epoch_mean = _means(state)
  return Reading(
    momentum=state.number,
    phase=state.phase,
    mean_loss=mean_loss,
    step=state.step_count,
    last_epoch_mean=last_epoch_mean,
  )


@jax.jit  # one dispatch, as training loops log often
def _means(
  state: _loss_controlled.LossControlledState,
) -> tuple[jax.Array, jax.Array]:
  """Of the epoch so far, or the moving average; of the last epoch."""
  mean = _exact_mean.Mean(state.loss_sum, state.loss_residual, state.loss_count)
  last = _exact_mean.Mean(
    state.last_epoch_sum,
    jnp.zeros_like(state.last_epoch_sum),
    state.last_epoch_count,
  )
  return (
    # Only where no epoch exists there are losses without steps.
    _exact_mean.value(mean, is_moving=state.step_count == 0),
    _exact_mean.value(last, is_moving=False),
  )
