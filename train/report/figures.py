"""Pictures, with colours that the colour-blind can tell apart."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import patches
import numpy as np

from train import pictures
from train import safe
from train import statistics
from train.records import Arm
from train.report import paper


def draw_shares(
  panels: Mapping[str, Sequence[Arm]], path: pathlib.Path
) -> None:
  """Draws the share of horizontal steps over the epochs.

  Args:
    panels: Arms with phases, by the title of the panel that shows them.
    path: The PNG file to write.
  """
  with pictures.drawing():
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
      pictures.label_axis(axis, 'share of horizontal steps')
    pictures.save(figure, path)


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
  with pictures.drawing(axes_grid=False):
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
    pictures.save(figure, path)


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
  with pictures.drawing():
    figure, axes = pictures.make_panels(len(panels), title)
    for axis, (name, label) in zip(axes, panels, strict=True):
      for i, arm in enumerate(arms):
        band = _band(arm, name)
        if band is not None:
          _line_with_band(axis, band, arm, i, alpha=0.2)
      pictures.label_axis(axis, label)
    # On a linear scale the first epochs would flatten all the others.
    for axis in axes[:2]:
      pictures.use_log_scale(axis)
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
    pictures.save(figure, path)


def draw_errors(
  panels: Mapping[str, Sequence[Arm]], path: pathlib.Path
) -> None:
  """Draws test error over the epochs, as Figures 2 to 4 of the paper do.

  Args:
    panels: Arms by the title of the row that shows them: the whole run on the
      left, its last two fifths on the right.
    path: The PNG file to write.
  """
  with pictures.drawing():
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
      pictures.label_axis(whole, 'test error (%)')
      pictures.label_axis(end, 'test error (%)')
      whole.legend(fontsize=8)
    pictures.save(figure, path)


def draw_claims(
  judged: Sequence[tuple[paper.Claim, statistics.Judgement]],
  path: pathlib.Path,
) -> None:
  """Draws the difference behind each claim, with its simultaneous interval.

  Args:
    judged: Claims and judgements of one family.
    path: The PNG file to write.
  """
  looks = {
    statistics.Verdict.BETTER: (pictures.COLORS[0], 'o'),
    statistics.Verdict.WORSE: (pictures.COLORS[1], 's'),
    statistics.Verdict.EQUIVALENT: (pictures.COLORS[2], '^'),
    statistics.Verdict.UNDECIDED: ('0.45', 'D'),
  }
  with pictures.drawing():
    figure = mpl_figure.Figure(
      figsize=(10, 1.8 + 0.36 * len(judged)), layout='constrained'
    )
    axis = figure.subplots()
    for i, (_, judgement) in enumerate(judged):
      estimate = judgement.estimate
      color, marker = looks[judgement.verdict]
      if np.isfinite(estimate.margin):
        axis.barh(
          -i,
          2 * estimate.margin,
          left=-estimate.margin,
          height=0.8,
          color='0.9',
          label='margin of equivalence',
        )
      axis.errorbar(
        estimate.difference,
        -i,
        xerr=np.nan_to_num(judgement.high - estimate.difference),
        color=color,
        marker=marker,
        capsize=3,
        label=str(judgement.verdict),
      )
    axis.axvline(0, color='0.3', lw=1)
    axis.grid(False, axis='y')
    axis.set_ylim(0.6 - len(judged), 0.6)
    axis.set_yticks(
      [-i for i in range(len(judged))], [claim.words for claim, _ in judged]
    )
    axis.set_xlabel(
      'difference in test error (points) with its simultaneous 95 % interval'
    )
    handles, labels = axis.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(
      unique.values(),
      unique.keys(),
      loc='outside upper right',
      ncols=len(unique),
    )
    pictures.save(figure, path)


def _band(arm: Arm, name: str) -> tuple[Any, Any, Any, Any] | None:
  curves = [run.curve(name) for run in arm.finished]
  if not curves or all(value is None for curve in curves for value in curve):
    return None
  length = min(len(curve) for curve in curves)
  # Not every epoch is tested.
  there = [
    i for i in range(length) if all(name in run.rows[i] for run in arm.finished)
  ]
  values = np.asarray([[curve[i] for i in there] for curve in curves], float)
  return np.asarray(there) + 1, values.mean(0), values.min(0), values.max(0)


def _line_with_band(
  axis: mpl_axes.Axes,
  band: tuple[Any, Any, Any, Any],
  arm: Arm,
  i: int,
  alpha: float,
) -> None:
  epochs, mean, low, high = band
  pictures.draw_line(
    axis,
    epochs,
    mean,
    safe.label(f'{arm.name} (n={len(arm.finished)})'),
    i,
  )
  axis.fill_between(
    epochs,
    low,
    high,
    color=pictures.COLORS[i % len(pictures.COLORS)],
    alpha=alpha,
    lw=0,
  )
