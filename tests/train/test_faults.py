"""Faults during a run: signals, damaged files, a full disk.

Each fault happens to a real process or to real files. The results must be equal
to those of an undisturbed run, bit for bit.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.train import damage
from tests.train import processes
from tests.train import runs
from train import errors
from train import loop
from train.program import build
from train.records import checkpoint

# 13 steps per epoch; a checkpoint after each step.
_FLAGS = (
  'run', '--model', 'mlp', '--epochs', 4, '--train-examples', 400,
  '--batch-size', 32, '--checkpoint-seconds', 0,
)  # fmt: skip


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  directory = tmp_path_factory.mktemp('runs') / 'undisturbed'
  finished = processes.train(*_FLAGS, '--run-dir', directory)
  assert finished.returncode == 0, finished.stderr
  return directory


def test_the_same_command_twice_gives_the_same_bytes(
  undisturbed, tmp_path, monkeypatch
):
  """The second run compiles every program again."""
  monkeypatch.setenv('JAX_ENABLE_COMPILATION_CACHE', 'false')
  finished = processes.train(*_FLAGS, '--run-dir', tmp_path / 'again')
  assert finished.returncode == 0, finished.stderr
  processes.assert_the_same_end(tmp_path / 'again', undisturbed)


def _wait_for_checkpoints(directory, count, process):
  deadline = time.monotonic() + 300
  while True:
    found = [p.name for p in directory.glob('checkpoints/*')]
    steps = [int(name) for name in found if name.isdigit()]
    if steps and max(steps) >= count:
      return
    assert process.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.005)


# 400 steps per epoch, and a checkpoint only after each epoch, so a checkpoint
# within an epoch was saved because of the signal.
_MANY_STEPS = (
  'run', '--model', 'mlp', '--epochs', 4, '--train-examples', 400,
  '--batch-size', 1, '--checkpoint-seconds', 1e6,
)  # fmt: skip


@pytest.fixture(scope='module')
def undisturbed_of_many_steps(tmp_path_factory):
  directory = tmp_path_factory.mktemp('runs') / 'undisturbed'
  finished = processes.train(*_MANY_STEPS, '--run-dir', directory)
  assert finished.returncode == 0, finished.stderr
  return directory


@pytest.mark.parametrize(
  ('number', 'code'),
  [
    pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    (signal.SIGTERM, 143),
  ],
)
def test_a_run_that_is_asked_to_stop_saves_its_step_and_can_be_resumed(
  number, code, undisturbed_of_many_steps, tmp_path
):
  directory = tmp_path / 'run'
  flags = [*_MANY_STEPS, '--run-dir', directory]
  with processes.start(*flags) as process:
    for line in process.stderr:
      if 'epoch 1/4' in line:
        break
    time.sleep(random.random() / 10)
    process.send_signal(number)
    rest = process.stderr.read()
  assert process.returncode == code
  assert f'stopped by {number.name}' in rest
  assert 'resumes' in rest
  assert 'Traceback' not in rest
  assert processes.read_summary(directory)['status'] == 'incomplete'
  resumed = processes.train(*flags)
  assert resumed.returncode == 0, resumed.stderr
  assert 'resuming after epoch' in resumed.stderr
  processes.assert_the_same_end(directory, undisturbed_of_many_steps)


def test_a_run_killed_within_an_epoch_resumes_there(undisturbed, tmp_path):
  directory = tmp_path / 'run'
  flags = [*_FLAGS, '--run-dir', directory]
  with processes.start(*flags) as process:
    _wait_for_checkpoints(directory, 16, process)
    process.send_signal(signal.SIGKILL)
  assert processes.read_summary(directory)['status'] == 'incomplete'
  resumed = processes.train(*flags)
  assert resumed.returncode == 0, resumed.stderr
  assert 'resuming after epoch 1, step' in resumed.stderr
  processes.assert_the_same_end(directory, undisturbed)


def test_killed_before_the_configuration_is_written(undisturbed, tmp_path):
  directory = tmp_path / 'run'
  flags = [*_FLAGS, '--run-dir', directory]
  # Killed when the first file is moved into place.
  killed = processes.train_killed_at('os.rename', directory, *flags)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  assert [path.name for path in directory.iterdir()] == ['config.tmp']
  finished = processes.train(*flags)
  assert finished.returncode == 0, finished.stderr
  processes.assert_the_same_end(directory, undisturbed)


@pytest.mark.slow
def test_killed_at_each_access_to_its_files(tmp_path):
  """Each start is killed one access later than the previous one."""
  flags = ['run', '--model', 'mlp', '--epochs', 1, '--train-examples', 100]
  directory, undisturbed = tmp_path / 'run', tmp_path / 'undisturbed'
  for kills in range(1000):
    finished = processes.train_killed_at(
      kills + 1, directory, *flags, '--run-dir', directory
    )
    if finished.returncode != -signal.SIGKILL:
      break
  print(f'\nKilled at each of {kills} accesses to its files.')
  assert finished.returncode == 0, finished.stderr
  assert kills > 20
  finished = processes.train(*flags, '--run-dir', undisturbed)
  assert finished.returncode == 0, finished.stderr
  processes.assert_the_same_end(directory, undisturbed)


@pytest.mark.parametrize(
  ('number', 'code'),
  [
    (signal.SIGINT, 130),
    pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
  ],
)
def test_asked_to_stop_before_training(number, code, tmp_path, monkeypatch):
  # Compilation then takes seconds.
  monkeypatch.setenv('JAX_ENABLE_COMPILATION_CACHE', 'false')
  directory = tmp_path / 'run'
  flags = [*_FLAGS, '--hidden-layers', 8]
  with processes.start(*flags, '--run-dir', directory) as process:
    for line in process.stderr:
      if 'MLP-8x64' in line:
        break
    process.send_signal(number)
    rest = process.stderr.read()
  assert process.returncode == code
  assert 'epoch' not in rest
  assert f'stopped by {number.name}. The same command resumes' in rest
  assert 'Traceback' not in rest


@pytest.mark.slow  # The next test fills it during training.
def test_a_full_disk(undisturbed, tmp_path):
  directory = tmp_path / 'run'
  flags = [*_FLAGS, '--run-dir', directory]
  with processes.start(*flags) as process:
    _wait_for_checkpoints(directory, 5, process)
    process.send_signal(signal.SIGKILL)
  full = processes.train(*flags, preexec_fn=damage.no_room)
  assert full.returncode == 1, full.stderr
  assert 'cannot be written' in full.stderr
  assert 'Traceback' not in full.stderr
  resumed = processes.train(*flags)
  assert resumed.returncode == 0, resumed.stderr
  assert 'resuming after epoch' in resumed.stderr
  processes.assert_the_same_end(directory, undisturbed)


def test_a_disk_that_fills_up_during_training(undisturbed, tmp_path):
  flags = [*_FLAGS, '--run-dir', tmp_path / 'run']
  with damage.disk(tmp_path, megabytes=8):
    with processes.start(*flags) as process:
      _wait_for_checkpoints(tmp_path / 'run', 5, process)
      with damage.full(tmp_path):
        _, message = process.communicate(timeout=300)
    assert process.returncode == 1
    assert 'cannot be written' in message
    assert 'No space left on device' in message
    assert 'Traceback' not in message
    resumed = processes.train(*flags)
    assert resumed.returncode == 0, resumed.stderr
    assert 'resuming after epoch' in resumed.stderr
    processes.assert_the_same_end(tmp_path / 'run', undisturbed)


@pytest.mark.parametrize(
  'name',
  ['config.tmp', 'metrics.tmp', 'steps.tmp', 'summary.tmp', 'metrics.jsonl'],
)
def test_a_file_that_cannot_be_written(name, expected, run_dir, tmp_path):
  """A directory with the name of the file represents all causes."""
  directory = tmp_path / 'new run'
  if name == 'metrics.jsonl':
    directory = run_dir
    _pretend_it_was_cut_off(directory)
    (directory / name).unlink()
    shutil.rmtree(directory / 'checkpoints' / '12')
  (directory / name).mkdir(parents=True)
  with pytest.raises((errors.RunError, errors.UsageError), match='run'):
    _run(directory)
  (directory / name).rmdir()
  if name != 'metrics.jsonl':
    summary, _ = _run(directory)
    assert summary['params_sha256'] == expected[1]['params_sha256']


@pytest.mark.parametrize('written', [0, 1])
def test_a_disk_that_is_full_when_a_row_is_written(
  expected, tmp_path, monkeypatch, written
):
  """The row is that of the steps or that of the epoch."""
  directory = tmp_path / 'run'
  append = loop.metrics.MetricsLog.append
  fsync = os.fsync

  def append_to_full(self, row, steps):
    rows = []

    def full(file):
      rows.append(file)
      if len(rows) > written:
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
      if row['epoch'] == 2:
        patch.setattr(os, 'fsync', full)
      append(self, row, steps)

  with monkeypatch.context() as patch:
    patch.setattr(loop.metrics.MetricsLog, 'append', append_to_full)
    with pytest.raises(errors.RunError, match='No space left on device'):
      _run(directory)
  assert fsync is os.fsync
  summary, shown = _run(directory)
  assert 'resuming after epoch 1' in shown
  assert summary['params_sha256'] == expected[1]['params_sha256']
  assert processes.read_rows(directory) == processes.read_rows(expected[0])


# Runs commands in one process and prints their exit codes.
_COMMANDS = """
import json, sys
from train import __main__ as program
codes = [program.main(command) for command in json.loads(sys.argv[1])]
print(codes)
"""


def _assert_refused(commands, whys, **options):
  """Checks that each command is rejected with one sentence."""
  finished = subprocess.run(
    [sys.executable, '-c', _COMMANDS, json.dumps(commands)],
    env=processes.environment(),
    capture_output=True,
    text=True,
    timeout=600,
    **options,
  )
  assert finished.stdout == f'{[2] * len(commands)}\n', finished.stderr
  for line, why in zip(finished.stderr.splitlines(), whys, strict=True):
    assert why in line


def test_a_run_directory_without_write_permission(tmp_path):
  directory = tmp_path / 'run'
  directory.mkdir(mode=0o555)
  places = [directory, directory / 'new', pathlib.Path('/proc/run')]
  _assert_refused(
    [['run', '--run-dir', str(place)] for place in places],
    [f'--run-dir {place} cannot be written' for place in places],
    preexec_fn=damage.rights_of_a_user,
  )
  assert not list(directory.iterdir())


def test_a_run_directory_on_a_read_only_disk(tmp_path):
  with damage.disk(tmp_path, megabytes=8), damage.read_only(tmp_path):
    _assert_refused(
      [['run', '--run-dir', str(tmp_path / 'run')]],
      ['cannot be written: Read-only file system'],
    )


def test_a_run_directory_that_vanishes(undisturbed, tmp_path):
  directory = tmp_path / 'run'
  with processes.start(*_FLAGS, '--run-dir', directory) as process:
    _wait_for_checkpoints(directory, 5, process)
    directory.rename(tmp_path / 'elsewhere')
    _, message = process.communicate(timeout=300)
  assert process.returncode == 1
  assert f'{directory}' in message
  assert 'Traceback' not in message
  # It is not created again, and the moved run can be resumed.
  assert not (directory / 'config.json').exists()
  moved = tmp_path / 'elsewhere'
  resumed = processes.train(*_FLAGS, '--run-dir', moved)
  assert resumed.returncode == 0, resumed.stderr
  processes.assert_the_same_end(moved, undisturbed)


@pytest.mark.parametrize('moment', ['saved', 'row'])
def test_a_run_directory_that_is_moved_and_created_again(
  moment, expected, tmp_path, monkeypatch
):
  """Just before Orbax writes, which creates it; and by another process."""
  directory, moved = tmp_path / 'run', tmp_path / 'moved'
  reserve, evaluate = checkpoint.Checkpoints._reserve, build.Program.evaluate

  def move_then_save(self, size):
    reserve(self, size)
    if moment == 'saved' and (self.directory / '4').exists():
      directory.rename(moved)

  def move_then_evaluate(self, *arguments):
    if moment == 'row' and (directory / 'checkpoints' / '4').exists():
      directory.rename(moved)
      directory.mkdir()
      (directory / 'metrics.jsonl').write_text('of another run')
    return evaluate(self, *arguments)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.Checkpoints, '_reserve', move_then_save)
    patch.setattr(build.Program, 'evaluate', move_then_evaluate)
    with pytest.raises(errors.RunError, match='run is no longer the directory'):
      _run(directory)
  # Its rows and its configuration are not put there.
  there = ['checkpoints'] if moment == 'saved' else ['metrics.jsonl']
  assert [path.name for path in directory.iterdir()] == there
  if moment == 'row':
    assert (directory / 'metrics.jsonl').read_text() == 'of another run'
  summary, shown = _run(moved)
  assert 'resuming after epoch 1' in shown
  assert summary['params_sha256'] == expected[1]['params_sha256']


@pytest.mark.slow
def test_two_runs_can_decode_the_same_images_at_once(
  cifar_dir, tmp_path, monkeypatch
):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  flags = [
    'run', '--dataset', 'cifar10', '--data-dir', cifar_dir, '--epochs', 1,
    '--train-examples', 64, '--model', 'mlp',
  ]  # fmt: skip
  directories = [tmp_path / name for name in 'abc']
  runs = [processes.start(*flags, '--run-dir', d) for d in directories[:2]]
  for run in runs:
    _, message = run.communicate(timeout=600)
    assert run.returncode == 0, message
  (entry,) = (tmp_path / 'cache' / 'optax-lcam' / 'arrays').iterdir()
  before = {path: path.stat().st_mtime_ns for path in entry.iterdir()}
  third = processes.train(*flags, '--run-dir', directories[2])
  assert third.returncode == 0, third.stderr
  assert {path: path.stat().st_mtime_ns for path in entry.iterdir()} == before
  for directory in directories[1:]:
    processes.assert_the_same_end(directory, directories[0])


# ---------------------------------------------------------- damaged checkpoints

_run = runs.run


@pytest.fixture(scope='module')
def expected(tmp_path_factory):
  """The directory and the summary of a run in this process."""
  directory = tmp_path_factory.mktemp('runs') / 'expected'
  return directory, _run(directory)[0]


@pytest.fixture
def run_dir(expected, tmp_path):
  """A copy of that run, which tests damage."""
  return pathlib.Path(shutil.copytree(expected[0], tmp_path / 'run'))


def _pretend_it_was_cut_off(directory):
  (directory / 'summary.json').write_text('{"status": "incomplete"}')


@pytest.mark.parametrize('harm', damage.ALL)
def test_a_resume_uses_the_checkpoint_before_a_damaged_one(
  harm, expected, run_dir
):
  _pretend_it_was_cut_off(run_dir)
  harm(run_dir / 'checkpoints' / '12')
  summary, shown = _run(run_dir)
  assert f'{run_dir / "checkpoints" / "12"} is damaged' in shown
  assert 'resuming after epoch 2' in shown
  assert summary['params_sha256'] == expected[1]['params_sha256']
  assert processes.read_rows(run_dir) == processes.read_rows(expected[0])
  kept = {path.name for path in (run_dir / 'checkpoints').iterdir()}
  assert kept == {'8', '12', '12.1.set-aside'}


def test_a_run_with_only_damaged_checkpoints_is_rejected(run_dir):
  _pretend_it_was_cut_off(run_dir)
  for step in ('8', '12'):
    damage.flip_a_bit(run_dir / 'checkpoints' / step)
  with pytest.raises(errors.UsageError, match='is intact'):
    _run(run_dir)


def test_a_run_without_checkpoints_reports_that_it_restarts(expected, run_dir):
  _pretend_it_was_cut_off(run_dir)
  shutil.rmtree(run_dir / 'checkpoints')
  summary, shown = _run(run_dir)
  assert 'there is no checkpoint; it starts from the beginning' in shown
  assert summary['params_sha256'] == expected[1]['params_sha256']


# ------------------------------------------------------------ non-finite losses


def test_the_step_at_which_a_run_diverged_is_reported(tmp_path):
  summary, shown = _run(
    tmp_path, learning_rate=1e30, checkpoint_seconds=0, checkpoint_every=3
  )
  assert summary['status'] == 'diverged'
  # The first step has a finite loss, but makes the parameters huge.
  assert summary['diverged_at_step'] == 2
  assert 'diverged at step 2' in shown
  # It stopped before the end of its epoch of four steps.
  assert summary['epochs'] == 0
  # The checkpoint is from before that step.
  kept = {p.name for p in (tmp_path / 'checkpoints').glob('[0-9]*')}
  assert kept <= {'1'}
  assert json.loads((tmp_path / 'summary.json').read_text()) == summary
