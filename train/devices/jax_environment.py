"""Configures the environment and the allocator before JAX starts.

Settings of the user are kept, except those that would change the results of a
run or make it fail.
"""

from collections.abc import Mapping
import ctypes
import importlib.metadata
import os
import sys
from typing import Any

import platformdirs

from train import errors

try:
  import resource
except ImportError:  # Windows.
  resource = None  # type: ignore[assignment]

# These versions of jaxlib compute CPU convolutions with a library that is
# slower than XLA's own code: without it, training steps of small Wide ResNets
# are 1.1 to 1.45 times as fast with jaxlib 0.10.2, and 1.01 to 1.14 times with
# 0.12.0.1. Other versions need no flag or may not know it, and XLA does not
# start with an unknown flag.
_CONVOLUTION_FLAG = '--xla_cpu_experimental_ynn_fusion_type'
_CONVOLUTION_VALUE = '-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION'
_CONVOLUTION_VERSIONS = ('0.10.2', '0.12.0.1')

# The defaults of JAX that a run relies on. The first ones affect the results.
# The others are debugging tools: they reject what this program does on purpose
# (NaN marks a quantity that an optimizer does not have) or disable compilation.
_PINNED: Mapping[str, str] = {
  'JAX_ENABLE_X64': 'false',
  'JAX_DEFAULT_PRNG_IMPL': 'threefry2x32',
  'JAX_THREEFRY_PARTITIONABLE': 'true',
  'JAX_RANDOM_SEED_OFFSET': '0',
  'JAX_NUMPY_DTYPE_PROMOTION': 'standard',
  'JAX_NUMPY_RANK_PROMOTION': 'allow',
  'JAX_DEBUG_NANS': 'false',
  'JAX_DEBUG_INFS': 'false',
  'JAX_DEBUG_KEY_REUSE': 'false',
  'JAX_CHECK_TRACER_LEAKS': 'false',
  'JAX_DISABLE_JIT': 'false',
  'JAX_TRANSFER_GUARD': 'allow',
  'JAX_TRANSFER_GUARD_HOST_TO_DEVICE': 'allow',
  'JAX_TRANSFER_GUARD_DEVICE_TO_DEVICE': 'allow',
  'JAX_TRANSFER_GUARD_DEVICE_TO_HOST': 'allow',
}

# The words that JAX reads as true and false.
_TRUTHS = dict.fromkeys(('y', 'yes', 't', 'true', 'on', '1'), 'true')
_TRUTHS |= dict.fromkeys(('n', 'no', 'f', 'false', 'off', '0'), 'false')

# The settings of JAX that affect the results of a run. They are recorded,
# because a program that imports this one may have changed them.
_RECORDED = (
  'jax_enable_x64',
  'jax_default_prng_impl',
  'jax_threefry_partitionable',
  'jax_random_seed_offset',
  'jax_default_matmul_precision',
  'jax_disable_most_optimizations',
)

# lcam computes an exact mean by compensated summation, which is wrong if
# additions are reassociated.
_FAST_MATH = '--xla_cpu_enable_fast_math'

# A run of the smallest network needs 2.2 GB on two cores, most of it thread
# stacks and mapped libraries.
_LEAST_ADDRESS_SPACE = 2.5e9

# glibc always maps blocks above this size and unmaps them when they are freed;
# it learns to keep smaller ones (DEFAULT_MMAP_THRESHOLD_MAX, mallopt(3)).
_ALWAYS_MAPPED = 32 * 2**20

# Parameters of mallopt(3) and their values: all threads allocate from one heap,
# which never shrinks, and nothing is mapped separately.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_KEEP_EVERYTHING = (
  (_M_ARENA_MAX, 1),
  (_M_MMAP_MAX, 0),
  (_M_TRIM_THRESHOLD, -1),
)

_SWITCH = 'OPTAX_LCAM_KEEP_MEMORY'
_SWITCHES = {'0': False, '1': True}
# The variables that glibc reads, see ld.so(8) and mallopt(3).
_GLIBC_SETTINGS = (
  'GLIBC_TUNABLES',
  'MALLOC_ARENA_MAX',
  'MALLOC_ARENA_TEST',
  'MALLOC_MMAP_MAX_',
  'MALLOC_MMAP_THRESHOLD_',
  'MALLOC_TRIM_THRESHOLD_',
  'MALLOC_TOP_PAD_',
)

# Numbers of arrays with the shape of a block's activation, from XLA's memory
# analysis.
_KEPT_OF_A_BLOCK = 6
_MADE_FOR_GRADIENTS = 3


def check_address_space() -> None:
  """Raises RunError if a limit (ulimit -v) is too low for JAX to start.

  JAX would abort in C++, or wait for a thread that could not start.
  """
  if resource is None:
    return
  limit, _ = resource.getrlimit(resource.RLIMIT_AS)
  if 0 <= limit < _LEAST_ADDRESS_SPACE:
    raise errors.RunError(
      f'The limit of {limit / 1e9:.1f} GB of address space (ulimit -v) is too'
      f' low for JAX: it needs {_LEAST_ADDRESS_SPACE / 1e9:.1f} GB to start.'
    )


