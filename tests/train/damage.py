"""What disks and people do to a checkpoint."""

import pathlib
import resource
import shutil


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
  """In a new process: no file may grow beyond that.

  As on a full disk, writing fails in the middle of a file.
  """
  resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


def _largest_file(directory):
  files = [path for path in directory.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)
