"""Reads the state of LCAM from an optimizer's state."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optax_lcam import _exact_mean
from optax_lcam import _lcam
from optax_lcam import _loss_controlled


class Reading(NamedTuple):
  """What :func:`read` returns: the state of LCAM for logging."""

  momentum: jax.Array  # shape=(), dtype=float32: of the next step.
  phase: jax.Array  # shape=(), dtype=int32: a Phase, of the last loss.
  mean_loss: jax.Array  # shape=(), dtype=float32: NaN before the first loss.
  step: jax.Array  # shape=(), dtype=int32: steps of the epoch so far.
  last_epoch_mean: jax.Array  # shape=(), dtype=float32: NaN in the first epoch.


def read(opt_state: Any) -> Reading:
  """Finds the state of LCAM in an optimizer's state and returns its values.

  It searches :func:`optax.chain`, :func:`optax.partition`,
  :func:`optax.inject_hyperparams`, :func:`multi_steps`, Flax's ``opt_state``
  and any other nesting of pytree containers. It transfers no data, does not
  block, and works under ``jax.jit`` and on batched states from ``jax.vmap``.

  Args:
    opt_state: The state of an optimizer that contains :func:`lcam` or, through
      :func:`optax.inject_hyperparams`, :func:`loss_controlled`. If it contains
      several, as with :func:`optax.partition`, the first one is read. All of
      them see the same losses, so their phases, means and steps agree if their
      arguments do.

  Returns:
    A :class:`Reading`, a NamedTuple of scalars (of batched arrays under
    ``jax.vmap``):

    * ``momentum``, float32: the momentum of the next step, or the value of
      :func:`loss_controlled` in its own unit. With ``reaction='current'`` it is
      that of the last step. The ``hyperparams`` of
      :func:`optax.inject_hyperparams` always hold the value of the last step.
    * ``phase``, int32: the :class:`Phase` of the last loss.
    * ``mean_loss``, float32, in the unit of the loss: the mean of the epoch so
      far or, with ``loss_decay``, the moving average. NaN if there is no loss
      yet, as directly after the last step of an epoch.
    * ``step``, int32: steps of the epoch so far, from 0 to ``steps_per_epoch -
      1``. Always 0 without epochs.
    * ``last_epoch_mean``, float32, in the unit of the loss: the mean of the
      last finished epoch. NaN during the first epoch, if no loss of that epoch
      was finite, and without epochs.

  Raises:
    ValueError: If ``opt_state`` contains neither an :class:`LcamState` nor a
      :class:`LossControlledState`. A checkpoint that was restored without a
      target contains dicts in their place: restore it with
      ``optimizer.init(params)`` as the target.

  .. note::
    ``read`` is compatible with ``jax_debug_nans``, and the state never contains
    a NaN. However, ``jax_debug_nans`` rejects every NaN that a jitted function
    returns: inside one, return only the fields that you need.

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
    <https://arxiv.org/abs/2309.02130v1>`_, 2023: phases in section 4,
    :math:`L_m(t)` in Algorithm 1.
  """
  faces = (_lcam.LcamState, _loss_controlled.LossControlledState)
  is_rule = lambda x: isinstance(x, faces)
  found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_rule) if is_rule(x)]
  if not found:
    problem = (
      '`opt_state` must hold the state of `optax_lcam.lcam` or'
      f' `optax_lcam.loss_controlled`, got a {type(opt_state).__name__} without'
      ' one.'
    )
    if _holds_untyped_state(opt_state):
      problem += (
        " It contains the state's fields in a dict, as after a restore without"
        ' a target: restore the checkpoint with a target, such as'
        ' `optimizer.init(params)`.'
      )
    raise ValueError(problem)
  first = found[0]
  if isinstance(first, _lcam.LcamState):
    first = first._replace(trace=None)
  # Flax NNX wraps each leaf.
  state = _loss_controlled.LossControlledState._make(jax.tree.leaves(first))
  with jax.debug_nans(False):  # NaN is the value of a mean of no losses
    mean_loss, last_epoch_mean = _means(state)
  return Reading(
    momentum=state.number,
    phase=state.phase,
    mean_loss=mean_loss,
    step=state.step_count,
    last_epoch_mean=last_epoch_mean,
  )


def _holds_untyped_state(opt_state: Any) -> bool:
  """Whether dicts stand in place of the states, with the states' fields."""
  fields = {*_loss_controlled.LossControlledState._fields} - {'number'}
  is_untyped = lambda x: isinstance(x, dict) and fields <= x.keys()
  leaves = jax.tree.leaves(opt_state, is_leaf=is_untyped)
  return any(map(is_untyped, leaves))


@jax.jit  # one dispatch, since training loops call it often
def _means(
  state: _loss_controlled.LossControlledState,
) -> tuple[jax.Array, jax.Array]:
  """The current mean or moving average, and the mean of the last epoch."""
  mean = _exact_mean.Mean(state.loss_sum, state.loss_residual, state.loss_count)
  last = _exact_mean.Mean(
    state.last_epoch_sum,
    jnp.zeros_like(state.last_epoch_sum),
    state.last_epoch_count,
  )
  return (
    # Without epochs steps are not counted.
    _exact_mean.value(mean, is_moving=state.step_count == 0),
    _exact_mean.value(last, is_moving=False),
  )
