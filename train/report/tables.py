"""The tables of a report."""

from collections.abc import Sequence
import math

from train import experiments
from train import markdown
from train import safe
from train import statistics
from train.records import Arm
from train.report import paper
from train.report import preregistered


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
        _or_dash(sample.std),
        _interval(sample),
        f'{statistics.describe(list(best.values())).mean:.2f}',
      ]
    )
  return markdown.table(
    ['arm', 'n', 'final test error %', 'sd', '95 % interval', 'best epoch %'],
    rows,
  )


def paper_errors_table(arms: Sequence[Arm]) -> str:
  """The same for experiments of the paper, with the published errors.

  Mean, standard deviation and interval are those of the epoch that the paper
  reports.
  """
  has_figures = any(paper.published(arm.experiment) for arm in arms)
  rows = []
  for arm in arms:
    if not arm.finished:
      name = safe.markdown(arm.name)
      rows.append([name, _runs(arm), *[''] * (7 + has_figures)])
      continue
    errors = list(arm.read_off_errors().values())
    sample = statistics.describe(errors)
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
    epochs = len(arm.finished[0].rows)
    read_at = experiments.read_off_epoch(arm.experiment, epochs)
    figure = paper.published(arm.experiment)
    rows.append(
      [
        safe.markdown(arm.name),
        _runs(arm),
        f'{read_at} of {epochs}',
        f'{sample.mean:.2f}',
        _or_dash(sample.std),
        _interval(sample) if sample.n > FEW else _values(errors),
        *(['' if figure is None else f'{figure:.2f}'] if has_figures else []),
        f'{final:.2f}',
        f'{best:.2f}',
        f'{100 * sum(shares) / len(shares):.0f}' if shares else '–',
      ]
    )
  return markdown.table(
    [
      'arm',
      'n',
      'reported epoch',
      'test error %',
      'sd',
      '95 % interval or values',
      *(['published %'] if has_figures else []),
      'final %',
      'best epoch %',
      'horizontal steps %',
    ],
    rows,
  )


FEW = 3
"""Up to this number of runs, all values are shown instead of an interval."""


def _values(errors: Sequence[float]) -> str:
  return ', '.join(f'{error:.2f}' for error in errors)


def preregistered_table(of_stage: preregistered.Answers) -> str:
  """The six contrasts of a stage, one per line."""
  stage = of_stage.stage
  return markdown.table(
    [f'{stage.scale.name} (stage {stage.number})', *_JUDGED],
    [
      [
        f'{name}, {question.name}: {question.words}',
        *_answer(of_stage, question.name, dataset),
      ]
      for question in preregistered.QUESTIONS
      for dataset, name in preregistered.DATASETS.items()
    ],
  )


def _answer(
  of_stage: preregistered.Answers, question: str, dataset: str
) -> list[str]:
  contrast = of_stage.contrasts.get((question, dataset))
  if not of_stage.is_complete or contrast is None:
    n = f'{of_stage.done[dataset]} of {of_stage.planned}'
    return [n, *['–'] * (len(_JUDGED) - 1)]
  return _cells(contrast.judgement)


_JUDGED = [
  'n',
  'points',
  'interval',
  'margin',
  'detectable',
  'p',
  'verdict',
]


def arms_of_stage_table(answers: preregistered.Answers) -> str:
  """Error and mean momentum of the five arms of a stage that is complete."""
  rows = []
  for section, name in preregistered.ARMS:
    row = [f'{section} {name}']
    for dataset in preregistered.DATASETS:
      figures = answers.arms.get(((section, name), dataset))
      if figures is None:
        row += ['–', '–']
        continue
      row += [f'{figures.error:.2f}', _or_dash(figures.momentum, 4)]
    rows.append(row)
  head = [f'{answers.stage.scale.name}, exploratory']
  for name in preregistered.DATASETS.values():
    head += [f'{name}: test error %', 'mean momentum']
  return markdown.table(head, rows)


def contrasts_table(
  judged: Sequence[tuple[str, statistics.Judgement]],
) -> str:
  """Judged differences, by name."""
  return markdown.table(
    ['difference', *_JUDGED],
    [[safe.markdown(words), *_cells(judgement)] for words, judgement in judged],
  )


_EXPLORED = ['n', 'points', 'interval']


def exploratory_table(
  explored: Sequence[tuple[str, statistics.Judgement]],
) -> str:
  """Differences without verdicts, by name."""
  return markdown.table(
    ['difference, exploratory', *_EXPLORED],
    [
      [safe.markdown(words), *_cells(judgement)[: len(_EXPLORED)]]
      for words, judgement in explored
    ],
  )


def claims_table(
  explored: Sequence[tuple[paper.Claim, statistics.Judgement]],
) -> str:
  """The paper's claims, each with its difference."""
  return markdown.table(
    ['claim, exploratory', 'where', *_EXPLORED],
    [
      [claim.words, claim.source, *_cells(judgement)[: len(_EXPLORED)]]
      for claim, judgement in explored
    ],
  )


def show_verdict(judgement: statistics.Judgement) -> str:
  """The verdict, and whether a found difference is within the margin."""
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
