"""Tables, verdicts and figures from the records of runs."""

import dataclasses
import json
import pathlib
import shutil

import matplotlib.image
import numpy as np
import pytest
from scipy import stats

from tests.train.records import made
from train import config as config_lib
from train import errors
from train import experiments
from train import pictures
from train import records
from train import report
from train.records import read
from train.report import contrasts
from train.report import figures
from train.report import grid
from train.report import paper
from train.report import tables

_RESULTS = pathlib.Path(__file__).parents[2] / 'results'

_FIRST = {0: 4.1, 1: 3.8, 2: 4.4, 3: 4.0}
_SECOND = {0: 4.5, 1: 4.0, 2: 4.6, 3: 4.5}


def _write_run(
  path,
  *,
  seed=0,
  error=5.0,
  status='done',
  experiment=None,
  epochs=3,
  steps=6,
  **settings,
):
  path.mkdir(parents=True)
  config = config_lib.resolve(
    config_lib.Config(seed=seed, epochs=epochs, **settings), 10
  )
  content = {'experiment': experiment, **config_lib.to_json(config)}
  (path / 'config.json').write_text(json.dumps(content))
  lcam = config.optimizer == 'lcam'
  rows = [
    {
      'epoch': epoch,
      'step': steps * epoch,
      'train_loss': 2.0 / epoch + seed / 10,
      'train_error': 50.0 / epoch,
      'test_loss': 2.2 / epoch,
      'test_error': test_error,
      'learning_rate': 0.1 / epoch,
      'horizontal_fraction': 0.6 if lcam else None,
      'images_per_second': 100.0,
    }
    for epoch, test_error in enumerate(
      [*[error + 9.5] * (epochs - 2), error - 0.5, error], 1
    )
  ]
  (path / 'metrics.jsonl').write_text(
    ''.join(json.dumps(row) + '\n' for row in rows)
  )
  summary = {
    'status': status,
    'final_test_error': error,
    'best_test_error': error - 0.5,
    'params_sha256': f'{path}',
  }
  (path / 'summary.json').write_text(json.dumps(summary))


def _write_arms(directory):
  for seed, error in _FIRST.items():
    _write_run(directory / 'a' / str(seed), seed=seed, error=error)
  for seed, error in _SECOND.items():
    _write_run(
      directory / 'b' / str(seed), seed=seed, error=error, optimizer='sgd'
    )


class TestRecords:
  def test_runs_of_an_arm_differ_only_in_seeds(self, tmp_path):
    _write_arms(tmp_path)
    arms = records.group_into_arms(records.find([tmp_path]).runs)
    assert [arm.name for arm in arms] == ['digits-lcam', 'digits-sgd']
    assert arms[0].final_errors() == {
      (seed,) * 6: error for seed, error in _FIRST.items()
    }

  def test_arms_with_equal_names_show_their_differences(self, tmp_path):
    for momentum in (0.9, 0.95):
      _write_run(
        tmp_path / str(momentum), experiment='x', horizontal_momentum=momentum
      )
    arms = records.group_into_arms(records.find([tmp_path]).runs)
    assert [arm.name for arm in arms] == [
      'x horizontal_momentum=0.9',
      'x horizontal_momentum=0.95',
    ]

  def test_unfinished_runs_are_excluded(self, tmp_path):
    _write_run(tmp_path / '0', seed=0)
    _write_run(tmp_path / '1', seed=1, status='diverged', error=90.0)
    (arm,) = records.group_into_arms(records.find([tmp_path]).runs)
    assert arm.final_errors() == {(0,) * 6: 5.0}

  def test_a_directory_without_runs_is_rejected(self, tmp_path):
    with pytest.raises(errors.UsageError, match='no run in'):
      report.write([tmp_path], tmp_path / 'out')
    with pytest.raises(errors.UsageError, match='no directory'):
      records.find([tmp_path / 'absent'])

  def test_a_damaged_file_is_named(self, tmp_path):
    _write_run(tmp_path / 'run')
    (tmp_path / 'run' / 'config.json').write_text('{')
    with pytest.raises(errors.UsageError, match=r'config\.json is not valid'):
      records.find([tmp_path])


