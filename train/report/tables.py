"""Tables in Markdown."""

from collections.abc import Iterable, Sequence
import itertools
import math

from train.report import statistics
from train.report.records import Arm


def errors_table(arms: Sequence[Arm]) -> str:
  """Test error of each arm: mean, standard deviation and 95 % interval."""
  rows = []
  for arm in arms:
    final, best = arm.final_errors(), arm.best_errors()
    if not final:
      rows.append([arm.name, f'0 of {len(arm.runs)}', '', '', '', ''])
      continue
    sample = statistics.describe(list(final.values()))
    rows.append(
      [
        arm.name,
        str(sample.n)
        if sample.n == len(arm.runs)
        else f'{sample.n} of {len(arm.runs)}',
        f'{sample.mean:.2f}',
        _or_dash(sample.deviation),
        _interval(sample),
        f'{statistics.describe(list(best.values())).mean:.2f}',
      ]
    )
  return _markdown(
    ['arm', 'n', 'final test error %', 'sd', '95 % interval', 'best epoch %'],
    rows,
  )


def comparisons_table(arms: Sequence[Arm]) -> str | None:
  """Every pair of arms, compared under the same seeds; None for one arm."""
  rows = []
  for first, second in itertools.combinations(arms, 2):
    comparison = statistics.compare_errors(
      first.final_errors(), second.final_errors()
    )
    if comparison is None:
      continue
    rows.append(
      [
        f'{first.name} − {second.name}',
        str(comparison.difference.n),
        f'{comparison.difference.mean:+.2f}',
        _interval(comparison.difference, signed=True),
        _or_dash(comparison.p_value),
        comparison.verdict,
      ]
    )
  if not rows:
    return None
  return _markdown(
    ['difference', 'pairs', 'points', '95 % interval', 'p', 'verdict'], rows
  )


def _interval(sample: statistics.Sample, signed: bool = False) -> str:
  if math.isnan(sample.half_width):
    return '–'
  low, high = sample.mean - sample.half_width, sample.mean + sample.half_width
  return f'{low:+.2f} to {high:+.2f}' if signed else f'{low:.2f} to {high:.2f}'


def _or_dash(value: float) -> str:
  return '–' if math.isnan(value) else f'{value:.2f}'


def _markdown(head: list[str], rows: Iterable[list[str]]) -> str:
  table = [head, *rows]
  widths = [max(3, *(len(row[i]) for row in table)) for i in range(len(head))]

  def line(cells: list[str]) -> str:
    padded = [
      # Words to the left, figures to the right.
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f'| {" | ".join(padded)} |'

  rule = [
    '-' * width if i == 0 else '-' * (width - 1) + ':'
    for i, width in enumerate(widths)
  ]
  return '\n'.join(line(row) for row in [head, rule, *rows])
