"""Settings: what is refused, and what is filled in."""

import dataclasses
import pathlib

import numpy as np
import pytest

from train import config as config_lib
from train import errors


@pytest.mark.parametrize(
  ('name', 'given', 'allowed'),
  [
    ('depth', 12, '6n + 4'),
    ('depth', 4, '6n + 4'),
    ('widen_factor', 0, 'at least 1'),
    ('normalization', 'imagenet', 'one channel'),
    ('epochs', 0, 'at least 1'),
    ('batch_size', -1, 'at least 1'),
    ('eval_batch_size', 0, 'at least 1'),
    ('train_examples', 0, 'at least 1'),
    ('steps_per_dispatch', 0, 'at least 1'),
    ('checkpoint_every', 0, 'at least 1'),
    ('horizontal_momentum', 1.0, '[0, 1)'),
    ('vertical_momentum', -0.1, '[0, 1)'),
    ('initial_momentum', float('nan'), '[0, 1)'),
    ('momentum', 2.0, '[0, 1)'),
    ('loss_decay', 1.0, '(0, 1)'),
    ('dropout_rate', 1.0, '[0, 1)'),
    ('learning_rate', 0.0, 'above 0'),
    ('learning_rate', float('inf'), 'above 0'),
    ('weight_decay', -1e-4, 'at least 0'),
    ('decay_start', -1.0, 'at least 0'),
    ('decay_rate', 1.5, '(0, 1]'),
    ('milestone_factor', 0.0, '(0, 1]'),
    ('milestones', (60.0, 30.0), 'increasing'),
    ('cycle_epochs', 0.0, 'above 0'),
    ('seed', -1, '4294967295'),
    ('order_seed', 2**32, '4294967295'),
  ],
)
def test_out_of_range_is_named(name, given, allowed):
  config = dataclasses.replace(config_lib.Config(), **{name: given})
  with pytest.raises(errors.UsageError) as caught:
    config_lib.check(config)
  message = str(caught.value)
  assert '--' + name.replace('_', '-') in message
  assert str(given) in message
  assert allowed in message
  assert '\n' not in message


def test_one_cycle_needs_epochs_to_descend():
  config = config_lib.Config(schedule='one-cycle', epochs=5, warmup_epochs=5.0)
  with pytest.raises(errors.UsageError, match=r'--warmup-epochs.*--epochs 5'):
    config_lib.check(config)


def test_defaults_pass():
  config_lib.check(config_lib.Config())


def test_default_decay_is_the_papers_at_the_papers_length():
  resolved = config_lib.resolve(config_lib.Config(epochs=150), 391)
  assert resolved.decay_start == 30
  np.testing.assert_allclose(resolved.decay_rate, 0.99985, rtol=1e-12)
  assert resolved.milestones == (30, 60, 90)


def test_a_short_run_ends_at_the_papers_final_rate():
  short = config_lib.resolve(config_lib.Config(epochs=10), 40)
  ratio = short.decay_rate ** (8 * 40)
  np.testing.assert_allclose(ratio, 0.99985 ** (120 * 391), rtol=1e-9)


def test_one_seed_becomes_four():
  config = config_lib.Config(seed=5, order_seed=7)
  resolved = config_lib.resolve(config, 10)
  assert resolved.init_seed == 5
  assert resolved.order_seed == 7
  assert resolved.augmentation_seed == 5
  assert resolved.dropout_seed == 5


def test_what_is_given_is_kept():
  config = config_lib.Config(learning_rate=0.3, milestones=(1.0, 2.0))
  resolved = config_lib.resolve(config, 10)
  assert resolved.learning_rate == 0.3
  assert resolved.milestones == (1.0, 2.0)


@pytest.mark.parametrize(
  ('optimizer', 'rate'), [('lcam', 0.1), ('adamw', 1e-3), ('adagrad', 1e-2)]
)
def test_learning_rate_fits_the_optimizer(optimizer, rate):
  config = config_lib.Config(optimizer=optimizer)
  assert config_lib.resolve(config, 10).learning_rate == rate


def test_differences_name_what_was_chosen_and_not_what_follows():
  old = config_lib.resolve(config_lib.Config(epochs=20), 10)
  given = config_lib.Config(epochs=30)
  new = config_lib.resolve(given, 10)
  saved = config_lib.to_json(old)
  assert config_lib.differences(given, new, saved) == ['--epochs 30 (was 20)']


def test_where_the_data_lie_is_no_difference():
  old = config_lib.resolve(config_lib.Config(), 10)
  given = config_lib.Config(data_dir=pathlib.Path('elsewhere'))
  new = config_lib.resolve(given, 10)
  assert not config_lib.differences(given, new, config_lib.to_json(old))
