"""The readers of the files of a run directory, one per kind.

Their results are checked, see :mod:`train.records.schema`. Errors are one
sentence that names the file.
"""

from collections.abc import Callable
import functools
import pathlib
from typing import Any, TypeVar

from train import errors
from train import files
from train.records import packed
from train.records import schema
from train.records.run import Run
from train.records.schema import EpochRow
from train.records.schema import StepsRow
from train.records.schema import Summary

CONFIG = 'config.json'
EPOCHS = 'metrics.jsonl'
STEPS = 'steps.jsonl'
SUMMARY = 'summary.json'

_Row = TypeVar('_Row')


def run(path: pathlib.Path, note: schema.Note = schema.ignore) -> Run:
  """Reads a run from its directory, or from packed tables above it.

  Args:
    path: The directory of the run, which may exist or have been packed.
    note: Called for fields that this version does not know.

  Raises:
    UsageError: If there is no run, a file is absent or damaged, or two files
      contradict each other.
  """
  if not path.exists():
    found = packed.find(path)
    if found is not None:
      return found
    raise errors.UsageError(f'There is no directory {path}.')
  config_ = config(path, note)
  rows = epochs(path, note=note)
  summary_ = summary(path, note)
  if summary_ is None:
    if rows:
      raise errors.UsageError(f'{path / SUMMARY} is missing.')
    summary_ = {'status': 'incomplete'}
  elif summary_['status'] == 'done' and not _is_there(path / EPOCHS):
    raise errors.UsageError(f'{path / EPOCHS} is missing.')
  steps_ = steps(path, note=note) if _is_there(path / STEPS) else None
  schema.check_agreement(config_, summary_, rows, steps_, str(path))
  return Run(path, config_, summary_, rows, functools.partial(steps, path))


def config(
  path: pathlib.Path, note: schema.Note = schema.ignore
) -> dict[str, Any]:
  """Reads config.json of a run directory, or raises UsageError."""
  file = path / CONFIG
  return schema.check_config(files.read_json(file), str(file), note)


def summary(
  path: pathlib.Path, note: schema.Note = schema.ignore
) -> Summary | None:
  """Reads summary.json of a run directory; ``None`` if it does not exist.

  Raises:
    UsageError: If it is damaged.
  """
  file = path / SUMMARY
  if not _is_there(file):
    return None
  return schema.check_summary(files.read_json(file), str(file), note)


def epochs(
  path: pathlib.Path,
  *,
  first: int | None = None,
  note: schema.Note = schema.ignore,
) -> list[EpochRow]:
  """Reads metrics.jsonl of a run directory; no rows if it does not exist.

  Args:
    path: The run directory.
    first: Number of lines to read, for a resume, which cuts off the rest.
      Default: all.
    note: Called for fields that this version does not know.

  Raises:
    UsageError: If a line is damaged, truncated, missing or out of order.
  """
  return _rows(path / EPOCHS, schema.check_epochs, first, note)


def steps(
  path: pathlib.Path,
  *,
  first: int | None = None,
  note: schema.Note = schema.ignore,
) -> list[StepsRow]:
  """Reads steps.jsonl, see :func:`epochs`."""
  return _rows(path / STEPS, schema.check_steps, first, note)


def study(path: pathlib.Path, kind: str) -> dict[str, Any]:
  """Reads the record of a study, or raises UsageError.

  Args:
    path: The file.
    kind: One of :data:`schema.STUDIES`.
  """
  return schema.check_study(files.read_json(path), kind, str(path))


def _rows(
  file: pathlib.Path,
  check: Callable[..., list[_Row]],
  first: int | None,
  note: schema.Note,
) -> list[_Row]:
  def where(i: int) -> str:
    return f'{file}, line {i + 1}'

  lines = files.read_bytes(file).split(b'\n') if _is_there(file) else []
  # There is no line after the last line feed.
  if lines and not lines[-1]:
    lines.pop()
  if first is not None:
    if len(lines) < first:
      raise errors.UsageError(
        f'{file} has {len(lines)} of the {first} epochs before the checkpoint.'
      )
    lines = lines[:first]
  rows = [
    files.parse_object(files.decode(line, where(i)), where(i))
    for i, line in enumerate(lines)
  ]
  return check(rows, where, note)


def _is_there(file: pathlib.Path) -> bool:
  """Whether a path exists; true for a dangling link."""
  try:
    file.lstat()
  except (FileNotFoundError, NotADirectoryError):
    return False
  except OSError:
    pass  # Reading it will raise the error.
  return True
