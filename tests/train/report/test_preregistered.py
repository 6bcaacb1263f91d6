"""The report answers the questions of results/PREREGISTRATION.md."""

import fractions
import itertools
import json
import math
import pathlib
import re
from unittest import mock

import matplotlib.image
import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import multitest

from tests.train.report import made
from train import experiments
from train import pictures as pictures_lib
from train import records
from train import report
from train import statistics
from train.report import preregistered

_TEXT = (
  pathlib.Path(__file__).parents[3] / 'results' / 'PREREGISTRATION.md'
).read_text('utf-8')
_PROSE = ' '.join(_TEXT.split())

_SMALL, _MEDIUM = preregistered.STAGES
_DATASETS = ('cifar10', 'cifar100')
# The columns of the arrays in these tests.
_ARMS = (
  ('figure4', 'lcam'),
  ('figure4', 'fixed-0.9'),
  ('ablation', 'coin-by-epoch'),
  ('ablation', 'time-average'),
  ('ablation', 'swapped'),
)
_WEIGHTS = {
  'P1': [1, -1, 0, 0, 0],
  'P2': [1, 0, -0.5, -0.5, 0],
  'P3': [1, 0, 0, 0, -1],
}


def _tables():
  """The tables of the file, as lists of rows of cells."""
  blocks = re.findall(r'(?:^\|.*\n)+', _TEXT, re.MULTILINE)
  return [
    [
      [cell.strip() for cell in line.strip('|').split('|')]
      for line in block.splitlines()
      if set(line) - set('|-: ')
    ]
    for block in blocks
  ]


class TestTheFile:
  def test_questions_and_weights(self):
    (rows,) = (table for table in _tables() if table[0][0] == 'question')
    assert rows[0] == ['question', 'contrast', 'arm', 'weight']
    written, asked = {}, {}
    for question, words, arm, weight in rows[1:]:
      place = tuple(arm.split(' '))
      written.setdefault(question, {})[place] = fractions.Fraction(weight)
      asked[question] = words or asked[question]
    assert written == {q.name: q.weights for q in preregistered.QUESTIONS}
    assert asked == {q.name: q.asked for q in preregistered.QUESTIONS}

  def test_stages(self):
    (rows,) = (table for table in _tables() if table[0][0] == 'stage')
    assert len(rows) == 1 + len(preregistered.STAGES)
    for row, stage in zip(rows[1:], preregistered.STAGES, strict=True):
      number, scale, network, images, epochs, seeds = row
      assert (int(number), scale) == (stage.number, stage.scale.name)
      first, *last = map(int, re.findall(r'\d+', seeds))
      assert first == stage.first_seed
      assert last == ([first + stage.planned - 1] if stage.planned else [])
      for dataset, place in itertools.product(_DATASETS, _ARMS):
        arm = preregistered.arm(stage.scale, dataset, place)
        config = arm.config
        assert network == f'WRN-{config.depth}-{config.widen_factor}'
        count, *size = re.findall(r'\d[\d,]*\d', images)
        assert int(count.replace(',', '')) == (config.train_examples or 50_000)
        assert size == 2 * [str(config.image_size or 32)]
        read_at = experiments.read_off_epoch(arm, config.epochs)
        assert epochs == f'{config.epochs}, {read_at}'

  def test_the_commands_run_the_arms_of_the_stages(self):
    commands = re.findall(r'```bash\n(.*?)```', _TEXT, re.DOTALL)
    flags = ('--seeds 30 --first-seed 5', f'--seeds {preregistered.LOOK_AFTER}')
    for stage, command, of_stage in zip(
      preregistered.STAGES, commands, flags, strict=True
    ):
      assert of_stage in command
      for dataset, place in itertools.product(_DATASETS, _ARMS):
        name = preregistered.arm(stage.scale, dataset, place).name
        assert name.replace(dataset, '$dataset') in command
    control = preregistered.arm(
      preregistered.STAGES[1].scale, 'cifar10', preregistered.POSITIVE_CONTROL
    ).name
    name = control.replace('cifar10', '$dataset')
    assert f'--seeds 2 --run-dir runs {name}' in commands[1]

  def test_the_arms_differ_only_in_the_momentum(self):
    momentum = {
      'optimizer', 'momentum', 'horizontal_momentum', 'vertical_momentum',
      'horizontal_probability',
    }  # fmt: skip
    for stage, dataset in itertools.product(preregistered.STAGES, _DATASETS):
      lcam, *others = (
        vars(preregistered.arm(stage.scale, dataset, place).config)
        for place in _ARMS
      )
      pair = lcam['horizontal_momentum'], lcam['vertical_momentum']
      assert pair == {'cifar10': (0.9, 0.95), 'cifar100': (0.93, 0.9)}[dataset]
      for other in others:
        assert {k for k in lcam if lcam[k] != other[k]} <= momentum
      swapped = others[-1]
      assert pair[::-1] == (
        swapped['horizontal_momentum'],
        swapped['vertical_momentum'],
      )

  def test_margin_and_family(self):
    (percent,) = re.findall(r'\*\*Margin\*\*: (\d+) % of min\(e, 100', _PROSE)
    assert int(percent) / 100 == statistics.RELATIVE_MARGIN
    assert 'the six contrasts of a stage' in _PROSE
    assert len(preregistered.QUESTIONS) * len(preregistered.DATASETS) == 6
    assert "p is Holm's at 5 %" in _PROSE and statistics.FAMILY_ERROR == 0.05

  def test_seeds_of_stage_1(self):
    rule = re.search(
      r'At least (\d+), planned are (\d+)\. The only look .* after (\w+) seeds'
      r'.* smallest number from (\d+) to (\d+) .* found with (\d+) %.*'
      r' and (\d+) where there is none',
      _PROSE,
    )
    least, planned, look, low, high, power, otherwise = rule.groups()
    assert int(least) == int(low) == preregistered.FEWEST
    assert int(high) == preregistered.MOST
    assert int(planned) == int(otherwise) == preregistered.OTHERWISE
    assert look == 'three' and preregistered.LOOK_AFTER == 3
    assert int(power) / 100 == statistics.POWER


