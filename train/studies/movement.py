"""Do quick and slow weights of a trained network pull each other?

This study asks the question of :mod:`train.studies.traction` for a network:
section 3 of the paper says that accelerating one phase moves the *other* group
of weights. It restores the last checkpoint of a finished run and continues its
training several times, from the same weights with the same batches:

* LCAM with 0.95 in the horizontal and 0.9 in the vertical phase, the paper's
  way to accelerate W_Q (sections 4.1 and 4.2), and the reverse;
* for each, a random control ("coin") with the same two momenta, independent of
  the loss: the phases of LCAM are shuffled within each epoch, so that their
  number is the same and only their order is random;
* LCAM with 0.9 in both phases, which has phases but no asymmetry.

The learning rate is constant: a tenth of the run's initial rate. At the final
rates of a schedule the weights hardly move, and the initial rate would move
them far from the checkpoint; the paper's schedules pass through a tenth. The
momentum starts from zero, and the first epoch is not measured.

Quick and slow: the weights of convolutions and of the linear layer are ranked
by the variance of their gradients over the batches of an epoch, all at the
weights of the checkpoint, so that a changing mean does not contribute. The
quarter with the largest variance is called quick, the quarter with the smallest
slow. (The paper defines W_Q by how much weights change; it gives no way to
identify them.)

Movement is the root mean square change of a weight in a step, over the weights
of a group and over the steps, including weight decay. Consecutive steps are not
independent, so intervals are over runs; a single run has none. Unlike the
simulation, a network cannot be uncoupled: a gain over the random control may
have another cause than a pull.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
import numpy as np
import optax
import rich.console

import models
from train import config as config_lib
from train import data
from train import errors
from train import pictures
from train import safe
from train.data import dataset as dataset_lib
from train.program import build
from train.program import optimizers
from train.program.step import Epoch
from train.program.step import Images
from train.program.step import Seeds
from train.program.step import TrainState
from train.records import checkpoint
from train.records import run_directory
from train.studies import marks
from train.studies import verdicts

_SYMMETRIC = (0.9, 0.9)
_HORIZONTAL = (0.95, 0.9)
_VERTICAL = (0.9, 0.95)
_PART = 1 / 4

# The optimizers whose learning rate is one of momentum SGD.
_LIKE_SGD = ('lcam', 'coin', 'sgd')


def measure(
  runs: Sequence[pathlib.Path],
  *,
  epochs: int = 3,
  learning_rate: float | None = None,
  data_dir: pathlib.Path | None = None,
  console: rich.console.Console | None = None,
) -> dict[str, Any]:
  """Continues the training of finished runs, and measures their movement.

  The runs themselves do not change.

  Args:
    runs: Directories of finished runs with a checkpoint.
    epochs: Measured epochs of each arm, at least 1, after one that is not
      measured.
    learning_rate: The constant rate, above 0. Default: a tenth of each run's
      initial rate; of 0.1 for a run of an adaptive optimizer.
    data_dir: Directory of the data set's files. Default: the run's.
    console: Where progress is shown. Default: nowhere.

  Returns:
    Plain JSON values: ``settings``; ``runs``, each with its arms; ``arms``,
    ratios of the movement in the horizontal to that in the vertical phase over
    the runs; ``gains`` over the random controls in percent; ``claims``, see
    :func:`judge`. Figures over the runs have ``n``, ``mean``, ``sd`` and the
    95 % interval's ``half_width``.

  Raises:
    UsageError: If a directory contains no finished run or no checkpoint, the
      data cannot be loaded, or an argument is out of range.
  """
  if not runs:
    raise errors.UsageError('movement needs at least one run directory.')
  if epochs < 1:
    raise errors.UsageError(f'--epochs must be at least 1, got {epochs}.')
  if learning_rate is not None and not 0 < learning_rate < math.inf:
    raise errors.UsageError(
      f'--learning-rate must be a finite number above 0, got {learning_rate}.'
    )
  # Reads all runs before measuring one, so that errors are found at once.
  finished = [_read_run(path) for path in runs]
  measured = []
  for run in finished:
    measured.append(_measure_run(run, epochs, learning_rate, data_dir))
    if console is not None:
      console.print(f'{run.path}: movement measured.', highlight=False)
  return _summarize(measured, epochs)


class _Run(NamedTuple):
  """A finished run on disk."""

  path: pathlib.Path
  config: config_lib.Resolved
  dtype: config_lib.Dtype
  """dtype of the network's arithmetic."""


