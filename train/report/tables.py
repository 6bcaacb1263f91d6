"""Tables in Markdown."""

from collections.abc import Iterable, Sequence
import math

from train import safe
from train import statistics
from train.records import Arm
from train.report import paper


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


_JUDGED = [
  'n',
  'points',
  'interval',
  'margin',
  'could have found',
  'p',
  'verdict',
]


def contrasts_table(
  judged: Sequence[tuple[str, statistics.Judgement]],
) -> str:
  """Judged differences by what they are of."""
  return _markdown(
    ['difference', *_JUDGED],
    [[safe.markdown(words), *_cells(judgement)] for words, judgement in judged],
  )


def claims_table(
  judged: Sequence[tuple[paper.Claim, statistics.Judgement]],
) -> str:
  """The paper's claims, each with what the runs say."""
  return _markdown(
    ['claim', 'where', *_JUDGED],
    [
      [claim.words, claim.source, *_cells(judgement)]
      for claim, judgement in judged
    ],
  )


def show_verdict(judgement: statistics.Judgement) -> str:
  """The verdict, and whether a difference that was found is a small one."""
  verdict = judgement.verdict
  is_found = verdict in (statistics.Verdict.BETTER, statistics.Verdict.WORSE)
  if is_found and judgement.is_within_margin:
    return f'{verdict}, within the margin'
  return str(verdict)


def show_interval(judgement: statistics.Judgement) -> str:
  """``-0.20 to +0.31``, or a dash if nothing could be tested."""
  return _range(judgement.low, judgement.high, '+.2f')


def _cells(judgement: statistics.Judgement) -> list[str]:
  estimate = judgement.estimate
  return [
    str(estimate.n),
    f'{estimate.difference:+.2f}',
    show_interval(judgement),
    _or_dash(estimate.margin),
    _or_dash(judgement.could_have_found),
    _p_value(judgement.p),
    show_verdict(judgement),
  ]


def _figure_of_the_paper(arm: Arm) -> str:
  figure = paper.TABLE_1.get(arm.name.removeprefix('small-'))
  return '' if figure is None else f'{figure:.2f}'


def _runs(arm: Arm) -> str:
  finished, begun = len(arm.finished), len(arm.runs)
  return str(begun) if finished == begun else f'{finished} of {begun}'


def _interval(sample: statistics.Sample) -> str:
  half_width = sample.half_width
  return _range(sample.mean - half_width, sample.mean + half_width, '.2f')


def _range(low: float, high: float, form: str) -> str:
  return '–' if math.isnan(low) else f'{low:{form}} to {high:{form}}'


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
