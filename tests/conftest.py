"""Settings that must precede the import of JAX, and the CIFAR fixture."""

import atexit
import gc
import os
import pathlib
import shutil
import signal
import sys
import tempfile

import pytest

from tests import no_network

# Eight simulated devices for the tests of sharding. The other tests use one.
_DEVICES = '--xla_force_host_platform_device_count=8'

# Tests use their own caches of arrays and compiled programs instead of the
# user's. The workers of pytest-xdist and the processes that tests start inherit
# these settings, so that each program is compiled once.
_CACHE = 'OPTAX_LCAM_TESTS_CACHE'
if _CACHE not in os.environ:
  os.environ[_CACHE] = tempfile.mkdtemp(prefix='optax-lcam-tests-')
  atexit.register(shutil.rmtree, os.environ[_CACHE], ignore_errors=True)
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_DEVICES}'
  os.environ['XDG_CACHE_HOME'] = os.environ[_CACHE]
  os.environ['JAX_COMPILATION_CACHE_DIR'] = f'{os.environ[_CACHE]}/compiled'
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'

# A shell starts background jobs with SIGINT ignored. The processes that tests
# start would inherit this, and the program respects it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

sys.addaudithook(no_network.refuse)


@pytest.fixture(scope='session')
def cifar_dir() -> pathlib.Path:
  """A TensorFlow Datasets directory that holds CIFAR-10 and CIFAR-100."""
  given = os.environ.get('TFDS_DATA_DIR')
  directory = pathlib.Path(given or '').expanduser()
  if not given or not all(
    (directory / name).is_dir() for name in ('cifar10', 'cifar100')
  ):
    pytest.skip(
      'needs CIFAR-10 and CIFAR-100 as TensorFlow Datasets prepares them, in'
      ' TFDS_DATA_DIR'
    )
  return directory


def pytest_collection_finish():
  """Excludes the objects of all imports from garbage collection."""
  gc.collect()
  gc.freeze()
