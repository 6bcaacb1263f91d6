"""The simulation of Figure 1 agrees with NumPy, closed forms and symmetry."""

import json
import pathlib
import re

import matplotlib.image
import numpy as np
import pytest
from scipy import linalg
from scipy import stats

from train import errors
from train import studies
from train.studies import traction
from train.studies import verdicts

_VALLEY = traction.Valley(slow_start=2.0, steps_per_epoch=50)
_SEEDS = 50


@pytest.fixture(scope='module')
def record():
  return traction.measure(_SEEDS, 1600, valley=_VALLEY)


def _arm(record, kind, horizontal, vertical, coupled=True):
  (arm,) = (
    arm
    for arm in record['arms']
    if (arm['kind'], arm['horizontal'], arm['vertical'], arm['coupled'])
    == (kind, horizontal, vertical, coupled)
  )
  return arm


def _hessian(valley, coupled=True):
  c = valley.coupling if coupled else 0.0
  return np.array([[valley.quick_curvature, c], [c, valley.slow_curvature]])


def _stationary_std(valley, momentum, coupled):
  """For heavy-ball SGD, from the Lyapunov equation of (x_t, x_{t-1})."""
  hessian = _hessian(valley, coupled)
  one, zero = np.eye(2), np.zeros((2, 2))
  transition = np.block(
    [
      [(1 + momentum) * one - valley.learning_rate * hessian, -momentum * one],
      [one, zero],
    ]
  )
  kick = valley.learning_rate * valley.noise * hessian
  noise = np.block([[kick @ kick.T, zero], [zero, zero]])
  covariance = linalg.solve_discrete_lyapunov(transition, noise)
  return np.sqrt(np.diag(covariance)[:2])


@pytest.mark.parametrize('pair', [(0.95, 0.9), (0.9, 0.95)])
def test_a_path_equals_a_loop_in_float64(pair):
  """The loop is an independent implementation of Algorithm 1."""
  horizontal, vertical = pair
  steps = 200
  places, of_seeds = traction.walk(pair, 3, 2, steps, valley=_VALLEY)
  minima = of_seeds[0]
  assert np.abs(of_seeds[0] - of_seeds[1]).min() > 0
  weights = np.array([_VALLEY.quick_start, _VALLEY.slow_start])
  velocity, momentum, losses = np.zeros(2), 0.9, []
  expected, chosen = [weights], []
  for t in range(steps):
    if t % _VALLEY.steps_per_epoch == 0:
      losses = []
    away = weights - minima[t]
    velocity = momentum * velocity + _hessian(_VALLEY) @ away
    weights = weights - _VALLEY.learning_rate * velocity
    losses.append(away @ _hessian(_VALLEY) @ away / 2)
    momentum = horizontal if losses[-1] <= np.mean(losses) else vertical
    expected.append(weights)
    chosen.append(momentum)
  np.testing.assert_allclose(places[0], expected, rtol=1e-4, atol=1e-4)
  assert 0.3 < np.mean(np.equal(chosen, horizontal)) < 0.95


@pytest.mark.parametrize('coupled', [True, False])
@pytest.mark.parametrize('momentum', [0.9, 0.95])
def test_the_oscillation_with_a_fixed_momentum_agrees_with_theory(
  record, momentum, coupled
):
  arm = _arm(record, 'LCAM', momentum, momentum, coupled)
  expected = _stationary_std(_VALLEY, momentum, coupled)
  for group, std in zip(('quick', 'slow'), expected, strict=True):
    # Each seed has its own root mean square; theory gives that of all seeds.
    found = arm[f'{group}_distance']
    of_all = np.hypot(found['mean'], found['sd'])
    assert abs(of_all - std) < 2 * found['half_width']
    assert found['half_width'] < 0.1 * std


def test_the_closed_form_of_one_weight():
  """Checks the test itself with the variance of an AR(2) process."""
  momentum = 0.9
  a = _VALLEY.learning_rate * _VALLEY.quick_curvature
  variance = (1 + momentum) * a / ((1 - momentum) * (2 * (1 + momentum) - a))
  np.testing.assert_allclose(
    _stationary_std(_VALLEY, momentum, False)[0],
    _VALLEY.noise * np.sqrt(variance),
  )


def test_movements_of_the_phases_add_up(record):
  for arm in record['arms']:
    share = arm['share_horizontal']['mean']
    for group in ('quick', 'slow'):
      horizontal, vertical, every = (
        arm[f'{group}_movement{phase}']['mean'] ** 2
        for phase in ('_horizontal', '_vertical', '')
      )
      np.testing.assert_allclose(
        share * horizontal + (1 - share) * vertical, every, 0.01
      )


