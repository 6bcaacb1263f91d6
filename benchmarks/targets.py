"""The accelerators whose compilers run on any machine, by name.

JAX can compile for devices that are not present: the compiler for TPUs knows
their topologies by name, and a text describes a GPU to XLA. No driver is needed
and no device is queried.
"""

from collections.abc import Mapping
import dataclasses
import importlib.metadata
import re
from typing import Any

from train import errors

_EXTRA = "`pip install -e '.[train,compilers]'` installs it"

# The packages of each compiler. Without ptxas or libdevice, XLA aborts the
# process when it compiles for a GPU.
_PACKAGES = {
  'tpu': ('libtpu',),
  'gpu': (
    'jax-cuda13-plugin',
    'jax-cuda13-pjrt',
    'nvidia-cuda-nvcc',
    'nvidia-nvvm',
    'nvidia-cuda-runtime',
  ),
}

_ENVIRONMENT: Mapping[str, Mapping[str, str]] = {
  'tpu': {
    # Otherwise libtpu queries the metadata server of the cloud.
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    # Otherwise a second process fails at the lock file of the first.
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  },
  'gpu': {'CUDA_VISIBLE_DEVICES': ''},
}


@dataclasses.dataclass(frozen=True)
class Chip:
  """The peak rates of a chip, as published by its manufacturer."""

  title: str
  flops: float
  """FLOP/s of bfloat16 matrix products, dense."""
  memory: float
  """Bytes/s to and from its memory."""


_TPUS = {
  'v4': Chip('TPU v4', 275e12, 1.2e12),
  'v5e': Chip('TPU v5e', 197e12, 819e9),
  'v5p': Chip('TPU v5p', 459e12, 2.765e12),
  'v6e': Chip('TPU v6e', 918e12, 1.64e12),
}
_GPUS = {
  'h100': Chip('H100', 989e12, 3.35e12),
  'h200': Chip('H200', 989e12, 4.8e12),
}
_MOST_GPUS = 8

# From the white paper of the H100, and the table of compute capability 9.0 in
# the CUDA programming guide. The H200 is the same chip with another memory.
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  memory_bandwidth: {memory:.0f}
  device_memory_size: {size:.0f}
  cuda_compute_capability {{ major: 9 minor: 0 }}
  name: "{name}"
  device_vendor: "NVIDIA Corporation"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{name}"
"""
_GPU_MEMORY = {'h100': 80e9, 'h200': 141e9}

ALLOWED = (
  'tpu:GENERATION:TOPOLOGY, such as tpu:v5e:1x1 or tpu:v5e:4x4, of the'
  f' generations {", ".join(_TPUS)}, or gpu:{" or gpu:".join(_GPUS)}, with :N'
  f' for N of them, up to {_MOST_GPUS}'
)


@dataclasses.dataclass(frozen=True)
class Target:
  """Accelerators of one kind in one machine or slice."""

  name: str
  platform: str
  """``tpu`` or ``gpu``."""
  chip: Chip
  topology: str
  """The compiler's name for it, such as 4x4."""

  @property
  def environment(self) -> Mapping[str, str]:
    """The environment that a compiling process must start with."""
    return {
      'JAX_PLATFORMS': 'cpu',
      # The time of the compilation is measured.
      'JAX_ENABLE_COMPILATION_CACHE': 'false',
      **_ENVIRONMENT[self.platform],
    }

  def why_not(self) -> str | None:
    """One sentence on why its compiler cannot run here; None if it can."""
    for package in _PACKAGES[self.platform]:
      try:
        importlib.metadata.version(package)
      except importlib.metadata.PackageNotFoundError:
        return (
          f'The compiler for {self.chip.title} needs the package {package}:'
          f' {_EXTRA}.'
        )
    return None

  def versions(self) -> dict[str, str]:
    """The versions of the packages of the compiler."""
    return {
      name: importlib.metadata.version(name)
      for name in ('jax', 'jaxlib', 'flax', *_PACKAGES[self.platform])
    }

  def devices(self) -> list[Any]:
    """Its devices, in a process with :attr:`environment`.

    Raises:
      UsageError: The compiler does not know the topology.
    """
    from jax.experimental import topologies

    try:
      if self.platform == 'tpu':
        generation = self.name.split(':')[1]
        description = topologies.get_topology_desc(
          platform='tpu', topology_name=f'{generation}:{self.topology}'
        )
      else:
        kind = self.name.split(':')[1]
        description = topologies.get_topology_desc(
          platform='cuda',
          target_config=_HOPPER.format(
            name=f'NVIDIA {self.chip.title}',
            memory=self.chip.memory,
            size=_GPU_MEMORY[kind],
          ),
          topology=self.topology,
        )
      return list(description.devices)
    except Exception as error:
      reason = (str(error).splitlines() or [''])[0]
      raise errors.UsageError(
        f'--target must be a topology that the compiler knows, got {self.name}:'
        f' {reason}'
      ) from error


def get(name: str) -> Target:
  """The target with this name.

  Raises:
    UsageError: There is no such target.

  Examples:
    >>> get('tpu:v5e:4x4').chip.title
    'TPU v5e'
    >>> get('gpu:h100').topology
    '1x1x1'
  """
  tpu = re.fullmatch(r'tpu:(\w+):(\d+(?:x\d+){1,2})', name)
  if tpu and tpu[1] in _TPUS:
    return Target(name, 'tpu', _TPUS[tpu[1]], tpu[2])
  gpu = re.fullmatch(r'gpu:(\w+)(?::([1-9]\d*))?', name)
  if gpu and gpu[1] in _GPUS and int(gpu[2] or 1) <= _MOST_GPUS:
    return Target(name, 'gpu', _GPUS[gpu[1]], f'1x1x{gpu[2] or 1}')
  raise errors.UsageError(f'--target must be {ALLOWED}, got {name!r}.')
