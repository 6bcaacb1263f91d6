"""Draws the means, intervals and differences of studies."""

from collections.abc import Sequence
import re
from typing import Any

from matplotlib import axes as mpl_axes
import numpy as np

from train import pictures


def typeset(claim: str) -> str:
  """Typesets W_Q and W_S as Matplotlib mathematics."""
  return re.sub(r'W_[QS]', lambda name: f'${name[0]}$', claim)


def draw_intervals(
  axis: mpl_axes.Axes,
  x: Any,
  values: Sequence[dict[str, Any]],
  label: str,
  i: int,
  marker: str,
  *,
  sideways: bool = False,
) -> None:
  """Draws means with their 95 % intervals.

  Args:
    axis: The axes to draw on.
    x: Positions along the axis, one per value.
    values: From :func:`~train.studies.verdicts.summarize`.
    label: Label in the legend.
    i: Index of the color.
    marker: The Matplotlib marker.
    sideways: Whether the values lie along the horizontal axis.
  """
  means = [np.nan if v['mean'] is None else v['mean'] for v in values]
  halves = [v['half_width'] or 0.0 for v in values]
  axis.errorbar(
    means if sideways else x,
    x if sideways else means,
    xerr=halves if sideways else None,
    yerr=None if sideways else halves,
    fmt=marker,
    markersize=5,
    capsize=3,
    color=pictures.COLORS[i],
    # The second of two is hollow, for print in black and white.
    markerfacecolor='white' if i else pictures.COLORS[i],
    label=label,
  )


def draw_differences(
  axis: mpl_axes.Axes,
  rows: dict[str, list[dict[str, Any]]],
  names: Sequence[str],
) -> None:
  """Draws a row for each comparison, and a line at zero.

  Args:
    axis: The axes to draw on.
    rows: By label, a result of :func:`~train.studies.verdicts.summarize` for
      each name.
    names: Labels in the legend.
  """
  places = -np.arange(len(rows))
  for i, name in enumerate(names):
    offset = 0.15 * (len(names) - 1) - 0.3 * i
    draw_intervals(
      axis,
      places + offset,
      [row[i] for row in rows.values()],
      name,
      i,
      'os'[i],
      sideways=True,
    )
  axis.axvline(0, color='0.3', linewidth=1)
  axis.set_yticks(places, list(rows))
  axis.set_ylim(0.6 - len(rows), 0.6)
  if len(names) > 1:
    axis.legend()
