"""Many runs in a few tables that are readable and work with `git diff`.

settings.tsv   one line per setting that all runs share
arms.tsv       one line per arm: the settings that its runs share
runs.tsv       one line per run: its seeds and the rest of config.json; from
               the column `status` on, summary.json
epochs.tsv     one line per epoch: metrics.jsonl
steps.tsv      one line per epoch: steps.jsonl, if any run has it

Columns are separated by tabs. A cell is a JSON value, or plain text if that is
unambiguous; an empty cell is an absent field. In steps.tsv the numbers of a
list are separated by spaces, and `0.93*22` stands for 22 times 0.93.

Every number equals that of the files of the run, bit for bit.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import re
from typing import Any

from train import errors
from train import files
from train.records import arms as arms_lib
from train.records import schema
from train.records.run import Run

SETTINGS = 'settings.tsv'
ARMS = 'arms.tsv'
RUNS = 'runs.tsv'
EPOCHS = 'epochs.tsv'
STEPS = 'steps.tsv'

_FIRST_OF_SUMMARY = 'status'
_LISTS = ('loss', 'momentum', 'horizontal')


def is_packed(directory: pathlib.Path) -> bool:
  """Whether a directory holds packed tables."""
  return any(os.path.lexists(directory / name) for name in (RUNS, EPOCHS))


# --------------------------------------------------------------------- writing


def write(runs: Sequence[tuple[str, Run]], out: pathlib.Path) -> None:
  """Writes the tables.

  Args:
    runs: In the order of the tables, by their path in the tables, with folders
      separated by slashes.
    out: Output folder, created if absent.

  Raises:
    UsageError: If two runs have one path, or ``out`` cannot be written.
  """
  names = [name for name, _ in runs]
  for name in names:
    if names.count(name) > 1:
      raise errors.UsageError(f'Two runs would be called {_text(name)}.')
  by_arm = _by_arm([run for _, run in runs])
  arm_of = {id(run): arm for arm, own in by_arm.items() for run in own}
  columns = list(dict.fromkeys(name for _, run in runs for name in run.config))

  def shared(name: str, among: Iterable[Run]) -> bool:
    cells = {_cell(run.config, name) for run in among}
    return len(cells) == 1 and cells != {''}

  common = [name for name in columns if shared(name, (r for _, r in runs))]
  rest = [name for name in columns if name not in common]
  of_arms = [
    name for name in rest if all(shared(name, own) for own in by_arm.values())
  ]
  of_runs = [name for name in rest if name not in of_arms]
  of_summaries = _fields((run.summary for _, run in runs), schema.Summary)
  for name in of_runs:
    if name in ('run', 'arm', *of_summaries):
      raise errors.UsageError(
        f'Runs whose config.json has the field {name} cannot be packed.'
      )
  of_epochs = _fields((r for _, run in runs for r in run.rows), schema.EpochRow)

  tables = {
    SETTINGS: _table(
      ['setting', 'value'],
      ([name, _cell(runs[0][1].config, name)] for name in common),
    ),
    ARMS: _table(
      ['arm', *of_arms],
      (
        [_text(arm), *(_cell(own[0].config, name) for name in of_arms)]
        for arm, own in by_arm.items()
      ),
    ),
    RUNS: _table(
      ['run', 'arm', *of_runs, *of_summaries],
      (
        [
          _text(name),
          _text(arm_of[id(run)]),
          *(_cell(run.config, field) for field in of_runs),
          *(_cell(run.summary, field) for field in of_summaries),
        ]
        for name, run in runs
      ),
    ),
    EPOCHS: _table(
      ['run', *of_epochs],
      (
        [_text(name), *(_cell(row, field) for field in of_epochs)]
        for name, run in runs
        for row in run.rows
      ),
    ),
    STEPS: _table(
      ['run', 'epoch', *_LISTS],
      (
        [_text(name), str(row['epoch']), *(_join(row[f]) for f in _LISTS)]  # type: ignore[literal-required]
        for name, run in runs
        for row in run.steps
      ),
    ),
  }
  try:
    out.mkdir(parents=True, exist_ok=True)
    for file, lines in tables.items():
      if file != STEPS or len(lines) > 1:
        files.replace_text(out / file, ''.join(f'{line}\n' for line in lines))
      else:
        (out / file).unlink(missing_ok=True)
  except OSError as error:
    raise errors.UsageError(
      f'--out {out} cannot be written: {error.strerror}.'
    ) from error


def _by_arm(runs: Sequence[Run]) -> dict[str, list[Run]]:
  """Runs by the name of their arm; equal names are numbered."""
  named: dict[str, list[Run]] = {}
  order = {id(run): i for i, run in enumerate(runs)}
  for arm in sorted(
    arms_lib.group_into_arms(runs),
    key=lambda arm: min(order[id(run)] for run in arm.runs),
  ):
    name = arm.name
    for i in itertools.count(2):
      if name not in named:
        break
      name = f'{arm.name} #{i}'
    named[name] = arm.runs
  return named


def _fields(records: Iterable[Mapping[str, Any]], kind: Any) -> list[str]:
  """The known fields that are present, in order, then the others."""
  there = dict.fromkeys(name for record in records for name in record)
  known = [name for name in kind.__annotations__ if name in there]
  return [*known, *(name for name in there if name not in known)]


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
  return ['\t'.join(row) for row in itertools.chain([head], rows)]


def _cell(record: Mapping[str, Any], name: str) -> str:
  if name not in record:
    return ''
  value = record[name]
  if isinstance(value, str):
    return _text(value)
  return json.dumps(value, allow_nan=False)


def _text(value: str) -> str:
  """The text itself, or its JSON string if the text is ambiguous."""
  is_plain = value.isprintable() and value.strip() == value != ''
  if is_plain and value[0] not in '"[{' and not _is_json(value):
    return value
  return json.dumps(value)


def _is_json(text: str) -> bool:
  """Whether a cell of this text is a number, true, false or null."""
  return text in _LITERALS or _NUMBER.fullmatch(text) is not None


_LITERALS = {'null': None, 'true': True, 'false': False}
_NUMBER = re.compile(r'(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][+-]?[0-9]+)?')
# Tables have millions of numbers, each of which takes JSON 4 microseconds.
# Shorter ones without an exponent are finite.
_MOST_DIGITS = 100


def _join(values: list[Any] | None) -> str:
  """The numbers of a list, run-length encoded."""
  if values is None:
    return ''
  parts = []
  for token, group in itertools.groupby(map(json.dumps, values)):
    count = len(list(group))
    parts.append(token if count == 1 else f'{token}*{count}')
  return ' '.join(parts)


# --------------------------------------------------------------------- reading


@dataclasses.dataclass(frozen=True)
class Packed:
  """The contents of a folder of tables."""

  runs: list[Run]
  left_out: list[str]
  """One sentence for each run that cannot be used."""


def read(directory: pathlib.Path, note: schema.Note = schema.ignore) -> Packed:
  """Reads all runs of a folder of tables, in order.

  Args:
    directory: See :func:`is_packed`.
    note: Called for fields that this version does not know.

  Raises:
    UsageError: If a table as a whole cannot be read.
  """
  tables = _Tables(directory)
  runs, left_out = [], []
  for name in tables.names:
    try:
      runs.append(tables.run(name, note))
    except errors.UsageError as error:
      left_out.append(str(error))
  unused = tables.unused()
  if unused:
    left_out.append(unused)
  return Packed(runs, left_out)


def find(path: pathlib.Path) -> Run | None:
  """Finds the packed run of a run directory.

  Args:
    path: The run directory. Its parent folders are searched for tables.

  Raises:
    UsageError: If the tables are damaged.
  """
  for directory in path.parents:
    if is_packed(directory):
      name = path.relative_to(directory).as_posix()
      tables = _read_once(directory, _state(directory))
      if name in tables.names:
        return tables.run(name, schema.ignore)
  return None


@functools.lru_cache(maxsize=1)
def _read_once(directory: pathlib.Path, state: tuple[Any, ...]) -> '_Tables':
  """The tables of a folder, cached until one of them changes."""
  del state
  return _Tables(directory)


def _state(directory: pathlib.Path) -> tuple[Any, ...]:
  """A key that changes with the tables, for the cache."""
  stats = [
    (directory / name).stat()
    for name in (SETTINGS, ARMS, RUNS, EPOCHS, STEPS)
    if (directory / name).exists()
  ]
  return tuple((found.st_mtime_ns, found.st_size) for found in stats)


class _Line:
  """A line of a table: cells by column, as text."""

  def __init__(self, place: str, cells: Mapping[str, str], wrong: str = ''):
    self.place = place
    self.cells = cells
    self.wrong = wrong
    """The error of the whole line, if there is one."""

  @property
  def name(self) -> str:
    """The first cell: the name of the line."""
    return str(_value(next(iter(self.cells.values())), self.place))

  def values(self, columns: Iterable[str]) -> dict[str, Any]:
    """The values of some columns, without empty cells."""
    if self.wrong:
      raise errors.UsageError(f'{self.place} {self.wrong}.')
    return {
      column: _value(self.cells[column], self.place)
      for column in columns
      if self.cells[column] != ''
    }


class _Tables:
  """The tables of a folder, as text by run."""

  def __init__(self, directory: pathlib.Path):
    self._directory = directory
    self._common: dict[str, Any] = {}
    for line in _read_table(directory / SETTINGS, 'setting'):
      value = line.values(['value'] if 'value' in line.cells else [])
      if 'value' not in value or line.name in self._common:
        raise errors.UsageError(
          f'{line.place} must be a setting, which occurs only once, and its'
          ' value.'
        )
      self._common[line.name] = value['value']
    self._arms = _by_name(_read_table(directory / ARMS, 'arm'))
    self._runs = _by_name(_read_table(directory / RUNS, 'run'))
    self._epochs = _grouped(_read_table(directory / EPOCHS, 'run'))
    steps = directory / STEPS
    self._steps = _grouped(_read_table(steps, 'run') if steps.exists() else [])

  @property
  def names(self) -> Iterable[str]:
    return self._runs.keys()

  def run(self, name: str, note: schema.Note) -> Run:
    """A run by its path, or UsageError."""
    line = self._runs[name]
    place = line.place
    columns = list(line.cells)[1:]
    if 'arm' not in columns or _FIRST_OF_SUMMARY not in columns:
      raise errors.UsageError(
        f'{place}: the table lacks the column arm or {_FIRST_OF_SUMMARY}.'
      )
    at = columns.index(_FIRST_OF_SUMMARY)
    config = line.values(columns[:at])
    arm = str(config.pop('arm', ''))
    if arm not in self._arms:
      raise errors.UsageError(
        f'{place}: there is no arm {_text(arm)} in {self._directory / ARMS}.'
      )
    of_arm = self._arms[arm]
    config = {
      **self._common,
      **of_arm.values(list(of_arm.cells)[1:]),
      **config,
    }
    epochs, steps = self._epochs.get(name, []), self._steps.get(name)
    read_steps = functools.partial(_read_steps, steps or [])
    run = Run(
      self._directory / name,
      schema.check_config(config, place, note),
      schema.check_summary(line.values(columns[at:]), place, note),
      schema.check_epochs(
        [own.values(list(own.cells)[1:]) for own in epochs],
        lambda i: epochs[i].place,
        note,
      ),
      read_steps,
    )
    schema.check_agreement(
      run.config,
      run.summary,
      run.rows,
      None if steps is None else read_steps(),
      place,
    )
    return run

  def unused(self) -> str | None:
    """A sentence if the table of runs lacks the run of a line, else None."""
    for grouped in (self._epochs, self._steps):
      for name, lines in grouped.items():
        if name not in self._runs:
          return (
            f'{lines[0].place}: there is no run {_text(name)} in'
            f' {self._directory / RUNS}.'
          )
    return None


def _read_table(path: pathlib.Path, first: str) -> Iterator[_Line]:
  """The lines of a table below its header.

  Args:
    path: The file.
    first: The required name of the first column.
  """
  text = files.read_text(path)
  if not text.endswith('\n'):
    raise errors.UsageError(f'{path} is {"cut off" if text else "empty"}.')
  head, *rows = (line.split('\t') for line in text[:-1].split('\n'))
  if head[0] != first or len(set(head)) < len(head):
    raise errors.UsageError(
      f'{path} must begin with the names of its columns, the first of which is'
      f' {first}.'
    )
  for i, cells in enumerate(rows):
    wrong = ''
    if len(cells) != len(head):
      wrong = f'must have {len(head)} columns, got {len(cells)}'
    yield _Line(
      f'{path}, line {i + 2}', dict(zip(head, cells, strict=False)), wrong
    )


def _by_name(lines: Iterable[_Line]) -> dict[str, _Line]:
  named: dict[str, _Line] = {}
  for line in lines:
    if line.name in named:
      line.wrong = f'repeats {_text(line.name)}'
    named[line.name] = line
  return named


def _grouped(lines: Iterable[_Line]) -> dict[str, list[_Line]]:
  grouped: dict[str, list[_Line]] = {}
  for line in lines:
    grouped.setdefault(line.name, []).append(line)
  return grouped


def _value(cell: str, place: str) -> Any:
  """The value of a cell that is not empty."""
  if cell in _LITERALS:
    return _LITERALS[cell]
  number = _NUMBER.fullmatch(cell)
  if number and not number[3] and len(cell) < _MOST_DIGITS:
    return float(cell) if number[2] else int(cell)
  if number or cell[:1] in ('"', '[', '{'):
    return files.parse(cell, place)
  return cell


def _read_steps(lines: Sequence[_Line]) -> list[schema.StepsRow]:
  """The rows of steps.jsonl from those of the table."""
  rows = []
  for line in lines:
    row = line.values(['epoch'])
    for name in _LISTS:
      row[name] = _split(line.cells.get(name, ''), line.place)
    rows.append(row)
  return schema.check_steps(rows, lambda i: lines[i].place)


# More steps per epoch than any run has, so that a typo cannot fill the memory.
_MOST_STEPS = 10_000_000


def _split(cell: str, place: str) -> list[Any] | None:
  """The inverse of :func:`_join`."""
  if not cell:
    return None
  values: list[Any] = []
  for part in cell.split(' '):
    token, _, times = part.partition('*')
    count = _value(times, place) if times else 1
    if not isinstance(count, int) or not 0 < count <= _MOST_STEPS - len(values):
      raise errors.UsageError(f'{place}: {part} is not a number of steps.')
    values += [_value(token, place)] * count
  return values
