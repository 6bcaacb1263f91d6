"""The kernels, compiled once for all tests."""

import os
import pathlib
import subprocess
import sys

import filelock
import pytest

from train import onednn
from train.onednn import build
from train.onednn import library


# Module scope: without __init__.py a folder is no package for pytest, so a
# package fixture would exist until the end of the session.
@pytest.fixture(scope='module')
def kernels():
  """The compiled library; skips with a reason if it cannot be built.

  It is in a separate cache, because runs of other tests would otherwise use it
  as soon as it exists.
  """
  cache = pathlib.Path(os.environ['XDG_CACHE_HOME'], 'kernels')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(cache))
    library.load.cache_clear()  # Forget that there was no library.
    cache.mkdir(exist_ok=True)
    try:
      # Otherwise each worker of pytest-xdist compiles it.
      with filelock.FileLock(cache / 'lock'):
        built = build.build()
    except onednn.Unavailable as error:
      pytest.skip(f'needs what the kernels are built from: {error}')
    yield built
  library.load.cache_clear()


@pytest.fixture
def load():
  """Other processes that compete for the cores."""
  busy = [
    subprocess.Popen([sys.executable, '-c', 'while True: pass'])
    for _ in range(2 * os.cpu_count())
  ]
  yield
  for process in busy:
    process.kill()
    process.wait()


@pytest.fixture
def on_one_core():
  """Runs lines of Python on one core, and returns what they print."""
  if not hasattr(os, 'sched_setaffinity') or os.cpu_count() == 1:
    pytest.skip('needs two cores, to compare with one')

  def run(*lines: str) -> str:
    one = 'os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})'
    finished = subprocess.run(
      [sys.executable, '-c', '\n'.join(('import os', one, *lines))],
      capture_output=True,
      text=True,
      check=True,
      env=os.environ | {'XLA_FLAGS': ''},
    )
    return finished.stdout.strip()

  return run
