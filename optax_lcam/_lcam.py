"""Loss-Controlled Asymmetric Momentum (LCAM).

Implementation of
"A Simple Asymmetric Momentum Make SGD Greatest Again", Algorithm 1,
by Gongyue Zhang, Dinghuang Zhang, Shuwen Zhao, Donghan Liu, Carrie M. Toptan
and Honghai Liu, 2023.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_lcam import _exact_mean
from optax_lcam import _validation


class LcamState(NamedTuple):
  """State of :func:`lcam`: the trace, and 20 bytes beside it.

  The first four fields describe the current epoch and go back to zero at its
  end; ``momentum`` and ``trace`` carry over.
  """

  loss_sum: jax.Array  # shape=(), dtype=float32: S, rounded to float32.
  loss_residual: jax.Array  # shape=(), dtype=float32: S - loss_sum.
  loss_count: jax.Array  # shape=(), dtype=int32: n, the losses in S.
  step_count: jax.Array  # shape=(), dtype=int32: steps of the epoch so far.
  momentum: jax.Array  # shape=(), dtype=float32: beta of the next step.
  trace: optax.Updates  # the parameters' structure and shapes.


def lcam(
  horizontal_momentum: jax.typing.ArrayLike = 0.93,
  vertical_momentum: jax.typing.ArrayLike = 0.9,
  *,
  steps_per_epoch: jax.typing.ArrayLike = 391,
  initial_momentum: jax.typing.ArrayLike = 0.9,
  inclusive: bool = True,
  nesterov: bool = False,
  accumulator_dtype: Any | None = None,
  batch_axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Momentum that switches between two values, controlled by the loss.

  It stands where :func:`optax.trace` would. Each step's loss is compared with
  the mean loss of the epoch so far; a loss at or below the mean ("horizontal
  phase") gives the next step one momentum, a loss above it ("vertical phase")
  the other. With batch loss :math:`L_t`, gradient :math:`g_t`, trace
  :math:`v_t`, and :math:`S` and :math:`n` the sum and the number of the losses
  of the current epoch,

  .. math::

    v_t &= \beta_t v_{t-1} + g_t \\
    S &\leftarrow S + L_t, \quad n \leftarrow n + 1 \\
    \beta_{t+1} &= \begin{cases}
      \beta_\mathrm{horizontal} & \text{if } L_t \le S / n \\
      \beta_\mathrm{vertical} & \text{otherwise.}
    \end{cases}

  The update is :math:`v_t`; the learning rate stays outside of the trace, as
  in :func:`optax.sgd` and PyTorch's ``SGD``. After ``steps_per_epoch`` steps
  :math:`S` and :math:`n` go back to zero, while :math:`\beta` and :math:`v`
  carry over.

  The loss of the batch is passed to ``update`` as ``value``. The comparison is
  exact: the choices are those of float64 arithmetic on the float32 losses, on
  any device and without ``jax_enable_x64``. (A loss nearer to zero than
  :math:`2^{-100}` counts as zero.)

  A loss that is NaN or infinite (or so large that the epoch's sum overflows
  float32) changes neither the mean nor the momentum. Its step still counts
  towards the end of the epoch.

  Args:
    horizontal_momentum: The momentum after a loss at or below the mean, in
      [0, 1). May be traced.
    vertical_momentum: The momentum after a loss above the mean, in [0, 1). May
      be below or above ``horizontal_momentum``. May be traced.
    steps_per_epoch: Calls of ``update`` after which the mean starts afresh,
      from 1 to 16,777,216. The default is 50,000 images in batches of 128. May
      be traced.
    initial_momentum: The momentum of the first step, before any loss is known,
      in [0, 1). May be traced.
    inclusive: Whether a loss equal to the mean is horizontal: ``True`` is
      Algorithm 1's :math:`\le`, ``False`` the :math:`<` of the authors'
      program. They differ at the first step of each epoch at least.
    nesterov: Whether to return :math:`g_t + \beta_t v_t`, PyTorch's form of
      Nesterov's momentum.
    accumulator_dtype: dtype of the trace. ``None``: that of the parameters.
    batch_axis_name: Name of a mapped axis (``jax.pmap``, ``jax.shard_map``,
      ``jax.vmap``) to average the loss over, so that all replicas choose
      alike. Not needed where the loss is a global mean already, as under
      ``jax.jit`` with sharded arrays.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs` whose state is an
    :class:`LcamState` and whose updates have the gradients' dtypes.

  Raises:
    ValueError: A momentum is outside [0, 1), or ``steps_per_epoch`` is not a
      whole number in its range. Traced values are not checked.
    ValueError: From ``update``: ``value`` is missing, ``None`` or not a scalar.
    TypeError: From ``update``: ``value`` is not a real number.

  Examples:
    >>> import jax, jax.numpy as jnp, optax, optax_lcam
    >>> optimizer = optax.chain(
    ...     optax.add_decayed_weights(5e-4),
    ...     optax_lcam.lcam(steps_per_epoch=4),
    ...     optax.scale_by_learning_rate(0.1),
    ... )
    >>> def loss_fn(params): return jnp.sum(params**2)
    >>> params = jnp.array([1., 2., 3.])
    >>> state = optimizer.init(params)
    >>> for _ in range(4):
    ...   loss, grads = jax.value_and_grad(loss_fn)(params)
    ...   updates, state = optimizer.update(grads, state, params, value=loss)
    ...   params = optax.apply_updates(params, updates)
    ...   print(f'loss {loss:6.3f}, next momentum {state[1].momentum:.2f}')
    loss 14.000, next momentum 0.93
    loss  8.959, next momentum 0.93
    loss  2.884, next momentum 0.93
    loss  0.024, next momentum 0.93

  References:
    Zhang et al., `A Simple Asymmetric Momentum Make SGD Greatest Again
    <https://arxiv.org/abs/2309.02130>`_, 2023: section 4, Algorithm 1.
  """
  _validation.check_momentum('horizontal_momentum', horizontal_momentum)
  _validation.check_momentum('vertical_momentum', vertical_momentum)
  _validation.check_momentum('initial_momentum', initial_momentum)
  _validation.check_steps_per_epoch(steps_per_epoch)
  if accumulator_dtype is not None:
    accumulator_dtype = jax.dtypes.canonicalize_dtype(accumulator_dtype)

  def init_fn(params: optax.Params) -> LcamState:
    return LcamState(
      loss_sum=jnp.zeros([], jnp.float32),
      loss_residual=jnp.zeros([], jnp.float32),
      loss_count=jnp.zeros([], jnp.int32),
      step_count=jnp.zeros([], jnp.int32),
      momentum=jnp.asarray(initial_momentum, jnp.float32),
      trace=optax.tree.zeros_like(params, dtype=accumulator_dtype),
    )

  def update_fn(
    updates: optax.Updates,
    state: LcamState,
    params: optax.Params | None = None,
    *,
    value: jax.typing.ArrayLike | None = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, LcamState]:
    del params, extra_args
    loss = _validation.as_loss(value)
    if batch_axis_name is not None:
      loss = jax.lax.pmean(loss, batch_axis_name)

    def decayed_sum(g: jax.Array, t: jax.Array) -> jax.Array:
      return g + momentum_of_this_step(t.dtype) * t

    def momentum_of_this_step(dtype: jnp.dtype) -> jax.Array:
      # float32 holds 0.9 to 7 digits. A wider trace takes the digits from the
      # argument that the state's momentum was chosen from.
      real = jnp.finfo(dtype).dtype
      if jnp.finfo(real).nmant <= jnp.finfo(jnp.float32).nmant:
        return state.momentum.astype(real)
      momentum = state.momentum.astype(real)
      for given in (initial_momentum, vertical_momentum, horizontal_momentum):
        chosen = state.momentum == jnp.asarray(given, jnp.float32)
        momentum = jnp.where(chosen, jnp.asarray(given, real), momentum)
      return momentum

    trace = _map_gradients(decayed_sum, updates, state.trace)
    new_updates = trace
    if nesterov:
      new_updates = _map_gradients(decayed_sum, updates, trace)

    new_state = LcamState(
      **_observe_loss(loss, state),
      trace=_map_gradients(
        lambda t, old: t.astype(old.dtype), trace, state.trace
      ),
    )
    new_updates = _map_gradients(
      lambda u, g: u.astype(jnp.result_type(g)), new_updates, updates
    )
    return new_updates, new_state

  def _observe_loss(loss: jax.Array, state: LcamState) -> dict[str, jax.Array]:
    """Adds the loss to the epoch's mean and chooses the next momentum."""
    loss = jnp.where(jnp.abs(loss) < _exact_mean.SMALLEST, 0.0, loss)
    loss_sum, loss_residual = _exact_mean.add(
      state.loss_sum, state.loss_residual, loss
    )
    loss_count = state.loss_count + 1
    above_mean = _exact_mean.times_minus_sum(
      loss_count, loss, loss_sum, loss_residual
    )
    usable = jnp.isfinite(above_mean)
    horizontal = above_mean <= 0 if inclusive else above_mean < 0
    momentum = jnp.where(
      horizontal,
      jnp.asarray(horizontal_momentum, jnp.float32),
      jnp.asarray(vertical_momentum, jnp.float32),
    )

    step_count = state.step_count + 1
    epoch_ends = step_count >= steps_per_epoch

    def within_epoch(new: jax.Array, old: jax.Array) -> jax.Array:
      kept = jnp.where(usable, new, old)
      return jnp.where(epoch_ends, jnp.zeros_like(kept), kept)

    return {
      'loss_sum': within_epoch(loss_sum, state.loss_sum),
      'loss_residual': within_epoch(loss_residual, state.loss_residual),
      'loss_count': within_epoch(loss_count, state.loss_count),
      'step_count': jnp.where(epoch_ends, 0, step_count),
      'momentum': jnp.where(usable, momentum, state.momentum),
    }

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _map_gradients(
  fn: Callable[..., Any], updates: optax.Updates, *rest: Any
) -> Any:
  """``jax.tree.map`` where a ``None`` in place of a gradient stays ``None``."""
  return jax.tree.map(
    lambda g, *others: None if g is None else fn(g, *others),
    updates,
    *rest,
    is_leaf=lambda g: g is None,
  )
