"""k micro-batches are equivalent to one full batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lcam
from tests.optax_lcam import training
from tests.references import lcam_float64

K = 4
STEPS = 40  # full batches
MICRO = training.make_batches(STEPS * K)
FULL = tuple(x.reshape(STEPS, -1, *x.shape[2:]) for x in MICRO)


def lcam_sgd(**kwargs):
  return optax_lcam.lcam_sgd(
    0.02, weight_decay=1e-2, steps_per_epoch=7, **kwargs
  )


def parts(log, every):
  """The readings after each full batch."""
  return jax.tree.map(lambda x: x[every - 1 :: every], log.readings)


def check_close(actual, desired, rtol=1e-5, atol=1e-6):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
    actual,
    desired,
  )


COMPOSITIONS = {
  'around': lambda k, wrap: wrap(lcam_sgd(), k),
  'in chain': lambda k, wrap: optax.chain(
    optax.identity(), wrap(lcam_sgd(), k), optax.identity()
  ),
  'around chain': lambda k, wrap: wrap(
    optax.chain(optax.clip_by_global_norm(1.0), lcam_sgd()), k
  ),
  'around inject_hyperparams': lambda k, wrap: wrap(
    optax.inject_hyperparams(optax_lcam.lcam_sgd)(0.02, steps_per_epoch=7), k
  ),
  'in partition': lambda k, wrap: optax.partition(
    {'a': wrap(lcam_sgd(), k), 'b': wrap(lcam_sgd(nesterov=True), k)},
    {'dense': 'a', 'scale': 'b'},
  ),
  'reaction current': lambda k, wrap: wrap(lcam_sgd(reaction='current'), k),
}


@pytest.mark.parametrize('name', COMPOSITIONS)
def test_micro_batches_equal_a_full_batch(name):
  make = COMPOSITIONS[name]
  full = training.train(make(1, lambda tx, _: tx), FULL)
  micro = training.train(make(K, optax_lcam.multi_steps), MICRO)
  ours, theirs = parts(micro, K), full.readings
  np.testing.assert_array_equal(ours.momentum, theirs.momentum)
  np.testing.assert_array_equal(ours.phase, theirs.phase)
  np.testing.assert_array_equal(ours.step, theirs.step)
  # Rounding errors of the gradients accumulate over the steps.
  np.testing.assert_allclose(ours.mean_loss, theirs.mean_loss, rtol=1e-4)
  assert len(set(theirs.momentum)) == 2
  check_close(micro.params, full.params, 1e-4, 1e-5)
  for field in ('loss_sum', 'trace'):
    check_close(
      [x for _, x in optax.tree.get_all_with_path(micro.state, field)],
      [x for _, x in optax.tree.get_all_with_path(full.state, field)],
      rtol=1e-4,
      atol=1e-5,
    )


def test_choices_are_those_of_float64_on_the_mean_losses():
  micro = training.train(optax_lcam.multi_steps(lcam_sgd(), K), MICRO)
  means = micro.losses.reshape(STEPS, K).astype(np.float64).mean(1)
  expected = lcam_float64.choices(np.float32(means), steps_per_epoch=7)
  np.testing.assert_array_equal(parts(micro, K).momentum, np.float32(expected))


def test_optax_multi_steps_changes_choices():
  # This is why multi_steps exists: a large share of the choices differs.
  full = training.train(lcam_sgd(), FULL)
  theirs = training.train(optax.MultiSteps(lcam_sgd(), K), MICRO)
  differing = parts(theirs, K).momentum != full.readings.momentum
  assert np.mean(differing) > 0.2


def exact_steps(count, seed=0):
  """Gradients and losses without rounding errors in float32."""
  rng = np.random.default_rng(seed)
  grads = rng.integers(-8, 8, (count, 3)).astype(np.float32)
  return grads, rng.integers(0, 16, count).astype(np.float32)


def follow(optimizer, grads, losses):
  params = jnp.zeros(grads.shape[1:], grads.dtype)
  (params, state), updates = training.follow(optimizer, params, grads, losses)
  return params, state, updates


def check_same(micro, full):
  """Scalars are bit-identical; Optax rounds the mean of the gradients."""
  micro_state = micro[1].multi_steps.inner_opt_state
  for field in micro_state._fields:
    tolerance = 1e-6 if field == 'trace' else 0
    check_close(
      getattr(micro_state, field),
      getattr(full[1], field),
      tolerance,
      tolerance,
    )
  check_close(micro[0], full[0], 2e-6, 2e-6)


@pytest.mark.parametrize('k', [1, 2, 4, 8])
def test_losses_and_choices_are_bit_identical_if_means_are_exact(k):
  grads, losses = exact_steps(64)
  optimizer = optax_lcam.lcam(0.5, 0.25, steps_per_epoch=5)
  micro = follow(optax_lcam.multi_steps(optimizer, k), grads, losses)
  full = follow(
    optimizer,
    grads.reshape(-1, k, 3).mean(1),
    losses.reshape(-1, k).mean(1),
  )
  check_same(micro, full)
  check_close(micro[2][k - 1 :: k], full[2], 1e-6, 1e-6)
  waiting = np.arange(64) % k != k - 1
  assert not np.any(micro[2][waiting])


@pytest.mark.parametrize('k', [3, 5, 7])
def test_the_mean_of_equal_losses_is_that_loss(k):
  # Otherwise a constant loss would not tie with its mean.
  losses = np.full(60 * k, 0.1, np.float32)
  optimizer = optax_lcam.multi_steps(
    optax_lcam.lcam(0.5, 0.25, inclusive=False, steps_per_epoch=7), k
  )
  params, state = jnp.zeros(1), optimizer.init(jnp.zeros(1))
  update = jax.jit(optimizer.update)
  for loss in losses:
    _, state = update(params, state, value=loss)
    assert optax_lcam.read(state).momentum in (0.9, 0.25), 'never below it'
    assert state.loss_mean in (0, np.float32(0.1))


def test_a_schedule_for_k():
  grads, losses = exact_steps(8 * 2 + 10 * 4)
  sizes = [2] * 8 + [4] * 10
  ends = np.cumsum(sizes)
  mean = lambda x: np.stack([c.mean(0) for c in np.split(x, ends[:-1])])
  optimizer = optax_lcam.lcam(0.5, 0.25, steps_per_epoch=5)
  schedule = lambda step: jnp.where(step < 8, 2, 4)
  micro = follow(optax_lcam.multi_steps(optimizer, schedule), grads, losses)
  full = follow(optimizer, mean(grads), mean(losses))
  check_same(micro, full)
  assert micro[1].multi_steps.gradient_step == 18


@pytest.mark.parametrize('in_chain', [False, True])
@pytest.mark.parametrize('bad_loss', [np.nan, 1.0])
def test_a_skipped_micro_batch_has_no_effect(in_chain, bad_loss):
  grads, losses = exact_steps(64)
  inner = optax_lcam.lcam(0.5, 0.25, steps_per_epoch=5)
  optimizer = optax_lcam.multi_steps(
    inner, K, should_skip_update_fn=optax.skip_not_finite
  )
  if in_chain:
    optimizer = optax.chain(optax.identity(), optimizer)
  # At the start, in the middle and at the end of a full batch.
  where = [0, 4, 6, 7, 7, 30, 64]
  bad_grads = np.insert(grads, where, np.array([1.0, np.inf, np.nan]), axis=0)
  bad_losses = np.insert(losses, where, bad_loss)
  clean = follow(optimizer, grads, losses)
  skipped = follow(optimizer, bad_grads, bad_losses)
  np.testing.assert_array_equal(clean[0], skipped[0])
  assert optax_lcam.read(skipped[1]) == optax_lcam.read(clean[1])
  for field in ('trace', 'loss_sum', 'loss_mean', 'gradient_step', 'mini_step'):
    np.testing.assert_array_equal(
      optax.tree.get(clean[1], field), optax.tree.get(skipped[1], field), field
    )
  assert optax.tree.get(skipped[1], 'skip_state')['should_skip']


def test_a_skip_within_a_full_batch_keeps_the_mean_so_far():
  optimizer = optax_lcam.multi_steps(
    optax_lcam.lcam(), 3, should_skip_update_fn=optax.skip_not_finite
  )
  params = jnp.ones(2)
  state = optimizer.init(params)
  means = []
  for loss, g in (
    (1.0, 1.0),
    (9.0, np.nan),
    (2.0, 1.0),
    (9.0, np.inf),
    (6.0, 1.0),
  ):
    _, state = optimizer.update(params * g, state, params, value=loss)
    means.append(float(state.loss_mean))
  assert means == [1, 1, 1.5, 1.5, 0]
  assert optax_lcam.read(state).mean_loss == 3


def test_without_a_skip_a_bad_loss_makes_that_of_its_full_batch_bad():
  optimizer = optax_lcam.multi_steps(optax_lcam.lcam(), 2)
  params = jnp.ones(2)
  state = optimizer.init(params)
  for loss in (1.0, 3.0, np.nan, 5.0):
    updates, state = optimizer.update(params, state, params, value=loss)
  reading = optax_lcam.read(state)
  assert reading.mean_loss == 2
  assert reading.step == 2
  np.testing.assert_allclose(updates, 1.93, rtol=1e-6)


@pytest.mark.parametrize(
  'dtype', ['float16', 'bfloat16', 'float32', 'float64', 'complex64']
)
def test_dtypes_are_stable_and_updates_are_accurate(dtype):
  with jax.enable_x64(dtype == 'float64'):
    rng = np.random.default_rng(0)
    grads = rng.standard_normal((32, 3))
    if dtype == 'complex64':
      grads = grads + 1j * rng.standard_normal((32, 3))
    grads = jnp.asarray(grads, dtype)
    losses = rng.standard_normal(32).astype(np.float32)
    micro = follow(optax_lcam.multi_steps(optax_lcam.lcam(), K), grads, losses)
    wide = np.asarray(
      grads, np.complex128 if dtype == 'complex64' else np.float64
    )
    expected = list(
      lcam_float64.lcam(
        np.float32(losses.reshape(-1, K).astype(float).mean(1)),
        wide.reshape(-1, K, 3).mean(1),
      )
    )
    assert micro[2].dtype == dtype
    tolerance = 16 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
      np.asarray(micro[2][K - 1 :: K], wide.dtype),
      [s.update for s in expected],
      rtol=tolerance,
      atol=tolerance,
    )


def test_one_compilation_for_the_whole_cycle():
  optimizer = optax_lcam.multi_steps(lcam_sgd(), 3)
  params = training.make_params()
  state = optimizer.init(params)
  traces = 0

  @functools.partial(jax.jit, donate_argnums=1)
  def step(params, state, loss):
    nonlocal traces
    traces += 1
    return optimizer.update(params, state, params, value=loss)[1]

  for i in range(10):
    state = step(params, state, jnp.float32(i))
  assert traces == 1


def test_extra_arguments_reach_the_inner_transformation():
  seen = []

  def update(updates, state, params=None, *, label, **extra_args):
    seen.append((label, sorted(extra_args)))
    return updates, state

  inner = optax.GradientTransformationExtraArgs(
    lambda _: optax.EmptyState(), update
  )
  optimizer = optax_lcam.multi_steps(inner, 2)
  params = jnp.ones(1)
  optimizer.update(params, optimizer.init(params), params, value=1.0, label='x')
  assert set(map(str, seen)) == {"('x', ['value'])"}


@pytest.mark.parametrize('every_k', [0, -1, 1.5, '2', True, None])
def test_an_invalid_every_k_is_rejected(every_k):
  with pytest.raises(
    ValueError, match=r'`every_k` must be a whole number'
  ) as e:
    optax_lcam.multi_steps(optax_lcam.lcam(), every_k)
  assert repr(every_k) in str(e.value)


@pytest.mark.parametrize('value', [None, jnp.ones(2), '1'])
def test_an_invalid_value_is_rejected(value):
  optimizer = optax_lcam.multi_steps(optax_lcam.lcam(), 2)
  params = jnp.ones(2)
  with pytest.raises((ValueError, TypeError), match=r'`value` must be'):
    optimizer.update(params, optimizer.init(params), params, value=value)
