"""The command line: python -m train.onednn build."""

import sys
import time

from train.onednn import build
from train.onednn import library

_USAGE = """\
usage: python -m train.onednn build    compiles the kernels

Convolutions, computed by oneDNN, and batch norm with ReLU for training on a
CPU. They require a C++ compiler and `pip install -e '.[cpu]'`, and compile in
seconds. `python -m train` uses them once they are built.

"""


def main(argv: list[str]) -> int:
  """Runs a command; returns the exit code."""
  if argv == ['build']:
    return _build()
  if not argv or argv in (['-h'], ['--help']):
    print(_USAGE + _state())
    return 0
  return _refuse(f'The only command is build, got {" ".join(argv)!r}.')


def _build() -> int:
  started = time.monotonic()
  try:
    built = build.build()
  except library.Unavailable as error:
    return _refuse(str(error))
  seconds = time.monotonic() - started
  print(f'The kernels are in {built} ({seconds:.1f} s).')
  return 0


def _state() -> str:
  try:
    library.load()
  except library.Unavailable as error:
    return str(error)
  return f'They are built, for oneDNN {library.find_onednn().version}.'


def _refuse(sentence: str) -> int:
  print(f'python -m train.onednn: {sentence}', file=sys.stderr)
  return 2


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
