"""Reading the state. See test_compositions for nested optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import optax_lcam
from tests.references import lcam_float64

MAKERS = {
  'lcam': optax_lcam.lcam,
  'loss_controlled': lambda **kwargs: optax.inject_hyperparams(optax.sgd)(
    optax_lcam.loss_controlled(0.93, 0.9, **kwargs)
  ),
}


def step(optimizer, state, loss):
  return optimizer.update(jnp.ones(2), state, jnp.ones(2), value=loss)[1]


def test_before_the_first_loss():
  reading = optax_lcam.read(
    optax_lcam.lcam(initial_momentum=0.5).init(jnp.ones(2))
  )
  assert reading.momentum == 0.5
  assert reading.phase == optax_lcam.Phase.UNKNOWN
  assert np.isnan(reading.mean_loss)
  assert reading.step == 0


def test_phase_is_known_if_the_momenta_are_equal():
  optimizer = optax_lcam.lcam(0.9, 0.9, steps_per_epoch=10)
  state = optimizer.init(jnp.ones(2))
  phases = []
  for loss in (2.0, 3.0, 1.0):
    state = step(optimizer, state, loss)
    phases.append(optax_lcam.Phase(int(optax_lcam.read(state).phase)).name)
  assert phases == ['HORIZONTAL', 'VERTICAL', 'HORIZONTAL']


@pytest.mark.parametrize(
  'averaging',
  [{'steps_per_epoch': 4}, {'steps_per_epoch': None, 'loss_decay': 0.75}],
  ids=str,
)
@pytest.mark.parametrize('name', MAKERS)
def test_means_and_step_are_those_of_float64(name, averaging):
  optimizer = MAKERS[name](**averaging)
  state = optimizer.init(jnp.ones(2))
  losses = [np.nan, 2.0, 1.0, np.inf, 7.0, 3.0, 2.5, 2.0, 1.0]
  last = np.nan
  for loss, expected in zip(
    losses, lcam_float64.lcam(losses, **averaging), strict=True
  ):
    state = step(optimizer, state, loss)
    reading = optax_lcam.read(state)
    is_epoch = averaging['steps_per_epoch'] is not None
    ended = is_epoch and expected.step == averaging['steps_per_epoch']
    np.testing.assert_allclose(
      reading.mean_loss, np.nan if ended else expected.mean, rtol=1e-6
    )
    assert reading.step == (expected.step if is_epoch and not ended else 0)
    if ended:
      last = expected.mean
    np.testing.assert_allclose(reading.last_epoch_mean, last, rtol=1e-6)


@pytest.mark.parametrize('name', MAKERS)
def test_under_jit_and_vmap(name):
  optimizer = MAKERS[name](steps_per_epoch=10)
  losses = jnp.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])

  @jax.jit
  @jax.vmap
  def follow(losses):
    state = optimizer.init(jnp.ones(2))
    for loss in losses:
      state = step(optimizer, state, loss)
    return optax_lcam.read(state), state

  inside, states = follow(losses)
  outside = optax_lcam.read(states)
  jax.tree.map(np.testing.assert_array_equal, inside, outside)
  np.testing.assert_array_equal(inside.momentum, np.float32([0.9, 0.93]))
  np.testing.assert_array_equal(inside.mean_loss, [2, 2])


@pytest.mark.parametrize('name', MAKERS)
def test_an_undefined_mean_is_allowed_under_debug_nans(name):
  optimizer = MAKERS[name](steps_per_epoch=2)
  with jax.debug_nans(True):
    params = jnp.ones(2)
    state = jax.jit(optimizer.init)(params)
    update = jax.jit(optimizer.update)
    means = []
    for loss in (np.nan, 3.0, 5.0, 7.0):
      reading = optax_lcam.read(state)
      means.append((reading.mean_loss, reading.last_epoch_mean))
      batched = optax_lcam.read(jax.tree.map(lambda x: x[None], state))
      np.testing.assert_array_equal(batched.mean_loss, [reading.mean_loss])
      # Under jit, debug_nans rejects NaN in the returned values.
      inside = jax.jit(lambda state: optax_lcam.read(state).momentum)(state)
      assert inside == reading.momentum
      _, state = update(params, state, params, value=loss)
  np.testing.assert_array_equal(
    means, [(np.nan, np.nan), (np.nan, np.nan), (np.nan, 3), (5, 3)]
  )


def test_the_first_of_two_states_is_read():
  optimizer = optax.chain(
    MAKERS['loss_controlled'](steps_per_epoch=2), optax_lcam.lcam(0.5, 0.25)
  )
  state = step(optimizer, optimizer.init(jnp.ones(2)), 1.0)
  assert optax_lcam.read(state).momentum == np.float32(0.93)
  assert optax_lcam.read(state[1:]).momentum == 0.5


def test_it_reads_only_scalars():
  # The traced program has no array as large as the trace.
  state = optax_lcam.lcam_sgd(0.1).init(jnp.ones((50, 50)))
  jaxpr = jax.make_jaxpr(optax_lcam.read)(state)
  sizes = [v.aval.size for e in jaxpr.eqns for v in (*e.invars, *e.outvars)]
  assert max(sizes) == 1
  with jax.transfer_guard_device_to_host('disallow'):
    optax_lcam.read(state)


@pytest.mark.parametrize(
  'nest',
  [
    lambda s: s,
    lambda s: {'opt': [s, None], 'step': 3},
    lambda s: (optax.EmptyState(), (s,)),
    lambda s: optax.MaskedState(optax.MaskedState(s)),
    lambda s: optax.InjectHyperparamsState(0, {'learning_rate': 0.1}, s),
  ],
)
def test_any_nesting(nest):
  optimizer = optax_lcam.lcam()
  state = step(optimizer, optimizer.init(jnp.ones(2)), 3.0)
  assert optax_lcam.read(nest(state)).mean_loss == 3


@pytest.mark.parametrize(
  ('state', 'kind'),
  [
    (optax.sgd(0.1).init(jnp.ones(2)), 'tuple'),
    (None, 'NoneType'),
    ((), 'tuple'),
    ({'params': jnp.ones(2)}, 'dict'),
  ],
)
def test_a_state_without_lcam_is_rejected(state, kind):
  with pytest.raises(
    ValueError,
    match=rf'`opt_state` must hold .*loss_controlled`, got a {kind}',
  ) as raised:
    optax_lcam.read(state)
  assert 'target' not in str(raised.value)


@pytest.mark.parametrize('optimizer', [optax_lcam.lcam, optax_lcam.lcam_sgd])
def test_a_state_restored_without_a_target_is_rejected(optimizer, tmp_path):
  params = {'w': jnp.ones(2)}
  state = optimizer(0.1).init(params)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'state', {'opt_state': state})
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(tmp_path / 'state')
  with pytest.raises(ValueError, match='restore the checkpoint with a target'):
    optax_lcam.read(restored['opt_state'])
