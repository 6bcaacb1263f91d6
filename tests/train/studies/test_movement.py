"""Movement of quick and slow weights, measured on a run of the digits."""

import copy
import dataclasses
import json
import math
import shutil

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import optax
import pytest
from scipy import stats

from tests.train import runs
from train import config as config_lib
from train import data
from train import errors
from train import studies
from train.program import build
from train.records import checkpoint
from train.records import run_directory
from train.studies import movement

# 6 steps per epoch.
_CONFIG = config_lib.Config(
  model='mlp', epochs=1, batch_size=32, train_examples=192, eval_batch_size=360
)
_ARMS = (
  'LCAM 0.9/0.9',
  'LCAM 0.95/0.9',
  'coin 0.95/0.9',
  'LCAM 0.9/0.95',
  'coin 0.9/0.95',
)


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  directory = tmp_path_factory.mktemp('runs') / 'seed-0'
  runs.run(directory, _CONFIG)
  return directory


def _files(directory):
  return {
    path.relative_to(directory): path.read_bytes()
    for path in sorted(directory.rglob('*'))
    if path.is_file()
  }


@pytest.fixture(scope='module')
def measured(run_dir):
  before = _files(run_dir)
  record = movement.measure([run_dir], epochs=2)
  return record, before, _files(run_dir)


@pytest.fixture(scope='module')
def program(run_dir):
  prepared, _ = movement._prepare(movement._read_run(run_dir), 0.01, None)
  return prepared


def test_a_run_is_not_changed(measured):
  _, before, after = measured
  assert after == before


def test_the_study_starts_from_the_end_of_the_run(run_dir, program):
  summary = json.loads((run_dir / 'summary.json').read_text())
  start = jax.tree.map(lambda x: x[0], program.start)
  assert run_directory.params_sha256(start.params) == summary['params_sha256']
  traces = jax.tree.leaves(optax.tree.get(start.opt_state, 'trace'))
  assert not any(leaf.any() for leaf in traces)


def test_the_running_statistics_are_those_of_the_run(tmp_path, monkeypatch):
  """Uses a Wide ResNet with a random checkpoint, without training."""
  config = config_lib.resolve(dataclasses.replace(_CONFIG, model='wrn'), 6)
  digits = data.load('digits', train_examples=192)
  program = build.Program([config], digits, devices=runs.one_device())
  random = np.random.default_rng(0)
  state = jax.tree.map(
    lambda x: random.uniform(size=x.shape).astype(x.dtype),
    program.shape_member(),
  )
  directory = run_directory.RunDirectory(tmp_path / 'run')
  directory.claim(config, config, compute_dtype='float32')
  directory.write_summary(
    {
      'status': 'done',
      'final_test_error': 9.0,
      'best_test_error': 9.0,
      'params_sha256': '',
    }
  )
  last = 6 * config.epochs
  saved = checkpoint.Checkpoints(directory.checkpoints, 6)
  saved.save(last, state._replace(step=np.int32(last)), [])
  saved.close()

  class _StartedError(Exception):
    pass

  def init_from(_, params, batch_stats):
    raise _StartedError(params, batch_stats)

  monkeypatch.setattr(build.Program, 'init_from', init_from)
  with pytest.raises(_StartedError) as started:
    movement.measure([tmp_path / 'run'])
  for ours, theirs in zip(
    started.value.args, (state.params, state.batch_stats), strict=True
  ):
    assert len(jax.tree.leaves(theirs)) > 10
    jax.tree.map(
      lambda x, y: np.testing.assert_array_equal(x[0], y), ours, theirs
    )


def test_the_movement_of_a_step_is_that_of_the_weights(program):
  momenta = np.float32([0.95, 0.95])
  state = program.start
  for _ in range(3):
    before = state
    state, step = program.train_step(before, momenta)
  moved = np.concatenate(
    [
      np.ravel(np.asarray(new, np.float64) - np.asarray(old, np.float64))
      for new, old in zip(
        jax.tree.leaves(state.params),
        jax.tree.leaves(before.params),
        strict=True,
      )
    ]
  )
  for group in ('quick', 'slow'):
    mask = np.concatenate(
      [np.ravel(leaf) for leaf in jax.tree.leaves(program.groups[group])]
    )
    expected = np.mean(moved[mask] ** 2)
    np.testing.assert_allclose(getattr(step, group), expected, 1e-3)
  np.testing.assert_allclose(step.momentum, 0.95)


def test_steps_use_the_momentum_that_the_previous_step_selected(program):
  wanted = np.float32([0.9, 0.95, 0.9, 0.9, 0.95, 0.9])
  steps = movement._train(program, np.stack([wanted, wanted], axis=1))
  np.testing.assert_array_equal(steps.momentum[1:], wanted[:-1])