def _errors(n, seed=0, level=(50.0, 85.0), shift=0.0, spread=0.5):
  """Errors with shape (n, arms) for each data set."""
  rng = np.random.default_rng(seed)
  found = {}
  for dataset, mean in zip(_DATASETS, level, strict=True):
    of_seed = rng.normal(0, 0.4, (n, 1))
    own = mean + of_seed + rng.normal(0, spread, (n, len(_ARMS)))
    own[:, 0] += shift
    found[dataset] = own.round(2)
  return found


def _arms(stage, errors, first_seed=None, without=(), diverged=()):
  """The arms of a stage.

  Args:
    stage: The stage.
    errors: From :func:`_errors`.
    first_seed: Default: that of the stage.
    without: Missing runs, as data set, arm and row.
    diverged: Diverged runs, in the same form.
  """
  first = stage.first_seed if first_seed is None else first_seed
  runs = [
    made.run(
      preregistered.arm(stage.scale, dataset, place),
      first + row,
      float(own[row, i]),
      'diverged' if (dataset, i, row) in diverged else 'done',
    )
    for dataset, own in errors.items()
    for i, place in enumerate(_ARMS)
    for row in range(len(own))
    if (dataset, i, row) not in without
  ]
  return records.group_into_arms(runs)


def _by_hand(errors):
  """The six contrasts of balanced designs from sums of squares."""
  found = {}
  for name, weights in _WEIGHTS.items():
    for dataset, own in errors.items():
      n, arms = own.shape
      residual = own - own.mean(0) - own.mean(1, keepdims=True) + own.mean()
      freedom = (n - 1) * (arms - 1)
      spread = math.sqrt((residual**2).sum() / freedom)
      difference = (own @ weights).mean()
      error = spread * math.sqrt(np.square(weights).sum() / n)
      p = 2 * stats.t.sf(abs(difference) / error, freedom)
      half = stats.t.isf(0.05 / 6 / 2, freedom) * error
      negative = np.minimum(weights, 0)
      control = (own.mean(0) @ negative) / negative.sum()
      margin = 0.02 * min(control, 100 - control)
      found[name, dataset] = [
        difference, difference - half, difference + half, p, margin,
      ]  # fmt: skip
  holm = multitest.multipletests([x[3] for x in found.values()], method='holm')
  for own, p in zip(found.values(), holm[1], strict=True):
    own[3] = p
  return found


