"""Arms that lie on a grid of horizontal and vertical momenta."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json

import numpy as np

from train import experiments
from train.records import Arm
from train.records import Seeds
from train.report import statistics
from train.report import tables

_MOMENTA = ('horizontal_momentum', 'vertical_momentum')


@dataclasses.dataclass(frozen=True)
class Grid:
  """A full grid of arms that differ in their momenta alone."""

  cells: Mapping[tuple[float, float], Arm]
  """By horizontal and vertical momentum."""

  @property
  def is_of(self) -> str:
    """The experiment, or what the runs are called without one."""
    arm = next(iter(self.cells.values()))
    name = arm.runs[0].config.get('experiment') or arm.name.split(' ')[0]
    return experiments.without_momenta(name)


def find(arms: Iterable[Arm]) -> list[Grid]:
  """The grids among arms of LCAM that are no experiments of their own.

  Arms that do not fill a grid of at least two momenta each way are left out.
  """
  groups: dict[tuple[str, str], dict[tuple[float, float], Arm]] = {}
  for arm in arms:
    config = arm.runs[0].config
    name = config.get('experiment') or ''
    if not arm.has_phases or name in experiments.EXPERIMENTS:
      continue
    others = arm.runs[0].settings
    momenta = tuple(others.pop(momentum) for momentum in _MOMENTA)
    key = (
      experiments.without_momenta(name),
      json.dumps(others, sort_keys=True),
    )
    groups.setdefault(key, {})[momenta] = arm
  full = [_fill(cells) for cells in groups.values()]
  return [Grid(cells) for cells in full if cells]


def _fill(
  cells: dict[tuple[float, float], Arm],
) -> dict[tuple[float, float], Arm]:
  """A full grid in the cells: the emptiest row or column goes first."""
  while cells:
    lines = [
      (axis, value)
      for axis in (0, 1)
      for value in {pair[axis] for pair in cells}
    ]
    sizes = [len({pair[axis] for pair in cells}) for axis in (0, 1)]
    if min(sizes) < 2:
      return {}
    if len(cells) == sizes[0] * sizes[1]:
      break

    def share(line: tuple[int, float]) -> float:
      axis, value = line
      return sum(pair[axis] == value for pair in cells) / sizes[1 - axis]

    axis, value = min(lines, key=share)
    cells = {pair: arm for pair, arm in cells.items() if pair[axis] != value}
  return dict(sorted(cells.items()))


def comparisons_table(grid: Grid) -> str | None:
  """What the grid says about the momenta, over its seeds in pairs.

  Returns:
    Switching against fixed momentum, and which of two momenta is the horizontal
    one, each a mean over the cells; ``None`` where no seed has run in all of
    them, or no pair of momenta stands both ways round.
  """
  cells = {pair: arm.final_errors() for pair, arm in grid.cells.items()}
  higher = [
    (h, v)
    for h, v in cells
    if h > v and {(v, h), (h, h), (v, v)} <= cells.keys()
  ]
  seeds = set.intersection(*(set(errors) for errors in cells.values()))
  if not higher or not seeds:
    return None

  def mean(pairs: Sequence[tuple[float, float]]) -> dict[Seeds, float]:
    return {
      seed: float(np.mean([cells[pair][seed] for pair in pairs]))
      for seed in seeds
    }

  lower = [(v, h) for h, v in higher]
  fixed = [pair for h, v in higher for pair in ((h, h), (v, v))]
  contrasts = [
    ('the two momenta in turn − fixed at either', [*higher, *lower], fixed),
    ('larger horizontal − larger vertical momentum', higher, lower),
  ]
  compared = []
  for words, first, second in contrasts:
    comparison = statistics.compare_errors(mean(first), mean(second))
    assert comparison is not None
    compared.append((words, comparison))
  return tables.adjusted_table(compared)
