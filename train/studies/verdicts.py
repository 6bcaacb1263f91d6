"""What the figures of a study say: means, verdicts, sentences, records.

The words of a study come from here, so that one that is simulated and one that
is measured can be compared.
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
"""Movements that differ by less are equivalent. The simulated pulls are of 2 to
4 %."""
MARGIN_CORRELATION = 0.1
"""Correlations nearer to zero are none: what Cohen (1988) calls small."""


def summarize(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
  """:func:`statistics.describe` of the values that exist, as plain JSON.

  Args:
    values: Floats, NaN where there is none.

  Returns:
    ``n``, ``mean``, ``sd`` and ``half_width``, with five digits and ``None``
    for what is not known.
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
  """Five digits, as JSON has it: ``None`` for NaN and infinity."""
  return float(f'{value:.5g}') if math.isfinite(value) else None


@dataclasses.dataclass(frozen=True)
class Expected:
  """A figure that the paper expects above zero."""

  claim: str
  """In the words of the paper, more or less."""
  figure: dict[str, Any]
  """From :func:`summarize`."""
  margin: float
  """Below which it is as good as none."""
  unit: str = ''
  without_coupling: dict[str, Any] | None = None
  """By how much the figure is larger than without any coupling, where it must
  be: what is gained without coupling is no traction."""
  also: dict[str, Any] | None = None
  """Another figure that the paper expects above zero, by the same claim."""
  also_words: str = ''
  """What that is."""


@dataclasses.dataclass(frozen=True)
class Found:
  """What a record says of an expectation."""

  verdict: Verdict
  """"better": the figure is above zero, as the paper says."""
  words: str
  """The verdict in a sentence."""
  half_width: float
  """Of the simultaneous interval around the figure's mean; NaN if untested."""
  p: float

  def record(self, expected: Expected) -> dict[str, Any]:
    """The part of a claim in the study's file that this makes."""
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
    family: All that the study looks at.

  Returns:
    What was found, for each.
  """
  judged = statistics.judge([_estimate(e.figure, e.margin) for e in family])
  # A claim that needs both stands only where both do, which takes no more
  # adjustment than either: each family is as large as the first.
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
  """What is found of a claim by the judgements of all that it needs."""
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
      words = f'{verdict}: no more than without any coupling'
    elif verdict == Verdict.WORSE and coupling.verdict != Verdict.WORSE:
      words += ', with and without any coupling'
  if expected.also is not None:
    if other.verdict == Verdict.WORSE and verdict != Verdict.WORSE:
      verdict = other.verdict
      words = f'{verdict}: the opposite is found of {expected.also_words}'
    elif verdict == Verdict.BETTER and other.verdict != Verdict.BETTER:
      verdict = other.verdict
      words = f'{verdict}: not found of {expected.also_words}'
  half_width = (judgement.high - judgement.low) / 2
  return Found(verdict, words, half_width, judgement.p)


def _estimate(figure: dict[str, Any], margin: float) -> statistics.Estimate:
  """Of minus the figure: what is judged shall be low."""

  def known(name: str) -> float:
    return math.nan if figure[name] is None else figure[name]

  return statistics.estimate_mean(
    statistics.Sample(figure['n'], -known('mean'), known('sd'), math.nan),
    margin,
  )


def expected_at_the_bottom(
  arriving: dict[str, Any], leaving: dict[str, Any]
) -> Expected:
  """That W_Q is fastest at the bottom of the valley, in two readings.

  Args:
    arriving: Correlation of a low loss with the length of W_Q's step to the
      place where the loss is taken, from :func:`summarize`.
    leaving: The same with the step from there.
  """
  return Expected(
    'W_Q is fast where the loss is low',
    arriving,
    MARGIN_CORRELATION,
    also=leaving,
    also_words='the step from there, which is what LCAM multiplies',
  )


def bottom_sentence(
  pair: str, arriving: dict[str, Any], leaving: dict[str, Any], found: Found
) -> str:
  """What was found of the speed at the bottom of the valley.

  Args:
    pair: The momenta, as :func:`pair_name` writes them.
    arriving: Correlation of a low loss with the length of W_Q's step to the
      place where the loss is taken, from :func:`summarize`.
    leaving: The same with the step from there.
    found: What ``arriving`` says.
  """
  return (
    f'W_Q is fast where the loss is low, {pair}: the correlation of a low loss'
    f' with the length of the step to its place is'
    f' {show_number(arriving, found)} (with the step from there'
    f' {show_number(leaving)}): {found.words}.'
  )


def show_percent(figure: dict[str, Any], found: Found | None = None) -> str:
  """``2.1 ± 0.3 % less`` of a difference from :func:`summarize`.

  Args:
    figure: The difference.
    found: Whose simultaneous interval is shown. Default: the figure's own.
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
  """Writes a record as JSON, short lists on one line.

  Raises:
    UsageError: It cannot be written.
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
  """An item a line for the lists of a record, and one line for the rest."""
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
    Pearson's correlation; NaN where either never changes.
  """
  covariance = mean_low - share * mean
  return covariance / np.sqrt((share - share**2) * (mean_square - mean**2))
