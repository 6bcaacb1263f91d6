"""The metrics of an epoch agree with NumPy, and their files."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from train import errors
from train.program.step import EvalMetrics
from train.program.step import StepMetrics
from train.records import metrics
from train.records import read
from train.records import run_directory


def _row(epoch):
  return {
    'epoch': epoch,
    'step': 10 * epoch,
    'train_loss': 1 / epoch,
    'train_error': 2.0,
    'test_loss': 0.5,
    'test_error': 10.0 - epoch % 3,
    'learning_rate': 0.1,
    'horizontal_fraction': None,
    'mean_momentum': 0.9,
    'images_per_second': 100.0,
    'seconds': 1.0,
  }


def test_an_epoch_is_the_mean_over_its_images():
  dispatches = [
    StepMetrics(
      loss=np.asarray([2.0, 1.0], np.float32),
      correct=np.asarray([5, 7], np.int32),
      momentum=np.asarray([0.9, 0.93], np.float32),
      horizontal=np.asarray([0.0, 1.0], np.float32),
    ),
    StepMetrics(
      loss=np.asarray([4.0], np.float32),
      correct=np.asarray([1], np.int32),
      momentum=np.asarray([0.93], np.float32),
      horizontal=np.asarray([1.0], np.float32),
    ),
  ]
  epoch = metrics.summarize_epoch(dispatches, 10, 25)
  np.testing.assert_allclose(epoch['train_loss'], (20 + 10 + 20) / 25)
  np.testing.assert_allclose(epoch['train_error'], 100 * 12 / 25)
  np.testing.assert_allclose(epoch['horizontal_fraction'], 2 / 3)
  np.testing.assert_allclose(epoch['mean_momentum'], 0.92, rtol=1e-6)


def test_the_first_loss_that_is_not_finite():
  steps = [
    StepMetrics(np.asarray(losses, np.float32), None, None, None)
    for losses in ([1.0, 2.0], [np.inf], [np.nan, 1.0])
  ]
  assert metrics.first_not_finite(steps, 5) == 3
  assert metrics.first_not_finite(steps[:1], 5) == 5


def test_an_evaluation_is_the_mean_over_the_test_set():
  steps = [
    EvalMetrics(np.float32(30), np.int32(8)),
    EvalMetrics(np.float32(6), np.int32(2)),
  ]
  tested = metrics.summarize_test(steps, 12)
  assert tested == {'test_loss': 3.0, 'test_error': pytest.approx(100 / 6)}


def _steps(epoch):
  return [
    StepMetrics(
      loss=np.asarray([2 / epoch, 1 / 3], np.float32),
      correct=np.asarray([5, 7], np.int32),
      momentum=np.asarray([0.9, 0.93], np.float32),
      horizontal=np.asarray([0.0, 1.0], np.float32),
    ),
    StepMetrics(
      loss=np.asarray([np.nan], np.float32),
      correct=np.asarray([1], np.int32),
      momentum=np.asarray([0.9], np.float32),
      horizontal=np.asarray([0.0], np.float32),
    ),
  ]


def _lines(path):
  return [json.loads(line) for line in path.open()]


def test_the_steps_of_an_epoch_are_recorded_bit_for_bit():
  losses = np.random.default_rng(0).lognormal(0, 9, 1000).astype(np.float32)
  (steps,) = [
    StepMetrics(losses, None, np.full(1000, np.float32(0.93)), losses > 1)
  ]
  row = json.loads(json.dumps(metrics.steps_row(4, [steps])))
  assert row['epoch'] == 4
  np.testing.assert_array_equal(np.float32(row['loss']), losses)
  assert set(row['momentum']) == {0.93}
  assert row['horizontal'] == [int(loss > 1) for loss in losses]


def test_steps_without_momentum_phase_and_finite_loss():
  nothing = np.full(2, np.float32(np.nan))
  row = metrics.steps_row(1, [StepMetrics(nothing, None, nothing, nothing)])
  assert row == {
    'epoch': 1,
    # One entry per step, for any losses.
    'loss': [None, None],
    'momentum': None,
    'horizontal': None,
  }


def test_pytorch_is_not_imported():
  """It is also not hidden from later imports."""
  program = (
    'import sys\nfrom train.records import metrics\n'
    'print("torch" in sys.modules)\n'
  )
  finished = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert finished.stdout == 'False\n'


def test_rows_are_json_lines_with_the_values_of_tensorboard(tmp_path):
  directory = run_directory.RunDirectory(tmp_path)
  log = metrics.MetricsLog(directory, 0)
  for epoch in (1, 2, 3):
    log.append(_row(epoch), _steps(epoch))
  log.close()
  assert _lines(tmp_path / 'metrics.jsonl') == [_row(1), _row(2), _row(3)]
  assert _lines(tmp_path / 'steps.jsonl')[1] == {
    'epoch': 2,
    'loss': [1.0, 0.33333334, None],
    'momentum': [0.9, 0.93, 0.9],
    'horizontal': [0, 1, 0],
  }
  assert log.best_test_error() == 8.0
  events = event_accumulator.EventAccumulator(str(tmp_path / 'tensorboard'))
  events.Reload()
  losses = [(e.step, e.value) for e in events.Scalars('train_loss')]
  np.testing.assert_allclose(losses, [(1, 1), (2, 1 / 2), (3, 1 / 3)])
  assert 'horizontal_fraction' not in events.Tags()['scalars']


def _ask(port, path):
  """The answer of TensorBoard, once it listens and has read its files."""
  deadline = time.monotonic() + 120
  while True:
    try:
      with urllib.request.urlopen(
        f'http://localhost:{port}/data/{path}'
      ) as got:
        answer = json.load(got)
      if answer:
        return answer
    except urllib.error.URLError:
      pass
    assert time.monotonic() < deadline
    time.sleep(0.2)


def test_the_tensorboard_program_shows_the_same_names_and_values(tmp_path):
  log = metrics.MetricsLog(run_directory.RunDirectory(tmp_path), 0)
  for epoch in (1, 2):
    log.append(_row(epoch) | {'horizontal_fraction': 0.5}, _steps(epoch))
  log.close()
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  flags = f'--host localhost --port {port} --load_fast false'.split()
  program = subprocess.Popen(
    [sys.executable, '-m', 'tensorboard.main', '--logdir', tmp_path, *flags],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  try:
    ((run, tags),) = _ask(port, 'plugin/scalars/tags').items()
    # Fields that only locate a row are no curves.
    assert tags.keys() == _row(1).keys() - {'epoch', 'step', 'seconds'}
    for name in tags:
      points = _ask(port, f'plugin/scalars/scalars?run={run}&tag={name}')
      expected = 0.5 if name == 'horizontal_fraction' else _row(2)[name]
      assert [step for _, step, _ in points] == [1, 2]
      assert points[-1][2] == pytest.approx(expected)
    layout = _ask(port, 'plugin/custom_scalars/layout')
    drawn = [
      tag
      for category in layout['category']
      for chart in category['chart']
      for tag in chart['multiline']['tag']
    ]
    assert sorted(drawn) == sorted(tags)
  finally:
    program.kill()
    program.wait()


def test_the_folder_of_tensorboard_can_be_a_link(tmp_path):
  elsewhere, run = tmp_path / 'elsewhere', tmp_path / 'run'
  elsewhere.mkdir()
  run.mkdir()
  (run / 'tensorboard').symlink_to(elsewhere)
  for _ in range(2):
    log = metrics.MetricsLog(run_directory.RunDirectory(run), 0)
    log.append(_row(1), _steps(1))
    log.close()
  events = event_accumulator.EventAccumulator(str(elsewhere))
  events.Reload()
  assert len(events.Scalars('train_loss')) == 1
  assert (run / 'tensorboard').is_symlink()


def test_a_resumed_log_keeps_the_epochs_before_the_checkpoint(tmp_path):
  directory = run_directory.RunDirectory(tmp_path)
  log = metrics.MetricsLog(directory, 0)
  for epoch in (1, 2, 3):
    log.append(_row(epoch), _steps(epoch))
  log.close()
  for name in ('metrics.jsonl', 'steps.jsonl'):
    with (tmp_path / name).open('a') as file:
      file.write('{"epoch": 4, "ste')  # cut off by a crash
  before = (tmp_path / 'steps.jsonl').read_text().splitlines()
  log = metrics.MetricsLog(directory, 2)
  log.append(_row(3), _steps(3))
  log.close()
  rows = read.epochs(tmp_path)
  assert [row['epoch'] for row in rows] == [1, 2, 3]
  assert (tmp_path / 'steps.jsonl').read_text().splitlines() == before[:3]


def test_a_log_of_a_version_without_steps(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text(json.dumps(_row(1)) + '\n')
  log = metrics.MetricsLog(run_directory.RunDirectory(tmp_path), 1)
  log.append(_row(2), _steps(2))
  log.close()
  assert [row['epoch'] for row in log.rows] == [1, 2]
  before, after = _lines(tmp_path / 'steps.jsonl')
  assert before == {
    'epoch': 1, 'loss': None, 'momentum': None, 'horizontal': None
  }  # fmt: skip
  assert after['loss'] == [1.0, 0.33333334, None]


@pytest.mark.parametrize('name', ['metrics.jsonl', 'steps.jsonl'])
def test_missing_rows_are_detected(name, tmp_path):
  """Rows after a line that cannot be read are missing too."""
  directory = run_directory.RunDirectory(tmp_path)
  log = metrics.MetricsLog(directory, 0)
  for epoch in (1, 2, 3):
    log.append(_row(epoch), _steps(epoch))
  log.close()
  whole = (tmp_path / name).read_bytes()
  first, second, third = whole.splitlines(keepends=True)
  assert metrics.MetricsLog(directory, 3).rows[-1]['epoch'] == 3
  for damaged in (first + b'\xff' + second[1:] + third, first, first + third):
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(errors.UsageError, match=f'{name} is damaged'):
      metrics.MetricsLog(directory, 3)
    # The file is unchanged.
    assert (tmp_path / name).read_bytes() == damaged
  (tmp_path / name).write_bytes(whole)
  assert len(metrics.MetricsLog(directory, 3).rows) == 3
