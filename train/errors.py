"""Errors that are shown as one sentence, without a traceback."""

from collections.abc import Iterable
import difflib


class UsageError(Exception):
  """Wrong input from the user: one sentence, shown without a traceback.

  The message names the flag or file, what was given and what is allowed. The
  command line prints it and exits with code 2.
  """


class RunError(Exception):
  """A run cannot go on, through no fault of its settings: exit code 1."""


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
  """`` Did you mean 'x'?`` for the nearest allowed name, or nothing."""
  nearest = difflib.get_close_matches(given, list(allowed), n=1)
  return f' Did you mean {nearest[0]!r}?' if nearest else ''
