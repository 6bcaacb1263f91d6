"""Argument checks with one-sentence messages.

Hyperparameters may be traced (by ``jax.vmap`` over momenta, or by
``optax.inject_hyperparams`` under ``jax.jit``). Only concrete values are
checked.
"""

from __future__ import annotations

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_lcam import _exact_mean

# The default: 50,000 images in batches of 128, including a short last batch.
STEPS_PER_EPOCH = 391


def check_momentum(name: str, momentum: Any) -> None:
  """Raises ValueError unless ``momentum`` is traced or in [0, 1)."""
  _check_real(
    name, momentum, lambda m: (m >= 0) & (m < 1), 'a number in [0, 1)'
  )


def check_number(name: str, number: Any) -> None:
  """Raises ValueError unless ``number`` is traced, or finite in float32."""
  _check_real(
    name,
    number,
    lambda x: (np.ndim(x) == 0) & (np.abs(x) <= np.finfo(np.float32).max),
    'a number that is finite in float32',
  )


def check_weight_decay(weight_decay: Any) -> None:
  """Raises ValueError unless it is traced, or finite and nonnegative."""
  _check_real(
    'weight_decay',
    weight_decay,
    lambda w: (w >= 0) & np.isfinite(w),
    'a finite number of at least 0',
  )


def check_averaging(steps_per_epoch: Any, loss_decay: Any) -> None:
  """Raises ValueError unless exactly one is given, and valid or traced.

  With ``loss_decay``, the default of ``steps_per_epoch`` counts as not given,
  also as an array, which ``optax.inject_hyperparams`` makes of it.
  """
  is_given = steps_per_epoch is not None
  if loss_decay is not None and is_given:
    is_given = not (
      isinstance(steps_per_epoch, jax.core.Tracer)
      or _is_default(steps_per_epoch)
    )
  if is_given == (loss_decay is not None):
    raise ValueError(
      'Exactly one of `steps_per_epoch` and `loss_decay` must be given, got'
      f' {steps_per_epoch!r} and {loss_decay!r}.'
    )
  if loss_decay is not None:
    _check_real(
      'loss_decay',
      loss_decay,
      lambda d: (d > 0) & (d < 1),
      'a number in (0, 1)',
    )
    return
  _check_real(
    'steps_per_epoch',
    steps_per_epoch,
    lambda n: (
      np.issubdtype(n.dtype, np.integer)
      & (n >= 1)
      & (n <= _exact_mean.MAX_COUNT)
    ),
    f'a whole number from 1 to {_exact_mean.MAX_COUNT:,}',
  )


def check_every_k(every_k: Any) -> None:
  """Raises ValueError unless it is an integer of at least 1."""
  is_whole = isinstance(every_k, (int, np.integer))
  if not is_whole or isinstance(every_k, bool) or every_k < 1:
    raise ValueError(
      '`every_k` must be a whole number of at least 1, or a schedule, got'
      f' {every_k!r}.'
    )


def check_flag(name: str, given: Any) -> None:
  """Raises ValueError unless it is a bool."""
  if not isinstance(given, (bool, np.bool_)):
    raise ValueError(f'`{name}` must be True or False, got {given!r}.')


def check_choice(name: str, given: Any, allowed: tuple[str, ...]) -> None:
  """Raises ValueError unless it is one of the allowed strings."""
  if given not in allowed:
    words = ' or '.join(repr(word) for word in allowed)
    raise ValueError(f'`{name}` must be {words}, got {given!r}.')


def check_accumulator_dtype(given: Any) -> None:
  """Raises ValueError unless it is None or a floating-point dtype."""
  try:
    valid = given is None or jnp.issubdtype(jnp.dtype(given), jnp.inexact)
  except TypeError:
    valid = False
  if not valid:
    raise ValueError(
      '`accumulator_dtype` must be None or a floating-point dtype, got'
      f' {given!r}.'
    )


def as_loss(value: Any) -> jax.Array:
  """Converts the argument ``value`` of ``update`` to a float32 scalar."""
  wanted = '`value` must be the loss of the batch, one real number'
  if value is None:
    raise ValueError(
      f'{wanted}, but it is missing or None. Call'
      ' `optimizer.update(grads, state, params, value=loss)`; with Flax Linen,'
      ' use `optax_lcam.flax.TrainState`.'
    )
  if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
    raise ValueError(f'{wanted}, but it is masked.')
  if not _is_real(value):
    given = getattr(value, 'dtype', type(value).__name__)
    raise TypeError(f'{wanted}, but it is of type {given}.')
  if jnp.shape(value):
    raise ValueError(
      f'{wanted}, but it has shape {jnp.shape(value)}. Take the mean over the'
      ' batch.'
    )
  try:
    return jnp.asarray(value, jnp.float32)
  except OverflowError:
    raise ValueError(
      f'{wanted}, but it is of type {type(value).__name__} and beyond float64.'
    ) from None


def _check_real(name: str, given: Any, is_allowed: Any, allowed: str) -> None:
  if isinstance(given, jax.core.Tracer):
    return
  try:
    valid = _is_real(given) and np.all(is_allowed(np.asarray(given)))
  except (TypeError, OverflowError):  # an int too large for any dtype
    valid = False
  if not valid:
    raise ValueError(f'`{name}` must be {allowed}, got {given!r}.')


def _is_default(steps_per_epoch: Any) -> bool:
  return _is_real(steps_per_epoch) and bool(
    np.all(np.asarray(steps_per_epoch) == STEPS_PER_EPOCH)
  )


def _is_real(x: Any) -> bool:
  """Whether x is a real number or an array of real numbers, not of bools."""
  if isinstance(x, (jax.Array, np.ndarray, np.generic)):
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
      return False
    if jnp.issubdtype(x.dtype, np.timedelta64):  # an integer to NumPy
      return False
    # NumPy does not consider bfloat16 and other extension types floating.
    return jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(
      x.dtype, jnp.integer
    )
  return isinstance(x, numbers.Real) and not isinstance(x, bool)
