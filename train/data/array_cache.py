"""Decoded arrays on disk, with checksums.

An entry is a folder of .npy files and a manifest with the SHA-256 of each. It
is complete or absent: it is written elsewhere and renamed into place, so that
concurrent builds are safe. An entry that does not match its manifest is built
again.
"""

from collections.abc import Callable
import hashlib
import json
import os
import pathlib
import shutil
import tempfile

import numpy as np
import platformdirs

Arrays = dict[str, np.ndarray]

_MANIFEST = 'manifest.json'


def load_or_build(key: str, build: Callable[[], Arrays]) -> Arrays:
  """Returns the arrays of an entry; builds it if it is absent or damaged.

  Args:
    key: Name of the entry; it must change with the source of the arrays.
    build: Computes the arrays.

  Returns:
    Arrays by name.
  """
  entry = root() / key
  arrays = _read(entry)
  if arrays is None:
    arrays = build()
    _write(entry, arrays)
  return arrays


def root() -> pathlib.Path:
  """The folder of all entries, in the user's cache directory."""
  return platformdirs.user_cache_path('optax-lcam') / 'arrays'


def _read(entry: pathlib.Path) -> Arrays | None:
  try:
    manifest = json.loads((entry / _MANIFEST).read_text(encoding='utf-8'))
    arrays = {}
    for name, checksum in manifest.items():
      path = entry / f'{name}.npy'
      if _sha256(path) != checksum:
        return None
      arrays[name] = np.load(path, allow_pickle=False)
    return arrays
  except (OSError, ValueError, AttributeError):
    return None


def _write(entry: pathlib.Path, arrays: Arrays) -> None:
  try:
    entry.parent.mkdir(parents=True, exist_ok=True)
    unfinished = pathlib.Path(tempfile.mkdtemp(dir=entry.parent))
  except OSError:
    return  # The cache cannot be written: the next run decodes again.
  try:
    manifest = {}
    for name, array in arrays.items():
      path = unfinished / f'{name}.npy'
      np.save(path, array, allow_pickle=False)
      manifest[name] = _sha256(path)
    (unfinished / _MANIFEST).write_text(
      json.dumps(manifest, indent=1), encoding='utf-8', newline='\n'
    )
    if entry.exists():
      # Damaged, or completed by another process in the meantime.
      os.replace(entry, unfinished.with_suffix('.old'))
    os.replace(unfinished, entry)
  except OSError:
    pass
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(unfinished.with_suffix('.old'), ignore_errors=True)


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
