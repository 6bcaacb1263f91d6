"""The CPU: its name, which JAX does not know, and the threads that XLA uses.

On a CPU, both affect how a run rounds.
"""

import functools
import os
import pathlib
import platform

# Hypervisors may hide the model in the name, as in `AMD EPYC`. ARM has no name.
_FURTHER = {
  'cpu family': 'family',
  'model': 'model',
  'CPU implementer': 'implementer',
  'CPU part': 'part',
}


def describe(cpuinfo: str, default: str) -> str:
  """Describes the first processor of a file like /proc/cpuinfo.

  Args:
    cpuinfo: The text of the file.
    default: The name if the file has none.

  Returns:
    For instance ``'AMD EPYC (family 26, model 2)'``.
  """
  first = cpuinfo.strip().partition('\n\n')[0]
  fields = {
    key.strip(): value.strip()
    for key, _, value in (line.partition(':') for line in first.splitlines())
  }
  name = fields.get('model name') or default
  further = [
    f'{word} {fields[field]}'
    for field, word in _FURTHER.items()
    if fields.get(field)
  ]
  return f'{name} ({", ".join(further)})' if further else name


@functools.cache
def name() -> str:
  """The name of this machine's processor."""
  default = platform.processor() or platform.machine()
  try:
    cpuinfo = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError):  # Only Linux has it.
    return default
  return describe(cpuinfo, default)


def threads() -> int:
  """The number of threads that XLA uses on a CPU, with one device.

  The variables are those that XLA reads. Some results with one thread differ
  from those with several threads by rounding.
  """
  for variable in ('PJRT_NPROC', 'NPROC'):
    try:
      return max(1, int(os.environ.get(variable, '')))
    except ValueError:
      continue
  if hasattr(os, 'sched_getaffinity'):  # Not on macOS and Windows.
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
