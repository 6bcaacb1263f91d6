"""The kernels, compiled once for all tests of them."""

import os
import pathlib

import filelock
import pytest

from train import onednn
from train.onednn import build
from train.onednn import library


# Not of the package: pytest takes a folder without __init__.py for none, and
# would keep the kernels until the end of the session.
@pytest.fixture(scope='module')
def kernels():
  """The compiled library, or a skip that says what is missing.

  It is in a cache of its own: where all tests could find it, runs of other
  tests would take it from the moment it is there.
  """
  cache = pathlib.Path(os.environ['XDG_CACHE_HOME'], 'kernels')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(cache))
    library.load.cache_clear()  # That there were none.
    cache.mkdir(exist_ok=True)
    try:
      # Else the workers of pytest-xdist compile it each.
      with filelock.FileLock(cache / 'lock'):
        built = build.build()
    except onednn.Unavailable as error:
      pytest.skip(f'needs what the kernels are built from: {error}')
    yield built
  library.load.cache_clear()
