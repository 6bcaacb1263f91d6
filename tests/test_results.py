"""The committed results match the committed records."""

import inspect
import json
import pathlib
import runpy

import matplotlib.image
import numpy as np
import pytest

from train import records
from train import report
from train import studies
from train.report import preregistered
from train.studies import movement

_RESULTS = pathlib.Path(__file__).parents[1] / 'results'


@pytest.fixture(scope='module')
def committed():
  """All committed records."""
  return records.find([_RESULTS])


@pytest.fixture(scope='module')
def committed_arms(committed):
  return records.group_into_arms(committed.runs)


def test_the_report_matches_the_records(committed, tmp_path):
  text = report.write_found(committed, tmp_path, 'README.md')
  assert (_RESULTS / 'README.md').read_text('utf-8') == text
  made_json = (tmp_path / 'report.json').read_text('utf-8')
  assert (_RESULTS / 'report.json').read_text('utf-8') == made_json
  made = {path.name for path in tmp_path.glob('*.png')}
  assert made == {path.name for path in _RESULTS.glob('*.png')}
  for name in made:
    assert matplotlib.image.imread(_RESULTS / name).std() > 0.01


def test_each_difference_occurs_once():
  contrasts = json.loads((_RESULTS / 'report.json').read_text())['contrasts']
  # Pairs of arms, in any order.
  pairs = [(c['scale'], c['dataset'], c['name']) for c in contrasts]
  places = [(*place, frozenset(name.split(' − '))) for *place, name in pairs]
  assert len(places) == len(set(places)) > 50
  for contrast in contrasts:
    assert contrast['low'] < contrast['difference'] < contrast['high']
    is_inside = max(-contrast['low'], contrast['high']) < contrast['margin']
    if contrast['verdict'] == 'equivalent':
      assert is_inside
    if contrast['verdict'] == 'undecided':
      assert not is_inside and contrast['p'] >= 0.05


def test_only_preregistered_questions_have_a_verdict():
  contrasts = json.loads((_RESULTS / 'report.json').read_text())['contrasts']
  asked = {question.name for question in preregistered.QUESTIONS}
  for contrast in contrasts:
    if contrast['name'].split(':')[0] in asked:
      assert contrast['verdict'] != 'exploratory'
    else:
      assert (contrast['p'], contrast['verdict']) == (None, 'exploratory')


def test_the_simulated_movements_are_those_of_the_committed_record(committed):
  (simulated,) = (s.record for s in committed.studies if s.kind == 'traction')
  for pair, group in (('0.95/0.9', 'slow'), ('0.9/0.95', 'quick')):
    (found,) = (
      compared[f'{group}_movement']['coupled']
      for compared in simulated['comparisons']
      if (compared['pair'], compared['control']) == (pair, 'coin')
    )
    assert round(found['mean'], 1) == movement.SIMULATED[group]


def test_the_sentences_of_study_records_match_their_verdicts(committed):
  found = committed.studies
  assert {study.kind for study in found} == set(studies.STUDIES)
  for study in found:
    record = study.record
    if study.kind == 'batches':
      continue  # It has no verdicts, and its record has no sentences.
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
  found = [
    arm
    for arm in committed_arms
    if arm.name.startswith(f'{family}-') and any(r.seed < 5 for r in arm.runs)
  ]
  assert len(found) == arms
  for arm in found:
    assert len(arm.finished) >= seeds
    assert {run.seed for run in arm.finished} >= set(range(seeds))
    assert {run.config['git_commit'] for run in arm.runs} != {None}


@pytest.mark.parametrize('dataset', preregistered.DATASETS)
@pytest.mark.parametrize(
  ('scale', 'seeds'), [('small', range(5, 35)), ('medium', range(8))]
)
def test_a_stage_is_finished(committed_arms, scale, seeds, dataset):
  """As results/PREREGISTRATION.md writes it: the seeds of five arms."""
  finished = {arm.name: arm.finished for arm in committed_arms}
  for name in (
    f'{scale}-figure4-{dataset}-lcam',
    f'{scale}-figure4-{dataset}-fixed-0.9',
    f'{scale}-ablation-{dataset}-coin-by-epoch',
    f'{scale}-ablation-{dataset}-time-average',
    f'{scale}-ablation-{dataset}-swapped',
  ):
    runs = [run for run in finished[name] if run.seed >= seeds[0]]
    assert sorted(run.seed for run in runs) == list(seeds)
    # One version of the program.
    assert len({run.config['source_sha256'] for run in runs}) == 1


@pytest.mark.parametrize('dataset', preregistered.DATASETS)
def test_the_positive_control_is_finished(committed_arms, dataset):
  (control,) = [
    arm
    for arm in committed_arms
    if arm.name == f'medium-figure4-{dataset}-cosine-120'
  ]
  assert sorted(run.seed for run in control.finished) == [0, 1]


