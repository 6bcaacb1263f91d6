"""Loss-Controlled Asymmetric Momentum (LCAM).

Implementation of
"A Simple Asymmetric Momentum Make SGD Greatest Again", Algorithm 1,
by Gongyue Zhang, Dinghuang Zhang, Shuwen Zhao, Donghan Liu, Carrie M. Toptan
and Honghai Liu, 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_lcam import _loss_controlled
from optax_lcam import _validation


class LcamState(NamedTuple):
  """State of :func:`lcam`: the trace and 32 bytes.

  The fields are those of :class:`LossControlledState`, with ``number`` called
  ``momentum``, and the trace.
  """

  loss_sum: jax.Array  # shape=(), dtype=float32: S, rounded to float32.
  loss_residual: jax.Array  # shape=(), dtype=float32: S - loss_sum.
  loss_count: jax.Array  # shape=(), dtype=int32: n, the losses in S.
  step_count: jax.Array  # shape=(), dtype=int32: steps of the epoch so far.
  momentum: jax.Array  # shape=(), dtype=float32: beta of the next step.
  phase: jax.Array  # shape=(), dtype=int32: a Phase.
  last_epoch_sum: jax.Array  # shape=(), dtype=float32: S of the last epoch.
  last_epoch_count: jax.Array  # shape=(), dtype=int32: n of the last epoch.
  trace: optax.Updates  # structure and shapes of the parameters.


def lcam(
  horizontal_momentum: jax.typing.ArrayLike = 0.93,
  vertical_momentum: jax.typing.ArrayLike = 0.9,
  *,
  steps_per_epoch: jax.typing.ArrayLike | None = _validation.STEPS_PER_EPOCH,
  initial_momentum: jax.typing.ArrayLike = 0.9,
  inclusive: bool = True,
  nesterov: bool = False,
  reaction: Literal['next', 'current'] = 'next',
  loss_decay: jax.typing.ArrayLike | None = None,
  accumulator_dtype: Any | None = None,
  batch_axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Momentum that switches between two values, controlled by the loss.

  It replaces :func:`optax.trace`. Each batch loss is compared with the mean
  loss of the current epoch. After a loss at or below the mean ("horizontal
  phase") the next step uses one momentum, after a loss above it ("vertical
  phase") the other. With the batch loss :math:`L_t`, the gradient :math:`g_t`,
  the trace :math:`v_t`, and the sum :math:`S` and number :math:`n` of the
  losses of the current epoch,

  .. math::

    v_t &= \beta_t v_{t-1} + g_t \\
    S &\leftarrow S + L_t, \quad n \leftarrow n + 1 \\
    \beta_{t+1} &= \beta_\mathrm{horizontal} \ \text{if } L_t \le S / n,
      \ \text{else } \beta_\mathrm{vertical}

  The update is :math:`v_t`. The learning rate is applied outside the trace, as
  in :func:`optax.sgd` and PyTorch's ``SGD``. After ``steps_per_epoch`` steps
  :math:`S` and :math:`n` are reset to zero, while :math:`\beta` and :math:`v`
  carry over.

  The batch loss, a scalar of any real dtype, is passed to ``update`` as
  ``value`` and rounded to float32. The comparison is exact: the choices equal
  those of float64 arithmetic on the rounded losses, without
  ``jax_enable_x64``. (A loss whose magnitude is below :math:`2^{-100}` is
  treated as zero.) This requires IEEE arithmetic, which is XLA's default; with
  ``--xla_cpu_enable_fast_math=true`` more than half of the ties are misjudged.

  For training without epochs, such as a data stream or a language model,
  ``loss_decay`` :math:`= d` replaces :math:`S/n` by the bias-corrected moving
  average of all losses so far,

  .. math::

    m_t = d\, m_{t-1} + (1 - d) L_t, \quad \hat{m}_t = m_t / (1 - d^t),

  in which a loss :math:`1/(1-d)` steps ago has about a third of the weight of
  the newest one. Ties are exact in this case too; the average has about six
  significant digits.

  A loss that is NaN or infinite (or so large that the epoch's sum, or the
  difference from the moving average, overflows float32) changes neither the
  mean nor the momentum. Its step still counts towards the end of the epoch.

  The rule is that of :func:`loss_controlled`, which applies it to any other
  hyperparameter.

  Args:
    horizontal_momentum: The momentum after a loss at or below the mean, in
      [0, 1). May be traced.
    vertical_momentum: The momentum after a loss above the mean, in [0, 1). May
      be smaller or larger than ``horizontal_momentum``. May be traced.
    steps_per_epoch: Number of calls of ``update`` after which the mean is
      reset, from 1 to 16,777,216. The default is for 50,000 images in batches
      of 128, and applies only if ``loss_decay`` is not given. May be traced.
      ``None`` requires ``loss_decay``.
    initial_momentum: The momentum of the first step, before any loss is known,
      in [0, 1). May be traced. The first trace is zero, so this matters only
      with ``nesterov`` or if the first loss is not finite.
    inclusive: Whether a loss equal to the mean is horizontal. ``True`` is the
      :math:`\le` of Algorithm 1, ``False`` the :math:`<` of the authors'
      program. The two differ at least at the first step of every epoch.
    nesterov: Whether to return :math:`g_t + \beta_t v_t`, Nesterov momentum as
      PyTorch defines it.
    reaction: The step on which a loss acts: ``'next'``, the following step,
      since Algorithm 1 trains first and selects the momentum afterwards; or
      ``'current'``, the step that the loss belongs to, which replaces
      :math:`\beta_t` above by :math:`\beta_{t+1}` (another reading of section
      4).
    loss_decay: The decay :math:`d` of the moving average, in (0, 1). If given,
      there are no epochs, ``steps_per_epoch`` is not used, and it must be
      ``None``, its default, or traced as by :func:`optax.inject_hyperparams`.
      May be traced.
    accumulator_dtype: Floating-point dtype of the trace. ``None`` uses the
      dtype of the parameters. The trace of a complex parameter is always
      complex.
    batch_axis_name: Name of a mapped axis (``jax.pmap``, ``jax.shard_map``,
      ``jax.vmap``) over which the loss is averaged, so that all replicas make
      the same choice. Not needed if the loss is already a global mean, as under
      ``jax.jit`` with sharded arrays.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs` whose state is an
    :class:`LcamState` and whose updates have the gradients' dtypes.

  Raises:
    ValueError: If an argument is out of range, or if not exactly one of
      ``steps_per_epoch`` and ``loss_decay`` is given. Traced values are not
      checked.
    ValueError: From ``update``, if ``value`` is missing, ``None``, masked, not
      a scalar or outside the range of float64.
    TypeError: From ``update``, if ``value`` is not a real number.

  .. note::
    Wrappers that do not forward ``value`` cannot contain this transformation,
    and every one of them raises an error. :func:`optax.lookahead`,
    :func:`optax.contrib.sam` and
    :func:`optax.contrib.split_real_and_imaginary` (not needed for complex
    parameters) do not accept the keyword and raise a TypeError. Inside
    :func:`optax.chain` or :func:`optax.with_extra_args_support`, which drop
    keywords that a transformation does not accept, the first and the third
    raise the ValueError above, and so does
    ``optax.MultiSteps(...).gradient_transformation()``. For gradient
    accumulation use :func:`multi_steps`.

  Examples:
    >>> import jax, jax.numpy as jnp, optax, optax_lcam
    >>> optimizer = optax.chain(
    ...     optax.add_decayed_weights(5e-4),
    ...     optax_lcam.lcam(steps_per_epoch=5),
    ...     optax.scale_by_learning_rate(0.3),
    ... )
    >>> def loss_fn(params): return jnp.sum(params**2)
    >>> params = jnp.array([1., 2., 3.])
    >>> state = optimizer.init(params)
    >>> for _ in range(4):
    ...   loss, grads = jax.value_and_grad(loss_fn)(params)
    ...   updates, state = optimizer.update(grads, state, params, value=loss)
    ...   params = optax.apply_updates(params, updates)
    ...   now = optax_lcam.read(state)
    ...   print(f'loss {loss:6.3f}, mean {now.mean_loss:6.3f},'
    ...         f' next momentum {now.momentum:.2f}')
    loss 14.000, mean 14.000, next momentum 0.93
    loss  2.238, mean  8.119, next momentum 0.93
    loss  2.221, mean  6.153, next momentum 0.93
    loss 11.377, mean  7.459, next momentum 0.90

  References:
    Zhang et al., `A Simple Asymmetric Momentum Make SGD Greatest Again
    <https://arxiv.org/abs/2309.02130v1>`_, 2023: section 4, and Algorithm 1 in
    section 4.3.
  """
  _validation.check_momentum('horizontal_momentum', horizontal_momentum)
  _validation.check_momentum('vertical_momentum', vertical_momentum)
  _validation.check_momentum('initial_momentum', initial_momentum)
  _validation.check_flag('nesterov', nesterov)
  _validation.check_accumulator_dtype(accumulator_dtype)
  if accumulator_dtype is not None:
    accumulator_dtype = jax.dtypes.canonicalize_dtype(accumulator_dtype)
  rule = _loss_controlled.LossControlled(
    horizontal_momentum,
    vertical_momentum,
    initial=initial_momentum,
    steps_per_epoch=steps_per_epoch,
    inclusive=inclusive,
    reaction=reaction,
    loss_decay=loss_decay,
    batch_axis_name=batch_axis_name,
  )

  def init_fn(params: optax.Params) -> LcamState:
    return LcamState(*rule.init(), trace=jax.tree.map(zero_trace, params))

  def zero_trace(param: Any) -> jax.Array:
    dtype = jnp.result_type(param)
    if accumulator_dtype is not None:
      is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
      # A real accumulator cannot store the trace of a complex parameter.
      dtype = jnp.promote_types(
        accumulator_dtype, jnp.complex64 if is_complex else accumulator_dtype
      )
    return jnp.zeros_like(param, dtype=dtype)

  def update_fn(
    updates: optax.Updates,
    state: LcamState,
    params: optax.Params | None = None,
    *,
    value: jax.typing.ArrayLike | None = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, LcamState]:
    del params, extra_args
    before = _loss_controlled.LossControlledState(*state[:-1])
    after = rule.update(before, value=value)
    momentum = (before if reaction == 'next' else after).number

    def decayed_sum(g: jax.Array, t: jax.Array) -> jax.Array:
      return g + in_full_precision(momentum, t.dtype) * t

    trace = _map_gradients(decayed_sum, updates, state.trace)
    new_updates = trace
    if nesterov:
      new_updates = _map_gradients(decayed_sum, updates, trace)
    new_updates = _map_gradients(
      lambda g, u: u.astype(jnp.result_type(g)), updates, new_updates
    )
    # The trace of a parameter without a gradient does not change.
    new_trace = _map_gradients(
      lambda _, t, old: t.astype(old.dtype),
      updates,
      trace,
      state.trace,
      otherwise=lambda t, old: old,
    )
    return new_updates, LcamState(*after, trace=new_trace)

  def in_full_precision(momentum: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the momentum in the (real) dtype of a trace."""
    real = jnp.finfo(dtype).dtype
    if jnp.finfo(real).nmant <= jnp.finfo(jnp.float32).nmant:
      return momentum.astype(real)
    # float32 represents 0.9 to 7 digits. For a wider trace, use the argument
    # that the momentum was chosen from.
    precise = momentum.astype(real)
    for given in (initial_momentum, vertical_momentum, horizontal_momentum):
      chosen = momentum == jnp.asarray(given, jnp.float32)
      precise = jnp.where(chosen, jnp.asarray(given, real), precise)
    return precise

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _map_gradients(
  fn: Callable[..., Any],
  updates: optax.Updates,
  *rest: Any,
  otherwise: Callable[..., Any] = lambda *_: None,
) -> Any:
  """Like ``jax.tree.map``, with ``otherwise(*rest)`` for ``None`` gradients."""
  return jax.tree.map(
    lambda g, *others: otherwise(*others) if g is None else fn(g, *others),
    updates,
    *rest,
    is_leaf=lambda g: g is None,
  )
