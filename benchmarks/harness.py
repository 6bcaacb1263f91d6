"""Shared code of the benchmarks: repeats, ratios, records, the command line.

Candidates are timed in turns, so that other load on the machine affects all of
them alike, and compared round by round.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from typing import Any

import jax

from train import errors
from train.devices import jax_environment
from train.devices import processor

RECORDS = pathlib.Path(__file__).parent / 'records'

_PACKAGES = ('jax', 'jaxlib', 'optax', 'flax', 'numpy', 'torch')
_LEAST_ROUNDS = 3
# PyTorch's threads spin for about a millisecond after their work.
_PAUSE = 0.005

Results = dict[str, Any]


def interleave(
  candidates: Mapping[str, Callable[[], object]],
  *,
  rounds: int,
  calls: int = 1,
  seconds: float = math.inf,
) -> dict[str, list[float]]:
  """Times functions in turns.

  Args:
    candidates: Functions that return when their work is done.
    rounds: Number of rounds, after a warm-up round.
    calls: Calls per turn.
    seconds: Time limit: no new round starts after it, once there are three.

  Returns:
    Seconds of one call, for each candidate in each round.
  """
  for call in candidates.values():
    call()
  names = list(candidates)
  samples: dict[str, list[float]] = {name: [] for name in names}
  began = time.perf_counter()
  for i in range(rounds):
    # The order rotates, because a candidate affects the next one.
    first = i % len(names)
    for name in names[first:] + names[:first]:
      call = candidates[name]
      time.sleep(_PAUSE)
      started = time.perf_counter()
      for _ in range(calls):
        call()
      samples[name].append((time.perf_counter() - started) / calls)
    if i + 1 >= _LEAST_ROUNDS and time.perf_counter() - began > seconds:
      break
  return samples


def summarize(samples: Sequence[float]) -> dict[str, float]:
  """Median and quartiles of a sample."""
  lower, median, upper = (
    statistics.quantiles(samples, n=4, method='inclusive')
    if len(samples) > 1
    else [samples[0]] * 3
  )
  return {
    'median': median,
    'lower_quartile': lower,
    'upper_quartile': upper,
    'rounds': len(samples),
  }


def ratio(
  numerator: Sequence[float], denominator: Sequence[float]
) -> dict[str, float]:
  """Median and quartiles of the rounds' ratios."""
  return summarize([a / b for a, b in zip(numerator, denominator, strict=True)])


def rate(amount: float, samples: Sequence[float]) -> dict[str, float]:
  """Median and quartiles of an amount per second."""
  return summarize([amount / seconds for seconds in samples])


def spread(summary: Mapping[str, float], digits: int, scale: float = 1) -> str:
  """A summary as text: the median and, in brackets, the quartiles."""
  median, lower, upper = (
    f'{summary[name] * scale:,.{digits}f}'
    for name in ('median', 'lower_quartile', 'upper_quartile')
  )
  return f'{median} ({lower}–{upper})'


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
  """A Markdown table. All columns but the first are aligned to the right."""
  cells = [list(header), *([str(cell) for cell in row] for row in rows)]
  widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

  def line(row: Sequence[str]) -> str:
    first, *rest = row
    padded = [first.ljust(widths[0])]
    padded += [cell.rjust(n) for cell, n in zip(rest, widths[1:], strict=True)]
    return '| ' + ' | '.join(padded) + ' |'

  rule = ['-' * widths[0], *('-' * (n - 1) + ':' for n in widths[1:])]
  return '\n'.join([line(cells[0]), line(rule), *map(line, cells[1:])])


def environment() -> dict[str, Any]:
  """Device, versions, date and commit of a measurement."""
  versions: dict[str, str | None] = {}
  for name in _PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      versions[name] = None
  return {
    'device': jax.devices()[0].device_kind,
    'devices': jax.device_count(),
    'processor': processor.name(),
    'cores': os.cpu_count(),
    'load_before': os.getloadavg()[0],
    'python': platform.python_version(),
    'versions': versions,
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    **when(),
  }


def when() -> dict[str, str]:
  """Date and commit of a part of a record that is older than the rest."""
  return {
    'date': datetime.date.today().isoformat(),
    'commit': _commit(),
  }


def of(when: Mapping[str, str]) -> str:
  """Formats the result of :func:`when`."""
  return f'{when["date"]}, commit {when["commit"]}'


def describe(environment: Mapping[str, Any]) -> str:
  """One line on where and when a record was made."""
  versions = ', '.join(
    f'{name} {version}'
    for name, version in environment['versions'].items()
    if version
  )
  return (
    f'{environment["processor"]}, {environment["cores"]} cores, device'
    f' {environment["device"]}; Python {environment["python"]}, {versions};'
    f' {environment["date"]}, commit {environment["commit"]}.'
  )


def main(
  name: str,
  measure: Callable[[bool], Results],
  tables: Callable[[Results], str],
  *,
  draw: Callable[[Results, pathlib.Path], None] | None = None,
) -> None:
  """The command line of a benchmark.

  Args:
    name: Name of the benchmark.
    measure: Called with whether to be quick; returns JSON-compatible results.
    tables: Returns the results as Markdown.
    draw: Draws the results into a PNG file next to the record.
  """
  parser = argparse.ArgumentParser(
    prog=f'python -m benchmarks.{name}',
    description=sys.modules['__main__'].__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--quick',
    action='store_true',
    help='tiny sizes, to test the program; the results mean nothing',
  )
  parser.add_argument(
    '--out',
    type=pathlib.Path,
    help=f'the record. Default: benchmarks/records/{name}.json, none if quick',
  )
  flags = parser.parse_args()
  try:
    jax_environment.prepare()
    record = make_record(name, measure, flags.quick)
  except errors.UsageError as error:
    print(f'{parser.prog}: {error}', file=sys.stderr)
    sys.exit(2)
  out = flags.out or (None if flags.quick else RECORDS / f'{name}.json')
  if out is not None:
    write(record, out)
    if draw is not None:
      draw(record['results'], out.with_suffix('.png'))
  print(describe(record['environment']), end='\n\n')
  print(tables(record['results']))


def make_record(
  name: str, measure: Callable[[bool], Results], quick: bool
) -> dict[str, Any]:
  """Measures; returns the results with the environment."""
  where = environment()
  started = time.monotonic()
  results = measure(quick)
  return {
    'benchmark': name,
    'quick': quick,
    'environment': where,
    'seconds': time.monotonic() - started,
    'results': results,
  }


def write(record: Mapping[str, Any], path: pathlib.Path) -> None:
  """Writes a record as JSON."""
  path.parent.mkdir(parents=True, exist_ok=True)
  text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
  path.write_text(text + '\n', encoding='utf-8')


def _commit() -> str:
  def git(*arguments: str) -> str:
    return subprocess.run(
      ['git', *arguments],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()

  try:
    # What is measured, not what has been measured.
    changed = git('status', '--porcelain', '--', '../*.py')
    return git('rev-parse', '--short', 'HEAD') + ('+' if changed else '')
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'