def _results_page():
  """docs/extensions/results_page.py, which is not in a package."""
  path = _RESULTS.parent / 'docs' / 'extensions' / 'results_page.py'
  return runpy.run_path(str(path))


def test_the_readme_matches_the_results():
  readme = (_RESULTS.parent / 'README.md').read_text('utf-8')
  results = (_RESULTS / 'README.md').read_text('utf-8')
  page = _results_page()
  assert page['with_results'](readme, results) == readme
  shown = readme.split('<!-- results -->')[1].split('<!-- /results -->')[0]
  rows = [line for line in shown.splitlines() if line.startswith('| ')]
  assert set(rows) <= set(results.splitlines())
  # A header, a line below it and six rows, of the stage that decides.
  assert len(rows) == 8
  assert rows[0].startswith('| medium (stage 1) ')


def test_the_verdict_is_that_of_the_preregistered_questions():
  page = _results_page()
  source = inspect.getsource(inspect.getmodule(report.write))
  # The report has these sections.
  assert page['_SECTION'] in source
  assert page['_SECTION_ON_THE_PHASE'] in source
  results = (
    '# Report\n\nA step is horizontal.\n\n![Other](other.png)\n\n'
    f'{page["_SECTION"]}\n\n![Plot](forest.png)\n\n'
    '| medium | points |\n| --- | --: |\n| P1 | +0.1 |\n\n'
    '| small | points |\n| --- | --: |\n| P1 | -0.2 |\n\n'
    'LCAM is undecided.\n\nP1 asks.\n\n'
    f'{page["_SECTION_ON_THE_PHASE"]}\n\nTwo networks agree.\n\n'
    'Does a phase say more?\n\n## The rest\n\nMore.\n'
  )
  assert page['verdict'](results) == 'LCAM is undecided.'
  readme = page['with_results'](
    'Top\n<!-- results -->\nold\n<!-- /results -->\nEnd\n', results
  )
  assert 'old' not in readme and 'More.' not in readme
  assert '![Plot](results/forest.png)' in readme
  assert '| P1 | +0.1 |' in readme and '| P1 | -0.2 |' not in readme
  assert 'Two networks agree.' in readme
  assert 'Does a phase say more?' not in readme


def test_the_pages_state_the_shares_of_the_phases(committed_arms):
  """In docs/choosing_momenta.md and docs/faq.md, for 35 seeds."""
  docs = _RESULTS.parent / 'docs'
  choosing = ' '.join((docs / 'choosing_momenta.md').read_text().split())
  faq = ' '.join((docs / 'faq.md').read_text().split())
  for dataset, title in (('cifar10', 'CIFAR-10'), ('cifar100', 'CIFAR-100')):
    (arm,) = [
      a for a in committed_arms if a.name == f'small-figure4-{dataset}-lcam'
    ]
    runs = arm.finished
    shares = np.mean(
      [[row['horizontal_fraction'] for row in run.rows] for run in runs], 0
    )
    assert len(runs) == 35
    assert f'{100 * shares[0]:.0f} %' in choosing
    low, high = shares[3:].min(), shares[3:].max()
    assert f'{100 * low:.0f} to {100 * high:.0f} % on {title}' in choosing
    low, high = shares[5:].min(), shares[5:].max()
    assert f'{100 * low:.0f} to {100 * high:.0f} % on {title}' in faq


def test_the_page_on_momenta_states_the_verdicts():
  """In docs/choosing_momenta.md: P3 in numbers, P1 in words."""
  page = (_RESULTS.parent / 'docs' / 'choosing_momenta.md').read_text()
  contrasts = json.loads((_RESULTS / 'report.json').read_text())['contrasts']
  found = {
    (c['name'].split(':')[0], c['scale'], c['dataset']): c for c in contrasts
  }
  words = []
  for scale, seeds in (('medium', 8), ('small', 30)):
    ten, hundred = (
      found['P1', scale, dataset]['verdict']
      for dataset in preregistered.DATASETS
    )
    words.append(
      f'{ten} on CIFAR-10 and {hundred} on CIFAR-100 at the {scale} scale'
      f' ({seeds} seeds)'
    )
  assert ', '.join(words) in ' '.join(page.split())
  for dataset, name in preregistered.DATASETS.items():
    shown = [
      f'{c["difference"]:+.2f} ({c["low"]:+.2f} to {c["high"]:+.2f})'
      for scale in ('medium', 'small')
      for c in [found['P3', scale, dataset]]
    ]
    (row,) = (line for line in page.splitlines() if f'| {name} |' in line)
    assert row.endswith(f'| {" | ".join(shown)} |')
