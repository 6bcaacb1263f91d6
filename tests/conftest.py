"""Settings that must be in place before JAX starts, and the real images."""

import os
import pathlib

import pytest

# Eight simulated devices, for the tests of sharding.
_DEVICES = '--xla_force_host_platform_device_count=8'
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_DEVICES}'

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


@pytest.fixture(scope='session', autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
  """Tests neither read nor write the user's cache of arrays and programs."""
  cache = tmp_path_factory.mktemp('cache')
  os.environ['XDG_CACHE_HOME'] = str(cache)
