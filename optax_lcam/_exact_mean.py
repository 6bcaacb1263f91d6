"""Is a number at most the mean of a sequence? Exactly, in float32.

Momentum choices hang on comparing a loss with a mean that it belongs to, and
ties are the rule where losses repeat. A float32 sum divided by a count calls
about half of the ties wrong, and float64 is not at hand on every device. So
the sum is kept as the unevaluated sum of two float32 numbers (about 48
significant bits), and the comparison is made without dividing: the sign of
``count * x - sum``, with the product split into exact parts.

The building block is Knuth's TwoSum (The Art of Computer Programming, vol. 2,
section 4.2.2, theorem B). It relies on additions being rounded one by one,
which XLA keeps.
"""

import jax
import jax.numpy as jnp

# Counts up to here are exact in float32, and split into two 12-bit halves.
MAX_COUNT = 2**24

# Below this the rounding errors of a sum become subnormal numbers, which XLA
# takes for zero on most devices.
SMALLEST = 2.0**-100


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
    not finite where ``x`` is not, or where float32 overflows.
  """
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


def _two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
  """``a + b`` as its rounded value and the exact rounding error."""
  rounded = a + b
  b_part = rounded - a
  return rounded, (a - (rounded - b_part)) + (b - b_part)
