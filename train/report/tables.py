"""Tables in Markdown."""

from collections.abc import Iterable, Sequence
import itertools
import math

from train.records import Arm
from train.report import paper
from train.report import safe
from train.report import statistics


def errors_table(arms: Sequence[Arm]) -> str:
  """Test error of each arm: mean, standard deviation and 95 % interval."""
  rows = []
  for arm in arms:
    final, best = arm.final_errors(), arm.best_errors()
    if not final:
      rows.append([safe.markdown(arm.name), _runs(arm), '', '', '', ''])
      continue
    sample = statistics.describe(list(final.values()))
    rows.append(
      [
        safe.markdown(arm.name),
        _runs(arm),
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


def paper_errors_table(arms: Sequence[Arm]) -> str:
  """The same for experiments of the paper, beside its own figures.

  Mean, deviation and interval are those of the epoch at which the paper reads
  the error off.
  """
  has_figures = any(_figure_of_the_paper(arm) for arm in arms)
  rows = []
  for arm in arms:
    if not arm.finished:
      name = safe.markdown(arm.name)
      rows.append([name, '', _runs(arm), *[''] * (6 + has_figures)])
      continue
    sample = statistics.describe(list(arm.read_off_errors().values()))
    final, best = (
      statistics.describe(list(errors.values())).mean
      for errors in (arm.final_errors(), arm.best_errors())
    )
    shares = [
      share
      for run in arm.finished
      for share in run.curve('horizontal_fraction')
      if share is not None
    ]
    rows.append(
      [
        safe.markdown(arm.name),
        str(len(arm.finished[0].rows)),
        _runs(arm),
        f'{sample.mean:.2f}',
        _or_dash(sample.deviation),
        _interval(sample),
        *([_figure_of_the_paper(arm)] if has_figures else []),
        f'{final:.2f}',
        f'{best:.2f}',
        f'{100 * sum(shares) / len(shares):.0f}' if shares else '–',
      ]
    )
  return _markdown(
    [
      'arm',
      'epochs',
      'n',
      'test error %',
      'sd',
      '95 % interval',
      *(['paper %'] if has_figures else []),
      'final %',
      'best epoch %',
      'horizontal steps %',
    ],
    rows,
  )


def comparisons_table(pairs: Iterable[tuple[Arm, Arm]]) -> str | None:
  """Pairs of arms, compared under the same seeds.

  Returns:
    The table, with Holm's p-values for all its rows together; ``None`` where no
    pair has a seed in common.
  """
  compared = [
    (first, second, comparison)
    for first, second in pairs
    if (comparison := compare(first, second)) is not None
  ]
  if not compared:
    return None
  return adjusted_table(
    [
      (safe.markdown(f'{first.name} − {second.name}'), comparison)
      for first, second, comparison in compared
    ]
  )


def adjusted_table(
  compared: Sequence[tuple[str, statistics.Comparison]],
) -> str:
  """Comparisons by what they are of, with Holm's p-values for all together."""
  adjusted = statistics.adjust([comparison for _, comparison in compared])
  return _markdown(
    [
      'difference',
      'pairs',
      'points',
      '95 % interval',
      'could have found',
      'p',
      'verdict',
    ],
    [
      [words, *_cells(comparison), comparison.verdict]
      for (words, _), comparison in zip(compared, adjusted, strict=True)
    ],
  )


def claims_table(
  judged: Sequence[tuple[paper.Claim, statistics.Comparison]],
) -> str:
  """The paper's claims, each with what the runs say."""
  return _markdown(
    [
      'claim',
      'where',
      'pairs',
      'points',
      '95 % interval',
      'could have found',
      'p',
      'found',
    ],
    [
      [
        claim.words,
        claim.source,
        *_cells(comparison),
        claim.judge(comparison.verdict),
      ]
      for claim, comparison in judged
    ],
  )


def compare(first: Arm, second: Arm) -> statistics.Comparison | None:
  """Test errors of two arms, at the epoch at which the paper reads them."""
  return statistics.compare_errors(
    first.read_off_errors(), second.read_off_errors()
  )


def every_pair(arms: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
  return list(itertools.combinations(arms, 2))


def _cells(comparison: statistics.Comparison) -> list[str]:
  return [
    str(comparison.difference.n),
    f'{comparison.difference.mean:+.2f}',
    _interval(comparison.difference, signed=True),
    _or_dash(comparison.detectable),
    _p_value(comparison.p_value),
  ]


def _figure_of_the_paper(arm: Arm) -> str:
  figure = paper.TABLE_1.get(arm.name.removeprefix('small-'))
  return '' if figure is None else f'{figure:.2f}'


def _runs(arm: Arm) -> str:
  finished, begun = len(arm.finished), len(arm.runs)
  return str(begun) if finished == begun else f'{finished} of {begun}'


def _interval(sample: statistics.Sample, signed: bool = False) -> str:
  if math.isnan(sample.half_width):
    return '–'
  low, high = sample.mean - sample.half_width, sample.mean + sample.half_width
  return f'{low:+.2f} to {high:+.2f}' if signed else f'{low:.2f} to {high:.2f}'


def _p_value(value: float) -> str:
  return '< 0.001' if value < 0.001 else _or_dash(value, 3)


def _or_dash(value: float, digits: int = 2) -> str:
  return '–' if math.isnan(value) else f'{value:.{digits}f}'


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
