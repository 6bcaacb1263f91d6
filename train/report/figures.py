"""Pictures, with colours that the colour-blind can tell apart."""

from collections.abc import Sequence
import pathlib
from typing import Any

import matplotlib
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker
import numpy as np

from train.report.records import Arm

# Okabe and Ito's palette, and line styles for print in black and white.
_COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
_STYLES = ('-', '--', '-.', ':')

_STYLE: Any = {
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'grid.alpha': 0.3,
  'font.size': 10,
  'legend.frameon': False,
}


def draw_run(
  rows: Sequence[dict[str, Any]], path: pathlib.Path, title: str
) -> None:
  """Draws the curves of one run: errors, loss, horizontal share, rate.

  Args:
    rows: The run's rows of metrics.
    path: The PNG file to write.
    title: Above the figure.
  """
  has_phases = any(row['horizontal_fraction'] is not None for row in rows)
  with matplotlib.rc_context(_STYLE):
    figure, axes = _panels(4 if has_phases else 3, title)
    epochs = [row['epoch'] for row in rows]

    def curve(axis: mpl_axes.Axes, name: str, label: str, i: int) -> None:
      values = [np.nan if row[name] is None else row[name] for row in rows]
      _line(axis, epochs, values, label, i)

    curve(axes[0], 'test_error', 'test', 0)
    curve(axes[0], 'train_error', 'training', 1)
    _label(axes[0], 'error (%)', from_zero=True)
    curve(axes[1], 'test_loss', 'test', 0)
    curve(axes[1], 'train_loss', 'training', 1)
    _label(axes[1], 'loss', from_zero=True)
    curve(axes[2], 'learning_rate', 'learning rate', 0)
    _label(axes[2], 'learning rate')
    if all(row['learning_rate'] > 0 for row in rows):
      axes[2].set_yscale('log')
    if has_phases:
      curve(axes[3], 'horizontal_fraction', 'horizontal', 0)
      _label(axes[3], 'share of horizontal steps')
    axes[0].legend()
    axes[1].legend()
    figure.savefig(path, dpi=120)


def draw_arms(arms: Sequence[Arm], path: pathlib.Path, title: str) -> None:
  """Draws arms beside each other, each a mean with a band over its seeds.

  Args:
    arms: The arms.
    path: The PNG file to write.
    title: Above the figure.
  """
  panels = [
    ('test_error', 'test error (%)'),
    ('train_loss', 'training loss'),
  ]
  if any(_band(arm, 'horizontal_fraction') is not None for arm in arms):
    panels.append(('horizontal_fraction', 'share of horizontal steps'))
  with matplotlib.rc_context(_STYLE):
    figure, axes = _panels(len(panels), title)
    for axis, (name, label) in zip(axes, panels, strict=True):
      for i, arm in enumerate(arms):
        band = _band(arm, name)
        if band is None:
          continue
        epochs, mean, low, high = band
        _line(axis, epochs, mean, f'{arm.name} (n={len(arm.finished)})', i)
        axis.fill_between(
          epochs, low, high, color=_COLORS[i % len(_COLORS)], alpha=0.2, lw=0
        )
      _label(axis, label)
    # On a linear scale the first epochs would flatten all the others.
    for axis in axes[:2]:
      axis.set_yscale('log')
      axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
      axis.yaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
      axis.yaxis.set_minor_locator(ticker.NullLocator())
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=2)
    figure.text(
      0.995,
      0.005,
      'lines: mean; bands: lowest to highest seed',
      ha='right',
      fontsize=8,
      color='0.4',
    )
    figure.savefig(path, dpi=120)


def _band(arm: Arm, name: str) -> tuple[Any, Any, Any, Any] | None:
  curves = [run.curve(name) for run in arm.finished]
  if not curves or all(value is None for curve in curves for value in curve):
    return None
  length = min(len(curve) for curve in curves)
  values = np.asarray([curve[:length] for curve in curves], np.float64)
  epochs = np.arange(1, length + 1)
  return epochs, values.mean(0), values.min(0), values.max(0)


def _panels(
  count: int, title: str
) -> tuple[mpl_figure.Figure, list[mpl_axes.Axes]]:
  figure = mpl_figure.Figure(figsize=(4 * count, 3.8), layout='constrained')
  figure.suptitle(title)
  return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _line(axis: mpl_axes.Axes, x: Any, y: Any, label: str, i: int) -> None:
  axis.plot(
    x,
    y,
    label=label,
    color=_COLORS[i % len(_COLORS)],
    linestyle=_STYLES[i % len(_STYLES)],
    # A run of one epoch has a point and no line.
    marker='o' if len(x) == 1 else None,
  )


def _label(axis: mpl_axes.Axes, name: str, from_zero: bool = False) -> None:
  axis.set_xlabel('epoch')
  axis.set_ylabel(name)
  axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  if from_zero:
    axis.set_ylim(bottom=0)