def test_a_random_control_has_the_share_of_its_pair(record):
  for pair in ((0.95, 0.9), (0.9, 0.95), (0.93, 0.9), (0.9, 0.93)):
    ours, coins = (
      _arm(record, kind, *pair)['share_horizontal'] for kind in ('LCAM', 'coin')
    )
    error = np.hypot(ours['half_width'], coins['half_width'])
    assert abs(ours['mean'] - coins['mean']) < 1.5 * error
    assert 0.5 < ours['mean'] < 0.8


def test_a_random_control_ignores_the_loss(record):
  """Its phases differ only in momentum, those of LCAM also in the loss."""
  coin = _arm(record, 'coin', 0.95, 0.9)
  assert (
    coin['quick_movement_horizontal']['mean']
    > coin['quick_movement_vertical']['mean']
  )
  lcam = _arm(record, 'LCAM', 0.9, 0.9)
  ratio = (
    lcam['quick_movement_vertical']['mean']
    / lcam['quick_movement_horizontal']['mean']
  )
  assert ratio > 1.1


def test_without_coupling_the_slow_weight_does_not_depend_on_the_phase(record):
  arm = _arm(record, 'LCAM', 0.9, 0.9, coupled=False)
  np.testing.assert_allclose(
    arm['slow_movement_horizontal']['mean'],
    arm['slow_movement_vertical']['mean'],
    0.02,
  )


def test_more_momentum_approaches_the_minimum_faster(record):
  slow, fast = (
    _arm(record, 'LCAM', momentum, momentum)['slow_left_after_100']['mean']
    for momentum in (0.9, 0.95)
  )
  assert fast < slow < _VALLEY.slow_start


def test_equal_groups_move_equally():
  valley = traction.Valley(
    slow_curvature=1.0, coupling=0.4, slow_start=0.0, steps_per_epoch=50
  )
  record = traction.measure(_SEEDS, 1600, valley=valley)
  for arm in record['arms']:
    for figure in ('movement_horizontal', 'movement_vertical', 'distance'):
      quick, slow = (arm[f'{group}_{figure}'] for group in ('quick', 'slow'))
      error = np.hypot(quick['half_width'], slow['half_width'])
      assert abs(quick['mean'] - slow['mean']) < 2 * error


def test_comparisons_use_the_means_and_are_paired(record):
  for compared in record['comparisons']:
    pair = tuple(map(float, compared['pair'].split('/')))
    for coupled in (True, False):
      ours, theirs = (
        _arm(record, kind, *pair, coupled)['slow_movement']
        for kind in ('LCAM', compared['control'])
      )
      found = compared['slow_movement']['coupled' if coupled else 'uncoupled']
      expected = 100 * (ours['mean'] / theirs['mean'] - 1)
      np.testing.assert_allclose(found['mean'], expected, atol=0.02)
      assert found['n'] == _SEEDS
      # The noise is the same, so both are high or low together.
      unpaired = np.hypot(ours['sd'], theirs['sd']) / theirs['mean'] * 100
      assert found['sd'] < unpaired


def test_each_claim_is_answered(record):
  claims = record['claims']
  assert {claim['claim'] for claim in claims} == {
    'W_Q pulls W_S',
    'W_S pulls W_Q',
    'W_Q oscillates more widely',
    'W_S oscillates more widely',
    'W_Q is fast where the loss is low',
  }
  for claim in claims:
    assert 'In 6 other valleys: ' in claim['sentence']
    # These words are left to errors.
    assert not re.search('better|worse|equivalent', claim['sentence'])
  assert claims == traction.judge(json.loads(json.dumps(record)))


def test_a_verdict_agrees_with_the_figures_of_its_claim(record):
  claims = record['claims']
  for claim in claims:
    figures = claim, claim['needed']
    above, below = (
      [sign * f['mean'] > 0 and f['p'] < 0.05 for f in figures]
      for sign in (1, -1)
    )
    margin = claim['margin']
    inside = [-margin < f['low'] and f['high'] < margin for f in figures]
    assert {
      'better': all(above),
      'worse': any(below),
      'equivalent': any(inside),
      'undecided': not all(above),
    }[claim['verdict']]
  assert {'worse', 'equivalent'} <= {claim['verdict'] for claim in claims}


