r"""The paper's Figure 1 as a simulation: do the groups pull each other?

Section 3 explains LCAM with two groups of weights in a valley: quick ones,
:math:`W_Q`, and slow ones, :math:`W_S`. They are *conjugate*: coupled through
the loss, so that moving one pulls the other. Figure 1 sketches this. Here it is
computed with one quick weight :math:`q` and one slow weight :math:`s`:

.. math::

  L_t(q, s) = V(q - a_t, s - b_t), \quad
  V(q, s) = \tfrac12 k_q q^2 + \tfrac12 k_s s^2 + c q s

with :math:`k_q \gg k_s` and :math:`c^2 < k_q k_s`. Each batch :math:`t` has
its minimum at :math:`(a_t, b_t)`, normally distributed around the optimum
(0, 0), so the batch loss that selects the phase and the gradient belong to the
same batch. The optimizer is :func:`optax_lcam.lcam_sgd`. ``s`` starts far from
the optimum; "stationary" refers to the second half of the steps.

The claims of sections 3.1.2 to 3.3 are interpreted as follows:

* The paper accelerates a *phase*. A higher momentum always moves all weights
  more; only a gain from choosing the steps by their loss supports the
  explanation. Each pair of momenta is therefore compared with a random control
  (**coin**) that uses the same two momenta with the pair's share of horizontal
  steps (in the same hundred steps, over all seeds), independent of the loss;
  and with the **fixed** momentum that is the pair's average in these steps. All
  arms have the same noise, so that differences are paired by seed.
* "W_Q exerts a pull on W_S": accelerating the horizontal phase moves the slow
  group more than the random control does (rms movement per step, stationary,
  over all steps, because horizontal steps alone would reflect the choice).
* "W_S pulls W_Q": accelerating the vertical phase moves the quick group more
  than the random control does.
* "The point of maximum velocity corresponds to the bottom of the valley, where
  the loss is small": the length of the steps of :math:`W_Q` correlates with a
  loss at or below the mean. The step *to* the point at which the loss is
  computed does not depend on the batch. The step *from* this point contains the
  gradient of the same batch; LCAM then multiplies it by the chosen momentum.
* "It effectively increases the oscillation magnitude" (3.3): the rms distance
  of both groups from the optimum is larger than with the fixed momentum.

Traction requires coupling. Each arm therefore also runs with :math:`c = 0`: a
gain that occurs there too is no traction, for any claim. (The uncoupled slow
weight also has less noise, because none comes from the quick one. Differences
are relative to the control with the same coupling.)

Other valleys, with another learning rate, coupling or noise, show how much
depends on this one.

The model omits saddle points and any other curvature than that of one valley,
weight decay, changing learning rates, groups of more than one weight, the
parameters :math:`W_O`, batches that are harder at all weights, and
generalization. It can show whether the mechanism works as described, not
whether it occurs in a network; for that see :mod:`train.studies.movement`.
"""

import collections
from collections.abc import Sequence
import dataclasses
import functools
import itertools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.console

import optax_lcam
from train import errors
from train.studies import traction_figure
from train.studies import verdicts

# (horizontal, vertical), those of sections 4.1 and 4.2.
_SYMMETRIC = ((0.9, 0.9), (0.95, 0.95))
_ACCELERATES_HORIZONTAL = ((0.95, 0.9), (0.93, 0.9))
_ACCELERATES_VERTICAL = ((0.9, 0.95), (0.9, 0.93))
_ASYMMETRIC = _ACCELERATES_HORIZONTAL + _ACCELERATES_VERTICAL
_PAIRS = _SYMMETRIC + _ASYMMETRIC

# Steps per block. The controls follow LCAM block by block, because its share of
# horizontal steps differs on the way to the optimum.
_BLOCK = 100

# Blocks after which the remaining distance is recorded.
_LOOKS = (1, 2, 4)

_PATH_PAIRS = ((0.9, 0.9), (0.95, 0.9), (0.9, 0.95))
_PATH_STEPS = 250


