"""LCAM with Flax NNX, Flax Linen, Equinox and plain pytrees.

Each trains the same linear model on the same data, and must agree with a
float64 loop in NumPy.
"""

import subprocess
import sys

import equinox as eqx
from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lcam
from optax_lcam import flax as optax_lcam_flax
from tests.references import lcam_float64

STEPS, BATCH, FEATURES = 30, 8, 3
LEARNING_RATE, WEIGHT_DECAY, STEPS_PER_EPOCH = 0.05, 1e-2, 7

_rng = np.random.default_rng(0)
X = _rng.standard_normal((STEPS, BATCH, FEATURES)).astype(np.float32)
Y = _rng.standard_normal((STEPS, BATCH)).astype(np.float32)
START = _rng.standard_normal(FEATURES).astype(np.float32)


def make_optimizer():
  return optax_lcam.lcam_sgd(
    LEARNING_RATE, weight_decay=WEIGHT_DECAY, steps_per_epoch=STEPS_PER_EPOCH
  )


def expected():
  """Weights, losses and momenta of the same training in float64 NumPy."""
  weights, trace = START.astype(np.float64), np.zeros(FEATURES)
  losses, momenta = [], []
  momentum = 0.9
  for x, y in zip(X.astype(np.float64), Y.astype(np.float64), strict=True):
    error = x @ weights - y
    losses.append(np.mean(error**2))
    grads = 2 * error @ x / BATCH + WEIGHT_DECAY * weights
    trace = momentum * trace + grads
    weights = weights - LEARNING_RATE * trace
    momenta = lcam_float64.choices(losses, steps_per_epoch=STEPS_PER_EPOCH)
    momentum = momenta[-1]
  return weights, losses, momenta


def check(weights, losses, momenta):
  expected_weights, expected_losses, expected_momenta = expected()
  np.testing.assert_array_equal(momenta, np.float32(expected_momenta))
  np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
  np.testing.assert_allclose(np.ravel(weights), expected_weights, rtol=1e-4)
  assert len(set(expected_momenta)) == 2


def test_plain_pytrees():
  optimizer = make_optimizer()

  def loss_fn(params, x, y):
    return jnp.mean((x @ params['w'] - y) ** 2)

  @jax.jit
  def train_step(params, opt_state, x, y):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
    return optax.apply_updates(params, updates), opt_state, loss

  params = {'w': jnp.asarray(START)}
  opt_state = optimizer.init(params)
  losses, momenta = [], []
  for x, y in zip(X, Y, strict=True):
    params, opt_state, loss = train_step(params, opt_state, x, y)
    losses.append(loss)
    momenta.append(optax_lcam.read(opt_state).momentum)

  check(params['w'], losses, momenta)


def test_flax_nnx():
  model = nnx.Linear(FEATURES, 1, use_bias=False, rngs=nnx.Rngs(0))
  model.kernel[...] = START[:, None]
  optimizer = nnx.Optimizer(model, make_optimizer(), wrt=nnx.Param)

  @nnx.jit
  def train_step(model, optimizer, x, y):
    def loss_fn(model):
      return jnp.mean((model(x)[:, 0] - y) ** 2)

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads, value=loss)
    return loss

  losses, momenta = [], []
  for x, y in zip(X, Y, strict=True):
    losses.append(train_step(model, optimizer, x, y))
    momenta.append(optax_lcam.read(optimizer.opt_state).momentum)

  check(model.kernel[...], losses, momenta)
  assert optax_lcam.read(optimizer.opt_state).step == STEPS % STEPS_PER_EPOCH


def test_flax_linen():
  model = nn.Dense(1, use_bias=False)
  state = optax_lcam_flax.TrainState.create(
    apply_fn=model.apply,
    params={'params': {'kernel': jnp.asarray(START[:, None])}},
    tx=make_optimizer(),
  )

  @jax.jit
  def train_step(state, x, y):
    def loss_fn(params):
      return jnp.mean((state.apply_fn(params, x)[:, 0] - y) ** 2)

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    return state.apply_gradients(grads=grads, value=loss), loss

  losses, momenta = [], []
  for x, y in zip(X, Y, strict=True):
    state, loss = train_step(state, x, y)
    losses.append(loss)
    momenta.append(optax_lcam.read(state.opt_state).momentum)

  check(state.params['params']['kernel'], losses, momenta)
  assert state.step == STEPS