def test_the_excess_due_to_coupling_has_a_simultaneous_interval(record):
  claims = record['claims']
  quantile = stats.t.isf(0.05 / len(claims) / 2, _SEEDS - 1)
  *of_comparisons, of_the_bottom = claims
  for claim in of_comparisons:
    (excess,) = (
      compared[claim['figure']]['due_to_coupling']
      for compared in record['comparisons']
      if (compared['pair'], compared['control'])
      == (claim['pair'], claim['control'])
    )
    half_width = quantile * excess['sd'] / np.sqrt(_SEEDS)
    needed = claim['needed']
    np.testing.assert_allclose(
      [needed['mean'], needed['low'], needed['high']],
      excess['mean'] + half_width * np.array([0, -1, 1]),
      rtol=1e-3,
      atol=1e-4,
    )
    said = f'{abs(excess["mean"]):.2f} ± {half_width:.2f} points'
    assert f'due to coupling {said}' in claim['sentence']
  leaving = _arm(record, 'LCAM', 0.9, 0.9)['speed_correlation_from']
  half_width = quantile * leaving['sd'] / np.sqrt(_SEEDS)
  said = f'{leaving["mean"]:.4f} ± {half_width:.4f}'
  assert f'(of the step from it: {said})' in of_the_bottom['sentence']
  assert 'simultaneous over the 13 claims' in traction.summary(record)


