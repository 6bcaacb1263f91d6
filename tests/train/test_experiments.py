"""The experiments are what the paper says they are."""

import dataclasses
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
    config = dataclasses.replace(config, follow_run=pathlib.Path('a run'))
  config_lib.check(config)


def test_the_papers_final_run_on_cifar100():
  config = experiments.get('figure4-cifar100-lcam').config
  assert (config.depth, config.widen_factor) == (28, 10)
  assert (config.learning_rate, config.weight_decay) == (0.1, 5e-4)
  assert (config.horizontal_momentum, config.vertical_momentum) == (0.93, 0.9)
  assert (config.batch_size, config.decay_start) == (128, 30)
  assert config.decay_rate == 0.99985


@pytest.mark.parametrize('dataset', ['cifar10', 'cifar100'])
@pytest.mark.parametrize('size', ['', 'small-'])
def test_a_control_differs_in_the_momentum_alone(dataset, size):
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


def test_the_authors_decay_starts_an_epoch_later_and_before_the_step():
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
  # The small steps are coarser.
  np.testing.assert_allclose(rates[0], rates[1], rtol=0.2, atol=1e-6)


def test_a_family_is_chosen_by_what_its_names_begin_with():
  names = {arm.name for arm in experiments.select('small-figure2')}
  assert names == {
    f'small-figure2-{arm}'
    for arm in ('fixed-0.9', 'fixed-0.95', 'horizontal-0.95', 'vertical-0.95')
  }
  assert [e.name for e in experiments.select('digits-lcam')] == ['digits-lcam']


def test_a_misspelt_name_gets_the_nearest():
  with pytest.raises(errors.UsageError, match="Did you mean 'digits-lcam'"):
    experiments.get('digits-lcm')
