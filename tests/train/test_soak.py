"""A run that is killed at many random moments. Slow: `pytest -m slow -s`."""

import os
import random
import signal
import time

import pytest

from tests.train import processes

_KILLS = int(os.environ.get('OPTAX_LCAM_KILLS', '50'))
# Long enough to be killed that often; a checkpoint after each step.
_FLAGS = (
  'run', '--epochs', 2 * _KILLS, '--train-examples', 400, '--batch-size', 32,
  '--checkpoint-seconds', 0,
)  # fmt: skip


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
  undisturbed, killed = tmp_path / 'undisturbed', tmp_path / 'killed'
  finished = processes.train(*_FLAGS, '--run-dir', undisturbed)
  assert finished.returncode == 0, finished.stderr

  moments = random.Random(0)
  kills = 0
  while kills < _KILLS:
    with processes.start(*_FLAGS, '--run-dir', killed) as process:
      # From the imports over the compilation to the steps.
      time.sleep(moments.uniform(0, 12))
      if process.poll() is not None:
        assert process.returncode == 0, process.stderr.read()
        break
      process.send_signal(signal.SIGKILL)
      kills += 1
  finished = processes.train(*_FLAGS, '--run-dir', killed)
  assert finished.returncode == 0, finished.stderr
  ours, theirs = map(processes.read_summary, (killed, undisturbed))
  assert ours['params_sha256'] == theirs['params_sha256']
  assert processes.read_rows(killed) == processes.read_rows(undisturbed)
  print(f'\nSurvived {kills} of {kills} kills.')
