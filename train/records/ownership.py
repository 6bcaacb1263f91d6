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
    yield
  finally:
    owner.unlink(missing_ok=True)
    lock.release()


def _read(owner: pathlib.Path) -> str:
  try:
    told = json.loads(owner.read_text(encoding='utf-8'))
    return 'process {process} on {host}, since {since}'.format(**told)
  except (OSError, ValueError, KeyError, TypeError):
    # The owner has just started or is about to end.
    return 'another process'