def _read_run(path: pathlib.Path) -> _Run:
  if not path.is_dir():
    raise errors.UsageError(f'There is no directory {path}.')
  directory = run_directory.RunDirectory(path)
  summary = directory.read_summary()
  if summary is None or summary['status'] != 'done':
    raise errors.UsageError(
      f'{path} must be a finished run to measure movement on.'
    )
  if not directory.checkpoints.is_dir():
    raise _no_checkpoint(path)
  saved = directory.read_config()
  config = config_lib.resolved_from_json(saved, str(path))
  return _Run(path, config, saved.get('compute_dtype', config.dtype))


# ---------------------------------------------------------------- measurements


class _Program(NamedTuple):
  """The parts that the arms of a run share."""

  start: TrainState
  train_step: Callable[[TrainState, np.ndarray], tuple[TrainState, '_Movement']]
  """(state, momenta of shape=(2,)) -> (state, movement)."""
  groups: dict[str, Any]
  """``quick`` and ``slow``: masks with the structure of the parameters."""
  steps_per_epoch: int
  seed: int


class _Movement(NamedTuple):
  """The measurements of one step, or of all steps."""

  horizontal: Any  # bool: whether LCAM was in the horizontal phase.
  momentum: Any  # float32: of the step.
  quick: Any  # float32: mean of the squared movements.
  slow: Any  # float32: likewise.


def _measure_run(
  run: _Run,
  epochs: int,
  learning_rate: float | None,
  data_dir: pathlib.Path | None,
) -> dict[str, Any]:
  config = run.config
  if learning_rate is None:
    is_like_sgd = config.optimizer in _LIKE_SGD
    learning_rate = (config.learning_rate if is_like_sgd else 0.1) / 10
  program, layers = _prepare(run, learning_rate, data_dir)
  steps_per_epoch = program.steps_per_epoch
  arms, speed = {}, {}
  for pair in (_SYMMETRIC, _HORIZONTAL, _VERTICAL):
    momenta = np.tile(pair, ((epochs + 1) * steps_per_epoch, 1))
    steps = _train(program, momenta)
    arms[_arm_name('LCAM', pair)] = _figures(program, steps)
    if pair == _SYMMETRIC:
      speed = _speed_correlations(program, steps)
      continue
    heads = steps.horizontal.reshape(-1, steps_per_epoch)
    heads = np.random.default_rng(program.seed).permuted(heads, axis=1).ravel()
    # As in LCAM, a choice applies to the following step.
    tossed = np.where(np.roll(heads, -1), *pair)
    steps = _train(program, np.stack([tossed, tossed], axis=1))
    arms[_arm_name('coin', pair)] = _figures(
      program, steps._replace(horizontal=heads)
    )
  return {
    'run': str(run.path),
    'dataset': config.dataset,
    'network': models.NETWORKS[config.model].title_of(config),
    'seed': config.seed,
    'learning_rate': verdicts.rounded(learning_rate),
    'steps_per_epoch': program.steps_per_epoch,
    **{f'speed_correlation_{end}': value for end, value in speed.items()},
    'layers': layers,
    'arms': arms,
  }


