"""Algorithm 1: choices, sums and traces compared with float64 and Optax."""

from fractions import Fraction
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lcam
from tests.references import lcam_float64

EPOCHS = 3
STEPS = EPOCHS * 391


def make_loss_sequences():
  """Sequences of float32 losses that are sensitive to rounding, by name."""
  rng = np.random.default_rng(0)
  ramp = np.linspace(0.01, 4.6, STEPS)
  one_ulp = np.float32(2.3) + np.spacing(np.float32(2.3)) * rng.integers(
    0, 2, STEPS
  )
  sequences = {
    'constant': np.full(STEPS, 2.3),
    'within one ulp': one_ulp,
    'tiny': rng.uniform(0.5, 1.5, STEPS) * 1e-8,
    'huge': rng.uniform(0.5, 1.5, STEPS) * 1e5,
    'noisy': 2.3 + 0.3 * rng.standard_normal(STEPS),
    'falling': ramp[::-1],
    'rising': ramp,
    'negative': -2.3 - 0.3 * rng.standard_normal(STEPS),
    'mixed magnitude': 10.0 ** rng.uniform(-8, 5, STEPS),
    'zero': np.zeros(STEPS),
  }
  return {name: x.astype(np.float32) for name, x in sequences.items()}


LOSSES = make_loss_sequences()
MOMENTA = {
  'horizontal above': (0.93, 0.9),
  'vertical above': (0.9, 0.95),
}


@functools.partial(jax.jit, static_argnums=0)
def follow(optimizer, losses, grads=None, params=None):
  """Scans over the losses; returns the update and state of each step."""
  if grads is None:
    grads = jnp.zeros((len(losses), 1))
  if params is None:
    params = jnp.zeros_like(grads[0])

  def step(state, inputs):
    g, loss = inputs
    updates, state = optimizer.update(g, state, params, value=loss)
    return state, (updates, state)

  return jax.lax.scan(step, optimizer.init(params), (grads, losses))[1]


def horizontal(momentum, pair):
  """Whether each momentum is the horizontal one of the pair."""
  momentum = np.asarray(momentum, np.float32)
  assert np.isin(momentum, np.float32(pair)).all()
  return momentum == np.float32(pair[0])


@functools.cache
def are_horizontal(name, inclusive):
  """Which losses of a sequence are horizontal in float64."""
  choices = lcam_float64.choices(
    LOSSES[name], horizontal=1, vertical=0, inclusive=inclusive
  )
  return choices == 1


@pytest.mark.parametrize('inclusive', [True, False])
@pytest.mark.parametrize('order', MOMENTA)
def test_choices_are_those_of_float64(order, inclusive, record_property):
  pair = MOMENTA[order]
  optimizer = optax_lcam.lcam(*pair, inclusive=inclusive)
  differing = {}
  for name, losses in LOSSES.items():
    _, states = follow(optimizer, losses)
    expected = are_horizontal(name, inclusive)
    differing[name] = int(np.sum(horizontal(states.momentum, pair) != expected))
  compared = STEPS * len(LOSSES)
  record_property('choices_compared', compared)
  record_property('choices_differing', sum(differing.values()))
  print(f'{compared} choices compared, {sum(differing.values())} differ')
  assert sum(differing.values()) == 0, differing


def test_both_phases_occur_in_the_loss_sequences():
  # Otherwise the comparison above would show nothing.
  share = {name: np.mean(are_horizontal(name, True)) for name in LOSSES}
  assert share['constant'] == share['zero'] == share['falling'] == 1
  assert share['rising'] == EPOCHS / STEPS
  for name in ('within one ulp', 'tiny', 'huge', 'noisy', 'negative'):
    assert 0.3 < share[name] < 0.7, name