class TestTables:
  def test_the_row_of_an_arm(self, tmp_path):
    _write_arms(tmp_path)
    arms = records.group_into_arms(records.find([tmp_path]).runs)
    row = tables.errors_table(arms).splitlines()[2]
    cells = [cell.strip() for cell in row.strip('|').split('|')]
    # Mean 4.075, sd 0.25, t(3) = 3.182, best half a point lower.
    assert cells == [
      'digits-lcam',
      '4',
      '4.08',
      '0.25',
      '3.68 to 4.47',
      '3.58',
    ]

  def test_a_single_arm_has_nothing_to_compare(self, tmp_path):
    _write_run(tmp_path / 'run')
    arms = records.group_into_arms(records.find([tmp_path]).runs)
    assert contrasts.pairs(arms) == []

  def test_an_arm_without_a_finished_run(self, tmp_path):
    _write_run(tmp_path / 'run', status='incomplete')
    arms = records.group_into_arms(records.find([tmp_path]).runs)
    assert '0 of 1' in tables.errors_table(arms)


class TestContrasts:
  def test_each_data_set_has_its_own_model(self, tmp_path):
    _write_arms(tmp_path)
    # Another data set belongs to another model.
    _write_run(tmp_path / 'c', dataset='cifar10', optimizer='sgd')
    arms = records.group_into_arms(records.find([tmp_path]).runs)
    (question,) = contrasts.pairs(arms)
    (answer,) = contrasts.Models('other', arms).judge([question])
    # SciPy's paired test of the two arms.
    expected = stats.ttest_rel(list(_FIRST.values()), list(_SECOND.values()))
    low, high = expected.confidence_interval(0.95)
    assert answer.record() == {
      'name': 'digits-lcam − digits-sgd',
      'dataset': 'digits',
      'scale': 'other',
      'n': 4,
      'difference': pytest.approx(-0.325),
      'low': pytest.approx(low, abs=1e-4),
      'high': pytest.approx(high, abs=1e-4),
      'p': pytest.approx(expected.pvalue, rel=1e-2),
      'margin': pytest.approx(0.02 * 4.4),
      'verdict': 'better',
    }

  def test_what_cannot_be_tested_is_null(self, tmp_path):
    _write_run(tmp_path / 'a')
    _write_run(tmp_path / 'b', optimizer='sgd')
    report.write([tmp_path], tmp_path / 'out')
    written = json.loads((tmp_path / 'out' / 'report.json').read_text())
    (entry,) = written['contrasts']
    assert entry['difference'] == 0 and entry['n'] == 1
    assert entry['p'] is None and entry['low'] is None
    assert entry['verdict'] == 'undecided'

  def test_the_margin_is_relative_to_the_control(self, tmp_path):
    _write_arms(tmp_path)
    report.write([tmp_path], tmp_path / 'out', margin=10)
    written = json.loads((tmp_path / 'out' / 'report.json').read_text())
    assert written['contrasts'][0]['margin'] == pytest.approx(0.44)
    with pytest.raises(errors.UsageError, match='--margin must be above 0'):
      report.write([tmp_path], tmp_path / 'out', margin=0)


def _has_content(path):
  picture = matplotlib.image.imread(path)[..., :3]
  return picture.shape[0] > 300 and (picture.min(-1) < 0.5).mean() > 0.005


def test_a_report_has_a_table_and_a_figure(tmp_path):
  _write_arms(tmp_path / 'runs')
  _write_run(tmp_path / 'runs' / 'c', seed=9, status='diverged')
  out = tmp_path / 'out'
  text = report.write([tmp_path / 'runs'], out)
  assert (out / 'report.md').read_text() == text
  assert 'digits-lcam − digits-sgd' in text
  assert 'better' in text
  assert 'is diverged' in text
  assert _has_content(out / 'curves.png')


def test_a_figure_shows_only_finished_runs(tmp_path):
  _write_run(tmp_path / '0', seed=0)
  _write_run(tmp_path / '1', seed=1, status='incomplete')
  (arm,) = records.group_into_arms(records.find([tmp_path]).runs)
  _, mean, _, _ = figures._band(arm, 'train_loss')
  np.testing.assert_allclose(mean, [2, 1, 2 / 3])


