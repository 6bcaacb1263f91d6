"""Computed arrays on disk, with checksums.

An entry is a folder of .npy files and a manifest with the SHA-256 of each. It
is complete or absent: it is written elsewhere and renamed into place, so that
concurrent builds are safe. An entry that does not match its manifest or the
request is built again.
"""

from collections.abc import Callable, Collection
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import tempfile

import filelock
import numpy as np
import platformdirs

from train import errors
from train import files

Arrays = dict[str, np.ndarray]

_MANIFEST = 'manifest.json'

# Prefix of the folders of unfinished entries.
_UNFINISHED = 'tmp'
# Writing an entry takes seconds, unless the process is suspended.
_LOCK_SECONDS = 60


def load_or_build(
  key: str,
  names: Collection[str],
  build: Callable[[], Arrays],
  folder: pathlib.Path | None = None,
) -> Arrays:
  """Returns the arrays of an entry; builds it if it is absent or damaged.

  Args:
    key: Name of the entry; it must change with the source of the arrays.
    names: The names of the arrays.
    build: Computes the arrays.
    folder: The folder of the entries. Default: :func:`root`.

  Returns:
    Arrays by name.
  """
  folder = folder or root()
  _remove_unfinished(folder)
  entry = folder / key
  arrays = _read(entry, names)
  if arrays is None:
    arrays = build()
    _write(entry, arrays)
  return arrays


def root() -> pathlib.Path:
  """The folder of decoded images, in the user's cache directory."""
  return platformdirs.user_cache_path('optax-lcam') / 'arrays'


def _read(entry: pathlib.Path, names: Collection[str]) -> Arrays | None:
  try:
    manifest = files.read_json(entry / _MANIFEST)
    if manifest.keys() != set(names):
      return None
    arrays = {}
    for name, checksum in manifest.items():
      path = entry / f'{name}.npy'
      if _sha256(path) != checksum:
        return None
      arrays[name] = _load(path)
    return arrays
  # A damaged .npy header can raise the last two.
  except (errors.UsageError, OSError, ValueError, RecursionError, MemoryError):
    return None


def _load(path: pathlib.Path) -> np.ndarray:
  """The array of a .npy file, or ValueError."""
  # NumPy would allocate the size that the header claims, and reads a zip file
  # as several arrays. A memory map is not longer than the file.
  mapped = np.load(path, mmap_mode='r', allow_pickle=False)
  if not isinstance(mapped, np.ndarray):
    mapped.close()
    raise ValueError('a zip')
  return np.array(mapped)


def _write(entry: pathlib.Path, arrays: Arrays) -> None:
  """Writes an entry. If this fails, the next run computes the arrays again."""
  with contextlib.suppress(OSError):
    entry.parent.mkdir(parents=True, exist_ok=True)
    with _lock(entry.parent, _LOCK_SECONDS):
      _write_alone(entry, arrays)


def _write_alone(entry: pathlib.Path, arrays: Arrays) -> None:
  unfinished = pathlib.Path(
    tempfile.mkdtemp(prefix=_UNFINISHED, dir=entry.parent)
  )
  replaced = unfinished.with_suffix('.old')
  try:
    manifest = {}
    for name, array in arrays.items():
      path = unfinished / f'{name}.npy'
      np.save(path, array, allow_pickle=False)
      manifest[name] = _sha256(path)
    (unfinished / _MANIFEST).write_text(
      json.dumps(manifest, indent=1), encoding='utf-8', newline='\n'
    )
    if os.path.lexists(entry):
      # Damaged, or completed by another process in the meantime.
      os.replace(entry, replaced)
    os.replace(unfinished, entry)
  finally:
    _remove(unfinished)
    _remove(replaced)


def _remove_unfinished(folder: pathlib.Path) -> None:
  """Removes the unfinished entries of killed processes."""
  with contextlib.suppress(OSError):
    if any(folder.glob(f'{_UNFINISHED}*')):
      with _lock(folder, 0):  # A writer would hold it.
        for left in [*folder.glob(f'{_UNFINISHED}*')]:
          _remove(left)


def _lock(folder: pathlib.Path, seconds: float) -> filelock.BaseFileLock:
  """The lock of the writer. Its acquisition raises OSError after a timeout."""
  return filelock.FileLock(folder.with_suffix('.lock'), timeout=seconds)


def _remove(path: pathlib.Path) -> None:
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path, ignore_errors=True)
  else:
    path.unlink(missing_ok=True)


def _sha256(path: pathlib.Path) -> str:
  return hashlib.sha256(files.read_bytes(path)).hexdigest()
