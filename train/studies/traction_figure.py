"""The figure of the traction model, made from its record alone."""

from collections.abc import Sequence
import pathlib
from typing import Any

from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
import numpy as np

from train import pictures
from train.studies import marks
from train.studies import verdicts


def draw(
  record: dict[str, Any],
  claims: Sequence[dict[str, Any]],
  path: pathlib.Path,
) -> None:
  """Draws the paths in the valley, the movements and the differences.

  Args:
    record: From :func:`~train.studies.traction.measure`, or read from
      traction.json.
    claims: Its claims, from :func:`~train.studies.traction.judge`.
    path: The PNG file to write.
  """
  with pictures.drawing():
    figure = mpl_figure.Figure(figsize=(12, 9.5), layout='constrained')
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 1.15))
    valley, moving, bottom = (
      figure.add_subfigure(grid[place])
      for place in ((0, 0), (0, 1), (1, slice(None)))
    )
    _draw_paths(record, valley.subplots())
    _draw_movements(record, moving)
    _draw_gains(record, claims, bottom.subplots())
    settings = record['settings']
    figure.suptitle(
      'Figure 1 as a simulation:'
      f' {settings["seeds"]:,} seeds of {settings["steps"]:,} steps'
    )
    pictures.save(figure, path)


def _draw_paths(record: dict[str, Any], axis: mpl_axes.Axes) -> None:
  settings = record['settings']
  paths = {name: np.asarray(p) for name, p in record['paths'].items()}
  every = np.concatenate(list(paths.values()))
  low, high = every.min(0), every.max(0)
  margin = 0.1 * (high - low)
  # Leaves room for the legend above the highest point.
  top = high[0] + 4 * margin[0]
  q, s = np.meshgrid(
    np.linspace(low[0] - margin[0], top, 200),
    np.linspace(min(low[1], 0) - margin[1], high[1] + margin[1], 200),
    indexing='ij',
  )
  loss = (
    settings['quick_curvature'] * q**2 / 2
    + settings['slow_curvature'] * s**2 / 2
    + settings['coupling'] * q * s
  )
  axis.contour(
    s,
    q,
    loss,
    levels=np.linspace(0, 1, 9)[1:] ** 2 * loss.max(),
    colors='0.75',
    linewidths=0.8,
  )
  for i, (name, points) in enumerate(paths.items()):
    axis.plot(
      points[:, 1],
      points[:, 0],
      label=name,
      color=pictures.COLORS[i],
      linestyle=pictures.LINE_STYLES[i],
      linewidth=1.2,
    )
  axis.plot(0, 0, 'k+', markersize=12)
  axis.grid(False)
  axis.set_xlabel('slow weight $W_S$')
  axis.set_ylabel('quick weight $W_Q$')
  axis.set_title(
    f'First {len(every) // len(paths) - 1} steps of one seed; + is the optimum',
    fontsize=10,
  )
  axis.legend(
    title='LCAM, horizontal/vertical momentum',
    ncols=len(paths),
    loc='upper right',
    frameon=True,
    framealpha=1,
    edgecolor='white',
  )


def _draw_movements(record: dict[str, Any], panel: Any) -> None:
  arms = [
    arm
    for kind in ('LCAM', 'coin')
    for arm in record['arms']
    if arm['kind'] == kind and arm['coupled']
  ]
  labels = [
    f'{arm["kind"]}\n{verdicts.pair_name((arm["horizontal"], arm["vertical"]))}'
    for arm in arms
  ]
  axes = panel.subplots(len(verdicts.GROUPS), 1, sharex=True)
  for axis, group in zip(axes, verdicts.GROUPS, strict=True):
    for i, (phase, marker) in enumerate(
      (('horizontal', 'o'), ('vertical', 's'))
    ):
      values = [arm[f'{group}_movement_{phase}'] for arm in arms]
      marks.draw_intervals(
        axis, np.arange(len(arms)) + 0.2 * i - 0.1, values, phase, i, marker
      )
    axis.set_ylabel(f'{group} weight')
    axis.set_ylim(bottom=0)
  axes[0].set_title('rms movement of a step, by phase', fontsize=10)
  axes[0].legend(loc='lower left', ncols=2)
  axes[-1].set_xticks(range(len(arms)), labels, fontsize=8)


def _draw_gains(
  record: dict[str, Any],
  claims: Sequence[dict[str, Any]],
  axis: mpl_axes.Axes,
) -> None:
  rows = {}
  for compared in record['comparisons']:
    if compared['control'] == 'coin':
      (claim,) = [
        claim
        for claim in claims
        if (claim['pair'], claim.get('control')) == (compared['pair'], 'coin')
      ]
      for group in verdicts.GROUPS:
        figure = f'{group}_movement'
        label = f'{compared["pair"]}, {group} weight'
        if figure == claim['figure']:
          label += f'\n"{marks.typeset(claim["claim"])}"'
        rows[label] = [
          compared[figure]['coupled'],
          compared[figure]['uncoupled'],
        ]
  marks.draw_differences(axis, rows, ('coupled', 'not coupled'))
  axis.set_xlabel('movement relative to the random control (%)')
  axis.set_title(
    'Effect of choosing by the loss: mean with its own 95 % interval',
    fontsize=10,
  )