def test_the_six_contrasts_equal_their_formulas():
  errors = _errors(30, shift=-0.8)
  answers = preregistered.answer(_SMALL, _arms(_SMALL, errors))
  assert answers.is_complete
  assert answers.done == {'cifar10': 30, 'cifar100': 30}
  expected = _by_hand(errors)
  assert answers.contrasts.keys() == expected.keys()
  for key, (difference, low, high, p, margin) in expected.items():
    entry = answers.contrasts[key].record()
    assert (entry['scale'], entry['dataset'], entry['n']) == (
      'small',
      key[1],
      30,
    )
    assert entry['name'].startswith(f'{key[0]}: ')
    assert entry['difference'] == pytest.approx(difference, abs=1e-4)
    assert entry['low'] == pytest.approx(low, abs=1e-4)
    assert entry['high'] == pytest.approx(high, abs=1e-4)
    assert entry['p'] == pytest.approx(p, rel=1e-2, abs=1e-12)
    assert entry['margin'] == pytest.approx(margin, abs=1e-4)
    assert entry['verdict'] == 'better'


def test_verdicts_follow_the_rule():
  for shift, spread, verdict in (
    (-0.8, 0.3, 'better'),
    (0.8, 0.3, 'worse'),
    (0.0, 0.02, 'equivalent'),
    (0.0, 3.0, 'undecided'),
  ):
    errors = _errors(30, shift=shift, spread=spread)
    answers = preregistered.answer(_SMALL, _arms(_SMALL, errors))
    found = [c.record()['verdict'] for c in answers.contrasts.values()]
    assert found.count(verdict) == 6, verdict


class TestSeeds:
  def test_seeds_of_earlier_runs_are_excluded(self):
    looked_at = _errors(5, seed=1, shift=-20)
    answers = preregistered.answer(
      _SMALL, _arms(_SMALL, looked_at, first_seed=0)
    )
    assert answers.done == {'cifar10': 0, 'cifar100': 0}
    assert answers.contrasts == answers.spreads == {}
    fresh = _errors(30)
    runs = [
      run
      for arms in (
        _arms(_SMALL, looked_at, first_seed=0),
        _arms(_SMALL, fresh),
        _arms(_SMALL, _errors(3, seed=2, shift=-20), first_seed=35),
      )
      for arm in arms
      for run in arm.runs
    ]
    answers = preregistered.answer(_SMALL, records.group_into_arms(runs))
    alone = preregistered.answer(_SMALL, _arms(_SMALL, fresh))
    assert answers == alone

  def test_a_seed_counts_if_all_five_arms_have_it(self):
    errors = _errors(12)
    # The last seed lacks an arm on one of the data sets.
    arms = _arms(_SMALL, errors, without={('cifar10', 4, 11)})
    answers = preregistered.answer(_SMALL, arms)
    assert answers.done == {'cifar10': 11, 'cifar100': 12}

  def test_there_is_no_verdict_before_the_planned_number(self):
    answers = preregistered.answer(_SMALL, _arms(_SMALL, _errors(29)))
    assert not answers.is_complete
    # Only the spread after three seeds is computed.
    assert answers.contrasts == answers.positive_control == {}
    first = {d: own[:3] for d, own in _errors(29).items()}
    looked_at = preregistered.answer(_SMALL, _arms(_SMALL, first))
    assert answers.spreads == looked_at.spreads
    two = {d: own[:2] for d, own in _errors(29).items()}
    assert preregistered.answer(_SMALL, _arms(_SMALL, two)).spreads == {}
    assert (
      'no verdict before the planned n: 29 of 30 seeds so far'
      in preregistered.conclusion([answers])
    )

  def test_a_diverged_run_is_excluded_from_its_contrasts(self):
    errors = _errors(30)
    arms = _arms(_SMALL, errors, diverged={('cifar100', 1, 7)})
    answers = preregistered.answer(_SMALL, arms)
    assert answers.is_complete
    assert answers.diverged == ['small-figure4-cifar100-fixed-0.9, seed 12']
    counts = {key: c.record()['n'] for key, c in answers.contrasts.items()}
    assert counts.pop(('P1', 'cifar100')) == 29
    assert set(counts.values()) == {30}
    kept = np.delete(errors['cifar100'], 7, 0)
    p1 = answers.contrasts['P1', 'cifar100'].judgement.estimate
    assert p1.difference == pytest.approx((kept[:, 0] - kept[:, 1]).mean())

  def test_runs_with_other_settings_belong_to_no_stage(self):
    lcam = preregistered.arm(_SMALL.scale, 'cifar10', _ARMS[0])
    changed = [
      made.run(lcam.change({'epochs': 14}), seed, 1.0) for seed in range(5, 9)
    ]
    assert (
      preregistered.answer(_SMALL, records.group_into_arms(changed)) is None
    )


