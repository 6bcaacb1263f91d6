"""Command-line flags, read by tyro; what is wrong with them in one sentence."""

from collections.abc import Sequence
import contextlib
import dataclasses
import io
import os
import pathlib
import re
from typing import Any, TypeVar
from unittest import mock

import tyro

from train import errors
from train import files

_T = TypeVar('_T')

# What tyro draws around its messages, with other characters where the output
# knows ASCII only.
_SIDES = '│| '
_RULE = '─-'


def parse(
  flags: type[_T], argv: Sequence[str], prog: str, default: _T | None = None
) -> _T:
  """The flags of a command.

  Args:
    flags: A dataclass, see tyro.
    argv: What was given.
    prog: What the help calls the program.
    default: What holds where nothing was given.

  Raises:
    UsageError: Something unknown was given, or a value that is not allowed.
  """
  options: dict[str, Any] = {} if default is None else {'default': default}
  shown = io.StringIO()
  try:
    if '-h' in argv or '--help' in argv:
      return tyro.cli(flags, args=argv, prog=prog, **options)
    # Wide enough that no line is broken.
    with (
      mock.patch.dict(os.environ, {'COLUMNS': '10000'}),
      contextlib.redirect_stderr(shown),
      contextlib.redirect_stdout(shown),
    ):
      parsed = tyro.cli(flags, args=argv, prog=prog, **options)
    return _resolve_paths(parsed)
  except SystemExit as error:
    if error.code != 2 or not shown.getvalue():
      raise
  raise errors.UsageError(_one_sentence(shown.getvalue(), names(flags), prog))


def _resolve_paths(flags: Any) -> Any:
  """Every path among the flags as :func:`train.files.from_user` has it."""
  resolved: dict[str, Any] = {}
  for field in dataclasses.fields(flags):
    value = getattr(flags, field.name)
    if dataclasses.is_dataclass(value):
      resolved[field.name] = _resolve_paths(value)
    elif isinstance(value, pathlib.Path):
      flag = '--' + field.name.replace('_', '-')
      resolved[field.name] = files.from_user(value, flag)
    elif isinstance(value, tuple):  # Positional, so that there is no flag.
      resolved[field.name] = tuple(
        files.from_user(item) if isinstance(item, pathlib.Path) else item
        for item in value
      )
  return dataclasses.replace(flags, **resolved)


def names(flags: type) -> list[str]:
  """The flags of a dataclass, those of dataclasses in it included."""
  found = []
  for field in dataclasses.fields(flags):
    nested = getattr(field.type, '__origin__', field.type)  # In Annotated.
    if dataclasses.is_dataclass(nested):
      found += names(nested)  # type: ignore[arg-type]
    else:
      found.append('--' + field.name.replace('_', '-'))
  return found


def given(argv: Sequence[str], flags: type) -> list[str]:
  """The fields of a dataclass whose flags are among the arguments."""
  written = {
    word.partition('=')[0].removeprefix('--').replace('-', '_')
    for word in argv
    if word.startswith('--')
  }
  return [
    field.name
    for field in dataclasses.fields(flags)
    if not {field.name, f'no_{field.name}'}.isdisjoint(written)
  ]


def _one_sentence(framed: str, allowed: Sequence[str], prog: str) -> str:
  """What tyro says in a frame of several parts, with what is allowed."""
  stripped = [line.strip(_SIDES) for line in framed.splitlines()]
  _title, *lines = [line for line in stripped if line.strip(_RULE)]
  message = lines[0].rstrip('.')
  message = message[:1].upper() + message[1:]

  unknown = re.match(r'Unrecognized options?: (.*)', message)
  if unknown:
    given = [name for name in unknown[1].split(', ') if name.startswith('-')]
    if not given:
      return f'{message}. Flags begin with --.'
    name = given[0].partition('=')[0]
    similar = errors.did_you_mean(name, allowed)
    return f'{message}.{similar or f" `{prog} --help` lists the flags."}'

  choice = re.match(
    r"Invalid choice '(.*)' for argument '.*'. Expected one of \((.*)\)",
    message,
  )
  if choice:
    choices = [word.strip("' ") for word in choice[2].split(',')]
    return f'{message}.{errors.did_you_mean(choice[1], choices)}'

  if 'Argument helptext:' in lines:
    usage = lines[lines.index('Argument helptext:') + 1]
    flag, _, kind = usage.partition(' ')
    value = re.search(r"'[^']*'$|\[[^]]*\]$", message)
    if value and value[0] not in kind:
      return f'{flag} must be {kind}, got {value[0]}.'
    return f'{message}; allowed is {usage}.'
  return f'{message}.'
