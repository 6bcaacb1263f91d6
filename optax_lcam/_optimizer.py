"""Stochastic gradient descent with loss-controlled asymmetric momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import optax

from optax_lcam import _lcam
from optax_lcam import _validation


def lcam_sgd(
  learning_rate: optax.ScalarOrSchedule,
  horizontal_momentum: jax.typing.ArrayLike = 0.93,
  vertical_momentum: jax.typing.ArrayLike = 0.9,
  *,
  weight_decay: jax.typing.ArrayLike = 0.0,
  weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
  steps_per_epoch: jax.typing.ArrayLike | None = _validation.STEPS_PER_EPOCH,
  initial_momentum: jax.typing.ArrayLike = 0.9,
  inclusive: bool = True,
  nesterov: bool = False,
  reaction: Literal['next', 'current'] = 'next',
  loss_decay: jax.typing.ArrayLike | None = None,
  accumulator_dtype: Any | None = None,
  batch_axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""SGD with loss-controlled asymmetric momentum (LCAM).

  This is the chain of :func:`optax.add_decayed_weights`, :func:`lcam` and
  :func:`optax.scale_by_learning_rate`. With parameters :math:`\omega`, learning
  rate :math:`\eta` and weight decay :math:`\lambda`,

  .. math::

    v_t &= \beta_t v_{t-1} + \nabla L_t(\omega_t) + \lambda \omega_t \\
    \omega_{t+1} &= \omega_t - \eta_t v_t

  where :func:`lcam` defines :math:`\beta_t`. Weight decay is coupled (L2
  regularization), as in equation (3) of the paper and in PyTorch's ``SGD``. The
  paper trains with ``learning_rate=0.1``, ``weight_decay=5e-4`` and batches of
  128.

  Every hyperparameter is a separate argument, so that
  :func:`optax.inject_hyperparams` can change or schedule it, including the two
  momenta. It casts them to the parameters' dtype: with half-precision
  parameters, pass it ``hyperparam_dtype=jnp.float32``.

  Args:
    learning_rate: A float or a schedule of the step. The schedule of the paper
      is ``optax.exponential_decay(0.1, 391, 0.99985**391, 30 * 391)``, which
      decays per epoch because float32 represents that factor better.
    horizontal_momentum: The momentum after a loss at or below the mean loss of
      the epoch, in [0, 1).
    vertical_momentum: The momentum after a loss above the mean, in [0, 1).
    weight_decay: Factor of the parameters to add to the gradients, at least 0.
    weight_decay_mask: As in :func:`optax.add_decayed_weights`: a tree of bools
      with the parameters' structure (or a prefix of it), or a function from
      parameters to such a tree. Weight decay applies where it is true. ``None``
      applies it everywhere.
    steps_per_epoch: See :func:`lcam`.
    initial_momentum: See :func:`lcam`.
    inclusive: See :func:`lcam`.
    nesterov: See :func:`lcam`.
    reaction: See :func:`lcam`.
    loss_decay: See :func:`lcam`.
    accumulator_dtype: See :func:`lcam`.
    batch_axis_name: See :func:`lcam`.

  Returns:
    A :class:`optax.GradientTransformationExtraArgs`. Its ``update`` requires
    ``value=loss``, and the parameters if ``weight_decay`` is not 0.

  Raises:
    ValueError: If ``weight_decay`` is negative or not finite, or as for
      :func:`lcam`.
    TypeError: From ``update``, as for :func:`lcam`.

  Examples:
    >>> import jax, jax.numpy as jnp, optax, optax_lcam
    >>> optimizer = optax_lcam.lcam_sgd(
    ...     learning_rate=0.3, weight_decay=5e-4, steps_per_epoch=5)
    >>> def loss_fn(params): return jnp.sum(params**2)
    >>> params = jnp.array([1., 2., 3.])
    >>> state = optimizer.init(params)
    >>> for _ in range(4):
    ...   loss, grads = jax.value_and_grad(loss_fn)(params)
    ...   updates, state = optimizer.update(grads, state, params, value=loss)
    ...   params = optax.apply_updates(params, updates)
    ...   phase = optax_lcam.Phase(int(optax_lcam.read(state).phase))
    ...   print(f'{loss:6.3f} {phase.name}')
    14.000 HORIZONTAL
     2.238 HORIZONTAL
     2.221 HORIZONTAL
    11.377 VERTICAL

  References:
    Zhang et al., `A Simple Asymmetric Momentum Make SGD Greatest Again
    <https://arxiv.org/abs/2309.02130v1>`_, 2023: equations (1) to (4),
    Algorithm 1.
  """
  _validation.check_weight_decay(weight_decay)
  # The state has the same structure with and without weight decay, so that
  # `optax.inject_hyperparams`, which traces it, makes the same state.
  no_decay = (
    weight_decay_mask is None
    and isinstance(weight_decay, (int, float))
    and weight_decay == 0
  )
  return optax.chain(
    optax.identity()
    if no_decay
    else optax.add_decayed_weights(weight_decay, weight_decay_mask),
    _lcam.lcam(
      horizontal_momentum,
      vertical_momentum,
      steps_per_epoch=steps_per_epoch,
      initial_momentum=initial_momentum,
      inclusive=inclusive,
      nesterov=nesterov,
      reaction=reaction,
      loss_decay=loss_decay,
      accumulator_dtype=accumulator_dtype,
      batch_axis_name=batch_axis_name,
    ),
    optax.scale_by_learning_rate(learning_rate),
  )