class TestThePlanOfStage1:
  def test_eight_seeds_are_planned_before_the_look(self):
    arms = _arms(_MEDIUM, _errors(2, level=(12, 41)))
    assert preregistered.answer(_MEDIUM, arms).planned == 8

  @pytest.mark.parametrize('spread', [0.01, 0.12, 5.0])
  def test_the_plan_depends_on_the_first_three_seeds(self, spread):
    errors = _errors(6, level=(12.0, 41.0), spread=spread)
    planned = preregistered.answer(_MEDIUM, _arms(_MEDIUM, errors)).planned
    # The power of a t-test at 5 % / 6, from SciPy.
    needed = []
    for own in errors.values():
      own = own[:3]
      residual = own - own.mean(0) - own.mean(1, keepdims=True) + own.mean()
      sd = math.sqrt((residual**2).sum() / 8)
      control = own[:, 1].mean()
      for n in range(5, 13):
        freedom = 4 * (n - 1)
        shift = 0.02 * min(control, 100 - control) / (sd * math.sqrt(2 / n))
        critical = stats.t.isf(0.05 / 12, freedom)
        if stats.nct.sf(critical, freedom, shift) >= 0.8:
          needed.append(n)
          break
    assert planned == (max(needed) if len(needed) == 2 else 8)

  def test_later_seeds_do_not_change_the_plan(self):
    errors = _errors(12, level=(12, 41), spread=0.01)
    answers = preregistered.answer(_MEDIUM, _arms(_MEDIUM, errors))
    assert answers.planned == 5
    # Seeds beyond the plan do not count.
    assert answers.done == {'cifar10': 5, 'cifar100': 5}
    first = {dataset: own[:5] for dataset, own in errors.items()}
    assert answers == preregistered.answer(_MEDIUM, _arms(_MEDIUM, first))


def _report(tmp_path, arms, *, pictures=False):
  found = records.Found([r for arm in arms for r in arm.runs], [], [], [])
  if pictures:
    return report.write_found(found, tmp_path)
  with mock.patch.object(pictures_lib, 'save'):  # It takes most of the time.
    return report.write_found(found, tmp_path)


