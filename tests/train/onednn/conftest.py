"""The kernels, compiled once for all tests of them."""

import pytest

from train import onednn
from train.onednn import build


@pytest.fixture(scope='session')
def kernels():
  """The compiled library, or a skip that says what is missing."""
  try:
    return build.build()
  except onednn.Unavailable as error:
    pytest.skip(f'needs what the kernels are built from: {error}')
