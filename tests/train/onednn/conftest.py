"""The kernels, compiled once for all tests of them."""

import os

import pytest

from train import onednn
from train.onednn import build
from train.onednn import library


@pytest.fixture(scope='package')
def kernels():
  """The compiled library, or a skip that says what is missing.

  It is in a cache of its own: where all tests could find it, runs of other
  tests would take it from the moment it is there.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', f'{os.environ["XDG_CACHE_HOME"]}/kernels')
    try:
      yield build.build()
    except onednn.Unavailable as error:
      pytest.skip(f'needs what the kernels are built from: {error}')
  library.load.cache_clear()
