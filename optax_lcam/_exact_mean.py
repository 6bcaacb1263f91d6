"""Running means in float32, and exact comparisons with them.

LCAM compares each loss with a mean that includes it, and ties are common when
losses repeat. Dividing a float32 sum by a count misjudges about half of the
ties, and float64 is not available on every device. This module therefore keeps
the sum as an unevaluated sum of two float32 numbers (about 48 significant bits)
and compares without a division, by the sign of ``count * x - sum`` with the
product split into exact parts.

The building block is Knuth's TwoSum (The Art of Computer Programming, vol. 2,
section 4.2.2, theorem B). It requires that every addition is rounded
separately, which XLA guarantees unless its fast-math flags are set.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

# Counts up to here are exact in float32, and split into two 12-bit halves.
MAX_COUNT = 2**24

# Below this the rounding errors of a sum become subnormal numbers, which XLA
# flushes to zero on most devices.
SMALLEST = 2.0**-100

# From here on the product with a count can overflow, so numbers are scaled
# before they are compared. Scaling by a power of two is exact.
LARGE = 2.0**100
SCALE = 2.0**-26


class Mean(NamedTuple):
  """The sum of a sequence of numbers, and their count.

  With :func:`push`, ``total + residual`` is the sum. With :func:`push_moving`
  it is the moving average itself, a sum whose weights add up to 1.
  """

  total: jax.Array  # shape=(), dtype=float32: the sum, rounded to float32.
  residual: jax.Array  # shape=(), dtype=float32: rounding error of total.
  n: jax.Array  # shape=(), dtype=int32: how many numbers.


def push(mean: Mean, x: jax.Array) -> tuple[Mean, jax.Array]:
  """Adds a number to a mean and compares it with the new mean.

  Args:
    mean: The mean of the numbers so far, fewer than ``MAX_COUNT``.
    x: shape=(), dtype=float32. Treated as zero if its magnitude is below
      ``SMALLEST``.

  Returns:
    The new mean, and the excess of ``x`` over it up to a positive factor:
    shape=(), dtype=float32, with the correct sign and zero for a tie. The
    excess is not finite if ``x`` or the sum is not finite; the new mean is then
    meaningless.
  """
  x = _without_subnormals(x)
  count = optax.safe_increment(mean.n)
  total, residual = add(mean.total, mean.residual, x)
  excess = times_minus_sum(count, x, total, residual)
  return Mean(total, residual, count), excess


def push_moving(
  mean: Mean, x: jax.Array, decay: jax.typing.ArrayLike
) -> tuple[Mean, jax.Array]:
  """Like :func:`push`, for an exponential moving average.

  Args:
    mean: The moving average of the numbers so far.
    x: shape=(), dtype=float32.
    decay: Factor on the weights of earlier numbers, in (0, 1).

  Returns:
    As :func:`push`.
  """
  x = _without_subnormals(x)
  count = optax.safe_increment(mean.n)
  total, residual = move(
    mean.total, mean.residual, x, newest_weight(count, decay)
  )
  return Mean(total, residual, count), minus(x, total, residual)


def value(mean: Mean, is_moving: jax.typing.ArrayLike) -> jax.Array:
  """The value of a mean.

  Args:
    mean: From :func:`push` or :func:`push_moving`.
    is_moving: bool. Whether it is from :func:`push_moving`.

  Returns:
    shape=(), dtype=float32. NaN for the mean of no numbers.
  """
  divisor = jnp.where(is_moving, jnp.minimum(mean.n, 1), mean.n)
  return mean.total / divisor.astype(jnp.float32)


def add(
  total: jax.Array, residual: jax.Array, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Adds ``x`` to the sum ``total + residual``.

  Args:
    total: shape=(), dtype=float32.
    residual: shape=(), dtype=float32. The rounding error of ``total``.
    x: shape=(), dtype=float32.

  Returns:
    The new ``(total, residual)``, where ``total`` is the sum rounded to
    float32.
  """
  high, low = _two_sum(total, x)
  return _two_sum(high, residual + low)