def test_choices_are_the_same_without_jit_and_under_vmap():
  optimizer = optax_lcam.lcam(steps_per_epoch=17)
  losses = np.stack([x[:40] for x in LOSSES.values()])
  batched = jax.vmap(lambda x: follow(optimizer, x)[1].momentum)(losses)
  params = jnp.zeros(1)
  for i, name in enumerate(LOSSES):
    expected = np.float32(lcam_float64.choices(losses[i], steps_per_epoch=17))
    state = optimizer.init(params)
    eager = []
    for loss in losses[i]:
      _, state = optimizer.update(params, state, value=loss)
      eager.append(state.momentum)
    np.testing.assert_array_equal(np.array(eager), expected, name)
    np.testing.assert_array_equal(batched[i], expected, name)


def test_long_epoch_is_exact():
  # Ten thousand equal losses; float32 would miss the tie at the third.
  losses = np.full(10_000, 0.1, np.float32)
  for inclusive in (True, False):
    optimizer = optax_lcam.lcam(
      0.93, 0.9, steps_per_epoch=10_000, inclusive=inclusive
    )
    momentum = follow(optimizer, losses)[1].momentum
    np.testing.assert_array_equal(
      momentum, np.float32(0.93 if inclusive else 0.9)
    )


OPTIONS = [
  {},
  {'inclusive': False},
  {'nesterov': True},
  {'initial': 0.5},
  {'reaction': 'current'},
  {'reaction': 'current', 'nesterov': True, 'initial': 0.5},
  {'steps_per_epoch': 1},
  {'steps_per_epoch': None, 'loss_decay': 0.9},
  {'steps_per_epoch': None, 'loss_decay': 0.9, 'reaction': 'current'},
  {'horizontal': 0.9, 'vertical': 0.95},
  {'horizontal': 0.0, 'vertical': 0.99},
]


def to_lcam(options):
  """Converts keywords of the float64 reference to those of lcam."""
  names = {
    'horizontal': 'horizontal_momentum',
    'vertical': 'vertical_momentum',
    'initial': 'initial_momentum',
  }
  return {names.get(k, k): v for k, v in options.items()}


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_traces_updates_and_sums_are_those_of_float64(options):
  options = {'steps_per_epoch': 7} | options
  rng = np.random.default_rng(1)
  losses = (2.3 + rng.standard_normal(40)).astype(np.float32)
  losses[[0, 5, 11]] = np.nan, np.inf, -np.inf
  grads = rng.standard_normal((40, 3)).astype(np.float32)
  updates, states = follow(optax_lcam.lcam(**to_lcam(options)), losses, grads)
  expected = list(lcam_float64.lcam(losses, grads, **options))
  used = np.concatenate(
    [[options.get('initial', 0.9)], [s.next_momentum for s in expected[:-1]]]
  )
  if options.get('reaction') != 'current':
    np.testing.assert_allclose([s.momentum for s in expected], used)
  np.testing.assert_allclose(
    states.momentum, [s.next_momentum for s in expected], rtol=1e-7
  )
  np.testing.assert_allclose(
    states.trace, [s.trace for s in expected], rtol=1e-5, atol=1e-5
  )
  np.testing.assert_allclose(
    updates, [s.update for s in expected], rtol=1e-5, atol=1e-5
  )
  period = options['steps_per_epoch']
  for i, step in enumerate(expected):
    if period is None:
      expected_sum, expected_step = step.mean, 0
    elif step.step == period:
      expected_sum, expected_step = 0.0, 0
    else:
      expected_sum, expected_step = step.loss_sum, step.step
    assert states.step_count[i] == expected_step
    # Without any loss the sum is 0, and the mean is NaN.
    np.testing.assert_allclose(
      states.loss_sum[i], np.nan_to_num(expected_sum), rtol=1e-6
    )