def prepare() -> list[str]:
  """Sets the environment variables of JAX. Call it before JAX is imported.

  It enables the compilation cache and fast convolutions on CPUs, and resets
  settings that affect the results of a run to JAX's defaults.

  Returns:
    A sentence for each variable of the user that was reset.

  Raises:
    UsageError: If ``XLA_FLAGS`` enables fast math.
  """
  told = []
  for name, pinned in _PINNED.items():
    given = os.environ.get(name, pinned)
    if _normal(given) != _normal(pinned):
      told.append(
        f'{name}={given} is set back to {pinned}: the results of a run must'
        ' depend only on its own settings.'
      )
      os.environ[name] = pinned

  cache = platformdirs.user_cache_path('optax-lcam') / 'compiled'
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache))
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')

  flags = os.environ.get('XLA_FLAGS', '').strip()
  # XLA reads a value without a leading dash as the name of a file of flags.
  is_file = bool(flags) and not flags.startswith('-')
  fast = [f for f in flags.split() if f.partition('=')[0] == _FAST_MATH]
  # XLA uses the last one, and reads a flag without a value as true.
  if fast and fast[-1].partition('=')[2].lower() not in ('0', 'f', 'false'):
    raise errors.UsageError(
      f'XLA_FLAGS must not have {fast[-1]}: with it, lcam would compare losses'
      ' with a wrong mean.'
    )
  version = importlib.metadata.version('jaxlib')
  if (
    version in _CONVOLUTION_VERSIONS
    and _CONVOLUTION_FLAG not in flags
    and not is_file
  ):
    flag = f'{_CONVOLUTION_FLAG}={_CONVOLUTION_VALUE}'
    os.environ['XLA_FLAGS'] = f'{flags} {flag}'.strip()
  return told


def _normal(value: str) -> str:
  return _TRUTHS.get(value.lower(), value.lower())


def in_force() -> dict[str, Any]:
  """The settings of JAX that affect the results of a run, by name."""
  import jax

  return {name: getattr(jax.config, name, None) for name in _RECORDED}


def keep_freed_memory(temporary_bytes: int) -> bool:
  """Makes the C library reuse the memory of a training step for the next one.

  On a CPU, XLA allocates the temporaries of a program at each call. If they
  exceed 32 MiB, glibc maps and unmaps them each time, and the kernel clears
  every page: 50,000 page faults and 100 ms of kernel time in a step of WRN-16-1
  with 128 images. These settings avoid all of them. In exchange, memory is not
  returned to the system: the peak of WRN-16-4 with 64 images grew from 780 to
  1,240 MB. Smaller temporaries gain nothing.

  Nothing is set if the C library is not glibc, if the user has set
  ``GLIBC_TUNABLES``, ``MALLOC_ARENA_MAX`` or another variable of glibc, or if
  JAX is already imported: its threads then have their own heaps, and the page
  faults would remain.

  ``OPTAX_LCAM_KEEP_MEMORY=0`` in the environment disables this, and ``=1``
  enables it for any size.

  Args:
    temporary_bytes: Size of the largest program's temporaries, see
      :func:`activation_bytes`.

  Returns:
    Whether the settings were made.
  """
  wanted = _SWITCHES.get(
    os.environ.get(_SWITCH, ''), temporary_bytes > _ALWAYS_MAPPED
  )
  chosen = any(name in os.environ for name in _GLIBC_SETTINGS)
  if not wanted or chosen or 'jax' in sys.modules:
    return False
  try:
    library = ctypes.CDLL(None)
    if not library.gnu_get_libc_version:
      return False
    mallopt = library.mallopt
  except (AttributeError, OSError, TypeError):  # TypeError: Windows.
    return False
  # All three are needed: with two of them, the page faults remain.
  return all([mallopt(name, value) for name, value in _KEEP_EVERYTHING])


def activation_bytes(
  *, depth: int, widen_factor: int, image_size: int, batch_size: int
) -> int:
  """Estimates the size of the temporaries of a training step on a CPU.

  Counts the gradients and the activations that each block of a Wide ResNet
  keeps for them, in float32, which XLA uses on a CPU for any dtype.

  Args:
    depth: Depth of the network, 6n + 4.
    widen_factor: Widen factor of the network.
    image_size: Height and width, in pixels.
    batch_size: Images per step.

  Examples:
    >>> activation_bytes(
    ...   depth=16, widen_factor=1, image_size=32, batch_size=128) // 10**6
    202
  """
  blocks = (depth - 4) // 6
  pixels, channels, before = image_size**2, 16 * widen_factor, 16
  numbers = batch_size * _MADE_FOR_GRADIENTS * pixels * channels
  for _ in range(3):
    numbers += batch_size * _KEPT_OF_A_BLOCK * blocks * pixels * channels
    first = (9 + 1) * before * channels  # A 3x3 kernel and the projection.
    numbers += first + 9 * (2 * blocks - 1) * channels**2
    before = channels
    pixels, channels = pixels // 4, 2 * channels
  return 4 * numbers
