"""Errors that are shown as one sentence without a traceback."""

from collections.abc import Iterable
import difflib
import sys
from typing import Any


class UsageError(Exception):
  """Wrong input from the user: one sentence, shown without a traceback.

  The message names the flag or file, what was given and what is allowed. The
  command line prints it and exits with code 2.
  """


class RunError(Exception):
  """A run cannot continue, for reasons other than its settings: exit code 1."""


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
  """`` Did you mean 'x'?`` for the nearest allowed name, or nothing."""
  nearest = difflib.get_close_matches(given, list(allowed), n=1)
  return f' Did you mean {nearest[0]!r}?' if nearest else ''


def tell_of_imports() -> None:
  """Turns later import errors into one sentence."""
  sys.excepthook = _tell


def _tell(kind: Any, error: BaseException, traceback: Any) -> None:
  own = ('train', 'models', 'optax_lcam')
  if isinstance(error, ModuleNotFoundError) and error.name not in (None, *own):
    sentence = (
      f"{error.name} is missing. `pip install -e '.[train]'` in the"
      ' repository installs what the program needs.'
    )
  elif isinstance(error, MemoryError) or (
    # The loader has no exception class for this.
    isinstance(error, ImportError)
    and any(s in str(error) for s in ('allocate memory', 'failed to map'))
  ):
    sentence = f'there is not enough memory to start ({error}).'
  else:
    sys.__excepthook__(kind, error, traceback)
    return
  print(f'python -m train: {sentence}', file=sys.stderr)
