"""Means, intervals and paired comparisons. Nothing is claimed without n."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np
from scipy import optimize
from scipy import stats

_CONFIDENCE = 0.95
_POWER = 0.8


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


def smallest_detectable(sample: Sample, power: float = _POWER) -> float:
  """The true mean difference that a paired t-test would find.

  Args:
    sample: The differences of the pairs.
    power: Probability of finding it.

  Returns:
    The size, in the unit of the sample, from which a two-sided test at the 5 %
    level with this n and this deviation gives p < 0.05 with the probability
    ``power``; NaN for less than two pairs.
  """
  if sample.n < 2:
    return math.nan
  freedom = sample.n - 1
  critical = stats.t.ppf((1 + _CONFIDENCE) / 2, freedom)

  def missing_power(shift: float) -> float:
    # SciPy gives NaN instead of 0 for the far tail on the other side.
    wrong_side = np.nan_to_num(stats.nct.cdf(-critical, freedom, shift))
    return float(stats.nct.sf(critical, freedom, shift) + wrong_side) - power

  # In standard errors of the mean. Two pairs need the most: 36.
  shift = optimize.brentq(missing_power, 0.0, 4 * critical + 4)
  return float(shift) * sample.deviation / math.sqrt(sample.n)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Two arms, run by run under the same seeds."""

  difference: Sample
  """First minus second arm, over the seeds that both have."""
  p_value: float
  """Two-sided paired t-test; NaN for less than two seeds."""
  detectable: float
  """See :func:`smallest_detectable`."""
  verdict: str
  """"better" or "worse" where the first arm's error is the lower or higher one
  at the 5 % level, "no difference found" elsewhere."""


def compare_errors(
  first: Mapping[Any, float], second: Mapping[Any, float]
) -> Comparison | None:
  """Compares the test errors of two arms pairwise.

  Args:
    first: Test error by seed.
    second: Test error by seed.

  Returns:
    The comparison, or ``None`` where the arms have no seed in common.
  """
  seeds = sorted(first.keys() & second.keys())
  if not seeds:
    return None
  difference = describe([first[seed] - second[seed] for seed in seeds])
  if difference.n < 2:
    p_value = math.nan
  elif difference.deviation == 0:
    p_value = 1.0 if difference.mean == 0 else 0.0
  else:
    t = difference.mean / (difference.deviation / math.sqrt(difference.n))
    p_value = float(2 * stats.t.sf(abs(t), difference.n - 1))
  return Comparison(
    difference,
    p_value,
    smallest_detectable(difference),
    _verdict(difference, p_value),
  )


def adjust(comparisons: Sequence[Comparison]) -> list[Comparison]:
  """The comparisons with p-values and verdicts for a family of them.

  Among twenty comparisons of equal arms one has p < 0.05. Holm's method (1979)
  keeps the probability of any false finding in the whole family at 5 %.

  Args:
    comparisons: With p-values of their own.

  Returns:
    The same with Holm's p-values. Intervals stay those of single comparisons.
  """
  tested = sorted(
    (c.p_value, i)
    for i, c in enumerate(comparisons)
    if not math.isnan(c.p_value)
  )
  adjusted = list(comparisons)
  largest = 0.0
  for rank, (p_value, i) in enumerate(tested):
    largest = max(largest, min(1.0, p_value * (len(tested) - rank)))
    adjusted[i] = dataclasses.replace(
      comparisons[i],
      p_value=largest,
      verdict=_verdict(comparisons[i].difference, largest),
    )
  return adjusted


def _verdict(difference: Sample, p_value: float) -> str:
  if difference.n < 2:
    return 'one seed tells nothing'
  if p_value >= 1 - _CONFIDENCE:
    return 'no difference found'
  return 'better' if difference.mean < 0 else 'worse'