def test_reactions_differ_by_one_step():
  losses = np.array([1.0, 3.0, 0.5, 2.0, 0.1], np.float32)
  grads = np.ones((5, 1), np.float32)
  used = {}
  for reaction in ('next', 'current'):
    steps = lcam_float64.lcam(losses, grads, reaction=reaction, initial=0.5)
    used[reaction] = [s.momentum for s in steps]
    updates, _ = follow(
      optax_lcam.lcam(reaction=reaction, initial_momentum=0.5), losses, grads
    )
    trace = np.concatenate([[0], np.ravel(updates)])
    # v_t = m v_{t-1} + 1 yields m from the second step on.
    np.testing.assert_allclose(
      (trace[2:] - 1) / trace[1:-1], used[reaction][1:], rtol=1e-5
    )
  assert used['next'] == [0.5, 0.93, 0.9, 0.93, 0.9]
  assert used['current'] == [0.93, 0.9, 0.93, 0.9, 0.93]


# The reference weights all losses again at each step, so the sequences are
# truncated to lengths at which the decay has forgotten the first losses.
@pytest.mark.parametrize(
  ('loss_decay', 'length'), [(0.5, 300), (0.9, 300), (0.99, 300), (0.9999, 800)]
)
@pytest.mark.parametrize('inclusive', [True, False])
def test_choices_from_a_moving_average_are_those_of_float64(
  loss_decay, length, inclusive
):
  pair = (0.93, 0.9)
  optimizer = optax_lcam.lcam(*pair, loss_decay=loss_decay, inclusive=inclusive)
  differing = {}
  for name, losses in LOSSES.items():
    losses = losses[:length]
    _, states = follow(optimizer, losses)
    steps = list(
      lcam_float64.lcam(
        losses, steps_per_epoch=None, loss_decay=loss_decay, inclusive=inclusive
      )
    )
    expected = np.array([s.next_momentum for s in steps])
    differing[name] = int(
      np.sum(horizontal(states.momentum, pair) != horizontal(expected, pair))
    )
    np.testing.assert_allclose(
      states.loss_sum, [s.mean for s in steps], rtol=1e-5, err_msg=name
    )
  print(f'{length * len(LOSSES)} choices compared, {differing}')
  assert sum(differing.values()) == 0, differing


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
  'averaging',
  [{'steps_per_epoch': 5}, {'steps_per_epoch': None, 'loss_decay': 0.9}],
  ids=str,
)
def test_a_loss_that_is_not_finite_changes_neither_mean_nor_momentum(
  bad, averaging
):
  optimizer = optax_lcam.lcam(**averaging)
  params = jnp.ones(2)
  state = optimizer.init(params)
  for loss in (1.0, 2.0):  # vertical
    _, state = optimizer.update(params, state, value=loss)
  updates, after = optimizer.update(params, state, value=bad)
  for field in (
    'loss_sum',
    'loss_residual',
    'loss_count',
    'momentum',
    'phase',
  ):
    assert getattr(after, field) == getattr(state, field), field
  np.testing.assert_allclose(updates, 1 + 0.9 * state.trace, rtol=1e-6)
  if averaging['steps_per_epoch'] is None:
    return
  assert after.step_count == 3
  # The epoch ends after five steps, bad ones included.
  for _ in range(2):
    _, after = optimizer.update(params, after, value=bad)
  assert after.step_count == after.loss_sum == after.loss_count == 0
  assert after.momentum == np.float32(0.9)


def test_a_bad_first_loss_leaves_the_initial_momentum():
  optimizer = optax_lcam.lcam(initial_momentum=0.5, steps_per_epoch=3)
  state = optimizer.init(jnp.ones(1))
  for _ in range(4):
    _, state = optimizer.update(jnp.ones(1), state, value=np.nan)
    assert state.momentum == 0.5
    assert state.phase == optax_lcam.Phase.UNKNOWN


@pytest.mark.filterwarnings('ignore:overflow encountered in cast')
def test_a_loss_whose_sum_overflows_is_ignored():
  optimizer = optax_lcam.lcam(steps_per_epoch=10)
  state = optimizer.init(jnp.ones(1))
  for loss in (1e38, 2e38, 3e38, 1e39):  # 1e39 is infinite in float32
    _, state = optimizer.update(jnp.ones(1), state, value=loss)
    assert np.isfinite(state.loss_sum)
    assert np.isfinite(state.loss_residual)
  assert state.step_count == 4


