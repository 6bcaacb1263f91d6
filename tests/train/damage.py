"""Damage to checkpoints, file permissions and disks."""

import contextlib
import ctypes
import os
import pathlib
import resource
import shutil
import subprocess

import pytest

# From linux/prctl.h and linux/capability.h.
_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2
_CAPABILITY_VERSION = 0x20080522


def truncate(newest: pathlib.Path):
  path = _largest_file(newest)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(newest: pathlib.Path):
  path = _largest_file(newest)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def empty(newest: pathlib.Path):
  shutil.rmtree(newest)
  newest.mkdir()


def remove_a_file(newest: pathlib.Path):
  _largest_file(newest).unlink()


ALL = (truncate, flip_a_bit, empty, remove_a_file)


def no_room():
  """For a new process: limits the size of files.

  As on a full disk, writing fails in the middle of a file.
  """
  resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


def rights_of_a_user():
  """For a new process: even root may write only where the mode allows it."""
  if os.geteuid() == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0) != 0:
      raise OSError(ctypes.get_errno(), 'prctl')


def give_up_rights():
  """For the current process: drops the rights of root."""
  if os.geteuid() == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    # Effective, permitted and inheritable sets; then those above bit 31.
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) == 0:
      kept = ~(1 << _CAP_DAC_OVERRIDE | 1 << _CAP_DAC_READ_SEARCH)
      sets[0], sets[1] = sets[0] & kept, sets[1] & kept
      if libc.capset(header, sets) == 0:
        return
    raise OSError(ctypes.get_errno(), 'capset')


def can_mount():
  return os.geteuid() == 0 and shutil.which('mount') is not None


@contextlib.contextmanager
def disk(directory, megabytes):
  """Mounts a file system in a directory; skips if this is not possible."""
  options = f'size={megabytes}m'
  if not can_mount() or _mount('-t', 'tmpfs', '-o', options, directory):
    pytest.skip('needs the right to mount a file system')
  try:
    yield
  finally:
    subprocess.run(['umount', directory], check=True)


@contextlib.contextmanager
def read_only(directory):
  """Mounts the disk of a directory read-only."""
  assert _mount('-o', 'remount,ro', directory) == 0
  try:
    yield
  finally:
    assert _mount('-o', 'remount,rw', directory) == 0


@contextlib.contextmanager
def full(directory, bytes_left=0):
  """Fills the disk of a directory up to some bytes."""
  filler = directory / 'filler'
  # In small parts, because a run may write there at the same time.
  with filler.open('wb', buffering=0) as file, contextlib.suppress(OSError):
    while True:
      file.write(bytes(4096))
  os.truncate(filler, max(0, filler.stat().st_size - bytes_left))
  try:
    yield
  finally:
    filler.unlink()


def _free(directory):
  return shutil.disk_usage(directory).free


def _mount(*arguments):
  """The exit code of mount."""
  if arguments[0] == '-t':
    arguments = (*arguments[:-1], 'none', arguments[-1])
  return subprocess.run(
    ['mount', *arguments], capture_output=True, check=False
  ).returncode


def _largest_file(directory):
  # Orbax stores arrays in folders with this name. Other files can be larger but
  # do not matter.
  files = [path for path in directory.rglob('d/*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)
