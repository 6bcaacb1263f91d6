"""Compiles the kernels into the user's cache."""

import os
import pathlib
import shlex
import shutil
import subprocess
import tempfile

from train.onednn import library
from train.onednn.library import Unavailable

_COMPILERS = ('c++', 'g++', 'clang++')

# Runtimes that can run a primitive in the calling thread.
_THREADING = ('OMP', 'SEQ', 'THREADPOOL')


def build() -> pathlib.Path:
  """Compiles the kernels, unless they exist already.

  Several processes may do so concurrently.

  Returns:
    The library.

  Raises:
    Unavailable: If a compiler, oneDNN or its headers are missing, the compiler
      fails, or the result cannot be loaded.
  """
  target = library.path()
  if not library.is_whole(target):
    command = [*_compiler(), *_arguments(library.find_onednn())]
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same file system, so that it can be renamed.
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
      compiled = pathlib.Path(directory, target.name)
      _compile([*command, '-o', str(compiled)])
      compiled.write_bytes(library.sealed(compiled.read_bytes()))
      os.replace(compiled, target)
    library.load.cache_clear()
  library.load()
  return target


def _compiler() -> list[str]:
  chosen = os.environ.get('CXX')
  names = [shlex.split(chosen)] if chosen else [[name] for name in _COMPILERS]
  for name in names:
    if name and shutil.which(name[0]):
      return name
  raise Unavailable(
    f'There is no C++ compiler: {chosen} of $CXX is not found.'
    if chosen
    else f'There is no C++ compiler: none of {", ".join(_COMPILERS)} is found.'
  )


def _arguments(onednn: library.Onednn) -> list[str]:
  import jax

  headers = onednn.prefix / 'include'
  if not (headers / 'oneapi' / 'dnnl' / 'dnnl.hpp').is_file():
    raise Unavailable(
      f'The headers of oneDNN {onednn.version} are not in {headers}; `pip'
      " install -e '.[cpu]'` installs them."
    )
  runtime = library.threading_runtime(headers)
  if runtime not in _THREADING:
    raise Unavailable(
      f'oneDNN in {onednn.prefix} uses the threading runtime {runtime}; allowed'
      f' are {", ".join(_THREADING)}.'
    )
  return [
    '-std=c++17',
    '-O3',
    '-DNDEBUG',
    '-fPIC',
    '-shared',
    '-isystem',
    jax.ffi.include_dir(),
    '-isystem',
    str(headers),
    *map(str, library.SOURCES),
    str(onednn.library),
    f'-Wl,-rpath,{onednn.library.parent}',
  ]


def _compile(command: list[str]) -> None:
  finished = subprocess.run(command, capture_output=True, text=True)
  if finished.returncode == 0:
    return
  lines = finished.stderr.strip().splitlines() or ['it printed no error']
  told = next((line for line in lines if 'error' in line), lines[-1])
  raise Unavailable(f'{command[0]} cannot compile the kernels: {told.strip()}')
