"""Pictures, with colours that the colour-blind can tell apart."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

import matplotlib
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker
import numpy as np

from train.report import paper
from train.report import statistics
from train.report.records import Arm

# Okabe and Ito's palette, and line styles for print in black and white.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
LINE_STYLES = ('-', '--', '-.', ':')

STYLE: Any = {
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
  with matplotlib.rc_context(STYLE):
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
  with matplotlib.rc_context(STYLE):
    figure, axes = _panels(len(panels), title)
    for axis, (name, label) in zip(axes, panels, strict=True):
      for i, arm in enumerate(arms):
        band = _band(arm, name)
        if band is None:
          continue
        epochs, mean, low, high = band
        _line(axis, epochs, mean, f'{arm.name} (n={len(arm.finished)})', i)
        axis.fill_between(
          epochs, low, high, color=COLORS[i % len(COLORS)], alpha=0.2, lw=0
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


def draw_errors(
  panels: Mapping[str, Sequence[Arm]], path: pathlib.Path
) -> None:
  """Draws test error over the epochs, as Figures 2 to 4 of the paper do.

  Args:
    panels: Arms by the title of the row that shows them: the whole run on the
      left, its last two fifths on the right.
    path: The PNG file to write.
  """
  with matplotlib.rc_context(STYLE):
    figure = mpl_figure.Figure(
      figsize=(11, 4.2 * len(panels)), layout='constrained'
    )
    grid = figure.subplots(len(panels), 2, squeeze=False)
    for (title, arms), (whole, end) in zip(panels.items(), grid, strict=True):
      lowest, highest = np.inf, -np.inf
      for i, arm in enumerate(arms):
        band = _band(arm, 'test_error')
        if band is None:
          continue
        epochs, mean, low, high = band
        late = epochs > 0.6 * epochs[-1]
        lowest = min(lowest, low[late].min())
        highest = max(highest, high[late].max())
        for axis in (whole, end):
          _line(axis, epochs, mean, f'{arm.name} (n={len(arm.finished)})', i)
          axis.fill_between(
            epochs, low, high, color=COLORS[i % len(COLORS)], alpha=0.15, lw=0
          )
        end.set_xlim(0.6 * epochs[-1], epochs[-1])
      whole.set_title(title, loc='left')
      end.set_title(
        'the last two fifths (lines: mean; bands: lowest to highest seed)',
        loc='left',
        fontsize=9,
      )
      margin = 0.05 * (highest - lowest)
      end.set_ylim(lowest - margin, highest + margin)
      _label(whole, 'test error (%)')
      _label(end, 'test error (%)')
      whole.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def draw_claims(
  judged: Sequence[tuple[paper.Claim, statistics.Comparison]],
  path: pathlib.Path,
) -> None:
  """Draws the difference behind each claim, with its 95 % interval.

  Args:
    judged: Claims and comparisons.
    path: The PNG file to write.
  """
  looks = {
    'as claimed': (COLORS[0], 'o'),
    'the opposite': (COLORS[1], 's'),
    'a difference': (COLORS[1], 's'),
  }
  with matplotlib.rc_context(STYLE):
    figure = mpl_figure.Figure(
      figsize=(10, 1.8 + 0.36 * len(judged)), layout='constrained'
    )
    axis = figure.subplots()
    for i, (claim, comparison) in enumerate(judged):
      found = claim.judge(comparison.verdict)
      color, marker = looks.get(found, ('0.55', 'D'))
      axis.errorbar(
        comparison.difference.mean,
        -i,
        xerr=np.nan_to_num(comparison.difference.half_width),
        color=color,
        marker=marker,
        capsize=3,
        label=found if found in looks else 'nothing found',
      )
    axis.axvline(0, color='0.3', lw=1)
    axis.set_yticks(
      [-i for i in range(len(judged))], [claim.words for claim, _ in judged]
    )
    axis.set_xlabel(
      'difference in test error (points) with its 95 % interval, a pair a seed'
    )
    handles, labels = axis.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(
      unique.values(), unique.keys(), loc='outside upper right', ncols=3
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
    color=COLORS[i % len(COLORS)],
    linestyle=LINE_STYLES[i % len(LINE_STYLES)],
    # A run of one epoch has a point and no line.
    marker='o' if len(x) == 1 else None,
  )


def _label(axis: mpl_axes.Axes, name: str, from_zero: bool = False) -> None:
  axis.set_xlabel('epoch')
  axis.set_ylabel(name)
  axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  if from_zero:
    axis.set_ylim(bottom=0)