class Valley(NamedTuple):
  """The loss, its noise, and the settings of the descent."""

  quick_curvature: float = 1.0
  slow_curvature: float = 0.01
  coupling: float = 0.06
  """c; below the square root of the product of the curvatures."""
  noise: float = 1.0
  """Standard deviation of a batch's minimum, in either direction."""
  quick_start: float = 0.0
  slow_start: float = 8.0
  learning_rate: float = 0.1
  steps_per_epoch: int = 391

  def loss(self, offset: Any, coupling: Any = None) -> Any:
    """The loss of a batch.

    Args:
      offset: shape=(..., 2): the weights minus the minimum of the batch.
      coupling: In place of the valley's own.

    Returns:
      shape=(...).
    """
    q, s = offset[..., 0], offset[..., 1]
    return (
      self.quick_curvature * q**2 / 2
      + self.slow_curvature * s**2 / 2
      + (self.coupling if coupling is None else coupling) * q * s
    )


class _Arm(NamedTuple):
  """How the momentum is chosen. Several arms have a leading axis."""

  # shape=(blocks,), dtype=float32: the two momenta.
  horizontal: Any
  vertical: Any
  # shape=(blocks,), dtype=float32: probability of the horizontal momentum in a
  # random control; NaN if the loss chooses.
  rate: Any
  # shape=(), dtype=float32.
  coupling: Any


class _Sums(NamedTuple):
  """Sums over the steps of a block, for one arm and one seed. float32.

  "Low" is a loss at or below the mean of LCAM's epoch so far.
  """

  horizontal: Any  # shape=(): steps taken with the horizontal momentum.
  moved_horizontal: Any  # shape=(2,): squared movements in horizontal steps.
  moved_vertical: Any  # shape=(2,): in the others.
  distance: Any  # shape=(2,): squared distances from the optimum.
  low: Any  # shape=(): steps with a low loss.
  # shape=(2,): W_Q's step to the point of the loss, and the step from it.
  speed: Any
  squared_speed: Any
  low_speed: Any  # shape=(2,): the speeds at a low loss.


class _Place(NamedTuple):
  """The state of a simulation."""

  weights: Any  # shape=(2,), dtype=float32: q, s.
  opt_state: Any
  arrived_by: Any  # shape=(2,), dtype=float32: the last movement.
  horizontal: Any  # shape=(), dtype=bool: whether the next step is.


