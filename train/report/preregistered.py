"""The preregistered questions, see results/PREREGISTRATION.md.

Three contrasts for each data set are judged as one family of six, once for each
stage. A stage is a scale with its own seeds; other seeds and other arms are not
used. Everything else in the report on the paper's experiments is exploratory.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import fractions
import math

import numpy as np

from train import experiments
from train import statistics
from train.experiments import Experiment
from train.experiments import Scale
from train.records import Arm
from train.records import Run
from train.report import contrasts
from train.report import paper
from train.statistics import Verdict

DATASETS = paper.DATASETS

LCAM = ('figure4', 'lcam')
FIXED = ('figure4', 'fixed-0.9')
COIN = ('ablation', 'coin-by-epoch')
AVERAGE = ('ablation', 'time-average')
SWAPPED = ('ablation', 'swapped')
ARMS = (LCAM, FIXED, COIN, AVERAGE, SWAPPED)
"""Section and arm of the experiments."""

POSITIVE_CONTROL = ('figure4', 'cosine-120')
"""Known to differ from :data:`FIXED`; not in a family."""

_HALF = fractions.Fraction(1, 2)


@dataclasses.dataclass(frozen=True)
class Question:
  """One contrast, asked of each data set."""

  name: str
  asked: str
  other: str
  """What LCAM is compared with, in a sentence."""
  words: str
  """What is compared, in a table."""
  weights: Mapping[tuple[str, str], fractions.Fraction | int]
  """By section and arm. A negative sum favors LCAM."""


QUESTIONS = (
  Question(
    'P1',
    'Is LCAM better than a fixed momentum of 0.9?',
    'a fixed momentum of 0.9',
    'LCAM − fixed 0.9',
    {LCAM: 1, FIXED: -1},
  ),
  Question(
    'P2',
    'Does the loss matter?',
    'controls that ignore the loss',
    'LCAM − controls that ignore the loss',
    {LCAM: 1, COIN: -_HALF, AVERAGE: -_HALF},
  ),
  Question(
    'P3',
    'Does the phase matter?',
    'its two momenta swapped',
    'LCAM − momenta swapped',
    {LCAM: 1, SWAPPED: -1},
  ),
)


@dataclasses.dataclass(frozen=True)
class Stage:
  """A scale, and the seeds that count."""

  number: int
  scale: Scale
  first_seed: int
  planned: int | None
  """Number of seeds; ``None``: determined by the residual, see :func:`plan`."""
  decides: bool = False
  """Whether the verdict on the paper is taken from it."""


STAGES = (
  Stage(0, experiments.SMALL, first_seed=5, planned=30),
  Stage(1, experiments.MEDIUM, first_seed=0, planned=None, decides=True),
)

# The only interim look, and the numbers of seeds that it may lead to.
LOOK_AFTER = 3
FEWEST, MOST, OTHERWISE = 5, 12, 8


def arm(scale: Scale, dataset: str, place: tuple[str, str]) -> Experiment:
  section, name = place
  return experiments.find(scale, section, dataset, name)


def pairs(scale: Scale) -> list[tuple[Experiment, Experiment]]:
  """The preregistered differences of two arms, LCAM first."""
  return [
    (arm(scale, dataset, first), arm(scale, dataset, second))
    for question in QUESTIONS
    if len(question.weights) == 2
    for dataset in DATASETS
    for first, second in [question.weights]
  ]


Errors = dict[str, dict[tuple[str, str], dict[int, float]]]
"""Test error in percent by data set, section and arm, and seed."""


@dataclasses.dataclass(frozen=True)
class Figures:
  """Means over the runs of an arm that count."""

  error: float
  """Test error in percent at the reported epoch."""
  momentum: float
  """Mean momentum of the steps up to this epoch; NaN if not recorded."""


@dataclasses.dataclass(frozen=True)
class Answers:
  """The results of a stage."""

  stage: Stage
  planned: int
  """Number of seeds that are required for a verdict."""
  done: dict[str, int]
  """Number of complete seeds, by data set."""
  spreads: dict[str, float]
  """Residual standard deviation of the five arms, by data set. Before the stage
  is complete, it is that of the first three seeds, the only interim look."""
  diverged: list[str]
  """Runs without an error."""
  contrasts: dict[tuple[str, str], contrasts.Contrast]
  """By question and data set, without those that cannot be estimated. Empty
  before the stage is complete."""
  positive_control: dict[str, statistics.Judgement]
  """By data set. Empty before the stage is complete."""
  arms: dict[tuple[tuple[str, str], str], Figures]
  """Exploratory: by section and arm, and data set, over the seeds with an error
  in all five arms. Empty before the stage is complete."""
  hours: float
  """Sum of the hours of the runs with an error in all five arms; NaN if unknown
  or before the stage is complete."""

  @property
  def is_complete(self) -> bool:
    return min(self.done.values()) >= self.planned


def answer(stage: Stage, arms: Iterable[Arm]) -> Answers | None:
  """Answers the questions from the runs of a stage.

  Args:
    stage: The stage.
    arms: All arms.

  Returns:
    The answers, or ``None`` if there is none of the five arms at the scale.
    Before all planned seeds are complete, they are only counted, so that
    interim results cannot stop the runs.
  """
  by_experiment = {a.experiment.name: a for a in arms if a.experiment}
  runs = {
    (place, dataset): by_experiment[name].runs
    for dataset in DATASETS
    for place in ARMS
    for name in [arm(stage.scale, dataset, place).name]
    if name in by_experiment
  }
  ended: dict[str, dict[tuple[str, str], dict[int, float]]] = {}
  for dataset in DATASETS:
    ended[dataset] = {}
    for place in (*ARMS, POSITIVE_CONTROL):
      found = by_experiment.get(arm(stage.scale, dataset, place).name)
      ended[dataset][place] = _errors(found, stage) if found else {}
  complete = {
    dataset: sorted(set.intersection(*(set(own[place]) for place in ARMS)))
    for dataset, own in ended.items()
  }
  if not runs:
    return None

  planned = stage.planned or plan(stage, ended)
  last = stage.first_seed + planned
  counted = {
    dataset: [seed for seed in seeds if seed < last]
    for dataset, seeds in complete.items()
  }
  errors = {
    dataset: {
      place: {seed: own[place][seed] for seed in counted[dataset]}
      for place in ARMS
    }
    for dataset, own in ended.items()
  }
  # The runs with an error in all five arms.
  whole = {
    key: [
      run
      for run in own
      if _is_of(stage, run)
      and all(
        math.isfinite(errors[key[1]][place].get(run.seed, math.nan))
        for place in ARMS
      )
    ]
    for key, own in runs.items()
  }
  done = {dataset: len(seeds) for dataset, seeds in counted.items()}
  is_complete = min(done.values()) >= planned
  return Answers(
    stage,
    planned,
    done,
    {
      dataset: spread
      for dataset, own in (
        errors if is_complete else _at_the_look(stage, ended)
      ).items()
      for spread in [_spread(own)]
      if not math.isnan(spread)
    },
    [
      f'{arm(stage.scale, dataset, place).name}, seed {seed}'
      for dataset, own in errors.items()
      for place, of_seeds in own.items()
      for seed, error in of_seeds.items()
      if math.isnan(error)
    ],
    judge(errors, stage.scale) if is_complete else {},
    _positive_control(ended, counted) if is_complete else {},
    {key: _figures(own) for key, own in whole.items() if is_complete and own},
    sum(run.seconds for own in whole.values() for run in own) / 3600
    if is_complete
    else math.nan,
  )


def _figures(runs: Sequence[Run]) -> Figures:
  """Means over at least one run."""
  return Figures(
    float(np.mean([run.read_off_error for run in runs])),
    float(np.mean([run.mean_momentum for run in runs])),
  )


def _errors(found: Arm, stage: Stage) -> dict[int, float]:
  """The error of each run of the stage that has ended; NaN if it diverged."""
  errors = {}
  for run in found.runs:
    if not _is_of(stage, run):
      continue
    if run.is_done:
      errors[run.seed] = run.read_off_error
    elif run.summary['status'] == 'diverged':
      errors[run.seed] = math.nan
  return errors


def _is_of(stage: Stage, run: Run) -> bool:
  # A run with different seeds belongs to no stage.
  return run.seed >= stage.first_seed and set(run.seeds) == {run.seed}


def _finite(
  errors: Mapping[tuple[str, str], Mapping[int, float]],
) -> dict[str, dict[int, float]]:
  return {
    '-'.join(place): {s: e for s, e in own.items() if not math.isnan(e)}
    for place, own in errors.items()
    if any(not math.isnan(e) for e in own.values())
  }


def _spread(errors: Mapping[tuple[str, str], Mapping[int, float]]) -> float:
  finite = _finite(errors)
  return statistics.BlockDesign(finite).spread if finite else math.nan


def _at_the_look(stage: Stage, ended: Errors) -> Errors:
  """The first three seeds of the data sets that have them in all arms."""
  seeds = range(stage.first_seed, stage.first_seed + LOOK_AFTER)
  return {
    dataset: {place: {s: own[place][s] for s in seeds} for place in ARMS}
    for dataset, own in ended.items()
    if all(set(seeds) <= own[place].keys() for place in ARMS)
  }


def judge(
  errors: Errors, scale: Scale
) -> dict[tuple[str, str], contrasts.Contrast]:
  """The six contrasts as one family.

  Args:
    errors: Errors of the five arms of each data set, NaN for diverged runs.
    scale: Their scale.

  Returns:
    By question and data set, in the order of the report.
  """
  estimates = {
    (question.name, dataset): _estimate(question, errors[dataset])
    for question in QUESTIONS
    for dataset in errors
  }
  known = {key: e for key, e in estimates.items() if e is not None}
  judged = statistics.judge(list(known.values()))
  words = {question.name: question.words for question in QUESTIONS}
  return {
    (name, dataset): contrasts.Contrast(
      f'{name}: {words[name]}',
      dataset,
      scale.name,
      judgement,
    )
    for (name, dataset), judgement in zip(known, judged, strict=True)
  }


def _estimate(
  question: Question, errors: Mapping[tuple[str, str], Mapping[int, float]]
) -> statistics.Estimate | None:
  """Fits all five arms, with the seeds that all arms of the question have."""
  seeds = set.intersection(
    *(
      {seed for seed, error in errors[place].items() if not math.isnan(error)}
      for place in question.weights
    )
  )
  if not seeds:
    return None
  design = statistics.BlockDesign(
    _finite(
      {
        place: {seed: own[seed] for seed in seeds if seed in own}
        for place, own in errors.items()
      }
    )
  )
  return design.contrast(
    {'-'.join(place): float(w) for place, w in question.weights.items()}
  )


def plan(stage: Stage, ended: Errors) -> int:
  """The number of seeds of a stage, from the residual of its first three.

  Args:
    stage: The stage.
    ended: Errors of the runs that have ended.

  Returns:
    The smallest number from 5 to 12 for which a true difference of the size of
    the margin is found with 80 % on both data sets; 8 if there is none, or
    before the interim look.
  """
  looked_at = _at_the_look(stage, ended)
  if looked_at.keys() != DATASETS.keys():
    return OTHERWISE
  needed = []
  for own in looked_at.values():
    design = statistics.BlockDesign(_finite(own))
    of_control = design.contrast(
      {'-'.join(place): w for place, w in ((LCAM, 1.0), (FIXED, -1.0))}
    )
    if of_control is None:
      return OTHERWISE
    needed.append(seeds_needed(design.spread, of_control.margin))
  return max(needed) if all(needed) else OTHERWISE


def seeds_needed(spread: float, margin: float) -> int:
  """The number of seeds that finds a difference of the margin; 0: above 12."""
  for n in range(FEWEST, MOST + 1):
    freedom = (len(ARMS) - 1) * (n - 1)
    error = spread * math.sqrt(2 / n)
    family = len(QUESTIONS) * len(DATASETS)
    if statistics.smallest_detectable(error, freedom, family) <= margin:
      return n
  return 0


def _positive_control(
  ended: Errors, counted: Mapping[str, Sequence[int]]
) -> dict[str, statistics.Judgement]:
  """The positive control minus the fixed momentum, each data set alone."""
  found = {}
  for dataset, own in ended.items():
    shown = {
      place: {s: e for s, e in own[place].items() if s in counted[dataset]}
      for place in (*ARMS, POSITIVE_CONTROL)
    }
    design = statistics.BlockDesign(_finite(shown))
    estimate = design.contrast(
      {'-'.join(POSITIVE_CONTROL): 1.0, '-'.join(FIXED): -1.0}
    )
    if estimate is not None:
      (found[dataset],) = statistics.judge([estimate])
  return found


# -------------------------------------------------------------------- in words


def conclusion(answers: Sequence[Answers]) -> str:
  """The conclusion, a paragraph for each stage, in the order given."""
  said = [_sentences(of_stage) for of_stage in answers]
  complete = [i for i, of_stage in enumerate(answers) if of_stage.is_complete]
  if complete:
    said[complete[0]] += (
      ' *Equivalent* only means that a difference is smaller than the margin.'
      " The gaps in the paper's Table 1, 0.02 to 0.36 points for a WRN-28-10,"
      ' are mostly too small to be found or excluded here.'
    )
  if not any(answers[i].stage.decides for i in complete):
    (deciding,) = (stage for stage in STAGES if stage.decides)
    said[0] += (
      f' The verdict on the paper is taken from stage {deciding.number},'
      f' {deciding.scale.title}, which is not complete.'
    )
  return '\n\n'.join(said)


def _sentences(answers: Answers) -> str:
  where = f'{answers.stage.scale.title} (stage {answers.stage.number})'
  if not answers.is_complete:
    so_far = ' and '.join(
      f'{n} of {answers.planned} seeds so far on {DATASETS[dataset]}'
      for dataset, n in answers.done.items()
    )
    return f'At {where} there is no verdict before the planned n: {so_far}.'
  each = '; '.join(
    f'compared with {question.other}, {_verdicts(answers, question.name)}'
    for question in QUESTIONS
  )
  with_seeds = (
    f'with {answers.planned} seeds, the verdicts on LCAM are: {each}.'
  )
  if answers.stage.decides:
    return (
      f'The verdict on the paper is taken from {where}: {_decision(answers)}'
      f' In detail, {with_seeds}'
    )
  said = f'At {where}, {with_seeds}'
  levels = [
    f'{answers.arms[FIXED, dataset].error:.0f} % on {name}'
    for dataset, name in DATASETS.items()
    if (FIXED, dataset) in answers.arms
  ]
  if levels:
    said += (
      ' The networks of this stage are far from converged: with fixed 0.9 they'
      f' have a test error of {" and ".join(levels)}.'
    )
  return said


def _verdicts(answers: Answers, question: str) -> str:
  """The verdicts on a question, in words."""
  verdicts = {
    name: str(_verdict(answers, question, dataset) or 'without runs')
    for dataset, name in DATASETS.items()
  }
  if len(set(verdicts.values())) == 1:
    return f'{verdicts.popitem()[1]} on both data sets'
  return ' and '.join(f'{said} on {name}' for name, said in verdicts.items())


def _verdict(answers: Answers, question: str, dataset: str) -> Verdict | None:
  contrast = answers.contrasts.get((question, dataset))
  return None if contrast is None else contrast.judgement.verdict


def _decision(answers: Answers) -> str:
  """The decision on the paper, a sentence."""

  def is_better(question: str) -> bool:
    return all(
      _verdict(answers, question, dataset) == Verdict.BETTER
      for dataset in DATASETS
    )

  better = 'LCAM is better than a fixed momentum of 0.9 on both data sets'
  if not is_better('P1'):
    return f'it is not shown that {better}.'
  reasons = [
    reason
    for question, reason in (('P2', 'the loss'), ('P3', 'the phase'))
    if is_better(question)
  ]
  because = f' because of {" and of ".join(reasons)}' if reasons else ''
  return f'{better}{because}.'


def notes(answers: Answers) -> list[str]:
  """Further facts on a stage, a sentence or two each."""
  stage = answers.stage
  lcam = arm(stage.scale, next(iter(DATASETS)), LCAM)
  read_at = experiments.read_off_epoch(lcam, lcam.config.epochs)
  said = [
    f'Stage {stage.number}: {lcam.size}, the error is that of epoch {read_at},'
    f' {answers.planned} seeds from {stage.first_seed} on.'
  ]
  spreads = [
    f'{spread:.2f} on {DATASETS[dataset]}'
    for dataset, spread in answers.spreads.items()
    if not math.isnan(spread)
  ]
  if spreads:
    when = '' if answers.is_complete else f' after {LOOK_AFTER} seeds'
    said[0] += f' Residual spread in points{when}: {" and ".join(spreads)}.'
  if not math.isnan(answers.hours):
    said[0] += f' The runs took {answers.hours:.1f} hours in sum.'
  if answers.diverged:
    said.append(
      'Diverged, and left out of what needs them:'
      f' {"; ".join(answers.diverged)}.'
    )
  for dataset, judged in answers.positive_control.items():
    said.append(
      f'Positive control of stage {stage.number} on {DATASETS[dataset]}, a'
      ' difference that is known to be there: cosine annealing to zero −'
      f' fixed 0.9 is {judged.estimate.difference:+.2f} points (95 % interval'
      f' {judged.low:+.2f} to {judged.high:+.2f}, n = {judged.estimate.n}).'
    )
  return said


def momenta(scale: Scale) -> str:
  """LCAM's two momenta on each data set, in a sentence."""
  each = [
    f'{config.horizontal_momentum:g} in horizontal and'
    f' {config.vertical_momentum:g} in vertical steps on {name}'
    for dataset, name in DATASETS.items()
    for config in [arm(scale, dataset, LCAM).config]
  ]
  return f'LCAM uses {", ".join(each)}.'