def test_more_momentum_moves_more(program):
  slow, fast = (
    movement._train(program, np.full((24, 2), momentum))
    for momentum in (0.5, 0.95)
  )
  for group in ('quick', 'slow'):
    assert getattr(fast, group)[12:].mean() > getattr(slow, group)[12:].mean()


def test_figures_of_a_run(measured):
  record, _, _ = measured
  (run,) = record['runs']
  assert tuple(run['arms']) == _ARMS
  assert run['learning_rate'] == 0.01
  assert run['steps_per_epoch'] == 6
  for arm in run['arms'].values():
    share = arm['share_horizontal']
    assert 0 < share < 1
    for group in ('quick', 'slow'):
      figures = arm[group]
      horizontal, vertical = (
        figures['movement_horizontal'],
        figures['movement_vertical'],
      )
      np.testing.assert_allclose(
        share * horizontal**2 + (1 - share) * vertical**2,
        figures['movement'] ** 2,
        1e-3,
      )
      np.testing.assert_allclose(figures['ratio'], horizontal / vertical, 1e-3)
    assert arm['quick']['movement'] > arm['slow']['movement']


def test_a_random_control_has_the_share_of_its_pair(measured):
  arms = measured[0]['runs'][0]['arms']
  for pair in ('0.95/0.9', '0.9/0.95'):
    lcam, coin = arms[f'LCAM {pair}'], arms[f'coin {pair}']
    assert lcam['share_horizontal'] == coin['share_horizontal']
    assert lcam['quick'] != coin['quick']


def test_the_groups_are_quarters_of_all_weights(measured):
  layers = measured[0]['runs'][0]['layers']
  assert not any('norm' in name or 'bias' in name for name in layers)
  weights = sum(layer['weights'] for layer in layers.values())
  for group in ('quick', 'slow'):
    members = sum(layer['weights'] * layer[group] for layer in layers.values())
    np.testing.assert_allclose(members / weights, 0.25, atol=1e-3)


def test_one_run_is_undecided(measured):
  record, _, _ = measured
  claims = record['claims']
  assert [claim['claim'] for claim in claims] == [
    'W_Q pulls W_S',
    'W_S pulls W_Q',
    'W_Q is fast where the loss is low',
  ]
  for claim in claims:
    assert claim['verdict'] == 'undecided'
    assert claim['sentence'].endswith(': undecided.')


def _several(record, gain):
  """Copies of a run whose slow weights gain about this much."""
  runs = []
  for i in range(4):
    run = copy.deepcopy(record['runs'][0])
    arms = run['arms']
    coin = arms['coin 0.95/0.9']['slow']['movement']
    arms['LCAM 0.95/0.9']['slow']['movement'] = coin * (
      1 + (gain + 0.1 * i - 0.15) / 100
    )
    runs.append(run)
  return movement._summarize(runs, 2)


@pytest.mark.parametrize(
  ('gain', 'verdict', 'words'),
  [
    (3.0, 'better', 'as the paper says'),
    (-3.0, 'worse', 'the opposite of what the paper says'),
    (0.0, 'equivalent', 'no difference beyond 1 %'),
    (0.6, 'better', 'as the paper says, but within 1 %'),
  ],
)
def test_several_runs_have_an_interval(measured, gain, verdict, words):
  summary = _several(measured[0], gain)
  claim = summary['claims'][0]
  assert claim['verdict'] == verdict
  assert f'): {words}.' in claim['sentence']
  (gains,) = (g for g in summary['gains'] if g['pair'] == '0.95/0.9')
  np.testing.assert_allclose(gains['slow']['mean'], gain, atol=1e-6)
  # The standard deviation of 0, 0.1, 0.2, 0.3 and t(3) = 3.182.
  np.testing.assert_allclose(
    gains['slow']['half_width'], 3.1824 * 0.12910 / 2, 1e-3
  )
  # The claims are a family of three: t(3) at 5 % / 3.
  simultaneous = stats.t.isf(0.05 / 3 / 2, 3) * 0.12910 / 2
  np.testing.assert_allclose(
    [claim['low'], claim['high']],
    [gain - simultaneous, gain + simultaneous],
    atol=1e-3,
  )
  assert f' {abs(gain):.2f} ± {simultaneous:.2f} % ' in claim['sentence']
  assert claim['needed'] is None
  # A claim on two figures has both.
  of_the_bottom = summary['claims'][-1]
  leaving = summary['runs'][0]['speed_correlation_from']
  np.testing.assert_allclose(of_the_bottom['needed']['mean'], leaving, 1e-4)
  assert 'simultaneous over the 3 claims' in movement.summary(summary)


