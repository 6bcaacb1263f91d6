"""Settings that must be in place before JAX starts, and the real images."""

import atexit
import os
import pathlib
import shutil
import sys
import tempfile

import pytest

from tests import no_network

# Eight simulated devices, for the tests of sharding.
_DEVICES = '--xla_force_host_platform_device_count=8'
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_DEVICES}'

# Tests neither read nor write the user's caches of arrays and programs, and
# compile a program once.
_CACHE = tempfile.mkdtemp(prefix='optax-lcam-tests-')
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
os.environ['XDG_CACHE_HOME'] = _CACHE
os.environ['JAX_COMPILATION_CACHE_DIR'] = f'{_CACHE}/compiled'
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'

sys.addaudithook(no_network.refuse)

_REPOSITORY = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='session')
def cifar_dir() -> pathlib.Path:
  """A TensorFlow Datasets directory that holds CIFAR-10 and CIFAR-100."""
  candidates = [
    pathlib.Path(os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')),
    _REPOSITORY.parent / 'shared' / 'tfds',
  ]
  for candidate in candidates:
    directory = candidate.expanduser()
    if all((directory / name).is_dir() for name in ('cifar10', 'cifar100')):
      return directory
  pytest.skip(
    'needs CIFAR-10 and CIFAR-100 as TensorFlow Datasets prepares them, in'
    ' TFDS_DATA_DIR'
  )
