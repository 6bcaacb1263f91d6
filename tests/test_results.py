"""The committed results are what the program makes of the committed records."""

import pathlib

import matplotlib.image
import pytest

from train import report
from train.report import records

_RESULTS = pathlib.Path(__file__).parents[1] / 'results'


@pytest.fixture(scope='module')
def committed():
  """The arms of all committed records."""
  return records.group_into_arms(records.find_runs([_RESULTS]))


def test_the_report_is_what_the_program_makes(tmp_path):
  text = report.write([_RESULTS], tmp_path, 'README.md')
  assert (_RESULTS / 'README.md').read_text() == text
  made = {path.name for path in tmp_path.glob('*.png')}
  assert made == {path.name for path in _RESULTS.glob('*.png')}
  for name in made:
    assert matplotlib.image.imread(_RESULTS / name).std() > 0.01


@pytest.mark.parametrize(
  ('family', 'arms', 'seeds'),
  [
    ('small-figure2', 4, 3),
    ('small-figure3', 6, 3),
    ('small-figure4', 12, 5),
    ('small-table1', 4, 5),
    ('small-ablation', 18, 3),
    ('small-authors', 2, 3),
    ('small-adaptive', 8, 3),
  ],
)
def test_every_arm_is_finished(committed, family, arms, seeds):
  found = [arm for arm in committed if arm.name.startswith(f'{family}-')]
  assert len(found) == arms
  for arm in found:
    assert len(arm.finished) >= seeds
    assert {run.seed for run in arm.finished} >= set(range(seeds))
    assert {run.config['git_commit'] for run in arm.runs} != {None}


def test_the_readme_says_what_the_results_say():
  readme = (_RESULTS.parent / 'README.md').read_text().splitlines()
  shown = [line for line in readme if line.startswith('| CIFAR-')]
  assert len(shown) == 10
  assert set(shown) <= set((_RESULTS / 'README.md').read_text().splitlines())
