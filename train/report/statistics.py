"""Means, intervals and paired comparisons. Nothing is claimed without n."""

from collections.abc import Mapping, Sequence
import dataclasses
import math

import numpy as np
from scipy import stats

_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Sample:
  """A mean with what is known of its error."""

  n: int
  mean: float
  deviation: float
  """Standard deviation over the runs (n - 1); NaN for one run."""
  half_width: float
  """Half of the 95 % confidence interval of the mean (Student's t); NaN for
  one run."""


def describe(values: Sequence[float]) -> Sample:
  """Mean, deviation and 95 % interval of at least one value."""
  array = np.asarray(values, np.float64)
  n = len(array)
  if n < 2:
    return Sample(n, float(array.mean()), math.nan, math.nan)
  deviation = float(array.std(ddof=1))
  quantile = float(stats.t.ppf((1 + _CONFIDENCE) / 2, n - 1))
  return Sample(
    n, float(array.mean()), deviation, quantile * deviation / math.sqrt(n)
  )


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Two arms, run by run under the same seeds."""

  difference: Sample
  """First minus second arm, over the seeds that both have."""
  p_value: float
  """Two-sided paired t-test; NaN for less than two seeds."""
  verdict: str


def compare_errors(
  first: Mapping[int, float], second: Mapping[int, float]
) -> Comparison | None:
  """Compares the test errors of two arms pairwise.

  Args:
    first: Test error by seed.
    second: Test error by seed.

  Returns:
    The comparison, or ``None`` where the arms have no seed in common. Its
    verdict is "better" where the first arm's error is lower and the 95 %
    interval of the difference leaves out zero.
  """
  seeds = sorted(first.keys() & second.keys())
  if not seeds:
    return None
  difference = describe([first[seed] - second[seed] for seed in seeds])
  if difference.n < 2:
    return Comparison(difference, math.nan, 'one seed tells nothing')
  if difference.deviation == 0:
    p_value = 1.0 if difference.mean == 0 else 0.0
  else:
    t = difference.mean / (difference.deviation / math.sqrt(difference.n))
    p_value = float(2 * stats.t.sf(abs(t), difference.n - 1))
  if p_value >= 1 - _CONFIDENCE:
    verdict = 'no difference found'
  else:
    verdict = 'better' if difference.mean < 0 else 'worse'
  return Comparison(difference, p_value, verdict)
