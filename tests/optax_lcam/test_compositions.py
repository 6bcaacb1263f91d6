"""LCAM inside the wrappers of Optax makes the same choices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lcam
from tests.optax_lcam import compositions
from tests.optax_lcam import training
from tests.references import lcam_float64

STEPS = 30
BATCHES = training.make_batches(STEPS)
every_composition = pytest.mark.parametrize('name', compositions.ALL)


@functools.cache
def run(name):
  return training.train(compositions.ALL[name](), BATCHES)


def expected_choices(losses, **options):
  options = {'steps_per_epoch': compositions.STEPS_PER_EPOCH} | options
  return np.float32(lcam_float64.choices(losses, **options))


def check_close(actual, desired, rtol=1e-5, atol=1e-6):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
    actual,
    desired,
  )


@every_composition
def test_choices_are_those_of_float64(name):
  log = run(name)
  expected = expected_choices(log.losses)
  np.testing.assert_array_equal(log.readings.momentum, expected)
  assert len(set(expected)) == 2


@every_composition
def test_reading_is_that_of_float64(name):
  log = run(name)
  steps = list(
    lcam_float64.lcam(log.losses, steps_per_epoch=compositions.STEPS_PER_EPOCH)
  )
  ends = np.array([s.step == compositions.STEPS_PER_EPOCH for s in steps])
  np.testing.assert_array_equal(
    log.readings.step, np.where(ends, 0, [s.step for s in steps])
  )
  np.testing.assert_allclose(
    log.readings.mean_loss,
    np.where(ends, np.nan, [s.mean for s in steps]),
    rtol=1e-6,
  )
  is_horizontal = log.readings.phase == optax_lcam.Phase.HORIZONTAL
  np.testing.assert_array_equal(
    is_horizontal, [s.next_momentum == 0.93 for s in steps]
  )


@jax.jit
@jax.vmap
def grads_at(position, batch):
  """Flat gradients at flat parameters."""
  _, unravel = jax.flatten_util.ravel_pytree(training.make_params())
  grads = jax.grad(training.loss_fn)(unravel(position), batch)
  return jax.flatten_util.ravel_pytree(grads)[0]


@pytest.mark.parametrize('name', compositions.TRANSPARENT)
def test_training_is_that_of_float64(name):
  # Gradients at the parameters of our run; NumPy computes the rest.
  params = training.make_params()
  log = run(name)
  flat, _ = jax.flatten_util.ravel_pytree(params)
  flat_updates = np.stack(
    [
      jax.flatten_util.ravel_pytree(jax.tree.map(lambda u: u[i], log.updates))[
        0
      ]
      for i in range(STEPS)
    ]
  )
  positions = np.concatenate([[flat], flat + np.cumsum(flat_updates, 0)[:-1]])
  grads = np.asarray(grads_at(positions, BATCHES))
  expected = [
    -compositions.LEARNING_RATE * s.update
    for s in lcam_float64.lcam(
      log.losses, grads, steps_per_epoch=compositions.STEPS_PER_EPOCH
    )
  ]
  np.testing.assert_allclose(flat_updates, expected, rtol=1e-4, atol=1e-5)


@every_composition
def test_fields_can_be_read_set_and_mapped(name):
  optimizer = compositions.ALL[name]()
  log = run(name)

  def in_lcam(path, _):
    # schedule_free also has a field `step_count`.
    names = {getattr(k, 'tuple_name', None) for k in path}
    return names & {'LcamState', 'LossControlledState'}

  chosen = 'number' if 'loss_controlled' in name else 'momentum'
  for field in ('loss_sum', 'step_count', chosen, 'phase'):
    found = optax.tree.get_all_with_path(log.state, field, filtering=in_lcam)
    assert found, field
    for _, x in found:
      assert x.shape == ()
  # No field of LCAM has the name of Optax's counters.
  assert not optax.tree.get_all_with_path(log.state, 'count', in_lcam)

  state = optax.tree.set(log.state, in_lcam, **{chosen: 0.25})
  assert optax_lcam.read(state).momentum == 0.25

  if name == 'flatten':
    return  # optax.tree.map_params does not support optax.flatten
  # Mapping over parameter-shaped leaves does not change LCAM's scalars.
  mapped = optax.tree.map_params(optimizer, jnp.zeros_like, log.state)
  check_close(optax_lcam.read(mapped), optax_lcam.read(log.state), 0, 0)
  for _, trace in optax.tree.get_all_with_path(mapped, 'trace'):
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(trace))


def test_setting_the_momentum_affects_the_next_step():
  optimizer = optax.chain(optax.clip(1e9), compositions.lcam())
  params = jnp.ones(2)
  _, state = optimizer.update(params, optimizer.init(params), value=1.0)
  state = optax.tree.set(state, momentum=jnp.asarray(0.25))
  updates, _ = optimizer.update(params, state, value=1.0)
  np.testing.assert_array_equal(updates, 1.25)


def test_the_count_of_a_schedule_is_the_only_count():
  optimizer = compositions.lcam_sgd(optax.linear_schedule(0.1, 0.0, 100))
  params = jnp.ones(2)
  state = optimizer.init(params)
  for _ in range(3):
    _, state = optimizer.update(params, state, params, value=1.0)
  assert optax.tree.get(state, 'count') == 3
  assert optax.tree.get(state, 'step_count') == 3
  assert optax.tree.get(state, 'momentum') == np.float32(0.93)


def test_masked_parameters_pass_through():
  optimizer = optax.masked(compositions.lcam(), {'dense': True, 'scale': False})
  params = training.make_params()
  state = optimizer.init(params)
  grads = jax.tree.map(jnp.ones_like, params)
  for loss in (1.0, 2.0, 0.5):
    updates, state = optimizer.update(grads, state, params, value=loss)
  expected = 1 + 0.9 * (1 + 0.93 * 1)
  np.testing.assert_allclose(updates['dense']['w'], expected, rtol=1e-6)
  assert updates['scale'] == 1
  assert len(jax.tree.leaves(state.inner_state.trace)) == 2


def test_frozen_parameters_do_not_move():
  for name in (
    'freeze',
    'selective_transform',
    'partition with a frozen group',
  ):
    params = run(name).params
    assert params['scale'] == training.make_params()['scale'], name
    assert np.all(params['dense']['w'] != training.make_params()['dense']['w'])


def test_groups_of_a_partition_share_phases_but_not_momenta():
  pairs = {'dense': (0.93, 0.9), 'scale': (0.5, 0.7)}
  optimizer = optax.partition(
    {
      name: optax_lcam.lcam_sgd(0.01, *pair, steps_per_epoch=7)
      for name, pair in pairs.items()
    },
    {'dense': 'dense', 'scale': 'scale'},
  )
  params = training.make_params()
  state = optimizer.init(params)
  step = jax.jit(training.make_step(optimizer))
  losses, momenta = [], {name: [] for name in pairs}
  for batch in zip(*BATCHES, strict=True):
    params, state, loss, _ = step(params, state, batch)
    losses.append(loss)
    for name in pairs:
      reading = optax_lcam.read(state.inner_states[name])
      momenta[name].append(reading.momentum)
  for name, (high, low) in pairs.items():
    expected = expected_choices(losses, horizontal=high, vertical=low)
    np.testing.assert_array_equal(momenta[name], expected)


def test_injected_schedules_give_the_momenta_of_each_step():
  horizontal = optax.linear_schedule(0.5, 0.8, STEPS)
  vertical = optax.linear_schedule(0.4, 0.1, STEPS)
  optimizer = compositions.injected(
    horizontal_momentum=horizontal, vertical_momentum=vertical
  )
  log = training.train(optimizer, BATCHES)
  phases = expected_choices(log.losses, horizontal=1, vertical=0)
  expected = [
    horizontal(i) if phase else vertical(i) for i, phase in enumerate(phases)
  ]
  np.testing.assert_allclose(log.readings.momentum, expected, rtol=1e-6)
  assert 0 < sum(phases) < STEPS


def test_injected_momenta_can_be_changed_manually():
  optimizer = compositions.injected()
  params = training.make_params()
  state = optimizer.init(params)
  state.hyperparams['horizontal_momentum'] = jnp.asarray(0.25)
  _, state = optimizer.update(params, state, params, value=1.0)
  assert optax_lcam.read(state).momentum == 0.25


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32', 'float64'])
def test_injected_equals_plain_for_any_dtype(dtype):
  with jax.enable_x64(dtype == 'float64'):
    # Optax rounds hyperparameters to the dtype of the parameters.
    arguments = {
      name: float(jnp.asarray(value, dtype))
      for name, value in {
        'learning_rate': 0.02,
        'horizontal_momentum': 0.93,
        'vertical_momentum': 0.9,
        'initial_momentum': 0.7,
        'weight_decay': 1e-2,
      }.items()
    }
    arguments['steps_per_epoch'] = 7
    plain = optax_lcam.lcam_sgd(**arguments)
    injected = optax.inject_hyperparams(optax_lcam.lcam_sgd)(**arguments)
    params = training.make_params(dtype)
    rng = np.random.default_rng(0)
    states = [jax.jit(tx.init)(params) for tx in (plain, injected)]
    update_fns = [jax.jit(tx.update) for tx in (plain, injected)]
    eps = float(jnp.finfo(dtype).eps)
    for loss in rng.standard_normal(STEPS).astype(np.float32):
      grads = jax.tree.map(
        lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), params
      )
      results = [
        update(grads, state, params, value=loss)
        for update, state in zip(update_fns, states, strict=True)
      ]
      states = [state for _, state in results]
      check_close(*map(optax_lcam.read, states), 0, 0)
      check_close(
        *(jax.tree.map(lambda u: np.asarray(u, float), u) for u, _ in results),
        rtol=4 * eps,
        atol=eps,
      )
    structures = [
      jax.tree.structure(s) for s in (states[0], states[1].inner_state)
    ]
    assert structures[0] == structures[1]


def test_every_numeric_argument_can_be_injected():
  optimizer = optax.inject_hyperparams(optax_lcam.lcam_sgd)(
    0.1, weight_decay=0.1
  )
  state = optimizer.init(training.make_params())
  assert set(state.hyperparams) == {
    'learning_rate',
    'horizontal_momentum',
    'vertical_momentum',
    'weight_decay',
    'steps_per_epoch',
    'initial_momentum',
  }
  stream = optax.inject_hyperparams(optax_lcam.lcam_sgd)(
    0.1, steps_per_epoch=None, loss_decay=0.9
  )
  assert 'loss_decay' in stream.init(training.make_params()).hyperparams


def test_a_step_that_apply_if_finite_skips_has_no_effect():
  optimizer = optax.apply_if_finite(compositions.lcam_sgd(), 5)
  params = jnp.ones(2)
  state = optimizer.init(params)
  for loss in (1.0, 3.0):
    _, state = optimizer.update(params, state, params, value=loss)
  before = optax_lcam.read(state)
  updates, after = optimizer.update(
    params * jnp.nan, state, params, value=jnp.asarray(9.0)
  )
  np.testing.assert_array_equal(updates, 0)
  check_close(optax_lcam.read(after), before, 0, 0)
  # It checks only gradients; LCAM itself ignores non-finite losses.
  _, after = optimizer.update(params, after, params, value=jnp.nan)
  assert optax_lcam.read(after).mean_loss == before.mean_loss
  assert optax_lcam.read(after).step == before.step + 1


def test_conditional_steps_count_only_if_taken():
  log = training.train(
    optax.conditionally_mask(
      compositions.lcam_sgd(), lambda step: step % 3 != 0
    ),
    BATCHES,
  )
  taken = np.arange(STEPS) % 3 != 0
  np.testing.assert_array_equal(
    log.readings.momentum[taken], expected_choices(log.losses[taken])
  )


def test_reduce_on_plateau_receives_the_same_loss():
  optimizer = compositions.ALL['reduce_on_plateau beside']()
  params = jnp.ones(2)
  state = optimizer.init(params)
  for _ in range(8):
    _, state = optimizer.update(params, state, params, value=1.0)
  assert optax.tree.get(state, 'best_value') == 1
  assert optax.tree.get(state, 'scale') < 1


def test_optax_multi_steps_passes_the_loss_of_the_last_micro_batch():
  # This is why optax_lcam.multi_steps exists. If this fails, Optax fixed it.
  optimizer = optax.MultiSteps(compositions.lcam_sgd(), 2)
  params = jnp.ones(2)
  state = optimizer.init(params)
  for loss in (1.0, 3.0):
    _, state = optimizer.update(params, state, params, value=loss)
  assert optax_lcam.read(state).mean_loss == 3  # not 2


# Wrappers that do not forward `value`, as the docstring of lcam says: alone and
# in a chain. If one of these tests fails, Optax forwards `value`, and the
# docstring can be changed.
UNKNOWN = (TypeError, r"unexpected keyword argument 'value'")
MISSING = (ValueError, r'`value` must be .* missing or None')
WITHOUT_VALUE = {
  'lookahead': (
    lambda tx: optax.lookahead(tx, 5, 0.5),
    UNKNOWN,
    MISSING,
  ),
  'split_real_and_imaginary': (
    optax.contrib.split_real_and_imaginary,
    UNKNOWN,
    MISSING,
  ),
  'sam': (
    lambda tx: optax.contrib.sam(tx, optax.sgd(0.1), sync_period=2),
    UNKNOWN,
    UNKNOWN,
  ),
  'MultiSteps': (
    lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    None,
    MISSING,
  ),
}


@pytest.mark.parametrize('name', WITHOUT_VALUE)
def test_wrappers_that_do_not_forward_the_value_raise(name):
  wrap, *errors = WITHOUT_VALUE[name]
  params = grads = jnp.ones(2)
  if name == 'lookahead':
    params = optax.LookaheadParams.init_synced(params)
  alone = wrap(compositions.lcam())
  for optimizer, expected in zip(
    (alone, optax.chain(alone)), errors, strict=True
  ):
    state = optimizer.init(params)
    if expected is None:
      optimizer.update(grads, state, params, value=1.0)
      continue
    error, message = expected
    with pytest.raises(error, match=message):
      optimizer.update(grads, state, params, value=1.0)


def test_a_masked_value_is_rejected():
  optimizer = optax.masked(
    compositions.lcam(), False, mask_compatible_extra_args=True
  )
  params = jnp.ones(2)
  with pytest.raises(TypeError, match=r'`value` must be .* MaskedNode'):
    optimizer.update(params, optimizer.init(params), params, value=1.0)
