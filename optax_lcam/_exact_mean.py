"""The mean of a sequence, and which of its numbers lie below it: exactly.

Momentum choices hang on comparing a loss with a mean that it belongs to, and
ties are the rule where losses repeat. A float32 sum divided by a count calls
about half of the ties wrong, and float64 is not at hand on every device. So
the sum is kept as the unevaluated sum of two float32 numbers (about 48
significant bits), and the comparison is made without dividing: the sign of
``count * x - sum``, with the product split into exact parts.

The building block is Knuth's TwoSum (The Art of Computer Programming, vol. 2,
section 4.2.2, theorem B). It relies on additions being rounded one by one,
which XLA keeps, but for its fast-math flags.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

# Counts up to here are exact in float32, and split into two 12-bit halves.
MAX_COUNT = 2**24

# Below this the rounding errors of a sum become subnormal numbers, which XLA
# takes for zero on most devices.
SMALLEST = 2.0**-100

# From here on the product with a count may overflow, and numbers are compared
# after scaling. A power of two, so that scaling is exact.
LARGE = 2.0**100
SCALE = 2.0**-26


class Mean(NamedTuple):
  """What is known of a sequence of numbers: a sum, and how many.

  With :func:`push` ``total + residual`` is the sum. With :func:`push_moving` it
  is the moving average itself, a sum whose weights add up to 1.
  """

  total: jax.Array  # shape=(), dtype=float32: the sum, rounded to float32.
  residual: jax.Array  # shape=(), dtype=float32: what total lacks of the sum.
  n: jax.Array  # shape=(), dtype=int32: how many numbers.


def push(mean: Mean, x: jax.Array) -> tuple[Mean, jax.Array]:
  """Adds a number to a mean, and compares it with the new mean.

  Args:
    mean: Of the numbers so far, fewer than ``MAX_COUNT``.
    x: shape=(), dtype=float32. Counts as zero if nearer to it than
      ``SMALLEST``.

  Returns:
    The new mean, and how far ``x`` lies above it in some unit: shape=(),
    dtype=float32, of the right sign and zero for a tie; not finite where ``x``
    or the sum is not, so that the new mean is useless.
  """
  x = _without_subnormals(x)
  count = optax.safe_increment(mean.n)
  total, residual = add(mean.total, mean.residual, x)
  excess = times_minus_sum(count, x, total, residual)
  return Mean(total, residual, count), excess


def push_moving(
  mean: Mean, x: jax.Array, decay: jax.typing.ArrayLike
) -> tuple[Mean, jax.Array]:
  """As :func:`push`, where a number loses weight with each later one.

  Args:
    mean: Of the numbers so far.
    x: shape=(), dtype=float32.
    decay: Factor by which numbers lose weight, in (0, 1).

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
  """A mean as a number.

  Args:
    mean: Made by :func:`push` or :func:`push_moving`.
    is_moving: bool. By which of the two.

  Returns:
    shape=(), dtype=float32. NaN for the mean of no number.
  """
  divisor = jnp.where(is_moving, jnp.minimum(mean.n, 1), mean.n)
  return mean.total / divisor.astype(jnp.float32)


def add(
  total: jax.Array, residual: jax.Array, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Adds ``x`` to the sum that ``total + residual`` stands for.

  Args:
    total: shape=(), dtype=float32.
    residual: shape=(), dtype=float32. What ``total`` lacks of the sum.
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
  """``count * x - (total + residual)``, with the right sign.

  Args:
    count: shape=(), dtype=int32. From 0 to ``MAX_COUNT``.
    x: shape=(), dtype=float32.
    total: shape=(), dtype=float32.
    residual: shape=(), dtype=float32.

  Returns:
    shape=(), dtype=float32. Negative where ``x`` is below the mean of ``count``
    numbers with this sum, zero where it is equal, positive where it is above;
    scaled down where float32 would overflow; not finite where ``x`` or
    ``total`` is not.
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
  # Each factor has at most 12 significant bits, so each product is exact, also
  # where the compiler contracts it with the addition that follows.
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
  """``x - (mean + residual)``, with the right sign.

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
  """Moves the mean that ``mean + residual`` stands for towards ``x``.

  A mean that ``x`` is equal to stays as it is, and with a ``weight`` of 1 it
  becomes ``x``: so ties stay ties, which a decayed sum divided by its weight
  would miss by a rounding.

  Args:
    mean: shape=(), dtype=float32.
    residual: shape=(), dtype=float32. What ``mean`` lacks of the mean.
    x: shape=(), dtype=float32.
    weight: shape=(), dtype=float32. Share of the way to ``x``, in [0, 1].

  Returns:
    The new ``(mean, residual)``.
  """
  return add(mean, residual, minus(x, mean, residual) * weight)


def newest_weight(count: jax.Array, decay: jax.typing.ArrayLike) -> jax.Array:
  """The newest number's weight in a bias-corrected moving average.

  Args:
    count: shape=(), dtype=int32. Numbers so far, this one included; at least 1.
    decay: By which numbers lose weight, in (0, 1).

  Returns:
    shape=(), dtype=float32. ``(1 - decay) / (1 - decay**count)``, and exactly 1
    for the first.
  """
  # From 1 - decay, which float32 holds better than a decay near 1.
  rest = jnp.asarray(1 - decay, jnp.float32)
  total = -jnp.expm1(count.astype(jnp.float32) * jnp.log1p(-rest))
  return jnp.where(count == 1, 1.0, rest / total)


def _without_subnormals(x: jax.Array) -> jax.Array:
  """Zero for what is so near to it that rounding errors would be subnormal."""
  return jnp.where(jnp.abs(x) < SMALLEST, 0.0, x)


def _two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
  """``a + b`` as its rounded value and the exact rounding error."""
  rounded = a + b
  b_part = rounded - a
  return rounded, (a - (rounded - b_part)) + (b - b_part)
