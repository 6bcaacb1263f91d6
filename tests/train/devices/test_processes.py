"""Runs of several real processes, also if a process ends."""

import json
import pathlib
import signal
import time

import numpy as np
import pytest

from tests.train import processes
from train.devices import processes as devices_processes
from train.devices.processes import HEARTBEAT_SECONDS

# 7 steps per epoch; the batches are not divisible by the processes. With this
# low learning rate, rounding errors are not amplified.
_FLAGS = (
  'run', '--model', 'mlp', '--epochs', 4, '--train-examples', 203,
  '--batch-size', 33, '--learning-rate', 0.01, '--checkpoint-seconds', 0,
)  # fmt: skip
_TOLERANCE = 1e-4
# From the end of one process to that of the others, including 3 seconds during
# which the first process waits for the messages of the others.
_SECONDS_TO_END = 20

# In /proc/net/tcp and tcp6, words in the byte order of x86 and ARM.
_LISTEN = '0A'
_LOOPBACK = {
  '0100007F',
  '0000000000000000FFFF00000100007F',
  '00000000000000000000000001000000',
}


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  directory = tmp_path_factory.mktemp('runs') / 'alone'
  finished = processes.train(*_FLAGS, '--run-dir', directory)
  assert finished.returncode == 0, finished.stderr
  return directory


def _assert_alike(directory, alone):
  assert processes.read_summary(directory)['status'] == 'done'
  ours, theirs = map(processes.read_rows, (directory, alone))
  for our_row, their_row in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(
      our_row['test_loss'], their_row['test_loss'], rtol=_TOLERANCE
    )
    our_steps, their_steps = our_row['steps'], their_row['steps']
    assert our_steps['momentum'] == their_steps['momentum']
    np.testing.assert_allclose(
      our_steps['loss'], their_steps['loss'], rtol=_TOLERANCE
    )


def _wait_for_checkpoint(directory, step, group):
  deadline = time.monotonic() + 300
  while not any(
    path.name.isdigit() and int(path.name) >= step
    for path in directory.glob('checkpoints/*')
  ):
    assert all(process.poll() is None for process in group)
    assert time.monotonic() < deadline
    time.sleep(0.01)


def _listening(port):
  """The listening addresses of a port, in the notation of the kernel."""
  addresses = set()
  for table in ('/proc/net/tcp', '/proc/net/tcp6'):
    for line in pathlib.Path(table).read_text().splitlines()[1:]:
      _, local, _, state, *_ = line.split()
      address, in_hex = local.split(':')
      if state == _LISTEN and int(in_hex, 16) == port:
        addresses.add(address)
  return addresses


def test_two_processes_are_one_run_also_if_stopped(
  alone, tmp_path, monkeypatch
):
  flags = [*_FLAGS, '--run-dir', tmp_path / 'run']
  of_second = [*_FLAGS, '--run-dir', tmp_path / 'of the second']

  started = []

  def start(*arguments):
    started.append(arguments)
    return start_process(*arguments)

  start_process = processes.start
  monkeypatch.setattr(processes, 'start', start)

  # A signal to one process stops both at the same step.
  with processes.start_group(flags, of_second) as group:
    _wait_for_checkpoint(tmp_path / 'run', 3, group)
    # The coordinator listens only on the given address.
    at = started[0][started[0].index('--coordinator') + 1]
    assert at.startswith('localhost:')
    listening = _listening(int(at.removeprefix('localhost:')))
    assert listening
    assert listening <= _LOOPBACK
    group[1].send_signal(signal.SIGTERM)
    codes, messages = processes.finish_group(group)
  assert codes == [143, 143], messages
  for message in messages:
    assert 'stopped by SIGTERM' in message
    assert 'Traceback' not in message
  assert processes.read_summary(tmp_path / 'run')['status'] == 'incomplete'

  with processes.start_group(flags, of_second) as group:
    codes, messages = processes.finish_group(group)
  assert codes == [0, 0], messages
  assert 'resuming after epoch' in messages[0]
  # Only the first process writes.
  assert not (tmp_path / 'of the second').exists()
  _assert_alike(tmp_path / 'run', alone)
  config = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert (config['process_count'], config['device_count']) == (2, 2)
  # The second process prints only the line of JAX.
  assert 'epoch' not in messages[1]


@pytest.mark.slow
def test_if_the_second_process_is_killed_the_first_does_not_wait_forever(
  alone, tmp_path
):
  flags = [*_FLAGS, '--run-dir', tmp_path / 'run']
  with processes.start_group(flags, flags) as group:
    _wait_for_checkpoint(tmp_path / 'run', 15, group)
    group[1].kill()
    killed = time.monotonic()
    codes, messages = processes.finish_group(group)
    assert time.monotonic() - killed < _SECONDS_TO_END
  assert codes == [1, -signal.SIGKILL], messages
  assert 'has lost another process' in messages[0]
  assert 'Traceback' not in messages[0]
  codes, messages = processes.train_group(2, *flags)
  assert codes == [0, 0], messages
  assert 'resuming after epoch' in messages[0]
  _assert_alike(tmp_path / 'run', alone)


def test_the_cluster_is_detected_before_jax_connects(monkeypatch):
  """A missing process is then reported on a cluster too."""
  for name, value in {
    'SLURM_JOB_ID': '77',
    'SLURM_STEP_NODELIST': 'node[7-9]',
    'SLURM_NTASKS': '4',
    'SLURM_PROCID': '2',
    'SLURM_LOCALID': '1',
  }.items():
    monkeypatch.setenv(name, value)
  found = devices_processes._of_cluster()
  assert found == ('node7:61517', 2, 4, [1])


