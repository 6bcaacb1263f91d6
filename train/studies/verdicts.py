"""What the figures of a study say: means, verdicts, sentences, records.

The words of a study come from here, so that one that is simulated and one that
is measured can be compared.
"""

from collections.abc import Sequence
import functools
import json
import math
import pathlib
from typing import Any

import numpy as np

from train import errors
from train.records import files
from train.report import statistics

GROUPS = ('quick', 'slow')

AS_THE_PAPER = 'as the paper says'
THE_OPPOSITE = 'the opposite'
NO_DIFFERENCE = 'no difference found'


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
    'sd': rounded(sample.deviation),
    'half_width': rounded(sample.half_width),
  }


def rounded(value: float) -> float | None:
  """Five digits, as JSON has it: ``None`` for NaN and infinity."""
  return float(f'{value:.5g}') if math.isfinite(value) else None


def judge(figure: dict[str, Any]) -> str:
  """What a figure that the paper expects above zero says.

  Args:
    figure: From :func:`summarize`.

  Returns:
    "as the paper says" or "the opposite" where the 95 % interval leaves out
    zero, else "no difference found"; or that there is too little to tell.
  """
  if figure['half_width'] is None:
    return 'too little to tell'
  if abs(figure['mean']) <= figure['half_width']:
    return NO_DIFFERENCE
  return AS_THE_PAPER if figure['mean'] > 0 else THE_OPPOSITE


def judge_traction(
  figure: dict[str, Any], due_to_coupling: dict[str, Any]
) -> str:
  """:func:`judge`, where what is gained must come from the coupling."""
  verdict = judge(figure)
  if verdict == AS_THE_PAPER and judge(due_to_coupling) != AS_THE_PAPER:
    return f'{verdict}, but no less without any coupling'
  return verdict


def bottom_sentence(
  pair: str, arriving: dict[str, Any], leaving: dict[str, Any]
) -> str:
  """What was found of the speed at the bottom of the valley.

  Args:
    pair: The momenta, as :func:`pair_name` writes them.
    arriving: Correlation of a low loss with the length of W_Q's step to the
      place where the loss is taken, from :func:`summarize`.
    leaving: The same with the step from there.
  """
  return (
    f'W_Q is fast where the loss is low, {pair}: the correlation of a low loss'
    f' with the length of the step to its place is {show_number(arriving)}'
    f' (with the step from there {show_number(leaving)}): {judge(arriving)}.'
  )


def show_percent(figure: dict[str, Any]) -> str:
  """``2.1 ± 0.3 % less`` of a difference from :func:`summarize`."""
  if figure['mean'] is None:
    return 'unknown %'
  more = 'more' if figure['mean'] >= 0 else 'less'
  return f'{_plus_minus(abs(figure["mean"]), figure, 2)} % {more}'


def show_number(figure: dict[str, Any]) -> str:
  """``0.12 ± 0.03`` of a figure from :func:`summarize`."""
  if figure['mean'] is None:
    return 'unknown'
  return _plus_minus(figure['mean'], figure, 4)


def _plus_minus(mean: float, figure: dict[str, Any], digits: int) -> str:
  text = f'{mean:.{digits}f}'
  if figure['half_width'] is not None:
    text += f' ± {figure["half_width"]:.{digits}f}'
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
