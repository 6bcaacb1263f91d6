"""The experiments have the settings that the papers describe."""

import ast
import dataclasses
import json
import pathlib

import numpy as np
import pytest

from train import config as config_lib
from train import errors
from train import experiments
from train.program import schedules


@pytest.mark.parametrize('name', sorted(experiments.EXPERIMENTS))
def test_every_experiment_is_valid(name):
  experiment = experiments.get(name)
  config = experiment.config
  if experiment.follows is not None:
    followed = experiment.follows.config
    assert followed.optimizer.removesuffix('-loss-controlled') == {
      'coin': 'lcam',
      'sgd': 'lcam',
      'adam-coin': 'adam',
      'adamw-coin': 'adamw',
    }.get(config.optimizer)
    for setting in ('horizontal_momentum', 'vertical_momentum'):
      if config.optimizer != 'sgd':
        assert getattr(config, setting) == getattr(followed, setting)
    assert getattr(config, experiment.takes.setting) in (None, 0.9)
  config_lib.check(experiment.planned)


def test_the_final_run_of_the_paper_on_cifar100():
  config = experiments.get('figure4-cifar100-lcam').config
  assert (config.depth, config.widen_factor) == (28, 10)
  assert (config.learning_rate, config.weight_decay) == (0.1, 5e-4)
  assert (config.horizontal_momentum, config.vertical_momentum) == (0.93, 0.9)
  assert (config.batch_size, config.decay_start) == (128, 30)
  assert config.decay_rate == 0.99985


@pytest.mark.parametrize('dataset', ['cifar10', 'cifar100'])
@pytest.mark.parametrize('size', ['', 'small-'])
def test_a_control_differs_only_in_the_momentum(dataset, size):
  arm, control = (
    config_lib.to_json(
      experiments.get(f'{size}figure4-{dataset}-{name}').config
    )
    for name in ('lcam', 'fixed-0.9')
  )
  different = {name for name in arm if arm[name] != control[name]}
  assert different <= {'optimizer', 'horizontal_momentum', 'vertical_momentum'}
  assert 'optimizer' in different


def test_figure_2_has_four_arms_and_figure_3_six():
  for figure, dataset, count in (('2', 'cifar10', 4), ('3', 'cifar100', 6)):
    arms = experiments.select(f'figure{figure}')
    assert len(arms) == count
    for arm in arms:
      assert arm.config.dataset == dataset
      assert arm.config.schedule == 'steps'
      assert arm.config.milestones == (30, 60, 90)


def test_the_decay_of_the_authors_starts_one_epoch_later():
  config = config_lib.resolve(
    experiments.get('authors-cifar10-lcam').config, 391
  )
  first = 31 * 391
  steps = (first - 1, first, first + 1)
  rates = schedules.learning_rates(config, 391, steps)
  expected = [0.1, 0.1 * 0.99985, 0.1 * 0.99985**2]
  np.testing.assert_allclose(rates, expected, rtol=1e-6)
  assert not config.inclusive
  assert (config.horizontal_momentum, config.vertical_momentum) == (0.9, 0.95)