def test_the_report_starts_with_the_six_lines(tmp_path):
  small = _arms(_SMALL, _errors(30, shift=0.6))
  medium = _arms(_MEDIUM, _errors(2, level=(12, 41)))
  text = _report(tmp_path, [*small, *medium], pictures=True)
  _, first, *_ = text.split('\n## ')
  heading, *lead = first.splitlines()
  assert heading == 'Preregistered questions'
  lines = [line for line in lead if line.startswith('| CIFAR-')]
  expected = [
    f'{name}, P{number}: '
    for number in (1, 2, 3)
    for name in ('CIFAR-10', 'CIFAR-100')
  ]
  # One table for each stage; the stage that decides is first.
  for i, (line, begin) in enumerate(zip(lines, 2 * expected, strict=True)):
    cells = [cell.strip() for cell in line.strip('|').split('|')]
    assert cells[0].startswith(begin)
    if i < 6:
      assert cells[1:] == ['2 of 8', *['–'] * 6]
    else:
      assert cells[1] == '30' and cells[7].startswith('worse')
  heads = [line.split()[1:4] for line in lead if ' (stage ' in line[:20]]
  assert heads == [['medium', '(stage', '1)'], ['small', '(stage', '0)']]
  assert '2 of 8 seeds so far' in text
  picture = matplotlib.image.imread(tmp_path / 'preregistered.png')[..., :3]
  assert (picture.min(-1) < 0.5).mean() > 0.005


def test_nothing_else_has_a_verdict(tmp_path):
  text = _report(tmp_path, _arms(_SMALL, _errors(30, shift=0.6)))
  written = json.loads((tmp_path / 'report.json').read_text())['contrasts']
  assert {entry['verdict'] for entry in written[:6]} == {'worse'}
  assert {entry['verdict'] for entry in written[6:]} == {'exploratory'}
  # Each comparison occurs once.
  assert 'small-figure4-cifar10-lcam − small-figure4-cifar10-fixed' not in text
  judged = [
    line for line in text.splitlines() if '| ' in line and 'worse' in line
  ]
  assert len(judged) == 6


class TestTheDecision:
  def _say(self, **shifts):
    errors = _errors(5, level=(12.0, 41.0), spread=0.01)
    for own in errors.values():
      for i, shift in shifts.items():
        own[:, int(i[1])] += shift
    answers = preregistered.answer(_MEDIUM, _arms(_MEDIUM, errors))
    assert answers.is_complete
    return preregistered.conclusion([answers])

  def test_only_stage_1_decides_on_the_paper(self):
    errors = _errors(30, shift=-5.0, spread=0.01)
    small = preregistered.answer(_SMALL, _arms(_SMALL, errors))
    said = preregistered.conclusion([small])
    assert 'a fixed momentum of 0.9, better on both data sets;' in said
    assert 'LCAM is better' not in said
    assert 'test error of 50 % on CIFAR-10 and 85 % on CIFAR-100' in said
    assert 'taken from stage 1, the medium scale, which is not complete' in said
    few = _arms(_MEDIUM, _errors(2, level=(12, 41)))
    medium = preregistered.answer(_MEDIUM, few)
    said = preregistered.conclusion([medium, small])
    assert 'LCAM is better' not in said
    assert 'taken from stage 1, the medium scale, which is not complete' in said

  def test_the_report_starts_with_the_decision_of_stage_1(self, tmp_path):
    small = _arms(_SMALL, _errors(30, shift=-5.0, spread=0.01))
    errors = _errors(5, level=(12.0, 41.0), spread=0.01)
    text = _report(tmp_path, [*small, *_arms(_MEDIUM, errors)])
    (said,) = (
      line for line in text.splitlines() if line.startswith('The verdict on')
    )
    assert said.startswith(
      'The verdict on the paper is taken from the medium scale (stage 1): it is'
      ' not shown that LCAM is better than a fixed momentum of 0.9 on both data'
      ' sets. In detail, with 5 seeds, '
    )
    _, of_small, *_ = text[text.index(said) :].split('\n\n')
    assert of_small.startswith('At the small scale (stage 0), with 30 seeds, ')
    assert text.count('verdict on the paper') == 1

  def test_better_needs_both_data_sets_and_a_reason_needs_its_contrast(self):
    all_worse = self._say(_1=1.0, _2=1.0, _3=1.0, _4=1.0)
    assert 'not complete' not in all_worse
    assert 'LCAM is better than a fixed momentum of 0.9' in all_worse
    assert 'because of the loss and of the phase.' in all_worse
    only_p1 = self._say(_1=1.0)
    assert 'LCAM is better than a fixed momentum' in only_p1
    assert 'because' not in only_p1
    neither = self._say(_1=-1.0)
    assert neither.count('LCAM is better') == 1
    assert 'it is not shown that LCAM is better' in neither
    assert 'worse on both data sets' in neither

  def test_verdicts_that_differ_are_named_by_data_set(self):
    errors = _errors(5, level=(12.0, 41.0), spread=0.01)
    errors['cifar10'][:, 1] += 1.0
    answers = preregistered.answer(_MEDIUM, _arms(_MEDIUM, errors))
    said = preregistered.conclusion([answers])
    assert (
      'a fixed momentum of 0.9, better on CIFAR-10 and equivalent on CIFAR-100;'
    ) in said


