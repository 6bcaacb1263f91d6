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
  kind: str = 'difference'
  """What the figure is."""

  @property
  def needed(self) -> dict[str, Any] | None:
    """The second figure that must be above zero, if there is one."""
    return self.without_coupling or self.also


@dataclasses.dataclass(frozen=True)
class Found:
  """The result for an expectation."""

  verdict: Verdict
  """"better": all figures of the claim are above zero, as the paper says."""
  short: str
  """The verdict in a few words, to be counted."""
  words: str
  """The verdict in words."""
  half_width: float
  """Half the width of the simultaneous interval; NaN if untested."""
  p: float
  needed_half_width: float
  """Half the width of that of the second figure; NaN if there is none."""
  needed_p: float

  def record(self, expected: Expected) -> dict[str, Any]:
    """The fields of the claim in the record of the study."""
    needed = expected.needed
    return {
      'claim': expected.claim,
      'n': expected.figure['n'],
      **_interval(expected.figure, self.half_width, self.p),
      'needed': needed
      and _interval(needed, self.needed_half_width, self.needed_p),
      'margin': expected.margin,
      'verdict': str(self.verdict),
    }


def _interval(
  figure: dict[str, Any], half_width: float, p: float
) -> dict[str, Any]:
  mean = figure['mean']
  low = high = None
  if mean is not None and not math.isnan(half_width):
    low, high = rounded(mean - half_width), rounded(mean + half_width)
  return {'mean': mean, 'low': low, 'high': high, 'p': rounded(p)}


def judge(family: Sequence[Expected]) -> list[Found]:
  """Judges the claims of a study as one family, see :mod:`train.statistics`.

  Args:
    family: All claims of the study.

  Returns:
    The result of each.
  """
  # A claim with two figures holds only if both are above zero (an
  # intersection-union test), which needs no further adjustment: both families
  # have one size.
  first, second = (
    statistics.judge(
      [_estimate(f, e.margin) for e, f in zip(family, figures, strict=True)]
    )
    for figures in (
      [e.figure for e in family],
      [e.needed or e.figure for e in family],
    )
  )
  return [
    _decide(*of_claim) for of_claim in zip(family, first, second, strict=True)
  ]


# "better", "worse" and "equivalent" are left to errors. By verdict: what is
# counted, and what the sentence on a claim adds to it.
_WORDS = {
  Verdict.BETTER: ('as the paper says', ''),
  Verdict.WORSE: ('the opposite', ' of what the paper says'),
  Verdict.EQUIVALENT: ('no {kind}', ' beyond {margin}'),
  Verdict.UNDECIDED: ('undecided', ''),
}

# For a figure above zero, by the verdict on its excess over that without
# coupling.
_NO_TRACTION = {
  Verdict.WORSE: 'less than without coupling',
  Verdict.EQUIVALENT: 'no more than without coupling',
  Verdict.UNDECIDED: 'not shown to need coupling',
}


def _decide(
  expected: Expected,
  judgement: statistics.Judgement,
  second: statistics.Judgement,
) -> Found:
  """The result of a claim.

  Args:
    expected: The claim.
    judgement: Of its figure.
    second: Of the second figure, if there is one.
  """
  verdict = judgement.verdict
  margin = f'{expected.margin:g}{expected.unit}'
  kind = expected.kind
  short = _WORDS[verdict][0].format(kind=kind)
  words = short + _WORDS[verdict][1].format(margin=margin)
  if verdict in (Verdict.BETTER, Verdict.WORSE):
    if judgement.is_within_margin:
      words += f', but within {margin}'
    elif (
      expected.needed is not None
      and second.verdict == verdict
      and second.is_within_margin
    ):
      part = expected.also_words or 'the part due to coupling'
      words += f', but within {margin} for {part}'
  if expected.without_coupling is not None:
    if verdict == Verdict.BETTER and second.verdict != Verdict.BETTER:
      verdict = second.verdict
      short = words = _NO_TRACTION[verdict]
    elif verdict == Verdict.WORSE and second.verdict != Verdict.WORSE:
      words += ', with and without coupling'
  if expected.also is not None:
    if second.verdict == Verdict.WORSE and verdict != Verdict.WORSE:
      verdict = second.verdict
      short = _WORDS[verdict][0]
      words = f'{short} holds for {expected.also_words}'
    elif verdict == Verdict.BETTER and second.verdict != Verdict.BETTER:
      verdict = second.verdict
      short = _WORDS[verdict][0].format(kind=kind)
      words = f'not found for {expected.also_words}'
  needs = expected.needed is not None
  return Found(
    verdict,
    short,
    words,
    half_width=(judgement.high - judgement.low) / 2,
    p=judgement.p,
    needed_half_width=(second.high - second.low) / 2 if needs else math.nan,
    needed_p=second.p if needs else math.nan,
  )


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
    kind='correlation',
  )


def bottom_sentence(
  pair: str, arriving: dict[str, Any], leaving: dict[str, Any], found: Found
) -> str:
  """The result on the speed at the bottom of the valley.

  Args:
    pair: The momenta, from :func:`pair_name`.
    arriving: See :func:`expected_at_the_bottom`.
    leaving: See :func:`expected_at_the_bottom`.
    found: The result of the claim.
  """
  return (
    f'W_Q is fast where the loss is low, {pair}: the correlation of a low loss'
    f' with the length of the step to this point is'
    f' {show_number(arriving, found.half_width)} (of the step from it:'
    f' {show_number(leaving, found.needed_half_width)}): {found.words}.'
  )


def intervals_note(claims: int, alone: str) -> str:
  """A sentence on the intervals in the sentences of a study.

  Args:
    claims: Number of the claims.
    alone: The words before the figures that are shown with their own interval.
  """
  return (
    f'"±" is half a 95 % interval: that of "{alone}" is for the figure alone,'
    f' all others are simultaneous over the {claims} claims.'
  )


def show_percent(
  figure: dict[str, Any], half_width: float | None = None
) -> str:
  """``2.1 ± 0.3 % less`` of a difference from :func:`summarize`.

  Args:
    figure: The difference.
    half_width: Half the width of the simultaneous interval, NaN if unknown.
      Default: that of the figure's own interval.
  """
  return _more_or_less(figure, half_width, '%')


def show_points(figure: dict[str, Any], half_width: float | None = None) -> str:
  """``0.6 ± 0.2 points more`` of a difference between percentages."""
  return _more_or_less(figure, half_width, 'points')


def show_number(figure: dict[str, Any], half_width: float | None = None) -> str:
  """``0.12 ± 0.03`` of a figure, see :func:`show_percent`."""
  if figure['mean'] is None:
    return 'unknown'
  return _plus_minus(figure['mean'], figure, half_width, 4)


def _more_or_less(
  figure: dict[str, Any], half_width: float | None, unit: str
) -> str:
  mean = figure['mean']
  if mean is None:
    return f'unknown {unit}'
  more = 'more' if mean >= 0 else 'less'
  return f'{_plus_minus(abs(mean), figure, half_width, 2)} {unit} {more}'


def _plus_minus(
  mean: float, figure: dict[str, Any], half_width: float | None, digits: int
) -> str:
  if half_width is None:
    half_width = figure['half_width']
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
