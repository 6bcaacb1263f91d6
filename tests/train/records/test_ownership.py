"""A run directory has one owner at a time."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

from train import errors
from train.records import ownership

_HOLD = textwrap.dedent(
  """
  import pathlib, sys, time
  from train.records import ownership
  with ownership.hold([pathlib.Path(sys.argv[1])]):
    print('held', flush=True)
    time.sleep(60)
  """
)


@pytest.fixture
def other(tmp_path):
  """Another process that holds a directory."""
  with subprocess.Popen(
    [sys.executable, '-c', _HOLD, tmp_path], stdout=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout.readline() == 'held\n'
    yield process
    process.kill()


def test_a_second_owner_is_rejected_with_the_first_one(other, tmp_path):
  with (
    pytest.raises(errors.UsageError, match=f'process {other.pid} on '),
    ownership.hold([tmp_path]),
  ):
    pass


def test_a_kill_releases_the_directory(other, tmp_path):
  other.send_signal(signal.SIGKILL)
  other.wait()
  with ownership.hold([tmp_path]):
    told = json.loads((tmp_path / 'owner.json').read_text())
    assert told['process'] == os.getpid()
  # The lock is released.
  assert not (tmp_path / 'owner.json').exists()
  with ownership.hold([tmp_path]):
    pass


def test_all_directories_are_held_or_none(other, tmp_path):
  free = tmp_path / 'free'
  free.mkdir()
  with pytest.raises(errors.UsageError), ownership.hold([free, tmp_path]):
    pass
  with ownership.hold([free]):
    pass


@pytest.mark.parametrize('content', ['', '{}', '[]', '{"host": '])
def test_an_owner_that_cannot_be_read(other, tmp_path, content):
  (tmp_path / 'owner.json').write_text(content)
  with (
    pytest.raises(errors.UsageError, match='another process'),
    ownership.hold([tmp_path]),
  ):
    pass


@pytest.mark.parametrize('replaced', [True, False])
def test_a_directory_that_is_moved_is_no_longer_owned(replaced, tmp_path):
  directory, moved = tmp_path / 'run', tmp_path / 'moved'
  directory.mkdir()
  with ownership.hold([directory]):
    ownership.check([directory, tmp_path])
    directory.rename(moved)
    if replaced:
      directory.mkdir()
      (directory / 'owner.json').write_text('of another process')
    with pytest.raises(errors.RunError, match='run is no longer the directory'):
      ownership.check([directory])
  if replaced:
    assert (directory / 'owner.json').read_text() == 'of another process'
  with ownership.hold([moved]):
    ownership.check([moved])


def test_an_owner_that_cannot_be_read_now_is_still_the_owner(
  tmp_path, monkeypatch
):
  def fail(_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  with ownership.hold([tmp_path]), monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, 'read_bytes', fail)
    ownership.check([tmp_path])
  assert not (tmp_path / 'owner.json').exists()
