"""One owner of a run directory at a time.

The operating system holds the lock and frees it when the process ends, however
it ends. Over a network file system that works as far as the file system passes
locks on.
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
  """Owns run directories, which exist, for as long as the context lasts.

  Raises:
    UsageError: One of them belongs to another process, which is named.
    RunError: It cannot be written.
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
    # It has only just begun, or is about to end.
    return 'another process'
