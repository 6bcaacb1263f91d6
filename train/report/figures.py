"""Pictures, with colours that the colour-blind can tell apart."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import pathlib
from typing import Any

import matplotlib
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import patches
from matplotlib import ticker
import numpy as np

from train.records import Arm
from train.records import files
from train.records.schema import EpochRow
from train.records.schema import StepsRow
from train.report import paper
from train.report import safe
from train.report import statistics

# Okabe and Ito's palette, and line styles for print in black and white.
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
def style(grid: bool = True) -> Iterator[None]:
  """The look of all pictures, whatever the user's matplotlibrc says.

  Args:
    grid: Whether axes have one.
  """
  with matplotlib.rc_context():
    matplotlib.rcdefaults()
    matplotlib.rcParams.update({**_STYLE, 'axes.grid': grid})
    yield


def save(figure: mpl_figure.Figure, path: pathlib.Path) -> None:
  """Writes a picture completely or not at all, or raises OSError."""
  files.replace(
    path, lambda unfinished: figure.savefig(unfinished, dpi=120, format='png')
  )


def draw_run(rows: Sequence[EpochRow], path: pathlib.Path, title: str) -> None:
  """Draws the curves of one run: errors, loss, horizontal share, rate.

  Args:
    rows: The run's rows of metrics.
    path: The PNG file to write.
    title: Above the figure.
  """
  has_phases = any(row['horizontal_fraction'] is not None for row in rows)
  figures: Sequence[Mapping[str, Any]] = rows
  with style():
    figure, axes = _panels(4 if has_phases else 3, title)
    epochs = [row['epoch'] for row in rows]

    def curve(axis: mpl_axes.Axes, name: str, label: str, i: int) -> None:
      values = np.asarray([row.get(name) for row in figures], np.float64)
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
    save(figure, path)


def draw_phases(
  steps: Sequence[StepsRow],
  config: Mapping[str, Any],
  path: pathlib.Path,
  title: str,
) -> None:
  """Draws losses against their running mean, coloured by what they chose.

  Each row shows some epochs in full and their last steps enlarged: the first
  epochs of the run, its middle and its last, or all of a short run.

  Args:
    steps: The run's rows of steps; at least one with phases. Epochs of which
      nothing was recorded are left out.
    config: The settings of the run.
    path: The PNG file to write.
    title: Above the figure.
  """
  steps = [row for row in steps if row['loss'] is not None]
  length = len(_numbers(steps[0], 'loss'))
  together = max(1, _STEPS_SHOWN // length)
  starts = [0]
  if len(steps) > together:
    middle = [(len(steps) - together) // 2] if len(steps) > 2 * together else []
    starts = [0, *middle, len(steps) - together]
  # The loss of a step chooses the momentum of the next.
  lag = 0 if config['reaction'] == 'current' else 1
  chosen = np.concatenate([_numbers(row, 'horizontal') for row in steps])[lag:]
  with style():
    figure = mpl_figure.Figure(
      figsize=(11, 1 + 2.6 * len(starts)), layout='constrained'
    )
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
            # Full and open, for print in black and white.
            markerfacecolor=color if value else 'none',
            markersize=3 if first == 0 else 5,
            label=f'{label}: momentum {momentum:g}',
          )
        # Broken where an epoch begins.
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
          _log_scale(axis)
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
    figure.legend(handles, labels, loc='outside lower center', ncols=3)
    save(figure, path)


# In one panel: as many epochs as have so many steps, at least one.
_STEPS_SHOWN = 400
_STEPS_ENLARGED = 40


def _numbers(row: Mapping[str, Any], name: str) -> Any:
  # None becomes NaN.
  return np.asarray(row[name], np.float64)


def _breaks(ends: Any, number: Any) -> Any:
  return np.searchsorted(number, ends[(number[0] < ends) & (ends < number[-1])])


def _running_mean(
  steps: Sequence[Mapping[str, Any]], loss_decay: float | None
) -> Any:
  """The mean that each loss is compared with; what is not finite is left out.

  With a moving average, from the first of these epochs on.
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


