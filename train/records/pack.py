"""Packs all records below some directories into one folder."""

from collections.abc import Sequence
import dataclasses
import pathlib

from train import errors
from train import files
from train.records import found as found_lib
from train.records import packed
from train.records.run import Run


@dataclasses.dataclass(frozen=True)
class Result:
  """What was packed."""

  runs: int
  studies: int
  left_out: list[str]
  """One sentence for each record that is not in the tables."""
  notes: list[str]

  @property
  def told(self) -> list[str]:
    """All sentences."""
    return [*self.left_out, *self.notes]


def pack(directories: Sequence[pathlib.Path], out: pathlib.Path) -> Result:
  """Writes the tables of all runs, and copies the records of studies.

  The directories are not changed. Checkpoints, TensorBoard files and pictures
  are not packed.

  Args:
    directories: Directories with runs and studies at any depth.
    out: Output folder, created if absent. It may be one of the directories.

  Raises:
    UsageError: If there is nothing to pack, or ``out`` cannot be written.
  """
  found = found_lib.find(directories)
  if found.runs:
    packed.write([(_name(run, directories), run) for run in found.runs], out)
  for study in found.studies:
    file = out / _below(study.path, directories)
    try:
      file.parent.mkdir(parents=True, exist_ok=True)
      files.replace_text(file, files.read_text(study.path))
    except OSError as error:
      raise errors.UsageError(
        f'{file} cannot be written: {error.strerror}.'
      ) from error
  return Result(
    len(found.runs), len(found.studies), found.left_out, found.notes
  )


def _name(run: Run, directories: Sequence[pathlib.Path]) -> str:
  return _below(run.path, directories).as_posix()


def _below(
  path: pathlib.Path, directories: Sequence[pathlib.Path]
) -> pathlib.PurePath:
  """The path relative to the directory in which it was found.

  With several directories, it begins with the name of the directory.
  """
  directory = next(d for d in directories if d == path or d in path.parents)
  below = path.relative_to(directory)
  if len(directories) > 1 or below == pathlib.PurePath():
    return pathlib.PurePath(directory.resolve().name) / below
  return below
