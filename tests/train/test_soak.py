"""A run to which everything happens, many times: `pytest -m slow -s` prints it.

Faults of all kinds are done in random order to one run, each while it goes on
from the last. After each its rows must be those of a run to which nothing
happened, and at the end its parameters too, bit for bit.
"""

import collections
import os
import random
import signal
import time

import pytest

from tests.train import damage
from tests.train import processes
from train import metrics

_FAULTS = int(os.environ.get('OPTAX_LCAM_FAULTS', '100'))
# Long enough for all of them; a checkpoint after each of 13 steps an epoch.
_FLAGS = (
  'run', '--epochs', _FAULTS, '--train-examples', 400, '--batch-size', 32,
  '--checkpoint-seconds', 0,
)  # fmt: skip
_TIMES = ('images_per_second', 'seconds')


def _kill_anywhere(process, _directory, rng):
  # In the imports, the compilation, the first steps.
  time.sleep(rng.uniform(0, 15))
  process.kill()


def _after_some_checkpoints(number):
  def fault(process, directory, rng):
    # In a step, an evaluation, the writing of a checkpoint or a row.
    before, some = _newest(directory), rng.randint(1, 20)
    while process.poll() is None and _newest(directory) < before + some:
      time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.1))
    process.send_signal(number)

  return fault


def _checkpoints(directory):
  # A write that was cut off leaves a folder whose name is more than a number.
  found = [p.name for p in directory.glob('checkpoints/*')]
  return [int(name) for name in found if name.isdigit()]


def _newest(directory):
  return max(_checkpoints(directory), default=0)


_OF_A_PROCESS = {
  'killed at any moment': _kill_anywhere,
  'killed while it trains': _after_some_checkpoints(signal.SIGKILL),
  'asked to stop by SIGTERM': _after_some_checkpoints(signal.SIGTERM),
  'asked to stop by SIGINT': _after_some_checkpoints(signal.SIGINT),
  'disk full': lambda *_: None,
}
_CODES = {
  'killed at any moment': -signal.SIGKILL,
  'killed while it trains': -signal.SIGKILL,
  'asked to stop by SIGTERM': 143,
  'asked to stop by SIGINT': 130,
  'disk full': 1,
}
_DAMAGED = 'newest checkpoint damaged'
# Half of all faults are kills.
_KINDS = [*_OF_A_PROCESS, *list(_OF_A_PROCESS)[:2], _DAMAGED]


def _rows(directory):
  return [
    {name: value for name, value in row.items() if name not in _TIMES}
    for row in metrics.read_rows(directory / 'metrics.jsonl')
  ]


def _disturb(kind, directory, rng):
  """Does it; whether the program answered as it should."""
  if kind == _DAMAGED:
    if len(_checkpoints(directory)) < 2:
      return None
    newest = directory / 'checkpoints' / str(_newest(directory))
    rng.choice(damage.ALL)(newest)
    return True
  flags = (*_FLAGS, '--run-dir', directory)
  if kind == 'disk full':
    if not directory.exists():
      return None
    finished = processes.train(*flags, preexec_fn=damage.no_room)
    code, message = finished.returncode, finished.stderr
  else:
    with processes.start(*flags) as process:
      _OF_A_PROCESS[kind](process, directory, rng)
      _, message = process.communicate(timeout=600)
    code = process.returncode
  if code == 0:
    return None  # It was done before.
  return code == _CODES[kind] and 'Traceback' not in message


@pytest.mark.slow
def test_everything_happens(tmp_path):
  undisturbed, disturbed = tmp_path / 'undisturbed', tmp_path / 'disturbed'
  finished = processes.train(*_FLAGS, '--run-dir', undisturbed)
  assert finished.returncode == 0, finished.stderr
  expected = _rows(undisturbed)

  rng = random.Random(0)
  tried, survived = collections.Counter(), collections.Counter()
  while tried.total() < _FAULTS:
    kind = rng.choice(_KINDS)
    answered = _disturb(kind, disturbed, rng)
    if answered is None:
      if (disturbed / 'curves.png').exists():
        break
      continue
    rows = _rows(disturbed)
    tried[kind] += 1
    survived[kind] += answered and rows == expected[: len(rows)]
  finished = processes.train(*_FLAGS, '--run-dir', disturbed)
  assert finished.returncode == 0, finished.stderr
  ours, theirs = map(processes.read_summary, (disturbed, undisturbed))
  the_same = ours['params_sha256'] == theirs['params_sha256']
  print(f'\nThe same parameters in the end: {the_same}')
  for kind in sorted(tried):
    print(f'{kind}: survived {survived[kind]} of {tried[kind]}')
  assert the_same
  assert _rows(disturbed) == expected
  assert survived == tried
