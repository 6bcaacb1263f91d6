"""Text, JSON and pictures on disk: read with care, written whole or not at all.

Text is UTF-8 whatever the locale, and its lines end with a line feed on every
system. What cannot be read is told in one sentence that names the file.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import json
import math
import os
import pathlib
import re
import stat
import tempfile
from typing import Any

from train import errors


def from_user(path: pathlib.Path) -> pathlib.Path:
  """A path as a person gave it, with `~` for a home directory.

  Args:
    path: What was given.

  Raises:
    UsageError: It is no path of this machine's file system.

  Examples:
    >>> from_user(pathlib.Path('gs://bucket/runs'))
    Traceback (most recent call last):
    train.errors.UsageError: gs://bucket/runs is not a path of this machine. \
Mount the place, or copy what is there.
  """
  shown = str(path)
  # pathlib makes one slash of two.
  remote = re.match(r'([A-Za-z][A-Za-z0-9+.-]+):/(.*)', shown)
  if remote:
    shown = f'{remote[1]}://{remote[2]}'
    wrong = (
      'is not a path of this machine. Mount the place, or copy what is there'
    )
  else:
    try:
      os.fsencode(path).decode()  # In another locale it is so nevertheless.
      return path.expanduser()
    except UnicodeDecodeError as error:
      shown = os.fsencode(path).decode(errors='backslashreplace')
      wrong = f'is not UTF-8: {error.reason}'
    except RuntimeError:
      wrong = f'cannot be found: there is no home directory {path.parts[0]}'
  raise errors.UsageError(f'{shown} {wrong}.')


def read_bytes(path: pathlib.Path) -> bytes:
  """The content of a regular file.

  Raises:
    UsageError: It is absent, of another kind (a directory, a pipe), or may not
      be read.
  """
  try:
    # A pipe would be waited for without end.
    if not stat.S_ISREG(path.stat().st_mode):
      raise errors.UsageError(f'{path} is not a file.')
    return path.read_bytes()
  except (OSError, ValueError) as error:
    reason = getattr(error, 'strerror', None) or error
    raise errors.UsageError(f'{path} cannot be read: {reason}.') from error


def decode(content: bytes, where: str) -> str:
  """UTF-8 as text.

  Args:
    content: The bytes of a file, or of a part of it.
    where: The file, and the part, for the error.
  """
  try:
    return content.decode()
  except UnicodeDecodeError as error:
    raise errors.UsageError(
      f'{where} is not UTF-8: {error.reason} at byte {error.start}.'
    ) from error


def read_text(path: pathlib.Path) -> str:
  """The text of a file, or UsageError."""
  return decode(read_bytes(path), str(path))


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """The object in a JSON file, or UsageError; see :func:`parse_object`."""
  return parse_object(read_text(path), str(path))


def parse_object(text: str, where: str) -> dict[str, Any]:
  """A JSON object of finite numbers, in which no name comes twice.

  Args:
    text: The JSON text.
    where: The file, and the line, for the error.

  Raises:
    UsageError: It is not valid JSON, or anything but such an object.
  """
  content = parse(text, where)
  if not isinstance(content, dict):
    raise errors.UsageError(f'{where} is not a JSON object.')
  return content


def parse(text: str, where: str) -> Any:
  """A JSON value of finite numbers, see :func:`parse_object`."""
  if not text.strip():
    raise errors.UsageError(f'{where} is empty.')
  try:
    return json.loads(
      text,
      parse_constant=_refuse_constant,
      parse_float=_finite_float,
      object_pairs_hook=_without_duplicates,
    )
  except RecursionError as error:
    raise errors.UsageError(f'{where} is nested too deeply.') from error
  except ValueError as error:
    raise errors.UsageError(f'{where} is not valid JSON: {error}.') from error


def _refuse_constant(name: str) -> Any:
  raise ValueError(f'{name} is no number of JSON')


def _finite_float(text: str) -> float:
  value = float(text)
  if not math.isfinite(value):
    raise ValueError(f'{text} is out of range')
  return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  content = dict(pairs)
  if len(content) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f'{twice!r} is there twice')
  return content


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
  """Raises RunError where the file cannot be written."""
  try:
    yield
  except OSError as error:
    raise errors.RunError(
      f'{path} cannot be written: {error.strerror}. Once it can be, the same'
      ' command goes on from the last checkpoint.'
    ) from error


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Writes a JSON file completely or not at all, or raises RunError."""
  with writing(path):
    replace_text(
      path, json.dumps(finite(content), indent=2, allow_nan=False) + '\n'
    )


def replace_text(path: pathlib.Path, text: str) -> None:
  """Writes a text file completely or not at all.

  Raises:
    OSError: It cannot be written. What was there before is intact.
  """
  # A lone surrogate, which no text should have, is written as JSON has it.
  content = text.encode(errors='backslashreplace')
  replace(path, lambda unfinished: unfinished.write_bytes(content))


def replace(
  path: pathlib.Path, write: Callable[[pathlib.Path], object]
) -> None:
  """Has a file written completely or not at all.

  Args:
    path: The file.
    write: Writes the content to the path that it is given, which is beside the
      file.

  Raises:
    OSError: It cannot be written. What was there before is intact, as it is
      where ``write`` raises.
  """
  unfinished = unfinished_path(path)
  try:
    write(unfinished)
    with unfinished.open('r+b') as file:
      os.fsync(file.fileno())
    os.replace(unfinished, path)
  except BaseException:
    with contextlib.suppress(OSError):
      unfinished.unlink()
    raise


def unfinished_path(path: pathlib.Path) -> pathlib.Path:
  """Where the content of a file is until it is complete."""
  return path.with_suffix('.tmp')


def append_text(path: pathlib.Path, text: str) -> None:
  """Adds text to the end of a file, and waits until it is on the disk."""
  with path.open('ab') as file:
    file.write(text.encode())
    file.flush()
    os.fsync(file.fileno())


def check_writable(flag: str, directory: pathlib.Path) -> None:
  """Raises UsageError if there can be no such directory to write into.

  Makes nothing: what is to be found wrong later leaves no trace.

  Args:
    flag: Which the directory was given by.
    directory: It, or the first of its parents that exists, is tried.
  """
  place = directory.absolute()
  try:
    while not os.path.lexists(place):
      place = place.parent
    if place.is_symlink() and not place.exists():
      raise errors.UsageError(
        f'{flag} {directory} cannot be made: {place} is a link to nothing.'
      )
    if not place.is_dir():
      raise errors.UsageError(
        f'{flag} {directory} is not a directory.'
        if place == directory.absolute()
        else f'{flag} {directory} cannot be made: {place} is not a directory.'
      )
    with tempfile.TemporaryFile(dir=place):
      pass
  except OSError as error:
    raise errors.UsageError(
      f'{flag} {directory} cannot be written: {error.strerror}.'
    ) from error


def finite(content: Mapping[str, Any]) -> dict[str, Any]:
  """JSON has no NaN and no infinity: they become ``None``."""
  return {
    name: None
    if isinstance(value, float) and not math.isfinite(value)
    else value
    for name, value in content.items()
  }