@pytest.mark.parametrize(
  'losses',
  [
    [1, 1, 1, 1, 2e38, 1],  # five times 2e38 overflows
    [2e38, 1e38, -3e38, 1e38, 2e38],
    [1e38] * 3 + [-1e38] * 6,
    [3e38, 1e-30, -3e38, 1e-30, 0],
  ],
  ids=str,
)
@pytest.mark.parametrize('inclusive', [True, False])
def test_losses_whose_multiples_overflow_are_compared(losses, inclusive):
  losses = np.float32(losses)
  states = follow(optax_lcam.lcam(inclusive=inclusive), losses)[1]
  np.testing.assert_array_equal(
    states.momentum,
    np.float32(lcam_float64.choices(losses, inclusive=inclusive)),
  )
  assert states.loss_count[-1] == len(losses)


def test_the_mean_of_the_last_epoch_carries_over():
  losses = np.float32([1, 2, 6, np.nan, 5, 9, np.nan, np.nan, np.inf, 1])
  states = follow(optax_lcam.lcam(steps_per_epoch=3), losses)[1]
  np.testing.assert_array_equal(
    optax_lcam.read(states).last_epoch_mean,
    [np.nan, np.nan, 3, 3, 3, 7, 7, 7, np.nan, np.nan],
  )
  # The state contains no NaN, which jax_debug_nans would reject.
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(states))


def test_the_end_of_an_epoch_resets_only_the_mean():
  optimizer = optax_lcam.lcam(0.93, 0.9, steps_per_epoch=3)
  params = jnp.ones(2)
  state = optimizer.init(params)
  for loss in (1.0, 3.0, 9.0):
    _, state = optimizer.update(params, state, value=loss)
  assert state.loss_sum == state.loss_residual == 0
  assert state.loss_count == state.step_count == 0
  assert state.momentum == np.float32(0.9)  # 9 is above 13/3
  assert state.phase == optax_lcam.Phase.VERTICAL
  np.testing.assert_allclose(state.trace, 1 + 0.9 * (1 + 0.93), rtol=1e-6)
  # The next epoch does not include the earlier losses: 5 is its mean.
  _, state = optimizer.update(params, state, value=5.0)
  assert state.momentum == np.float32(0.93)
  assert (state.loss_sum, state.step_count) == (5, 1)


