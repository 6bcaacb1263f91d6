"""One run in this process: its files, and its reproducibility."""

import contextlib
import dataclasses
import json

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from tests.train import processes
from tests.train import runs
from train import config as config_lib
from train import errors
from train import loop
from train.records import checkpoint

_run = runs.run


def _rows(directory):
  return [json.loads(line) for line in (directory / 'metrics.jsonl').open()]


def _without_times(rows):
  times = {'images_per_second', 'seconds'}
  return [{k: v for k, v in row.items() if k not in times} for row in rows]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  directory = tmp_path_factory.mktemp('runs') / 'finished'
  return directory, *_run(directory, pictures=True)


def test_there_is_one_row_per_epoch(finished):
  directory, _, _ = finished
  rows = _rows(directory)
  assert [row['epoch'] for row in rows] == [1, 2, 3]
  # 200 images in batches of 64: 64, 64, 64, 8.
  assert [row['step'] for row in rows] == [4, 8, 12]
  for row in rows:
    assert row.keys() >= {
      'epoch',
      'step',
      'train_loss',
      'test_loss',
      'test_error',
      'learning_rate',
      'horizontal_fraction',
      'images_per_second',
    }
    assert row['horizontal_fraction'] * 4 in range(5)
    assert row['images_per_second'] > 0
  assert rows[-1]['train_loss'] < rows[0]['train_loss']


def test_the_summary_has_the_final_results(finished):
  directory, summary, _ = finished
  assert summary == json.loads((directory / 'summary.json').read_text())
  assert summary['status'] == 'done'
  rows = _rows(directory)
  assert summary['final_test_error'] == rows[-1]['test_error']
  assert summary['best_test_error'] == min(row['test_error'] for row in rows)
  assert len(summary['params_sha256']) == 64


def test_the_configuration_is_complete(finished):
  directory, _, _ = finished
  config = json.loads((directory / 'config.json').read_text())
  for field in dataclasses.fields(config_lib.Config):
    assert field.name in config
  assert config['seed'] == config['order_seed'] == 0
  assert config['learning_rate'] == 0.1
  assert config['device_kind'] == jax.devices()[0].device_kind
  assert config['device_count'] == 1
  assert config['process_count'] == 1
  assert config['versions']['jax'] == jax.__version__
  assert 'git_commit' in config


def test_the_recorded_steps_agree_with_the_epochs(finished):
  directory, _, _ = finished
  lines = (directory / 'steps.jsonl').open()
  for row, line in zip(_rows(directory), lines, strict=True):
    steps = json.loads(line)
    assert steps['epoch'] == row['epoch']
    # The steps had 64, 64, 64 and 8 images.
    np.testing.assert_allclose(
      np.average(steps['loss'], weights=[64, 64, 64, 8]),
      row['train_loss'],
      rtol=1e-6,
    )
    assert np.mean(steps['horizontal']) == row['horizontal_fraction']
    assert steps['momentum'] == [(0.9, 0.93)[h] for h in steps['horizontal']]


def test_the_picture_and_the_events(finished):
  directory, _, _ = finished
  for name in ('curves.png', 'phases.png'):
    assert (directory / name).stat().st_size > 10_000
  events = event_accumulator.EventAccumulator(str(directory / 'tensorboard'))
  events.Reload()
  rows = _rows(directory)
  np.testing.assert_allclose(
    [event.value for event in events.Scalars('test_error')],
    [row['test_error'] for row in rows],
    rtol=1e-6,
  )


def test_the_output_of_a_run(finished):
  _, _, shown = finished
  assert 'MLP-1x64' in shown
  assert '200 training and 360 test images' in shown
  assert 'epoch 3/3' in shown


def test_the_same_command_twice_gives_the_same_bytes(finished, tmp_path):
  directory, summary, _ = finished
  again, _ = _run(tmp_path / 'again')
  assert again['params_sha256'] == summary['params_sha256']
  assert _without_times(_rows(tmp_path / 'again')) == _without_times(
    _rows(directory)
  )


@pytest.mark.parametrize(
  'seed', ['init_seed', 'order_seed', 'augmentation_seed']
)
def test_each_seed_matters(finished, tmp_path, seed):
  _, summary, _ = finished
  other, _ = _run(tmp_path / 'other', **{seed: 1})
  assert other['params_sha256'] != summary['params_sha256']


