"""The style of all figures, and the figures of a single run.

The colors are safe for color blindness, and line styles and markers can be
distinguished in black and white. The user's Matplotlib configuration has no
effect.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import pathlib
from typing import Any

import matplotlib
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker
import numpy as np

from train import files
from train import safe

# The palette of Okabe and Ito, and line styles for black and white.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
LINE_STYLES = ('-', '--', '-.', ':')

_STYLE: Any = {
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'grid.alpha': 0.3,
  'font.size': 10,
  'legend.frameon': False,
}


@contextlib.contextmanager
def drawing(**style: Any) -> Iterator[None]:
  """A context in which figures have the common style.

  Args:
    **style: Matplotlib parameters that override it, with ``_`` for dots.
  """
  own: Any = {name.replace('_', '.'): value for name, value in style.items()}
  with matplotlib.rc_context():
    matplotlib.rcdefaults()
    matplotlib.rcParams.update({**_STYLE, **own})
    yield


def save(figure: mpl_figure.Figure, path: pathlib.Path) -> None:
  """Writes a PNG file atomically.

  Raises:
    OSError: If it cannot be written. The old file is then intact.
  """
  files.replace(
    path, lambda unfinished: figure.savefig(unfinished, format='png', dpi=120)
  )


def draw_run(
  rows: Sequence[Mapping[str, Any]], path: pathlib.Path, title: str
) -> None:
  """Draws the curves of a run: errors, loss, horizontal share, learning rate.

  Args:
    rows: The run's rows of metrics.
    path: The PNG file to write.
    title: Title of the figure.
  """
  has_phases = any(row['horizontal_fraction'] is not None for row in rows)
  with drawing():
    figure, axes = make_panels(4 if has_phases else 3, title)

    def curve(axis: mpl_axes.Axes, name: str, label: str, i: int) -> None:
      # Not every epoch is tested.
      own = [row for row in rows if name in row]
      epochs = [row['epoch'] for row in own]
      draw_line(axis, epochs, [_number(row[name]) for row in own], label, i)

    has_validation = any('validation_error' in row for row in rows)
    curve(axes[0], 'test_error', 'test', 0)
    curve(axes[0], 'train_error', 'training', 1)
    if has_validation:
      curve(axes[0], 'validation_error', 'validation', 2)
    label_axis(axes[0], 'error (%)', from_zero=True)
    curve(axes[1], 'test_loss', 'test', 0)
    curve(axes[1], 'train_loss', 'training', 1)
    if has_validation:
      curve(axes[1], 'validation_loss', 'validation', 2)
    label_axis(axes[1], 'loss', from_zero=True)
    curve(axes[2], 'learning_rate', 'learning rate', 0)
    label_axis(axes[2], 'learning rate')
    if all(row['learning_rate'] > 0 for row in rows):
      axes[2].set_yscale('log')
    if has_phases:
      curve(axes[3], 'horizontal_fraction', 'horizontal', 0)
      label_axis(axes[3], 'share of horizontal steps')
    axes[0].legend()
    axes[1].legend()
    _fix_margins(figure, bottom=0.5)
    save(figure, path)


def draw_phases(
  steps: Sequence[Mapping[str, Any]],
  config: Mapping[str, Any],
  path: pathlib.Path,
  title: str,
) -> None:
  """Draws losses against their running mean, colored by the chosen phase.

  Each row shows some epochs in full and their last steps enlarged: the first
  epochs of the run, its middle and its last, or all of a short run.

  Args:
    steps: The run's rows of steps, at least one with phases. Epochs without
      records are left out.
    config: The settings of the run.
    path: The PNG file to write.
    title: Title of the figure.
  """
  steps = [row for row in steps if row['loss'] is not None]
  length = len(steps[0]['loss'])
  together = max(1, _STEPS_SHOWN // length)
  starts = [0]
  if len(steps) > together:
    middle = [(len(steps) - together) // 2] if len(steps) > 2 * together else []
    starts = [0, *middle, len(steps) - together]
  # The loss of a step selects the momentum of the next one.
  lag = 0 if config['reaction'] == 'current' else 1
  chosen = np.concatenate([_numbers(row, 'horizontal') for row in steps])[lag:]
  with drawing():
    figure = mpl_figure.Figure(figsize=(11, 1 + 2.6 * len(starts)))
    figure.suptitle(safe.label(title))
    grid = figure.subplots(len(starts), 2, squeeze=False, width_ratios=(2.2, 1))
    for start, axes in zip(starts, grid, strict=True):
      shown = steps[start : start + together]
      losses = np.concatenate([_numbers(row, 'loss') for row in shown])
      mean = _running_mean(shown, config.get('loss_decay'))
      number = (shown[0]['epoch'] - 1) * length + np.arange(1, len(losses) + 1)
      own = chosen[start * length :][: len(losses)]
      own = np.pad(own, (0, len(losses) - len(own)), constant_values=np.nan)
      ends = number[length - 1 :: length] + 0.5
      for axis, first in zip(axes, (0, -_STEPS_ENLARGED), strict=True):
        part = slice(first, None)
        for value, label, color, marker in (
          (1, 'then horizontal', COLORS[0], 'o'),
          (0, 'then vertical', COLORS[1], '^'),
        ):
          where = own[part] == value
          momentum = config[
            'horizontal_momentum' if value else 'vertical_momentum'
          ]
          axis.plot(
            number[part][where],
            losses[part][where],
            marker,
            color=color,
            # Filled and open markers, for black and white.
            markerfacecolor=color if value else 'none',
            markersize=3 if first == 0 else 5,
            label=f'{label}: momentum {momentum:g}',
          )
        # Interrupted at the start of an epoch.
        breaks = _breaks(ends, number[part])
        at = np.insert(number[part].astype(float), breaks, np.nan)
        line = np.insert(mean[part], breaks, np.nan)
        axis.plot(at, line, color='black', lw=1.5, label='running mean')
        for end in ends[:-1]:
          if number[part][0] < end:
            axis.axvline(end, color='0.5', lw=0.8, ls=':')
        axis.set_xlabel('step')
        axis.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        if np.nanmin(losses[part]) * 20 < np.nanmax(losses[part]):
          use_log_scale(axis)
      epochs = [row['epoch'] for row in shown]
      axes[0].set_ylabel('loss of a batch')
      axes[0].set_title(
        f'epoch {epochs[0]}'
        if len(epochs) == 1
        else f'epochs {epochs[0]} to {epochs[-1]}',
        loc='left',
      )
      enlarged = min(_STEPS_ENLARGED, len(losses))
      axes[1].set_title(f'the last {enlarged} of these steps', loc='left')
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='lower center', ncols=3)
    _fix_margins(figure, bottom=0.85)
    save(figure, path)


# Steps per panel: as many epochs as fit, at least one.
_STEPS_SHOWN = 400
_STEPS_ENLARGED = 40


def _number(value: float | None) -> float:
  return np.nan if value is None else value


def _numbers(row: Mapping[str, Any], name: str) -> Any:
  # None becomes NaN.
  return np.asarray(row[name], np.float64)


def _breaks(ends: Any, number: Any) -> Any:
  return np.searchsorted(number, ends[(number[0] < ends) & (ends < number[-1])])


def _running_mean(
  steps: Sequence[Mapping[str, Any]], loss_decay: float | None
) -> Any:
  """The mean that each loss is compared with, without non-finite losses.

  A moving average starts at the first of these epochs.
  """
  means = []
  total = count = 0.0
  for row in steps:
    if loss_decay is None:
      total = count = 0.0
    for loss in _numbers(row, 'loss'):
      if np.isfinite(loss):
        total = (loss_decay or 1) * total + loss
        count = (loss_decay or 1) * count + 1
      means.append(total / count if count else np.nan)
  return np.asarray(means)


def _fix_margins(figure: mpl_figure.Figure, bottom: float) -> None:
  """Sets margins in inches; a constrained layout would draw all twice."""
  width, height = figure.get_size_inches()
  figure.set_layout_engine(None)
  figure.subplots_adjust(
    left=0.75 / width,
    right=1 - 0.15 / width,
    bottom=bottom / height,
    top=1 - 0.6 / height,
    # Relative to the mean size of the panels.
    wspace=0.27,
    hspace=0.4,
  )


def make_panels(
  count: int, title: str
) -> tuple[mpl_figure.Figure, list[mpl_axes.Axes]]:
  figure = mpl_figure.Figure(figsize=(4 * count, 3.8), layout='constrained')
  figure.suptitle(safe.label(title))
  return figure, list(figure.subplots(1, count, squeeze=False)[0])


def draw_line(axis: mpl_axes.Axes, x: Any, y: Any, label: str, i: int) -> None:
  axis.plot(
    x,
    y,
    label=label,
    color=COLORS[i % len(COLORS)],
    linestyle=LINE_STYLES[i % len(LINE_STYLES)],
    # With one epoch there is a point, not a line.
    marker='o' if len(x) == 1 else None,
  )


def use_log_scale(axis: mpl_axes.Axes) -> None:
  axis.set_yscale('log')
  axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axis.yaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
  axis.yaxis.set_minor_locator(ticker.NullLocator())


def label_axis(axis: mpl_axes.Axes, name: str, from_zero: bool = False) -> None:
  axis.set_xlabel('epoch')
  axis.set_ylabel(name)
  axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  if from_zero:
    axis.set_ylim(bottom=0)
