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


def describe(cpuinfo: str, otherwise: str) -> str:
  """Describes the first processor of a file like /proc/cpuinfo.

  Args:
    cpuinfo: The text of the file.
    otherwise: What to return or to begin with if the file has no name.

  Returns:
    For instance ``'AMD EPYC (family 26, model 2)'``.
  """
  first = cpuinfo.strip().partition('\n\n')[0]
  fields = {
    key.strip(): value.strip()
    for key, _, value in (line.partition(':') for line in first.splitlines())
  }
  name = fields.get('model name') or otherwise
  further = [
    f'{word} {fields[field]}'
    for field, word in _FURTHER.items()
    if fields.get(field)
  ]
  return f'{name} ({", ".join(further)})' if further else name


@functools.cache
def name() -> str:
  """The name of this machine's processor."""
  otherwise = platform.processor() or platform.machine()
  try:
    cpuinfo = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError):  # Only Linux has it.
    return otherwise
  return describe(cpuinfo, otherwise)


def threads() -> int:
  """The number of threads that XLA uses on a CPU, with one device.

  The variables are those that XLA reads. With one thread it computes some
  operations otherwise than with several.
  """
  for variable in ('PJRT_NPROC', 'NPROC'):
    try:
      return max(1, int(os.environ.get(variable, '')))
    except ValueError:
      continue
  if hasattr(os, 'sched_getaffinity'):  # Not on macOS and Windows.
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