def _prepare(
  run: _Run, learning_rate: float, data_dir: pathlib.Path | None
) -> tuple[_Program, dict[str, Any]]:
  """Restores a run, and determines its quick and slow weights.

  Returns:
    The parts that the arms share; and for each layer its number of weights and
    the fractions of them that are quick and slow.
  """
  config = run.config
  dataset = data.of_run(
    dataclasses.replace(config, data_dir=data_dir or config.data_dir)
  )
  params, batch_stats = _restore(run, dataset)

  # A last, short batch would be noisier than the others.
  batch_size = min(config.batch_size, len(dataset.train))
  steps_per_epoch = len(dataset.train) // batch_size
  examples = steps_per_epoch * batch_size
  whole_batches = dataclasses.replace(
    dataset,
    train=dataset_lib.Split(
      dataset.train.images[:examples], dataset.train.labels[:examples]
    ),
  )
  lcam = _as_lcam(run, learning_rate, batch_size)

  # ------------------------------------------------------ variance of gradients
  recording = build.Program(
    [lcam], whole_batches, devices=_one_device(), optimizer=_RECORDER
  )
  images, _ = recording.place(dataset)
  state = recording.init_from(params, batch_stats)
  epoch = recording.epoch(1)
  record = jax.jit(
    functools.partial(recording.train_step, size=batch_size), donate_argnums=0
  )
  for _ in range(steps_per_epoch):
    # The optimizer changes no weight, and training does not use the running
    # statistics.
    state, _ = record(state, images, recording.seeds, epoch)
  squares = build.by_member(jax.device_get(state.opt_state.squares))[0]
  groups, layers = _divide(build.by_member(params)[0], squares)

  # ------------------------------------------------------------------- training
  training = build.Program([lcam], whole_batches, devices=_one_device())

  @jax.jit
  def measured_step(
    state: TrainState,
    images: Images,
    seeds: Seeds,
    epoch: Epoch,
    groups: dict[str, Any],
  ) -> tuple[TrainState, _Movement]:
    after, metrics = training.train_step(
      state, images, seeds, epoch, size=batch_size
    )
    movement = jax.tree.map(
      lambda new, old: (new - old)[0], after.params, state.params
    )
    return after, _Movement(
      horizontal=metrics.horizontal[0] == 1,
      momentum=metrics.momentum[0],
      **{
        name: _mean_square(movement, groups[name]) for name in verdicts.GROUPS
      },
    )

  epochs: dict[int, Epoch] = {}

  def train_step(
    state: TrainState, momenta: np.ndarray
  ) -> tuple[TrainState, _Movement]:
    # The epochs are counted from 1, and the first has been used.
    number = 1 + int(state.step[0]) // steps_per_epoch
    if number not in epochs:
      epochs[number] = training.epoch(number)
    horizontal, vertical = np.asarray(momenta, np.float32)
    epoch = epochs[number]
    numbers = {
      **epoch.numbers,
      'horizontal_momentum': horizontal[None],
      'vertical_momentum': vertical[None],
    }
    return measured_step(
      state,
      images,
      training.seeds,
      epoch._replace(numbers=numbers),
      groups,
    )

  start = training.init_from(params, batch_stats)
  program = _Program(
    start=start._replace(step=start.step + steps_per_epoch),
    train_step=train_step,
    groups=groups,
    steps_per_epoch=steps_per_epoch,
    seed=config.seed,
  )
  return program, layers


def _one_device() -> list[jax.Device]:
  return jax.devices()[:1]


def _as_lcam(
  run: _Run, learning_rate: float, batch_size: int
) -> config_lib.Resolved:
  """The settings to continue a run with LCAM and new batches."""
  # Other batches than those of the run.
  own = np.random.SeedSequence((run.config.seed, run.config.epochs))
  order, augmentation, dropout = map(int, own.generate_state(3))
  return dataclasses.replace(
    run.config,
    dtype=run.dtype,
    optimizer='lcam',
    inclusive=True,
    reaction='next',
    nesterov=False,
    loss_decay=None,
    initial_momentum=0.9,
    schedule='constant',
    learning_rate=learning_rate,
    batch_size=batch_size,
    order_seed=order,
    augmentation_seed=augmentation,
    dropout_seed=dropout,
  )