def test_equinox():
  model = eqx.nn.Linear(FEATURES, 1, use_bias=False, key=jax.random.key(0))
  model = eqx.tree_at(lambda m: m.weight, model, jnp.asarray(START[None]))
  optimizer = make_optimizer()
  # Leaves that are not arrays are None, also in the state.
  opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

  @eqx.filter_jit
  def train_step(model, opt_state, x, y):
    def loss_fn(model):
      return jnp.mean((jax.vmap(model)(x)[:, 0] - y) ** 2)

    loss, grads = eqx.filter_value_and_grad(loss_fn)(model)
    updates, opt_state = optimizer.update(
      grads, opt_state, eqx.filter(model, eqx.is_inexact_array), value=loss
    )
    return eqx.apply_updates(model, updates), opt_state, loss

  losses, momenta = [], []
  for x, y in zip(X, Y, strict=True):
    model, opt_state, loss = train_step(model, opt_state, x, y)
    losses.append(loss)
    momenta.append(optax_lcam.read(opt_state).momentum)

  check(model.weight, losses, momenta)


def make_loss_controlled():
  return optax.inject_hyperparams(optax.adamw)(
    LEARNING_RATE,
    b1=optax_lcam.loss_controlled(0.93, 0.9, steps_per_epoch=STEPS_PER_EPOCH),
  )


def test_flax_nnx_and_linen_support_loss_controlled():
  losses = (1.0, 3.0, 2.0, 2.5, 1.0, 7.0, 4.0, 5.0)
  expected = lcam_float64.choices(losses, steps_per_epoch=STEPS_PER_EPOCH)
  model = nnx.Linear(FEATURES, 1, rngs=nnx.Rngs(0))
  optimizer = nnx.Optimizer(model, make_loss_controlled(), wrt=nnx.Param)
  nnx_step = nnx.jit(
    lambda model, optimizer, loss: optimizer.update(
      model, nnx.state(model, nnx.Param), value=loss
    )
  )
  state = make_train_state(make_loss_controlled())
  linen_step = jax.jit(
    lambda state, loss: state.apply_gradients(grads=state.params, value=loss)
  )
  for i, loss in enumerate(losses):
    nnx_step(model, optimizer, loss)
    state = linen_step(state, loss)
    readings = [
      optax_lcam.read(x) for x in (optimizer.opt_state, state.opt_state)
    ]
    for reading in readings:
      assert reading.momentum == np.float32(expected[i])
      assert reading.step == (i + 1) % STEPS_PER_EPOCH
  for reading in readings:
    np.testing.assert_allclose(reading.last_epoch_mean, 20.5 / 7, rtol=1e-6)


def make_train_state(tx, cls=optax_lcam_flax.TrainState, **kwargs):
  params = {'w': jnp.asarray(START)}
  return cls.create(apply_fn=None, params=params, tx=tx, **kwargs)


def test_train_state_keeps_its_optimizer_and_replaces_other_attributes():
  class WithStatistics(optax_lcam_flax.TrainState):
    batch_stats: float = 0.0

  state = make_train_state(make_optimizer(), WithStatistics)
  new = state.apply_gradients(grads=state.params, value=1.0, batch_stats=2.0)
  assert new.tx is state.tx
  assert new.batch_stats == 2
  assert new.step == 1
  assert isinstance(new, WithStatistics)


def test_train_state_with_other_optimizers_equals_that_of_flax():
  from flax.training import train_state

  for tx in (optax.adam(0.1), optax.sgd(0.1, momentum=0.9)):
    ours = make_train_state(tx)
    theirs = make_train_state(tx, train_state.TrainState)
    for _ in range(3):
      ours = ours.apply_gradients(grads=ours.params, value=1.0)
      theirs = theirs.apply_gradients(grads=theirs.params)
    np.testing.assert_array_equal(ours.params['w'], theirs.params['w'])


@pytest.mark.parametrize(
  'kwargs', [{}, {'value': None}, {'value': jnp.ones(2)}]
)
def test_train_state_rejects_an_invalid_value(kwargs):
  state = make_train_state(make_optimizer())
  with pytest.raises(ValueError, match=r'`value` must be'):
    state.apply_gradients(grads=state.params, **kwargs)


def test_the_train_state_of_flax_passes_the_value_to_replace():
  # This is why ours exists. If this fails, Flax fixed it.
  from flax.training import train_state

  state = make_train_state(make_optimizer(), train_state.TrainState)
  with pytest.raises(ValueError, match=r'`optax_lcam\.flax\.TrainState`'):
    state.apply_gradients(grads=state.params, value=1.0)


def test_importing_the_package_imports_no_framework():
  program = (
    'import sys, optax_lcam; print(sorted({m.split(".")[0] for m in'
    ' sys.modules} & {"flax", "tensorflow", "tensorflow_datasets", "torch",'
    ' "equinox", "orbax"}))'
  )
  result = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert result.stdout.strip() == '[]'
