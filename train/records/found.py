"""Finds all records in or below some directories, and reports invalid ones."""

import collections
from collections.abc import Iterable, Iterator
import dataclasses
import json
import os
import pathlib
from typing import Any

from train import errors
from train.records import packed
from train.records import read
from train.records import schema
from train.records.run import Run

INTERIM = 'interim'
"""A folder of runs of an experiment that is not complete. It is read only if it
is named, so that no interim results are in a report."""

# The others are parts of a run directory that contain no records.
_NOT_ENTERED = ('checkpoints', 'tensorboard', 'wandb', INTERIM)


@dataclasses.dataclass(frozen=True)
class Study:
  """A record of one of the studies."""

  kind: str
  """A name in the registry of studies."""
  path: pathlib.Path
  record: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Found:
  """The records found. Duplicate runs occur once."""

  runs: list[Run]
  """Ordered by directory, then by path."""
  studies: list[Study]
  """By kind in the order of the report."""
  left_out: list[str]
  """One sentence for each record that cannot be used."""
  notes: list[str]
  """Other remarks, one sentence each."""


def find(directories: Iterable[pathlib.Path]) -> Found:
  """Reads all runs and studies in or below the directories.

  Folders with the name :data:`INTERIM` below them are not entered.

  A run is identified by its experiment, settings and seeds, whatever the path,
  link or packed table. If two records of one run have different results, both
  are left out.

  Raises:
    UsageError: If a directory does not exist, or no record can be read.
  """
  directories = list(directories)
  left_out: list[str] = []
  unknown: collections.Counter[str] = collections.Counter()
  runs: list[Run] = []
  studies: list[Study] = []
  seen: set[str] = set()
  for directory in directories:
    if not directory.is_dir():
      raise errors.UsageError(f'There is no directory {directory}.')
    for folder in _folders(directory, seen, left_out):
      # Once per run, not once per row.
      fields: set[str] = set()
      try:
        if packed.is_packed(folder):
          tables = packed.read(folder, fields.add)
          runs += tables.runs
          left_out += tables.left_out
        if _is_run(folder):
          runs.append(read.run(folder, fields.add))
      except errors.UsageError as error:
        left_out.append(str(error))
      unknown.update(fields)
      for kind in schema.STUDIES:
        file = folder / f'{kind}.json'
        if not os.path.lexists(file):
          continue
        try:
          studies.append(Study(kind, file, read.study(file, kind)))
        except errors.UsageError as error:
          left_out.append(str(error))
  notes = [
    f'This version does not know the field {field}, which'
    f' {count} {"folders have" if count > 1 else "folder has"}.'
    for field, count in unknown.items()
  ]
  runs = _once(runs, left_out, notes)
  if left_out and not runs and not studies:
    others = len(left_out) - 1
    raise errors.UsageError(
      f'No record can be used. {left_out[0]}'
      + (f' And {others} more are damaged.' if others else '')
    )
  if not runs and not studies:
    given = ', '.join(map(str, directories))
    raise errors.UsageError(f'There is no run in {given}.')
  return Found(runs, _distinct(studies), left_out, notes)


def _is_run(folder: pathlib.Path) -> bool:
  """Whether a folder belongs to a run that has started."""
  return any(
    os.path.lexists(folder / name) for name in (read.SUMMARY, read.EPOCHS)
  )


def _folders(
  directory: pathlib.Path, seen: set[str], left_out: list[str]
) -> Iterator[pathlib.Path]:
  """A directory and its subdirectories in order, each once; follows links."""
  folders = []

  def told(error: OSError) -> None:
    left_out.append(f'{error.filename} cannot be read: {error.strerror}.')

  for place, inner, _ in os.walk(directory, onerror=told, followlinks=True):
    real = os.path.realpath(place)
    if real in seen:
      inner.clear()
      continue
    seen.add(real)
    inner[:] = sorted(name for name in inner if name not in _NOT_ENTERED)
    folders.append(pathlib.Path(place))
  yield from sorted(folders, key=lambda folder: folder.parts)


def _once(
  runs: Iterable[Run], left_out: list[str], notes: list[str]
) -> list[Run]:
  """Removes duplicates, and runs whose results contradict each other."""
  same: dict[str, list[Run]] = {}
  for run in runs:
    identity = (run.config.get('experiment'), run.settings, run.seeds)
    same.setdefault(json.dumps(identity, sort_keys=True), []).append(run)
  kept = []
  copies = 0
  for own in same.values():
    # An unfinished run does not contradict a finished one.
    ended = [run for run in own if run.summary['status'] != 'incomplete']
    candidates = ended or own[:1]
    if any(run.results != candidates[0].results for run in candidates[1:]):
      paths = ', '.join(str(run.path) for run in candidates)
      left_out.append(
        f'{paths} have the same settings and seeds, but different results; none'
        ' of them is used.'
      )
      continue
    copies += len(own) - 1
    kept.append(candidates[0])
  if copies:
    what = 'runs are duplicates' if copies > 1 else 'run is a duplicate'
    notes.append(f'{copies} {what} under another path, and not counted again.')
  return kept


def _distinct(studies: Iterable[Study]) -> list[Study]:
  """Removes duplicate studies; ordered by kind as in the report."""
  kept: list[Study] = []
  for kind in schema.STUDIES:
    for study in studies:
      if study.kind == kind and all(
        study.record != other.record for other in kept
      ):
        kept.append(study)
  return kept
