"""Runs the program as a user does, in one or several processes."""

import contextlib
import hashlib
import json
import os
import pathlib
import socket
import subprocess
import sys

from orbax import checkpoint as ocp
from safetensors import numpy as safetensors_numpy
from tensorboard.backend.event_processing import event_accumulator

from tests.train import forkserver
from train.config import FREE_TO_CHANGE

_REPOSITORY = pathlib.Path(__file__).parents[2]
_TIMES = ('images_per_second', 'seconds')


def environment():
  # One device, as on a machine without XLA_FLAGS.
  variables = dict(os.environ)
  variables.pop('XLA_FLAGS', None)
  return variables


def start(
  *arguments,
  module='train',
  cwd=_REPOSITORY,
  env=None,
  imported=True,
  **options,
):
  """Starts the program. Use the result as a context manager.

  Args:
    *arguments: The arguments of the program.
    module: The module to run in place of the program.
    cwd: The working directory.
    env: The environment. Default: :func:`environment`.
    imported: Whether the libraries may be imported beforehand, see
      forkserver.py. They are not if the environment would change their import.
    **options: ``stdout``, ``stderr`` and ``preexec_fn`` of
      :class:`subprocess.Popen`.
  """
  env = environment() if env is None else env
  if imported and forkserver.can_start(env):
    return forkserver.Process(module, arguments, cwd=cwd, env=env, **options)
  return subprocess.Popen(
    [sys.executable, '-m', module, *map(str, arguments)],
    cwd=cwd,
    env=env,
    text=True,
    **{'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **options},
  )


def train(*arguments, **options):
  """Runs the program to its end; for the options see :func:`start`."""
  with start(*arguments, **options) as process:
    try:
      stdout, stderr = process.communicate(timeout=600)
    except BaseException:
      process.kill()
      raise
  return subprocess.CompletedProcess(
    arguments, process.returncode, stdout, stderr
  )


def train_killed_at(moment, directory, *arguments):
  """Runs the program until it accesses a directory; see kill_at.py."""
  return train(moment, directory, *arguments, module='tests.train.kill_at')


@contextlib.contextmanager
def start_group(*flags_of_each, options=None):
  """Begins a run of several processes, each with flags of its own.

  Args:
    *flags_of_each: Of each process.
    options: Of each process, see :func:`start`.
  """
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  group = [
    start(
      *flags, '--coordinator', f'localhost:{port}', '--process-id', i,
      '--process-count', len(flags_of_each), **(options[i] if options else {}),
    )
    for i, flags in enumerate(flags_of_each)
  ]  # fmt: skip
  try:
    yield group
  finally:
    for process in group:
      process.kill()
      process.communicate()


def finish_group(group):
  """Waits for all processes; returns exit codes and standard errors."""
  outputs = [process.communicate(timeout=600) for process in group]
  return [process.returncode for process in group], [e for _, e in outputs]


def train_group(count, *flags):
  """Runs a group of processes with the same flags to its end."""
  with start_group(*[flags] * count) as group:
    return finish_group(group)


def read_summary(directory):
  return json.loads((directory / 'summary.json').read_text())


def read_rows(directory):
  """The rows of metrics.jsonl without times, each with its steps."""
  rows, steps = (
    [json.loads(line) for line in (directory / name).open()]
    for name in ('metrics.jsonl', 'steps.jsonl')
  )
  return [
    without_times(row) | {'steps': of_steps}
    for row, of_steps in zip(rows, steps, strict=True)
  ]


def assert_the_same_end(directory, undisturbed):
  """Checks that two run directories have the same bytes, except for times."""
  ours, theirs = map(_files, (directory, undisturbed))
  assert ours == theirs
  for name in ours - {'config.json', 'metrics.jsonl', 'summary.json'}:
    assert (directory / name).read_bytes() == (
      undisturbed / name
    ).read_bytes(), name
  assert _configuration(directory) == _configuration(undisturbed)
  assert read_rows(directory) == read_rows(undisturbed)
  our_summary, their_summary = map(read_summary, (directory, undisturbed))
  assert our_summary['status'] == 'done'
  assert without_times(our_summary) == without_times(their_summary)
  assert _events(directory) == _events(undisturbed)
  assert_the_same_state(directory, undisturbed)


def assert_the_same_state(directory, undisturbed):
  """Checks that the last checkpoints of two runs are equal, bit for bit.

  This includes parameters, BatchNorm statistics, trace, the sum of the losses,
  momentum, and the metrics of the steps of the last epoch.
  """
  (our_step, ours), (their_step, theirs) = map(
    _newest_checkpoint, (directory, undisturbed)
  )
  assert our_step == their_step
  assert ours.keys() == theirs.keys()
  parts = ['params', 'trace', 'loss_sum', 'momentum']
  if _configuration(directory)['model'] == 'wrn':
    parts.append('batch_stats')
  for part in parts:
    assert any(part in name for name in ours), part
  for name, array in ours.items():
    assert array.dtype == theirs[name].dtype
    assert array.tobytes() == theirs[name].tobytes(), name


def _configuration(directory):
  """The settings and the software that determine the results of a run."""
  content = json.loads((directory / 'config.json').read_text())
  free = {*FREE_TO_CHANGE, 'git_commit'}  # A user may commit meanwhile.
  return {k: v for k, v in content.items() if k not in free}


def without_times(record):
  return {k: v for k, v in record.items() if k not in _TIMES}


def _files(directory):
  """The names of all files whose content must be the same."""
  names = {
    path.relative_to(directory).as_posix()
    for path in directory.rglob('*')
    if path.is_file()
  }
  return {
    name
    for name in names
    if not name.startswith(('checkpoints/', 'tensorboard/'))
  }


def _events(directory):
  """The curves in TensorBoard: values over steps, by name."""
  events = event_accumulator.EventAccumulator(
    str(directory / 'tensorboard'), {event_accumulator.SCALARS: 0}
  )
  events.Reload()
  return {
    tag: [(event.step, event.value) for event in events.Scalars(tag)]
    for tag in events.Tags()['scalars']
    if tag not in _TIMES
  }


def _newest_checkpoint(directory):
  """Its step, and its arrays by name."""
  names = [path.name for path in (directory / 'checkpoints').iterdir()]
  # Interrupted writes leave no files.
  steps = [int(name) for name in names if name.isdigit()]
  aside = [name for name in names if name.endswith('.set-aside')]
  assert len(steps) + len(aside) == len(names), names
  step = max(steps)
  (content,) = ocp.StandardCheckpointer().restore(
    directory / 'checkpoints' / str(step) / 'state'
  )
  digest, arrays = content[:32].tobytes(), content[32:].tobytes()
  assert digest == hashlib.sha256(arrays).digest()
  return step, safetensors_numpy.load(arrays)
