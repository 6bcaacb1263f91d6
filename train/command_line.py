"""Parses the flags of a command with tyro.

For invalid flags, tyro prints a message to standard error and exits with code
2.
"""

from collections.abc import Sequence
import dataclasses
import pathlib
import types
from typing import Any, TypeVar, get_args

import tyro
from tyro import constructors

from train import errors
from train import files

_T = TypeVar('_T')

_REGISTRY = constructors.ConstructorRegistry()

REQUIRED: Any = tyro.conf.arg(help_behavior_hint='(required)')
"""Marks an argument as required in the help. For tyro, no items are a value."""


def parse(
  flags: type[_T], argv: Sequence[str], prog: str, default: _T | None = None
) -> _T:
  """Parses the flags of a command.

  Args:
    flags: A dataclass, see tyro.
    argv: The arguments.
    prog: The name of the program in the help.
    default: The defaults of the flags.

  Raises:
    SystemExit: With code 2 for an unknown flag or an invalid value, with code 0
      for ``--help``. The message or the help has been printed.
  """
  options: dict[str, Any] = {} if default is None else {'default': default}
  return tyro.cli(flags, args=argv, prog=prog, registry=_REGISTRY, **options)


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


def default(words: str) -> Any:
  """Describes a default of ``None`` or of no items in the help.

  Example:
    >>> from typing import Annotated
    >>> Examples = Annotated[int | None, default('all')]
  """
  return tyro.conf.arg(
    help_behavior_hint=lambda value: (
      f'(default: {words if value in ("None", "") else value})'
    )
  )


@_REGISTRY.primitive_rule
def _path(
  info: constructors.PrimitiveTypeInfo,
) -> constructors.PrimitiveConstructorSpec[Any] | None:
  """Accepts local paths only, see :func:`train.files.from_user`."""
  if info.type is not pathlib.Path:
    return None

  def from_words(words: list[str]) -> pathlib.Path:
    try:
      return files.from_user(pathlib.Path(words[0]))
    except errors.UsageError as error:
      raise ValueError(str(error)) from error  # As tyro expects.

  return constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar='PATH',
    instance_from_str=from_words,
    is_instance=lambda value: isinstance(value, pathlib.Path),
    str_from_instance=lambda value: [str(value)],
  )


@_REGISTRY.primitive_rule
def _optional(info: constructors.PrimitiveTypeInfo) -> Any:
  """Shows ``T | None`` as T in the help, and accepts `None`."""
  if info.type_origin is not types.UnionType:
    return None
  kinds = [kind for kind in get_args(info.type) if kind is not types.NoneType]
  if len(kinds) != 1:
    return None
  spec = constructors.ConstructorRegistry.get_primitive_spec(
    constructors.PrimitiveTypeInfo.make(kinds[0], info.markers)
  )
  if isinstance(spec, constructors.UnsupportedTypeAnnotationError):
    return spec
  return dataclasses.replace(
    spec,
    instance_from_str=lambda words: (
      None if words == ['None'] else spec.instance_from_str(words)
    ),
    is_instance=lambda value: value is None or spec.is_instance(value),
    str_from_instance=lambda value: (
      ['None'] if value is None else spec.str_from_instance(value)
    ),
  )


@_REGISTRY.primitive_rule
def _sequence(info: constructors.PrimitiveTypeInfo) -> Any:
  """Reports which value of a list is invalid and why, unlike tyro."""
  if info.type_origin is not tuple or get_args(info.type)[1:] != (...,):
    return None
  spec = constructors.ConstructorRegistry.get_primitive_spec(
    constructors.PrimitiveTypeInfo.make(get_args(info.type)[0], info.markers)
  )
  if isinstance(spec, constructors.UnsupportedTypeAnnotationError):
    return spec
  return constructors.PrimitiveConstructorSpec(
    nargs='*',
    metavar=f'{spec.metavar} ...',
    instance_from_str=lambda words: tuple(
      spec.instance_from_str([word]) for word in words
    ),
    is_instance=lambda value: (
      isinstance(value, tuple) and all(map(spec.is_instance, value))
    ),
    str_from_instance=lambda value: [
      word for item in value for word in spec.str_from_instance(item)
    ],
  )
