"""Properties for any tree, any losses and any epoch length."""

from fractions import Fraction

from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_lcam
from tests.references import lcam_float64

settings.register_profile(
  'lcam',
  deadline=None,  # compilation is slow
  derandomize=True,
  max_examples=50,
  suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile('lcam')

LENGTH = 24  # of each sequence of losses: one shape needs one compilation
DTYPES = ('float16', 'bfloat16', 'float32')

# Any float32 that LCAM does not treat as zero, except the largest, so that sums
# are finite.
ordinary_losses = st.one_of(
  st.just(0.0),
  st.floats(2.0**-100, 2.0**100, width=32),
  st.floats(-(2.0**100), -(2.0**-100), width=32),
)
# Real losses repeat, tie, and are close together.
losses_of_training = st.one_of(
  st.lists(ordinary_losses, min_size=LENGTH, max_size=LENGTH),
  st.lists(
    st.sampled_from([0.1, 0.2, 0.3, 2.3]), min_size=LENGTH, max_size=LENGTH
  ),
  st.lists(
    st.integers(-3, 3).map(lambda n: 2.3 + n * 2.0**-22),
    min_size=LENGTH,
    max_size=LENGTH,
  ),
)
bad_losses = st.sampled_from([np.nan, np.inf, -np.inf])
momenta = st.floats(0, 0.984375, width=32)

trees = st.recursive(
  st.tuples(
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    st.sampled_from(DTYPES),
  ).map(lambda spec: jnp.ones(*spec)),
  lambda children: st.one_of(
    st.lists(children, max_size=3),
    st.lists(children, max_size=3).map(tuple),
    st.dictionaries(st.sampled_from('abc'), children, max_size=3),
    st.none(),
  ),
  max_leaves=5,
).filter(lambda tree: tree is not None)  # None means no parameters in Optax


def make_follow(inclusive):
  """A compiled run over LENGTH losses with the hyperparameters as arguments."""

  @jax.jit
  def follow(losses, steps_per_epoch, horizontal, vertical, initial):
    optimizer = optax_lcam.lcam(
      horizontal,
      vertical,
      steps_per_epoch=steps_per_epoch,
      initial_momentum=initial,
      inclusive=inclusive,
    )

    def step(state, loss):
      _, state = optimizer.update(jnp.ones(()), state, value=loss)
      return state, state

    return jax.lax.scan(step, optimizer.init(jnp.ones(())), losses)[1]

  return follow


FOLLOW = {inclusive: make_follow(inclusive) for inclusive in (True, False)}


def lowest_bit(x):
  """The largest power of two that x is a multiple of."""
  numerator, denominator = float(x).as_integer_ratio()
  return Fraction(numerator & -numerator, denominator)


def is_decided(losses, steps_per_epoch):
  """Whether 40 bits distinguish the loss from the mean, or sums are exact.

  float64 has 53 bits and LCAM 48. If more are needed, either may treat a near
  tie as a tie. Computed in exact arithmetic.
  """
  decided, epoch, step = [], [], 0
  for loss in losses:
    step += 1
    if np.isfinite(loss):
      epoch.append(Fraction(float(loss)))
    size = sum(map(abs, epoch))
    bits = min((lowest_bit(x) for x in epoch if x), default=1)
    excess = len(epoch) * epoch[-1] - sum(epoch) if epoch else 0
    decided.append(abs(excess) > size / 2**40 or size < bits * 2**40)
    if step == steps_per_epoch:
      epoch, step = [], 0
  return np.array(decided)


@settings(max_examples=300)
@given(
  losses=losses_of_training,
  bad=st.dictionaries(st.integers(0, LENGTH - 1), bad_losses, max_size=4),
  steps_per_epoch=st.integers(1, LENGTH + 2),
  horizontal=momenta,
  vertical=momenta,
  initial=momenta,
  inclusive=st.booleans(),
)
def test_choices_sums_and_counts_are_those_of_float64(
  losses, bad, steps_per_epoch, horizontal, vertical, initial, inclusive
):
  losses = np.array(losses, np.float32)
  losses[list(bad)] = list(bad.values())
  states = FOLLOW[inclusive](
    losses, steps_per_epoch, horizontal, vertical, initial
  )
  steps = list(
    lcam_float64.lcam(
      losses,
      horizontal=horizontal,
      vertical=vertical,
      initial=initial,
      inclusive=inclusive,
      steps_per_epoch=steps_per_epoch,
    )
  )
  decided = is_decided(losses, steps_per_epoch)
  # Undecided choices are excluded, and those that non-finite losses carry over.
  for i in range(1, LENGTH):
    if not np.isfinite(losses[i]):
      decided[i] = decided[i - 1]
  expected = np.float32([s.next_momentum for s in steps])
  np.testing.assert_array_equal(states.momentum[decided], expected[decided])
  ends = np.array([s.step == steps_per_epoch for s in steps])
  np.testing.assert_array_equal(
    states.step_count, np.where(ends, 0, [s.step for s in steps])
  )
  magnitudes = np.abs(np.where(np.isfinite(losses), losses, 0)).astype(float)
  np.testing.assert_allclose(
    states.loss_sum,
    np.where(ends, 0, [s.loss_sum for s in steps]),
    rtol=1e-6,
    atol=1e-13 * magnitudes.sum(),
  )


@given(losses=losses_of_training, inclusive=st.booleans())
def test_scaling_all_losses_by_a_power_of_two_changes_no_choice(
  losses, inclusive
):
  losses = np.array(losses, np.float32)
  losses = np.where(np.abs(losses) < 1e-20, 0, losses)
  momenta = [
    FOLLOW[inclusive](losses * np.float32(scale), 7, 0.5, 0.25, 0.125).momentum
    for scale in (1, 2.0**20, 2.0**-20)
  ]
  np.testing.assert_array_equal(momenta[0], momenta[1])
  np.testing.assert_array_equal(momenta[0], momenta[2])


@given(
  losses=losses_of_training,
  bad=st.dictionaries(st.integers(0, LENGTH - 1), bad_losses, max_size=4),
)
def test_bad_losses_are_ignored(losses, bad):
  # They count as steps, which does not matter within one long epoch.
  losses = np.array(losses, np.float32)
  losses[list(bad)] = list(bad.values())
  good = np.isfinite(losses)
  # Moving the bad losses to the end must not change the results of the others.
  reordered = np.concatenate([losses[good], losses[~good]])
  states = FOLLOW[True](losses, LENGTH + 1, 0.5, 0.25, 0.125)
  expected = FOLLOW[True](reordered, LENGTH + 1, 0.5, 0.25, 0.125)
  for field in ('loss_sum', 'loss_residual', 'loss_count', 'momentum'):
    np.testing.assert_array_equal(
      getattr(states, field)[good],
      getattr(expected, field)[: good.sum()],
      field,
    )


@settings(max_examples=25)
@given(
  params=trees,
  seed=st.integers(0, 2**16),
  nesterov=st.booleans(),
  reaction=st.sampled_from(['next', 'current']),
  accumulator_dtype=st.sampled_from([None, 'bfloat16', 'float32']),
  weight_decay=st.sampled_from([0.0, 0.5]),
)
def test_each_leaf_of_any_tree_is_updated_as_in_float64(
  params, seed, nesterov, reaction, accumulator_dtype, weight_decay
):
  rng = np.random.default_rng(seed)
  losses = rng.standard_normal(5).astype(np.float32)
  options = {'nesterov': nesterov, 'reaction': reaction, 'steps_per_epoch': 3}
  optimizer = optax_lcam.lcam_sgd(
    0.5,
    weight_decay=weight_decay,
    accumulator_dtype=accumulator_dtype,
    **options,
  )
  state = optimizer.init(params)
  leaves, structure = jax.tree.flatten(params)
  history = []
  for loss in losses:
    grads = [jnp.asarray(rng.integers(-4, 5, p.shape), p.dtype) for p in leaves]
    updates, state = optimizer.update(
      structure.unflatten(grads), state, params, value=loss
    )
    history.append((grads, jax.tree.leaves(updates)))
    assert jax.tree.structure(updates) == structure
    for u, p in zip(jax.tree.leaves(updates), leaves, strict=True):
      assert (u.dtype, u.shape) == (p.dtype, p.shape)
  for i, p in enumerate(leaves):
    grads = [
      np.asarray(g[i], np.float64) + weight_decay * np.asarray(p, np.float64)
      for g, _ in history
    ]
    steps = lcam_float64.lcam(losses, grads, **options)
    eps = max(
      float(jnp.finfo(dtype).eps) for dtype in (p.dtype, accumulator_dtype or p)
    )
    for step, (_, updates) in zip(steps, history, strict=True):
      np.testing.assert_allclose(
        np.asarray(updates[i], np.float64),
        -0.5 * step.update,
        rtol=8 * eps,
        atol=40 * eps,
      )


@given(
  losses=st.lists(
    st.floats(-1e6, 1e6, width=32), min_size=LENGTH, max_size=LENGTH
  ),
  k=st.sampled_from([1, 2, 3, 4, 6]),
)
@settings(max_examples=15)
def test_accumulated_means_are_those_of_the_full_batches(losses, k):
  losses = np.array(losses, np.float32)
  losses = np.where(np.abs(losses) < 1e-20, 0, losses).astype(np.float32)
  optimizer = optax_lcam.multi_steps(optax_lcam.lcam(0.5, 0.25), k)

  def step(state, loss):
    _, state = optimizer.update(jnp.ones(()), state, value=loss)
    return state, optax_lcam.read(state).mean_loss

  state = optimizer.init(jnp.ones(()))
  _, means = jax.lax.scan(step, state, losses)
  batches = losses.reshape(-1, k).astype(np.float64)
  expected = np.cumsum(batches.mean(1)) / np.arange(1, LENGTH // k + 1)
  np.testing.assert_allclose(
    means[k - 1 :: k],
    expected,
    rtol=1e-6,
    atol=1e-6 * np.abs(losses).max(),
  )


@given(
  losses=losses_of_training,
  loss_decay=st.floats(0.5, 0.9990234375),
)
@settings(max_examples=25)
def test_the_moving_average_is_that_of_float64(losses, loss_decay):
  losses = np.array(losses, np.float32)

  @jax.jit
  def follow(losses, loss_decay):
    optimizer = optax_lcam.lcam(steps_per_epoch=None, loss_decay=loss_decay)

    def step(state, loss):
      _, state = optimizer.update(jnp.ones(()), state, value=loss)
      return state, (state.loss_sum, state.momentum)

    return jax.lax.scan(step, optimizer.init(jnp.ones(())), losses)[1]

  means, momenta = follow(losses, loss_decay)
  steps = list(
    lcam_float64.lcam(losses, steps_per_epoch=None, loss_decay=loss_decay)
  )
  expected = np.array([s.mean for s in steps])
  scale = np.maximum.accumulate(np.abs(losses.astype(np.float64)))
  np.testing.assert_array_less(np.abs(means - expected), 1e-5 * scale + 1e-35)
  clear = np.abs(losses - expected) > 1e-4 * scale
  tied = np.array([np.all(losses[: i + 1] == x) for i, x in enumerate(losses)])
  chosen = np.float32([s.next_momentum for s in steps])
  decided = clear | tied
  np.testing.assert_array_equal(momenta[decided], chosen[decided])


def test_optax_and_lcam_have_the_same_parameters_when_momenta_are_equal():
  # Bit-identical over a whole trajectory.
  params = {'w': jnp.linspace(-1, 1, 12).reshape(3, 4), 'b': jnp.ones(4)}
  loss_fn = lambda p: jnp.sum((p['w'] @ p['b'] - 1) ** 2)
  ours = optax_lcam.lcam_sgd(0.01, 0.9, 0.9, steps_per_epoch=5)
  theirs = optax.with_extra_args_support(optax.sgd(0.01, momentum=0.9))

  def train(optimizer):
    def step(carry, _):
      params, state = carry
      loss, grads = jax.value_and_grad(loss_fn)(params)
      updates, state = optimizer.update(grads, state, params, value=loss)
      return (optax.apply_updates(params, updates), state), loss

    return jax.lax.scan(step, (params, optimizer.init(params)), length=50)

  ((ours_params, _), ours_losses) = jax.jit(lambda: train(ours))()
  ((their_params, _), their_losses) = jax.jit(lambda: train(theirs))()
  jax.tree.map(np.testing.assert_array_equal, ours_params, their_params)
  np.testing.assert_array_equal(ours_losses, their_losses)