class TestWhatP3LeavesOpen:
  def test_the_phase_and_the_means_of_both_arms(self, tmp_path):
    errors = _errors(30)
    for own, shift in zip(errors.values(), (0.7, -0.4), strict=True):
      own[:, 4] += shift
    text = _report(tmp_path, _arms(_SMALL, errors))
    # LCAM accelerates the vertical phase on CIFAR-10, the horizontal on
    # CIFAR-100.
    turned = [
      (own[:, 4] - own[:, 0]).mean() * sign
      for own, sign in zip(errors.values(), (1, -1), strict=True)
    ]
    assert (
      f'vertical momentum is {turned[0]:+.2f} points on CIFAR-10 and'
      f' {turned[1]:+.2f} points on CIFAR-100'
    ) in text
    # 0.89 and a hundredth of the vertical momentum, and the mean of 0.002 to
    # 0.024.
    assert (
      'swapped: 0.9125 and 0.9120 on CIFAR-10; 0.9120 and 0.9123 on CIFAR-100'
    ) in text
    assert 'The small scale (stage 0), exploratory: if P3' in text
    row = ['ablation swapped']
    for own, momentum in zip(
      errors.values(), ('0.9120', '0.9123'), strict=True
    ):
      row += [f'{own[:, 4].mean():.2f}', momentum]
    table = [
      [cell.strip() for cell in line.strip('|').split('|')]
      for line in text.splitlines()
      if line.startswith('| ')
    ]
    assert row in table
    # 300 runs of 15 epochs of 2.4 seconds.
    assert 'The runs took 3.0 hours in sum' in text

  def test_only_seeds_with_all_five_errors_are_shown(self):
    errors = _errors(30)
    arms = _arms(_SMALL, errors, diverged={('cifar100', 1, 7)})
    lcam = preregistered.arm(_SMALL.scale, 'cifar100', _ARMS[0])
    # With other seeds, it belongs to no stage.
    other = made.run(lcam, 8, 99.0)
    other.config['init_seed'] = 999
    runs = [run for arm in arms for run in arm.runs]
    answers = preregistered.answer(
      _SMALL, records.group_into_arms([*runs, other])
    )
    kept = np.delete(errors['cifar100'], 7, 0).mean(0)
    for place, error in zip(_ARMS, kept, strict=True):
      found = answers.arms[place, 'cifar100']
      assert found.error == pytest.approx(error)
    # 36 seconds each.
    assert answers.hours == pytest.approx((5 * 30 + 5 * 29) / 100)

  def test_records_without_momentum_and_seconds(self, tmp_path):
    arms = _arms(_SMALL, _errors(30))
    for arm in arms:
      for run in arm.runs:
        for row in run.rows:
          del row['mean_momentum'], row['seconds']
    text = _report(tmp_path, arms)
    assert 'P3 is turned' in text and 'nan' not in text
    assert 'hours in sum' not in text

  def test_there_is_nothing_before_the_stage_is_complete(self, tmp_path):
    text = _report(tmp_path, _arms(_SMALL, _errors(29)))
    assert 'P3 is turned' not in text and 'ablation swapped  ' not in text