def test_the_dropout_seed_matters_with_dropout(tmp_path):
  summaries = [
    _run(
      tmp_path / str(seed),
      dropout_rate=0.3,
      dropout_seed=seed,
      epochs=1,
      train_examples=64,  # one step
    )[0]
    for seed in (0, 1)
  ]
  assert summaries[0]['params_sha256'] != summaries[1]['params_sha256']


def test_the_eval_batch_size_does_not_affect_results(finished, tmp_path):
  directory, summary, _ = finished
  other, _ = _run(tmp_path / 'other', eval_batch_size=77)
  assert other['params_sha256'] == summary['params_sha256']
  for ours, theirs in zip(
    _rows(tmp_path / 'other'), _rows(directory), strict=True
  ):
    assert ours['test_error'] == theirs['test_error']
    np.testing.assert_allclose(
      ours['test_loss'], theirs['test_loss'], rtol=1e-4
    )


def test_a_finished_run_is_reported_and_unchanged(finished):
  directory, summary, _ = finished
  before = {p: p.stat().st_mtime_ns for p in directory.rglob('*')}
  again, shown = _run(directory)
  assert again == summary
  assert 'is finished' in shown
  assert {p: p.stat().st_mtime_ns for p in directory.rglob('*')} == before


def test_another_command_is_rejected_with_the_differences(finished):
  directory, _, _ = finished
  with pytest.raises(
    errors.UsageError, match=r'--horizontal-momentum 0.95 \(was 0.93\)'
  ):
    _run(directory, horizontal_momentum=0.95)


