"""The statistics agree with SciPy, formulas and simulation."""

import math

import numpy as np
import pytest
from scipy import linalg
from scipy import stats
from statsmodels.stats import multitest

from train import statistics
from train.statistics import Verdict

_FIRST = {0: 4.1, 1: 3.8, 2: 4.4, 3: 4.0}
_SECOND = {0: 4.5, 1: 4.0, 2: 4.6, 3: 4.5}


def _compare(first, second, relative_margin=0.02):
  design = statistics.BlockDesign({'first': first, 'second': second})
  return design.contrast({'first': 1, 'second': -1}, relative_margin)


def _judge_pair(first, second, relative_margin=0.02):
  (judged,) = statistics.judge([_compare(first, second, relative_margin)])
  return judged


def _estimate(p, freedom=30, difference=-1.0):
  """An estimate with the given p-value."""
  error = abs(difference) / stats.t.isf(p / 2, freedom)
  return statistics.Estimate(3, difference, error, freedom, math.nan)


class TestSample:
  def test_the_interval_equals_scipy(self):
    values = list(_FIRST.values())
    sample = statistics.describe(values)
    low, high = stats.t.interval(
      0.95, 3, loc=np.mean(values), scale=stats.sem(values)
    )
    np.testing.assert_allclose(sample.mean - sample.half_width, low)
    np.testing.assert_allclose(sample.mean + sample.half_width, high)
    np.testing.assert_allclose(sample.std, np.std(values, ddof=1))


