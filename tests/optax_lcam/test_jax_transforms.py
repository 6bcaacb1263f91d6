"""LCAM inside the transformations of JAX."""

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

STEPS = 20
BATCHES = training.make_batches(STEPS)
FLOATS = ('float16', 'bfloat16', 'float32', 'float64')


def signature(tree):
  """Shape, dtype and weak type of each leaf, which jit specializes on."""
  return signature_of(jax.eval_shape(lambda: tree))


def signature_of(abstract):
  return jax.tree.map(
    lambda x: (x.shape, x.dtype.name, bool(x.weak_type)), abstract
  )


def check_close(actual, desired, rtol=1e-5, atol=1e-6):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
    actual,
    desired,
  )


def test_one_compilation_over_many_steps():
  optimizer = optax_lcam.lcam_sgd(0.1, weight_decay=1e-2, steps_per_epoch=7)
  step = jax.jit(training.make_step(optimizer))
  params = training.make_params()
  state = optimizer.init(params)
  for batch in zip(*BATCHES, strict=True):
    params, state, _, _ = step(params, state, batch)
  assert step._cache_size() == 1


LOSSES = {
  'Python float': 2.0,
  'Python int': 2,
  'NumPy float16': np.float16(2),
  'NumPy float64': np.float64(2),
  'NumPy int64': np.int64(2),
  'NumPy array': np.array(2.0),
  'bfloat16': jnp.bfloat16(2),
  'float32': jnp.float32(2),
}


def test_any_kind_of_loss_gives_the_same_state():
  optimizer = optax_lcam.lcam(steps_per_epoch=7)
  params = jnp.ones(3)
  state = optimizer.init(params)
  expected = optimizer.update(params, state, value=jnp.float32(2))
  for kind, loss in LOSSES.items():
    for update in (optimizer.update, jax.jit(optimizer.update)):
      actual = update(params, state, value=loss)
      assert signature(actual) == signature(expected), kind
      check_close(actual, expected, 0, 0)


def test_mixing_kinds_of_losses_compiles_once_for_each_kind():
  optimizer = optax_lcam.lcam(steps_per_epoch=7)
  update = jax.jit(optimizer.update)
  params = jnp.ones(3)
  state = optimizer.init(params)
  sizes = []
  for _ in range(3):
    for loss in LOSSES.values():
      _, state = update(params, state, value=loss)
    sizes.append(update._cache_size())
  assert sizes[0] == sizes[2] <= len(LOSSES)
  # A loss computed inside jit always has the same type.
  inside = jax.jit(
    lambda state, x: optimizer.update(params, state, value=jnp.float32(x))[1]
  )
  for _ in range(3):
    state = inside(state, np.float32(1))
  assert inside._cache_size() == 1


@pytest.mark.parametrize('dtype', FLOATS)
@pytest.mark.parametrize('loss_dtype', [*FLOATS, 'int32'])
def test_scan_carry_is_stable_for_any_dtypes(dtype, loss_dtype):
  with jax.enable_x64('float64' in (dtype, loss_dtype)):
    optimizer = optax_lcam.lcam_sgd(0.1, weight_decay=0.1, steps_per_epoch=3)
    params = training.make_params(dtype)
    losses = np.array([1, 3, 2, 1, 5], loss_dtype)

    def step(carry, loss):
      params, state = carry
      updates, state = optimizer.update(params, state, params, value=loss)
      params = optax.apply_updates(params, updates)
      return (params, state), optax_lcam.read(state).momentum

    carry = (params, optimizer.init(params))
    if 'float32' not in (dtype, loss_dtype):
      jax.eval_shape(lambda carry: jax.lax.scan(step, carry, losses), carry)
      return
    (params, _), momenta = jax.lax.scan(step, carry, losses)
    expected = lcam_float64.choices(
      np.asarray(losses, np.float32), steps_per_epoch=3
    )
    np.testing.assert_array_equal(momenta, np.float32(expected))
    assert all(p.dtype == dtype for p in jax.tree.leaves(params))


# Compositions with different kinds of states. That types are stable, as scan
# requires, is tested for all compositions below.
@pytest.mark.parametrize(
  'name',
  [
    'lcam_sgd',
    'inject_hyperparams, schedules',
    'loss_controlled trace',
    'partition',
    'multi_steps of 1 in chain',
    'conditionally_mask',
    'schedule_free',
    'bfloat16 accumulator',
  ],
)
def test_scan_equals_a_loop(name):
  optimizer = compositions.ALL[name]()
  loop = training.train(optimizer, BATCHES)
  step = training.make_step(optimizer)

  @jax.jit
  def scan(params, batches):
    def body(carry, batch):
      params, state, loss, _ = step(*carry, batch)
      return (params, state), (loss, optax_lcam.read(state))

    return jax.lax.scan(body, (params, optimizer.init(params)), batches)

  (params, _), (losses, readings) = scan(training.make_params(), BATCHES)
  np.testing.assert_array_equal(readings.momentum, loop.readings.momentum)
  check_close(params, loop.params, 1e-3, 1e-4)
  check_close(losses, loop.losses, 1e-3, 1e-4)