def test_without_finished_runs_there_is_no_report(tmp_path):
  _write_run(tmp_path / 'run', status='incomplete')
  with pytest.raises(errors.UsageError, match='no finished run'):
    report.write([tmp_path], tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


def test_a_report_that_cannot_be_written(tmp_path):
  _write_run(tmp_path / 'run')
  (tmp_path / 'out').write_text('in the way')
  with pytest.raises(errors.UsageError, match='--out'):
    report.write([tmp_path / 'run'], tmp_path / 'out')


@pytest.mark.parametrize('optimizer', ['lcam', 'sgd'])
def test_a_run_has_a_figure(tmp_path, optimizer):
  _write_run(tmp_path / 'run', optimizer=optimizer)
  (run,) = records.find([tmp_path]).runs
  pictures.draw_run(run.rows, tmp_path / 'curves.png', 'title')
  assert _has_content(tmp_path / 'curves.png')


def test_the_style_of_the_user_has_no_influence(tmp_path):
  _write_run(tmp_path / 'run')
  (run,) = records.find([tmp_path]).runs
  styles = {'ours': {}, 'theirs': {'font.size': 30, 'axes.facecolor': 'black'}}
  for name, style in styles.items():
    with matplotlib.rc_context(style):
      pictures.draw_run(run.rows, tmp_path / f'{name}.png', 'title')
  ours, theirs = ((tmp_path / f'{name}.png').read_bytes() for name in styles)
  assert ours == theirs


def test_a_figure_is_written_completely_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / 'curves.png'
  path.write_bytes(b'before')

  def fail(figure, file, **_):
    file.write_bytes(b'half')
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(pictures.mpl_figure.Figure, 'savefig', fail)
  with pytest.raises(OSError, match='No space'):
    pictures.save(pictures.mpl_figure.Figure(), path)
  assert path.read_bytes() == b'before'
  assert list(tmp_path.iterdir()) == [path]


def _write_steps(path, epochs=(1, 2, 3), length=6):
  rng = np.random.default_rng(0)
  rows = [
    {
      'epoch': epoch,
      'loss': rng.lognormal(0, 1, length).tolist(),
      'momentum': [0.9] * length,
      'horizontal': rng.integers(0, 2, length).tolist(),
    }
    for epoch in epochs
  ]
  rows[0]['loss'][1] = None  # It was not finite.
  (path / 'steps.jsonl').write_text(
    ''.join(json.dumps(row) + '\n' for row in rows)
  )
  return rows


def test_the_running_mean_is_reset_at_each_epoch():
  steps = [{'loss': [4.0, None, 2.0]}, {'loss': [1.0, 2.0, 6.0]}]
  np.testing.assert_allclose(
    pictures._running_mean(steps, None), [4, 4, 3, 1, 1.5, 3]
  )
  # 4, then (4 / 2 + 2) / (1 / 2 + 1), and so on.
  np.testing.assert_allclose(
    pictures._running_mean(steps, 0.5)[:4], [4, 4, 8 / 3, 12 / 7]
  )


@pytest.mark.parametrize('length', [6, 150, 500])
@pytest.mark.parametrize('reaction', ['next', 'current'])
def test_losses_have_a_figure(tmp_path, length, reaction):
  _write_run(tmp_path / 'run', reaction=reaction, epochs=10, steps=length)
  steps = _write_steps(tmp_path / 'run', range(1, 11), length)
  (run,) = records.find([tmp_path]).runs
  assert run.steps == steps
  pictures.draw_phases(steps, run.config, tmp_path / 'phases.png', 'title')
  assert _has_content(tmp_path / 'phases.png')


def test_a_report_shows_the_steps_of_one_run_of_many(tmp_path):
  _write_arms(tmp_path / 'runs')
  assert '(phases.png)' not in report.write([tmp_path], tmp_path / 'without')
  for path in (tmp_path / 'runs' / 'a').iterdir():
    _write_steps(path)
  text = report.write([tmp_path / 'runs'], tmp_path / 'out')
  assert text.count('(phases.png)') == 1
  assert 'digits-lcam, seed 0' in text
  assert _has_content(tmp_path / 'out' / 'phases.png')


class TestGrids:
  def _write(self, directory, pairs, seeds=(0, 1, 2), error=None):
    for h, v in pairs:
      for seed in seeds:
        _write_run(
          directory / f'{h}-{v}' / str(seed),
          seed=seed,
          error=error(h, v, seed) if error else 5.0,
          experiment=f'digits-lcam-h{h}-v{v}',
          horizontal_momentum=h,
          vertical_momentum=v,
        )

  def _find(self, directory):
    arms = records.group_into_arms(records.find([directory]).runs)
    return grid.find(arms)

  def test_cells_outside_the_grid_are_left_out(self, tmp_path):
    full = [(h, v) for h in (0.85, 0.9, 0.95) for v in (0.85, 0.9)]
    self._write(tmp_path, [*full, (0.99, 0.9)], seeds=(0,))
    # Other settings belong to another grid, and an experiment to none.
    _write_run(tmp_path / 'a', experiment='digits-lcam')
    _write_run(tmp_path / 'b', horizontal_momentum=0.8, batch_size=32)
    (found,) = self._find(tmp_path)
    assert list(found.cells) == sorted(full)
    assert found.is_of == 'digits-lcam'

  def test_a_line_is_no_grid(self, tmp_path):
    self._write(tmp_path, [(0.9, 0.9), (0.95, 0.9), (0.9, 0.95)], seeds=(0,))
    assert self._find(tmp_path) == []

  def test_a_report_averages_over_the_pairs(self, tmp_path):
    def error(h, v, seed):
      # Switching is half a point better, a larger vertical momentum a point
      # worse.
      return 5 - 0.5 * (h != v) + (v > h) + seed / 10 * (1 + (h > v) / 5)

    pairs = [(h, v) for h in (0.9, 0.95) for v in (0.9, 0.95)]
    self._write(tmp_path / 'runs', pairs, error=error)
    text = report.write([tmp_path / 'runs'], tmp_path / 'out')
    cells = {
      row[0]: row
      for line in text.splitlines()
      if line.startswith('|')
      for row in [[cell.strip() for cell in line.strip('|').split('|')]]
    }
    # -0.5 + 1 / 2 + 0.02 / 2, and -1 + 0.02, over the seeds.
    switching = cells['switching momentum − fixed momentum']
    assert switching[1:3] == ['3', '+0.01']
    larger = cells['larger horizontal − larger vertical momentum']
    assert larger[1:3] == ['3', '-0.98']
    # A grid is a search and has no verdict.
    written = json.loads((tmp_path / 'out' / 'report.json').read_text())
    assert [e['verdict'] for e in written['contrasts']] == ['exploratory'] * 2
    # The arms of the grid are in no other table.
    assert 'digits-lcam-h0.9-v0.95' not in text
    assert _has_content(tmp_path / 'out' / 'grid.png')

  def test_the_machines_are_named(self, tmp_path):
    self._write(tmp_path, [(h, v) for h in (0.9, 0.95) for v in (0.9, 0.95)])
    facts = {
      'versions': {'jax': '1'},
      'platform': 'cpu',
      'device_kind': 'cpu',
      'device_count': 1,
    }
    by_seed = (
      {'processor': 'Zen (family 25, model 1)'},
      {},  # An older record.
      {'processor': 'Zen (family 26, model 2)'},
    )
    for path in tmp_path.glob('*/*/config.json'):
      made.change(path, **facts, **by_seed[int(path.parent.name)])
    text = report.write([tmp_path], tmp_path / 'out')
    assert (
      '12 runs on 1 x Zen (family 25, model 1) with jax 1, 1 x Zen (family 26,'
      ' model 2) with jax 1, 1 x cpu with jax 1, n = 3 seeds' in text
    )

  def test_a_heat_map_of_cells_without_a_finished_run(self, tmp_path):
    pairs = [(h, v) for h in (0.9, 0.95) for v in (0.9, 0.95)]
    self._write(tmp_path / 'runs', pairs[1:], seeds=(0,))
    _write_run(
      tmp_path / 'runs' / 'x',
      status='diverged',
      experiment='digits-lcam-h0.9-v0.9',
      horizontal_momentum=0.9,
      vertical_momentum=0.9,
    )
    (found,) = self._find(tmp_path)
    models = contrasts.Models('grid', found.cells.values())
    switching, larger = models.judge(grid.questions(found))
    # A cell is missing for the first; one seed is undecided for the second.
    assert switching is None
    assert larger.judgement.verdict == 'undecided'
    figures.draw_heat_map(found.cells, tmp_path / 'grid.png', 'title')
    assert _has_content(tmp_path / 'grid.png')


def _write_experiment(directory, name, errors):
  """Writes runs that reach the given errors."""
  config = experiments.get(name).config
  lowest = {150: 120, 24: 24}.get(config.epochs, 12)
  for seed, error in errors.items():
    path = directory / name / f'seed-{seed}'
    path.mkdir(parents=True)
    resolved = config_lib.resolve(dataclasses.replace(config, seed=seed), 157)
    if experiments.get(name).takes is not None:
      resolved = dataclasses.replace(
        resolved, horizontal_probability=(0.5 + seed / 100,)
      )
    (path / 'config.json').write_text(
      json.dumps({'experiment': name, **config_lib.to_json(resolved)})
    )
    rows = [
      {
        'epoch': epoch,
        'step': 157 * epoch,
        'train_loss': 2.0,
        'test_loss': 2.0,
        # Lowest at the epoch of the reported result.
        'test_error': error + 5 * abs(epoch - lowest) / config.epochs,
        'learning_rate': 0.1,
        'horizontal_fraction': 0.6 if config.optimizer != 'sgd' else None,
        'images_per_second': 100.0,
      }
      for epoch in range(1, config.epochs + 1)
    ]
    (path / 'metrics.jsonl').write_text(
      ''.join(json.dumps(row) + '\n' for row in rows)
    )
    summary = {
      'status': 'done',
      'final_test_error': rows[-1]['test_error'],
      'best_test_error': min(row['test_error'] for row in rows),
      'params_sha256': f'{path}',
    }
    (path / 'summary.json').write_text(json.dumps(summary))


_SCALES = [experiments.PAPER, experiments.MEDIUM, experiments.SMALL]


class TestThePaper:
  @pytest.mark.parametrize('scale', _SCALES)
  def test_every_experiment_of_the_paper_has_a_place(self, scale):
    placed = {e for family in paper.families(scale) for e in family.members}
    assert placed == {
      e for e in experiments.EXPERIMENTS.values() if e.scale is scale
    }
    assert set(_SCALES) == set(paper.SCALES)

  @pytest.mark.parametrize('scale', _SCALES)
  def test_a_claim_belongs_to_one_data_set(self, scale):
    for claim in paper.claims(scale):
      assert claim.first.scale is claim.second.scale is scale
      datasets = {claim.first.config.dataset, claim.second.config.dataset}
      assert {paper.DATASETS[dataset] for dataset in datasets} == {
        claim.dataset
      }

  def test_published_results_belong_to_their_arms(self):
    figures_of = {
      (e.dataset, e.section, e.arm): paper.published(e)
      for e in experiments.EXPERIMENTS.values()
      if e.scale is experiments.SMALL and paper.published(e) is not None
    }
    assert figures_of == {
      ('cifar10', 'figure4', 'lcam'): 3.98,
      ('cifar10', 'table1', 'wrn'): 4.00,
      ('cifar10', 'table1', 'sgdr'): 4.03,
      ('cifar10', 'table1', 'sgdr-cosine'): 3.86,
      ('cifar10', 'table1', 'sgdr-wrn'): 4.24,
      ('cifar100', 'figure4', 'lcam'): 19.22,
      ('cifar100', 'table1', 'wrn'): 19.25,
      ('cifar100', 'table1', 'sgdr'): 19.58,
      ('cifar100', 'table1', 'sgdr-cosine'): 19.98,
      ('cifar100', 'table1', 'sgdr-wrn'): 20.33,
    }
    assert paper.published(None) is None

  @pytest.mark.parametrize('prefix', ['', 'medium-', 'small-'])
  def test_the_report_uses_the_epoch_of_the_paper(self, tmp_path, prefix):
    lcam = {0: 50.0, 1: 50.2, 2: 49.9}
    runs = tmp_path / 'runs'
    _write_experiment(runs, f'{prefix}figure4-cifar10-lcam', lcam)
    _write_experiment(
      runs,
      f'{prefix}ablation-cifar10-coin',
      {seed: error + 1 + seed / 50 for seed, error in lcam.items()},
    )
    # Its last epoch counts.
    _write_experiment(
      runs,
      f'{prefix}table1-cifar10-wrn',
      {**{s: e - 5 - s / 50 for s, e in lcam.items()}, 3: 44.0},
    )
    text = report.write([runs], tmp_path / 'out', 'README.md')
    assert (tmp_path / 'out' / 'README.md').read_text() == text

    lines = {
      cells[0]: cells[1:]
      for line in text.splitlines()
      if line.startswith('|')
      for cells in [[cell.strip() for cell in line.strip('|').split('|')]]
    }
    epochs, read_at = {
      '': (150, 120), 'medium-': (24, 24), 'small-': (15, 12),
    }[prefix]  # fmt: skip
    # The values of the three runs, and the published result.
    assert lines[f'{prefix}figure4-cifar10-lcam'][:6] == [
      '3',
      f'{read_at} of {epochs}',
      '50.03',
      '0.15',
      '50.00, 50.20, 49.90',
      '3.98',
    ]
    wrn = lines[f'{prefix}table1-cifar10-wrn']
    last = {'': 200, 'medium-': 40, 'small-': 20}[prefix]
    assert wrn[:2] == ['4', f'{last} of {last}']
    assert ' to ' in wrn[4] and wrn[5] == '4.00'
    # Three random controls with three probabilities are one arm.
    assert lines[f'{prefix}ablation-cifar10-coin'][0] == '3'
    claim = lines['CIFAR-10: LCAM is better than its random control']
    assert claim[:3] == ['implied', '3', '-1.02']
    # Each difference occurs once and has no verdict.
    written = json.loads((tmp_path / 'out' / 'report.json').read_text())
    names = [entry['name'] for entry in written['contrasts']]
    assert len(names) == 2 == len(set(names))
    assert {e['scale'] for e in written['contrasts']} == {
      prefix.rstrip('-') or 'paper'
    }
    for entry in written['contrasts']:
      assert (entry['p'], entry['verdict']) == (None, 'exploratory')
    for picture in ('claims', 'figure4', 'arms'):
      picture = f'{prefix}{picture}.png'
      assert _has_content(tmp_path / 'out' / picture)
      assert f'({picture})' in text

  def test_an_old_run_belongs_to_the_arm_with_its_settings(self, tmp_path):
    # WRN without Nesterov momentum used to have the name of the published arm.
    old = experiments.get('small-table1-cifar10-sgdr-wrn')
    _write_experiment(tmp_path, old.name, {0: 44.0})
    path = tmp_path / old.name / 'seed-0' / 'config.json'
    content = json.loads(path.read_text())
    content['experiment'] = 'small-table1-cifar10-wrn'
    del content['padding']
    path.write_text(json.dumps(content))
    (arm,) = records.group_into_arms(records.find([tmp_path]).runs)
    assert (arm.name, arm.experiment) == (old.name, old)

  def test_the_larger_of_two_arms_with_one_name_is_the_experiment(
    self, tmp_path
  ):
    name = 'small-figure4-cifar10-lcam'
    _write_experiment(tmp_path / 'a', name, {0: 50.0})
    _write_experiment(tmp_path / 'b', name, {1: 50.0, 2: 50.1})
    for path in (tmp_path / 'b').glob('*/*/config.json'):
      content = {**json.loads(path.read_text()), 'compute_dtype': 'bfloat16'}
      path.write_text(json.dumps(content))
    arms = records.group_into_arms(records.find([tmp_path]).runs)
    assert {arm.name: bool(arm.experiment) for arm in arms} == {
      f'{name} compute_dtype=None': False,
      f'{name} compute_dtype=bfloat16': True,
    }


def test_the_epoch_of_the_reported_result():
  def read(name, epochs):
    experiment = experiments.get(name) if name else None
    return experiments.read_off_epoch(experiment, epochs)

  assert read('figure4-cifar100-lcam', 150) == 120
  assert read('small-figure2-fixed-0.9', 15) == 12
  assert read('table1-cifar10-wrn', 200) == 200
  assert read('small-figure4-cifar10-steps-120', 12) == 12
  assert read(None, 20) == 20


def test_a_report_on_only_a_study(tmp_path):
  shutil.copytree(_RESULTS / 'traction', tmp_path / 'study')
  record = read.study(tmp_path / 'study' / 'traction.json', 'traction')
  text = report.write([tmp_path / 'study'], tmp_path / 'out')
  for claim in record['claims']:
    assert f'- {claim["sentence"]}' in text
  assert _has_content(tmp_path / 'out' / 'figure1.png')
