"""A run to which everything happens, many times: `pytest -m slow -s` prints it.

Faults of all kinds are done in random order to one run, each while it goes on
from the last. After each its rows must be those of a run to which nothing
happened, and at the end all that it has written, bit for bit.
"""

import collections
import json
import os
import random
import signal
import time

import pytest

from tests.train import damage
from tests.train import processes

# Of 10 kinds, 6 of which are kills.
_FAULTS = int(os.environ.get('OPTAX_LCAM_FAULTS', '100'))
_STEPS_PER_EPOCH = 13
# Long enough for all of them; a checkpoint after each step. Testing one image
# at a time makes evaluations long enough to be hit.
_FLAGS = (
  'run', '--epochs', _FAULTS, '--train-examples', 400, '--batch-size', 32,
  '--checkpoint-seconds', 0, '--eval-batch-size', 1,
)  # fmt: skip


class _Fault:
  """One fault that is done to one process, from its start to its end."""

  def __init__(self, directory, rng):
    self.directory = directory
    self.rng = rng
    self.shown = ''

  def run(self, action, code):
    """Whether the program answered with a code, and without a traceback.

    None where it was finished before.
    """
    with processes.start(*_FLAGS, '--run-dir', self.directory) as process:
      action(process)
      _, rest = process.communicate(timeout=600)
    self.shown += rest
    if process.returncode == 0:
      return None
    return process.returncode == code and 'Traceback' not in self.shown

  # ---------------------------------------------------------------- kills

  def killed_at_any_moment(self):
    def kill(process):
      time.sleep(self.rng.uniform(0, 15))
      process.kill()

    return self.run(kill, -signal.SIGKILL)

  def killed_while_it_compiles(self):
    def kill(process):
      for line in process.stderr:
        self.shown += line
        if 'WRN-10-1' in line:
          break
      time.sleep(self.rng.uniform(0, 2))
      process.kill()

    os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
    try:
      return self.run(kill, -signal.SIGKILL)
    finally:
      del os.environ['JAX_ENABLE_COMPILATION_CACHE']

  def killed_in_a_step(self):
    def kill(process):
      self._wait(process, self._newest() + self.rng.randint(1, 20))
      time.sleep(self.rng.uniform(0, 0.1))
      process.kill()

    return self.run(kill, -signal.SIGKILL)

  def killed_as_it_writes_a_checkpoint(self):
    def kill(process):
      self._wait(process, self._newest() + self.rng.randint(1, 5))
      while process.poll() is None and not self._is_writing():
        pass
      time.sleep(self.rng.uniform(0, 0.02))
      process.kill()

    return self.run(kill, -signal.SIGKILL)

  def killed_as_it_evaluates(self):
    def kill(process):
      before_last = self._newest() + self.rng.randint(1, _STEPS_PER_EPOCH)
      before_last += -(before_last + 1) % _STEPS_PER_EPOCH
      self._wait(process, before_last)
      time.sleep(self.rng.uniform(0, 0.15))
      process.kill()

    return self.run(kill, -signal.SIGKILL)

  def killed_at_an_access_to_its_files(self):
    killed = processes.train_killed_at(
      self.rng.randint(1, 200),
      self.directory,
      *_FLAGS,
      '--run-dir',
      self.directory,
    )
    self.shown = killed.stderr
    if killed.returncode == 0:
      return None
    return killed.returncode == -signal.SIGKILL

  # --------------------------------------------------------------- others

  def stopped_by_sigterm(self):
    return self._stopped(signal.SIGTERM, 143)

  def stopped_by_sigint(self):
    return self._stopped(signal.SIGINT, 130)

  def disk_full(self):
    def fill(process):
      self._wait(process, self._newest() + self.rng.randint(1, 10))
      time.sleep(self.rng.uniform(0, 0.1))
      with damage.full(self.directory.parent, self.rng.choice([0, 500_000])):
        _, rest = process.communicate(timeout=600)
      self.shown += rest

    answered = self.run(fill, 1)
    return answered and 'cannot be written' in self.shown

  def newest_checkpoint_damaged(self):
    if len(self._checkpoints()) < 2:
      return None
    newest = self.directory / 'checkpoints' / str(self._newest())
    self.rng.choice(damage.ALL)(newest)
    return True

  def _stopped(self, number, code):
    def stop(process):
      self._wait(process, self._newest() + self.rng.randint(1, 20))
      time.sleep(self.rng.uniform(0, 0.1))
      process.send_signal(number)

    return self.run(stop, code)

  # -------------------------------------------------------------- moments

  def where_it_was(self):
    """In what a kill has struck, as far as can be told from outside."""
    if 'WRN-10-1' not in self.shown:
      return 'the start'
    if 'Compiled in' not in self.shown:
      return 'the compilation'
    if self._is_writing():
      return 'the writing of a checkpoint'
    epoch, step = divmod(self._newest(), _STEPS_PER_EPOCH)
    if step == _STEPS_PER_EPOCH - 1 and len(_rows(self.directory)) == epoch:
      return 'the last step of an epoch or its evaluation'
    return 'a step or anything else'

  def _checkpoints(self):
    # A write that was cut off leaves a folder whose name is more than a number.
    names = [path.name for path in self.directory.glob('checkpoints/*')]
    return [int(name) for name in names if name.isdigit()]

  def _newest(self):
    return max(self._checkpoints(), default=0)

  def _is_writing(self):
    return any(self.directory.glob('checkpoints/*tmp*'))

  def _wait(self, process, step):
    while process.poll() is None and self._newest() < step:
      time.sleep(0.002)