@pytest.mark.parametrize('nesterov', [True, False])
@pytest.mark.parametrize(
  ('dtypes', 'accumulator_dtype'),
  [
    (('float32', 'bfloat16', 'float16', 'complex64'), None),
    (('float32',), 'bfloat16'),
    (('bfloat16',), 'float32'),
  ],
  ids=str,
)
def test_equal_momenta_equal_optax_trace(nesterov, dtypes, accumulator_dtype):
  # A leaf of each dtype.
  rng = np.random.default_rng(2)
  grads = {}
  for dtype in dtypes:
    scale = 1 + 2j if dtype == 'complex64' else 1
    grads[dtype] = jnp.asarray(scale * rng.standard_normal((20, 5)), dtype)
  params = {dtype: jnp.zeros(5, dtype) for dtype in dtypes}
  ours = optax_lcam.lcam(
    0.9, 0.9, nesterov=nesterov, accumulator_dtype=accumulator_dtype
  )
  theirs = optax.with_extra_args_support(
    optax.trace(0.9, nesterov, accumulator_dtype)
  )
  losses = rng.standard_normal(20).astype(np.float32)
  our_updates, our_states = follow(ours, losses, grads, params)
  their_updates, their_states = follow(theirs, losses, grads, params)
  for dtype in dtypes:
    ours_, theirs_ = our_updates[dtype], their_updates[dtype]
    assert ours_.dtype == dtype
    assert our_states.trace[dtype].dtype == their_states.trace[dtype].dtype
    # Updates of Optax have the dtype of the accumulator if it is wider.
    tolerance = float(jnp.finfo(dtype).eps)
    wide = 'complex64' if dtype == 'complex64' else 'float32'
    np.testing.assert_allclose(
      np.asarray(ours_.astype(wide)),
      np.asarray(theirs_.astype(dtype).astype(wide)),
      rtol=tolerance,
      atol=tolerance,
    )


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32', 'float64'])
@pytest.mark.parametrize(
  'loss_dtype', ['float16', 'bfloat16', 'float32', 'float64', 'int32']
)
@pytest.mark.parametrize('reaction', ['next', 'current'])
def test_dtypes_are_stable(dtype, loss_dtype, reaction):
  # The dtypes that JAX infers without computing anything.
  with jax.enable_x64('float64' in (dtype, loss_dtype)):
    params = {
      'w': jax.ShapeDtypeStruct((2, 3), dtype),
      'b': jax.ShapeDtypeStruct((3,), dtype),
    }
    optimizer = optax_lcam.lcam(reaction=reaction)
    state = jax.eval_shape(optimizer.init, params)
    updates, new_state = jax.eval_shape(
      lambda g, s, loss: optimizer.update(g, s, g, value=loss),
      params,
      state,
      jax.ShapeDtypeStruct((), loss_dtype),
    )
    for leaf in jax.tree.leaves((updates, new_state.trace)):
      assert leaf.dtype == dtype
    scalars = new_state._replace(trace=None)
    assert [x.dtype.name for x in jax.tree.leaves(scalars)] == [
      'float32',
      'float32',
      'int32',
      'int32',
      'float32',
      'int32',
      'float32',
      'int32',
    ]
    is_stable = jax.tree.map(
      lambda a, b: (
        (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
      ),
      state,
      new_state,
    )
    assert all(jax.tree.leaves(is_stable)), is_stable


def test_updates_have_the_gradients_dtype():
  params = jnp.ones(3)  # float32, as under mixed precision
  for grad_dtype, accumulator_dtype in itertools.product(
    ('float16', 'bfloat16', 'float32'), (None, 'bfloat16', 'float32')
  ):
    optimizer = optax_lcam.lcam(accumulator_dtype=accumulator_dtype)
    updates, state = optimizer.update(
      jnp.ones(3, grad_dtype), optimizer.init(params), value=1.0
    )
    assert updates.dtype == grad_dtype
    assert state.trace.dtype == (accumulator_dtype or 'float32')


def test_float64_traces_use_momenta_of_full_precision():
  with jax.enable_x64(True):
    rng = np.random.default_rng(3)
    losses = rng.standard_normal(100).astype(np.float32)
    grads = rng.standard_normal((100, 4))
    updates, states = follow(
      optax_lcam.lcam(0.93, 0.9, initial_momentum=0.7, steps_per_epoch=20),
      losses,
      grads,
    )
    expected = list(
      lcam_float64.lcam(losses, grads, initial=0.7, steps_per_epoch=20)
    )
    assert states.momentum.dtype == 'float32'
    np.testing.assert_allclose(
      updates, [s.update for s in expected], rtol=1e-13, atol=1e-13
    )


def test_bfloat16_accumulator_agrees_with_float64_up_to_rounding():
  rng = np.random.default_rng(4)
  losses = rng.standard_normal(60).astype(np.float32)
  grads = rng.standard_normal((60, 8)).astype(np.float32)
  optimizer = optax_lcam.lcam(accumulator_dtype=jnp.bfloat16)
  updates, states = follow(optimizer, losses, grads)
  expected = list(lcam_float64.lcam(losses, grads))
  assert states.trace.dtype == jnp.bfloat16
  np.testing.assert_allclose(updates, [s.update for s in expected], atol=0.15)
  np.testing.assert_array_equal(
    states.momentum, np.float32([s.next_momentum for s in expected])
  )


def test_the_state_is_the_trace_and_32_bytes():
  params = {'w': jnp.ones((30, 7)), 'b': jnp.ones(7, jnp.bfloat16)}
  state = optax_lcam.lcam().init(params)
  size = sum(x.nbytes for x in jax.tree.leaves(state))
  assert size - sum(x.nbytes for x in jax.tree.leaves(params)) == 32


def test_complex_parameters_match_float64():
  rng = np.random.default_rng(5)
  losses = rng.standard_normal(30).astype(np.float32)
  grads = rng.standard_normal((30, 3)) + 1j * rng.standard_normal((30, 3))
  grads = grads.astype(np.complex64)
  for accumulator_dtype in (None, 'float32', 'bfloat16'):
    optimizer = optax_lcam.lcam(accumulator_dtype=accumulator_dtype)
    updates, states = follow(optimizer, losses, grads)
    assert states.trace.dtype == updates.dtype == 'complex64'
    np.testing.assert_allclose(
      updates,
      [s.update for s in lcam_float64.lcam(losses, grads)],
      rtol=1e-5,
      atol=1e-5,
    )


def test_none_leaves_stay_none():
  params = {'w': jnp.ones(2), 'frozen': None}
  optimizer = optax_lcam.lcam_sgd(0.1, weight_decay=0.1, nesterov=True)
  state = optimizer.init(params)
  updates, state = optimizer.update(params, state, params, value=1.0)
  assert updates['frozen'] is None
  assert state[1].trace['frozen'] is None
  assert state[1].trace['w'].shape == (2,)


def test_a_parameter_without_gradient_keeps_its_trace():
  params = {'w': jnp.ones(2), 'b': {'c': jnp.ones(3), 'd': jnp.ones(1)}}
  optimizer = optax_lcam.lcam(nesterov=True)
  _, state = optimizer.update(params, optimizer.init(params), value=1.0)
  grads = {'w': jnp.ones(2), 'b': {'c': None, 'd': jnp.ones(1)}}
  updates, after = optimizer.update(grads, state, value=2.0)
  assert updates['b']['c'] is None
  np.testing.assert_array_equal(after.trace['b']['c'], 1)
  np.testing.assert_allclose(after.trace['b']['d'], 1.93, rtol=1e-6)
  assert jax.tree.structure(after) == jax.tree.structure(state)


def test_any_pytree_and_any_shape():
  params = (jnp.ones(()), [jnp.ones((0, 3)), {'x': jnp.ones((1, 2, 3, 4))}], ())
  optimizer = optax_lcam.lcam()
  updates, state = optimizer.update(params, optimizer.init(params), value=1.0)
  assert jax.tree.structure(updates) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, updates, params)
  jax.tree.map(np.testing.assert_array_equal, state.trace, params)