def measure(
  seeds: int = 1000,
  steps: int = 2400,
  seed: int = 0,
  *,
  valley: Valley | None = None,
  console: rich.console.Console | None = None,
) -> dict[str, Any]:
  """Runs all arms with all seeds, and judges the paper's claims.

  Args:
    seeds: Repetitions, at least 1. Each has its own noise, the same in all
      arms.
    steps: Steps per repetition; a multiple of 100, at least 200.
    seed: Seed of the noise.
    valley: The model. Default: that of the report.
    console: Not used: there is no progress to show.

  Returns:
    Plain JSON values: ``settings``; ``arms``, each with its figures;
    ``comparisons`` of each asymmetric pair with its controls, as differences
    in percent of the control's mean; ``others``, the figures behind the claims
    in other valleys; ``claims``, see :func:`judge`; ``paths`` to draw. Figures
    over the seeds have ``n``, ``mean``, ``sd`` and the 95 % interval's
    ``half_width``.

  Raises:
    UsageError: If ``seeds`` or ``steps`` is out of range.
    ValueError: If the loss of ``valley`` has no minimum.
  """
  del console
  valley = valley or Valley()
  if valley.coupling**2 >= valley.quick_curvature * valley.slow_curvature:
    raise ValueError(
      '`coupling` squared must be below the product of the curvatures, got'
      f' {valley}.'
    )
  blocks, rest = divmod(steps, _BLOCK)
  if rest or blocks < 2:
    raise errors.UsageError(
      f'--steps must be a multiple of {_BLOCK} and at least {2 * _BLOCK}, got'
      f' {steps}.'
    )
  if seeds < 1:
    raise errors.UsageError(f'--seeds must be at least 1, got {seeds}.')
  for name, given, most in (
    ('--steps', steps, 1_000_000),
    ('--seeds', seeds, 100_000),
    ('--seed', seed, 2**32 - 1),
  ):
    if not 0 <= given <= most:
      raise errors.UsageError(
        f'{name} must be at least 0 and at most {most}, got {given}.'
      )
  keys = _seed_keys(seed, seeds)
  results = _collect(valley, *_run_all(valley, keys, blocks=blocks))
  records = [
    {
      **name._asdict(),
      **{
        key: verdicts.summarize(values) for key, values in result.values.items()
      },
    }
    for name, result in results.items()
  ]
  comparisons = [
    _compare(results, pair, control)
    for pair in _ASYMMETRIC
    for control in ('coin', 'fixed')
  ]
  record: dict[str, Any] = {
    'settings': {
      'seeds': seeds,
      'steps': steps,
      'seed': seed,
      'stationary_from_step': blocks // 2 * _BLOCK,
      **valley._asdict(),
    },
    'arms': records,
    'comparisons': comparisons,
  }
  record['others'] = [
    _measure_other(
      valley._replace(**changes), changes, keys[: -(-seeds // 4)], blocks
    )
    for changes in other_valleys(valley)
  ]
  return {
    **record,
    'claims': judge(record),
    'paths': {
      verdicts.pair_name(pair): np.round(
        walk(pair, seed, 1, min(steps, _PATH_STEPS), valley=valley).places[0],
        2,
      ).tolist()
      for pair in _PATH_PAIRS
    },
  }


def other_valleys(valley: Valley) -> list[dict[str, Any]]:
  """Changes of one setting at a time, to see what depends on it."""
  strongest = (valley.quick_curvature * valley.slow_curvature) ** 0.5
  return [
    {'learning_rate': 0.3 * valley.learning_rate},
    {'learning_rate': 2 * valley.learning_rate},
    {'coupling': 0.5 * valley.coupling},
    {'coupling': (valley.coupling + 2 * strongest) / 3},
    # The start does not change: relative to larger noise it is closer to the
    # optimum.
    {'noise': 0.3 * valley.noise},
    {'noise': 3 * valley.noise},
  ]


def _measure_other(
  valley: Valley, changes: dict[str, Any], keys: jax.Array, blocks: int
) -> dict[str, Any]:
  """Only the figures by which the claims are judged."""
  results = _collect(valley, *_run_all(valley, keys, blocks=blocks))
  symmetric = _Name('LCAM', *_SYMMETRIC[0], True)
  ends = ('speed_correlation_to', 'speed_correlation_from')
  expected = _expectations(
    {
      'arms': [
        {
          **symmetric._asdict(),
          **{
            end: verdicts.summarize(results[symmetric].values[end])
            for end in ends
          },
        }
      ],
      'comparisons': [
        _compare(results, pair, control)
        for pair in _ASYMMETRIC
        for control in _CONTROLS
      ],
    }
  )
  return {
    'changes': {name: float(f'{x:.5g}') for name, x in changes.items()},
    'n': len(keys),
    'figures': [
      {
        'mean': e.figure['mean'],
        'sd': e.figure['sd'],
        'needed_mean': needed['mean'],
        'needed_sd': needed['sd'],
      }
      for e in expected
      for needed in [e.needed or e.figure]
    ],
  }


def _elsewhere(
  expected: Sequence[verdicts.Expected], other: dict[str, Any]
) -> list[verdicts.Expected]:
  """The same claims with the figures of another valley."""
  found = []
  for e, figures in zip(expected, other['figures'], strict=True):
    own, needed = (
      {
        'n': other['n'],
        'mean': figures[f'{prefix}mean'],
        'sd': figures[f'{prefix}sd'],
      }
      for prefix in ('', 'needed_')
    )
    found.append(
      dataclasses.replace(
        e,
        figure=own,
        without_coupling=e.without_coupling and needed,
        also=e.also and needed,
      )
    )
  return found


class Walks(NamedTuple):
  """LCAM with several seeds in one valley."""

  places: np.ndarray
  """shape=(seeds, steps + 1, 2), dtype=float32: q and s, from the start on."""
  minima: np.ndarray
  """shape=(seeds, steps, 2), dtype=float32: a_t and b_t of the batches."""


def walk(
  pair: tuple[float, float],
  seed: int,
  seeds: int,
  steps: int,
  *,
  valley: Valley | None = None,
) -> Walks:
  """The paths of LCAM, and the batches that it saw.

  Args:
    pair: The horizontal and the vertical momentum.
    seed: As for :func:`measure`.
    seeds: As for :func:`measure`.
    steps: Number of steps.
    valley: As for :func:`measure`.
  """
  valley = valley or Valley()
  blocks = -(-steps // _BLOCK)
  arm = _lcam_arm(pair, blocks, valley.coupling)
  after, minima = jax.device_get(
    _walk(valley, arm, _seed_keys(seed, seeds), blocks)
  )
  start = np.array([valley.quick_start, valley.slow_start], np.float32)
  places = np.concatenate([np.tile(start, (seeds, 1, 1)), after], axis=1)
  return Walks(places[:, : steps + 1], minima[:, :steps])


# ----------------------------------------------------------------- simulation


def _seed_keys(seed: int, seeds: int) -> jax.Array:
  # The noise of a seed does not depend on the number of seeds.
  key = jax.random.key(seed)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(seeds))


def _draw(
  valley: Valley, key: jax.Array, step: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The minimum of a batch, shape=(2,), and a uniform number for controls."""
  minimum_key, coin_key = jax.random.split(jax.random.fold_in(key, step))
  minimum = valley.noise * jax.random.normal(minimum_key, (2,))
  return minimum, jax.random.uniform(coin_key)


@functools.partial(jax.jit, static_argnames='blocks')
def _run_all(
  valley: Valley, keys: jax.Array, blocks: int
) -> tuple[_Sums, jax.Array, _Sums, jax.Array]:
  """Runs LCAM's arms, and then the controls, which follow them.

  Args:
    valley: The model.
    keys: shape=(seeds,): PRNG keys.
    blocks: Hundreds of steps to run.

  Returns:
    The sums of LCAM's arms, with shape=(arms, seeds, blocks, ...), and their
    weights at the end of each block, shape=(arms, seeds, blocks, 2); the same
    of the controls. The order of the arms is that of :func:`_lcam_names` and
    :func:`_control_names`.
  """
  follow = functools.partial(_run_one, valley, blocks)
  follow_all = jax.vmap(jax.vmap(follow, (None, 0)), (0, None))

  def run(arms: list[_Arm]) -> tuple[_Sums, jax.Array]:
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arms)
    sums, ends, _ = follow_all(stacked, keys)
    return sums, ends

  couplings = {True: valley.coupling, False: jnp.zeros([])}
  names = _lcam_names()
  arms = [
    _lcam_arm((n.horizontal, n.vertical), blocks, couplings[n.coupled])
    for n in names
  ]
  sums, ends = run(arms)

  def control(name: _Name) -> _Arm:
    i = names.index(name._replace(kind='LCAM'))
    rate = sums.horizontal[i].mean(0) / _BLOCK
    if name.kind == 'coin':
      return arms[i]._replace(rate=rate)
    average = rate * name.horizontal + (1 - rate) * name.vertical
    return arms[i]._replace(horizontal=average, vertical=average)

  return sums, ends, *run([control(name) for name in _control_names()])


def _lcam_arm(pair: tuple[float, float], blocks: int, coupling: Any) -> _Arm:
  horizontal, vertical = pair
  return _Arm(
    horizontal=jnp.full(blocks, horizontal, jnp.float32),
    vertical=jnp.full(blocks, vertical, jnp.float32),
    rate=jnp.full(blocks, jnp.nan, jnp.float32),
    coupling=jnp.asarray(coupling, jnp.float32),
  )


@functools.partial(jax.jit, static_argnames='blocks')
def _walk(
  valley: Valley, arm: _Arm, keys: jax.Array, blocks: int
) -> tuple[jax.Array, jax.Array]:
  """The weights after each step, and the minima of the batches."""
  steps = blocks * _BLOCK

  def of_seed(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    _, _, places = _run_one(valley, blocks, arm, key, keep_path=True)
    minima, _ = jax.vmap(lambda step: _draw(valley, key, step))(
      jnp.arange(steps)
    )
    assert places is not None
    return places.reshape(steps, 2), minima

  return jax.vmap(of_seed)(keys)


def _run_one(
  valley: Valley,
  blocks: int,
  arm: _Arm,
  key: jax.Array,
  keep_path: bool = False,
) -> tuple[_Sums, jax.Array, jax.Array | None]:
  """Runs one arm with one seed.

  Args:
    valley: The model.
    blocks: Hundreds of steps to run.
    arm: The arm, without an axis of arms.
    key: PRNG key of the seed.
    keep_path: Whether to return the weights after each step.

  Returns:
    Sums with shape=(blocks, ...), the weights at the end of each block,
    shape=(blocks, 2), and those after each step, shape=(blocks, 100,
    2), or ``None``.
  """

  def batch_loss(weights: jax.Array, minimum: jax.Array) -> jax.Array:
    return valley.loss(weights - minimum, arm.coupling)

  def take_step(
    carry: tuple[_Place, _Sums], step: jax.Array
  ) -> tuple[tuple[_Place, _Sums], jax.Array | None]:
    place, sums = carry
    block = step // _BLOCK
    minimum, uniform = _draw(valley, key, step)
    loss, gradient = jax.value_and_grad(batch_loss)(place.weights, minimum)

    # As in LCAM, the choice of the random control is for the next step: LCAM
    # selects between two equal momenta.
    horizontal, vertical = arm.horizontal[block], arm.vertical[block]
    by_loss = jnp.isnan(arm.rate[block])
    heads = uniform < arm.rate[block]
    tossed = jnp.where(heads, horizontal, vertical)
    optimizer = optax_lcam.lcam_sgd(
      valley.learning_rate,
      jnp.where(by_loss, horizontal, tossed),
      jnp.where(by_loss, vertical, tossed),
      steps_per_epoch=valley.steps_per_epoch,
    )
    movement, opt_state = optimizer.update(
      gradient, place.opt_state, place.weights, value=loss
    )
    weights = optax.apply_updates(place.weights, movement)

    low = optax_lcam.read(opt_state).phase == optax_lcam.Phase.HORIZONTAL
    speed = jnp.abs(jnp.stack([place.arrived_by[0], movement[0]]))
    figures_of_step = _Sums(
      horizontal=place.horizontal,
      moved_horizontal=jnp.where(place.horizontal, movement**2, 0.0),
      moved_vertical=jnp.where(place.horizontal, 0.0, movement**2),
      distance=place.weights**2,
      low=low,
      speed=speed,
      squared_speed=speed**2,
      low_speed=jnp.where(low, speed, 0.0),
    )
    new_place = _Place(
      weights=weights,
      opt_state=opt_state,
      arrived_by=movement,
      horizontal=jnp.where(by_loss, low, heads),
    )
    sums = jax.tree.map(jnp.add, sums, figures_of_step)
    return (new_place, sums), weights if keep_path else None

  def run_block(
    place: _Place, block: jax.Array
  ) -> tuple[_Place, tuple[_Sums, jax.Array, jax.Array | None]]:
    steps = block * _BLOCK + jnp.arange(_BLOCK)
    zero, two_zeros = jnp.zeros([]), jnp.zeros(2)
    sums = _Sums(
      horizontal=zero,
      moved_horizontal=two_zeros,
      moved_vertical=two_zeros,
      distance=two_zeros,
      low=zero,
      speed=two_zeros,
      squared_speed=two_zeros,
      low_speed=two_zeros,
    )
    (place, sums), places = jax.lax.scan(take_step, (place, sums), steps)
    return place, (sums, place.weights, places)

  weights = jnp.array([valley.quick_start, valley.slow_start], jnp.float32)
  start = _Place(
    weights=weights,
    opt_state=optax_lcam.lcam_sgd(valley.learning_rate).init(weights),
    arrived_by=jnp.zeros_like(weights),
    horizontal=jnp.array(False),
  )
  _, results = jax.lax.scan(run_block, start, jnp.arange(blocks))
  return results


# -------------------------------------------------------------------- figures


class _Name(NamedTuple):
  """The identity of an arm."""

  kind: str  # LCAM, coin or fixed.
  horizontal: float
  vertical: float
  coupled: bool


def _lcam_names() -> list[_Name]:
  return [
    _Name('LCAM', pair[0], pair[1], coupled)
    for coupled, pair in itertools.product((True, False), _PAIRS)
  ]


def _control_names() -> list[_Name]:
  return [
    _Name(kind, pair[0], pair[1], coupled)
    for coupled, pair, kind in itertools.product(
      (True, False), _ASYMMETRIC, ('coin', 'fixed')
    )
  ]


class _Result(NamedTuple):
  """The results of an arm."""

  rate: np.ndarray  # shape=(blocks,): share of horizontal steps, all seeds.
  values: dict[str, np.ndarray]  # by figure, each of shape=(seeds,).


def _collect(valley: Valley, *parts: Any) -> dict[_Name, _Result]:
  """Figures of each arm from the results of :func:`_run_all`."""
  arrays = jax.device_get(parts)
  results = [
    _Result(
      rate=sums.horizontal[i].mean(0) / _BLOCK,
      values=_figures_of_arm(
        jax.tree.map(lambda x: np.asarray(x[i], np.float64), sums),
        ends[i],
      ),
    )
    for sums, ends in (arrays[:2], arrays[2:])
    for i in range(len(ends))
  ]
  return dict(zip(_lcam_names() + _control_names(), results, strict=True))


def _figures_of_arm(sums: _Sums, ends: np.ndarray) -> dict[str, np.ndarray]:
  """Figures of one arm, each of shape=(seeds,).

  Args:
    sums: Of shape=(seeds, blocks, ...).
    ends: shape=(seeds, blocks, 2): the weights at the end of each block.
  """
  blocks = ends.shape[1]
  stationary = jax.tree.map(lambda x: x[:, blocks // 2 :].sum(1), sums)
  steps = (blocks - blocks // 2) * _BLOCK
  horizontal = stationary.horizontal[:, None]
  movement = stationary.moved_horizontal + stationary.moved_vertical
  # NaN if a phase has no steps.
  with np.errstate(invalid='ignore', divide='ignore'):
    by_group = {
      'movement': np.sqrt(movement / steps),
      'movement_horizontal': np.sqrt(stationary.moved_horizontal / horizontal),
      'movement_vertical': np.sqrt(
        stationary.moved_vertical / (steps - horizontal)
      ),
      'distance': np.sqrt(stationary.distance / steps),
    }
    to_place, from_place = verdicts.correlate(
      stationary.low[:, None] / steps,
      stationary.speed / steps,
      stationary.squared_speed / steps,
      stationary.low_speed / steps,
    ).T
  return {
    'share_horizontal': stationary.horizontal / steps,
    **{
      f'{group}_{name}': values[:, i]
      for name, values in by_group.items()
      for i, group in enumerate(verdicts.GROUPS)
    },
    **{
      _left_after(look * _BLOCK): np.abs(ends[:, look - 1, 1])
      for look in _LOOKS
      if look <= blocks
    },
    'speed_correlation_to': to_place,
    'speed_correlation_from': from_place,
  }


def _left_after(steps: int) -> str:
  return f'slow_left_after_{steps}'


def _compare(
  results: dict[_Name, _Result], pair: tuple[float, float], control: str
) -> dict[str, Any]:
  """Differences of a pair from its control, in percent of the control."""

  def differences(coupled: bool, figure: str) -> np.ndarray:
    ours, theirs = (
      results[_Name(kind, *pair, coupled)].values[figure]
      for kind in ('LCAM', control)
    )
    return 100 * (ours - theirs) / theirs.mean()

  names = [
    name
    for name in results[_Name('LCAM', *pair, True)].values
    if name.endswith(('_movement', '_distance'))
  ]
  compared = {}
  for name in names:
    coupled, uncoupled = (differences(c, name) for c in (True, False))
    compared[name] = {
      'coupled': verdicts.summarize(coupled),
      'uncoupled': verdicts.summarize(uncoupled),
      'due_to_coupling': verdicts.summarize(coupled - uncoupled),
    }
  return {'pair': verdicts.pair_name(pair), 'control': control, **compared}


def judge(record: dict[str, Any]) -> list[dict[str, Any]]:
  """Judges the paper's claims by the figures of a record.

  Args:
    record: From :func:`measure`, or read from traction.json.

  Returns:
    For each claim its words; its figure with the simultaneous interval and p;
    ``needed``, the same of the excess due to coupling or of the other figure
    that the claim requires; the margin, the verdict and a sentence, which also
    counts the verdicts in the other valleys.
  """
  expected = _expectations(record)
  claims = _claims(record, expected)
  elsewhere = [
    verdicts.judge(_elsewhere(expected, other))
    for other in record.get('others', [])
  ]
  for i, claim in enumerate(claims):
    found = collections.Counter(other[i].short for other in elsewhere)
    if found:
      counts = ', '.join(f'{short} in {n}' for short, n in found.most_common())
      claim['sentence'] += f' In {len(elsewhere)} other valleys: {counts}.'
  return claims


def _asked(record: dict[str, Any]) -> list[tuple[dict[str, Any], str, str]]:
  """The claims on comparisons: the comparison, the figure and the words."""
  return [
    (compared, name, claim)
    for compared in record['comparisons']
    for claim, name in _expected(compared['pair'], compared['control'])
  ]


def _at_the_bottom(record: dict[str, Any]) -> tuple[Any, Any]:
  """The two correlations of the symmetric pair: the step to, and from."""
  (symmetric,) = (
    arm
    for arm in record['arms']
    if _Name(*(arm[field] for field in _Name._fields))
    == _Name('LCAM', *_SYMMETRIC[0], True)
  )
  return symmetric['speed_correlation_to'], symmetric['speed_correlation_from']


def _expectations(record: dict[str, Any]) -> list[verdicts.Expected]:
  """All claims, the one on the bottom of the valley last."""
  return [
    *(
      verdicts.Expected(
        claim,
        compared[name]['coupled'],
        verdicts.MARGIN_PERCENT,
        ' %',
        compared[name]['due_to_coupling'],
      )
      for compared, name, claim in _asked(record)
    ),
    verdicts.expected_at_the_bottom(*_at_the_bottom(record)),
  ]


def _claims(
  record: dict[str, Any], expected: Sequence[verdicts.Expected]
) -> list[dict[str, Any]]:
  """The results of the claims in the valley of the record."""
  pair = _SYMMETRIC[0]
  *found_gains, found_speed = verdicts.judge(expected)
  claims = []
  for (compared, name, claim), of_gain, found in zip(
    _asked(record), expected, found_gains, strict=False
  ):
    group, what = name.split('_')
    does = {'movement': 'moves', 'distance': 'oscillates'}[what]
    excess = verdicts.show_points(
      compared[name]['due_to_coupling'], found.needed_half_width
    )
    claims.append(
      {
        **found.record(of_gain),
        'pair': compared['pair'],
        'control': compared['control'],
        'figure': name,
        'sentence': (
          f'{claim}, {compared["pair"]}: the {group} group {does}'
          f' {verdicts.show_percent(of_gain.figure, found.half_width)} than'
          f' with {_CONTROLS[compared["control"]]} (without coupling'
          f' {verdicts.show_percent(compared[name]["uncoupled"])}; due to'
          f' coupling {excess}): {found.words}.'
        ),
      }
    )
  claims.append(
    {
      **found_speed.record(expected[-1]),
      'pair': verdicts.pair_name(pair),
      'control': None,
      'figure': 'speed_correlation_to',
      'sentence': verdicts.bottom_sentence(
        verdicts.pair_name(pair), *_at_the_bottom(record), found_speed
      ),
    }
  )
  return claims


_CONTROLS = {
  'coin': 'the random control',
  'fixed': 'fixed momentum with the same average',
}


def _expected(pair: str, control: str) -> list[tuple[str, str]]:
  """The claims on a comparison: the words, and the figure that is higher."""
  if control == 'fixed':
    return [
      (f'W_{group[0].upper()} oscillates more widely', f'{group}_distance')
      for group in verdicts.GROUPS
    ]
  if pair in map(verdicts.pair_name, _ACCELERATES_HORIZONTAL):
    return [('W_Q pulls W_S', 'slow_movement')]
  return [('W_S pulls W_Q', 'quick_movement')]


# ------------------------------------------------------------------ for reports


def title(record: dict[str, Any]) -> str:
  del record
  return 'Figure 1: the traction model, simulated'


def summary(record: dict[str, Any]) -> str:
  said = (
    'A quick and a slow weight in a noisy quadratic valley,'
    f' {record["settings"]["seeds"]:,} seeds (`python -m train traction`).'
  )
  changes = [
    f'{name.replace("_", " ")} {value:g}'
    for other in record.get('others', [])
    for name, value in other['changes'].items()
  ]
  if changes:
    settings = ', '.join(
      f'{name.replace("_", " ")} {record["settings"][name]:g}'
      for name in ('learning_rate', 'coupling', 'noise')
    )
    said += (
      f' With {settings}. The other valleys use a quarter of the seeds, and'
      f' each changes one setting: {", ".join(changes)}.'
    )
  note = verdicts.intervals_note(len(_expectations(record)), 'without coupling')
  return f'{said} {note}'


def sentences(
  record: dict[str, Any], beside: Sequence[dict[str, Any]] = ()
) -> list[str]:
  del beside  # Each simulation is a family of its own.
  return [claim['sentence'] for claim in judge(record)]


def picture(record: dict[str, Any]) -> str:
  del record
  return 'figure1'


def draw(
  record: dict[str, Any],
  path: pathlib.Path,
  beside: Sequence[dict[str, Any]] = (),
) -> None:
  """Draws :mod:`train.studies.traction_figure`."""
  del beside
  traction_figure.draw(record, judge(record), path)
