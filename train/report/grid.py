"""Arms that lie on a grid of horizontal and vertical momenta."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json

from train import experiments
from train.records import Arm
from train.report import contrasts

_MOMENTA = ('horizontal_momentum', 'vertical_momentum')


@dataclasses.dataclass(frozen=True)
class Grid:
  """A full grid of arms that differ in their momenta alone."""

  cells: Mapping[tuple[float, float], Arm]
  """By horizontal and vertical momentum."""

  @property
  def is_of(self) -> str:
    """The name of the experiment, or of the runs without one."""
    return _title(next(iter(self.cells.values())))


def find(arms: Iterable[Arm]) -> list[Grid]:
  """Finds the grids among the arms of LCAM that are not registered experiments.

  Arms outside a full grid of at least two momenta in each phase are left out.
  """
  groups: dict[tuple[str, str], dict[tuple[float, float], Arm]] = {}
  for arm in arms:
    experiment = experiments.of_record(arm.runs[0].config)
    is_registered = experiment is not None and not experiment.changes
    if not arm.has_phases or is_registered:
      continue
    others = arm.runs[0].settings
    momenta = tuple(others.pop(momentum) for momentum in _MOMENTA)
    key = (_title(arm), json.dumps(others, sort_keys=True))
    groups.setdefault(key, {})[momenta] = arm
  full = [_fill(cells) for cells in groups.values()]
  return [Grid(cells) for cells in full if cells]


def _title(arm: Arm) -> str:
  config = arm.runs[0].config
  experiment = experiments.of_record(config)
  if experiment is not None:
    return experiment.unchanged
  return f'{config["dataset"]}-{config["optimizer"]}'


def _fill(
  cells: dict[tuple[float, float], Arm],
) -> dict[tuple[float, float], Arm]:
  """Reduces cells to a full grid, removing the emptiest rows and columns."""
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


def questions(grid: Grid) -> list[contrasts.Question]:
  """The questions that a grid can answer, each a mean over its pairs.

  Returns:
    Switching minus fixed momentum, and larger horizontal minus larger vertical
    momentum; empty if no two momenta are in the grid in both orders.
  """
  cells = grid.cells
  higher = [
    (h, v)
    for h, v in cells
    if h > v and {(v, h), (h, h), (v, v)} <= cells.keys()
  ]
  if not higher:
    return []
  lower = [(v, h) for h, v in higher]
  fixed = [pair for h, v in higher for pair in ((h, h), (v, v))]

  def ask(
    words: str,
    first: Sequence[tuple[float, float]],
    second: Sequence[tuple[float, float]],
  ) -> contrasts.Question:
    weights: dict[str, float] = {}
    for pairs, sign in ((first, 1), (second, -1)):
      for pair in pairs:
        name = cells[pair].name
        weights[name] = weights.get(name, 0.0) + sign / len(pairs)
    return contrasts.Question(words, weights)

  return [
    ask('switching momentum − fixed momentum', [*higher, *lower], fixed),
    ask('larger horizontal − larger vertical momentum', higher, lower),
  ]
