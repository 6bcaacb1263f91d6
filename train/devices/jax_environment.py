"""What must be set before JAX starts: its environment, and the allocator.

What the user has set stays, but for what would change the numbers of a run or
end it.
"""

from collections.abc import Mapping
import ctypes
import importlib.metadata
import os
import sys
from typing import Any

import platformdirs

# These versions give convolutions on a CPU to a library that is slower than
# their own code: without it, training steps of small Wide ResNets are 1.1 to
# 1.45 times as fast with jaxlib 0.10.2, and 1.01 to 1.14 times with 0.12.0.1.
# Other versions need no flag or may not know it, and XLA does not start with a
# flag that it does not know.
_CONVOLUTION_FLAG = '--xla_cpu_experimental_ynn_fusion_type'
_CONVOLUTION_VALUE = '-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION'
_CONVOLUTION_VERSIONS = ('0.10.2', '0.12.0.1')

# The defaults of JAX that a run relies on. The first ones decide which numbers
# it computes under one and the same config.json. The others find errors in
# programs: they refuse what this one does on purpose (NaN stands for a figure
# that an optimizer does not have) or keep it from being compiled.
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

# What JAX reads as true and false.
_TRUTHS = dict.fromkeys(('y', 'yes', 't', 'true', 'on', '1'), 'true')
_TRUTHS |= dict.fromkeys(('n', 'no', 'f', 'false', 'off', '0'), 'false')

# What a run records of JAX's configuration, as a program that imports this one
# may have set it: what decides on its numbers.
_RECORDED = (
  'jax_enable_x64',
  'jax_default_prng_impl',
  'jax_threefry_partitionable',
  'jax_random_seed_offset',
  'jax_default_matmul_precision',
  'jax_disable_most_optimizations',
)

# glibc maps every block above this anew and unmaps it when it is freed; smaller
# ones it learns to keep (DEFAULT_MMAP_THRESHOLD_MAX, mallopt(3)).
_ALWAYS_MAPPED = 32 * 2**20

# Parameters of mallopt(3) and their values: blocks come from the heap alone,
# which never shrinks, and all threads share the one that can grow.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_KEEP_EVERYTHING = (
  (_M_ARENA_MAX, 1),
  (_M_MMAP_MAX, 0),
  (_M_TRIM_THRESHOLD, -1),
)

_SWITCH = 'OPTAX_LCAM_KEEP_MEMORY'
_SWITCHES = {'0': False, '1': True}
# What glibc itself reads, ld.so(8) and mallopt(3).
_GLIBC_SETTINGS = (
  'GLIBC_TUNABLES',
  'MALLOC_ARENA_MAX',
  'MALLOC_ARENA_TEST',
  'MALLOC_MMAP_MAX_',
  'MALLOC_MMAP_THRESHOLD_',
  'MALLOC_TRIM_THRESHOLD_',
  'MALLOC_TOP_PAD_',
)

# Arrays in the shape of a block's activation: counted in XLA's own figures.
_KEPT_OF_A_BLOCK = 6
_MADE_FOR_GRADIENTS = 3


def prepare() -> list[str]:
  """Sets JAX's environment: before JAX is imported.

  Compiled programs are kept for the next start, convolutions are fast on CPUs,
  and what decides on the numbers of a run is JAX's default.

  Returns:
    A sentence for each variable of the user's that was set back.
  """
  told = []
  for name, pinned in _PINNED.items():
    given = os.environ.get(name, pinned)
    if _normal(given) != _normal(pinned):
      told.append(
        f'{name}={given} is set back to {pinned}: what a run computes depends'
        ' on its settings alone.'
      )
      os.environ[name] = pinned

  cache = platformdirs.user_cache_path('optax-lcam') / 'compiled'
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache))
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')

  flags = os.environ.get('XLA_FLAGS', '').strip()
  # XLA takes what does not begin with a dash for the name of a file of flags.
  is_file = bool(flags) and not flags.startswith('-')
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
  """What decides on the numbers of a run in JAX's configuration, by name."""
  import jax

  return {name: getattr(jax.config, name, None) for name in _RECORDED}


def keep_freed_memory(temporary_bytes: int) -> bool:
  """Lets the C library keep the memory of a training step for the next one.

  XLA allocates the temporaries of a program anew at each call on a CPU. Where
  they are above 32 MiB, glibc maps and unmaps them each time, and the kernel
  clears every page: 50,000 page faults and 100 ms of its time in a step of
  WRN-16-1 with 128 images. With what this sets there are none. In exchange,
  memory is not given back to the system: the peak of WRN-16-4 with 64 images
  grew from 780 to 1,240 MB. Smaller temporaries gain nothing.

  Nothing is set where there is another C library than glibc, where the user has
  set ``GLIBC_TUNABLES``, ``MALLOC_ARENA_MAX`` or another of glibc's variables,
  and where JAX is imported already: its threads have heaps of their own by
  then, and the page faults would stay.

  ``OPTAX_LCAM_KEEP_MEMORY=0`` in the environment switches this off, and ``=1``
  on for any size.

  Args:
    temporary_bytes: Size of the largest program's temporaries, see
      :func:`activation_bytes`.

  Returns:
    Whether it was set.
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
  # All are needed: two of them leave the faults as they are.
  return all([mallopt(name, value) for name, value in _KEEP_EVERYTHING])


def activation_bytes(
  *, depth: int, widen_factor: int, image_size: int, batch_size: int
) -> int:
  """About how large the temporaries of a training step are on a CPU.

  Counts the gradients, and what a Wide ResNet keeps of each block for them, in
  float32: XLA computes in it on a CPU, whatever the dtype.

  Args:
    depth: Of the network, 6n + 4.
    widen_factor: Of the network.
    image_size: Height and width, in pixels.
    batch_size: Images a step.

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