def times_minus_sum(
  count: jax.Array, x: jax.Array, total: jax.Array, residual: jax.Array
) -> jax.Array:
  """``count * x - (total + residual)``, with the correct sign.

  Args:
    count: shape=(), dtype=int32. From 0 to ``MAX_COUNT``.
    x: shape=(), dtype=float32.
    total: shape=(), dtype=float32.
    residual: shape=(), dtype=float32.

  Returns:
    shape=(), dtype=float32. Negative if ``x`` is below the mean of ``count``
    numbers with this sum, zero if it is equal and positive if it is above;
    scaled down where float32 would overflow; not finite if ``x`` or ``total``
    is not.
  """
  is_large = jnp.maximum(jnp.abs(x), jnp.abs(total)) >= LARGE
  scale = jnp.where(is_large, jnp.float32(SCALE), jnp.float32(1))
  x, total, residual = x * scale, total * scale, residual * scale
  x_high = jax.lax.bitcast_convert_type(
    jax.lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFFF000),
    jnp.float32,
  )
  x_low = x - x_high
  count_high = (count & ~0xFFF).astype(jnp.float32)
  count_low = (count & 0xFFF).astype(jnp.float32)
  # Each factor has at most 12 significant bits, so each product is exact even
  # if the compiler fuses it with the addition that follows.
  difference, error = _two_sum(count_high * x_high, -total)
  for term in (
    count_low * x_high,
    count_high * x_low,
    count_low * x_low,
    -residual,
  ):
    difference, rounding = _two_sum(difference, term)
    error = error + rounding
  return difference + error


def minus(x: jax.Array, mean: jax.Array, residual: jax.Array) -> jax.Array:
  """``x - (mean + residual)``, with the correct sign.

  Args:
    x: shape=(), dtype=float32.
    mean: shape=(), dtype=float32.
    residual: shape=(), dtype=float32. At most half a unit in the last place of
      ``mean``.

  Returns:
    shape=(), dtype=float32.
  """
  difference, error = _two_sum(x, -mean)
  return difference + (error - residual)


def move(
  mean: jax.Array, residual: jax.Array, x: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Moves the mean ``mean + residual`` towards ``x``.

  A mean equal to ``x`` does not change, and with a ``weight`` of 1 it becomes
  ``x``. Ties therefore stay ties, which rounding would break for a decayed sum
  divided by its weight.

  Args:
    mean: shape=(), dtype=float32.
    residual: shape=(), dtype=float32. The rounding error of ``mean``.
    x: shape=(), dtype=float32.
    weight: shape=(), dtype=float32. The weight of ``x``, in [0, 1].

  Returns:
    The new ``(mean, residual)``.
  """
  return add(mean, residual, minus(x, mean, residual) * weight)


def newest_weight(count: jax.Array, decay: jax.typing.ArrayLike) -> jax.Array:
  """The weight of the newest number in a bias-corrected moving average.

  Args:
    count: shape=(), dtype=int32. Numbers so far, including this one; at least
      1.
    decay: Factor on the weights of earlier numbers, in (0, 1).

  Returns:
    shape=(), dtype=float32. ``(1 - decay) / (1 - decay**count)``, exactly 1 for
    the first number.
  """
  # From 1 - decay, which float32 represents better than a decay near 1.
  rest = jnp.asarray(1 - decay, jnp.float32)
  total = -jnp.expm1(count.astype(jnp.float32) * jnp.log1p(-rest))
  return jnp.where(count == 1, 1.0, rest / total)


def _without_subnormals(x: jax.Array) -> jax.Array:
  """Flushes numbers to zero whose rounding errors would be subnormal."""
  return jnp.where(jnp.abs(x) < SMALLEST, 0.0, x)


def _two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
  """``a + b`` as a rounded sum and its exact rounding error."""
  rounded = a + b
  b_part = rounded - a
  return rounded, (a - (rounded - b_part)) + (b - b_part)
