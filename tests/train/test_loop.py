"""One run in this process: what it writes, and that it repeats."""

import dataclasses
import io
import json

import jax
import numpy as np
import pytest
import rich.console
from tensorboard.backend.event_processing import event_accumulator

from train import config as config_lib
from train import errors
from train import experiments
from train import loop
from train import sweep

_CONFIG = config_lib.Config(
  epochs=3, batch_size=64, train_examples=200, eval_batch_size=360
)


def _run(directory, **settings):
  stream = io.StringIO()
  console = rich.console.Console(file=stream)
  config = dataclasses.replace(_CONFIG, **settings)
  summary = loop.run(config, directory, console=console)
  return summary, stream.getvalue()


def _rows(directory):
  return [json.loads(line) for line in (directory / 'metrics.jsonl').open()]


def _without_times(rows):
  times = {'images_per_second', 'seconds'}
  return [{k: v for k, v in row.items() if k not in times} for row in rows]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  directory = tmp_path_factory.mktemp('runs') / 'finished'
  summary, shown = _run(directory)
  return directory, summary, shown


def test_a_row_an_epoch(finished):
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


def test_the_summary_says_how_it_ended(finished):
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
  assert config['device_count'] == 8
  assert config['process_count'] == 1
  assert config['versions']['jax'] == jax.__version__
  assert 'git_commit' in config


def test_the_picture_and_the_events(finished):
  directory, _, _ = finished
  assert (directory / 'curves.png').stat().st_size > 10_000
  events = event_accumulator.EventAccumulator(str(directory / 'tensorboard'))
  events.Reload()
  rows = _rows(directory)
  np.testing.assert_allclose(
    [event.value for event in events.Scalars('test_error')],
    [row['test_error'] for row in rows],
    rtol=1e-6,
  )


def test_what_it_shows(finished):
  _, _, shown = finished
  assert 'WRN-10-1' in shown
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


def test_the_dropout_seed_matters_where_there_is_dropout(tmp_path):
  summaries = [
    _run(
      tmp_path / str(seed),
      dropout_rate=0.3,
      dropout_seed=seed,
      epochs=1,
      train_examples=64,
    )[0]
    for seed in (0, 1)
  ]
  assert summaries[0]['params_sha256'] != summaries[1]['params_sha256']


def test_how_images_are_batched_for_testing_changes_nothing(finished, tmp_path):
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


def test_a_finished_run_says_so_and_does_nothing(finished):
  directory, summary, _ = finished
  before = {p: p.stat().st_mtime_ns for p in directory.rglob('*')}
  again, shown = _run(directory)
  assert again == summary
  assert 'is finished' in shown
  assert {p: p.stat().st_mtime_ns for p in directory.rglob('*')} == before


def test_another_command_is_refused_and_told_what_differs(finished):
  directory, _, _ = finished
  with pytest.raises(
    errors.UsageError, match=r'--horizontal-momentum 0.95 \(was 0.93\)'
  ):
    _run(directory, horizontal_momentum=0.95)


def test_a_directory_with_something_else_in_it_is_refused(tmp_path):
  (tmp_path / 'letter.txt').write_text('dear reader')
  with pytest.raises(errors.UsageError, match='not empty'):
    _run(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ['letter.txt']


@pytest.mark.parametrize('settings', [{'epochs': 0}, {'train_examples': 9999}])
def test_wrong_input_leaves_no_directory(tmp_path, settings):
  with pytest.raises(errors.UsageError):
    _run(tmp_path / 'run', **settings)
  assert not (tmp_path / 'run').exists()


def test_a_loss_that_explodes_is_called_diverged(tmp_path):
  summary, _ = _run(
    tmp_path / 'run', learning_rate=1e30, epochs=4, train_examples=64
  )
  assert summary['status'] == 'diverged'
  assert summary['epochs'] < 4
  assert _rows(tmp_path / 'run')[-1]['train_loss'] is None
  # Nothing that is not finite is kept.
  checkpoints = list((tmp_path / 'run' / 'checkpoints').glob('[0-9]*'))
  assert len(checkpoints) < summary['epochs']


def test_longer_dispatches_are_the_same_run(finished, tmp_path):
  directory, _, _ = finished
  _run(tmp_path / 'run', steps_per_dispatch=3, epochs=1)
  ours = _rows(tmp_path / 'run')[0]
  # The rate's decay depends on the number of epochs; the first epoch of a run
  # of 1 decays from step 0.8 on, that of 3 from step 2.4.
  theirs = _rows(directory)[0]
  assert ours['step'] == theirs['step']
  np.testing.assert_allclose(ours['train_loss'], theirs['train_loss'], rtol=0.1)


def _digits(epochs=1):
  return [
    dataclasses.replace(
      experiments.get(name),
      config=dataclasses.replace(
        experiments.get(name).config, epochs=epochs, train_examples=64
      ),
    )
    for name in ('digits-lcam', 'digits-fixed')
  ]


def test_a_sweep_pairs_its_seeds(tmp_path):
  console = rich.console.Console(file=io.StringIO())
  assert sweep.sweep(_digits(), 2, tmp_path, console) == []
  configs = {
    path.parent.relative_to(tmp_path).as_posix(): json.loads(path.read_text())
    for path in tmp_path.rglob('config.json')
  }
  assert configs.keys() == {
    f'digits-{arm}/seed-{seed}' for arm in ('lcam', 'fixed') for seed in (0, 1)
  }
  for seed in (0, 1):
    lcam = configs[f'digits-lcam/seed-{seed}']
    fixed = configs[f'digits-fixed/seed-{seed}']
    assert {name for name in lcam if lcam[name] != fixed[name]} == {
      'experiment',
      'optimizer',
    }


def test_a_run_that_fails_leaves_the_rest_of_a_sweep_alone(
  tmp_path, monkeypatch
):
  console = rich.console.Console(file=io.StringIO(), width=200)
  real = loop.run

  def run(config, directory, **keywords):
    if config.optimizer == 'lcam':
      directory.mkdir(parents=True)
      raise MemoryError('out of it')
    return real(config, directory, **keywords)

  monkeypatch.setattr(loop, 'run', run)
  failed = sweep.sweep(_digits(), 1, tmp_path, console)
  assert failed == [tmp_path / 'digits-lcam' / 'seed-0']
  assert "MemoryError('out of it')" in console.file.getvalue()
  assert 'Traceback' in (failed[0] / 'error.txt').read_text()
  done = json.loads(
    (tmp_path / 'digits-fixed' / 'seed-0' / 'summary.json').read_text()
  )
  assert done['status'] == 'done'
