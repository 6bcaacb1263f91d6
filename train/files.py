"""Text, JSON and figures on disk, with validation and atomic writes.

Text is UTF-8 with line feeds, independent of locale and system. A file that
cannot be read raises an error with one sentence that names it.
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
  """Expands `~` in a path that a user gave, and checks the path.

  Args:
    path: The path as given.

  Raises:
    UsageError: If it is not a path of the local file system.

  Examples:
    >>> from_user(pathlib.Path('gs://bucket/runs'))
    Traceback (most recent call last):
    train.errors.UsageError: gs://bucket/runs is not a path of this machine. \
Mount the place, or copy what is there.
  """
  shown = str(path)
  # pathlib merges two slashes.
  remote = re.match(r'([A-Za-z][A-Za-z0-9+.-]+):/(.*)', shown)
  if remote:
    shown = f'{remote[1]}://{remote[2]}'
    wrong = (
      'is not a path of this machine. Mount the place, or copy what is there'
    )
  else:
    try:
      os.fsencode(path).decode()  # Also in a locale other than UTF-8.
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
    UsageError: If it is absent, not a regular file (a directory, a pipe), or
      cannot be read.
  """
  try:
    # Reading a pipe could block forever.
    if not stat.S_ISREG(path.stat().st_mode):
      raise errors.UsageError(f'{path} is not a file.')
    return path.read_bytes()
  except (OSError, ValueError) as error:
    reason = getattr(error, 'strerror', None) or error
    raise errors.UsageError(f'{path} cannot be read: {reason}.') from error


def decode(content: bytes, where: str) -> str:
  """Decodes UTF-8.

  Args:
    content: The bytes of a file, or of a part of it.
    where: Name of the file and the part, for the error.
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
  """Parses a JSON object of finite numbers without duplicate names.

  Args:
    text: The JSON text.
    where: Name of the file and the line, for the error.

  Raises:
    UsageError: If it is not valid JSON, or not such an object.
  """
  content = parse(text, where)
  if not isinstance(content, dict):
    raise errors.UsageError(f'{where} is not a JSON object.')
  return content


def parse(text: str, where: str) -> Any:
  """Parses a JSON value of finite numbers, see :func:`parse_object`."""
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
  raise ValueError(f'{name} is not a JSON number')


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
    raise ValueError(f'{twice!r} occurs twice')
  return content


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
  """Raises RunError if the file cannot be written."""
  try:
    yield
  except OSError as error:
    raise errors.RunError(
      f'{path} cannot be written: {error.strerror}. Once it can be, the same'
      ' command resumes from the last checkpoint.'
    ) from error


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Writes a JSON file atomically. Raises RunError if that fails."""
  with writing(path):
    replace_text(
      path, json.dumps(finite(content), indent=2, allow_nan=False) + '\n'
    )


def replace_text(path: pathlib.Path, text: str) -> None:
  """Writes a text file atomically.

  Raises:
    OSError: If it cannot be written. The old file is then intact.
  """
  # Escapes lone surrogates, which are invalid in UTF-8, as JSON does.
  content = text.encode(errors='backslashreplace')
  replace(path, lambda unfinished: unfinished.write_bytes(content))


def replace(
  path: pathlib.Path, write: Callable[[pathlib.Path], object]
) -> None:
  """Replaces a file atomically.

  Args:
    path: The file.
    write: Writes the content to the temporary path that it is called with.

  Raises:
    OSError: If it cannot be written. The old file is then intact, as it is if
      ``write`` raises.
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
  """The temporary path of an unfinished file."""
  return path.with_suffix('.tmp')


def append_text(path: pathlib.Path, text: str) -> None:
  """Appends text to a file and flushes it to the disk."""
  with path.open('ab') as file:
    file.write(text.encode())
    file.flush()
    os.fsync(file.fileno())


def check_writable(flag: str, directory: pathlib.Path) -> None:
  """Raises UsageError if a directory cannot be created or written.

  It creates nothing, so that a later error leaves no trace.

  Args:
    flag: The flag that the directory was given with.
    directory: The directory. If it does not exist, its nearest existing parent
      is checked.
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
  """Replaces NaN and infinity, which JSON does not have, by ``None``."""
  return {
    name: None
    if isinstance(value, float) and not math.isfinite(value)
    else value
    for name, value in content.items()
  }
