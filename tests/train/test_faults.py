"""What happens to a run from outside: signals, damaged files, a full disk.

Each is done to a real process or to real files. The end must be bit for bit
that of a run to which nothing happened.
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

# 13 steps an epoch; a checkpoint after each.
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
  """Also where every program is compiled once more."""
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


# 400 steps an epoch, and a checkpoint after each epoch alone: what is saved
# within one is saved at the signal.
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
  ('number', 'code'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_asked_to_stop_it_saves_its_step_and_goes_on_later(
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
  assert 'going on after epoch' in resumed.stderr
  processes.assert_the_same_end(directory, undisturbed_of_many_steps)


def test_killed_within_an_epoch_it_goes_on_from_there(undisturbed, tmp_path):
  directory = tmp_path / 'run'
  flags = [*_FLAGS, '--run-dir', directory]
  with processes.start(*flags) as process:
    _wait_for_checkpoints(directory, 16, process)
    process.send_signal(signal.SIGKILL)
  assert processes.read_summary(directory)['status'] == 'incomplete'
  resumed = processes.train(*flags)
  assert resumed.returncode == 0, resumed.stderr
  assert 'going on after epoch 1, step' in resumed.stderr
  processes.assert_the_same_end(directory, undisturbed)


def test_killed_before_it_has_its_configuration(undisturbed, tmp_path):
  directory = tmp_path / 'run'
  flags = [*_FLAGS, '--run-dir', directory]
  # The first file that is put into its place.
  killed = processes.train_killed_at('os.rename', directory, *flags)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  assert [path.name for path in directory.iterdir()] == ['config.tmp']
  finished = processes.train(*flags)
  assert finished.returncode == 0, finished.stderr
  processes.assert_the_same_end(directory, undisturbed)


@pytest.mark.slow
def test_killed_at_each_access_to_its_files(tmp_path):
  """One start after another, each killed one access later than the last."""
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
  ('number', 'code'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_asked_to_stop_before_it_trains(number, code, tmp_path, monkeypatch):
  # So that there is something to compile, which takes seconds.
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


def test_a_disk_that_is_full(undisturbed, tmp_path):
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
  assert 'going on after epoch' in resumed.stderr
  processes.assert_the_same_end(directory, undisturbed)


def test_a_disk_that_fills_up_meanwhile(undisturbed, tmp_path):
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
    assert 'going on after epoch' in resumed.stderr
    processes.assert_the_same_end(tmp_path / 'run', undisturbed)


@pytest.mark.parametrize(
  'name',
  ['config.tmp', 'metrics.tmp', 'steps.tmp', 'summary.tmp', 'metrics.jsonl'],
)
def test_a_file_that_cannot_be_written(name, expected, run_dir, tmp_path):
  """A directory in its place stands in for whatever else can be wrong."""
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
def test_a_disk_that_is_full_of_everything_but_metrics(
  expected, tmp_path, monkeypatch, written
):
  """Full just when a row is written, that of the steps or the other one."""
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
  assert 'going on after epoch 1' in shown
  assert summary['params_sha256'] == expected[1]['params_sha256']
  assert processes.read_rows(directory) == processes.read_rows(expected[0])


# What a process says of each of some commands, and their exit codes.
_COMMANDS = """
import json, sys
from train import __main__ as program
codes = [program.main(command) for command in json.loads(sys.argv[1])]
print(codes)
"""


def _assert_refused(commands, whys, **options):
  """Each before any work, in one sentence."""
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


def test_a_run_directory_that_may_not_be_written(tmp_path):
  directory = tmp_path / 'run'
  directory.mkdir(mode=0o555)
  places = [directory, directory / 'new', pathlib.Path('/proc/run')]
  _assert_refused(
    [['run', '--run-dir', str(place)] for place in places],
    [f'--run-dir {place} cannot be written' for place in places],
    preexec_fn=damage.rights_of_a_user,
  )
  assert not list(directory.iterdir())


def test_a_run_directory_on_a_disk_that_may_not_be_written(tmp_path):
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
  # Nothing is put in its place, and what there was can go on.
  assert not (directory / 'config.json').exists()
  moved = tmp_path / 'elsewhere'
  resumed = processes.train(*_FLAGS, '--run-dir', moved)
  assert resumed.returncode == 0, resumed.stderr
  processes.assert_the_same_end(moved, undisturbed)


@pytest.mark.slow
def test_two_runs_that_decode_the_same_images_at_once(
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
  """A run in this process, its directory and its summary."""
  directory = tmp_path_factory.mktemp('runs') / 'expected'
  return directory, _run(directory)[0]


@pytest.fixture
def run_dir(expected, tmp_path):
  """That run, to be damaged."""
  return pathlib.Path(shutil.copytree(expected[0], tmp_path / 'run'))


def _pretend_it_was_cut_off(directory):
  (directory / 'summary.json').write_text('{"status": "incomplete"}')


@pytest.mark.parametrize('harm', damage.ALL)
def test_the_checkpoint_before_a_damaged_one_is_used(harm, expected, run_dir):
  _pretend_it_was_cut_off(run_dir)
  harm(run_dir / 'checkpoints' / '12')
  summary, shown = _run(run_dir)
  assert f'{run_dir / "checkpoints" / "12"} is damaged' in shown
  assert 'going on after epoch 2' in shown
  assert summary['params_sha256'] == expected[1]['params_sha256']
  assert processes.read_rows(run_dir) == processes.read_rows(expected[0])
  kept = {path.name for path in (run_dir / 'checkpoints').iterdir()}
  assert kept == {'8', '12', '12.1.set-aside'}


def test_a_run_never_starts_from_zero_silently(run_dir):
  _pretend_it_was_cut_off(run_dir)
  for step in ('8', '12'):
    damage.flip_a_bit(run_dir / 'checkpoints' / step)
  with pytest.raises(errors.UsageError, match='can be read'):
    _run(run_dir)


def test_a_run_without_checkpoints_says_that_it_starts_again(expected, run_dir):
  _pretend_it_was_cut_off(run_dir)
  shutil.rmtree(run_dir / 'checkpoints')
  summary, shown = _run(run_dir)
  assert 'there is no checkpoint; it starts from the beginning' in shown
  assert summary['params_sha256'] == expected[1]['params_sha256']


# ------------------------------------------------------------- losses that fail


def test_the_step_at_which_a_run_diverged_is_named(tmp_path):
  summary, shown = _run(
    tmp_path, learning_rate=1e30, checkpoint_seconds=0, checkpoint_every=3
  )
  assert summary['status'] == 'diverged'
  # The first step has a finite loss, and ruins the parameters.
  assert summary['diverged_at_step'] == 2
  assert 'diverged at step 2' in shown
  # It did not go on to the end of its epoch of four steps.
  assert summary['epochs'] == 0
  # What it keeps is from before that step.
  kept = {p.name for p in (tmp_path / 'checkpoints').glob('[0-9]*')}
  assert kept <= {'1'}
  assert json.loads((tmp_path / 'summary.json').read_text()) == summary
