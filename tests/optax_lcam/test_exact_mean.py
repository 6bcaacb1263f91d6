"""The arithmetic of pairs of float32 numbers, compared with exact fractions."""

from fractions import Fraction

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from optax_lcam import _exact_mean

floats = st.one_of(
  st.just(0.0),
  st.floats(2.0**-60, 2.0**60, width=32),
  st.floats(-(2.0**60), -(2.0**-60), width=32),
)
exhaustive = settings(max_examples=300, deadline=None, derandomize=True)
add = jax.jit(_exact_mean.add)
minus = jax.jit(_exact_mean.minus)
times_minus_sum = jax.jit(_exact_mean.times_minus_sum)
newest_weight = jax.jit(_exact_mean.newest_weight)


def exact(*numbers):
  return sum(Fraction(float(x)) for x in numbers)


def in_two(x):
  """A fraction as the sum of two float32 numbers."""
  high = np.float32(float(x))
  low = np.float32(float(x - exact(high)))
  return high, low


def sign(x):
  return int(x > 0) - int(x < 0)


@exhaustive
@given(st.lists(floats, min_size=2, max_size=20))
def test_add_keeps_47_bits(numbers):
  total = residual = np.float32(0)
  for x in numbers:
    total, residual = add(total, residual, np.float32(x))
  error = exact(total, residual) - exact(*numbers)
  size = exact(*map(abs, numbers))
  assert abs(error) <= len(numbers) * size / 2**47
  # The first number is the rounded sum.
  assert float(total) == float(total + residual)


@exhaustive
@given(st.integers(1, _exact_mean.MAX_COUNT), floats, floats)
def test_the_sign_of_times_minus_sum_is_exact(count, x, other):
  # Sums at a tie, next to it and far from it.
  for wanted in (count * exact(x), exact(other)):
    for step in (0, 1, -1, 3):
      total, residual = in_two(wanted)
      ulp = max(np.spacing(np.abs(residual)), np.float32(2.0**-110))
      residual = np.float32(residual + step * ulp)
      result = times_minus_sum(np.int32(count), np.float32(x), total, residual)
      difference = count * exact(x) - exact(total, residual)
      if abs(difference) > abs(count * exact(x)) / 2**48 or not difference:
        assert sign(result) == sign(difference)


@exhaustive
@given(floats, floats, st.integers(-3, 3))
def test_the_sign_of_minus_is_exact(x, other, step):
  for near in (x, other):
    mean = np.float32(near)
    residual = np.float32(step) * np.spacing(mean) / np.float32(8)
    result = minus(np.float32(x), mean, residual)
    assert sign(result) == sign(exact(x) - exact(mean, residual))


@pytest.mark.parametrize('decay', [0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize('count', [1, 2, 3, 100, 10_000, 2**31 - 1])
def test_newest_weight_is_that_of_float64(decay, count):
  expected = (1 - decay) / (1 - decay ** float(count))
  # A traced decay is float32, which affects only 1 - 0.9999.
  for fn, rtol in ((_exact_mean.newest_weight, 1e-6), (newest_weight, 5e-4)):
    weight = fn(np.int32(count), decay)
    np.testing.assert_allclose(weight, expected, rtol if count > 1 else 0)


def test_non_finite_losses_give_non_finite_results():
  one = np.float32(1)
  for bad in (np.nan, np.inf, -np.inf):
    result = times_minus_sum(np.int32(1), np.float32(bad), one, one)
    assert not np.isfinite(result)
    assert not np.isfinite(minus(np.float32(bad), one, one))