class TestBlockDesign:
  def test_two_arms_equal_the_paired_test_of_scipy(self):
    judged = _judge_pair(_FIRST, _SECOND)
    expected = stats.ttest_rel(list(_FIRST.values()), list(_SECOND.values()))
    np.testing.assert_allclose(judged.p, expected.pvalue)
    np.testing.assert_allclose(
      [judged.low, judged.high], expected.confidence_interval(0.95)
    )
    assert judged.estimate.freedom == expected.df
    assert judged.verdict == Verdict.BETTER
    assert _judge_pair(_SECOND, _FIRST).verdict == Verdict.WORSE

  def test_a_balanced_design_equals_its_formulas(self):
    """The residuals of rows and columns, see Montgomery, chapter 4."""
    rng = np.random.default_rng(0)
    errors = rng.normal(50, 1, (4, 6)) + rng.normal(0, 3, 6)
    design = statistics.BlockDesign(
      {f'{i}': dict(enumerate(row)) for i, row in enumerate(errors)}
    )
    rows = errors.mean(1, keepdims=True)
    columns = errors.mean(0, keepdims=True)
    residual = errors - rows - columns + errors.mean()
    assert design.freedom == 3 * 5
    spread = math.sqrt((residual**2).sum() / 15)
    np.testing.assert_allclose(design.spread, spread)
    spreads = design.spreads().values()
    np.testing.assert_allclose(np.mean(np.square([*spreads])), spread**2)
    # LCAM minus half of two controls.
    estimate = design.contrast({'0': 1, '1': -0.5, '3': -0.5})
    np.testing.assert_allclose(
      estimate.difference, rows[0, 0] - (rows[1, 0] + rows[3, 0]) / 2
    )
    np.testing.assert_allclose(estimate.error, spread * math.sqrt(1.5 / 6))
    np.testing.assert_allclose(
      estimate.margin, 0.02 * (rows[1, 0] + rows[3, 0]) / 2
    )
    assert estimate.n == 6

  def test_missing_cells_equal_least_squares(self):
    rng = np.random.default_rng(1)
    errors = {
      arm: {seed: float(rng.normal(seed)) for seed in seeds}
      for arm, seeds in {'a': range(5), 'b': range(1, 5), 'c': (0, 2)}.items()
    }
    # Another coding: effects that sum to zero, and their covariance.
    rows, values = [], []
    for i, own in enumerate(errors.values()):
      for seed, error in own.items():
        arm = np.eye(3)[i][:2] - np.eye(3)[i][2]
        block = np.eye(5)[seed][:4] - np.eye(5)[seed][4]
        rows.append([1, *arm, *block])
        values.append(error)
    effects, _, rank, _ = linalg.lstsq(np.asarray(rows), np.asarray(values))
    residual = np.asarray(values) - np.asarray(rows) @ effects
    freedom = len(values) - rank
    covariance = linalg.inv(np.transpose(rows) @ rows)
    covariance *= (residual**2).sum() / freedom
    row = np.zeros(7)
    row[1:3] = (2, 1)  # a - c, where c is minus the others
    design = statistics.BlockDesign(errors)
    estimate = design.contrast({'a': 1, 'c': -1})
    np.testing.assert_allclose(estimate.difference, row @ effects)
    np.testing.assert_allclose(
      estimate.error, math.sqrt(row @ covariance @ row)
    )
    assert (estimate.n, estimate.freedom) == (2, freedom)

  def test_a_difference_has_no_error_of_rounding(self):
    """Errors are multiples of 0.01, so the mean of eight is a short number."""
    rng = np.random.default_rng(0)
    for _ in range(20):
      errors = rng.integers(4000, 4300, (3, 8))
      design = statistics.BlockDesign(
        {
          arm: dict(enumerate(own / 100))
          for arm, own in zip('abc', errors, strict=True)
        }
      )
      for second, own in zip('bc', errors[1:], strict=True):
        # Exact: an integer, divided once.
        exact = int((errors[0] - own).sum()) / 800
        assert design.contrast({'a': 1, second: -1}).difference == exact

  def test_groups_without_a_common_seed_are_not_compared(self):
    other = {'c': {8: 1.0, 9: 2.0}, 'd': {8: 2.0, 9: 3.5}}
    both = {'a': _FIRST, 'b': _SECOND, **other}
    design = statistics.BlockDesign(both)
    assert design.freedom == 3 + 1
    assert design.contrast({'a': 1, 'c': -1}) is None
    np.testing.assert_allclose(
      design.contrast({'c': 1, 'd': -1}).difference, -1.25
    )

  def test_one_seed_is_undecided(self):
    judged = _judge_pair({0: 1.0}, {0: 9.0})
    assert judged.verdict == Verdict.UNDECIDED
    assert judged.estimate.difference == -8
    for number in (judged.p, judged.low, judged.could_have_found):
      assert math.isnan(number)

  def test_an_arm_without_a_run(self):
    assert _compare({0: 1.0}, {}) is None

  @pytest.mark.parametrize(
    ('shift', 'verdict'), [(0.0, Verdict.EQUIVALENT), (1.0, Verdict.WORSE)]
  )
  def test_differences_without_spread(self, shift, verdict):
    plain = {seed: 1.0 + seed / 3 for seed in range(3)}
    shifted = {seed: error + shift for seed, error in plain.items()}
    assert _judge_pair(shifted, plain).verdict == verdict

  def test_weights_must_add_up_to_zero(self):
    design = statistics.BlockDesign({'a': _FIRST, 'b': _SECOND})
    with pytest.raises(ValueError, match='`weights` must add up to zero'):
      design.contrast({'a': 1, 'b': -0.5})