@pytest.mark.parametrize(
  'name', [n for n in experiments.EXPERIMENTS if n.startswith('small-')]
)
def test_small_runs_keep_the_proportions(name):
  small = experiments.get(name).config
  full = experiments.get(name.removeprefix('small-')).config
  rates = [
    schedules.learning_rates(
      config_lib.resolve(config, steps),
      steps,
      [
        int(share * config.epochs * steps)
        for share in (0.0, 0.1, 0.25, 0.45, 0.65, 0.85, 0.95)
      ],
    )
    for config, images in ((small, 5_000), (full, 50_000))
    for steps in [-(-images // config.batch_size)]
  ]
  # With fewer steps the rates are coarser.
  np.testing.assert_allclose(rates[0], rates[1], rtol=0.2, atol=1e-6)


def test_select_finds_a_family_by_its_prefix():
  names = {arm.name for arm in experiments.select('small-figure2')}
  assert names == {
    f'small-figure2-{arm}'
    for arm in ('fixed-0.9', 'fixed-0.95', 'horizontal-0.95', 'vertical-0.95')
  }
  assert [e.name for e in experiments.select('digits-lcam')] == ['digits-lcam']


def test_a_misspelled_name_suggests_the_closest():
  with pytest.raises(errors.UsageError, match="Did you mean 'digits-lcam'"):
    experiments.get('digits-lcm')


def test_names_are_derived_from_fields():
  for name, experiment in experiments.EXPERIMENTS.items():
    assert experiment.name == experiment.folder == name
    assert experiments.select(experiment.group).count(experiment) == 1
  small = experiments.get('small-ablation-cifar10-coin')
  assert small.follows == experiments.get('small-figure4-cifar10-lcam')
  assert small.group == 'small-ablation'


def test_select_finds_a_group_and_a_data_set():
  found = experiments.select('small-figure4-cifar10')
  assert found
  assert {(e.group, e.dataset) for e in found} == {('small-figure4', 'cifar10')}


def test_changed_settings_make_another_experiment():
  paper = experiments.get('figure4-cifar100-lcam')
  changed = paper.change({'depth': 10, 'epochs': 3, 'widen_factor': 10})
  assert changed.name == 'figure4-cifar100-lcam + depth 10, epochs 3'
  assert changed.folder == 'figure4-cifar100-lcam+depth=10+epochs=3'
  assert changed.config.depth == 10
  # Seeds and settings of speed make no other experiment.
  assert paper.change({'seed': 3, 'eval_batch_size': 7}).name == paper.name


def test_a_control_of_a_changed_run_follows_the_changed_run():
  coin = experiments.get('small-ablation-cifar10-coin').change({'epochs': 3})
  assert coin.follows.name == 'small-figure4-cifar10-lcam + epochs 3'


def test_a_control_with_its_own_number_follows_nothing():
  coin = experiments.get('small-ablation-cifar10-coin')
  own = coin.change({'horizontal_probability': (0.5, 0.25)})
  assert own.follows is None
  assert own.name == f'{coin.name} + horizontal_probability 0.5 0.25'
  content = {**config_lib.to_json(own.config), **own.record()}
  content = json.loads(json.dumps(content))
  assert experiments.of_record(content) == own
  # A number from the followed run is no change.
  taken = dataclasses.replace(coin.config, horizontal_probability=(0.4,))
  content = {**config_lib.to_json(taken), **coin.record()}
  assert experiments.of_record(content) == coin


def test_settings_determine_the_experiment_of_a_record():
  paper = experiments.get('figure4-cifar100-lcam')

  def record(**settings):
    config = config_lib.resolve(
      dataclasses.replace(paper.config, **settings), 391
    )
    return {**config_lib.to_json(config), **paper.record()}

  assert experiments.of_record(record(seed=4)) == paper
  # The settings are not those of the named experiment.
  other = experiments.of_record(record(depth=10, epochs=3))
  assert other.name == 'figure4-cifar100-lcam + depth 10, epochs 3'
  # A setting that the experiment does not specify is read from the record.
  small = experiments.get('small-figure4-cifar10-lcam')
  changed = small.change({'decay_rate': 0.9})
  content = {**config_lib.to_json(changed.config), **changed.record()}
  assert experiments.of_record(content).name == changed.name
  assert experiments.of_record({'experiment': 'of my own'}) is None
  assert experiments.of_record({'experiment': None}) is None


def test_a_grid_has_every_combination():
  lcam = experiments.get('digits-lcam')
  arms = experiments.grid(
    lcam, {'horizontal_momentum': [0.93, 0.95], 'learning_rate': [0.05, 0.2]}
  )
  assert [arm.name for arm in arms] == [
    'digits-lcam + learning_rate 0.05',
    'digits-lcam + learning_rate 0.2',
    'digits-lcam + horizontal_momentum 0.95, learning_rate 0.05',
    'digits-lcam + horizontal_momentum 0.95, learning_rate 0.2',
  ]
  assert experiments.grid(lcam, {}) == [lcam]


class TestComparators:
  """The other methods of Table 1 have the settings of their papers."""

  @pytest.mark.parametrize('dataset', ['cifar10', 'cifar100'])
  def test_wrn_is_as_published(self, dataset):
    # Zagoruyko and Komodakis, 2016, section 3.
    config = experiments.get(f'table1-{dataset}-wrn').config
    assert (config.nesterov, config.padding) == (True, 'reflection')
    assert (config.optimizer, config.momentum) == ('sgd', 0.9)
    assert (config.learning_rate, config.weight_decay) == (0.1, 5e-4)
    assert config.epochs == 200
    assert config.milestones == (60, 120, 160)
    assert config.milestone_factor == 0.2

  @pytest.mark.parametrize('dataset', ['cifar10', 'cifar100'])
  def test_those_of_sgdr_are_as_published(self, dataset):
    # Loshchilov and Hutter, 2017, section 4.1 and Table 1.
    wrn, sgdr, cosine = (
      experiments.get(f'table1-{dataset}-{arm}')
      for arm in ('sgdr-wrn', 'sgdr', 'sgdr-cosine')
    )
    for experiment in (wrn, sgdr, cosine):
      config = experiment.config
      assert (config.nesterov, config.padding) == (False, 'zeros')
      assert (config.optimizer, config.momentum) == ('sgd', 0.9)
      assert config.epochs == 200
    assert wrn.config.learning_rate == 0.1
    assert wrn.config.milestones == (60, 120, 160)
    assert sgdr.config.learning_rate == cosine.config.learning_rate == 0.05
    assert cosine.config.schedule == 'cosine'
    assert sgdr.reads_off == 150
    # Restarts after 10, 30, 70 and 150 epochs reset the rate.
    resolved = config_lib.resolve(sgdr.config, 391)
    steps = [391 * epoch for epoch in (0, 10, 30, 70, 150)]
    rates = schedules.learning_rates(resolved, 391, steps)
    np.testing.assert_allclose(rates, 0.05, rtol=1e-6)
    before = schedules.learning_rates(resolved, 391, [s - 1 for s in steps[1:]])
    assert max(before) < 1e-4

  def test_figure_3_has_neither_fixed_093_nor_lcam(self):
    arms = {e.arm for e in experiments.members(experiments.PAPER, 'figure3')}
    assert arms & {'fixed-0.93', 'lcam'} == set()


def test_members_are_the_arms_of_a_scale_section_and_data_set():
  arms = experiments.members(experiments.MEDIUM, 'figure4', 'cifar10')
  assert {e.group for e in arms} == {'medium-figure4'}
  assert {e.config.dataset for e in arms} == {'cifar10'}
  assert experiments.find(experiments.MEDIUM, 'figure4', 'cifar10', 'lcam') in (
    arms
  )
  with pytest.raises(KeyError):
    experiments.find(experiments.MEDIUM, 'figure4', None, 'lcam')


_REPOSITORY = pathlib.Path(__file__).parents[2]


def _strings(path):
  """Every string of a file except docstrings, with its line."""
  tree = ast.parse(path.read_text('utf-8'))
  prose = {
    id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
  }
  return [
    (node.lineno, node.value)
    for node in ast.walk(tree)
    if isinstance(node, ast.Constant)
    and isinstance(node.value, str)
    and id(node) not in prose
  ]


def test_no_other_module_contains_a_part_of_a_name():
  """Only experiments.py builds and parses the names of experiments."""
  pieces = {
    *(f'{e.group}-' for e in experiments.EXPERIMENTS.values()),
    *(e.scale.prefix for e in experiments.EXPERIMENTS.values()),
  } - {''}
  files = sorted((_REPOSITORY / 'train').rglob('*.py'))
  files.append(_REPOSITORY / 'docs' / 'conf.py')
  assert len(files) > 40
  found = [
    f'{path.relative_to(_REPOSITORY)}:{line}: {text!r}'
    for path in files
    if path != _REPOSITORY / 'train' / 'experiments.py'
    for line, text in _strings(path)
    if any(piece in text for piece in pieces)
  ]
  assert found == []
