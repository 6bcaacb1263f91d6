"""Loss-Controlled Asymmetric Momentum (LCAM).

Implementation of
"A Simple Asymmetric Momentum Make SGD Greatest Again", Algorithm 1,
by Gongyue Zhang, Dinghuang Zhang, Shuwen Zhao, Donghan Liu, Carrie M. Toptan
and Honghai Liu, 2023.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_lcam import _loss_controlled
from optax_lcam import _validation


class LcamState(NamedTuple):
  """State of :func:`lcam`: the trace, and 32 bytes beside it.

  The fields of :class:`LossControlledState`, its ``number`` by the name of
  ``momentum``, and the trace.
  """

  loss_sum: jax.Array  # shape=(), dtype=float32: S, rounded to float32.
  loss_residual: jax.Array  # shape=(), dtype=float32: S - loss_sum.
  loss_count: jax.Array  # shape=(), dtype=int32: n, the losses in S.
  step_count: jax.Array  # shape=(), dtype=int32: steps of the epoch so far.
  momentum: jax.Array  # shape=(), dtype=float32: beta of the next step.
  phase: jax.Array  # shape=(), dtype=int32: a Phase.
  last_epoch_sum: jax.Array  # shape=(), dtype=float32: S at the last end.
  last_epoch_count: jax.Array  # shape=(), dtype=int32: n at the last end.
  trace: optax.Updates  # the parameters' structure and shapes.


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

  The loss of the batch, a scalar of any real dtype, is passed to ``update`` as
  ``value`` and rounded to float32. The comparison is exact: the choices are
  those of float64 arithmetic on the rounded losses, without
  ``jax_enable_x64``. (A loss nearer to zero than :math:`2^{-100}` counts as
  zero.) It needs IEEE arithmetic, as XLA keeps it by default: with
  ``--xla_cpu_enable_fast_math=true`` more than half of the ties come out wrong.

  Where no epoch exists, as in a stream or with a language model,
  ``loss_decay`` :math:`= d` compares the loss with the bias-corrected moving
  average of all losses so far instead of :math:`S/n`,

  .. math::

    m_t = d\, m_{t-1} + (1 - d) L_t, \quad \hat{m}_t = m_t / (1 - d^t),

  which gives a loss :math:`1/(1-d)` steps ago about a third of the newest's
  weight. Ties are exact here too; the average is held to about six digits.

  A loss that is NaN or infinite (or so large that the epoch's sum, or the
  distance from the moving average, overflows float32) changes neither the mean
  nor the momentum. Its step still counts towards the end of the epoch.

  The rule is that of :func:`loss_controlled`, by which any other number of an
  optimizer can follow the loss.

  Args:
    horizontal_momentum: The momentum after a loss at or below the mean, in
      [0, 1). May be traced.
    vertical_momentum: The momentum after a loss above the mean, in [0, 1). May
      be below or above ``horizontal_momentum``. May be traced.
    steps_per_epoch: Calls of ``update`` after which the mean starts afresh,
      from 1 to 16,777,216. The default is 50,000 images in batches of 128, and
      counts where ``loss_decay`` is not given. May be traced. ``None``: never;
      needs ``loss_decay``.
    initial_momentum: The momentum of the first step, before any loss is known,
      in [0, 1). May be traced. The first trace is zero, so that it matters with
      ``nesterov`` only, or where the first loss is not finite.
    inclusive: Whether a loss equal to the mean is horizontal: ``True`` is
      Algorithm 1's :math:`\le`, ``False`` the :math:`<` of the authors'
      program. They differ at the first step of each epoch at least.
    nesterov: Whether to return :math:`g_t + \beta_t v_t`, PyTorch's form of
      Nesterov's momentum.
    reaction: Which step the momentum chosen from a loss acts on: ``'next'``,
      the one after it, as Algorithm 1 trains first and chooses afterwards; or
      ``'current'``, the step that the loss belongs to, :math:`v_t =
      \beta_{t+1} v_{t-1} + g_t` above, as the text of section 4 may be read.
    loss_decay: :math:`d`, by which a loss loses weight with each step, in
      (0, 1). Given alone, there are no epochs; beside it ``steps_per_epoch``
      must be ``None``, its default or traced, as
      :func:`optax.inject_hyperparams` makes it, and is not used. May be traced.
    accumulator_dtype: Floating-point dtype of the trace. ``None``: that of the
      parameters. The trace of a complex parameter is complex in any case.
    batch_axis_name: Name of a mapped axis (``jax.pmap``, ``jax.shard_map``,
      ``jax.vmap``) to average the loss over, so that all replicas choose
      alike. Not needed where the loss is a global mean already, as under
      ``jax.jit`` with sharded arrays.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs` whose state is an
    :class:`LcamState` and whose updates have the gradients' dtypes.

  Raises:
    ValueError: An argument is out of its range, or both ``steps_per_epoch`` and
      ``loss_decay`` are given, or neither. Traced values are not checked.
    ValueError: From ``update``: ``value`` is missing, ``None``, masked, not a
      scalar or beyond float64.
    TypeError: From ``update``: ``value`` is not a real number.

  .. note::
    Wrappers that do not hand ``value`` on cannot hold this transformation. Each
    raises. :func:`optax.lookahead`, :func:`optax.contrib.sam` and
    :func:`optax.contrib.split_real_and_imaginary` (complex parameters need
    none) do not know the keyword: a TypeError. Inside of :func:`optax.chain`,
    which asks a transformation whether it takes keywords, the first and the
    third drop it, as ``optax.MultiSteps(...).gradient_transformation()`` does:
    the ValueError above. For gradient accumulation see :func:`multi_steps`.

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
    <https://arxiv.org/abs/2309.02130>`_, 2023: section 4, and Algorithm 1 in
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
      # No float can hold the trace of a complex parameter.
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
    # A parameter without a gradient keeps its trace.
    new_trace = _map_gradients(
      lambda _, t, old: t.astype(old.dtype),
      updates,
      trace,
      state.trace,
      otherwise=lambda t, old: old,
    )
    return new_updates, LcamState(*after, trace=new_trace)

  def in_full_precision(momentum: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The momentum in the (real) dtype of a trace."""
    real = jnp.finfo(dtype).dtype
    if jnp.finfo(real).nmant <= jnp.finfo(jnp.float32).nmant:
      return momentum.astype(real)
    # float32 holds 0.9 to 7 digits. A wider trace takes the digits from the
    # argument that the momentum was chosen from.
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
  """``jax.tree.map``; ``otherwise(*rest)`` where a gradient is ``None``."""
  return jax.tree.map(
    lambda g, *others: otherwise(*others) if g is None else fn(g, *others),
    updates,
    *rest,
    is_leaf=lambda g: g is None,
  )