def on_the_phase(answers: Answers) -> str | None:
  """What P3 leaves open, exploratory; ``None`` if it has no answer."""
  by_phase, means = [], []
  for dataset, name in DATASETS.items():
    contrast = answers.contrasts.get(('P3', dataset))
    if contrast is None:
      return None
    config = arm(answers.stage.scale, dataset, LCAM).config
    assert config.horizontal_momentum and config.vertical_momentum
    is_horizontal = config.horizontal_momentum > config.vertical_momentum
    difference = contrast.judgement.estimate.difference
    by_phase.append(
      f'{difference if is_horizontal else -difference:+.2f} points on {name}'
    )
    lcam, swapped = (answers.arms[p, dataset].momentum for p in (LCAM, SWAPPED))
    if not math.isnan(lcam + swapped):
      means.append(f'{lcam:.4f} and {swapped:.4f} on {name}')
  with_means = f' (LCAM and swapped: {"; ".join(means)})' if means else ''
  stage = answers.stage
  return (
    f'{stage.scale.title.capitalize()} (stage {stage.number}), exploratory: if'
    ' P3 is turned so that the same phase is accelerated on both data sets, the'
    ' error of the larger horizontal minus that of the larger vertical momentum'
    f' is {" and ".join(by_phase)}. The two arms differ in their mean momentum'
    f' as well as in the phase{with_means}. P3 alone does not say whether LCAM'
    ' is better or the swapped arm worse. The table shows all five arms over'
    ' the same seeds: the error at the reported epoch, and the mean momentum up'
    ' to it.'
  )