def draw_shares(
  panels: Mapping[str, Sequence[Arm]], path: pathlib.Path
) -> None:
  """Draws the share of horizontal steps over the epochs.

  Args:
    panels: Arms with phases, by the title of the panel that shows them.
    path: The PNG file to write.
  """
  with style():
    rows = -(-len(panels) // 2)
    figure = mpl_figure.Figure(
      figsize=(11, 0.6 + 3.6 * rows), layout='constrained'
    )
    figure.suptitle(
      'Share of horizontal steps (lines: mean; bands: lowest to highest seed)'
    )
    axes = list(figure.subplots(rows, 2, squeeze=False, sharey=True).flat)
    for axis in axes[len(panels) :]:
      axis.set_axis_off()
    for axis, (title, arms) in zip(axes, panels.items(), strict=False):
      for i, arm in enumerate(arms):
        band = _band(arm, 'horizontal_fraction')
        if band is not None:
          _line_with_band(axis, band, arm, i, alpha=0.2)
      axis.axhline(0.5, color='0.5', lw=0.8)
      axis.set_title(title, loc='left')
      axis.legend(fontsize=8)
      _label(axis, 'share of horizontal steps')
    save(figure, path)


def draw_heat_map(
  cells: Mapping[tuple[float, float], Arm], path: pathlib.Path, title: str
) -> None:
  """Draws the final test error over a grid of momenta.

  Args:
    cells: Arms by horizontal and vertical momentum, one for each pair.
    path: The PNG file to write.
    title: Above the figure.
  """
  horizontal, vertical = (sorted(set(x)) for x in zip(*cells, strict=True))
  errors = np.full((len(horizontal), len(vertical)), np.nan)
  words = {}
  for (h, v), arm in cells.items():
    at = horizontal.index(h), vertical.index(v)
    runs = f'n = {len(arm.finished)}'
    if len(arm.finished) < len(arm.runs):
      runs += f' of {len(arm.runs)}'
    words[at] = runs
    if arm.finished:
      sample = statistics.describe(list(arm.final_errors().values()))
      errors[at] = sample.mean
      spread = '' if sample.n < 2 else f'sd {sample.deviation:.2f}, '
      words[at] = f'{sample.mean:.2f}\n{spread}{runs}'
  with style(grid=False):
    figure = mpl_figure.Figure(
      figsize=(2.6 + 1.35 * len(vertical), 2.2 + 0.85 * len(horizontal)),
      layout='constrained',
    )
    figure.suptitle(safe.label(title))
    axis = figure.subplots()
    # Of one hue order in any eye, and of one lightness order in print.
    image = axis.imshow(errors, cmap='cividis_r', origin='lower', aspect='auto')
    for (i, j), text in words.items():
      red, green, blue, _ = image.cmap(image.norm(errors[i, j]))
      dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
      is_number = np.isfinite(errors[i, j])
      color = 'white' if dark and is_number else 'black'
      axis.text(j, i, text, ha='center', va='center', color=color, fontsize=9)
      if horizontal[i] == vertical[j]:
        axis.add_patch(
          patches.Rectangle(
            (j - 0.47, i - 0.47), 0.94, 0.94, fill=False, ec=color, lw=2
          )
        )
    axis.set_xticks(range(len(vertical)), [f'{v:g}' for v in vertical])
    axis.set_yticks(range(len(horizontal)), [f'{h:g}' for h in horizontal])
    axis.set_xlabel(
      'vertical momentum (after a loss above the mean)\n'
      'framed: both are the same, which is fixed momentum'
    )
    axis.set_ylabel('horizontal momentum')
    figure.colorbar(image, label='final test error (%), mean')
    save(figure, path)


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
  with style():
    figure, axes = _panels(len(panels), title)
    for axis, (name, label) in zip(axes, panels, strict=True):
      for i, arm in enumerate(arms):
        band = _band(arm, name)
        if band is not None:
          _line_with_band(axis, band, arm, i, alpha=0.2)
      _label(axis, label)
    # On a linear scale the first epochs would flatten all the others.
    for axis in axes[:2]:
      _log_scale(axis)
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
    save(figure, path)


def draw_errors(
  panels: Mapping[str, Sequence[Arm]], path: pathlib.Path
) -> None:
  """Draws test error over the epochs, as Figures 2 to 4 of the paper do.

  Args:
    panels: Arms by the title of the row that shows them: the whole run on the
      left, its last two fifths on the right.
    path: The PNG file to write.
  """
  with style():
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
        epochs, _, low, high = band
        late = epochs > 0.6 * epochs[-1]
        lowest = min(lowest, low[late].min())
        highest = max(highest, high[late].max())
        for axis in (whole, end):
          _line_with_band(axis, band, arm, i, alpha=0.15)
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
    save(figure, path)


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
  with style():
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
    save(figure, path)


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
  figure.suptitle(safe.label(title))
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


def _line_with_band(
  axis: mpl_axes.Axes,
  band: tuple[Any, Any, Any, Any],
  arm: Arm,
  i: int,
  alpha: float,
) -> None:
  epochs, mean, low, high = band
  label = safe.label(f'{arm.name} (n={len(arm.finished)})')
  _line(axis, epochs, mean, label, i)
  axis.fill_between(
    epochs, low, high, color=COLORS[i % len(COLORS)], alpha=alpha, lw=0
  )


def _log_scale(axis: mpl_axes.Axes) -> None:
  axis.set_yscale('log')
  axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axis.yaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
  axis.yaxis.set_minor_locator(ticker.NullLocator())


def _label(axis: mpl_axes.Axes, name: str, from_zero: bool = False) -> None:
  axis.set_xlabel('epoch')
  axis.set_ylabel(name)
  axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  if from_zero:
    axis.set_ylim(bottom=0)
