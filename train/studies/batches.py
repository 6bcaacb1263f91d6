r"""Does a phase say where the weights are, or how hard the batch is?

LCAM calls the step after a batch loss at or below the mean of the epoch so far
horizontal. Here, that phase is counted at the batch whose loss decides it. The
paper reads a low loss as a place of the weights, the bottom of
a valley that they oscillate across (sections 3.1 and 3.2). A batch loss is also
low where the batch has easy images, wherever the weights are. This study
measures three things:

* **Two networks on the same batches.** Two initial parameters are trained on
  the same images in the same order with the same crops. The control is two
  networks on different batches, which share the trend of an epoch alone. If
  losses and phases agree, they belong to the batches and not to the path of one
  network. This alone does not exclude an oscillation: two weights in one valley
  fall into step if the same batches push them.
* **A frozen network.** The parameters at the start of each epoch see the
  batches of that epoch at a learning rate of zero. They cannot oscillate. If
  their losses and phases are those of the network that trains, no oscillation
  is needed to explain them. Only epochs wholly at the full learning rate count:
  where the rate is low, a network that trains hardly moves either.
* **The next step.** A place that oscillates changes within a few steps, and its
  loss depends on that of the step before. Batches drawn without replacement are
  almost uncorrelated from step to step.

For comparison, the paper's own picture is simulated:
:class:`~train.studies.traction.Valley` with the same number of steps per epoch
and the same figures computed from its batch losses. The correlation with frozen
weights depends on the learning rate, and approaches 1 for low ones.

Losses are compared within an epoch, after a straight line over its steps is
taken away, and without the short last batch. All figures are exploratory and
bear no verdict.
"""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
import pathlib
import time
from typing import Any, NamedTuple

import jax
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
import numpy as np
import rich.console

from train import config as config_lib
from train import data
from train import errors
from train import markdown
from train import pictures
from train import progress
from train import safe
from train.data import dataset as dataset_lib
from train.program import build
from train.records import run_directory
from train.studies import configs as configs_lib
from train.studies import parts as parts_lib
from train.studies import traction
from train.studies import verdicts

# A correlation over fewer steps says nothing.
_LEAST_STEPS = 10

# Epochs after which the loss no longer falls steeply within an epoch.
_SETTLED = 3


def measure(
  dataset: str,
  data_dir: pathlib.Path | None = None,
  *,
  scale: str = 'small',
  batch_sizes: Sequence[int] = (32, 128),
  repeats: int = 3,
  epochs: int | None = None,
  train_examples: int | None = None,
  parts: pathlib.Path | None = None,
  console: rich.console.Console | None = None,
) -> dict[str, Any]:
  """Trains pairs of networks on the same batches, and compares their losses.

  The runs are those of LCAM of Figure 4. Learning rates are in proportion to
  the batch size.

  Args:
    dataset: `cifar10` or `cifar100`.
    data_dir: Where its files are, ``None`` for its default.
    scale: `small` or `medium`, as the experiments have it.
    batch_sizes: Images a step, each with networks of its own.
    repeats: Pairs of networks, each pair with batches of its own; at least 3.
    epochs: Train for the first N epochs of the run only. Default: up to where
      the paper reads off.
    train_examples: Train on the first N images only. Default: those of the
      scale.
    parts: Folder in which the losses of finished networks are saved, and from
      which the same call resumes. Default: none.
    console: Where progress is shown. Default: standard error.

  Returns:
    A record of plain JSON values: ``dataset``, ``scale``, ``settings``, and
    ``sizes``, for each batch size ``batch_size``, ``of_epochs`` (a row an
    epoch), ``all`` (the mean over the epochs from the fourth on, of a short
    study the last), ``valleys`` (see :func:`predict`) and ``example``, two
    networks' losses in the last epoch. A row has the ``learning_rate`` of its
    epoch's first step and the ``last_learning_rate``. Figures have ``n``
    repeats, their ``values``, ``mean``, ``sd`` and the 95 % interval's
    ``half_width``. Versions and device.

  Raises:
    UsageError: A setting is out of range, or the data cannot be had.
  """
  console = console or rich.console.Console(stderr=True)
  say = functools.partial(
    console.print, highlight=False, markup=False, soft_wrap=True
  )
  started = time.monotonic()
  experiment = configs_lib.of_batches(scale, dataset)
  reads_off = experiment.reads_off or experiment.config.epochs
  _check(batch_sizes, repeats, epochs, reads_off)
  epochs = epochs or reads_off
  config = dataclasses.replace(
    experiment.config,
    data_dir=data_dir,
    train_examples=train_examples or experiment.config.train_examples,
  )
  configs = [configs_lib.with_batch_size(config, size) for size in batch_sizes]
  for own in configs:
    config_lib.check(own)
  images = data.load(
    dataset, data_dir, config.train_examples, config.image_size
  )
  for own in configs:
    if own.batch_size * _LEAST_STEPS > len(images.train):
      raise errors.UsageError(
        f'--batch-sizes must leave at least {_LEAST_STEPS} steps an epoch of'
        f' {len(images.train)} images, got {own.batch_size}.'
      )
  sizes = []
  for own in configs:
    measured = _measure_size(own, images, repeats, epochs, parts, say)
    assert own.horizontal_momentum is not None
    assert own.vertical_momentum is not None
    sizes.append(
      {
        'batch_size': own.batch_size,
        **_summarize(measured),
        'valleys': predict(
          len(images.train) // own.batch_size,
          (own.horizontal_momentum, own.vertical_momentum),
        ),
      }
    )
  return {
    'dataset': dataset,
    'scale': scale,
    'settings': {
      'repeats': repeats,
      'epochs': epochs,
      'depth': config.depth,
      'widen_factor': config.widen_factor,
      'train_examples': len(images.train),
      'image_size': images.train.images.shape[1],
      'horizontal_momentum': config.horizontal_momentum,
      'vertical_momentum': config.vertical_momentum,
    },
    'sizes': sizes,
    'seconds': round(time.monotonic() - started, 1),
    **run_directory.environment(jax.devices()[:1]),
  }


