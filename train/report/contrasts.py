"""Differences between arms, with their verdicts and records.

The differences in one table of a report are a family and are judged together.
Each difference is in one table only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import itertools
import json
import math
from typing import Any

from train import statistics
from train.records import Arm
from train.records import Seeds


@dataclasses.dataclass(frozen=True)
class Question:
  """A weighted sum of arms, to be estimated."""

  name: str
  weights: Mapping[str, float]
  """By name of the arm, with sum zero."""


@dataclasses.dataclass(frozen=True)
class Contrast:
  """The answer to a question."""

  name: str
  dataset: str
  scale: str
  judgement: statistics.Judgement
  instead: str | None = None
  """Replaces the verdict: :data:`EXPLORATORY`, or ``None``."""

  def record(self) -> dict[str, Any]:
    """Its entry in report.json: percentage points, ``None`` if untested."""
    judged = self.judgement
    has_no_p = self.instead is not None or math.isnan(judged.p)
    return {
      'name': self.name,
      'dataset': self.dataset,
      'scale': self.scale,
      'n': judged.estimate.n,
      'difference': _number(judged.estimate.difference),
      'low': _number(judged.low),
      'high': _number(judged.high),
      'p': None if has_no_p else float(f'{judged.p:.3g}'),
      'margin': _number(judged.estimate.margin),
      'verdict': self.instead or str(judged.verdict),
    }


EXPLORATORY = 'exploratory'
"""The question was not asked before the results were seen."""


def to_json(contrasts: Iterable[Contrast]) -> str:
  """The text of report.json, one line per contrast."""
  lines = ',\n'.join(
    '    ' + json.dumps(c.record(), ensure_ascii=False, allow_nan=False)
    for c in contrasts
  )
  listed = f'[\n{lines}\n  ]' if lines else '[]'
  return f'{{\n  "contrasts": {listed}\n}}\n'


def _number(value: float) -> float | None:
  # Two digits more than the test error of 10,000 images has.
  return None if math.isnan(value) else round(value, 4)


def pairs(arms: Sequence[Arm]) -> list[Question]:
  """Every arm minus every later one of the same data set."""
  return [
    difference(first, second)
    for first, second in itertools.combinations(arms, 2)
    if first.dataset == second.dataset
  ]


def difference(first: Arm, second: Arm) -> Question:
  return Question(
    f'{first.name} − {second.name}', {first.name: 1.0, second.name: -1.0}
  )


class Models:
  """The arms of a scale, with one model and one residual per data set.

  Args:
    scale: The name of the scale in report.json.
    arms: All arms. Those of no question contribute to the residual.
    relative_margin: Margin of equivalence as a fraction of the control's error.
    errors: Test error of an arm by seed. Default: at the epoch that the paper
      reports.
  """

  def __init__(
    self,
    scale: str,
    arms: Iterable[Arm],
    relative_margin: float = statistics.RELATIVE_MARGIN,
    errors: Callable[[Arm], dict[Seeds, float]] = Arm.read_off_errors,
  ):
    self._scale = scale
    self._relative_margin = relative_margin
    self._datasets: dict[str, str] = {}
    by_dataset: dict[str, dict[str, dict[Seeds, float]]] = {}
    for arm in arms:
      if arm.finished:
        self._datasets[arm.name] = arm.dataset
        by_dataset.setdefault(arm.dataset, {})[arm.name] = errors(arm)
    self.designs = {
      dataset: statistics.BlockDesign(of_arms)
      for dataset, of_arms in by_dataset.items()
    }
    """By data set."""

  def judge(self, family: Sequence[Question]) -> list[Contrast | None]:
    """Answers questions that are asked together.

    Args:
      family: The questions, each about arms of one data set.

    Returns:
      An answer for each; ``None`` if an arm has no finished run, or the arms
      have no seed in common.
    """
    estimates = [self._estimate(question) for question in family]
    judged = iter(statistics.judge([e for e in estimates if e is not None]))
    return [
      None
      if estimate is None
      else Contrast(
        question.name,
        self._datasets[next(iter(question.weights))],
        self._scale,
        next(judged),
      )
      for question, estimate in zip(family, estimates, strict=True)
    ]

  def _estimate(self, question: Question) -> statistics.Estimate | None:
    if not question.weights.keys() <= self._datasets.keys():
      return None
    (dataset,) = {self._datasets[arm] for arm in question.weights}
    return self.designs[dataset].contrast(
      question.weights, self._relative_margin
    )
