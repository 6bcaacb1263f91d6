"""Settings of JAX that must be in the environment before it starts.

What the user has set stays.
"""

import importlib.metadata
import os

import platformdirs

# These versions give convolutions on a CPU to a library that is slower than
# their own code: without it, training steps of small Wide ResNets are 1.1 to
# 1.45 times as fast with jaxlib 0.10.2, and 1.01 to 1.14 times with 0.12.0.1.
# Other versions need no flag or may not know it, and XLA does not start with a
# flag that it does not know.
_CONVOLUTION_FLAG = '--xla_cpu_experimental_ynn_fusion_type'
_CONVOLUTION_VALUE = '-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION'
_CONVOLUTION_VERSIONS = ('0.10.2', '0.12.0.1')


def prepare() -> None:
  """Keeps compiled programs for the next start; fast convolutions on CPUs."""
  cache = platformdirs.user_cache_path('optax-lcam') / 'compiled'
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache))
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')

  flags = os.environ.get('XLA_FLAGS', '')
  version = importlib.metadata.version('jaxlib')
  if version in _CONVOLUTION_VERSIONS and _CONVOLUTION_FLAG not in flags:
    flag = f'{_CONVOLUTION_FLAG}={_CONVOLUTION_VALUE}'
    os.environ['XLA_FLAGS'] = f'{flags} {flag}'.strip()