# Before them, the weights of a valley are on the way to its optimum.
_STEPS_TO_THE_OPTIMUM = 2000
_EPOCHS_IN_A_VALLEY = 5
_SEEDS_IN_A_VALLEY = 20

_PREDICTED = (
  'same_correlation', 'same_agreement', 'autocorrelation',
  'frozen_correlation', 'frozen_agreement',
)  # fmt: skip


def predict(
  steps_per_epoch: int,
  momenta: tuple[float, float],
  *,
  seeds: int = _SEEDS_IN_A_VALLEY,
) -> dict[str, dict[str, float | None]]:
  """The figures of weights in the paper's valley instead of networks.

  The valleys are those of :mod:`train.studies.traction`: that of the report,
  and those with another learning rate or coupling. (The figures do not depend
  on the scale of the noise.) In place of a pair of networks, weights start from
  two places, on opposite sides of the optimum.

  Args:
    steps_per_epoch: Number of steps of an epoch, at least 3.
    momenta: LCAM's horizontal and vertical momentum.
    seeds: Number of repetitions in each valley.

  Returns:
    For each figure the means over repetitions and epochs of the valleys with
    the ``low``est and the ``high``est.
  """
  valley = traction.Valley(steps_per_epoch=steps_per_epoch)
  valleys = [
    valley._replace(**changes)
    for changes in [{}, *traction.other_valleys(valley)]
    if 'noise' not in changes
  ]
  of_valleys = [_figures_in(own, momenta, seeds) for own in valleys]
  return {
    name: {
      'low': verdicts.rounded(min(own[name] for own in of_valleys)),
      'high': verdicts.rounded(max(own[name] for own in of_valleys)),
    }
    for name in _PREDICTED
  }


