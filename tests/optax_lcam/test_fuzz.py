"""Choices on random sequences of losses equal those of exact arithmetic.

A float32 is a multiple of 2^-149, so Python integers represent sums and means
without rounding.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_lcam

_STEPS = 40
_STEPS_PER_EPOCH = 16
_HORIZONTAL, _VERTICAL, _INITIAL = 0.75, 0.25, 0.5


def _draw(rng, sequences):
  """Difficult losses, float32 of shape=(sequences, _STEPS)."""
  shape = (sequences, _STEPS)
  noise = rng.normal(2.3, 0.3, shape)
  kinds = [
    noise,
    noise * np.linspace(1, 0.2, _STEPS),
    # Ties: few distinct values, or one.
    rng.choice([0.1, 0.2, 0.3], shape),
    np.broadcast_to(rng.normal(size=(sequences, 1)), shape),
    # Ties up to the last bit.
    np.nextafter(np.float32(1.1), rng.choice([1, 2], shape).astype(np.float32)),
    # Many magnitudes and both signs.
    rng.normal(size=shape) * 2.0 ** rng.integers(-8, 9, shape),
    # Subnormal or almost subnormal.
    rng.normal(size=shape) * 2.0 ** rng.integers(-149, -90, shape),
    np.zeros(shape),
  ]
  kind = rng.integers(len(kinds), size=(sequences, 1))
  losses = np.choose(kind, kinds).astype(np.float32)
  bad = rng.choice(np.asarray([np.nan, np.inf, -np.inf], np.float32), shape)
  share = rng.choice([0, 0, 0.1, 0.9], (sequences, 1))
  return np.where(rng.random(shape) < share, bad, losses)


def _exact_choices(losses):
  """The momentum after each loss of one sequence."""
  momentum, total, count = _INITIAL, 0, 0
  chosen = []
  for step, loss in enumerate(losses):
    if step % _STEPS_PER_EPOCH == 0:
      total, count = 0, 0
    if np.isfinite(loss):
      # The documented threshold below which a loss counts as zero.
      whole = 0 if abs(loss) < 2.0**-100 else int(np.ldexp(float(loss), 149))
      total, count = total + whole, count + 1
      momentum = _HORIZONTAL if whole * count <= total else _VERTICAL
    chosen.append(momentum)
  return chosen


def _choices(losses):
  transformation = optax_lcam.lcam(
    _HORIZONTAL,
    _VERTICAL,
    initial_momentum=_INITIAL,
    steps_per_epoch=_STEPS_PER_EPOCH,
  )

  def one(state, loss):
    _, state = transformation.update(jnp.zeros(()), state, value=loss)
    return state, state.momentum

  return jax.lax.scan(one, transformation.init(jnp.zeros(())), losses)[1]


def _float64_choices(losses):
  """The momentum after each loss, shape=(sequences, _STEPS)."""
  usable = np.isfinite(losses)
  # The documented threshold below which a loss counts as zero.
  plain = np.where(usable & (abs(losses) >= 2.0**-100), losses, 0)
  chosen = np.full(losses.shape, _INITIAL)
  for step in range(_STEPS):
    epoch = slice(step - step % _STEPS_PER_EPOCH, step + 1)
    total = plain[:, epoch].astype(np.float64).sum(axis=1)
    mean = total / np.maximum(usable[:, epoch].sum(axis=1), 1)
    choice = np.where(plain[:, step] <= mean, _HORIZONTAL, _VERTICAL)
    before = chosen[:, step - 1] if step else _INITIAL
    chosen[:, step] = np.where(usable[:, step], choice, before)
  return chosen


def _count_differing(ours, reference, name):
  differing = int((ours != reference).sum())
  print(
    f'\n{len(ours):,} sequences, {ours.size:,} choices: {differing} differ'
    f' from {name}.'
  )
  return differing


def test_no_choice_differs_from_float64():
  losses = _draw(np.random.default_rng(0), 100_000)
  ours = np.asarray(jax.jit(jax.vmap(_choices))(losses))
  assert _count_differing(ours, _float64_choices(losses), 'float64') == 0
  # Not vmapped.
  alone = [np.asarray(jax.jit(_choices)(sequence)) for sequence in losses[:500]]
  np.testing.assert_array_equal(ours[:500], alone)


@pytest.mark.parametrize(
  'sequences', [2_000, pytest.param(100_000, marks=pytest.mark.slow)]
)
def test_no_choice_differs(sequences):
  losses = _draw(np.random.default_rng(1), sequences)
  ours = np.asarray(jax.jit(jax.vmap(_choices))(losses))
  exact = np.asarray([_exact_choices(sequence) for sequence in losses])
  assert _count_differing(ours, exact, 'exact arithmetic') == 0
