"""Every record in or below some directories, and what is wrong with some."""

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

# In a run directory, and nothing that is looked for.
_NOT_ENTERED = ('checkpoints', 'tensorboard', 'wandb')


@dataclasses.dataclass(frozen=True)
class Study:
  """A record of one of the studies."""

  kind: str
  """traction, movement or probe."""
  path: pathlib.Path
  record: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Found:
  """What there is. A run that is there twice is in it once."""

  runs: list[Run]
  """In the order of the directories, and of the paths in each."""
  studies: list[Study]
  """By kind in the order of the report."""
  left_out: list[str]
  """A sentence on each record that cannot be used, which names it."""
  notes: list[str]
  """A sentence on whatever else is worth to be known."""


def find(directories: Iterable[pathlib.Path]) -> Found:
  """Reads every run and every study in or below the directories.

  A run is the same under whatever path, link or packed table it lies: its
  experiment, settings and seeds say which it is. Two that are the same and have
  different results are both left out.

  Raises:
    UsageError: A directory is absent, there is nothing in any of them, or
      nothing that can be read.
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
      # Once for each run, however many rows have the field.
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
  """Whether a folder is of a run that has begun."""
  return any(
    os.path.lexists(folder / name) for name in (read.SUMMARY, read.EPOCHS)
  )


def _folders(
  directory: pathlib.Path, seen: set[str], left_out: list[str]
) -> Iterator[pathlib.Path]:
  """A directory and all below it in order, links followed, each once."""
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
  """Every run once; none of those whose results contradict each other."""
  same: dict[str, list[Run]] = {}
  for run in runs:
    identity = (run.config.get('experiment'), run.settings, run.seeds)
    same.setdefault(json.dumps(identity, sort_keys=True), []).append(run)
  kept = []
  copies = 0
  for own in same.values():
    # One that has not ended yet says nothing against one that has.
    ended = [run for run in own if run.summary['status'] != 'incomplete']
    candidates = ended or own[:1]
    if any(run.results != candidates[0].results for run in candidates[1:]):
      paths = ', '.join(str(run.path) for run in candidates)
      left_out.append(
        f'{paths} have the same settings and seeds and different results, so'
        ' that none of them counts.'
      )
      continue
    copies += len(own) - 1
    kept.append(candidates[0])
  if copies:
    notes.append(
      f'{copies} {"runs are" if copies > 1 else "run is"} there once more under'
      ' another path, and counted once.'
    )
  return kept


def _distinct(studies: Iterable[Study]) -> list[Study]:
  """Every study once, by kind in the order of the report."""
  kept: list[Study] = []
  for kind in schema.STUDIES:
    for study in studies:
      if study.kind == kind and all(
        study.record != other.record for other in kept
      ):
        kept.append(study)
  return kept