def _restore(run: _Run, dataset: dataset_lib.Dataset) -> tuple[Any, Any]:
  """The parameters and batch statistics of a run after its last epoch.

  They have the leading axis of members of
  :class:`train.program.build.Program`.
  """
  program = build.Program(
    [dataclasses.replace(run.config, dtype=run.dtype)],
    dataset,
    devices=_one_device(),
  )
  restored = checkpoint.restore_one(
    run_directory.RunDirectory(run.path).checkpoints,
    program.steps_per_epoch,
    program.shape_member(),
    step=run.config.epochs * program.steps_per_epoch,
  )
  if restored is None:
    raise _no_checkpoint(run.path)
  stacked = program.stack([restored[1]])
  return stacked.params, stacked.batch_stats


def _no_checkpoint(path: pathlib.Path) -> errors.UsageError:
  return errors.UsageError(f'{path} has no checkpoint of its last epoch.')


class _Gradients(NamedTuple):
  """Welford's sums over the gradients of a weight."""

  count: Any  # shape=(), dtype=float32.
  mean: Any  # the parameters' structure.
  squares: Any  # the parameters' structure: squared distances from the mean.


def _gradient_recorder() -> optax.GradientTransformationExtraArgs:
  """An optimizer that changes nothing, and records the gradients."""

  def init(params: Any) -> _Gradients:
    zeros = jax.tree.map(jnp.zeros_like, params)
    return _Gradients(jnp.zeros([]), zeros, zeros)

  def update(
    updates: Any, state: _Gradients, params: Any = None, **unused: Any
  ) -> tuple[Any, _Gradients]:
    del params, unused
    count = state.count + 1
    mean = jax.tree.map(lambda m, g: m + (g - m) / count, state.mean, updates)
    squares = jax.tree.map(
      lambda s, g, old, new: s + (g - old) * (g - new),
      state.squares,
      updates,
      state.mean,
      mean,
    )
    zeros = jax.tree.map(jnp.zeros_like, updates)
    return zeros, _Gradients(count, mean, squares)

  return optax.GradientTransformationExtraArgs(init, update)


_RECORDER = optimizers.Optimizer(
  build=lambda rate, **_: _gradient_recorder(), learning_rate=0.0, numbers=()
)


def _divide(params: Any, variances: Any) -> tuple[dict[str, Any], Any]:
  """Ranks the weights of convolutions and linear layers.

  Args:
    params: The parameters.
    variances: Proportional to the variances of their gradients.

  Returns:
    For ``quick`` and ``slow`` a mask with the structure of the parameters; and
    for each layer its number of weights and the fractions in the groups.
  """
  # Batch norm and biases have one axis.
  kernels = [leaf.ndim > 1 for leaf in jax.tree.leaves(params)]
  arrays = [np.asarray(x) for x in jax.tree.leaves(jax.device_get(variances))]
  ranked = np.argsort(
    np.concatenate(
      [a.ravel() for a, k in zip(arrays, kernels, strict=True) if k]
    ),
    kind='stable',
  )
  size = int(len(ranked) * _PART)
  groups = {}
  parts: dict[str, dict[str, float]] = {}
  for name, members in (('quick', ranked[-size:]), ('slow', ranked[:size])):
    chosen = np.zeros(len(ranked), bool)
    chosen[members] = True
    leaves, used = [], 0
    for (path, leaf), is_kernel in zip(
      jax.tree.leaves_with_path(params), kernels, strict=True
    ):
      mask = np.zeros(leaf.shape, bool)
      if is_kernel:
        mask = chosen[used : used + mask.size].reshape(mask.shape)
        used += mask.size
        layer = jax.tree_util.keystr(path, simple=True, separator='.')
        part = parts.setdefault(layer, {'weights': mask.size})
        part[name] = round(float(mask.mean()), 4)
      leaves.append(jnp.asarray(mask))
    groups[name] = jax.tree.unflatten(jax.tree.structure(params), leaves)
  return groups, parts


