"""Settings: which values are rejected, and which defaults are filled in."""

import dataclasses
import pathlib
from typing import get_type_hints

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from train import config as config_lib
from train import errors
from train.program import optimizers
from train.program import schedules
from train.program import step as step_lib


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
def test_values_out_of_range_are_rejected(name, given, allowed):
  config = dataclasses.replace(config_lib.Config(), **{name: given})
  with pytest.raises(errors.UsageError) as caught:
    config_lib.check(config)
  message = str(caught.value)
  assert '--' + name.replace('_', '-') in message
  assert str(given) in message
  assert allowed in message
  assert '\n' not in message


def test_one_cycle_needs_epochs_after_the_warm_up():
  config = config_lib.Config(schedule='one-cycle', epochs=5, warmup_epochs=5.0)
  with pytest.raises(errors.UsageError, match=r'--warmup-epochs.*--epochs 5'):
    config_lib.check(config)


def test_defaults_are_valid():
  config_lib.check(config_lib.Config())


def test_default_decay_is_that_of_the_paper_for_150_epochs():
  resolved = config_lib.resolve(config_lib.Config(epochs=150), 391)
  assert resolved.decay_start == 30
  np.testing.assert_allclose(resolved.decay_rate, 0.99985, rtol=1e-12)
  assert resolved.milestones == (30, 60, 90)


def test_a_short_run_ends_at_the_final_rate_of_the_paper():
  short = config_lib.resolve(config_lib.Config(epochs=10), 40)
  ratio = short.decay_rate ** (8 * 40)
  np.testing.assert_allclose(ratio, 0.99985 ** (120 * 391), rtol=1e-9)


def test_one_seed_sets_all_seeds():
  config = config_lib.Config(seed=5, order_seed=7)
  resolved = config_lib.resolve(config, 10)
  assert resolved.init_seed == 5
  assert resolved.order_seed == 7
  assert resolved.augmentation_seed == 5
  assert resolved.dropout_seed == 5


def test_given_values_are_kept():
  config = config_lib.Config(learning_rate=0.3, milestones=(1.0, 2.0))
  resolved = config_lib.resolve(config, 10)
  assert resolved.learning_rate == 0.3
  assert resolved.milestones == (1.0, 2.0)


@pytest.mark.parametrize(
  ('optimizer', 'rate'), [('lcam', 0.1), ('adamw', 1e-3), ('adagrad', 1e-2)]
)
def test_the_default_learning_rate_depends_on_the_optimizer(optimizer, rate):
  config = config_lib.Config(optimizer=optimizer)
  assert config_lib.resolve(config, 10).learning_rate == rate


def test_differences_name_given_settings_but_not_derived_ones():
  old = config_lib.resolve(config_lib.Config(epochs=20), 10)
  given = config_lib.Config(epochs=30)
  new = config_lib.resolve(given, 10)
  saved = config_lib.to_json(old)
  assert config_lib.differences(given, new, saved) == ['--epochs 30 (was 20)']


def test_another_data_directory_is_no_difference():
  old = config_lib.resolve(config_lib.Config(), 10)
  given = config_lib.Config(data_dir=pathlib.Path('elsewhere'))
  new = config_lib.resolve(given, 10)
  assert not config_lib.differences(given, new, config_lib.to_json(old))


