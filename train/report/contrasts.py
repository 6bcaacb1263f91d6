"""Differences between arms, each estimated and judged in one place.

A table of a report is a family: what stands in it is judged together. A
difference stands in one table alone.
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
  """A weighted sum of arms, before anything is known of it."""

  name: str
  weights: Mapping[str, float]
  """By the name of the arm, with the sum zero."""


@dataclasses.dataclass(frozen=True)
class Contrast:
  """A question, answered."""

  name: str
  dataset: str
  scale: str
  judgement: statistics.Judgement
  instead: str | None = None
  """What it is called where it bears no verdict: :data:`EXPLORATORY`."""

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
"""Nobody asked before the runs were looked at."""


def to_json(contrasts: Iterable[Contrast]) -> str:
  """The text of report.json, a line a contrast."""
  lines = ',\n'.join(
    '    ' + json.dumps(c.record(), ensure_ascii=False, allow_nan=False)
    for c in contrasts
  )
  listed = f'[\n{lines}\n  ]' if lines else '[]'
  return f'{{\n  "contrasts": {listed}\n}}\n'


def _number(value: float) -> float | None:
  # As many digits as the test error of 10,000 images has, and two more.
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
  """The arms of a scale: of each data set one model, one residual.

  Args:
    scale: What report.json calls it.
    arms: All arms, whether anything is asked of them or not: each tells of the
      residual.
    relative_margin: Margin of equivalence as a part of the control's error.
    errors: Test error of an arm by seed. Default: at the epoch at which the
      paper reads it off.
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
      family: The questions, each of arms of one data set.

    Returns:
      An answer for each; ``None`` where an arm has no finished run, or no seed
      is common to the arms.
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