def _mean_square(movement: Any, group: Any) -> jax.Array:
  """The mean square over a group of weights, shape=(), dtype=float32."""
  pairs = list(
    zip(jax.tree.leaves(movement), jax.tree.leaves(group), strict=True)
  )
  zero = jnp.zeros([])
  total = sum((jnp.sum(jnp.where(g, m, 0.0) ** 2) for m, g in pairs), zero)
  return total / sum((jnp.sum(g, dtype=jnp.float32) for _, g in pairs), zero)


def _train(program: _Program, momenta: np.ndarray) -> _Movement:
  """Trains one arm from the checkpoint.

  Args:
    program: The parts that the arms share.
    momenta: shape=(steps, 2): the horizontal and the vertical momentum between
      which the loss of each step selects, for the next step.

  Returns:
    Arrays of shape=(steps,).
  """
  state = program.start
  steps = []
  for pair in momenta.astype(np.float32):
    state, movement = program.train_step(state, pair)
    steps.append(movement)
  return _Movement(
    *(np.asarray(field) for field in zip(*jax.device_get(steps), strict=True))
  )


# -------------------------------------------------------------------- figures


def _measured(program: _Program, steps: _Movement) -> _Movement:
  """The steps after the first epoch."""
  return _Movement(*(field[program.steps_per_epoch :] for field in steps))


def _figures(program: _Program, steps: _Movement) -> dict[str, Any]:
  """Movements of one arm of one run, by group and phase."""
  measured = _measured(program, steps)
  horizontal = measured.horizontal
  figures_of_arm: dict[str, Any] = {
    'share_horizontal': verdicts.rounded(float(horizontal.mean()))
  }
  for group in verdicts.GROUPS:
    squares = getattr(measured, group).astype(np.float64)
    by_phase = [
      math.sqrt(squares[which].mean()) if which.any() else math.nan
      for which in (horizontal, ~horizontal)
    ]
    figures_of_arm[group] = {
      'movement': verdicts.rounded(math.sqrt(squares.mean())),
      'movement_horizontal': verdicts.rounded(by_phase[0]),
      'movement_vertical': verdicts.rounded(by_phase[1]),
      'ratio': verdicts.rounded(by_phase[0] / by_phase[1]),
    }
  return figures_of_arm


def _speed_correlations(
  program: _Program, steps: _Movement
) -> dict[str, float | None]:
  """Correlations of a low loss with the quick group's step to and from it."""
  measured = _measured(program, steps)
  speed = np.sqrt(measured.quick.astype(np.float64))
  # The phase of a step is that of the previous loss.
  low = measured.horizontal[2:].astype(np.float64)
  return {
    'to': verdicts.rounded(_correlation(low, speed[:-2])),
    'from': verdicts.rounded(_correlation(low, speed[1:-1])),
  }


def _correlation(event: np.ndarray, number: np.ndarray) -> float:
  if len(event) < 2 or not event.std() or not number.std():
    return math.nan
  return float(np.corrcoef(event, number)[0, 1])


def _arm_name(kind: str, pair: tuple[float, float]) -> str:
  return f'{kind} {verdicts.pair_name(pair)}'


def _summarize(runs: list[dict[str, Any]], epochs: int) -> dict[str, Any]:
  """Means and intervals over the runs, and the paper's claims."""
  arms = {}
  for name in runs[0]['arms']:
    of_runs = [run['arms'][name] for run in runs]
    arms[name] = {
      'share_horizontal': verdicts.summarize(
        _numbers(arm['share_horizontal'] for arm in of_runs)
      ),
      **{
        f'{group}_ratio': verdicts.summarize(
          _numbers(arm[group]['ratio'] for arm in of_runs)
        )
        for group in verdicts.GROUPS
      },
    }
  gains = [
    {
      'pair': verdicts.pair_name(pair),
      **{
        group: verdicts.summarize(_gains(runs, pair, group))
        for group in verdicts.GROUPS
      },
    }
    for pair in (_HORIZONTAL, _VERTICAL)
  ]
  record: dict[str, Any] = {
    'settings': {
      'epochs': epochs,
      'quick_and_slow_part': _PART,
      'datasets': sorted({run['dataset'] for run in runs}),
      'networks': sorted({run['network'] for run in runs}),
    },
    'arms': arms,
    'gains': gains,
    'runs': runs,
  }
  return {
    'settings': record.pop('settings'),
    'claims': judge(record),
    **record,
  }