def test_a_relative_data_directory_is_recorded_as_absolute(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  config = config_lib.Config(data_dir=pathlib.Path('images'))
  recorded = config_lib.to_json(config_lib.resolve(config, 10))
  monkeypatch.chdir('/')
  assert config_lib.from_json(recorded).data_dir == tmp_path / 'images'


def test_too_many_steps_are_rejected():
  config = config_lib.Config(epochs=10**9)
  with pytest.raises(errors.UsageError, match=r'--epochs must be at most \d+'):
    config_lib.resolve(config, 391)


_FLOATS = st.one_of(
  st.floats(),
  st.floats(-1, 2),
  st.floats(0, 50),
  st.sampled_from([0.0, 1.0, 1e-300, 1e-30, 1e30, 1e300]),
)
_INTEGERS = st.one_of(st.integers(-1, 40), st.integers(-(2**33), 2**33))


def _values(field):
  """Valid and invalid values of the type of a setting."""
  if field.name == 'data_dir':
    return st.none()
  type_ = get_type_hints(config_lib.Config)[field.name]
  kind = str(type_)
  if hasattr(type_, '__args__') and 'Literal' in kind:
    return st.sampled_from(type_.__args__)
  values = {'tuple': st.lists(_FLOATS, max_size=3).map(tuple)}
  for name, strategy in (('int', _INTEGERS), ('float', _FLOATS)):
    values[name] = strategy
  values['bool'] = st.booleans()
  own = next(values[name] for name in values if name in kind)
  return st.one_of(st.none(), own) if 'None' in kind else own


_CONFIGS = st.fixed_dictionaries(
  {},
  optional={
    field.name: _values(field)
    for field in dataclasses.fields(config_lib.Config)
  },
)


@pytest.mark.parametrize(
  ('settings', 'names'),
  [
    ({'epochs': 3, 'decay_start': 30.0}, ['--decay-start 30', '--epochs 3']),
    (
      {'epochs': 90, 'schedule': 'steps', 'milestones': (30.0, 60.0, 90.0)},
      ['--milestones', '90', '--epochs 90'],
    ),
    (
      {'epochs': 2, 'schedule': 'warm-up', 'warmup_epochs': 5.0},
      ['--warmup-epochs 5', '--epochs 2'],
    ),
    ({'epochs': 31, 'decay_start': 30.0}, None),
    ({'epochs': 3}, None),
    # The setting belongs to another schedule.
    ({'epochs': 3, 'decay_start': 30.0, 'schedule': 'cosine'}, None),
  ],
  ids=str,
)
def test_a_schedule_that_does_not_fit_is_reported(settings, names):
  notes = config_lib.notes(
    config_lib.resolve(config_lib.Config(**settings), 10), 1280
  )
  assert len(notes) == (names is not None)
  for name in names or []:
    assert name in notes[0]


@pytest.mark.parametrize(('examples', 'told'), [(200, False), (199, True)])
def test_a_batch_larger_than_the_training_set_is_reported(examples, told):
  config = config_lib.resolve(config_lib.Config(batch_size=200), 1)
  notes = config_lib.notes(config, examples)
  assert bool(notes) == told
  for note in notes:
    assert '--batch-size 200' in note and '199 training images' in note


def _fuzz(examples):
  refused = []

  @settings(
    max_examples=examples, deadline=None, database=None, derandomize=True
  )
  @given(_CONFIGS, st.integers(1, 400))
  def fuzz(changes, steps_per_epoch):
    config = dataclasses.replace(config_lib.Config(), **changes)
    refused.append(True)
    try:
      config_lib.check(config)
      config = config_lib.resolve(config, steps_per_epoch)
    except errors.UsageError as refusal:
      message = str(refusal)
    else:
      message = None
    if message is not None:
      assert message.startswith('--')
      assert '\n' not in message
      return
    refused[-1] = False
    if config.horizontal_probability is None:
      config = dataclasses.replace(config, horizontal_probability=(0.5,))
    rates = schedules.learning_rates(config, steps_per_epoch, [0, 1, 7, 100])
    # Rates above the largest float32 are infinite, and such a run diverges.
    if config.learning_rate < 1e37 and config.final_learning_rate < 1e37:
      assert np.isfinite(rates).all()
      assert (rates >= 0).all()
    entry = optimizers.get(config)
    rule = step_lib.Rule.of(entry.structure_of(config), steps_per_epoch)
    seeds = step_lib.Seeds(*[0] * len(step_lib.Seeds._fields))
    optimizer = rule.build(0.1, entry.numbers_of(config), seeds)
    jax.eval_shape(optimizer.init, np.zeros(3, np.float32))

  fuzz()
  print(f'\n{sum(refused)} refused of {len(refused)} configurations.')
  assert 0 < sum(refused) < len(refused)


def test_random_configurations():
  """Every accepted configuration has a learning rate and an optimizer."""
  _fuzz(100)


@pytest.mark.slow
def test_many_random_configurations():
  _fuzz(5000)