def _figures_in(
  valley: traction.Valley, momenta: tuple[float, float], seeds: int
) -> dict[str, float]:
  """Means of the figures of weights in one valley."""
  steps = valley.steps_per_epoch
  before = -(-_STEPS_TO_THE_OPTIMUM // steps)
  epochs = before + _EPOCHS_IN_A_VALLEY

  def by_epoch(of_steps: np.ndarray) -> np.ndarray:
    """By seed and epoch, without the way to the optimum."""
    shaped = of_steps.astype(np.float64).reshape(seeds, epochs, steps, 2)
    return shaped[:, before:]

  start = (valley.quick_start, valley.slow_start)
  walks = [
    traction.walk(
      momenta,
      0,  # The same noise.
      seeds,
      epochs * steps,
      valley=valley._replace(quick_start=quick, slow_start=slow),
    )
    for quick, slow in (start, (-start[0], -start[1]))
  ]
  minima = by_epoch(walks[0].minima)
  places, others = (by_epoch(walk.places[:, :-1]) for walk in walks)
  figures = [
    {
      'same_correlation': _correlate(own[epoch], second[epoch]),
      'same_agreement': float(
        np.mean(choices(own)[epoch] == choices(second)[epoch])
      ),
      **_of_network(own[epoch], choices(own)[epoch], still[epoch]),
    }
    for own, second, still in zip(
      valley.loss(places - minima),
      valley.loss(others - minima),
      valley.loss(places[:, :, :1] - minima),
      strict=True,
    )
    for epoch in range(_EPOCHS_IN_A_VALLEY)
  ]
  return {
    name: float(np.mean([own[name] for own in figures])) for name in _PREDICTED
  }


# ------------------------------------------------------------------- settings


def _check(
  batch_sizes: Sequence[int], repeats: int, epochs: int | None, most: int
) -> None:
  """What :func:`train.config.check` does not know of."""
  if not batch_sizes or len(set(batch_sizes)) < len(batch_sizes):
    raise errors.UsageError(
      '--batch-sizes must be one or more numbers that differ, got'
      f' {" ".join(map(str, batch_sizes)) or "none"}.'
    )
  # Of two, the control would be one comparison made twice.
  if not 3 <= repeats <= 1000:
    raise errors.UsageError(
      f'--repeats must be at least 3 and at most 1000, got {repeats}.'
    )
  if epochs is not None and not 1 <= epochs <= most:
    raise errors.UsageError(
      f'--epochs must be at least 1 and at most {most}, got {epochs}.'
    )


# ------------------------------------------------------------------- training


class _Run(NamedTuple):
  """The steps of one network, without the short last batches. float64."""

  losses: np.ndarray  # shape=(epochs, steps)
  # shape=(epochs, steps): 1 where the loss chose the horizontal momentum.
  horizontal: np.ndarray
  # shape=(epochs, steps), with the short last batches.
  learning_rates: np.ndarray
  # shape=(epochs, steps): losses of the parameters at the start of the epoch.
  # Of the first network of a pair alone.
  frozen: np.ndarray | None = None


class _Repeat(NamedTuple):
  """Two networks on the same batches, and one on others."""

  first: _Run
  second: _Run
  other: _Run


def _measure_size(
  config: config_lib.Config,
  images: dataset_lib.Dataset,
  repeats: int,
  epochs: int,
  folder: pathlib.Path | None,
  say: Callable[[str], None],
) -> list[_Repeat]:
  """Trains the networks of one batch size, one after another."""
  steps_per_epoch = -(-len(images.train) // config.batch_size)
  runs: list[_Run] = []
  shown = _Shown(config, 2 * repeats, epochs, say)
  for i in range(2 * repeats):
    resolved = config_lib.resolve(
      dataclasses.replace(
        config,
        init_seed=i,
        # Two networks share their batches.
        order_seed=i // 2,
        augmentation_seed=i // 2,
      ),
      steps_per_epoch,
    )
    runs.append(
      _train_once(
        resolved,
        images,
        epochs,
        with_frozen=_has_frozen(i),
        folder=folder,
        show=functools.partial(shown.epoch, i),
      )
    )
    shown.network(i, float(runs[-1].losses[-1].mean()))
  pairs = list(zip(runs[::2], runs[1::2], strict=True))
  return [
    # The control: the first network of the next pair.
    _Repeat(first, second, pairs[(i + 1) % repeats][0])
    for i, (first, second) in enumerate(pairs)
  ]


class _Shown:
  """Shows the progress of the networks of one batch size."""

  def __init__(
    self,
    config: config_lib.Config,
    networks: int,
    epochs: int,
    say: Callable[[str], None],
  ):
    self._title = f'{config.dataset}  batch size {config.batch_size}  network '
    self._networks = networks
    self._epochs = epochs
    self._say = say
    self._started = self._last = time.monotonic()
    self._trained = 0

  def epoch(self, network: int, epoch: int, loss: float) -> None:
    """Counts an epoch, and shows it if the last line is old."""
    self._trained += _passes(network)
    is_old = time.monotonic() - self._last > progress.LINE_SECONDS
    if epoch < self._epochs and is_old:
      self._show(network, f'epoch {epoch}/{self._epochs}  ', epoch, loss)

  def network(self, network: int, loss: float) -> None:
    """Shows a finished network."""
    self._show(network, '', self._epochs, loss)

  def _show(self, network: int, where: str, epoch: int, loss: float) -> None:
    self._last = time.monotonic()
    line = (
      f'{self._title}{network + 1}/{self._networks}  {where}loss {loss:.4f}'
    )
    passes = [self._epochs * _passes(i) for i in range(network, self._networks)]
    left = sum(passes) - epoch * _passes(network)
    if self._trained:  # None if all networks so far were read.
      seconds = (self._last - self._started) / self._trained * left
      line += f'  {progress.duration(seconds)} left'
    self._say(line)


def _passes(network: int) -> int:
  """Passes over the images for each epoch of a network."""
  return 2 if _has_frozen(network) else 1


def _has_frozen(network: int) -> bool:
  """Whether its epochs are measured with frozen parameters too."""
  return network % 2 == 0


def _train_once(
  config: config_lib.Resolved,
  images: dataset_lib.Dataset,
  epochs: int,
  *,
  with_frozen: bool,
  folder: pathlib.Path | None,
  show: Callable[[int, float], None],
) -> _Run:
  """Trains one network, or reads its losses from the folder."""

  def train() -> dict[str, np.ndarray]:
    run = _train(config, images, epochs, with_frozen=with_frozen, show=show)
    return {k: v for k, v in run._asdict().items() if v is not None}

  facts = {
    'settings': config_lib.to_json(config),
    'epochs': epochs,
    'with_frozen': with_frozen,
  }
  names = {*_Run._fields} - (set() if with_frozen else {'frozen'})
  return _Run(**parts_lib.measure_once(folder, images, facts, names, train))


def _train(
  config: config_lib.Resolved,
  images: dataset_lib.Dataset,
  epochs: int,
  *,
  with_frozen: bool,
  show: Callable[[int, float], None],
) -> _Run:
  """Trains one network, and measures each epoch with frozen parameters too."""
  # A CPU trains one network at a time fastest.
  program = build.Program([config], images, devices=jax.devices()[:1])
  train_images, _ = program.place()
  state = program.init()
  losses, frozen, rates = [], [], []
  for number in range(1, epochs + 1):
    if with_frozen:
      _, measured = program.train_epoch(
        program.stack(program.fetch(state)),
        train_images,
        number,
        learning_rate=0.0,
      )
      frozen.append(measured.loss[0])
    state, measured = program.train_epoch(state, train_images, number)
    losses.append(measured.loss[0])
    rates.append(program.learning_rates(number)[0])
    show(number, float(losses[-1].mean()))
  full = len(images.train) // config.batch_size
  of_epochs = np.asarray(losses, np.float64)
  return _Run(
    of_epochs[:, :full],
    choices(of_epochs)[:, :full],
    np.asarray(rates, np.float64),
    np.asarray(frozen, np.float64)[:, :full] if with_frozen else None,
  )


def choices(losses: np.ndarray) -> np.ndarray:
  """Which losses are at or below the mean of their epoch so far.

  Args:
    losses: shape=(epochs, steps), finite.

  Returns:
    shape=(epochs, steps), dtype=float64: 1 for horizontal, else 0.

  Example:
    >>> choices(np.array([[1.0, 3.0, 1.5], [2.0, 2.0, 1.0]])).tolist()
    [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]
  """
  steps = np.arange(1, losses.shape[1] + 1)
  return (losses * steps <= np.cumsum(losses, axis=1)).astype(np.float64)


# -------------------------------------------------------------------- figures

_FIGURES = (
  'same_correlation', 'other_correlation', 'same_agreement',
  'other_agreement', 'chance_agreement', 'autocorrelation',
  'frozen_correlation', 'frozen_agreement',
)  # fmt: skip


def _summarize(measured: Sequence[_Repeat]) -> dict[str, Any]:
  """What was found at one batch size, over the repeats."""
  # By repeat and epoch.
  figures = [
    [_of_epoch(repeat, epoch) for epoch in range(len(repeat.first.losses))]
    for repeat in measured
  ]
  epochs = len(figures[0])
  settled = range(min(_SETTLED, epochs - 1), epochs)

  def over_repeats(name: str, epochs: Sequence[int]) -> dict[str, Any]:
    values = [
      float(np.mean([own[epoch][name] for epoch in epochs])) for own in figures
    ]
    return {
      **verdicts.summarize(values),
      'values': [verdicts.rounded(value) for value in values],
    }

  first = measured[0]
  rates = [
    [float(f'{rate:.4g}') for rate in (of_epoch[0], of_epoch[-1])]
    for of_epoch in first.first.learning_rates
  ]
  return {
    'of_epochs': [
      {
        'epoch': epoch + 1,
        'learning_rate': rates[epoch][0],
        'last_learning_rate': rates[epoch][1],
        **{name: over_repeats(name, [epoch]) for name in _FIGURES},
      }
      for epoch in range(epochs)
    ],
    'all': {
      'first_epoch': settled[0] + 1,
      **{name: over_repeats(name, settled) for name in _FIGURES},
    },
    'example': {
      'first': np.round(first.first.losses[-1], 4).tolist(),
      'second': np.round(first.second.losses[-1], 4).tolist(),
    },
  }


def _of_epoch(repeat: _Repeat, epoch: int) -> dict[str, float]:
  losses = [run.losses[epoch] for run in repeat]
  horizontal = [run.horizontal[epoch] for run in repeat]
  shares = [own.mean() for own in horizontal[:2]]
  assert repeat.first.frozen is not None
  frozen = repeat.first.frozen[epoch]
  return {
    'same_correlation': _correlate(losses[0], losses[1]),
    'other_correlation': _correlate(losses[0], losses[2]),
    'same_agreement': float(np.mean(horizontal[0] == horizontal[1])),
    'other_agreement': float(np.mean(horizontal[0] == horizontal[2])),
    # Of two coins with the networks' shares.
    'chance_agreement': float(
      shares[0] * shares[1] + (1 - shares[0]) * (1 - shares[1])
    ),
    **_of_network(losses[0], horizontal[0], frozen),
  }


def _of_network(
  losses: np.ndarray, horizontal: np.ndarray, frozen: np.ndarray
) -> dict[str, float]:
  """The figures of one network in one epoch, each array of shape=(steps,)."""
  return {
    'autocorrelation': _correlate(losses[:-1], losses[1:]),
    'frozen_correlation': _correlate(losses, frozen),
    'frozen_agreement': float(np.mean(horizontal == choices(frozen[None])[0])),
  }


def _correlate(first: np.ndarray, second: np.ndarray) -> float:
  """Pearson's correlation without a straight line over the steps."""
  steps = np.arange(len(first))
  rest = [
    x - np.polyval(np.polyfit(steps, x, 1), steps) for x in (first, second)
  ]
  return float(np.corrcoef(*rest)[0, 1])


# ------------------------------------------------------------------- sentences


def title(record: dict[str, Any]) -> str:
  return f'Phase or batch: {record["dataset"]}, {record["scale"]}'


def overview(records: Sequence[dict[str, Any]]) -> str:
  rows = [
    [
      f'{safe.markdown(record["dataset"])}, {safe.markdown(record["scale"])},'
      f' {size["batch_size"]}',
      str(record['settings']['repeats']),
      _whole_range(_settled_epochs(size)),
      *(
        _show(size['all'][name], record['settings']['repeats'], unit)
        for name, unit in (
          ('same_correlation', ''),
          ('other_correlation', ''),
          ('same_agreement', ' %'),
          ('other_agreement', ' %'),
          ('chance_agreement', ' %'),
        )
      ),
    ]
    for record in records
    for size in record['sizes']
  ]
  head = [
    'data set, scale, batch size',
    'pairs',
    'epochs',
    'losses correlate: same batches',
    'different batches',
    'phases agree: same batches',
    'different batches',
    'by chance',
  ]
  table = markdown.table(head, rows)
  return '\n\n'.join([_reading_of_all(records), _QUESTION, table, _MEASURED])


_QUESTION = """\
Does a phase say where the weights are, or how hard the images of the batch are?
Pairs of networks that differ in their initial parameters are trained with LCAM
on the same batches, and what they have in common does not come from the path of
one network alone. As a control, the first network of each pair is compared with
that of the next pair, which has other batches. Here, a phase is counted at the
batch whose loss decides it. Correlations are within an epoch, after a straight
line over its steps is removed. *By chance* is the agreement of two coins with
the networks' shares of phases. Figures have 95 % intervals over the pairs. The
control's are approximate, as its comparisons share networks. Exploratory: no
verdicts."""

_MEASURED = """\
Frozen parameters are those at the start of an epoch. They cannot oscillate. The
comparison with them is made at the full learning rate, because at lower rates
the network that trains hardly moves either. The paper pictures weights that
oscillate across a valley of the loss: "valleys" are the lowest and the highest
figure of such valleys, simulated with learning rates from 0.03 to 0.2 and with
different couplings (`python -m train traction`)."""


def summary(record: dict[str, Any]) -> str:
  settings, sizes = record['settings'], record['sizes']
  of_sizes = ' / '.join(str(size['batch_size']) for size in sizes)
  return (
    f'{settings["repeats"]} pairs of WRN-{settings["depth"]}-'
    f'{settings["widen_factor"]} under LCAM, each pair on batches of its own,'
    f' for {settings["epochs"]} epochs of {settings["train_examples"]:,} images'
    f' of {settings["image_size"]}x{settings["image_size"]}. Figures are for'
    f' batches of {of_sizes}, with 95 % intervals over the pairs, n ='
    f' {settings["repeats"]}.'
  )


def sentences(
  record: dict[str, Any], beside: Sequence[dict[str, Any]] = ()
) -> list[str]:
  """What the record says, with a figure for each batch size."""
  del beside  # Each record is a family of its own.
  sizes = record['sizes']
  repeats = record['settings']['repeats']
  rows = [_last_at_the_full_rate(size) for size in sizes]
  settled = [size['all'] for size in sizes]

  def each(found: Sequence[dict[str, Any]], name: str, unit: str = '') -> str:
    return ' / '.join(_show(row[name], repeats, unit) for row in found)

  def valleys(name: str, unit: str = '') -> str:
    shown = [_show_range(size['valleys'][name], unit) for size in sizes]
    return f'valleys: {" / ".join(shown)}'

  at = ' / '.join(
    f'epoch {row["epoch"]} at {row["learning_rate"]:g}' for row in rows
  )
  first, last = _settled_epochs(sizes[0])
  over = (
    f'In epoch {last}' if first == last else f'Over epochs {first} to {last}'
  )
  return [
    f'In the last epoch wholly at the full learning rate ({at}), the losses of'
    ' frozen parameters and of the network that trains correlate at'
    f' {each(rows, "frozen_correlation")} ({valleys("frozen_correlation")}),'
    ' and their phases agree in'
    f' {each(rows, "frozen_agreement", " %")} of the steps'
    f' ({valleys("frozen_agreement", " %")}). For two networks on the same'
    f' batches, these are {each(rows, "same_correlation")}'
    f' ({valleys("same_correlation")}) and'
    f' {each(rows, "same_agreement", " %")}'
    f' ({valleys("same_agreement", " %")}); by chance, phases agree in'
    f' {each(rows, "chance_agreement", " %")}.',
    f'{over}, the losses of two networks on the same batches correlate at'
    f' {each(settled, "same_correlation")}, on different batches at'
    f' {each(settled, "other_correlation")}. Their phases agree in'
    f' {each(settled, "same_agreement", " %")} of the steps on the same'
    f' batches, in {each(settled, "other_agreement", " %")} on different ones,'
    f' and in {each(settled, "chance_agreement", " %")} by chance.',
    'The correlation of a loss with that of the next step (lag 1) over these'
    f' epochs is {each(settled, "autocorrelation")}'
    f' ({valleys("autocorrelation")}).',
    _reading(sizes),
  ]


def _reading(sizes: Sequence[dict[str, Any]]) -> str:
  """What follows from the figures of one record."""
  kappas = [_kappa(size) for size in sizes]
  if None in kappas:
    return _UNKNOWN
  said = (
    "Cohen's kappa of two networks on the same batches, their agreement beyond"
    f' chance (0: none, 1: complete), is {" / ".join(filter(None, kappas))}.'
  )
  shares = []
  for size in sizes:
    frozen = _last_at_the_full_rate(size)['frozen_correlation']['mean']
    if frozen is None:
      return said
    valleys = size['valleys']['frozen_correlation']
    low, high = (100 * valleys[end] ** 2 for end in ('low', 'high'))
    shares.append(
      f'{100 * frozen**2:.0f} % (valleys: {low:.0f} to {high:.0f} %)'
    )
  return (
    f'{said} With frozen parameters only the images differ from step to step:'
    f' their loss has {" / ".join(shares)} of its variance in common with that'
    ' of the network that trains at the full rate. The figures do not exclude'
    ' that the rest oscillates as the paper describes.'
  )


_UNKNOWN = 'What two networks have in common is unknown.'


def _reading_of_all(records: Sequence[dict[str, Any]]) -> str:
  """What follows from the figures of all records, in a few sentences."""
  sizes = [size for record in records for size in record['sizes']]
  settled = [size['all'] for size in sizes]
  at_full = [_last_at_the_full_rate(size) for size in sizes]
  if any(
    row[name]['mean'] is None
    for row in (*settled, *at_full)
    for name in _FIGURES
    if name.endswith('_agreement')
  ):
    return _UNKNOWN

  def shown(rows: Sequence[dict[str, Any]], name: str) -> str:
    means = [row[name]['mean'] for row in rows]
    return _show_range({'low': min(means), 'high': max(means)}, ' %')

  def simulated(name: str) -> str:
    low, high = (
      of(size['valleys'][name][end] for size in sizes)
      for of, end in ((min, 'low'), (max, 'high'))
    )
    return f'simulated: {_show_range({"low": low, "high": high}, " %")}'

  said = (
    'Two networks that differ in their initial parameters have the same phase,'
    f' a low or a high loss, in {shown(settled, "same_agreement")} of the steps'
    f' on the same batches, in {shown(settled, "other_agreement")} on different'
    f' batches, and in {shown(settled, "chance_agreement")} by chance (n ='
    f' {_whole_range(r["settings"]["repeats"] for r in records)} pairs, from'
    f' epoch {_whole_range(row["first_epoch"] for row in settled)} on). Weights'
    ' that oscillate in one valley under the same batches agree, too'
    f' ({simulated("same_agreement")}). Frozen parameters cannot oscillate:'
    ' they have the phase of the network that trains in'
    f' {shown(at_full, "frozen_agreement")} of the steps at the full learning'
    f' rate ({simulated("frozen_agreement")}).'
  )
  if all(_follows_the_batches(row) for row in settled):
    return (
      f'The phase follows the batches more than the initial parameters. {said}'
    )
  return said


def _follows_the_batches(figures: dict[str, Any]) -> bool:
  """Whether same batches have more in common, beyond both intervals."""
  same, other = (figures[f'{name}_agreement'] for name in ('same', 'other'))
  if same['half_width'] is None or other['half_width'] is None:
    return False
  low = same['mean'] - same['half_width']
  return bool(low > other['mean'] + other['half_width'])


def _whole_range(numbers: Iterable[int]) -> str:
  found = sorted(set(numbers))
  return f'{found[0]}' if len(found) == 1 else f'{found[0]} to {found[-1]}'


def _kappa(size: dict[str, Any]) -> str | None:
  """Cohen's kappa of two networks on the same batches, with its interval."""
  agreements, by_chance = (
    size['all'][f'{name}_agreement']['values'] for name in ('same', 'chance')
  )
  found = [
    (agreement - chance) / (1 - chance)
    for agreement, chance in zip(agreements, by_chance, strict=True)
    if chance < 1
  ]
  if len(found) < 2:
    return None
  return _show(verdicts.summarize(found), repeats=len(agreements))


def _settled_epochs(size: dict[str, Any]) -> tuple[int, int]:
  """The first and the last epoch of the figures in ``all``."""
  return size['all']['first_epoch'], len(size['of_epochs'])


def _show_range(found: dict[str, float], unit: str) -> str:
  factor, digits = (100, 0) if unit else (1, 2)
  low, high = (_digits(factor * found[end], digits) for end in ('low', 'high'))
  return (low if low == high else f'{low} to {high}') + unit


def _last_at_the_full_rate(size: dict[str, Any]) -> dict[str, Any]:
  """The last epoch that ends at the full rate, or else the first one."""
  rows = size['of_epochs']
  full = max(row['learning_rate'] for row in rows)
  at_full = [row for row in rows if row['last_learning_rate'] == full]
  return at_full[-1] if at_full else rows[0]


def _show(figure: dict[str, Any], repeats: int, unit: str = '') -> str:
  """A mean with its interval, and with n if a repeat has no figure."""
  factor, digits = (100, 1) if unit else (1, 2)
  if figure['mean'] is None:
    return 'unknown'
  text = _digits(factor * figure['mean'], digits)
  if figure['half_width'] is not None:
    text += f' ± {factor * figure["half_width"]:.{digits}f}'
  text += unit
  return text if figure['n'] == repeats else f'{text} (n = {figure["n"]})'


def _digits(value: float, digits: int) -> str:
  """The number without a negative zero."""
  return f'{round(value, digits) + 0.0:.{digits}f}'


# --------------------------------------------------------------------- picture


def picture(record: dict[str, Any]) -> str:
  return f'batches-{record["dataset"]}-{record["scale"]}'


def draw(
  record: dict[str, Any],
  path: pathlib.Path,
  beside: Sequence[dict[str, Any]] = (),
) -> None:
  """Draws, for each batch size, two networks' losses and the agreement.

  Args:
    record: From :func:`measure`, or read from its JSON file.
    path: The PNG file to write.
    beside: Not used.
  """
  del beside
  sizes = record['sizes']
  with pictures.drawing():
    figure = mpl_figure.Figure(
      figsize=(12, 1.8 + 3.4 * len(sizes)), layout='constrained'
    )
    n = record['settings']['repeats']
    figure.suptitle(
      safe.label(
        f'{title(record)}, n = {n} pairs of networks (thick: mean; thin: each)'
      )
    )
    rows = figure.subplots(len(sizes), 3, squeeze=False)
    for size, (left, middle, right) in zip(sizes, rows, strict=True):
      example = size['example']
      left.plot(
        example['first'],
        example['second'],
        'o',
        markersize=3,
        alpha=0.6,
        color=pictures.COLORS[0],
        mew=0,
      )
      left.set_title(
        f'batches of {size["batch_size"]}: a dot a step', loc='left'
      )
      left.set_xlabel('loss of one network')
      left.set_ylabel('loss of another')
      _curves(
        middle,
        size,
        'correlation within the epoch',
        {
          'same_correlation': 'two networks, same batches',
          'other_correlation': 'different batches',
          'frozen_correlation': 'frozen and training',
          'autocorrelation': 'one network, next step',
        },
      )
      middle.axhline(0, color='0.3', lw=1)
      _curves(
        right,
        size,
        'steps of the same phase (%)',
        {
          'same_agreement': 'same batches',
          'other_agreement': 'different batches',
          'frozen_agreement': 'frozen and training',
          'chance_agreement': 'chance',
        },
        factor=100,
      )
    # Below the curves, which leave no room in a short study.
    for axis in rows[-1][1:]:
      axis.legend(fontsize=8, loc='upper center', bbox_to_anchor=(0.5, -0.2))
    pictures.save(figure, path)


def _curves(
  axis: mpl_axes.Axes,
  size: dict[str, Any],
  label: str,
  names: dict[str, str],
  factor: float = 1,
) -> None:
  """Each repeat and the mean over them, by epoch."""
  epochs = [row['epoch'] for row in size['of_epochs']]
  last = _last_at_the_full_rate(size)['epoch']
  for i, (name, text) in enumerate(names.items()):
    figures = [row[name] for row in size['of_epochs']]
    mean = factor * np.array([f['mean'] for f in figures], np.float64)
    pictures.draw_line(axis, epochs, mean, text, i)
    axis.plot(
      epochs,
      factor * np.array([f['values'] for f in figures], np.float64),
      color=pictures.COLORS[i],
      alpha=0.35,
      lw=0.7,
    )
    if name in size['valleys']:
      found = size['valleys'][name]
      axis.fill_between(
        [epochs[0], last],
        factor * found['low'],
        factor * found['high'],
        color=pictures.COLORS[i],
        alpha=0.2,
        # Visible where all valleys have the same figure.
        lw=1,
        label=f'{text}: simulated valleys',
      )
  if last < epochs[-1]:
    axis.axvline(
      last, color='0.5', lw=1, ls=':', label='the rate falls from here'
    )
  pictures.label_axis(axis, label)