def test_the_state_copies_the_initial_momentum():
  # Otherwise donating the state would delete the array of the caller.
  momentum = jnp.float32(0.5)
  state = optax_lcam.lcam(initial_momentum=momentum).init(jnp.ones(1))
  jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(state)
  assert momentum + 0 == 0.5


def call_without_value(optimizer, state, **kwargs):
  return optimizer.update(jnp.ones(4), state, jnp.ones(4), **kwargs)


@pytest.mark.parametrize(
  ('kwargs', 'error', 'message'),
  [
    ({}, ValueError, 'missing or None'),
    ({'value': None}, ValueError, 'missing or None'),
    ({'value': np.ones(4, np.float32)}, ValueError, r'shape \(4,\)'),
    ({'value': jnp.ones(4)}, ValueError, r'shape \(4,\)'),
    ({'value': jnp.ones((1, 1))}, ValueError, r'shape \(1, 1\)'),
    ({'value': jnp.ones(1)}, ValueError, r'shape \(1,\)'),
    ({'value': (1.0, {})}, TypeError, 'type tuple'),
    ({'value': [1.0]}, TypeError, 'type list'),
    ({'value': '1.0'}, TypeError, 'type str'),
    ({'value': {'loss': 1.0}}, TypeError, 'type dict'),
    ({'value': True}, TypeError, 'type bool'),
    ({'value': 1.0 + 0j}, TypeError, 'type complex'),
    ({'value': jnp.ones((), jnp.complex64)}, TypeError, 'complex64'),
    ({'value': jnp.ones((), jnp.bool_)}, TypeError, 'bool'),
    ({'value': optax.MaskedNode()}, TypeError, 'MaskedNode'),
    ({'value': np.timedelta64(3, 's')}, TypeError, 'type timedelta64'),
    ({'value': np.datetime64('2020')}, TypeError, 'type datetime64'),
    ({'value': np.ma.masked}, ValueError, 'it is masked'),
    ({'value': np.ma.array(1.0, mask=True)}, ValueError, 'it is masked'),
    ({'value': 10**400}, ValueError, 'type int and beyond float64'),
    ({'value': Fraction(10**400)}, ValueError, 'type Fraction and beyond'),
  ],
)
@pytest.mark.parametrize('under_jit', [False, True])
def test_an_invalid_value_is_rejected(kwargs, error, message, under_jit):
  optimizer = optax_lcam.lcam()
  state = optimizer.init(jnp.ones(4))
  call = functools.partial(call_without_value, optimizer)
  given = kwargs.get('value')
  # JAX itself rejects masked arrays under jit.
  is_array = isinstance(given, (jax.Array, np.ndarray))
  if under_jit and is_array and not isinstance(given, np.ma.MaskedArray):
    call = jax.jit(call)
  with pytest.raises(error, match=f'`value` must be .*{message}') as caught:
    call(state, **kwargs)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'value',
  [
    1,
    1.0,
    Fraction(1),
    np.float16(1),
    np.int64(1),
    np.array(1.0),
    np.ma.array(1.0),
    jnp.bfloat16(1),
  ],
  ids=lambda v: type(v).__name__,
)
def test_any_real_scalar_is_accepted_as_value(value):
  optimizer = optax_lcam.lcam()
  _, state = optimizer.update(
    jnp.ones(4), optimizer.init(jnp.ones(4)), value=value
  )
  assert state.loss_sum == 1