@pytest.mark.parametrize('name', compositions.ALL)
def test_types_are_stable_in_every_composition(name):
  optimizer = compositions.ALL[name]()
  params = training.make_params()
  abstract = jax.eval_shape(optimizer.init, params)
  assert signature(optimizer.init(params)) == signature_of(abstract)
  # A step does not change the types of the state, as scan requires.
  step = training.make_step(optimizer)
  batch = jax.tree.map(lambda x: x[0], BATCHES)
  after = jax.eval_shape(step, params, abstract, batch)[:2]
  assert signature_of(after) == signature_of(
    (jax.eval_shape(lambda: params), abstract)
  )


@pytest.mark.parametrize(
  'options',
  [
    {'accumulator_dtype': 'bfloat16'},
    {'initial_momentum': np.float64(0.5)},
    {'initial_momentum': jnp.bfloat16(0.5)},
    {'steps_per_epoch': None, 'loss_decay': 0.9},
  ],
  ids=str,
)
@pytest.mark.parametrize(
  'params',
  [
    {'w': 1.0, 'b': np.ones(3)},
    jnp.ones(2, jnp.complex64),
    {'weak': jnp.asarray(1.0), 'none': None},
  ],
  ids=['Python and NumPy', 'complex', 'weak and None'],
)
def test_states_are_strongly_typed_and_remain_so(options, params):
  optimizer = optax_lcam.lcam(**options)
  state = optimizer.init(params)
  before = signature(state)
  assert before == jax.tree.map(
    lambda x: (x.shape, x.dtype.name, bool(x.weak_type)),
    jax.eval_shape(optimizer.init, params),
  )
  assert not any(x.weak_type for x in jax.tree.leaves(state))
  grads = jax.tree.map(jnp.ones_like, params)
  _, state = optimizer.update(grads, state, params, value=1)
  assert signature(state) == before


def test_vmap_over_seeds():
  optimizer = compositions.lcam_sgd()
  seeds = range(3)
  batches = [training.make_batches(STEPS, seed=seed) for seed in seeds]
  stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
  step = training.make_step(optimizer)

  @jax.jit
  @jax.vmap
  def train(batches):
    def body(carry, batch):
      params, state, loss, _ = step(*carry, batch)
      return (params, state), (loss, optax_lcam.read(state))

    params = training.make_params()
    return jax.lax.scan(body, (params, optimizer.init(params)), batches)

  (params, _), (losses, readings) = train(stacked)
  for seed in seeds:
    alone = training.train(optimizer, batches[seed])
    np.testing.assert_array_equal(
      readings.momentum[seed], alone.readings.momentum
    )
    check_close(jax.tree.map(lambda p: p[seed], params), alone.params, 1e-4)
    np.testing.assert_allclose(losses[seed], alone.losses, rtol=1e-4)


def test_vmap_over_hyperparameters_is_a_sweep_in_one_program():
  sweep = {
    'horizontal_momentum': np.float32([0.93, 0.9, 0.5]),
    'vertical_momentum': np.float32([0.9, 0.95, 0.0]),
    'initial_momentum': np.float32([0.9, 0.5, 0.1]),
    'weight_decay': np.float32([0.0, 0.1, 0.2]),
    'steps_per_epoch': np.array([7, 20, 1]),
  }
  rng = np.random.default_rng(0)
  losses = rng.standard_normal(STEPS).astype(np.float32)
  grads = rng.standard_normal((STEPS, 4)).astype(np.float32)

  @jax.jit
  @jax.vmap
  def train(settings):
    optimizer = optax_lcam.lcam_sgd(0.1, **settings)

    def body(carry, inputs):
      params, state = carry
      g, loss = inputs
      updates, state = optimizer.update(g, state, params, value=loss)
      params = optax.apply_updates(params, updates)
      return (params, state), optax_lcam.read(state).momentum

    params = jnp.ones(4)
    return jax.lax.scan(body, (params, optimizer.init(params)), (grads, losses))

  (params, _), momenta = train(sweep)
  for i in range(3):
    one = {name: values[i].item() for name, values in sweep.items()}
    weight_decay = one['weight_decay']
    # Weight decay makes gradients depend on parameters, so NumPy needs a loop.
    expected = np.ones(4)
    names = {'steps_per_epoch': 'steps_per_epoch'} | {
      f'{short}_momentum': short
      for short in ('horizontal', 'vertical', 'initial')
    }
    options = {names[k]: v for k, v in one.items() if k in names}
    steps = list(lcam_float64.lcam(losses, **options))
    trace = np.zeros(4)
    for step, g in zip(steps, grads, strict=True):
      trace = step.momentum * trace + g + weight_decay * expected
      expected = expected - 0.1 * trace
    np.testing.assert_array_equal(
      momenta[i], np.float32([s.next_momentum for s in steps])
    )
    np.testing.assert_allclose(params[i], expected, rtol=1e-4, atol=1e-5)


