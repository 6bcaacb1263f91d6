"""A lock, so that only one process at a time owns a run directory.

The operating system releases the lock when the process ends, even if it is
killed. On a network file system this requires that the file system supports
locks.
"""

from collections.abc import Iterator, Sequence
import contextlib
import datetime
import json
import os
import pathlib
import socket

import filelock

from train import errors
from train import files

_LOCK = 'run.lock'
_OWNER = 'owner.json'

# The run directories of this process, and what it has written to the owner.json
# of each.
_HELD: dict[pathlib.Path, bytes] = {}


@contextlib.contextmanager
def hold(directories: Sequence[pathlib.Path]) -> Iterator[None]:
  """Locks existing run directories for the duration of the context.

  Raises:
    UsageError: If another process owns one of them; the message names it.
    RunError: If a directory cannot be written.
  """
  with contextlib.ExitStack() as stack:
    for directory in directories:
      stack.enter_context(_hold(directory))
    yield


def check(directories: Sequence[pathlib.Path]) -> None:
  """Checks that the directories are still those that this process locked.

  The lock follows a directory that is moved. At the old path there may then be
  a directory of another run, or one that a library has created to write to.

  Args:
    directories: Run directories. Those that this process does not hold are not
      checked.

  Raises:
    RunError: If one of them was moved, removed or replaced.
  """
  for directory in directories:
    if directory in _HELD and not _is_own(directory):
      raise errors.RunError(
        f'{directory} is no longer the directory of this run: it was moved,'
        ' removed or replaced. Where it is now, the same command resumes the'
        ' run from the last checkpoint.'
      )


def _is_own(directory: pathlib.Path) -> bool:
  try:
    return (directory / _OWNER).read_bytes() == _HELD[directory]
  except (FileNotFoundError, NotADirectoryError):
    return False
  except OSError:
    return True  # It cannot be read at the moment.


@contextlib.contextmanager
def _hold(directory: pathlib.Path) -> Iterator[None]:
  lock = filelock.FileLock(directory / _LOCK, timeout=0)
  owner = directory / _OWNER
  with files.writing(directory):
    try:
      lock.acquire()
    except filelock.Timeout:
      raise errors.UsageError(
        f'--run-dir {directory} is in use by {_read(owner)}. Wait for it, or'
        ' choose another directory.'
      ) from None
  try:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
    files.write_json(
      owner,
      {'host': socket.gethostname(), 'process': os.getpid(), 'since': now},
    )
    _HELD[directory] = owner.read_bytes()
    yield
  finally:
    if directory not in _HELD or _is_own(directory):
      owner.unlink(missing_ok=True)
    _HELD.pop(directory, None)
    lock.release()


def _read(owner: pathlib.Path) -> str:
  try:
    told = json.loads(owner.read_text(encoding='utf-8'))
    return 'process {process} on {host}, since {since}'.format(**told)
  except (OSError, ValueError, KeyError, TypeError):
    # The owner has just started or is about to end.
    return 'another process'
