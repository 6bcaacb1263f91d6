"""The committed results are what the program makes of the committed records."""

import json
import pathlib

import matplotlib.image
import pytest

from train import records
from train import report
from train import studies

_RESULTS = pathlib.Path(__file__).parents[1] / 'results'


@pytest.fixture(scope='module')
def committed():
  """All committed records."""
  return records.find([_RESULTS])


@pytest.fixture(scope='module')
def committed_arms(committed):
  return records.group_into_arms(committed.runs)


def test_the_report_is_what_the_program_makes(committed, tmp_path):
  text = report.write_found(committed, tmp_path, 'README.md')
  assert (_RESULTS / 'README.md').read_text('utf-8') == text
  made_json = (tmp_path / 'report.json').read_text('utf-8')
  assert (_RESULTS / 'report.json').read_text('utf-8') == made_json
  made = {path.name for path in tmp_path.glob('*.png')}
  assert made == {path.name for path in _RESULTS.glob('*.png')}
  for name in made:
    assert matplotlib.image.imread(_RESULTS / name).std() > 0.01


def test_a_difference_stands_in_one_place():
  contrasts = json.loads((_RESULTS / 'report.json').read_text())['contrasts']
  # Of arms, by what is compared: not once more the other way round.
  pairs = [frozenset(c['name'].split(' − ')) for c in contrasts]
  assert len(pairs) == len(set(pairs)) > 50
  for contrast in contrasts:
    assert contrast['low'] < contrast['difference'] < contrast['high']
    is_inside = max(-contrast['low'], contrast['high']) < contrast['margin']
    if contrast['verdict'] == 'equivalent':
      assert is_inside
    if contrast['verdict'] == 'undecided':
      assert not is_inside and contrast['p'] >= 0.05


def test_the_records_of_studies_say_what_they_are_judged_to(committed):
  found = committed.studies
  assert {study.kind for study in found} == set(studies.STUDIES)
  for study in found:
    record = study.record
    said = [claim['sentence'] for claim in record.get('claims', ())]
    assert (said or [record['sentence']]) == (
      studies.STUDIES[study.kind].load().sentences(record)
    )


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
def test_every_arm_is_finished(committed_arms, family, arms, seeds):
  found = [arm for arm in committed_arms if arm.name.startswith(f'{family}-')]
  assert len(found) == arms
  for arm in found:
    assert len(arm.finished) >= seeds
    assert {run.seed for run in arm.finished} >= set(range(seeds))
    assert {run.config['git_commit'] for run in arm.runs} != {None}


def test_the_readme_says_what_the_results_say():
  readme = (_RESULTS.parent / 'README.md').read_text('utf-8').splitlines()
  shown = [line for line in readme if line.startswith('| CIFAR-')]
  assert len(shown) == 10
  assert set(shown) <= set(
    (_RESULTS / 'README.md').read_text('utf-8').splitlines()
  )
