"""Is a data set vertical, horizontal or neutral (section 4.4)?

The paper classifies data sets by the effect of accelerating a phase: on a
vertical data set the larger momentum belongs to the vertical phase (CIFAR-10,
section 4.1), on a horizontal one to the horizontal phase, and on a neutral one
neither is better. A probe trains a small network on a few thousand images with
both, and with fixed momenta, with several seeds, and compares the errors in
pairs.

All runs of a probe share one compiled program, see :mod:`train.program.build`.
They run one after another on a CPU, and all at once on a GPU or TPU. For one
seed, initial parameters, order of images, crops and flips are the same with
every pair.

More than half of the steps are horizontal, so accelerating that phase raises
the mean momentum by more. The answer is about the pairs as they are. Two
further contrasts qualify it: the difference that remains after removing the
effect of the mean momentum, by interpolation between the fixed momenta; and the
difference between the better pair and fixed 0.9.

The errors are those after the last epoch, on held-out training images. The test
set is not used, so that it can still test what is chosen by a probe.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math
import pathlib
import time
from typing import Any, NamedTuple, get_args

import jax
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import layout_engine
import numpy as np
import rich.console

from train import config as config_lib
from train import data
from train import errors
from train import pictures
from train import progress
from train import safe
from train import sources
from train import statistics
from train.data import dataset as dataset_lib
from train.program import build
from train.records import metrics
from train.records import run_directory
from train.statistics import Verdict
from train.studies import configs as configs_lib
from train.studies import parts as parts_lib

_BASE = 0.9


class Pair(NamedTuple):
  """The momenta of an arm."""

  horizontal: float
  vertical: float


def measure(
  dataset: str,
  data_dir: pathlib.Path | None = None,
  *,
  seeds: int = 5,
  accelerated: Sequence[float] = (0.95,),
  epochs: int | None = None,
  train_examples: int | None = None,
  validation_examples: int | None = None,
  image_size: int | None = None,
  schedule: config_lib.Schedule = 'exponential',
  parts: pathlib.Path | None = None,
  console: rich.console.Console | None = None,
) -> dict[str, Any]:
  """Trains a WRN-10-1 with each pair of momenta and compares the phases.

  The pairs are 0.9 in both phases and, for each accelerated momentum, that
  momentum in both phases, in the horizontal one only and in the vertical one
  only (sections 4.1 and 4.2). The held-out images follow the training images in
  the order of :func:`train.data.load`, which no source sorts by class.

  Args:
    dataset: One of :data:`train.sources.SOURCES`.
    data_dir: Directory of its files, ``None`` for its default.
    seeds: Runs of each pair, with the seeds 0 to ``seeds - 1``; at least 2.
    accelerated: Momenta above 0.9 and below 1. With more than one, a seed's
      error is its mean over them.
    epochs: Passes over the training images. Default, also of the next three:
      the :class:`train.sources.ProbeSize` of the data set.
    train_examples: Number of training images.
    validation_examples: Number of held-out images.
    image_size: Height and width of the shrunken images.
    schedule: Learning rate schedule, with the paper's proportions.
    parts: Folder in which the results of finished runs are saved, and from
      which the same call resumes. Default: none.
    console: Where progress is shown. Default: standard error.

  Returns:
    A record of plain JSON values, errors in percent and differences in
    percentage points:

    * ``dataset``; ``answer``, ``sentence`` and ``difference``, see
      :func:`judge`.
    * ``pairs``: for each pair ``name``, ``role``, ``horizontal_momentum``,
      ``vertical_momentum``, and seed by seed ``errors`` (``None`` if the
      training diverged), ``train_losses`` (mean of the last epoch) and
      ``horizontal_fractions`` (share of all steps that were taken after a loss
      at or below the mean); ``error``, the ``n``, ``mean``, ``deviation``,
      ``low`` and ``high`` of its errors, ``train_loss`` and
      ``horizontal_fraction``, the means.
    * ``seeds``, ``validation_examples``, ``settings`` (those of
      ``python -m train run`` that all members share), ``compute_dtype``,
      ``seconds``, ``images_per_second`` (all members together), versions and
      device.

  Raises:
    UsageError: If a setting is out of range, or the data cannot be loaded.
  """
  console = console or progress.console()
  say = functools.partial(
    console.print, highlight=False, markup=False, soft_wrap=True
  )
  started = time.monotonic()

  # ------------------------------------------------------- settings and data
  size = configs_lib.size_of_probe(
    dataset,
    epochs=epochs,
    train_examples=train_examples,
    validation_examples=validation_examples,
    image_size=image_size,
  )
  config = configs_lib.of_probe(dataset, size, data_dir, schedule)
  config_lib.check(config)
  _check(seeds, accelerated, size, schedule)
  pairs = _pairs(accelerated)
  held_out = _hold_out(data.load(dataset, data_dir), size)
  steps_per_epoch = -(-size.train_examples // config.batch_size)

  # ----------------------------------------------------------------- members
  members = [
    config_lib.resolve(
      dataclasses.replace(
        config,
        horizontal_momentum=pair.horizontal,
        vertical_momentum=pair.vertical,
        seed=seed,
      ),
      steps_per_epoch,
    )
    for pair in pairs
    for seed in range(seeds)
  ]
  measured = _train(members, held_out, say, parts)
  dtype = measured.dtype

  # ------------------------------------------------------------------ record
  arms = [
    _arm(pair, *figures_of_seeds)
    for pair, *figures_of_seeds in zip(
      pairs,
      *(
        values.reshape(len(pairs), seeds)
        for values in (measured.errors, measured.losses, measured.fractions)
      ),
      strict=True,
    )
  ]
  return {
    'dataset': dataset,
    **judge({'dataset': dataset, 'pairs': arms}),
    'pairs': arms,
    'seeds': list(range(seeds)),
    'validation_examples': size.validation_examples,
    'settings': _shared_settings(members[0]),
    'compute_dtype': dtype,
    'seconds': time.monotonic() - started,
    'images_per_second': (
      len(members) * size.epochs * size.train_examples / measured.train_seconds
    ),
    **run_directory.environment(),
  }


# ------------------------------------------------------------------- training


class _Measured(NamedTuple):
  """Measurements of the members. Arrays of shape=(members,), float64."""

  errors: np.ndarray
  """Errors on the held-out images in percent; NaN after divergence."""
  losses: np.ndarray
  """Mean training loss of the last epoch."""
  fractions: np.ndarray
  """Share of all steps that were taken after a loss at or below the mean."""
  train_seconds: float
  dtype: str


def _train(
  configs: Sequence[config_lib.Resolved],
  dataset: dataset_lib.Dataset,
  say: Callable[[str], None],
  folder: pathlib.Path | None = None,
  together: int | None = None,
) -> _Measured:
  """Trains all members.

  Args:
    configs: Their resolved settings.
    dataset: The training images, and the held-out images as the test split.
    say: Called with progress messages.
    folder: Where the results of finished members are saved and read.
    together: Maximum number of members in one vmapped program. Default: one on
      a CPU, all on a GPU or TPU.
  """
  # A probe is small enough for one device.
  devices = jax.devices()[:1]
  if together is None:
    together = 1 if devices[0].platform == 'cpu' else len(configs)
  epochs, examples = configs[0].epochs, len(dataset.train)
  rows: list[np.ndarray] = []
  train_seconds = 0.0
  for first in range(0, len(configs), together):
    group = configs[first : first + together]
    program = build.Program(group, dataset, devices=devices)
    if first == 0:
      say(
        f'{dataset.name}: {len(configs)} runs of {program.title} in'
        f' {program.dtype}, {examples:,} training and {len(dataset.test):,}'
        f' validation images, 1 x {devices[0].device_kind}'
      )

    def show(epoch: int, loss: float, seconds: float) -> None:
      if epoch < epochs and together == 1:
        return
      # Also those that were read, in the time that they once took.
      trained = first * epochs + len(group) * epoch
      spent = train_seconds + seconds
      left = spent * (len(configs) * epochs / trained - 1)
      say(
        f'{dataset.name}  run {first + len(group)}/{len(configs)}  epoch'
        f' {epoch}/{epochs}  loss {loss:.4f} '
        f' {trained * examples / spent:,.0f} images/s '
        f' {progress.duration(left)} left'
      )

    measured = parts_lib.measure_once(
      folder,
      dataset,
      {'settings': [config_lib.to_json(config) for config in group]},
      ('rows', 'seconds'),
      functools.partial(_train_group, program, show),
    )
    rows += [*measured['rows']]
    train_seconds += float(measured['seconds'])
  errors_, losses, fractions = np.asarray(rows).T
  return _Measured(errors_, losses, fractions, train_seconds, program.dtype)


def _train_group(
  program: build.Program, show: Callable[[int, float, float], None]
) -> dict[str, np.ndarray]:
  """Trains the members of one program.

  Args:
    program: Its test images are the held-out images.
    show: Called after each epoch with its number, the mean loss and the seconds
      of training so far.

  Returns:
    ``rows``, shape=(members, 3), dtype=float64: what :class:`_Measured` has of
    each member; and ``seconds`` of training.
  """
  config = program.configs[0]
  program.compile()
  images, held_out = program.place()
  state = program.init()
  of_epochs: list[list[dict[str, Any]]] = []
  seconds = 0.0
  for epoch in range(1, config.epochs + 1):
    started = time.monotonic()
    state, of_steps = program.train_epoch(state, images, epoch)
    seconds += time.monotonic() - started
    of_epochs.append(
      [
        metrics.summarize_epoch([own], config.batch_size, program.examples)
        for own in build.by_member(of_steps)
      ]
    )
    loss = float(np.mean([own['train_loss'] for own in of_epochs[-1]]))
    show(epoch, loss, seconds)
  tested = jax.device_get(program.evaluate(state, held_out))
  rows = []
  for i, own in enumerate(build.each_by_member(tested)):
    of_test = metrics.summarize_test(own, len(program.dataset.test))
    # The error is finite even if the parameters are not.
    is_finite = math.isfinite(of_test['test_loss'])
    rows.append(
      (
        of_test['test_error'] if is_finite else math.nan,
        of_epochs[-1][i]['train_loss'],
        float(np.mean([of[i]['horizontal_fraction'] for of in of_epochs])),
      )
    )
  return {'rows': np.asarray(rows), 'seconds': np.asarray(seconds)}


# ------------------------------------------------------------- settings, data


def _check(
  seeds: int,
  accelerated: Sequence[float],
  size: sources.ProbeSize,
  schedule: str,
) -> None:
  """Checks the settings that :func:`train.config.check` does not know."""
  if seeds < 2:
    raise errors.UsageError(
      '--seeds must be at least 2, because one seed has no standard deviation,'
      f' got {seeds}.'
    )
  if size.validation_examples < 1:
    raise errors.UsageError(
      '--validation-examples must be at least 1, got'
      f' {size.validation_examples}.'
    )
  if not accelerated:
    raise errors.UsageError('--accelerated must be at least one momentum.')
  if len(set(accelerated)) < len(accelerated):
    raise errors.UsageError(
      '--accelerated must be distinct momenta, got'
      f' {" ".join(map(str, accelerated))}.'
    )
  for momentum in accelerated:
    if not _BASE < momentum < 1:
      raise errors.UsageError(
        f'--accelerated must be above {_BASE} and below 1, got {momentum}.'
      )
  allowed = get_args(config_lib.Schedule)
  if schedule not in allowed:
    raise errors.UsageError(
      f'--schedule must be one of {", ".join(allowed)}, got {schedule!r}.'
      f'{errors.did_you_mean(schedule, allowed)}'
    )


def _pairs(accelerated: Sequence[float]) -> list[Pair]:
  return [
    Pair(_BASE, _BASE),
    *(
      pair
      for fast in accelerated
      for pair in (Pair(fast, fast), Pair(fast, _BASE), Pair(_BASE, fast))
    ),
  ]


def _hold_out(whole: data.Dataset, size: sources.ProbeSize) -> data.Dataset:
  """The training images of a probe, with the held-out ones as the test split.

  The test split of the data set is not used.
  """
  available = len(whole.train)
  train, held_out = size.train_examples, size.validation_examples
  if train + held_out > available:
    raise errors.UsageError(
      '--train-examples and --validation-examples must be at most'
      f' {available} together for {whole.name}, got {train} and {held_out}.'
    )
  pixels = whole.train.images.shape[1]
  if pixels % size.image_size:
    raise errors.UsageError(
      f'--image-size must divide {pixels} for {whole.name}, got'
      f' {size.image_size}.'
    )

  def part(start: int, stop: int) -> data.Split:
    return data.Split(
      whole.train.images[start:stop], whole.train.labels[start:stop]
    )

  return dataset_lib.shrink(
    dataclasses.replace(
      whole, train=part(0, train), test=part(train, train + held_out)
    ),
    pixels // size.image_size,
  )


def _shared_settings(config: config_lib.Config) -> dict[str, Any]:
  """The settings that all members share."""
  own = {'horizontal_momentum', 'vertical_momentum', *config_lib.SEEDS}
  settings = config_lib.to_json(config)
  return {k: v for k, v in settings.items() if k not in own}


# ------------------------------------------------------------------ for reports


def title(record: dict[str, Any]) -> str:
  return f'Section 4.4: what kind of data set is {record["dataset"]}?'


def summary(record: dict[str, Any]) -> str:
  settings = record['settings']
  return (
    f'With {settings["train_examples"]:,} training images and'
    f' {record["validation_examples"]:,} held-out images'
    ' (`python -m train probe --dataset'
    f' {safe.file_name(record["dataset"])}`).'
  )


def sentences(
  record: dict[str, Any], beside: Sequence[dict[str, Any]] = ()
) -> list[str]:
  return [judge(record, beside)['sentence']]


def picture(record: dict[str, Any]) -> str:
  return f'probe-{record["dataset"]}'


# --------------------------------------------------------------------- answer


def _arm(
  pair: Pair,
  errors_: np.ndarray,
  train_losses: np.ndarray,
  horizontal_fractions: np.ndarray,
) -> dict[str, Any]:
  """The record of one pair from figures of shape=(seeds,)."""
  if pair.horizontal == pair.vertical:
    role, name = 'fixed', f'{pair.horizontal} fixed'
  elif pair.horizontal > pair.vertical:
    role, name = 'horizontal', f'{pair.horizontal} horizontal'
  else:
    role, name = 'vertical', f'{pair.vertical} vertical'
  finite = errors_[np.isfinite(errors_)]
  return {
    'name': name,
    'role': role,
    'horizontal_momentum': pair.horizontal,
    'vertical_momentum': pair.vertical,
    'errors': _plain(errors_),
    'train_losses': _plain(train_losses),
    'horizontal_fractions': _plain(horizontal_fractions),
    'error': _sample(statistics.describe(finite)) if len(finite) else None,
    'train_loss': _number(float(np.mean(train_losses))),
    'horizontal_fraction': float(np.mean(horizontal_fractions)),
  }


_ANSWERS = {
  Verdict.BETTER: 'horizontal',
  Verdict.WORSE: 'vertical',
  Verdict.EQUIVALENT: 'neutral',
  Verdict.UNDECIDED: 'undecided',
}


def judge(
  record: dict[str, Any], beside: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
  """Classifies a data set by the errors of a record.

  All pairs are fitted together, see :mod:`train.statistics`. A seed that
  diverged with one of the compared pairs is left out.

  Args:
    record: From :func:`measure`, or read from probe.json.
    beside: Other probes that are reported with this one, also of the same data
      set. The differences of all of them are one family.

  Returns:
    Plain JSON values:

    * ``answer``: "vertical", "horizontal", "neutral" (the errors of both phases
      are equivalent within the margin), or "undecided"; ``sentence``: the
      answer in words.
    * ``beyond_momentum``, ``over_fixed``: the two further contrasts, judged
      together for this probe alone, with ``mean``, ``low``, ``high``,
      ``p_value``, ``margin`` and ``verdict``; ``None`` if they cannot be
      estimated.
    * ``difference``: error with the horizontal phase accelerated minus error
      with the vertical one accelerated: ``n``, ``by_seed``, ``mean``, 95 %
      interval ``low`` to ``high`` (with ``beside``, simultaneous) and
      ``p_value`` (with ``beside``, Holm's), the ``margin``, the ``verdict``
      of the first, and ``could_have_found``, the true difference that this test
      finds with a probability of 80 %. ``None`` if fewer than two seeds
      finished.
  """
  arms = record['pairs']
  seeds = len(arms[0]['errors'])
  whole = _whole_seeds(record)
  if len(whole) < 2:
    return {
      'answer': 'undecided',
      'sentence': (
        f'undecided: fewer than two of {seeds} seeds finished with all compared'
        ' pairs.'
      ),
      'difference': None,
      'beyond_momentum': None,
      'over_fixed': None,
    }
  judged = _judge_difference(record, beside)
  if judged is None:
    raise ValueError('The compared arms have no seed in common.')
  estimate = judged.estimate
  answer = _ANSWERS[judged.verdict]
  mean, margin = estimate.difference, estimate.margin
  in_family = _in_family(judged)
  figures = f'horizontal minus vertical: {mean:+.2f} points,'
  interval = f'95 % interval {judged.low:+.2f} to {judged.high:+.2f}'
  p = f'p = {judged.p:.2g}'
  if in_family:
    figures += f" simultaneous {interval}, Holm's {p},{in_family}"
  else:
    figures += f' {interval}, {p}'
  if judged.verdict in (Verdict.BETTER, Verdict.WORSE):
    other = 'vertical' if answer == 'horizontal' else 'horizontal'
    sentence = (
      f'{answer}: accelerating the {answer} phase gives a validation error'
      f' {abs(mean):.2f} points below that of accelerating the {other} phase,'
      f' with {estimate.n} seeds ({figures}).'
    )
    if judged.is_within_margin:
      sentence += (
        f' The difference is within the margin of {margin:.2f} points.'
      )
  elif judged.verdict == Verdict.EQUIVALENT:
    sentence = (
      f'neutral: accelerating either phase gives the same validation error'
      f' within {margin:.2f} points, with {estimate.n} seeds ({figures}).'
    )
  else:
    sentence = (
      f'undecided with {estimate.n} seeds: neither a difference nor equivalence'
      f' within {margin:.2f} points is found ({figures}). A true difference of'
      f' {judged.could_have_found:.2f} points would have been found with a'
      f' probability of {100 * statistics.POWER:.0f} %.'
    )
  if len(whole) < seeds:
    sentence += (
      f' {seeds - len(whole)} of {seeds} seeds diverged and are left out.'
    )
  better = 'horizontal' if mean < 0 else 'vertical'
  more = _further(record, whole, better)
  if more is not None:
    is_found = judged.verdict in (Verdict.BETTER, Verdict.WORSE)
    sentence += f' {_further_sentence(more, better, is_found)}'
    if in_family:
      sentence += ' These two contrasts are judged for this probe alone.'
  by_seed = {
    role: _mean_errors(arms, role) for role in ('horizontal', 'vertical')
  }
  return {
    'answer': answer,
    'sentence': sentence,
    'difference': {
      'n': estimate.n,
      'mean': mean,
      'low': judged.low,
      'high': judged.high,
      'by_seed': {
        str(seed): by_seed['horizontal'][seed] - by_seed['vertical'][seed]
        for seed in whole
      },
      'p_value': judged.p,
      'margin': margin,
      'verdict': str(judged.verdict),
      'could_have_found': judged.could_have_found,
    },
    'beyond_momentum': more and _judged(more[0]),
    'over_fixed': more and _judged(more[1]),
  }


def _judge_difference(
  record: dict[str, Any], beside: Sequence[dict[str, Any]]
) -> statistics.Judgement | None:
  """Horizontal minus vertical acceleration, judged with that of other probes.

  Returns:
    ``None`` if it cannot be estimated.
  """
  own, *others = map(_estimate_difference, (record, *beside))
  if own is None:
    return None
  return statistics.judge([own, *(e for e in others if e is not None)])[0]


def _estimate_difference(record: dict[str, Any]) -> statistics.Estimate | None:
  seeds = _whole_seeds(record)
  if len(seeds) < 2:
    return None
  return _design(record, seeds).contrast(_raw_weights(record))


def _in_family(judged: statistics.Judgement) -> str:
  """What is said of a difference that is not judged alone."""
  if judged.family_size < 2:
    return ''
  return f' in the family of {judged.family_size} probes'


def _whole_seeds(record: dict[str, Any]) -> list[int]:
  """The seeds that finished with all pairs of both orders."""
  compared = [arm for arm in record['pairs'] if arm['role'] != 'fixed']
  return [
    seed
    for seed in range(len(compared[0]['errors']))
    if all(arm['errors'][seed] is not None for arm in compared)
  ]


def _design(
  record: dict[str, Any], seeds: Sequence[int]
) -> statistics.BlockDesign:
  return statistics.BlockDesign(
    {
      arm['name']: {
        seed: arm['errors'][seed]
        for seed in seeds
        if arm['errors'][seed] is not None
      }
      for arm in record['pairs']
    }
  )


def _raw_weights(record: dict[str, Any]) -> dict[str, float]:
  """Horizontal minus vertical acceleration."""
  weights: dict[str, float] = {}
  for role, sign in (('horizontal', 1), ('vertical', -1)):
    of_role = [arm for arm in record['pairs'] if arm['role'] == role]
    weights |= {arm['name']: sign / len(of_role) for arm in of_role}
  return weights


def _further(
  record: dict[str, Any], seeds: Sequence[int], better: str
) -> list[statistics.Judgement] | None:
  """The difference beyond the mean momentum, and that of the better from 0.9.

  Args:
    record: The record of the probe.
    seeds: Those that finished with all pairs of both orders.
    better: The role with the lower mean error.

  Returns:
    Both, judged together; ``None`` if a required arm has no error.
  """
  arms = {arm['name']: arm for arm in record['pairs']}
  fixed = {
    arm['horizontal_momentum']: name
    for name, arm in arms.items()
    if arm['role'] == 'fixed'
  }
  raw = _raw_weights(record)
  needed = {
    max(arms[name]['horizontal_momentum'], arms[name]['vertical_momentum'])
    for name in raw
  }
  if not {_BASE, *needed} <= fixed.keys():
    return None
  base = fixed[_BASE]
  beyond = dict(raw)
  over = {base: -1.0}
  for name, weight in raw.items():
    arm = arms[name]
    if arm['role'] == better:
      over[name] = abs(weight)
    fast = max(arm['horizontal_momentum'], arm['vertical_momentum'])
    share = arm['horizontal_fraction']
    # Position of the mean momentum between the base and the larger one.
    part = share if arm['role'] == 'horizontal' else 1 - share
    for place, sign in ((fixed[fast], -1), (base, 1)):
      beyond[place] = beyond.get(place, 0.0) + sign * weight * part
  design = _design(record, seeds)
  estimates = [design.contrast(weights) for weights in (beyond, over)]
  if any(estimate is None for estimate in estimates):
    return None
  return statistics.judge([e for e in estimates if e is not None])


def _further_sentence(
  judged: Sequence[statistics.Judgement], better: str, is_found: bool
) -> str:
  _, over = judged
  shown = [
    f'{j.estimate.difference:+.2f} points, {j.low:+.2f} to {j.high:+.2f},'
    f' {j.verdict}'
    for j in judged
  ]
  sentence = f'Beyond the effect of the mean momentum: {shown[0]}.'
  sentence += f' The {better} phase minus fixed {_BASE}: {shown[1]}'
  if is_found and over.verdict != Verdict.BETTER:
    sentence += ': it beats only the other phase, not the fixed momentum'
  return f'{sentence}.'


def _judged(judged: statistics.Judgement) -> dict[str, Any]:
  return {
    'mean': judged.estimate.difference,
    'low': _number(judged.low),
    'high': _number(judged.high),
    'p_value': _number(judged.p),
    'margin': judged.estimate.margin,
    'verdict': str(judged.verdict),
  }


def _mean_errors(
  arms: Sequence[dict[str, Any]], role: str
) -> Mapping[int, float]:
  """Mean error over the arms of a role, by seed; without the diverged."""
  by_seed = zip(
    *(arm['errors'] for arm in arms if arm['role'] == role), strict=True
  )
  return {
    seed: float(np.mean(values))
    for seed, values in enumerate(by_seed)
    if None not in values
  }


def _sample(sample: statistics.Sample) -> dict[str, Any]:
  return {
    'n': sample.n,
    'mean': sample.mean,
    'deviation': _number(sample.std),
    'low': _number(sample.mean - sample.half_width),
    'high': _number(sample.mean + sample.half_width),
  }


def _plain(values: np.ndarray) -> list[float | None]:
  return [_number(float(value)) for value in values]


def _number(value: float) -> float | None:
  """Replaces NaN and infinity, which JSON does not have."""
  return value if math.isfinite(value) else None


# -------------------------------------------------------------------- picture

# Colors and markers of the roles.
_LOOKS = {
  'fixed': ('0.35', 'o'),
  'horizontal': (pictures.COLORS[0], 's'),
  'vertical': (pictures.COLORS[1], '^'),
}


def draw(
  record: dict[str, Any],
  path: pathlib.Path,
  beside: Sequence[dict[str, Any]] = (),
) -> None:
  """Draws the errors of all pairs, and the difference against zero.

  Args:
    record: From :func:`measure`, or read from its JSON file.
    path: The PNG file to write.
    beside: See :func:`judge`.
  """
  arms, judged = record['pairs'], judge(record, beside)
  of_difference = _judge_difference(record, beside)
  in_family = '' if of_difference is None else _in_family(of_difference)
  with pictures.drawing():
    figure = mpl_figure.Figure(
      figsize=(9, 4.2),
      # Leaves room for the line at the bottom.
      layout=layout_engine.ConstrainedLayoutEngine(rect=(0, 0.04, 1, 0.96)),
    )
    figure.suptitle(
      f'{safe.label(record["dataset"])}: {judged["answer"]}{in_family},'
      f' {len(record["seeds"])} seeds'
    )
    left, right = figure.subplots(
      1, 2, width_ratios=(max(3, len(arms)), 1.6), squeeze=True
    )
    for i, arm in enumerate(arms):
      color, marker = _LOOKS[arm['role']]
      _column(left, i, arm['errors'], arm['error'], color, marker)
    left.set_xticks(
      range(len(arms)), [arm['name'].replace(' ', '\n') for arm in arms]
    )
    left.set_xlim(-0.5, len(arms) - 0.5)
    left.set_xlabel('momentum (0.9 in the other phase)')
    left.set_ylabel('validation error (%)')

    difference = judged['difference']
    right.axhline(0, color='black', lw=1)
    if difference is not None:
      by_seed = list(difference['by_seed'].values())
      margin = difference['margin']
      right.axhspan(-margin, margin, color='0.9', zorder=0)
      _column(right, 0, by_seed, difference, pictures.COLORS[2], 'o')
      reach = 1.25 * max(
        abs(value)
        for value in (
          *by_seed,
          difference['low'],
          difference['high'],
          margin,
        )
      )
      # Centers zero, which makes the sign obvious.
      right.set_ylim(-reach or -1, reach or 1)
    for height, phase in ((0.99, 'vertical'), (0.01, 'horizontal')):
      right.text(
        0.5,
        height,
        f'{phase} data set',
        transform=right.transAxes,
        ha='center',
        va='top' if height > 0.5 else 'bottom',
        fontsize=8,
        color='0.4',
      )
    right.set_xlim(-0.5, 0.5)
    right.set_xticks([0], ['horizontal\n− vertical'])
    right.set_xlabel('phase accelerated')
    right.set_ylabel('difference (points)')
    simultaneous = (
      f' (difference: simultaneous{in_family})' if in_family else ''
    )
    figure.text(
      0.995,
      0.005,
      f'small: seeds; large: mean with 95 % interval{simultaneous}; gray: the'
      ' margin',
      ha='right',
      fontsize=8,
      color='0.4',
    )
    pictures.save(figure, path)


def _column(
  axis: mpl_axes.Axes,
  x: float,
  values: Sequence[float | None],
  sample: dict[str, Any] | None,
  color: str,
  marker: str,
) -> None:
  """Draws the seeds, and beside them their mean with its interval."""
  there = [value for value in values if value is not None]
  axis.plot(
    [x - 0.12] * len(there),
    there,
    linestyle='',
    marker=marker,
    markersize=5,
    alpha=0.6,
    color=color,
    mew=0,
  )
  if sample is None:
    return
  half_width = (
    0.0 if sample['high'] is None else sample['high'] - sample['mean']
  )
  axis.errorbar(
    x + 0.12,
    sample['mean'],
    yerr=half_width,
    color=color,
    marker=marker,
    markersize=8,
    capsize=4,
  )