def test_processes_with_different_settings(tmp_path):
  flags = [*_FLAGS, '--run-dir', tmp_path / 'run']
  with processes.start_group(flags, [*flags, '--epochs', 5]) as group:
    codes, messages = processes.finish_group(group)
  assert codes == [2, 2], messages
  for message in messages:
    assert '--epochs is 4 in process 0 and 5 in process 1' in message
    assert 'Traceback' not in message
  assert not (tmp_path / 'run').exists()


def test_distributed_without_a_cluster_is_rejected(tmp_path):
  finished = processes.train(
    *_FLAGS, '--distributed', '--run-dir', tmp_path / 'run'
  )
  assert finished.returncode == 2
  assert '--distributed finds no cluster' in finished.stderr
  assert len(finished.stderr.splitlines()) == 1
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_missing_first_process_is_reported(tmp_path):
  finished = processes.train(
    *_FLAGS, '--coordinator', 'localhost:1', '--process-id', 1,
    '--process-count', 2, '--run-dir', tmp_path / 'run',
  )  # fmt: skip
  assert finished.returncode == 2
  assert '--coordinator localhost:1 cannot be reached' in finished.stderr
  assert len(finished.stderr.splitlines()) == 1


@pytest.mark.slow
def test_an_error_in_one_process_ends_all(tmp_path):
  flags = [*_FLAGS, '--run-dir', tmp_path / 'run']
  for own, part in (
    (['--optimizer', 'coin'], 'Process 1: '),
    (['--train-examples', 9999], 'Process 1: '),
  ):
    with processes.start_group(flags, [*flags, *own]) as group:
      codes, messages = processes.finish_group(group)
    assert codes == [2, 2], messages
    assert part in messages[0]
    assert 'Traceback' not in messages[0] + messages[1]
  assert not (tmp_path / 'run').exists()
  # Only the first process uses the run directory, but all report the error.
  (tmp_path / 'run').write_text('in the way')
  codes, messages = processes.train_group(2, *flags)
  assert codes == [2, 2], messages
  assert all('is not a directory' in message for message in messages)


@pytest.mark.slow
def test_four_processes_are_one_run(alone, tmp_path):
  codes, messages = processes.train_group(
    4, *_FLAGS, '--run-dir', tmp_path / 'run'
  )
  assert codes == [0] * 4, messages
  _assert_alike(tmp_path / 'run', alone)


@pytest.mark.slow
def test_two_processes_equal_two_devices_bit_for_bit(tmp_path, monkeypatch):
  codes, messages = processes.train_group(
    2, *_FLAGS, '--run-dir', tmp_path / 'processes'
  )
  assert codes == [0, 0], messages
  variables = processes.environment() | {
    'XLA_FLAGS': '--xla_force_host_platform_device_count=2'
  }
  monkeypatch.setattr(processes, 'environment', lambda: variables)
  finished = processes.train(*_FLAGS, '--run-dir', tmp_path / 'devices')
  assert finished.returncode == 0, finished.stderr
  assert processes.read_rows(tmp_path / 'processes') == processes.read_rows(
    tmp_path / 'devices'
  )
  assert (
    processes.read_summary(tmp_path / 'processes')['params_sha256']
    == processes.read_summary(tmp_path / 'devices')['params_sha256']
  )


@pytest.mark.slow
def test_the_first_process_is_killed(alone, tmp_path):
  flags = [*_FLAGS, '--run-dir', tmp_path / 'run']
  with processes.start_group(flags, flags) as group:
    _wait_for_checkpoint(tmp_path / 'run', 3, group)
    group[0].kill()
    killed = time.monotonic()
    codes, messages = processes.finish_group(group)
    assert time.monotonic() - killed < _SECONDS_TO_END
  # The second process reports it, or JAX does and aborts the process.
  assert codes[1] in (1, -signal.SIGABRT), messages
  assert (
    'has lost another process' in messages[1]
    or 'another task died' in messages[1]
  )
  finished = processes.train(*flags)  # One process can resume a run of two.
  assert finished.returncode == 0, finished.stderr
  _assert_alike(tmp_path / 'run', alone)


@pytest.mark.slow
def test_one_of_four_is_killed(alone, tmp_path):
  flags = [*_FLAGS, '--run-dir', tmp_path / 'run']
  with processes.start_group(*[flags] * 4) as group:
    _wait_for_checkpoint(tmp_path / 'run', 3, group)
    group[2].kill()
    killed = time.monotonic()
    codes, messages = processes.finish_group(group)
    seconds = time.monotonic() - killed
  print(f'\nThree processes ended {seconds:.0f} s after the fourth.')
  assert seconds < _SECONDS_TO_END
  assert codes == [1, 1, -signal.SIGKILL, 1], messages
  for message in messages[:2] + messages[3:]:
    assert 'has lost another process' in message
    assert 'Traceback' not in message
  codes, messages = processes.train_group(4, *flags)
  assert codes == [0] * 4, messages
  _assert_alike(tmp_path / 'run', alone)


@pytest.mark.slow
@pytest.mark.parametrize('frozen', [0, 1])
def test_a_frozen_process_is_detected(frozen, tmp_path):
  flags = [*_FLAGS, '--epochs', 400, '--run-dir', tmp_path / 'run']
  with processes.start_group(flags, flags) as group:
    _wait_for_checkpoint(tmp_path / 'run', 3, group)
    group[frozen].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    _, message = group[1 - frozen].communicate(timeout=600)
    seconds = time.monotonic() - stopped
  print(f'\nMissed a frozen process {frozen} after {seconds:.0f} s.')
  assert seconds < HEARTBEAT_SECONDS + _SECONDS_TO_END
  assert group[1 - frozen].returncode != 0
  assert 'another task died' in message or 'has lost another process' in message