def test_a_directory_with_other_files_is_rejected(tmp_path):
  (tmp_path / 'letter.txt').write_text('dear reader')
  with pytest.raises(errors.UsageError, match='not empty'):
    _run(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ['letter.txt']


@pytest.mark.parametrize('settings', [{'epochs': 0}, {'train_examples': 9999}])
def test_invalid_input_leaves_no_directory(tmp_path, settings):
  with pytest.raises(errors.UsageError):
    _run(tmp_path / 'run', **settings)
  assert not (tmp_path / 'run').exists()


def test_a_non_finite_loss_ends_a_run_as_diverged(tmp_path):
  summary, _ = _run(tmp_path / 'run', learning_rate=1e30, epochs=4)
  assert summary['status'] == 'diverged'
  assert summary['epochs'] < 4
  assert _rows(tmp_path / 'run')[-1]['train_loss'] is None
  # No checkpoint has non-finite values.
  checkpoints = list((tmp_path / 'run' / 'checkpoints').glob('[0-9]*'))
  assert len(checkpoints) < summary['epochs']


def test_longer_dispatches_do_not_change_the_run(finished, tmp_path):
  directory, _, _ = finished
  _run(tmp_path / 'run', steps_per_dispatch=3)
  for ours, theirs in zip(
    _rows(tmp_path / 'run'), _rows(directory), strict=True
  ):
    assert ours['step'] == theirs['step']
    np.testing.assert_allclose(
      ours['train_loss'], theirs['train_loss'], rtol=1e-4
    )
    assert ours['horizontal_fraction'] == theirs['horizontal_fraction']


def _run_together(directories, configs, pictures=False):
  with contextlib.nullcontext() if pictures else runs.without_pictures():
    return loop.run_together(
      configs, directories, devices=runs.one_device(), console=runs.console()
    )


def _configs(*settings):
  return [dataclasses.replace(runs.CONFIG, **own) for own in settings]


def test_runs_of_one_program_equal_separate_runs(finished, tmp_path):
  alone = [finished[0], tmp_path / 'alone']
  other = {
    'seed': 1, 'vertical_momentum': 0.7, 'weight_decay': 0.01,
    'learning_rate': 0.05, 'schedule': 'cosine',
  }  # fmt: skip
  _run(alone[1], **other)
  directories = [tmp_path / name for name in 'ab']
  summaries = _run_together(directories, _configs({}, other), pictures=True)
  assert [s['status'] for s in summaries] == ['done', 'done']
  assert summaries[0]['params_sha256'] != summaries[1]['params_sha256']
  for ours, theirs in zip(directories, alone, strict=True):
    assert (ours / 'curves.png').exists()
    for row, expected in zip(_rows(ours), _rows(theirs), strict=True):
      np.testing.assert_allclose(
        row['train_loss'], expected['train_loss'], rtol=1e-4
      )
      assert row['horizontal_fraction'] == expected['horizontal_fraction']
      assert row['learning_rate'] == expected['learning_rate']
  assert (
    _rows(directories[1])[0]['train_loss']
    != (_rows(directories[0])[0]['train_loss'])
  )


def test_a_program_of_seeds_resumes_from_their_last_common_checkpoint(
  tmp_path, monkeypatch
):
  configs = _configs({'seed': 0}, {'seed': 1})
  whole = [tmp_path / 'whole' / str(seed) for seed in (0, 1)]
  expected = _run_together(whole, configs)

  cut = [tmp_path / 'cut' / str(seed) for seed in (0, 1)]
  saved = []
  save = checkpoint.Checkpoints.save

  def killed_between_two_checkpoints(self, step, state, measured):
    save(self, step, state, measured)
    saved.append(step)
    if saved == [4, 4, 8]:
      raise RuntimeError('killed')

  monkeypatch.setattr(
    checkpoint.Checkpoints, 'save', killed_between_two_checkpoints
  )
  with pytest.raises(RuntimeError, match='killed'):
    _run_together(cut, configs)
  monkeypatch.undo()

  assert [s['params_sha256'] for s in _run_together(cut, configs)] == [
    s['params_sha256'] for s in expected
  ]
  for ours, theirs in zip(cut, whole, strict=True):
    assert _without_times(_rows(ours)) == _without_times(_rows(theirs))
    steps = [(d / 'steps.jsonl').read_text() for d in (ours, theirs)]
    assert steps[0] == steps[1]


def test_a_wide_resnet_resumes_within_an_epoch(tmp_path, monkeypatch):
  """Its state has more parts than that of the network of the other tests."""
  settings = {
    'model': 'wrn', 'batch_size': 32, 'train_examples': 64, 'epochs': 2,
    'checkpoint_seconds': 0,
  }  # fmt: skip
  _run(tmp_path / 'whole', **settings)
  save = checkpoint.Checkpoints.save

  def killed_after_the_third_step(self, step, *arguments):
    save(self, step, *arguments)
    if step == 3:
      raise RuntimeError('killed')

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.Checkpoints, 'save', killed_after_the_third_step)
    with pytest.raises(RuntimeError, match='killed'):
      _run(tmp_path / 'cut', **settings)
  _, shown = _run(tmp_path / 'cut', **settings)
  assert 'WRN-10-1' in shown
  assert 'going on after epoch 1, step 1 of 2' in shown
  processes.assert_the_same_end(tmp_path / 'cut', tmp_path / 'whole')


def test_which_runs_can_share_one_program(tmp_path):
  coin = {'optimizer': 'coin', 'horizontal_probability': (0.5,)}
  assert loop.can_run_together(
    _configs(
      {},
      {'seed': 1},
      {'order_seed': 3},
      {'horizontal_momentum': 0.5, 'initial_momentum': 0.1},
      {'weight_decay': 0.0},
      {'learning_rate': 0.01},
      {'schedule': 'steps', 'milestones': (1.0,)},
      # LCAM with equal momenta.
      {'optimizer': 'sgd', 'momentum': 0.95},
    )
  )
  assert loop.can_run_together(
    _configs(coin, {**coin, 'seed': 1, 'horizontal_probability': (0.9, 0.1)})
  )
  for other in (
    coin,
    {'optimizer': 'adam'},
    {'inclusive': False},
    {'nesterov': True},
    {'loss_decay': 0.9},
    {'epochs': 4},
    {'batch_size': 32},
    {'hidden_size': 32},
    {'model': 'wrn'},
    {'train_examples': 100},
  ):
    configs = _configs({}, {'seed': 1, **other})
    assert not loop.can_run_together(configs), other
  with pytest.raises(ValueError, match='only in seeds, schedules and the'):
    _run_together([tmp_path / '0', tmp_path / '1'], configs)
  assert list(tmp_path.iterdir()) == []
