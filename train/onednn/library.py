"""The compiled kernels: their location, and whether they can be used."""

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import site
import sys
import sysconfig
from typing import NamedTuple

import platformdirs

SOURCES = tuple(
  pathlib.Path(__file__).parent / name
  for name in ('convolution.cc', 'batch_norm.cc')
)
BUILD_COMMAND = 'python -m train.onednn build'

_LIBRARY_NAMES = ('libdnnl.so.3', 'libdnnl.so')
_DIGEST_SIZE = hashlib.sha256().digest_size


class Unavailable(Exception):
  """The kernels cannot be built or used; the message gives the reason."""


class Onednn(NamedTuple):
  """An installed oneDNN."""

  prefix: pathlib.Path
  """Contains ``include`` if the headers are installed."""
  library: pathlib.Path
  """The shared library."""
  version: str
  """The version that the library reports, such as ``3.2.0``."""


class _Version(ctypes.Structure):
  """The beginning of ``dnnl_version_t``."""

  _fields_ = [
    ('major', ctypes.c_int),
    ('minor', ctypes.c_int),
    ('patch', ctypes.c_int),
  ]


@functools.cache
def find_onednn() -> Onednn:
  """Finds oneDNN 3 in ``$DNNLROOT``, the Python packages or the system.

  Raises:
    Unavailable: If there is none, or it cannot be loaded.
  """
  if sys.platform != 'linux':
    raise Unavailable(f'The kernels require Linux, got {sys.platform}.')
  found = []
  for prefix, library in _candidates():
    if not library.exists():
      continue
    try:
      # Its symbols must not interfere with other libraries.
      loaded = ctypes.CDLL(str(library))
    except OSError as error:
      raise Unavailable(f'oneDNN cannot be loaded: {error}.') from error
    loaded.dnnl_version.restype = ctypes.POINTER(_Version)
    of = loaded.dnnl_version().contents
    version = f'{of.major}.{of.minor}.{of.patch}'
    if of.major == 3:
      return Onednn(prefix, library, version)
    found.append(f'{library} is {version}')
  raise Unavailable(
    "oneDNN 3 is not installed; `pip install -e '.[cpu]'` installs it"
    f'{" (" + ", ".join(found) + ")" if found else ""}.'
  )


def _candidates() -> list[tuple[pathlib.Path, pathlib.Path]]:
  """Candidate prefixes of oneDNN, and the library in each."""
  prefixes = [
    pathlib.Path(prefix)
    for prefix in (
      os.environ.get('DNNLROOT'),
      sys.prefix,
      site.USER_BASE,
      '/usr/local',
      '/usr',
    )
    if prefix
  ]
  folders = ['lib', 'lib64']
  triplet = sysconfig.get_config_var('MULTIARCH')
  if triplet:
    folders.append(f'lib/{triplet}')
  return [
    (prefix, prefix / folder / name)
    for prefix in prefixes
    for folder in folders
    for name in _LIBRARY_NAMES
  ]


def path() -> pathlib.Path:
  """The path of the kernels for these sources, jaxlib and oneDNN.

  Raises:
    Unavailable: If there is no oneDNN.
  """
  onednn = find_onednn()
  parts = (
    *(source.read_bytes() for source in SOURCES),
    importlib.metadata.version('jaxlib').encode(),
    onednn.version.encode(),
    os.fsencode(onednn.library),
    platform.machine().encode(),
  )
  key = hashlib.sha256(b'\0'.join(parts)).hexdigest()[:16]
  cache = platformdirs.user_cache_path('optax-lcam')
  return cache / 'onednn' / f'kernels-{key}.so'


def sealed(library: bytes) -> bytes:
  """Appends the digest of a library to it, which loaders ignore."""
  return library + hashlib.sha256(library).digest()


def is_whole(library: pathlib.Path) -> bool:
  """Whether a file is an intact result of :func:`sealed`.

  Loading a truncated file would kill the process.
  """
  try:
    content = library.read_bytes()
  except OSError:
    return False
  return len(content) > _DIGEST_SIZE and content == sealed(
    content[:-_DIGEST_SIZE]
  )


@functools.cache
def load() -> ctypes.CDLL:
  """Loads the kernels that :mod:`train.onednn.build` compiled.

  Raises:
    Unavailable: If they are not built, or cannot be loaded.
  """
  built = path()
  if not is_whole(built):
    state = 'damaged' if built.exists() else 'not built'
    raise Unavailable(
      f'The kernels are {state}; `{BUILD_COMMAND}` builds them.'
    )
  try:
    return ctypes.CDLL(str(built))
  except OSError as error:
    raise Unavailable(f'The kernels cannot be loaded: {error}.') from error


def threading_runtime(headers: pathlib.Path) -> str:
  """The threading runtime of an installed oneDNN, such as ``OMP``."""
  config = (headers / 'oneapi' / 'dnnl' / 'dnnl_config.h').read_text()
  found = re.search(
    r'^#define DNNL_CPU_THREADING_RUNTIME DNNL_RUNTIME_(\w+)', config, re.M
  )
  return found[1] if found else 'unknown'