def test_vmap_over_loss_decay():
  losses = np.random.default_rng(0).standard_normal(STEPS).astype(np.float32)
  decays = np.float32([0.5, 0.9, 0.99])

  @jax.jit
  @jax.vmap
  def follow(decay):
    optimizer = optax_lcam.lcam(steps_per_epoch=None, loss_decay=decay)

    def body(state, loss):
      _, state = optimizer.update(jnp.ones(1), state, value=loss)
      return state, state.momentum

    return jax.lax.scan(body, optimizer.init(jnp.ones(1)), losses)[1]

  for momenta, decay in zip(follow(decays), decays, strict=True):
    expected = lcam_float64.choices(
      losses, steps_per_epoch=None, loss_decay=float(decay)
    )
    np.testing.assert_array_equal(momenta, np.float32(expected))


@pytest.mark.parametrize(
  'name',
  [
    'lcam_sgd',
    'inject_hyperparams',
    'inject_hyperparams, schedules',
    'partition',
    'multi_steps of 1',
    'nesterov',
    'weight decay',
  ],
)
@pytest.mark.filterwarnings('error')  # "Some donated buffers were not usable"
def test_donation(name):
  optimizer = compositions.ALL[name]()
  kept = training.train(optimizer, BATCHES)
  step = training.make_step(optimizer)
  donating = jax.jit(
    lambda params, state, batch: step(params, state, batch)[:3],
    donate_argnums=(0, 1),
  )
  params = training.make_params()
  state = optimizer.init(params)  # outside jit, so that no buffer is shared
  losses = []
  for batch in zip(*BATCHES, strict=True):
    old = state
    params, state, loss = donating(params, state, batch)
    losses.append(loss)
    for _, trace in optax.tree.get_all_with_path(old, 'trace'):
      assert all(x.is_deleted() for x in jax.tree.leaves(trace))
  np.testing.assert_allclose(losses, kept.losses, rtol=1e-5)


def test_donation_of_injected_initial_momentum():
  # inject_hyperparams keeps the array that init receives, so init must copy it.
  optimizer = compositions.injected(initial_momentum=jnp.float32(0.5))
  state = optimizer.init(jnp.ones(2))
  update = jax.jit(optimizer.update, donate_argnums=1)
  for loss in (1.0, 2.0):
    _, state = update(jnp.ones(2), state, jnp.ones(2), value=loss)
  assert optax_lcam.read(state).momentum == np.float32(0.9)


def test_finite_losses_produce_no_nan():
  with jax.debug_nans(True):
    for options in ({}, {'steps_per_epoch': None, 'loss_decay': 0.9}):
      optimizer = optax_lcam.lcam(**options)
      state = optimizer.init(jnp.ones(2))
      update = jax.jit(optimizer.update)
      for loss in (0.0, 1.0, -1.0, 1e30, 1e-40):
        _, state = update(jnp.ones(2), state, value=loss)


def test_gradients_flow_through_the_update():
  # Meta-learning needs this; the choice itself is piecewise constant.
  optimizer = optax_lcam.lcam(0.5, 0.25, initial_momentum=0.5)

  @jax.grad
  def derivative(g):
    state = optimizer.init(jnp.zeros(()))
    _, state = optimizer.update(g, state, value=g)
    updates, _ = optimizer.update(g, state, value=2 * g)
    return updates

  assert derivative(3.0) == 1.5  # d(g + 0.5 g)


@functools.cache
def jaxpr_of_update(inclusive):
  optimizer = optax_lcam.lcam(inclusive=inclusive)
  params = {'w': jnp.ones((3, 2)), 'b': jnp.ones(2)}
  return jax.make_jaxpr(
    lambda g, s: optimizer.update(g, s, value=jnp.float32(1))
  )(params, optimizer.init(params))


def test_each_leaf_is_read_once():
  # One multiplication and one addition per leaf; the rest is on scalars.
  jaxpr = jaxpr_of_update(True)
  ops = [
    eqn.primitive.name
    for eqn in jaxpr.eqns
    if any(v.aval.shape for v in eqn.outvars)
  ]
  assert sorted(ops) == ['add', 'add', 'mul', 'mul']
