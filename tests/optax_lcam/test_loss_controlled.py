"""Any hyperparameter of any optimizer follows the loss, with LCAM's choices."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lcam
from tests.optax_lcam import training
from tests.references import lcam_float64

STEPS = 400
STEPS_PER_EPOCH = 39


def make_losses(seed=0):
  """Noisy losses; some are not finite, and many tie."""
  rng = np.random.default_rng(seed)
  losses = (2.3 + 0.3 * rng.standard_normal(STEPS)).astype(np.float32)
  losses[[0, 50, 51, 78, 117]] = np.nan, np.inf, -np.inf, np.nan, np.nan
  losses[100:140] = 1.1
  losses[200:239] = rng.choice(np.float32([0.1, 0.2, 0.3]), 39)
  return losses


LOSSES = make_losses()


def make_grads(dtype):
  rng = np.random.default_rng(1)
  grads = rng.standard_normal((STEPS, 6))
  if dtype == 'complex64':
    grads = grads + 1j * rng.standard_normal((STEPS, 6))
  return jnp.asarray(grads, dtype)


def injected_trace(number, trace=optax.trace, **kwargs):
  """optax.trace whose decay is the number."""
  static_args = ('accumulator_dtype',) if trace is optax.trace else ()
  return optax.inject_hyperparams(trace, static_args)(decay=number, **kwargs)


def follow(optimizer, losses, grads):
  """The update, trace and reading of each step."""

  def step(state, inputs):
    g, loss = inputs
    updates, state = optimizer.update(g, state, value=loss)
    trace = optax.tree.get(state, 'trace')
    return state, (updates, trace, optax_lcam.read(state))

  params = jnp.zeros_like(grads[0])
  return jax.lax.scan(step, optimizer.init(params), (grads, losses))[1]


def check_equal(actual, desired):
  jax.tree.map(np.testing.assert_array_equal, actual, desired)


def test_it_is_an_optax_stateful_schedule():
  schedule = optax_lcam.loss_controlled(0.93, 0.9)
  assert isinstance(schedule, optax.schedules.StatefulSchedule)
  state = schedule.init()
  after = schedule.update(state, value=1.0, grad=None)  # ignores `grad`
  for each in (state, after):
    number = schedule(each, value=3.0, grad=None)
    assert (number.shape, number.dtype, number.weak_type) == ((), 'float32', 0)
    assert type(each) is optax_lcam.LossControlledState
    assert sum(x.nbytes for x in each) == 32
  assert (schedule(state), schedule(after)) == tuple(np.float32([0.9, 0.93]))


EQUAL = {
  'plain': ('float32', {}, {}),
  'nesterov': ('float32', {}, {'nesterov': True}),
  'inclusive': ('float32', {'inclusive': False}, {}),
  'reaction': ('float32', {'reaction': 'current'}, {}),
  'loss_decay': ('float32', {'loss_decay': 0.9}, {}),
  'complex': ('complex64', {}, {}),
  'float64': ('float64', {}, {}),
  'bfloat16 in float32': ('bfloat16', {}, {'accumulator_dtype': 'float32'}),
}


@pytest.mark.parametrize('case', EQUAL)
def test_an_injected_trace_is_bit_identical_to_lcam(case):
  dtype, rule, trace = EQUAL[case]
  if 'loss_decay' not in rule:
    rule = rule | {'steps_per_epoch': STEPS_PER_EPOCH}
  # These are exact in float32, so float64 has the same values.
  pair = (0.9375, 0.875) if dtype == 'float64' else (0.93, 0.9)
  initial = 0.5
  with jax.enable_x64(dtype == 'float64'):
    lcam = optax_lcam.lcam(*pair, initial_momentum=initial, **rule, **trace)
    injected = injected_trace(
      optax_lcam.loss_controlled(*pair, initial=initial, **rule), **trace
    )
    grads = make_grads(dtype)
    run = jax.jit(follow, static_argnums=0)
    ours, theirs = run(injected, LOSSES, grads), run(lcam, LOSSES, grads)
    check_equal(ours[1:], theirs[1:])
    check_equal(ours[0].astype(dtype), theirs[0])
  chosen = theirs[2].momentum
  expected = lcam_float64.choices(
    LOSSES,
    horizontal=pair[0],
    vertical=pair[1],
    initial=initial,
    **{'steps_per_epoch': None} | rule,
  )
  np.testing.assert_array_equal(chosen, np.float32(expected))
  assert set(np.unique(chosen)) == set(np.float32([*pair, initial]))


def test_numbers_can_be_traced_and_vmapped():
  losses = np.stack([make_losses(seed) for seed in range(3)])
  horizontal = np.float32([0.93, 0.9, 0.5])
  vertical = np.float32([0.9, 0.95, 0.0])
  grads = make_grads('float32')

  def run(make):
    one = lambda h, v, x: follow(make(h, v), x, grads)
    return jax.jit(jax.vmap(one))(horizontal, vertical, losses)

  rule = {'steps_per_epoch': STEPS_PER_EPOCH}
  ours = run(
    lambda h, v: injected_trace(optax_lcam.loss_controlled(h, v, **rule))
  )
  theirs = run(lambda h, v: optax_lcam.lcam(h, v, initial_momentum=v, **rule))
  check_equal(ours, theirs)
  for i in range(3):
    expected = lcam_float64.choices(
      losses[i],
      horizontal=horizontal[i],
      vertical=vertical[i],
      initial=vertical[i],
      **rule,
    )
    np.testing.assert_array_equal(ours[2].momentum[i], np.float32(expected))


# Makers of an optimizer from a number, and the two values of the number.
FOLLOWERS = {
  'b1 of adamw': (
    lambda b1: optax.adamw(0.05, b1=b1, weight_decay=0.1),
    lambda b1: optax.inject_hyperparams(optax.adamw)(
      0.05, b1=b1, weight_decay=0.1
    ),
    (0.95, 0.6),
  ),
  'learning rate of sgd': (
    lambda rate: optax.sgd(rate, momentum=0.5),
    lambda rate: optax.inject_hyperparams(optax.sgd)(rate, momentum=0.5),
    (0.01, 0.05),
  ),
  'decay of trace': (
    lambda decay: optax.chain(optax.trace(decay), optax.scale(-0.02)),
    lambda decay: optax.chain(injected_trace(decay), optax.scale(-0.02)),
    (0.5, 0.9),
  ),
}


@pytest.mark.parametrize(
  ('name', 'reaction'),
  [*((name, 'next') for name in FOLLOWERS), ('b1 of adamw', 'current')],
)
def test_injection_equals_setting_the_number_manually(name, reaction):
  make, make_injected, (horizontal, vertical) = FOLLOWERS[name]
  rule = {'steps_per_epoch': 7, 'reaction': reaction}
  optimizer = make_injected(
    optax_lcam.loss_controlled(horizontal, vertical, **rule)
  )
  batches = training.make_batches(30)
  log = training.train(optimizer, batches)

  # Manually: the float64 reference chooses the number of each step.
  @jax.jit
  def step(params, state, grads, number):
    updates, state = make(number).update(grads, state, params)
    return optax.apply_updates(params, updates), state

  params, losses = training.make_params(), []
  state = make(vertical).init(params)
  value_and_grad = jax.jit(jax.value_and_grad(training.loss_fn))
  for batch in zip(*batches, strict=True):
    loss, grads = value_and_grad(params, batch)
    losses.append(loss)
    *_, now = lcam_float64.lcam(
      losses,
      horizontal=horizontal,
      vertical=vertical,
      initial=vertical,
      **rule,
    )
    params, state = step(params, state, grads, now.momentum)
  np.testing.assert_allclose(log.losses, losses, rtol=1e-4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    log.params,
    params,
  )
  expected = lcam_float64.choices(
    losses, horizontal=horizontal, vertical=vertical, steps_per_epoch=7
  )
  np.testing.assert_array_equal(log.readings.momentum, np.float32(expected))
  assert len(set(expected)) == 2


def test_any_finite_numbers_and_the_initial_number():
  for horizontal, vertical, initial in itertools.permutations((-3, 0, 1e6)):
    schedule = optax_lcam.loss_controlled(
      horizontal, vertical, initial=initial, steps_per_epoch=3
    )
    state = schedule.init()
    numbers = [schedule(state)]
    for loss in (np.nan, 1.0, 2.0, 2.0):
      state = schedule.update(state, value=loss)
      numbers.append(schedule(state))
    assert numbers == [initial, initial, horizontal, vertical, horizontal]
  state = optax_lcam.loss_controlled(2.0, 7.0).init()
  assert state.number == 7


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_half_precision_parameters_leave_the_number_in_float32(dtype):
  params = jnp.ones(3, dtype)
  number = optax_lcam.loss_controlled(0.93, 0.9, steps_per_epoch=7)

  def step(optimizer, state, loss=1.0):
    return optimizer.update(params, state, params, value=loss)

  # Neither Optax's default nor its override changes this.
  for hyperparam_dtype in (None, dtype):
    optimizer = optax.inject_hyperparams(
      optax.trace, ('accumulator_dtype',), hyperparam_dtype
    )(decay=number, accumulator_dtype=dtype)
    state = optimizer.init(params)
    for expected in (0.9, 0.93):
      assert state.hyperparams['decay'].dtype == 'float32'
      _, state = step(optimizer, state)
      assert state.hyperparams['decay'] == np.float32(expected)
      assert optax.tree.get(state, 'trace').dtype == dtype
  # Without an explicit dtype the accumulator becomes float32.
  for name, optimizer in {
    'trace': injected_trace(number),
    'mu': optax.inject_hyperparams(optax.adamw)(0.1, b1=number),
  }.items():
    state = optimizer.init(params)
    assert optax.tree.get(state, name).dtype == dtype
    assert optax.tree.get(step(optimizer, state)[1], name).dtype == 'float32'
  # If the injected function rounds the number, the arithmetic is that of lcam.
  rounded = lambda decay: optax.trace(decay.astype(dtype))
  run = jax.jit(follow, static_argnums=0)
  losses, grads = LOSSES[:40], make_grads(dtype)[:40]
  lcam = optax_lcam.lcam(steps_per_epoch=7)
  check_equal(
    run(injected_trace(number, rounded), losses, grads),
    run(lcam, losses, grads),
  )


def test_float64_parameters_receive_a_float32_number():
  with jax.enable_x64(True):
    grads = make_grads('float64')
    rule = {'steps_per_epoch': STEPS_PER_EPOCH}
    updates, _, _ = jax.jit(follow, static_argnums=0)(
      injected_trace(optax_lcam.loss_controlled(0.93, 0.9, **rule)),
      LOSSES,
      grads,
    )
    steps = lcam_float64.lcam(
      LOSSES,
      grads,
      horizontal=float(np.float32(0.93)),
      vertical=float(np.float32(0.9)),
      initial=float(np.float32(0.9)),
      **rule,
    )
    assert updates.dtype == 'float64'
    np.testing.assert_allclose(
      updates, [s.update for s in steps], rtol=1e-12, atol=1e-12
    )


def test_none_gradients_do_not_affect_choices():
  optimizer = injected_trace(
    optax_lcam.loss_controlled(0.93, 0.9, steps_per_epoch=7)
  )
  params = {'w': jnp.ones(2), 'frozen': None}
  state = optimizer.init(params)
  for loss in (1.0, 2.0, 0.5):
    updates, state = optimizer.update(params, state, params, value=loss)
  assert updates['frozen'] is None
  np.testing.assert_allclose(updates['w'], 1 + 0.9 * (1 + 0.93), rtol=1e-6)
  # Without any gradient, the loss is still compared.
  updates, state = optimizer.update(
    {'w': None, 'frozen': None}, state, params, value=9.0
  )
  assert updates == {'w': None, 'frozen': None}
  assert optax_lcam.read(state).phase == optax_lcam.Phase.VERTICAL


def test_replicas_choose_by_the_mean_loss():
  optimizer = injected_trace(
    optax_lcam.loss_controlled(
      0.93, 0.9, steps_per_epoch=7, batch_axis_name='batch'
    )
  )
  losses = np.random.default_rng(0).standard_normal((4, 30)).astype(np.float32)
  run = functools.partial(follow, optimizer, grads=jnp.ones((30, 1)))
  momenta = jax.jit(jax.vmap(run, axis_name='batch'))(losses)[2].momentum
  means = np.float32(losses.astype(np.float64).mean(0))
  expected = np.float32(lcam_float64.choices(means, steps_per_epoch=7))
  np.testing.assert_array_equal(momenta, np.tile(expected, (4, 1)))
  assert len(set(expected)) == 2


@pytest.mark.parametrize('reaction', ['next', 'current'])
def test_the_state_can_be_donated(reaction):
  # Created outside jit, where two fields could share a buffer.
  optimizer = injected_trace(
    optax_lcam.loss_controlled(
      jnp.float32(0.93), jnp.float32(0.9), reaction=reaction
    )
  )
  params = jnp.ones(2)
  add_one = lambda state: jax.tree.map(lambda x: x + 1, state)
  jax.jit(add_one, donate_argnums=0)(optimizer.init(params))
  update = jax.jit(optimizer.update, donate_argnums=1)
  state = optimizer.init(params)
  before = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
  for loss in (1.0, 2.0, 3.0):
    _, state = update(params, state, params, value=loss)
  assert before == jax.tree.map(
    lambda x: (x.shape, x.dtype, x.weak_type), state
  )
  assert optax_lcam.read(state).momentum == np.float32(0.9)


@pytest.mark.parametrize('value', [None, 'absent', jnp.ones(2), '1'], ids=str)
@pytest.mark.parametrize('reaction', ['next', 'current'])
def test_an_invalid_value_is_rejected(value, reaction):
  optimizer = injected_trace(
    optax_lcam.loss_controlled(0.93, 0.9, reaction=reaction)
  )
  params = jnp.ones(2)
  kwargs = (
    {} if isinstance(value, str) and value == 'absent' else {'value': value}
  )
  with pytest.raises(
    (ValueError, TypeError), match=r'`value` must be the loss'
  ):
    optimizer.update(params, optimizer.init(params), params, **kwargs)


@pytest.mark.parametrize(
  ('name', 'given', 'allowed'),
  [
    *itertools.product(
      ('horizontal', 'vertical', 'initial'),
      (np.nan, np.inf, 1e39, '1', 1j, True, np.ones(2), 10**400, np.ma.masked),
      ('a number that is finite in float32',),
    ),
    ('horizontal', None, 'a number that is finite in float32'),
    ('steps_per_epoch', 0, 'a whole number from 1 to 16,777,216'),
    ('loss_decay', 1.0, r'a number in \(0, 1\)'),
    ('inclusive', 1, 'True or False'),
    ('reaction', 'now', "'next' or 'current'"),
  ],
)
def test_arguments_out_of_range_are_rejected(name, given, allowed):
  arguments = {'horizontal': 0.93, 'vertical': 0.9} | {name: given}
  with pytest.raises(ValueError, match=f'`{name}` must be .*{allowed}, got'):
    optax_lcam.loss_controlled(**arguments)