def test_other_valleys_equal_separate_measurements(record):
  for other in record['others']:
    changed = _VALLEY._replace(**other['changes'])
    assert changed != _VALLEY
    # The valley has a minimum.
    assert (
      changed.coupling**2 < changed.quick_curvature * changed.slow_curvature
    )
  other = record['others'][0]
  alone = traction.measure(
    -(-_SEEDS // 4), 1600, valley=_VALLEY._replace(**other['changes'])
  )
  assert other['n'] == alone['settings']['seeds']
  assert [figure['mean'] for figure in other['figures']] == [
    claim['mean'] for claim in alone['claims']
  ]
  # The verdicts are therefore the same, too.
  for own, found in zip(
    alone['claims'],
    verdicts.judge(traction._elsewhere(traction._expectations(record), other)),
    strict=True,
  ):
    assert own['verdict'] == found.verdict


class TestVerdicts:
  @pytest.mark.parametrize(
    ('mean', 'margin', 'verdict', 'words'),
    [
      (0.5, 0.4, 'better', 'as the paper says'),
      (0.5, 1.0, 'better', 'as the paper says, but within 1 %'),
      (-0.5, 0.4, 'worse', 'the opposite of what the paper says'),
      (
        *(-0.5, 1.0, 'worse'),
        'the opposite of what the paper says, but within 1 %',
      ),
      (0.1, 1.0, 'equivalent', 'no difference beyond 1 %'),
      (0.1, 0.2, 'undecided', 'undecided'),
    ],
  )
  def test_a_figure_is_judged(self, mean, margin, verdict, words):
    figure = verdicts.summarize(mean + np.array([-0.2, -0.1, 0.0, 0.1, 0.2]))
    expected = verdicts.Expected('claim', figure, margin, ' %')
    (found,) = verdicts.judge([expected])
    assert (found.verdict, found.words) == (verdict, words)
    # A family of one has the plain interval.
    np.testing.assert_allclose(found.half_width, figure['half_width'], 1e-4)
    record = found.record(expected)
    np.testing.assert_allclose(
      [record['low'], record['high']],
      mean + np.array([-1, 1]) * figure['half_width'],
      1e-3,
    )
    assert record['needed'] is None
    assert found.words.startswith(found.short)

  @pytest.mark.parametrize('values', [[1.0], []])
  def test_less_than_two_values_are_undecided(self, values):
    expected = verdicts.Expected('claim', verdicts.summarize(values), 1.0)
    (found,) = verdicts.judge([expected])
    assert found.words == 'undecided'
    assert found.record(expected)['p'] is None

  @pytest.mark.parametrize(
    ('coupling', 'spread', 'verdict', 'words'),
    [
      (2.0, 0.4, 'better', 'as the paper says'),
      (
        *(0.6, 0.1, 'better'),
        'as the paper says, but within 1 % for the part due to coupling',
      ),
      (0.0, 0.4, 'equivalent', 'no more than without coupling'),
      (0.9, 2, 'undecided', 'not shown to need coupling'),
      (-0.6, 0.1, 'worse', 'less than without coupling'),
    ],
  )
  def test_a_gain_without_coupling_is_no_traction(
    self, coupling, spread, verdict, words
  ):
    shape = np.array([-1.0, -0.6, 0.6, 1.0])
    excess = verdicts.summarize(coupling + spread * shape)
    expected = verdicts.Expected(
      'claim', verdicts.summarize(2 + 0.4 * shape), 1.0, ' %', excess
    )
    (found,) = verdicts.judge([expected])
    assert (found.verdict, found.words) == (verdict, words)
    assert found.words.startswith(found.short)
    needed = found.record(expected)['needed']
    np.testing.assert_allclose(
      [needed['mean'], needed['low'], needed['high']],
      coupling + np.array([0, -1, 1]) * excess['half_width'],
      rtol=1e-3,
      atol=1e-9,
    )
    if coupling:
      p = stats.ttest_1samp(coupling + spread * shape, 0).pvalue
      np.testing.assert_allclose(needed['p'], p, 1e-3)

  @pytest.mark.parametrize(
    ('coupling', 'words'),
    [
      (0.0, 'the opposite of what the paper says, with and without coupling'),
      (-2.0, 'the opposite of what the paper says'),
      (
        *(-0.5,),
        'the opposite of what the paper says, but within 1 % for the part due'
        ' to coupling',
      ),
    ],
  )
  def test_the_opposite_with_and_without_coupling_is_reported(
    self, coupling, words
  ):
    shape = np.array([-1.0, -0.6, 0.6, 1.0])
    figure = verdicts.summarize(-2 + 0.4 * shape)
    excess = verdicts.summarize(coupling + 0.2 * shape)
    (found,) = verdicts.judge(
      [verdicts.Expected('claim', figure, 1.0, ' %', excess)]
    )
    assert (found.verdict, found.words) == ('worse', words)
    assert found.short == 'the opposite'

  @pytest.mark.parametrize(
    ('arriving', 'leaving', 'verdict', 'short', 'words'),
    [
      (0.3, 0.3, 'better', 'as the paper says', 'as the paper says'),
      (
        *(0.3, 0.05, 'better', 'as the paper says'),
        'as the paper says, but within 0.1 for STEP',
      ),
      (0.3, -0.3, 'worse', 'the opposite', 'the opposite holds for STEP'),
      (0.0, -0.3, 'worse', 'the opposite', 'the opposite holds for STEP'),
      (0.3, 0.0, 'equivalent', 'no correlation', 'not found for STEP'),
      (0.0, 0.3, 'equivalent', 'no correlation', 'no correlation beyond 0.1'),
    ],
  )
  def test_the_bottom_claim_uses_both_steps(
    self, arriving, leaving, verdict, short, words
  ):
    shape = 0.01 * np.array([-1.0, -0.6, 0.6, 1.0])
    figures = [verdicts.summarize(x + shape) for x in (arriving, leaving)]
    expected = verdicts.expected_at_the_bottom(*figures)
    (found,) = verdicts.judge([expected])
    step = 'the step from this point, which LCAM multiplies'
    assert (found.verdict, found.short) == (verdict, short)
    assert found.words == words.replace('STEP', step)
    assert found.record(expected)['needed']['mean'] == figures[1]['mean']

  def test_missing_values_are_excluded(self):
    figure = verdicts.summarize([1.0, np.nan, 3.0])
    assert figure['n'] == 2
    assert figure['mean'] == 2.0

  def test_correlation_equals_numpy(self):
    rng = np.random.default_rng(0)
    event, number = rng.integers(0, 2, 100), rng.normal(size=100)
    found = verdicts.correlate(
      event.mean(), number.mean(), (number**2).mean(), (number * event).mean()
    )
    np.testing.assert_allclose(found, np.corrcoef(event, number)[0, 1])

  def test_more_and_less(self):
    figure = {'mean': -1.234, 'half_width': 0.5}
    assert verdicts.show_percent(figure) == '1.23 ± 0.50 % less'
    assert verdicts.show_percent(figure, 0.7) == '1.23 ± 0.70 % less'
    assert verdicts.show_points(figure, np.nan) == '1.23 points less'


def test_the_figure_can_be_drawn_from_the_file(record, tmp_path):
  studies.STUDIES['traction'].write(record, tmp_path / 'out')
  written = tmp_path / 'out' / 'traction.json'
  assert written.stat().st_size < 100_000
  again = json.loads(written.read_text())
  assert again == record
  traction.draw(again, tmp_path / 'again.png')
  first, second = (
    matplotlib.image.imread(path)
    for path in (tmp_path / 'out' / 'traction.png', tmp_path / 'again.png')
  )
  np.testing.assert_array_equal(first, second)
  assert (first[..., :3].min(-1) < 0.5).mean() > 0.005


def test_invalid_numbers_are_rejected():
  with pytest.raises(errors.UsageError, match='--steps must be a multiple'):
    traction.measure(1, 150)
  with pytest.raises(errors.UsageError, match='--seeds must be'):
    traction.measure(0)
  with pytest.raises(ValueError, match='product of the curvatures'):
    traction.measure(1, 200, valley=traction.Valley(coupling=0.5))
  with pytest.raises(errors.UsageError, match='cannot be written'):
    verdicts.write_record(pathlib.Path('/dev/null/x.json'), {})