_KILLS = (
  _Fault.killed_at_any_moment,
  _Fault.killed_while_it_compiles,
  _Fault.killed_in_a_step,
  _Fault.killed_as_it_writes_a_checkpoint,
  _Fault.killed_as_it_evaluates,
  _Fault.killed_at_an_access_to_its_files,
)
_KINDS = (
  *_KILLS,
  _Fault.stopped_by_sigterm,
  _Fault.stopped_by_sigint,
  _Fault.disk_full,
  _Fault.newest_checkpoint_damaged,
)


def _name(kind):
  return kind.__name__.replace('_', ' ')


def _rows(directory, name='metrics.jsonl'):
  path = directory / name
  # Without a last line that a kill has cut off.
  lines = path.read_bytes().split(b'\n')[:-1] if path.exists() else []
  return [processes.without_times(json.loads(line)) for line in lines]


def _are_a_beginning(disturbed, undisturbed):
  """Whether the rows are those of a run to which nothing happened."""
  for name in ('metrics.jsonl', 'steps.jsonl'):
    rows = _rows(disturbed, name)
    if rows != _rows(undisturbed, name)[: len(rows)]:
      return False
  return True


@pytest.mark.slow
def test_everything_happens(tmp_path):
  undisturbed, small = tmp_path / 'undisturbed', tmp_path / 'small'
  finished = processes.train(*_FLAGS, '--run-dir', undisturbed)
  assert finished.returncode == 0, finished.stderr

  rng = random.Random(0)
  faults = [_KINDS[i % len(_KINDS)] for i in range(_FAULTS)]
  rng.shuffle(faults)
  tried, survived = collections.Counter(), collections.Counter()
  struck = collections.Counter()
  small.mkdir()
  with damage.disk(small, megabytes=16):
    disturbed = small / 'run'
    for kind in faults:
      fault = _Fault(disturbed, rng)
      answered = kind(fault)
      if answered is None:
        continue  # Nothing could be done to it.
      tried[kind] += 1
      survived[kind] += answered and _are_a_beginning(disturbed, undisturbed)
      moment = fault.where_it_was()
      if kind in _KILLS:
        struck[moment] += 1
      print(
        f'{tried.total()}. {_name(kind)} in {moment}: {survived[kind]} of'
        f' {tried[kind]}',
        flush=True,
      )
    finished = processes.train(*_FLAGS, '--run-dir', disturbed)
    print()
    for kind in _KINDS:
      print(f'{_name(kind)}: survived {survived[kind]} of {tried[kind]}')
    kills = [sum(count[kind] for kind in _KILLS) for count in (survived, tried)]
    print(f'kills: survived {kills[0]} of {kills[1]}, which struck in')
    for moment, count in struck.most_common():
      print(f'  {moment}: {count}')
    assert finished.returncode == 0, finished.stderr
    processes.assert_the_same_end(disturbed, undisturbed)
    print('In the end all is as if nothing had happened.')
  assert survived == tried