def _numbers(values: Any) -> list[float]:
  return [math.nan if value is None else value for value in values]


def _gains(
  runs: Sequence[dict[str, Any]], pair: tuple[float, float], group: str
) -> list[float]:
  """By how many percent a group moves more than with the random control."""
  gains = []
  for run in runs:
    ours, coins = _numbers(
      run['arms'][_arm_name(kind, pair)][group]['movement']
      for kind in ('LCAM', 'coin')
    )
    gains.append(100 * (ours / coins - 1))
  return gains


def judge(record: dict[str, Any]) -> list[dict[str, Any]]:
  """Judges the paper's claims by the figures of a record.

  Args:
    record: From :func:`measure`, or read from movement.json.

  Returns:
    For each claim its words; its figure with the simultaneous interval and p;
    ``needed``, the same of the other figure that the claim requires; the
    margin, the verdict and a sentence.
  """
  arms, gains, runs = record['arms'], record['gains'], record['runs']
  pulls = (
    ('W_Q pulls W_S', _HORIZONTAL, 'slow'),
    ('W_S pulls W_Q', _VERTICAL, 'quick'),
  )
  expected = []
  for claim, pair, group in pulls:
    (gain,) = (g[group] for g in gains if g['pair'] == verdicts.pair_name(pair))
    expected.append(
      verdicts.Expected(claim, gain, verdicts.MARGIN_PERCENT, ' %')
    )
  arriving, leaving = (
    verdicts.summarize(
      _numbers(run[f'speed_correlation_{end}'] for run in runs)
    )
    for end in ('to', 'from')
  )
  expected.append(verdicts.expected_at_the_bottom(arriving, leaving))
  *found_pulls, found_speed = verdicts.judge(expected)

  claims = []
  for (claim, pair, group), of_pull, found in zip(
    pulls, expected, found_pulls, strict=False
  ):
    name = verdicts.pair_name(pair)
    ours, coins = (
      verdicts.show_number(arms[_arm_name(kind, pair)][f'{group}_ratio'])
      for kind in ('LCAM', 'coin')
    )
    claims.append(
      {
        **found.record(of_pull),
        'pair': name,
        'sentence': (
          f'{claim}, {name}: the {group} weights move'
          f' {verdicts.show_percent(of_pull.figure, found.half_width)} than'
          f' with the random control ({_RATIO}: {ours}, of the control {coins};'
          f' n = {of_pull.figure["n"]}):'
          f' {found.words}.{_against_the_simulation(of_pull, found, group)}'
        ),
      }
    )
  symmetric = verdicts.pair_name(_SYMMETRIC)
  claims.append(
    {
      **found_speed.record(expected[-1]),
      'pair': symmetric,
      'sentence': verdicts.bottom_sentence(
        symmetric, arriving, leaving, found_speed
      ),
    }
  )
  return claims


_RATIO = 'movement in horizontal over vertical steps'

SIMULATED = {'slow': -2.3, 'quick': 2.5}
"""Percent by which a group moves more than with the random control in the
simulation, see :mod:`train.studies.traction`."""


def _against_the_simulation(
  expected: verdicts.Expected, found: verdicts.Found, group: str
) -> str:
  """A sentence on whether the interval contains the simulation's result."""
  mean, simulated = expected.figure['mean'], SIMULATED[group]
  if mean is None or math.isnan(found.half_width):
    return ''
  more = 'more' if simulated > 0 else 'less'
  is_held = abs(simulated - mean) <= found.half_width
  return (
    f" The simulation's {abs(simulated):g} % {more}"
    f' {"is not excluded" if is_held else "is excluded"}.'
  )


# ------------------------------------------------------------------ for reports


def title(record: dict[str, Any]) -> str:
  datasets = record['settings']['datasets']
  return f'Traction in trained networks: {", ".join(datasets)}'