OUT_OF_RANGE = {
  r'a number in \[0, 1\)': itertools.product(
    ('horizontal_momentum', 'vertical_momentum', 'initial_momentum'),
    (-0.1, 1.0, float('nan'), '0.9', None, 1j, True, jnp.asarray(1.2), 10**400),
  ),
  'a whole number from 1 to 16,777,216': itertools.product(
    ('steps_per_epoch',),
    (0, -1, 1.5, 391.0, '391', 2**24 + 1, True, np.array(0)),
  ),
  'True or False': itertools.product(
    ('inclusive', 'nesterov'), (1, 'yes', None)
  ),
  "'next' or 'current'": itertools.product(('reaction',), ('previous', None)),
  'a floating-point dtype': itertools.product(
    ('accumulator_dtype',), ('int32', jnp.bool_, 'f33', 3)
  ),
}


@pytest.mark.parametrize(
  'factory',
  [optax_lcam.lcam, functools.partial(optax_lcam.lcam_sgd, 0.1)],
  ids=['lcam', 'lcam_sgd'],
)
@pytest.mark.parametrize(
  ('name', 'given', 'allowed'),
  [
    (*case, allowed)
    for allowed, cases in OUT_OF_RANGE.items()
    for case in cases
  ],
)
def test_arguments_out_of_range_are_rejected(factory, name, given, allowed):
  with pytest.raises(
    ValueError, match=f'`{name}` must be .*{allowed}'
  ) as caught:
    factory(**{name: given})
  assert repr(given) in str(caught.value)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'weight_decay', [-1e-9, float('inf'), float('nan'), 'no', None]
)
def test_weight_decay_out_of_range_is_rejected(weight_decay):
  with pytest.raises(
    ValueError, match=r'`weight_decay` must be a finite number'
  ):
    optax_lcam.lcam_sgd(0.1, weight_decay=weight_decay)