class TestGroups:
  def test_ranks_are_over_all_layers_without_norms(self):
    params = {
      'a': jnp.zeros((2, 2)),
      'b': jnp.zeros((4, 1)),
      'norm': jnp.zeros(3),
    }
    variances = {
      'a': jnp.array([[8.0, 1.0], [2.0, 7.0]]),
      'b': jnp.array([[3.0], [4.0], [5.0], [6.0]]),
      'norm': jnp.array([0.0, 9.0, 9.0]),
    }
    groups, layers = movement._divide(params, variances)
    np.testing.assert_array_equal(
      groups['quick']['a'], [[True, False], [False, True]]
    )
    np.testing.assert_array_equal(
      groups['slow']['a'], [[False, True], [True, False]]
    )
    for group in ('quick', 'slow'):
      assert not groups[group]['b'].any()
      assert not groups[group]['norm'].any()
    assert layers == {
      'a': {'weights': 4, 'quick': 0.5, 'slow': 0.5},
      'b': {'weights': 4, 'quick': 0.0, 'slow': 0.0},
    }

  def test_the_recorder_updates_no_weights_and_computes_the_variance(self):
    gradients = np.random.default_rng(0).normal(5, [0.1, 1, 10], (20, 3))
    recorder = movement._gradient_recorder()
    state = recorder.init(jnp.zeros(3))
    for gradient in gradients:
      updates, state = recorder.update(
        jnp.asarray(gradient, jnp.float32), state, value=1.0
      )
      assert not updates.any()
    np.testing.assert_allclose(state.mean, gradients.mean(0), 1e-4)
    np.testing.assert_allclose(state.squares / 20, gradients.var(0), 1e-3)


def test_speed_is_correlated_with_the_loss_before_and_after_a_step():
  """Steps to a low loss are long, and steps from a low loss are short."""
  low = np.array([0, 1, 0, 0, 1, 1, 0, 1, 0, 1, 0], bool)
  # Step t leads to loss t + 1, which selects the phase of step t + 2.
  speed = np.where(np.roll(low, -1), 2.0, 1.0)
  steps = movement._Movement(
    horizontal=np.roll(low, 1), momentum=None, quick=speed**2, slow=None
  )
  # np.roll wraps around at the first step, an epoch that is not measured.
  steps = steps._replace(momentum=low, slow=low)
  program = movement._Program(
    start=None, train_step=None, groups=None, steps_per_epoch=1, seed=0
  )
  found = movement._speed_correlations(program, steps)
  np.testing.assert_allclose(found['to'], 1.0)
  assert found['from'] < 0.5


def test_the_figure_can_be_drawn_from_the_file(measured, tmp_path):
  record = _several(measured[0], 2.0)
  studies.STUDIES['movement'].write(record, tmp_path / 'out')
  again = json.loads((tmp_path / 'out' / 'movement.json').read_text())
  assert again == record
  movement.draw(again, tmp_path / 'again.png')
  first, second = (
    matplotlib.image.imread(path)
    for path in (tmp_path / 'out' / 'movement.png', tmp_path / 'again.png')
  )
  np.testing.assert_array_equal(first, second)
  assert (first[..., :3].min(-1) < 0.5).mean() > 0.005


class TestInvalidInput:
  def test_no_such_directory(self, tmp_path):
    with pytest.raises(errors.UsageError, match='There is no directory'):
      movement.measure([tmp_path / 'absent'])

  def test_no_run(self, tmp_path):
    with pytest.raises(errors.UsageError, match='must be a finished run'):
      movement.measure([tmp_path])

  def test_an_unfinished_run(self, run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / 'run')
    (tmp_path / 'run' / 'summary.json').write_text('{"status": "incomplete"}')
    with pytest.raises(errors.UsageError, match='must be a finished run'):
      # The error is found before the first run is measured.
      movement.measure([run_dir, tmp_path / 'run'])

  @pytest.mark.parametrize('keep_folder', [True, False])
  def test_no_checkpoint(self, run_dir, tmp_path, keep_folder):
    shutil.copytree(
      run_dir, tmp_path / 'run', ignore=lambda *_: {'checkpoints'}
    )
    if keep_folder:
      (tmp_path / 'run' / 'checkpoints').mkdir()
    with pytest.raises(errors.UsageError, match='has no checkpoint'):
      movement.measure([tmp_path / 'run'])

  def test_numbers_out_of_range(self, run_dir):
    with pytest.raises(errors.UsageError, match='--epochs must be'):
      movement.measure([run_dir], epochs=0)
    for rate in (0.0, -1.0, math.inf, math.nan):
      with pytest.raises(errors.UsageError, match='--learning-rate must be'):
        movement.measure([run_dir], learning_rate=rate)
    with pytest.raises(errors.UsageError, match='at least one run'):
      movement.measure([])
