"""The experiments are what the paper says they are."""

import pytest

from train import config as config_lib
from train import errors
from train import experiments


@pytest.mark.parametrize('name', sorted(experiments.EXPERIMENTS))
def test_every_experiment_is_valid(name):
  config_lib.check(experiments.get(name).config)


def test_the_papers_final_run_on_cifar100():
  config = experiments.get('figure4-cifar100-lcam').config
  assert (config.depth, config.widen_factor) == (28, 10)
  assert (config.learning_rate, config.weight_decay) == (0.1, 5e-4)
  assert (config.horizontal_momentum, config.vertical_momentum) == (0.93, 0.9)
  assert (config.batch_size, config.decay_start) == (128, 30)
  assert config.decay_rate == 0.99985


@pytest.mark.parametrize('dataset', ['cifar10', 'cifar100'])
def test_a_control_differs_in_the_optimizer_alone(dataset):
  arm = config_lib.to_json(experiments.get(f'figure4-{dataset}-lcam').config)
  control = config_lib.to_json(
    experiments.get(f'figure4-{dataset}-fixed').config
  )
  different = {name for name in arm if arm[name] != control[name]}
  assert different <= {'optimizer', 'horizontal_momentum', 'vertical_momentum'}
  assert 'optimizer' in different


def test_a_misspelt_name_gets_the_nearest():
  with pytest.raises(errors.UsageError, match="Did you mean 'digits-lcam'"):
    experiments.get('digits-lcm')