@pytest.mark.parametrize(
  'averaging',
  [
    {'steps_per_epoch': None},
    {'steps_per_epoch': None, 'loss_decay': None},
    {'steps_per_epoch': 10, 'loss_decay': 0.9},
    {'steps_per_epoch': jnp.asarray(390), 'loss_decay': 0.9},
    {'steps_per_epoch': '391', 'loss_decay': 0.9},
  ],
  ids=str,
)
@pytest.mark.parametrize(
  'make', [optax_lcam.lcam, functools.partial(optax_lcam.lcam_sgd, 0.1)]
)
def test_exactly_one_of_epoch_and_decay_is_required(make, averaging):
  with pytest.raises(
    ValueError, match=r'Exactly one of `steps_per_epoch` and `loss_decay`'
  ) as caught:
    make(**averaging)
  for given in averaging.values():
    assert repr(given) in str(caught.value)


def test_a_decay_alone_means_no_epochs():
  losses = LOSSES['noisy'][:800]  # more than the default's two epochs
  grads = np.ones((800, 2), np.float32)
  expected = np.float32(
    lcam_float64.choices(losses, steps_per_epoch=None, loss_decay=0.9)
  )
  decay = {'loss_decay': 0.9}
  injected = optax.inject_hyperparams(optax_lcam.lcam_sgd)(0.1, **decay)
  for optimizer in (
    optax_lcam.lcam(**decay),
    optax_lcam.lcam(steps_per_epoch=None, **decay),
    optax_lcam.lcam(steps_per_epoch=391, **decay),
    optax_lcam.lcam_sgd(0.1, **decay),
    # Optax converts the default of steps_per_epoch to an array.
    injected,
  ):
    states = follow(optimizer, losses, grads)[1]
    reading = optax_lcam.read(states)
    np.testing.assert_array_equal(reading.momentum, expected)
    assert not reading.step.any()
    assert np.isnan(reading.last_epoch_mean).all()
  # Outside jit it is concrete, and checked.
  for steps_per_epoch, error in ((None, None), (391, None), (10, ValueError)):
    optimizer = optax.inject_hyperparams(optax_lcam.lcam_sgd)(
      0.1, steps_per_epoch=steps_per_epoch, **decay
    )
    if error is None:
      optimizer.init(jnp.ones(2))
      continue
    with pytest.raises(error, match=r'Exactly one of `steps_per_epoch`'):
      optimizer.init(jnp.ones(2))


@pytest.mark.parametrize('loss_decay', [1.0, 0.0, -0.1, '0.9', True])
def test_loss_decay_out_of_range_is_rejected(loss_decay):
  with pytest.raises(ValueError, match=r'`loss_decay` must be a number in'):
    optax_lcam.lcam(steps_per_epoch=None, loss_decay=loss_decay)


def test_traced_arguments_are_not_checked():
  @jax.jit
  def f(momentum, steps, decay):
    params = jnp.ones(2)
    for averaging in (
      {'steps_per_epoch': steps},
      {'steps_per_epoch': None, 'loss_decay': decay},
    ):
      optimizer = optax_lcam.lcam_sgd(
        0.1,
        momentum,
        momentum,
        initial_momentum=momentum,
        weight_decay=decay,
        **averaging,
      )
      state = optimizer.init(params)
      updates, state = optimizer.update(params, state, params, value=1.0)
    return updates, state[1].momentum

  updates, momentum = f(0.5, 10, 0.25)
  assert momentum == 0.5
  np.testing.assert_allclose(updates, -0.1 * 1.25)
