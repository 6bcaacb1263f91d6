r"""Estimates and judges differences between arms: model, tests and verdicts.

**Model.** Runs with one seed share their initialization and the order of their
images, so seeds are blocks: :math:`y_{as} = \alpha_a + \sigma_s +
\epsilon_{as}` for the error of arm :math:`a` with seed :math:`s` (a randomized
block design; Montgomery, *Design and Analysis of Experiments*, chapter 4). All
arms of a data set and scale are fitted together by least squares, with one
residual variance. Arms may lack seeds. With two arms this is the paired t-test.

**Contrasts.** A contrast is a weighted sum of arms, such as LCAM − ½ (random
control + time average), with its standard error and the degrees of freedom of
the residual.

**Family.** Contrasts that are asked together are judged together, at a
family-wise error of 5 %:

* p is Holm's (*Scandinavian Journal of Statistics* 6, 1979): the probability of
  any false difference in the family is at most 5 %.
* The interval is Bonferroni's (Dunn, *JASA* 56, 1961), of level 1 − 5 % / m for
  a family of m: the probability that any interval of the family misses its true
  difference is at most 5 %. It is the interval of Holm's first step. Holm's
  later steps have no informative two-sided intervals of their own (Guilbaud,
  *Biometrical Journal* 50, 2008): p may then find a difference whose interval
  just includes zero.
* Equivalence is two one-sided tests (Schuirmann, *Journal of Pharmacokinetics
  and Biopharmaceutics* 15, 1987), applied to the same interval, which must lie
  inside the margin. The margin must be chosen before the results are seen.
* "Detectable" is the true difference that Holm's first step finds with a
  probability of 80 %, independent of the rest of the family.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import enum
import math
from typing import Any

import numpy as np
from scipy import optimize
from scipy import stats
from statsmodels.regression import linear_model

FAMILY_ERROR = 0.05
"""Probability of any false statement of one kind in a family."""

POWER = 0.8

RELATIVE_MARGIN = 0.02
"""Margin of equivalence, as a fraction of the error of the control, or of its
accuracy if that is smaller: about the gain that the paper claims, from 19.58 to
19.22."""


class Verdict(enum.StrEnum):
  """The result of a comparison, for the first of two arms."""

  BETTER = 'better'
  WORSE = 'worse'
  EQUIVALENT = 'equivalent'
  UNDECIDED = 'undecided'


def decide(
  difference: float, p: float, low: float, high: float, margin: float
) -> Verdict:
  """Decides one comparison. All verdicts come from this function.

  A difference that is found is reported even if it is smaller than the margin,
  see :attr:`Judgement.is_within_margin`.

  Args:
    difference: First minus second, of a quantity that should be low, such as an
      error.
    p: The p-value, adjusted for the family. NaN if nothing could be tested, as
      for the interval.
    low: Lower end of the simultaneous interval.
    high: Its upper end.
    margin: The margin of equivalence, or NaN.

  Returns:
    The verdict.

  Example:
    >>> str(decide(-0.8, p=0.01, low=-1.3, high=-0.3, margin=0.5))
    'better'
    >>> str(decide(0.1, p=0.7, low=-0.3, high=0.45, margin=0.5))
    'equivalent'
    >>> str(decide(0.1, p=0.7, low=-0.5, high=0.7, margin=0.5))
    'undecided'
  """
  if p < FAMILY_ERROR:
    return Verdict.BETTER if difference < 0 else Verdict.WORSE
  if _is_within(low, high, margin):
    return Verdict.EQUIVALENT
  return Verdict.UNDECIDED


def _is_within(low: float, high: float, margin: float) -> bool:
  return -margin < low and high < margin


# ----------------------------------------------------------------- estimates


@dataclasses.dataclass(frozen=True)
class Sample:
  """A mean and its uncertainty."""

  n: int
  mean: float
  std: float
  """Standard deviation over the runs (n - 1); NaN for one run."""
  half_width: float
  """Half the width of the 95 % confidence interval of the mean (Student's t),
  not adjusted for a family; NaN for one run."""


def describe(values: Sequence[float]) -> Sample:
  """Mean, standard deviation and 95 % interval of at least one value."""
  array = np.asarray(values, np.float64)
  n = len(array)
  if n < 2:
    return Sample(n, float(array.mean()), math.nan, math.nan)
  std = float(array.std(ddof=1))
  quantile = float(stats.t.ppf(1 - 0.05 / 2, n - 1))
  return Sample(n, float(array.mean()), std, quantile * std / math.sqrt(n))


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A difference before it is judged."""

  n: int
  """Number of seeds that all compared arms have."""
  difference: float
  error: float
  """Standard error; NaN without degrees of freedom."""
  freedom: float
  """Degrees of freedom of the standard error."""
  margin: float
  """Margin of equivalence, in the unit of the difference; NaN if there is none.
  """


def estimate_mean(sample: Sample, margin: float) -> Estimate:
  """The estimate of a mean of paired differences.

  Args:
    sample: The differences.
    margin: The margin of equivalence.
  """
  return Estimate(
    n=sample.n,
    difference=sample.mean,
    error=sample.std / math.sqrt(max(1, sample.n)),
    freedom=sample.n - 1,
    margin=margin,
  )


class BlockDesign:
  """Errors of arms and seeds, fitted as arm + seed with one residual.

  Args:
    errors: Finite errors by arm and seed, at least one. Seeds must be sortable.

  Example:
    The paired t-test is the design of two arms:

    >>> errors = {'a': {0: 4.1, 1: 3.8, 2: 4.4}, 'b': {0: 4.5, 1: 4.0, 2: 4.6}}
    >>> estimate = BlockDesign(errors).contrast({'a': 1, 'b': -1})
    >>> f'{estimate.difference:.3f} {estimate.error:.3f} {estimate.freedom}'
    '-0.267 0.067 2'
  """

  def __init__(self, errors: Mapping[str, Mapping[Any, float]]):
    self._errors = {arm: dict(seeds) for arm, seeds in errors.items() if seeds}
    self._arms = list(self._errors)
    cells = [
      (arm, seed) for arm, own in self._errors.items() for seed in sorted(own)
    ]
    # The effect of a seed is relative to that of a first seed. Each group of
    # arms that common seeds connect has its own first seed.
    seeds = sorted({seed for _, seed in cells} - _first_seeds(self._errors))
    design = np.array(
      [
        [*(arm == a for a in self._arms), *(seed == s for s in seeds)]
        for arm, seed in cells
      ],
      np.float64,
    )
    measured = np.array([self._errors[arm][seed] for arm, seed in cells])
    with np.errstate(divide='ignore', invalid='ignore'):
      # Without degrees of freedom there is no residual to divide by.
      self._fit = linear_model.OLS(measured, design).fit()
    self.freedom = round(self._fit.df_resid)
    """Degrees of freedom of the residual."""
    largest = max(1.0, float(np.abs(measured).max()))
    # Those that the rounding of the fit does not change.
    self._decimals = 11 - math.ceil(math.log10(largest))
    self.spread = math.nan
    """Standard deviation of the residual; NaN without degrees of freedom."""
    if self.freedom > 0:
      spread = math.sqrt(self._fit.ssr / self.freedom)
      self.spread = round(spread, self._decimals)

  def contrast(
    self,
    weights: Mapping[str, float],
    relative_margin: float = RELATIVE_MARGIN,
  ) -> Estimate | None:
    """Estimates a weighted sum of arms.

    Args:
      weights: By arm, with sum zero. Arms with a negative weight are the
        control.
      relative_margin: Margin of equivalence as a fraction of the control's mean
        error in percent, or of its distance to 100 if that is smaller.

    Returns:
      The estimate, or ``None`` if an arm has no error, or the arms have no seed
      in common.
    """
    if abs(sum(weights.values())) > 1e-9:
      raise ValueError(f'`weights` must add up to zero, got {dict(weights)}.')
    own = [self._errors.get(arm, {}) for arm in weights]
    n = len(set.intersection(*map(set, own)))
    if not n:
      return None
    row = np.zeros(len(self._fit.params))
    for arm, weight in weights.items():
      row[self._arms.index(arm)] = weight
    # Without this, the last digit that a table shows of a difference such as
    # 0.005 would depend on the machine. Adding 0.0 removes the sign of zero.
    difference = round(float(row @ self._fit.params), self._decimals) + 0.0
    error = math.nan
    if self.freedom:
      scaled = row @ self._fit.normalized_cov_params @ row
      error = self.spread * math.sqrt(scaled)
    control = {arm: w for arm, w in weights.items() if w < 0}
    level = sum(
      w * float(np.mean([*self._errors[arm].values()]))
      for arm, w in control.items()
    ) / sum(control.values())
    margin = relative_margin * min(level, 100 - level)
    return Estimate(n, difference, error, self.freedom, margin)

  def spreads(self) -> dict[str, float]:
    """The standard deviations of the residuals by arm; they should be similar.

    Scaled so that the mean of the squares over all runs is that of
    :attr:`spread`. NaN without degrees of freedom.
    """
    if not self.freedom:
      return dict.fromkeys(self._arms, math.nan)
    squares = np.square(self._fit.resid) * len(self._fit.resid) / self.freedom
    counts = [len(self._errors[arm]) for arm in self._arms]
    parts = np.split(squares, np.cumsum(counts)[:-1])
    return {
      arm: math.sqrt(part.mean())
      for arm, part in zip(self._arms, parts, strict=True)
    }


def _first_seeds(errors: Mapping[str, Mapping[Any, float]]) -> set[Any]:
  """The lowest seed of each group of arms that common seeds connect."""
  groups: list[set[Any]] = []
  for own in errors.values():
    connected = [group for group in groups if group & own.keys()]
    groups = [group for group in groups if not group & own.keys()]
    groups.append(set(own).union(*connected))
  return {min(group) for group in groups}


# -------------------------------------------------------------------- verdicts


@dataclasses.dataclass(frozen=True)
class Judgement:
  """An estimate that was judged together with its family."""

  estimate: Estimate
  low: float
  """Lower end of Bonferroni's simultaneous 95 % interval; NaN if untested."""
  high: float
  p: float
  """Adjusted by Holm's method; NaN if untested."""
  verdict: Verdict
  family_size: int
  """Number of contrasts that were judged together."""

  @property
  def could_have_found(self) -> float:
    """See :func:`smallest_detectable`; NaN if untested."""
    estimate = self.estimate
    if math.isnan(estimate.error):
      return math.nan
    return smallest_detectable(
      estimate.error, estimate.freedom, self.family_size
    )

  @property
  def is_within_margin(self) -> bool:
    """Whether the whole interval is, even if a difference was found."""
    return _is_within(self.low, self.high, self.estimate.margin)


def judge(family: Sequence[Estimate]) -> list[Judgement]:
  """Judges contrasts together, see the module's docstring.

  Args:
    family: All contrasts that are asked together. Those without degrees of
      freedom are undecided, and do not count as members.

  Returns:
    A judgement for each contrast.
  """
  tested = [i for i, e in enumerate(family) if not math.isnan(e.error)]
  raw = [_p_value(family[i]) for i in tested]
  p_values = dict(zip(tested, _holm(raw), strict=True))
  judged = []
  for i, estimate in enumerate(family):
    p = p_values.get(i, math.nan)
    low = high = math.nan
    if i in p_values:
      half_width = estimate.error * _quantile(estimate.freedom, len(tested))
      low = estimate.difference - half_width
      high = estimate.difference + half_width
    verdict = decide(estimate.difference, p, low, high, estimate.margin)
    judged.append(Judgement(estimate, low, high, p, verdict, len(tested)))
  return judged


def _holm(p_values: Sequence[float]) -> list[float]:
  # multipletests of statsmodels runs the garbage collector at each call, which
  # took a third of the time of a report.
  order = np.argsort(p_values)
  steps = np.take(p_values, order) * np.arange(len(order), 0, -1)
  adjusted = np.empty(len(order))
  adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
  return [float(p) for p in adjusted]


def _p_value(estimate: Estimate) -> float:
  if not estimate.error:
    return 1.0 if estimate.difference == 0 else 0.0
  t = abs(estimate.difference) / estimate.error
  return float(2 * stats.t.sf(t, estimate.freedom))


def _quantile(freedom: float, family_size: int) -> float:
  return float(stats.t.isf(FAMILY_ERROR / family_size / 2, freedom))


def smallest_detectable(
  error: float, freedom: float, family_size: int = 1, power: float = POWER
) -> float:
  """The true difference that is found with a given probability.

  Args:
    error: Standard error of the difference.
    freedom: Its degrees of freedom.
    family_size: Number of contrasts that are judged together.
    power: The probability.

  Returns:
    The smallest size, in the unit of ``error``, that is found by the first step
    of Holm's method, a two-sided t-test at the level 5 % / ``family_size``.

  Example:
    Two arms of 30 seeds with a residual of 0.71, in a family of six:

    >>> round(smallest_detectable(0.71 * (2 / 30) ** 0.5, 290, 6), 2)
    0.64
  """
  critical = _quantile(freedom, family_size)

  def missing_power(shift: float) -> float:
    # SciPy returns NaN instead of 0 for the far tail on the other side.
    wrong_side = np.nan_to_num(stats.nct.cdf(-critical, freedom, shift))
    return float(stats.nct.sf(critical, freedom, shift) + wrong_side) - power

  # In standard errors. One degree of freedom needs the most: 2.9 times the
  # critical value.
  shift = optimize.brentq(missing_power, 0.0, 4 * critical + 4)
  return float(shift) * error
