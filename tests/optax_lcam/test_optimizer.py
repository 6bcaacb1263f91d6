"""lcam_sgd: weight decay, learning rates and masks agree with float64."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lcam
from tests.optax_lcam import training
from tests.references import lcam_float64

STEPS = 40
_rng = np.random.default_rng(0)
LOSSES = _rng.standard_normal(STEPS).astype(np.float32)
GRADS = {
  'kernel': _rng.standard_normal((STEPS, 2, 3)).astype(np.float32),
  'bias': _rng.standard_normal((STEPS, 3)).astype(np.float32),
}
PARAMS = {'kernel': np.ones((2, 3), np.float32), 'bias': np.ones(3, np.float32)}


def train(optimizer, losses=LOSSES):
  """Trains on the fixed gradients and losses."""
  return training.follow(optimizer, PARAMS, GRADS, losses)


def in_float64(
  learning_rates, decay_of, losses=LOSSES, nesterov=False, **options
):
  """The same in NumPy: equations (1) to (4) of the paper, eta outside v."""
  steps = list(lcam_float64.lcam(losses, steps_per_epoch=7, **options))
  params = {}
  for name, value in PARAMS.items():
    w, v = value.astype(np.float64), np.zeros(value.shape)
    for step, g, rate in zip(steps, GRADS[name], learning_rates, strict=True):
      g = g + decay_of[name] * w
      v = step.momentum * v + g
      w = w - rate * (g + step.momentum * v if nesterov else v)
    params[name] = w
  return params


def check(actual, expected, rtol=2e-5):
  for name in PARAMS:
    np.testing.assert_allclose(actual[name], expected[name], rtol, atol=1e-5)


MASKS = {
  'none': (None, {'kernel': 1, 'bias': 1}),
  'a tree': ({'kernel': True, 'bias': False}, {'kernel': 1, 'bias': 0}),
  'a function': (
    lambda params: jax.tree.map(lambda p: p.ndim < 2, params),
    {'kernel': 0, 'bias': 1},
  ),
  'a prefix': (False, {'kernel': 0, 'bias': 0}),
}


@pytest.mark.parametrize('mask', MASKS)
@pytest.mark.parametrize('nesterov', [False, True])
def test_coupled_weight_decay_is_that_of_float64(mask, nesterov):
  weight_decay_mask, share = MASKS[mask]
  optimizer = optax_lcam.lcam_sgd(
    0.05,
    weight_decay=0.1,
    weight_decay_mask=weight_decay_mask,
    nesterov=nesterov,
    steps_per_epoch=7,
  )
  decay_of = {name: 0.1 * share[name] for name in PARAMS}
  expected = in_float64([0.05] * STEPS, decay_of, nesterov=nesterov)
  check(train(optimizer)[0][0], expected)


SCHEDULES = {
  'per step': (
    optax.exponential_decay(0.1, 1, 0.98, transition_begin=10),
    [0.1 * 0.98 ** max(0, i - 10) for i in range(STEPS)],
  ),
  'steps': (
    optax.piecewise_constant_schedule(0.1, {9: 0.2, 19: 0.2}),
    [0.1 * 0.2 ** ((i > 9) + (i > 19)) for i in range(STEPS)],
  ),
}


@pytest.mark.parametrize('name', SCHEDULES)
def test_learning_rate_schedules_are_those_of_float64(name):
  schedule, rates = SCHEDULES[name]
  if name == 'steps':  # Optax defines at which step the rate falls
    rates = [float(schedule(i)) for i in range(STEPS)]
  optimizer = optax_lcam.lcam_sgd(
    schedule, weight_decay=0.01, steps_per_epoch=7
  )
  expected = in_float64(rates, {'kernel': 0.01, 'bias': 0.01})
  check(train(optimizer)[0][0], expected)


@pytest.mark.parametrize(
  'options',
  [
    {'reaction': 'current'},
    {'inclusive': False},
    {'initial': 0.3},
    {'horizontal': 0.9, 'vertical': 0.95},
  ],
  ids=str,
)
def test_options_are_forwarded(options):
  names = {
    'horizontal': 'horizontal_momentum',
    'vertical': 'vertical_momentum',
    'initial': 'initial_momentum',
  }
  optimizer = optax_lcam.lcam_sgd(
    0.05,
    steps_per_epoch=7,
    **{names.get(k, k): v for k, v in options.items()},
  )
  expected = in_float64([0.05] * STEPS, {'kernel': 0, 'bias': 0}, **options)
  check(train(optimizer)[0][0], expected)


def test_lcam_and_lcam_sgd_have_the_same_keywords_and_defaults():
  ours = inspect.signature(optax_lcam.lcam).parameters
  theirs = inspect.signature(optax_lcam.lcam_sgd).parameters
  for name, parameter in ours.items():
    assert theirs[name].default == parameter.default, name
    assert theirs[name].annotation == parameter.annotation, name
    assert theirs[name].kind == parameter.kind, name
  assert set(theirs) - set(ours) == {
    'learning_rate',
    'weight_decay',
    'weight_decay_mask',
  }


def test_the_defaults_are_those_of_the_paper():
  defaults = {
    name: p.default
    for name, p in inspect.signature(optax_lcam.lcam_sgd).parameters.items()
  }
  assert defaults['horizontal_momentum'] == 0.93
  assert defaults['vertical_momentum'] == 0.9
  assert defaults['initial_momentum'] == 0.9
  assert defaults['steps_per_epoch'] == -(-50_000 // 128) == 391
  assert defaults['inclusive'] is True
  assert defaults['nesterov'] is False
  assert defaults['reaction'] == 'next'


@pytest.mark.parametrize('weight_decay', [0.0, 5e-4])
@pytest.mark.parametrize('nesterov', [False, True])
def test_equal_momenta_equal_optax_sgd(weight_decay, nesterov):
  ours = optax_lcam.lcam_sgd(
    0.05, 0.9, 0.9, weight_decay=weight_decay, nesterov=nesterov
  )
  theirs = optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.sgd(0.05, momentum=0.9, nesterov=nesterov),
  )
  (our_params, _), our_updates = train(ours)
  (their_params, _), their_updates = train(theirs)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
    (our_params, our_updates),
    (their_params, their_updates),
  )


def test_it_equals_the_chain_of_its_parts():
  whole = optax_lcam.lcam_sgd(0.05, weight_decay=0.1, steps_per_epoch=7)
  parts = optax.chain(
    optax.add_decayed_weights(0.1),
    optax_lcam.lcam(steps_per_epoch=7),
    optax.scale_by_learning_rate(0.05),
  )
  a, b = train(whole), train(parts)
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_weight_decay_needs_the_parameters():
  optimizer = optax_lcam.lcam_sgd(0.1, weight_decay=0.1)
  state = optimizer.init(PARAMS)
  with pytest.raises(ValueError, match=r'params'):
    optimizer.update(PARAMS, state, value=1.0)
  # Without weight decay it does not, like optax.sgd.
  optax_lcam.lcam_sgd(0.1).update(PARAMS, state, value=1.0)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_float32_hyperparameters_keep_the_dtype_of_the_parameters(dtype):
  optimizer = optax.inject_hyperparams(
    optax_lcam.lcam_sgd, hyperparam_dtype=jnp.float32
  )(0.05, weight_decay=0.1, steps_per_epoch=7)
  params = training.make_params(dtype)
  log = training.train(optimizer, training.make_batches(20), params)
  # Not rounded to the dtype of the parameters, which is Optax's default.
  assert set(log.readings.momentum) == {np.float32(0.93), np.float32(0.9)}
  for leaf in jax.tree.leaves((log.params, log.state.inner_state[1].trace)):
    assert leaf.dtype == dtype