def summary(record: dict[str, Any]) -> str:
  settings = record['settings']
  networks = safe.markdown(', '.join(settings['networks']))
  return (
    f'{len(record["runs"])} trained networks ({networks}), measured in'
    f' {settings["epochs"]} more epochs (`python -m train movement RUN...`).'
    f' {verdicts.intervals_note(len(judge(record)), _RATIO)}'
  )


def sentences(
  record: dict[str, Any], beside: Sequence[dict[str, Any]] = ()
) -> list[str]:
  del beside  # The networks of a record are a family of their own.
  return [claim['sentence'] for claim in judge(record)]


def picture(record: dict[str, Any]) -> str:
  return f'movement-{"-".join(record["settings"]["datasets"])}'


def draw(
  record: dict[str, Any],
  path: pathlib.Path,
  beside: Sequence[dict[str, Any]] = (),
) -> None:
  """Draws the ratios of the phases, and the gains over the random controls.

  Args:
    record: From :func:`measure`, or read from movement.json.
    path: The PNG file to write.
    beside: Not used, see :func:`sentences`.
  """
  del beside
  settings, runs = record['settings'], record['runs']
  with pictures.drawing():
    figure = mpl_figure.Figure(figsize=(12, 4.6), layout='constrained')
    ratios, gains = figure.subplots(1, 2)
    _draw_ratios(record, ratios)
    _draw_gains(record, gains)
    figure.suptitle(
      f'Movement of {safe.label(", ".join(settings["networks"]))} on'
      f' {safe.label(", ".join(settings["datasets"]))}: {len(runs)}'
      f' run{"s" if len(runs) > 1 else ""}, {settings["epochs"]} more epochs'
    )
    pictures.save(figure, path)


def _draw_ratios(record: dict[str, Any], axis: mpl_axes.Axes) -> None:
  arms = record['arms']
  for i, group in enumerate(verdicts.GROUPS):
    places = np.arange(len(arms)) + 0.24 * i - 0.12
    marks.draw_intervals(
      axis,
      places,
      [arm[f'{group}_ratio'] for arm in arms.values()],
      f'{group} weights',
      i,
      'os'[i],
    )
    for run in record['runs']:
      ratios = _numbers(run['arms'][name][group]['ratio'] for name in arms)
      _draw_runs(axis, places + 0.09, ratios)
  axis.axhline(1, color='0.3', linewidth=1)
  axis.set_xticks(
    range(len(arms)), [name.replace(' ', '\n') for name in arms], fontsize=9
  )
  axis.set_ylabel('rms movement, horizontal / vertical steps')
  axis.set_title(
    'Mean with its own 95 % interval; small dots: the runs', fontsize=10
  )
  axis.legend()


def _draw_gains(record: dict[str, Any], axis: mpl_axes.Axes) -> None:
  rows = {}
  for gain in record['gains']:
    for group in verdicts.GROUPS:
      label = f'{gain["pair"]}, {group} weights'
      for claim in judge(record):
        claimed = {'W_Q pulls W_S': 'slow', 'W_S pulls W_Q': 'quick'}
        if (
          claim['pair'] == gain['pair'] and claimed.get(claim['claim']) == group
        ):
          label += f'\n"{marks.typeset(claim["claim"])}"'
      rows[label] = [gain[group]]
  marks.draw_differences(axis, rows, ('LCAM',))
  i = 0
  for pair in (_HORIZONTAL, _VERTICAL):
    for group in verdicts.GROUPS:
      of_runs = _gains(record['runs'], pair, group)
      _draw_runs(axis, of_runs, np.full(len(of_runs), -i - 0.2))
      i += 1
  axis.set_xlabel('movement relative to the random control (%)')
  axis.set_title(
    'Effect of choosing by the loss: mean with its own 95 % interval\n'
    '(the verdicts use simultaneous ones, which are wider)',
    fontsize=10,
  )


def _draw_runs(axis: mpl_axes.Axes, x: Any, y: Any) -> None:
  axis.plot(x, y, '.', color='0.5', markersize=4)
