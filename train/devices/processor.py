"""The name of the CPU, which JAX calls `cpu` whatever it is."""

import functools
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
  """The name of this machine's processor.

  The processor decides which instructions XLA uses on a CPU, and so how it
  rounds.
  """
  otherwise = platform.processor() or platform.machine()
  try:
    cpuinfo = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8')
  except (OSError, UnicodeDecodeError):  # Only Linux has it.
    return otherwise
  return describe(cpuinfo, otherwise)
