"""The program as a person runs it: a process of its own."""

import json
import os
import pathlib
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


def read_summary(directory):
  return json.loads((directory / 'summary.json').read_text())


def read_rows(directory):
  """The rows of metrics.jsonl, without what is a time."""
  return [
    {k: v for k, v in row.items() if k not in ('images_per_second', 'seconds')}
    for line in (directory / 'metrics.jsonl').open()
    for row in [json.loads(line)]
  ]
