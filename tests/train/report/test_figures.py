"""What the figures of a report show: figures of the records, by hand."""

import types

import matplotlib.figure
import numpy as np
import pytest

from tests.train.report import made
from train import experiments
from train import pictures
from train import records
from train import statistics
from train.report import figures
from train.report import preregistered

_LCAM, _FIXED, _OTHER = (
  experiments.find(experiments.SMALL, 'figure4', 'cifar10', arm)
  for arm in ('lcam', 'fixed-0.9', 'fixed-0.93')
)
# Seed 0 is easy. By seed, at the reported epoch.
_ERRORS = {
  _LCAM: {0: 40.0, 1: 50.0, 2: 51.0},
  _FIXED: {0: 41.0, 1: 50.0, 2: 53.0},
  _OTHER: {0: 42.0},
}


def _arms():
  runs = [
    made.run(experiment, seed, error)
    for experiment, of_seeds in _ERRORS.items()
    for seed, error in of_seeds.items()
  ]
  return {arm.experiment: arm for arm in records.group_into_arms(runs)}


def _drawn(monkeypatch, draw):
  """The axes of the figure that ``draw`` saves."""
  saved = []
  monkeypatch.setattr(pictures, 'save', lambda figure, _: saved.append(figure))
  draw()
  (figure,) = saved
  assert isinstance(figure, matplotlib.figure.Figure)
  return figure.axes


def _curves(axis):
  """Error at the reported epoch by label."""
  read_at = _LCAM.reads_off
  return {
    line.get_label(): line.get_ydata()[list(line.get_xdata()).index(read_at)]
    for line in axis.get_lines()
  }


def test_curves_are_adjusted_for_the_seeds(monkeypatch):
  arms = _arms()
  panel = figures.Curves(list(arms.values()), arms[_FIXED])
  axes = _drawn(
    monkeypatch, lambda: figures.draw_errors({'Figure 4': panel}, None)
  )
  control = np.mean([41, 50, 53])
  # The mean of 42 alone would be far below the control.
  assert _curves(axes[0]) == {
    'lcam (n=3)': pytest.approx(control - 1),
    'fixed-0.9 (n=3)': pytest.approx(control),
    'fixed-0.93 (n=1)': pytest.approx(control + 1),
  }


def test_a_curve_without_common_seeds_says_so(monkeypatch):
  arms = _arms()
  control = records.group_into_arms([made.run(_FIXED, 9, 60.0)])[0]
  panel = figures.Curves([arms[_LCAM], control], control)
  axes = _drawn(
    monkeypatch, lambda: figures.draw_errors({'Figure 4': panel}, None)
  )
  assert _curves(axes[0]) == {
    'lcam (n=3, own mean)': pytest.approx(47),
    'fixed-0.9 (n=1)': pytest.approx(60),
  }


def test_without_a_control_curves_are_means(monkeypatch):
  arms = _arms()
  panel = figures.Curves([arms[_LCAM], arms[_OTHER]], None)
  whole, _ = _drawn(
    monkeypatch, lambda: figures.draw_errors({'Figure 4': panel}, None)
  )
  assert _curves(whole) == {
    'lcam (n=3)': pytest.approx(47),
    'fixed-0.93 (n=1)': pytest.approx(42),
  }


@pytest.mark.parametrize('is_asked', [True, False])
def test_preregistered_differences_are_not_repeated(monkeypatch, is_asked):
  arms = _arms()
  asked = frozenset([arms[_LCAM].name]) if is_asked else frozenset()
  panel = figures.Curves(list(arms.values()), arms[_FIXED], asked)
  *_, differences = _drawn(
    monkeypatch, lambda: figures.draw_errors({'Figure 4': panel}, None)
  )
  labels = [label.get_text() for label in differences.get_yticklabels()]
  own = [] if is_asked else ['lcam (n=3)']
  assert labels == [*own, 'fixed-0.93 (n=1)']


def test_no_room_is_left_where_no_differences_are_shown(monkeypatch):
  arms = _arms()
  lcam, control = arms[_LCAM], arms[_FIXED]
  asked = figures.Curves([lcam, control], control, frozenset([lcam.name]))
  not_asked = figures.Curves([lcam, control], control)
  axes = _drawn(
    monkeypatch,
    lambda: figures.draw_errors({'a': asked, 'b': not_asked, 'c': asked}, None),
  )
  assert len(axes) == 7
  figure = axes[0].figure
  figure.draw_without_rendering()
  boxes = [axis.get_tightbbox().bounds for axis in axes]
  used = sorted((low, low + height) for _, low, _, height in boxes)
  tops = np.maximum.accumulate([top for _, top in used])
  gaps = [low - top for (low, _), top in zip(used[1:], tops, strict=False)]
  assert max(gaps) < 0.3 * figure.dpi


def test_large_differences_do_not_flatten_the_others(monkeypatch):
  judged = statistics.judge(
    [
      statistics.Estimate(3, difference, 0.1, 10, 1.0)
      for difference in (0.2, 9.0, -0.3, 0.1)
    ]
  )
  claims = [types.SimpleNamespace(words=f'claim {i}') for i in range(4)]
  near, far = _drawn(
    monkeypatch,
    lambda: figures.draw_claims(list(zip(claims, judged, strict=True)), None),
  )
  for axis, words in (
    (near, ['claim 0 (n=3)', 'claim 2 (n=3)', 'claim 3 (n=3)']),
    (far, ['claim 1 (n=3)']),
  ):
    assert [x.get_text() for x in axis.get_yticklabels()] == words
  assert near.get_xlim()[1] < 2 < far.get_xlim()[1]


def test_the_gap_of_the_paper_is_shown_where_the_paper_has_one(monkeypatch):
  errors = np.random.default_rng(0).normal(50, 0.5, (30, 5))
  stage = preregistered.STAGES[0]
  runs = [
    made.run(preregistered.arm(stage.scale, dataset, place), 5 + seed, error)
    for dataset in preregistered.DATASETS
    for seed, of_seed in enumerate(errors)
    for place, error in zip(preregistered.ARMS, of_seed, strict=True)
  ]
  answers = preregistered.answer(stage, records.group_into_arms(runs))
  assert answers is not None
  (axis,) = _drawn(
    monkeypatch, lambda: figures.draw_preregistered([answers], None)
  )
  ticks = [
    (line.get_xdata()[0], float(np.mean(line.get_ydata())))
    for line in axis.get_lines()
    if 'Table 1' in str(line.get_label())
  ]
  # Table 1: 3.98 / 19.22, 4.03 / 19.58 and 4.00 / 19.25.
  assert ticks == [
    (pytest.approx(gap), row)
    for row, gaps in ((0.0, (-0.05, -0.02)), (-1.0, (-0.36, -0.03)))
    for gap in gaps
  ]
