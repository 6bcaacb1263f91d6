"""Means, verdicts, sentences and records of studies.

The simulated and the measured study share their wording, so that they can be
compared.
"""

from collections.abc import Sequence
import dataclasses
import functools
import json
import math
import pathlib
from typing import Any

import numpy as np

from train import errors
from train import files
from train import statistics
from train.statistics import Verdict

GROUPS = ('quick', 'slow')

MARGIN_PERCENT = 1.0
"""Margin of equivalence of movements. The simulated pulls are 2 to 4 %."""
MARGIN_CORRELATION = 0.1
"""Margin of equivalence of correlations: small according to Cohen (1988)."""


def summarize(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
  """:func:`statistics.describe` of the finite values, as plain JSON.

  Args:
    values: Floats, NaN if missing.

  Returns:
    ``n``, ``mean``, ``sd`` and ``half_width``, with five digits and ``None`` if
    unknown.
  """
  array = np.asarray(values, np.float64)
  array = array[np.isfinite(array)]
  if not len(array):
    return {'n': 0, 'mean': None, 'sd': None, 'half_width': None}
  sample = statistics.describe(array.tolist())
  return {
    'n': sample.n,
    'mean': rounded(sample.mean),
    'sd': rounded(sample.std),
    'half_width': rounded(sample.half_width),
  }


def rounded(value: float) -> float | None:
  """Rounds to five digits for JSON; ``None`` for NaN and infinity."""
  return float(f'{value:.5g}') if math.isfinite(value) else None


@dataclasses.dataclass(frozen=True)
class Expected:
  """A figure that the paper expects to be above zero."""

  claim: str
  """The claim, roughly in the words of the paper."""
  figure: dict[str, Any]
  """From :func:`summarize`."""
  margin: float
  """Margin of equivalence."""
  unit: str = ''
  without_coupling: dict[str, Any] | None = None
  """The excess over the same figure without coupling, which must also be above
  zero: a gain that requires no coupling is no traction."""
  also: dict[str, Any] | None = None
  """Another figure that must be above zero for the same claim."""
  also_words: str = ''
  """Its description."""


@dataclasses.dataclass(frozen=True)
class Found:
  """The result for an expectation."""

  verdict: Verdict
  """"better": the figure is above zero, as the paper says."""
  words: str
  """The verdict in words."""
  half_width: float
  """Half the width of the simultaneous interval; NaN if untested."""
  p: float

  def record(self, expected: Expected) -> dict[str, Any]:
    """The fields of the claim in the record of the study."""
    mean, half = expected.figure['mean'], self.half_width
    low = high = None
    if mean is not None and not math.isnan(half):
      low, high = rounded(mean - half), rounded(mean + half)
    return {
      'claim': expected.claim,
      'n': expected.figure['n'],
      'mean': mean,
      'low': low,
      'high': high,
      'p': rounded(self.p),
      'margin': expected.margin,
      'verdict': str(self.verdict),
    }


def judge(family: Sequence[Expected]) -> list[Found]:
  """Judges the claims of a study as one family, see :mod:`train.statistics`.

  Args:
    family: All claims of the study.

  Returns:
    The result of each.
  """
  judged = statistics.judge([_estimate(e.figure, e.margin) for e in family])
  # A claim with two requirements holds only if both do (an intersection-union
  # test), which needs no further adjustment: all families have one size.
  couplings, others = (
    statistics.judge(
      [_estimate(needed or e.figure, e.margin) for e, needed in needs]
    )
    for needs in (
      [(e, e.without_coupling) for e in family],
      [(e, e.also) for e in family],
    )
  )
  return [
    _decide(*of_claim)
    for of_claim in zip(family, judged, couplings, others, strict=True)
  ]


def _decide(
  expected: Expected,
  judgement: statistics.Judgement,
  coupling: statistics.Judgement,
  other: statistics.Judgement,
) -> Found:
  """The result of a claim, from the judgements of all its requirements."""
  verdict = judgement.verdict
  margin = f'{expected.margin:g}{expected.unit}'
  is_small = judgement.is_within_margin
  words = {
    Verdict.BETTER: (
      f'{verdict}, but within {margin}'
      if is_small
      else f'{verdict}, as the paper says'
    ),
    Verdict.WORSE: f'{verdict}, the opposite of what the paper says'
    + (f', but within {margin}' if is_small else ''),
    Verdict.EQUIVALENT: f'{verdict} within {margin}',
    Verdict.UNDECIDED: f'{verdict}',
  }[verdict]
  if expected.without_coupling is not None:
    if verdict == Verdict.BETTER and coupling.verdict != Verdict.BETTER:
      verdict = coupling.verdict
      words = f'{verdict}: no more than without coupling'
    elif verdict == Verdict.WORSE and coupling.verdict != Verdict.WORSE:
      words += ', with and without coupling'
  if expected.also is not None:
    if other.verdict == Verdict.WORSE and verdict != Verdict.WORSE:
      verdict = other.verdict
      words = f'{verdict}: the opposite holds for {expected.also_words}'
    elif verdict == Verdict.BETTER and other.verdict != Verdict.BETTER:
      verdict = other.verdict
      words = f'{verdict}: not found for {expected.also_words}'
  half_width = (judgement.high - judgement.low) / 2
  return Found(verdict, words, half_width, judgement.p)


def _estimate(figure: dict[str, Any], margin: float) -> statistics.Estimate:
  """The estimate of the negated figure, because low values are better."""

  def known(name: str) -> float:
    return math.nan if figure[name] is None else figure[name]

  return statistics.estimate_mean(
    statistics.Sample(figure['n'], -known('mean'), known('sd'), math.nan),
    margin,
  )


def expected_at_the_bottom(
  arriving: dict[str, Any], leaving: dict[str, Any]
) -> Expected:
  """The claim that W_Q is fastest at the bottom of the valley, in two readings.

  Args:
    arriving: Correlation of a low loss with the length of W_Q's step to the
      point at which the loss is computed, from :func:`summarize`.
    leaving: The same for the step from this point.
  """
  return Expected(
    'W_Q is fast where the loss is low',
    arriving,
    MARGIN_CORRELATION,
    also=leaving,
    also_words='the step from this point, which LCAM multiplies',
  )


def bottom_sentence(
  pair: str, arriving: dict[str, Any], leaving: dict[str, Any], found: Found
) -> str:
  """The result on the speed at the bottom of the valley.

  Args:
    pair: The momenta, from :func:`pair_name`.
    arriving: See :func:`expected_at_the_bottom`.
    leaving: See :func:`expected_at_the_bottom`.
    found: The result for ``arriving``.
  """
  return (
    f'W_Q is fast where the loss is low, {pair}: the correlation of a low loss'
    f' with the length of the step to this point is'
    f' {show_number(arriving, found)} (of the step from it:'
    f' {show_number(leaving)}): {found.words}.'
  )


def show_percent(figure: dict[str, Any], found: Found | None = None) -> str:
  """``2.1 ± 0.3 % less`` of a difference from :func:`summarize`.

  Args:
    figure: The difference.
    found: The result whose simultaneous interval is shown. Default: the
      figure's own interval.
  """
  if figure['mean'] is None:
    return 'unknown %'
  more = 'more' if figure['mean'] >= 0 else 'less'
  return f'{_plus_minus(abs(figure["mean"]), figure, found, 2)} % {more}'


def show_number(figure: dict[str, Any], found: Found | None = None) -> str:
  """``0.12 ± 0.03`` of a figure, see :func:`show_percent`."""
  if figure['mean'] is None:
    return 'unknown'
  return _plus_minus(figure['mean'], figure, found, 4)


def _plus_minus(
  mean: float, figure: dict[str, Any], found: Found | None, digits: int
) -> str:
  half_width = figure['half_width'] if found is None else found.half_width
  text = f'{mean:.{digits}f}'
  if half_width is not None and not math.isnan(half_width):
    text += f' ± {half_width:.{digits}f}'
  return text


def write_record(path: pathlib.Path, record: dict[str, Any]) -> None:
  """Writes a record as JSON.

  Raises:
    UsageError: If it cannot be written.
  """
  lines = ',\n'.join(
    f'  {json.dumps(key)}: {_entry(value)}' for key, value in record.items()
  )
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace_text(path, f'{{\n{lines}\n}}\n')
  except OSError as error:
    raise errors.UsageError(
      f'{path} cannot be written: {error.strerror}.'
    ) from error


def _entry(value: Any) -> str:
  """One line per item of a list of objects, and one line for anything else."""
  dump = functools.partial(json.dumps, allow_nan=False, ensure_ascii=False)
  if isinstance(value, list) and value and isinstance(value[0], dict):
    items = ',\n'.join(f'    {dump(item)}' for item in value)
    return f'[\n{items}\n  ]'
  return dump(value)


def pair_name(pair: tuple[float, float]) -> str:
  """``0.95/0.9``: the horizontal and the vertical momentum."""
  return f'{pair[0]:g}/{pair[1]:g}'


def correlate(share: Any, mean: Any, mean_square: Any, mean_low: Any) -> Any:
  """Correlation of a number with an event, from means over the steps.

  Args:
    share: Mean of the event, 0 or 1.
    mean: Mean of the number.
    mean_square: Mean of its square.
    mean_low: Mean of the number times the event.

  Returns:
    Pearson's correlation; NaN if either is constant.
  """
  covariance = mean_low - share * mean
  return covariance / np.sqrt((share - share**2) * (mean_square - mean**2))