class TestJudge:
  def test_the_p_values_of_holm(self):
    # 0.01 x 4, 0.02 x 3, then 0.03 x 2, and 0.04 no lower than that.
    untested = statistics.Estimate(1, -1.0, math.nan, 0, math.nan)
    family = [*map(_estimate, (0.04, 0.01, 0.03, 0.02)), untested]
    judged = statistics.judge(family)
    np.testing.assert_allclose(
      [j.p for j in judged], [0.06, 0.04, 0.06, 0.06, math.nan], rtol=1e-9
    )
    assert [j.verdict for j in judged] == [
      Verdict.UNDECIDED,
      Verdict.BETTER,
      *[Verdict.UNDECIDED] * 3,
    ]
    # Intervals use Holm's first step, which only the second estimate passes.
    assert [j.low < 0 < j.high for j in judged[:4]] == [
      True,
      False,
      True,
      True,
    ]

  @pytest.mark.parametrize('size', [0, 1, 2, 7, 40])
  def test_the_p_values_of_holm_equal_statsmodels(self, size):
    p_values = np.round(np.random.default_rng(0).beta(0.3, 1, size), 2)
    family = [_estimate(max(p, 1e-9)) for p in p_values]
    raw = [statistics.judge([estimate])[0].p for estimate in family]
    assert [judged.p for judged in statistics.judge(family)] == (
      list(multitest.multipletests(raw, method='holm')[1]) if raw else []
    )

  def test_equivalence_is_two_one_sided_tests(self):
    rng = np.random.default_rng(2)
    verdicts = []
    for shift in np.linspace(-0.6, 0.6, 25):
      differences = rng.normal(shift, 0.5, 12)
      estimate = statistics.estimate_mean(
        statistics.describe(differences), margin=0.5
      )
      other = statistics.Estimate(12, 0.0, 1.0, 11, 0.5)
      judged, _ = statistics.judge([estimate, other])
      level = 0.05 / 2 / 2  # a family of two, one side of an interval
      above = stats.ttest_1samp(differences, -0.5, alternative='greater')
      below = stats.ttest_1samp(differences, 0.5, alternative='less')
      assert judged.is_within_margin == (
        max(above.pvalue, below.pvalue) < level
      )
      verdicts.append(judged.verdict)
    assert {Verdict.EQUIVALENT, Verdict.UNDECIDED} <= set(verdicts)

  def test_a_significant_difference_can_be_inside_the_margin(self):
    estimate = statistics.Estimate(30, 0.2, 0.05, 100, 0.5)
    (judged,) = statistics.judge([estimate])
    assert judged.verdict == Verdict.WORSE
    assert judged.is_within_margin

  def test_error_and_coverage_of_a_family(self):
    """For equal arms, counts differences found and intervals without zero."""
    rng = np.random.default_rng(3)
    found = missed = 0
    repetitions = 1000
    errors = rng.normal(0, 0.7, (repetitions, 4, 5))
    arms = errors.mean(2)
    residual = errors - arms[..., None] - errors.mean(1, keepdims=True)
    residual += errors.mean((1, 2), keepdims=True)
    standard_errors = np.sqrt((residual**2).sum((1, 2)) / 12 * 2 / 5)
    for arm, standard_error in zip(arms, standard_errors, strict=True):
      judged = statistics.judge(
        [
          statistics.Estimate(5, arm[0] - arm[i], standard_error, 12, math.nan)
          for i in (1, 2, 3)
        ]
      )
      is_off = [not j.low < 0 < j.high for j in judged]
      found += any(j.verdict in (Verdict.BETTER, Verdict.WORSE) for j in judged)
      missed += any(is_off)
    # At most 5 %, and not far below, as contrasts share an arm.
    assert 0.025 < found / repetitions < 0.06
    assert missed == found

  @pytest.mark.parametrize(
    ('freedom', 'size'), [(2, 1), (8, 1), (8, 22), (100, 6)]
  )
  def test_the_smallest_detectable_difference_has_80_percent_power(
    self, freedom, size
  ):
    rng = np.random.default_rng(0)
    detectable = statistics.smallest_detectable(0.3, freedom, size)
    draws = 100_000
    errors = 0.3 * np.sqrt(rng.chisquare(freedom, draws) / freedom)
    p = 2 * stats.t.sf(
      np.abs(rng.normal(detectable, 0.3, draws)) / errors, freedom
    )
    # Bonferroni's level is that of Holm's first step.
    np.testing.assert_allclose((p < 0.05 / size).mean(), 0.8, atol=0.006)
