"""The program as a person runs it: a process of its own, or several."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys

_REPOSITORY = pathlib.Path(__file__).parents[2]


def command(*arguments):
  return [sys.executable, '-m', 'train', *map(str, arguments)]


def environment():
  # One device: it is what the program sees on a plain machine.
  variables = dict(os.environ)
  variables.pop('XLA_FLAGS', None)
  return variables


def train(*arguments, **options):
  """Runs it to its end."""
  return subprocess.run(
    command(*arguments),
    cwd=_REPOSITORY,
    env=environment(),
    capture_output=True,
    text=True,
    timeout=600,
    **options,
  )


def start(*arguments):
  """Begins it. Use the result as a context manager."""
  return subprocess.Popen(
    command(*arguments),
    cwd=_REPOSITORY,
    env=environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@contextlib.contextmanager
def start_group(*flags_of_each):
  """Begins a run of several processes, each with flags of its own."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  group = [
    start(
      *flags, '--coordinator', f'localhost:{port}', '--process-id', i,
      '--process-count', len(flags_of_each),
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
  """Waits for all; the exit codes and what each wrote to standard error."""
  outputs = [process.communicate(timeout=600) for process in group]
  return [process.returncode for process in group], [e for _, e in outputs]


def train_group(count, *flags):
  """Runs a group of processes with the same flags to its end."""
  with start_group(*[flags] * count) as group:
    return finish_group(group)


def read_summary(directory):
  return json.loads((directory / 'summary.json').read_text())


def read_rows(directory):
  """The rows of metrics.jsonl without what is a time, each with its steps."""
  rows, steps = (
    [json.loads(line) for line in (directory / name).open()]
    for name in ('metrics.jsonl', 'steps.jsonl')
  )
  return [
    {k: v for k, v in row.items() if k not in ('images_per_second', 'seconds')}
    | {'steps': of_steps}
    for row, of_steps in zip(rows, steps, strict=True)
  ]
