"""The rule of LCAM: a stateful schedule that the loss switches.

Implements section 4 and Algorithm 1 of
"A Simple Asymmetric Momentum Make SGD Greatest Again",
by Gongyue Zhang, Dinghuang Zhang, Shuwen Zhao, Donghan Liu, Carrie M. Toptan
and Honghai Liu, 2023,
for any hyperparameter.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_lcam import _exact_mean
from optax_lcam import _validation


class Phase(enum.IntEnum):
  """How the last finite loss compares with the mean.

  The names are those of section 4 of the paper. States and :class:`Reading`
  store the phase as an int32.

  Examples:
    >>> import jax.numpy as jnp, optax_lcam
    >>> optax_lcam.Phase(int(jnp.int32(2))).name
    'VERTICAL'
  """

  UNKNOWN = 0  # no finite loss so far
  HORIZONTAL = 1  # at or below the mean
  VERTICAL = 2  # above it


class LossControlledState(NamedTuple):
  """State of :func:`loss_controlled`: 32 bytes.

  The first four fields describe the current epoch and are reset to zero at its
  end; the others carry over. Without epochs (``loss_decay``), ``loss_sum`` and
  ``loss_residual`` hold the moving average itself, a sum whose weights add up
  to 1, and the fields for steps and finished epochs stay 0. No field is ever
  NaN or infinite.
  """

  loss_sum: jax.Array  # shape=(), dtype=float32: S, rounded to float32.
  loss_residual: jax.Array  # shape=(), dtype=float32: S - loss_sum.
  loss_count: jax.Array  # shape=(), dtype=int32: n, the losses in S.
  step_count: jax.Array  # shape=(), dtype=int32: steps of the epoch so far.
  number: jax.Array  # shape=(), dtype=float32: of the next step.
  phase: jax.Array  # shape=(), dtype=int32: a Phase.
  last_epoch_sum: jax.Array  # shape=(), dtype=float32: S of the last epoch.
  last_epoch_count: jax.Array  # shape=(), dtype=int32: n of the last epoch.


def loss_controlled(
  horizontal: jax.typing.ArrayLike,
  vertical: jax.typing.ArrayLike,
  *,
  steps_per_epoch: jax.typing.ArrayLike | None = _validation.STEPS_PER_EPOCH,
  initial: jax.typing.ArrayLike | None = None,
  inclusive: bool = True,
  reaction: Literal['next', 'current'] = 'next',
  loss_decay: jax.typing.ArrayLike | None = None,
  batch_axis_name: str | None = None,
) -> optax.schedules.StatefulSchedule:
  r"""A hyperparameter that switches between two values, controlled by the loss.

  This is a stateful schedule. With :func:`optax.inject_hyperparams` any
  hyperparameter of any optimizer can follow the loss like the momentum of
  :func:`lcam`: ``b1`` of :func:`optax.adamw`, the learning rate of
  :func:`optax.sgd`, the decay of :func:`optax.trace`. With the batch loss
  :math:`L_t`, and the sum :math:`S` and number :math:`n` of the losses of the
  current epoch, including step :math:`t`,

  .. math::

    x_{t+1} = x_\mathrm{horizontal} \ \text{if } L_t \le S / n,
    \ \text{else } x_\mathrm{vertical}

  The choices are those of :func:`lcam`, which describes ties, non-finite losses
  and ``loss_decay``. The optimizer's ``update`` takes the loss as ``value``.

  Args:
    horizontal: The value after a loss at or below the mean: finite, in any
      unit. May be traced.
    vertical: The value after a loss above the mean: finite. May be smaller or
      larger than ``horizontal``. May be traced.
    steps_per_epoch: See :func:`lcam`.
    initial: The value of the first step, before any loss is known: finite. May
      be traced. ``None`` uses ``vertical``.
    inclusive: See :func:`lcam`.
    reaction: The step on which a loss acts: ``'next'``, the following step, or
      ``'current'``, the step that the loss belongs to.
    loss_decay: See :func:`lcam`.
    batch_axis_name: See :func:`lcam`.

  Returns:
    An :class:`optax.schedules.StatefulSchedule`: ``init()`` returns a
    :class:`LossControlledState`, ``update(state, value=loss)`` returns the next
    state, and ``schedule(state)`` returns the value, shape=(), dtype=float32.
    With ``reaction='current'``, ``schedule(state, value=loss)`` returns the
    value that the loss selects. Other keywords are ignored.

  Raises:
    ValueError: If an argument is out of range, or if not exactly one of
      ``steps_per_epoch`` and ``loss_decay`` is given. Traced values are not
      checked.
    ValueError: From ``update``, if ``value`` is missing, ``None``, masked, not
      a scalar or outside the range of float64.
    TypeError: From ``update``, if ``value`` is not a real number.

  .. note::
    The value is float32 for parameters of any dtype: Optax casts plain floats
    to the parameters' dtype, or to ``hyperparam_dtype``, but not the values of
    stateful schedules. With bfloat16 or float16 parameters an optimizer
    therefore computes in float32 and its accumulators become float32 at the
    first step, which ``jax.lax.scan`` rejects. Set the accumulator's dtype
    explicitly: ``accumulator_dtype`` of :func:`optax.trace` and
    :func:`optax.sgd`, ``mu_dtype`` of :func:`optax.adamw`. Alternatively, cast
    the value in the injected function:
    ``lambda decay: optax.trace(decay.astype(jnp.bfloat16))``. With float64
    parameters the value still has float32 precision (seven digits).

    How the optimizer treats gradients that are ``None`` or complex does not
    change; the value depends on the loss only.

  Examples:
    AdamW whose ``b1`` is 0.93 after a loss at or below the mean, and 0.9 after
    one above it.

    >>> import jax, jax.numpy as jnp, optax, optax_lcam
    >>> optimizer = optax.inject_hyperparams(optax.adamw)(
    ...     learning_rate=1.0,
    ...     b1=optax_lcam.loss_controlled(0.93, 0.9, steps_per_epoch=3))
    >>> def loss_fn(params): return jnp.sum(params**2)
    >>> params = jnp.array([1., 2., 3.])
    >>> state = optimizer.init(params)
    >>> for _ in range(5):
    ...   loss, grads = jax.value_and_grad(loss_fn)(params)
    ...   updates, state = optimizer.update(grads, state, params, value=loss)
    ...   params = optax.apply_updates(params, updates)
    ...   now = optax_lcam.read(state)
    ...   print(f'loss {loss:6.3f}, b1 {state.hyperparams["b1"]:.2f},'
    ...         f' next {now.momentum:.2f}')
    loss 14.000, b1 0.90, next 0.93
    loss  4.998, b1 0.93, next 0.93
    loss  1.601, b1 0.93, next 0.93
    loss  2.442, b1 0.93, next 0.93
    loss  4.220, b1 0.93, next 0.90

    The schedule alone:

    >>> schedule = optax_lcam.loss_controlled(1.0, -1.0, initial=0.0)
    >>> state = schedule.init()
    >>> numbers = [float(schedule(state))]
    >>> for loss in (3.0, 5.0, 4.0, 4.5):
    ...   state = schedule.update(state, value=loss)
    ...   numbers.append(float(schedule(state)))
    >>> numbers
    [0.0, 1.0, -1.0, 1.0, -1.0]

  References:
    Zhang et al., `A Simple Asymmetric Momentum Make SGD Greatest Again
    <https://arxiv.org/abs/2309.02130v1>`_, 2023: section 4, and Algorithm 1 in
    section 4.3.
  """
  if initial is None:
    initial = vertical
  _validation.check_number('horizontal', horizontal)
  _validation.check_number('vertical', vertical)
  _validation.check_number('initial', initial)
  return LossControlled(
    horizontal,
    vertical,
    steps_per_epoch=steps_per_epoch,
    initial=initial,
    inclusive=inclusive,
    reaction=reaction,
    loss_decay=loss_decay,
    batch_axis_name=batch_axis_name,
  )


@dataclasses.dataclass(frozen=True, eq=False)
class LossControlled:
  """The schedule that :func:`loss_controlled` returns, with checked values."""

  horizontal: jax.typing.ArrayLike
  vertical: jax.typing.ArrayLike
  _: dataclasses.KW_ONLY
  initial: jax.typing.ArrayLike
  steps_per_epoch: jax.typing.ArrayLike | None  # Unused with loss_decay.
  inclusive: bool
  reaction: Literal['next', 'current']
  loss_decay: jax.typing.ArrayLike | None
  batch_axis_name: str | None

  def __post_init__(self) -> None:
    _validation.check_averaging(self.steps_per_epoch, self.loss_decay)
    _validation.check_flag('inclusive', self.inclusive)
    _validation.check_choice('reaction', self.reaction, ('next', 'current'))

  def init(self) -> LossControlledState:
    """The state before the first loss."""
    return LossControlledState(
      loss_sum=jnp.zeros([], jnp.float32),
      loss_residual=jnp.zeros([], jnp.float32),
      loss_count=jnp.zeros([], jnp.int32),
      step_count=jnp.zeros([], jnp.int32),
      # A copy, so that donating the state leaves the argument intact.
      number=jnp.array(self.initial, jnp.float32),
      phase=jnp.full([], int(Phase.UNKNOWN), jnp.int32),
      last_epoch_sum=jnp.zeros([], jnp.float32),
      last_epoch_count=jnp.zeros([], jnp.int32),
    )

  def update(
    self,
    state: LossControlledState,
    *,
    value: jax.typing.ArrayLike | None = None,
    **extra_args: Any,
  ) -> LossControlledState:
    """Returns the state after a step with this loss."""
    del extra_args
    loss = _validation.as_loss(value)
    if self.batch_axis_name is not None:
      loss = jax.lax.pmean(loss, self.batch_axis_name)
    return self._end_step(self._choose(state, loss))

  def __call__(
    self,
    state: LossControlledState,
    *,
    value: jax.typing.ArrayLike | None = None,
    **extra_args: Any,
  ) -> jax.Array:
    """Returns the value of the step that follows ``state``."""
    del extra_args
    # `optax.inject_hyperparams` has no loss yet when it makes its state.
    if self.reaction == 'current' and value is not None:
      state = self.update(state, value=value)
    # A copy: Optax stores it next to the state, and a buffer can only be
    # donated once.
    return jnp.array(state.number)

  def _choose(
    self, state: LossControlledState, loss: jax.Array
  ) -> LossControlledState:
    """Adds the loss to the mean and selects the phase and the value."""
    mean = _exact_mean.Mean(
      state.loss_sum, state.loss_residual, state.loss_count
    )
    if self.loss_decay is None:
      mean, excess = _exact_mean.push(mean, loss)
    else:
      mean, excess = _exact_mean.push_moving(mean, loss, self.loss_decay)
    is_horizontal = excess <= 0 if self.inclusive else excess < 0

    def choose(
      horizontal: jax.typing.ArrayLike,
      vertical: jax.typing.ArrayLike,
      dtype: Any,
    ) -> jax.Array:
      return jnp.where(
        is_horizontal,
        jnp.asarray(horizontal, dtype),
        jnp.asarray(vertical, dtype),
      )

    chosen = state._replace(
      loss_sum=mean.total,
      loss_residual=mean.residual,
      loss_count=mean.n,
      number=choose(self.horizontal, self.vertical, jnp.float32),
      phase=choose(int(Phase.HORIZONTAL), int(Phase.VERTICAL), jnp.int32),
    )
    is_usable = jnp.isfinite(excess)
    return LossControlledState(
      *(jnp.where(is_usable, a, b) for a, b in zip(chosen, state, strict=True))
    )

  def _end_step(self, state: LossControlledState) -> LossControlledState:
    """Counts the step, and resets the mean at the end of an epoch."""
    if self.loss_decay is not None or self.steps_per_epoch is None:
      return state
    step_count = state.step_count + 1
    ends = step_count >= self.steps_per_epoch
    within_epoch = lambda x: jnp.where(ends, jnp.zeros_like(x), x)
    return state._replace(
      loss_sum=within_epoch(state.loss_sum),
      loss_residual=within_epoch(state.loss_residual),
      loss_count=within_epoch(state.loss_count),
      step_count=within_epoch(step_count),
      last_epoch_sum=jnp.where(ends, state.loss_sum, state.last_epoch_sum),
      last_epoch_count=jnp.where(
        ends, state.loss_count, state.last_epoch_count
      ),
    )
