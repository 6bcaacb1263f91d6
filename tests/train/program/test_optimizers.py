"""Each optimizer agrees with that of PyTorch with the same name, and Optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lcam
from train import config as config_lib
from train.program import optimizers
from train.program import step as step_lib

_STEPS = 12
_RATE = 0.05


def _problem():
  rng = np.random.default_rng(0)
  matrix = rng.normal(size=(20, 5)).astype(np.float32)
  return matrix, rng.normal(size=20).astype(np.float32), np.ones(5, np.float32)


def _seeds(config):
  return step_lib.Seeds(
    *(np.uint32(getattr(config, f'{n}_seed')) for n in step_lib.Seeds._fields)
  )


class _Optimizer:
  """The optimizer of a run, with numbers passed as in the program."""

  def __init__(self, steps_per_epoch=4, rate=_RATE, **settings):
    config = config_lib.resolve(config_lib.Config(**settings), steps_per_epoch)
    self.entry = optimizers.get(config)
    self.numbers = {
      name: jnp.float32(value)
      for name, value in self.entry.numbers_of(config).items()
    }
    self.rule = step_lib.Rule.of(
      self.entry.structure_of(config), steps_per_epoch
    )
    optimizer = self.rule.build(jnp.float32(rate), self.numbers, _seeds(config))
    self.init, self.update = optimizer.init, optimizer.update

  def log(self, before, after):
    return self.rule.log(before, after, self.numbers)


def _train(**settings):
  optimizer = _Optimizer(weight_decay=0.01, **settings)
  matrix, target, params = _problem()

  def loss_fn(params):
    return jnp.mean((matrix @ params - target) ** 2)

  state = optimizer.init(params)
  momenta, losses = [], []
  for _ in range(_STEPS):
    loss, grads = jax.value_and_grad(loss_fn)(params)
    losses.append(float(loss))
    before = state
    updates, state = optimizer.update(grads, state, params, value=loss)
    momenta.append(optimizer.log(before, state))
    params = optax.apply_updates(params, updates)
  return np.asarray(params), np.asarray(momenta), np.asarray(losses)


@pytest.mark.parametrize(
  ('settings', 'make'),
  [
    ({'optimizer': 'sgd'}, lambda t, p: t.optim.SGD(p, _RATE, 0.9)),
    (
      {'optimizer': 'sgd', 'nesterov': True},
      lambda t, p: t.optim.SGD(p, _RATE, 0.9, nesterov=True),
    ),
    ({'optimizer': 'adam'}, lambda t, p: t.optim.Adam(p, _RATE)),
    ({'optimizer': 'adamw'}, lambda t, p: t.optim.AdamW(p, _RATE)),
    ({'optimizer': 'rmsprop'}, lambda t, p: t.optim.RMSprop(p, _RATE)),
    (
      {'optimizer': 'adagrad'},
      lambda t, p: t.optim.Adagrad(p, _RATE, initial_accumulator_value=0.1),
    ),
  ],
  ids=lambda value: value['optimizer'] if isinstance(value, dict) else '',
)
def test_optimizers_equal_pytorch(settings, make):
  torch = pytest.importorskip('torch')
  matrix, target, start = (torch.tensor(array) for array in _problem())
  parameter = torch.nn.Parameter(start)
  optimizer = make(torch, [parameter])
  for group in optimizer.param_groups:
    group['weight_decay'] = 0.01
  for _ in range(_STEPS):
    optimizer.zero_grad()
    ((matrix @ parameter - target) ** 2).mean().backward()
    optimizer.step()
  params, _, _ = _train(**settings)
  np.testing.assert_allclose(
    params, parameter.detach().numpy(), rtol=2e-4, atol=1e-5
  )


@pytest.mark.parametrize('nesterov', [False, True])
def test_a_fixed_momentum_equals_optax_sgd_bit_for_bit(nesterov):
  matrix, target, params = _problem()
  optimizer = optax.chain(
    optax.add_decayed_weights(0.01), optax.sgd(_RATE, 0.9, nesterov)
  )
  state = optimizer.init(params)
  for _ in range(_STEPS):
    grads = jax.grad(lambda w: jnp.mean((matrix @ w - target) ** 2))(params)
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  ours, *_ = _train(optimizer='sgd', momentum=0.9, nesterov=nesterov)
  np.testing.assert_array_equal(ours, params)


def test_lcam_receives_the_length_of_an_epoch():
  optimizer = _Optimizer()
  state = optimizer.init(jnp.zeros(2))
  counts = []
  for _ in range(5):
    _, state = optimizer.update(jnp.zeros(2), state, jnp.zeros(2), value=1.0)
    counts.append(int(optax.tree.get(state, 'step_count')))
  assert counts == [1, 2, 3, 0, 1]


def test_the_logged_momentum_is_that_of_the_step():
  _, momenta, losses = _train(
    optimizer='lcam', horizontal_momentum=0.8, vertical_momentum=0.7
  )
  # Each momentum depends on the losses of the epoch so far, which has 4 steps.
  expected = [0.9]
  for step in range(_STEPS - 1):
    mean = losses[step - step % 4 : step + 1].mean()
    expected.append(0.8 if losses[step] <= mean else 0.7)
  assert {0.7, 0.8} <= set(expected)
  np.testing.assert_allclose(momenta[:, 0], expected, rtol=1e-6)
  np.testing.assert_array_equal(momenta[:, 1], np.asarray(expected) == 0.8)


def test_reaction_current_affects_the_same_step():
  _, momenta, losses = _train(
    optimizer='lcam',
    reaction='current',
    horizontal_momentum=0.8,
    vertical_momentum=0.7,
  )
  expected = [
    0.8 if loss <= losses[step - step % 4 : step + 1].mean() else 0.7
    for step, loss in enumerate(losses)
  ]
  np.testing.assert_allclose(momenta[:, 0], expected, rtol=1e-6)


def test_a_moving_average_replaces_the_mean_of_the_epoch():
  _, momenta, losses = _train(
    optimizer='lcam',
    loss_decay=0.6,
    horizontal_momentum=0.8,
    vertical_momentum=0.7,
  )
  expected = [0.9]
  for step in range(_STEPS - 1):
    weights = 0.6 ** np.arange(step + 1)[::-1]
    mean = weights @ losses[: step + 1] / weights.sum()
    expected.append(0.8 if losses[step] <= mean else 0.7)
  np.testing.assert_allclose(momenta[:, 0], expected, rtol=1e-6)


def _adam_by_hand(b1_of_steps, decoupled, rate):
  """Adam in float64 NumPy with a b1 for each step."""
  matrix, target, params = (x.astype(np.float64) for x in _problem())
  mu = nu = np.zeros(5)
  for step, b1 in enumerate(b1_of_steps, start=1):
    grads = 2 * matrix.T @ (matrix @ params - target) / len(target)
    if not decoupled:
      grads = grads + 0.01 * params
    mu = b1 * mu + (1 - b1) * grads
    nu = 0.999 * nu + 0.001 * grads**2
    update = mu / (1 - b1**step) / (np.sqrt(nu / (1 - 0.999**step)) + 1e-8)
    params = params - rate * (update + 0.01 * params * decoupled)
  return params


@pytest.mark.parametrize('name', ['adam', 'adamw'])
@pytest.mark.parametrize('rule', ['loss-controlled', 'coin'])
def test_adam_with_a_rule_for_b1(name, rule):
  settings = {
    'optimizer': f'{name}-{rule}',
    'horizontal_momentum': 0.8,
    'vertical_momentum': 0.7,
    # Large steps, so that the loss also rises.
    'rate': 1.0,
  }
  if rule == 'coin':
    settings['horizontal_probability'] = 0.5
  params, momenta, losses = _train(**settings)
  b1 = [0.9]
  for step in range(_STEPS - 1):
    mean = losses[step - step % 4 : step + 1].mean()
    b1.append(0.8 if losses[step] <= mean else 0.7)
  if rule == 'coin':
    b1 = momenta[:, 0]
  assert {0.7, 0.8} == {round(float(x), 6) for x in b1[1:]}
  np.testing.assert_allclose(momenta[:, 0], b1, rtol=1e-6)
  np.testing.assert_array_equal(
    momenta[:, 1], np.float32(b1) == np.float32(0.8)
  )
  expected = _adam_by_hand(b1, decoupled=name == 'adamw', rate=1.0)
  np.testing.assert_allclose(params, expected, rtol=1e-4, atol=1e-5)


def test_other_optimizers_have_no_phases():
  _, momenta, _ = _train(optimizer='sgd', momentum=0.8)
  np.testing.assert_allclose(momenta[:, 0], 0.8)
  assert np.isnan(momenta[:, 1]).all()
  _, momenta, _ = _train(optimizer='adam')
  assert np.isnan(momenta).all()


def test_the_state_has_the_structure_of_lcam_sgd():
  ours = _Optimizer().init(jnp.zeros(2))
  theirs = optax_lcam.lcam_sgd(0.1, weight_decay=5e-4).init(jnp.zeros(2))
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)


def test_a_random_control_uses_the_momenta_of_lcam_but_ignores_the_loss():
  optimizer = _Optimizer(
    rate=0.1,
    optimizer='coin',
    horizontal_probability=0.3,
    horizontal_momentum=0.5,
    vertical_momentum=0.25,
    initial_momentum=0.75,
    weight_decay=0.0,
  )
  params = jnp.zeros(1)

  @jax.jit
  def one(state, loss):
    updates, after = optimizer.update(jnp.ones(1), state, params, value=loss)
    return after, (updates, *optimizer.log(state, after))

  steps = 2_000
  runs = [
    jax.lax.scan(one, optimizer.init(params), losses)[1]
    for losses in (jnp.arange(steps) / 1.0, -jnp.arange(steps) / 1.0)
  ]
  updates, momenta, horizontal = map(np.asarray, runs[0])
  # The choices are the same for rising and falling losses.
  np.testing.assert_array_equal(momenta, runs[1][1])
  assert momenta[0] == 0.75
  assert set(momenta[1:]) == {0.5, 0.25}
  np.testing.assert_array_equal(horizontal[1:], momenta[1:] == 0.5)
  # Four standard deviations.
  assert abs(horizontal[1:].mean() - 0.3) < 4 * np.sqrt(0.21 / steps)
  trace = 0.0
  for momentum, update in zip(momenta, updates[:, 0], strict=True):
    trace = momentum * trace + 1
    np.testing.assert_allclose(update, -0.1 * trace, rtol=1e-5)
