"""The members of a program share compiled code; their values are arguments."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from train import config as config_lib
from train import data
from train.program import build

_STEPS_PER_EPOCH = 6


def _digits(examples=96):
  digits = data.load('digits', train_examples=examples)
  test = data.Split(digits.test.images[:40], digits.test.labels[:40])
  return dataclasses.replace(digits, test=test)


_DIGITS = _digits()
_CONFIG = config_lib.Config(
  model='mlp', hidden_size=16, batch_size=16, eval_batch_size=40, epochs=2
)


def _config(**changes):
  return config_lib.resolve(
    dataclasses.replace(_CONFIG, **changes), _STEPS_PER_EPOCH
  )


def _program(*configs, **options):
  return build.Program(configs, _DIGITS, devices=jax.devices()[:1], **options)


def _train(program):
  """Parameters after two epochs, metrics of all steps, and test metrics."""
  images, test = program.place()
  state = program.init()
  measured = []
  for epoch in (1, 2):
    state, of_steps = program.train_epoch(state, images, epoch)
    measured.append(of_steps)
  tested = jax.device_get(program.evaluate(state, test))
  return (
    [own.params for own in program.fetch(state)],
    jax.tree.map(lambda *x: np.concatenate(x, -1), *measured),
    tested,
  )


# Members of one program: LCAM with several momenta, weight decays, seeds and
# schedules.
_LCAM = (
  {'seed': 0},
  {'seed': 1, 'horizontal_momentum': 0.5, 'vertical_momentum': 0.8},
  {'seed': 2, 'weight_decay': 0.1, 'learning_rate': 0.01},
  {'seed': 3, 'schedule': 'steps', 'milestones': (0.5,)},
  {'seed': 0, 'optimizer': 'sgd', 'momentum': 0.6},
)
_COINS = (
  {'seed': 0, 'horizontal_probability': (0.2,)},
  {'seed': 1, 'horizontal_probability': (0.0, 1.0), 'horizontal_momentum': 0.5},
)


@pytest.mark.parametrize(
  'members',
  [
    pytest.param(_LCAM, id='lcam'),
    pytest.param(
      [{'optimizer': 'coin', **coin} for coin in _COINS],
      marks=pytest.mark.slow,
      id='coin',
    ),
  ],
)
def test_a_member_equals_a_separate_run(members):
  configs = [_config(**member) for member in members]
  params, measured, tested = _train(_program(*configs))
  assert measured.loss.shape == (len(members), 2 * _STEPS_PER_EPOCH)
  for i, config in enumerate(configs):
    alone_params, alone, alone_tested = _train(_program(config))
    np.testing.assert_allclose(measured.loss[i], alone.loss[0], rtol=1e-4)
    np.testing.assert_array_equal(measured.momentum[i], alone.momentum[0])
    np.testing.assert_allclose(
      [m.loss[i] for m in tested], [m.loss[0] for m in alone_tested], rtol=1e-3
    )
    for ours, theirs in zip(
      jax.tree.leaves(params[i]), jax.tree.leaves(alone_params[0]), strict=True
    ):
      np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
  # The members differ.
  assert len({round(float(loss), 5) for loss in measured.loss[:, -1]}) == len(
    members
  )


def _hlo(program):
  return program.lower_train().as_text()


def test_members_do_not_change_the_compiled_program():
  first = _program(_config())
  for changes in _LCAM[1:]:
    other = _program(_config(**changes))
    assert _hlo(other) == _hlo(first)
    assert other.compile_train(16) is first.compile_train(16)


@pytest.mark.parametrize(
  'changes',
  [
    {'optimizer': 'adam'},
    {'optimizer': 'coin', 'horizontal_probability': (0.5,)},
    {'inclusive': False},
    {'loss_decay': 0.9},
    {'hidden_size': 17},
    {'reaction': 'current'},
  ],
  ids=str,
)
def test_settings_that_change_the_program_need_another_one(changes):
  first, other = _program(_config()), _program(_config(**changes))
  assert other.compile_train(16) is not first.compile_train(16)
  with pytest.raises(ValueError, match='may differ only in seeds'):
    _program(_config(), _config(**changes))


def test_fixed_momenta_share_the_program_of_lcam():
  lcam, *fixed = [
    _program(_config(**settings))
    for settings in (
      {},
      {'optimizer': 'sgd', 'momentum': 0.9},
      {'optimizer': 'sgd', 'momentum': 0.95},
    )
  ]
  for program in fixed:
    assert program.compile_train(16) is lcam.compile_train(16)


def test_fetch_and_stack_restore_a_state():
  program = _program(_config(seed=0), _config(seed=1))
  state = program.init()
  again = program.stack(program.fetch(state))
  for ours, theirs in zip(
    jax.tree.leaves(again), jax.tree.leaves(state), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)
    assert ours.sharding.is_equivalent_to(theirs.sharding, ours.ndim)
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), program.shape_member())
  own = jax.tree.map(lambda x: (x.shape, x.dtype), program.fetch(state)[0])
  assert shapes == own


def test_seeds_above_int31_give_the_keys_of_jax():
  """A uint32 array gives the same key as the Python integer."""
  seed = 2**32 - 1
  program = _program(_config(seed=seed))
  expected = jax.random.permutation(
    jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), 7), 96
  )
  np.testing.assert_array_equal(program.epoch(7).order[0], expected)


def test_are_finite_checks_each_member():
  program = _program(_config(seed=0), _config(seed=1))
  states = program.fetch(program.init())
  states[1] = states[1]._replace(
    params=jax.tree.map(lambda x: x * np.nan, states[1].params)
  )
  found = program.are_finite(program.stack(states))
  np.testing.assert_array_equal(found, [True, False])


def test_equal_seeds_have_equal_parameters_and_order():
  program = _program(
    *(
      _config(seed=seed, vertical_momentum=momentum)
      for momentum in (0.9, 0.5)
      for seed in (0, 1)
    )
  )
  params, order = jax.device_get(
    (program.init().params, program.epoch(1).order)
  )
  differing = 0
  for leaf in [*jax.tree.leaves(params), order]:
    np.testing.assert_array_equal(leaf[:2], leaf[2:])
    differing += bool(np.any(leaf[0] != leaf[1]))
  # Biases start at zero.
  assert differing == 3


@pytest.mark.parametrize(
  ('examples', 'most'),
  [(64, 1), (72, 1), (72, 3), (170, 2), (20, 1), (9, 4), (112, 4)],
)
def test_the_rest_of_an_epoch_contains_every_remaining_image_once(
  examples, most
):
  program = build.Program(
    [_config(steps_per_dispatch=most)],
    _digits(examples),
    devices=jax.devices()[:1],
  )
  for done in range(program.steps_per_epoch):
    plan = list(program.plan(done))
    assert sum(size * steps for size, steps in plan) == examples - 16 * done
    assert sum(steps for _, steps in plan) == program.steps_per_epoch - done
    assert max(steps for _, steps in plan) <= most
    assert {size for size, _ in plan[:-1]} <= {16}


def test_a_plan_covers_an_epoch():
  program = build.Program(
    [_config(steps_per_dispatch=4)],
    _digits(105),
    devices=jax.devices()[:1],
  )
  # Six full batches in dispatches of one length, and one of nine images.
  assert list(program.plan()) == [(16, 3), (16, 3), (9, 1)]
  assert list(program.plan(2)) == [(16, 1), (16, 3), (9, 1)]


@pytest.mark.parametrize(
  ('platform', 'devices', 'remat', 'steps'),
  [
    ('cpu', 1, False, 1),
    ('gpu', 1, True, 6),
    ('gpu', 8, False, 6),
    ('gpu', 8, True, 6),
    ('tpu', 8, True, 6),
  ],
)
def test_steps_per_dispatch_by_platform(platform, devices, remat, steps):
  program = _program(_config(model='wrn', remat=remat))
  program.devices = (types.SimpleNamespace(platform=platform),) * devices
  assert next(program.plan()) == (16, steps)


@pytest.mark.parametrize(
  ('platform', 'devices', 'remat', 'flags', 'is_off'),
  [
    ('gpu', 1, False, '', True),
    ('gpu', 8, True, '', True),
    # Collectives overlap with computing.
    ('gpu', 8, False, '', False),
    # The user has chosen.
    ('gpu', 8, True, '--xla_gpu_enable_latency_hiding_scheduler=true', False),
    ('gpu', 8, True, '--xla_gpu_enable_triton_gemm=false', True),
    ('tpu', 1, True, '', False),
    ('cpu', 1, True, '', False),
  ],
)
def test_the_scheduler_of_gpus_that_keeps_activations_is_off_where_it_must(
  monkeypatch, platform, devices, remat, flags, is_off
):
  monkeypatch.setenv('XLA_FLAGS', flags)
  program = _program(_config(model='wrn', remat=remat))
  structure = dataclasses.replace(
    program._of._structure,
    devices=(types.SimpleNamespace(platform=platform),) * devices,
  )
  options = build._compiler_options(structure, quick=False)
  name = 'xla_gpu_enable_latency_hiding_scheduler'
  assert (name in options) == is_off
  assert options.get(name, False) is False
