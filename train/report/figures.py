"""The figures of a report, in colors that are safe for color blindness."""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import pathlib
from typing import Any

from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import layout_engine
from matplotlib import patches
import numpy as np

from train import experiments
from train import pictures
from train import safe
from train import statistics
from train.records import Arm
from train.report import paper
from train.report import preregistered
from train.report import tables


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
    title: Title of the figure.
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
      spread = '' if sample.n < 2 else f'sd {sample.std:.2f}, '
      words[at] = f'{sample.mean:.2f}\n{spread}{runs}'
  with pictures.drawing(axes_grid=False):
    figure = mpl_figure.Figure(
      figsize=(2.6 + 1.35 * len(vertical), 2.2 + 0.85 * len(horizontal)),
      layout='constrained',
    )
    figure.suptitle(safe.label(title))
    axis = figure.subplots()
    # Perceptually uniform, also with color blindness and in grayscale.
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
      'framed: both are equal, which is fixed momentum'
    )
    axis.set_ylabel('horizontal momentum')
    figure.colorbar(image, label='final test error (%), mean')
    pictures.save(figure, path)


def draw_arms(arms: Sequence[Arm], path: pathlib.Path, title: str) -> None:
  """Draws the curves of arms, each a mean with a band over its seeds.

  Args:
    arms: The arms.
    path: The PNG file to write.
    title: Title of the figure.
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


@dataclasses.dataclass(frozen=True)
class Curves:
  """Arms of one figure of the paper."""

  arms: Sequence[Arm]
  control: Arm | None
  """The arm that the others are compared with."""
  asked: frozenset[str] = frozenset()
  """Names of arms whose difference from the control is preregistered: it is
  shown elsewhere, with the interval of its family."""


def draw_errors(panels: Mapping[str, Curves], path: pathlib.Path) -> None:
  """Draws test error over the epochs, as in Figures 2 to 4 of the paper.

  The curve of an arm is that of the control, the mean over all of its seeds,
  plus the mean difference from it over the seeds that both have: arms with
  other seeds can then be compared. Below the curves, one line per arm shows its
  differences from the control, seed by seed, at the epoch that the paper
  reports.

  Args:
    panels: Arms by title. The left panel shows the whole run, the right panel
      its last two fifths.
    path: The PNG file to write.
  """
  compared = [
    [
      (i, arm, differences)
      for i, arm in enumerate(panel.arms)
      if panel.control is not None
      and arm is not panel.control
      and arm.name not in panel.asked
      for differences in [_differences(arm, panel.control)]
      if differences
    ]
    for panel in panels.values()
  ]
  with pictures.drawing():
    # The curves of a panel, and its differences if it has any.
    heights = [
      height
      for of_panel in compared
      for height in (3.6, *([0.9 + 0.3 * len(of_panel)] if of_panel else []))
    ]
    figure = mpl_figure.Figure(
      figsize=(11, sum(heights) + 0.3), layout='constrained'
    )
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    rows = itertools.count()
    for (title, panel), of_panel in zip(panels.items(), compared, strict=True):
      row = next(rows)
      whole = figure.add_subplot(grid[row, 0])
      end = figure.add_subplot(grid[row, 1])
      _draw_curves(panel, whole, end)
      whole.set_title(title, loc='left')
      if panel.control is None or not of_panel:
        continue
      axis = figure.add_subplot(grid[next(rows), :])
      _draw_differences(axis, of_panel)
      axis.set_xlabel(
        f'exploratory: test error − that of {panel.control.label} (points), at'
        ' the reported epoch\nsmall: seeds; large: mean, with its own 95 %'
        f' interval from {tables.FEW + 1} seeds on'
      )
    pictures.save(figure, path)


def _draw_curves(
  panel: Curves, whole: mpl_axes.Axes, end: mpl_axes.Axes
) -> None:
  lowest, highest = np.inf, -np.inf
  for i, arm in enumerate(panel.arms):
    curve = _error_curve(arm, panel.control)
    if curve is None:
      continue
    epochs, errors, n = curve
    late = epochs > 0.6 * epochs[-1]
    lowest = min(lowest, errors[late].min())
    highest = max(highest, errors[late].max())
    for axis in (whole, end):
      label = safe.label(f'{arm.label} ({n})')
      pictures.draw_line(axis, epochs, errors, label, i)
    end.set_xlim(0.6 * epochs[-1], epochs[-1])
  end.set_title('the last two fifths', loc='left')
  if np.isfinite(lowest):
    margin = 0.05 * (highest - lowest) or 1
    end.set_ylim(lowest - margin, highest + margin)
  pictures.label_axis(whole, 'test error (%)')
  pictures.label_axis(end, 'test error (%)')
  whole.legend(fontsize=8)


def _error_curve(arm: Arm, control: Arm | None) -> tuple[Any, Any, str] | None:
  """Epochs, test errors adjusted for the seeds, and their number in words."""
  own = _band(arm, 'test_error')
  if own is None:
    return None
  n = f'n={len(arm.finished)}'
  if control is None or arm is control:
    return own[0], own[1], n
  first, second = (
    dataclasses.replace(
      one, runs=[run for run in one.finished if run.seeds in seeds]
    )
    for one, other in ((arm, control), (control, arm))
    for seeds in [{run.seeds for run in other.finished}]
  )
  bands = [_band(x, 'test_error') for x in (first, second, control)]
  if any(band is None or not np.array_equal(band[0], own[0]) for band in bands):
    return own[0], own[1], f'{n}, own mean'
  ours, theirs, of_control = (band[1] for band in bands if band is not None)
  return own[0], of_control + ours - theirs, f'n={len(first.runs)}'


def _differences(arm: Arm, control: Arm) -> list[float]:
  """The differences of the errors, for the seeds that both arms have."""
  ours, theirs = arm.read_off_errors(), control.read_off_errors()
  return [ours[seeds] - theirs[seeds] for seeds in ours if seeds in theirs]


def _draw_differences(
  axis: mpl_axes.Axes, compared: Sequence[tuple[int, Arm, Sequence[float]]]
) -> None:
  axis.axvline(0, color='0.3', lw=1)
  for row, (i, _, differences) in enumerate(compared):
    color = pictures.COLORS[i % len(pictures.COLORS)]
    _draw_seeds(axis, row, differences, color)
  axis.set_yticks(
    [-row for row in range(len(compared))],
    [
      safe.label(f'{arm.label} (n={len(differences)})')
      for _, arm, differences in compared
    ],
  )
  axis.set_ylim(0.6 - len(compared), 0.6)
  axis.grid(False, axis='y')


def _draw_seeds(
  axis: mpl_axes.Axes, row: int, values: Sequence[float], color: str
) -> None:
  """Draws the values of the seeds in a row, and their mean with interval."""
  sample = statistics.describe(values)
  axis.plot(
    values,
    [0.18 - row] * sample.n,
    linestyle='',
    marker='o',
    markersize=4,
    alpha=0.4,
    color=color,
    mew=0,
  )
  has_interval = sample.n > tables.FEW
  axis.errorbar(
    sample.mean,
    -row,
    xerr=sample.half_width if has_interval else None,
    color=color,
    marker='D' if has_interval else '|',
    markersize=6 if has_interval else 11,
    capsize=3,
  )


def draw_points(
  panels: Mapping[str, Sequence[Arm]], path: pathlib.Path
) -> None:
  """Draws the test error of every arm, seed by seed.

  Args:
    panels: Arms by the title of the panel that shows them.
    path: The PNG file to write.
  """
  with pictures.drawing():
    most = max(len(arms) for arms in panels.values())
    figure = mpl_figure.Figure(
      figsize=(6.5 * len(panels), 2 + 0.25 * most),
      # Leaves room for the line at the bottom.
      layout=layout_engine.ConstrainedLayoutEngine(rect=(0, 0.03, 1, 0.97)),
    )
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, arms) in zip(grid, panels.items(), strict=True):
      for row, arm in enumerate(arms):
        color = pictures.COLORS[0 if arm.has_phases else 1]
        errors = list(arm.read_off_errors().values())
        _draw_seeds(axis, row, errors, color)
      axis.set_yticks(
        [-row for row in range(len(arms))],
        [safe.label(f'{_place(arm)} (n={len(arm.finished)})') for arm in arms],
        fontsize=8,
      )
      axis.set_ylim(0.6 - most, 0.6)
      axis.set_title(title, loc='left')
      axis.set_xlabel('test error (%) at the reported epoch')
    figure.text(
      0.995,
      0.002,
      'small: seeds; large: mean, with its own 95 % interval from'
      f' {tables.FEW + 1} seeds on; blue: LCAM',
      ha='right',
      va='bottom',
      fontsize=8,
      color='0.4',
    )
    pictures.save(figure, path)


def _place(arm: Arm) -> str:
  experiment = arm.experiment
  return f'{experiment.section} {experiment.arm}' if experiment else arm.name


def draw_preregistered(
  answers: Sequence[preregistered.Answers], path: pathlib.Path
) -> None:
  """Draws the six contrasts of every stage with their simultaneous intervals.

  Args:
    answers: The answers of each stage.
    path: The PNG file to write.
  """
  rows = [
    (question, dataset)
    for question in preregistered.QUESTIONS
    for dataset in preregistered.DATASETS
  ]
  with pictures.drawing():
    figure = mpl_figure.Figure(figsize=(10, 5), layout='constrained')
    axis = figure.subplots()
    height = 0.8 / len(answers)
    for i, of_stage in enumerate(answers):
      color, marker = _STAGE_LOOKS[of_stage.stage.scale]
      seeds = str(of_stage.planned)
      if not of_stage.is_complete:
        seeds = f'{min(of_stage.done.values())} of {seeds}, no verdict yet'
      label = f'{of_stage.stage.scale.title}, n = {seeds}'
      # Adds the stage to the legend even without answers.
      axis.errorbar([], [], xerr=[], color=color, marker=marker, label=label)
      for row, (question, dataset) in enumerate(rows):
        contrast = of_stage.contrasts.get((question.name, dataset))
        if contrast is None:
          continue
        y = -row + 0.4 - height * (i + 0.5)
        judgement = contrast.judgement
        estimate = judgement.estimate
        axis.barh(
          y,
          2 * estimate.margin,
          left=-estimate.margin,
          height=0.9 * height,
          color=color,
          alpha=0.15,
          label=f'margin of equivalence, {of_stage.stage.scale.name}',
        )
        _draw_interval(axis, judgement, y, color, marker)
        axis.annotate(
          str(judgement.verdict),
          (judgement.high, y),
          xytext=(5, 0),
          textcoords='offset points',
          va='center',
          fontsize=8,
          color=color,
        )
    for row, (question, dataset) in enumerate(rows):
      # The paper's Table 1 compares LCAM with these, and with nothing that P2
      # or P3 ask for.
      if question is not preregistered.QUESTIONS[0]:
        continue
      for (name, gaps), style in zip(
        paper.CLAIMED_GAPS.items(), ('-', ':'), strict=True
      ):
        axis.plot(
          [gaps[dataset]] * 2,
          [-row - 0.42, -row + 0.42],
          color='black',
          lw=2,
          ls=style,
          label=f"the paper's Table 1: LCAM − {name}",
        )
    axis.axvline(0, color='0.3', lw=1)
    axis.margins(x=0.1)
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, -1), max(high, 1))
    axis.grid(False, axis='y')
    axis.set_ylim(0.6 - len(rows), 0.6)
    axis.set_yticks(
      [-row for row in range(len(rows))],
      [
        f'{preregistered.DATASETS[dataset]}, {question.name}\n{question.words}'
        for question, dataset in rows
      ],
    )
    axis.set_xlabel(
      'difference in test error (points) with simultaneous 95 % intervals;'
      ' below zero favors LCAM'
    )
    handles, labels = axis.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(
      unique.values(),
      unique.keys(),
      loc='outside upper center',
      ncols=2,
      fontsize=9,
    )
    pictures.save(figure, path)


def _draw_interval(
  axis: mpl_axes.Axes,
  judgement: statistics.Judgement,
  y: float,
  color: str,
  marker: str,
) -> None:
  """Draws a difference with its simultaneous interval, if it was tested."""
  difference = judgement.estimate.difference
  axis.errorbar(
    difference,
    y,
    xerr=np.nan_to_num(judgement.high - difference),
    color=color,
    marker=marker,
    capsize=3,
  )


_STAGE_LOOKS = {
  experiments.SMALL: (pictures.COLORS[1], 's'),
  experiments.MEDIUM: (pictures.COLORS[0], 'o'),
}


def draw_claims(
  explored: Sequence[tuple[paper.Claim, statistics.Judgement]],
  path: pathlib.Path,
) -> None:
  """Draws the difference behind each claim, with its simultaneous interval.

  Args:
    explored: Claims and differences of one family.
    path: The PNG file to write.
  """
  panels = _by_size(explored)
  with pictures.drawing():
    figure = mpl_figure.Figure(
      figsize=(10, 1.8 + 0.7 * len(panels) + 0.36 * len(explored)),
      layout='constrained',
    )
    axes = figure.subplots(
      len(panels), 1, squeeze=False, height_ratios=[1 + len(p) for p in panels]
    )[:, 0]
    for axis, rows in zip(axes, panels, strict=True):
      for i, (_, judgement) in enumerate(rows):
        _draw_interval(axis, judgement, -i, pictures.COLORS[0], 'o')
      axis.axvline(0, color='0.3', lw=1)
      axis.grid(False, axis='y')
      axis.set_ylim(0.6 - len(rows), 0.6)
      axis.set_yticks(
        [-i for i in range(len(rows))],
        [
          f'{claim.words} (n={judgement.estimate.n})'
          for claim, judgement in rows
        ],
      )
    axes[-1].set_xlabel(
      'exploratory: difference in test error\n'
      '(points) with its simultaneous 95 % interval'
    )
    pictures.save(figure, path)


_Explored = tuple[paper.Claim, statistics.Judgement]


def _by_size(explored: Sequence[_Explored]) -> list[list[_Explored]]:
  """Puts differences apart that would make all others unreadable."""

  def reach(row: _Explored) -> float:
    judgement = row[1]
    ends = (judgement.low, judgement.high, judgement.estimate.difference)
    return float(np.nanmax(np.abs(ends)))

  limit = 3 * float(np.median([reach(row) for row in explored]))
  near = [row for row in explored if reach(row) <= limit]
  far = [row for row in explored if reach(row) > limit]
  return [rows for rows in (near, far) if rows]


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
    _label(arm),
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


def _label(arm: Arm) -> str:
  return safe.label(f'{arm.label} (n={len(arm.finished)})')
