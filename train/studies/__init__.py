"""Studies of the paper's explanations, and of data sets.

A study measures something and writes a record. Its sentences and its figure are
made from that record alone, now or later. :data:`STUDIES` is the registry: the
command line and the report use only its entries and the functions of
:class:`Module`. To add a study, write a file with these six functions, an
entry, and the type of its record in :data:`train.records.schema.STUDIES`. If it
trains networks, their settings belong in :mod:`train.studies.configs`.
"""

from collections.abc import Callable, Iterable, Sequence
import contextlib
import dataclasses
import importlib
import pathlib
from typing import Annotated, Any, Literal, Protocol, cast

import rich.console
import tyro

from train import command_line
from train import config as config_lib
from train import errors
from train import sources
from train.studies import configs

Record = dict[str, Any]
"""Plain JSON values: settings and measurements."""


class Module(Protocol):
  """The functions in the file of a study."""

  def measure(
    self, *, console: rich.console.Console | None, **settings: Any
  ) -> Record:
    """Makes the record. The settings are the fields of the study's flags."""

  def title(self, record: Record) -> str:
    """The heading in a report."""

  def summary(self, record: Record) -> str:
    """What was measured, and how much. Markdown with escaped names."""

  def sentences(
    self, record: Record, beside: Sequence[Record] = ()
  ) -> list[str]:
    """The results.

    Args:
      record: The record.
      beside: The other records of this kind in the same report, which may be
        judged as one family with this one.
    """

  def picture(self, record: Record) -> str:
    """The name of the figure in a report, without suffix."""

  def draw(
    self, record: Record, path: pathlib.Path, beside: Sequence[Record] = ()
  ) -> None:
    """Draws the figure as a PNG file; ``beside`` as for :meth:`sentences`."""


class ModuleWithOverview(Module, Protocol):
  """The functions in the file of a study whose records are read together."""

  def overview(self, records: Sequence[Record]) -> str:
    """What the records of this kind in a report have in common.

    Args:
      records: The records, at least one.

    Returns:
      Markdown with escaped names, above the first of them.
    """


@dataclasses.dataclass(frozen=True)
class Study:
  """An entry of the registry."""

  name: str
  """The name of the command, of its file here, and of the file of its record.
  """
  usage: str
  """The arguments of the command, for the usage."""
  summary: str
  """A few words."""
  flags: type
  """The flags of the command: the settings of ``measure``, and ``out``."""
  resumes: bool = False
  """Whether ``measure`` takes ``parts``, a folder that it resumes from."""
  has_overview: bool = False
  """Whether its file has the function of :class:`ModuleWithOverview`."""
  trains: Callable[[Any], Iterable[config_lib.Config]] = lambda flags: ()
  """The settings of the networks that ``measure`` trains, from the flags."""

  def networks(self, flags: Any) -> list[config_lib.Config]:
    """The settings of the networks that it trains, without JAX.

    Args:
      flags: An instance of :attr:`flags`.

    Returns:
      Nothing if the flags are wrong, which ``measure`` reports.
    """
    with contextlib.suppress(errors.UsageError):
      return list(self.trains(flags))
    return []

  def load(self) -> Module:
    """Imports the study, and with it JAX: see :mod:`jax_environment`."""
    return cast(Module, importlib.import_module(f'{__name__}.{self.name}'))

  def overview(self, records: Sequence[Record]) -> str:
    """What the records of this kind in a report have in common.

    Args:
      records: The records, at least one.

    Returns:
      Markdown with escaped names; empty for a study without an overview.
    """
    if not self.has_overview:
      return ''
    return cast(ModuleWithOverview, self.load()).overview(records)

  def write(self, record: Record, out: pathlib.Path) -> None:
    """Writes the record and its figure.

    Args:
      record: From ``measure``.
      out: Output folder, created if absent.

    Raises:
      UsageError: If ``out`` cannot be written.
    """
    from train.studies import verdicts

    verdicts.write_record(out / f'{self.name}.json', record)
    self.load().draw(record, out / f'{self.name}.png')


# ----------------------------------------------------------------------- flags


@dataclasses.dataclass(frozen=True)
class TractionFlags:
  """Simulate Figure 1: two coupled weights, with LCAM and random controls."""

  seeds: int = 1000
  """Number of repetitions."""
  steps: int = 2400
  """Steps per repetition."""
  seed: int = 0
  """Seed of the noise."""
  out: pathlib.Path = pathlib.Path('runs/traction')
  """Output folder of traction.json and traction.png."""


@dataclasses.dataclass(frozen=True)
class MovementFlags:
  """Measure how far quick and slow weights of trained networks move in each
  phase.
  """

  runs: Annotated[
    tyro.conf.Positional[tuple[pathlib.Path, ...]], command_line.REQUIRED
  ] = ()
  """Directories of finished runs."""
  epochs: int = 3
  """Number of measured epochs."""
  learning_rate: Annotated[
    float | None, command_line.default("a tenth of each run's initial one")
  ] = None
  """Constant learning rate."""
  data_dir: Annotated[
    pathlib.Path | None, command_line.default("the run's")
  ] = None
  """Directory of the data set's files."""
  out: pathlib.Path = pathlib.Path('runs/movement')
  """Output folder of movement.json and movement.png."""


def _probes_default(size: str) -> Any:
  """Lists the default of each data set in the help."""
  return command_line.default(
    ', '.join(
      f'{name} {getattr(source.probe, size)}'
      for name, source in sources.SOURCES.items()
    )
  )


@dataclasses.dataclass(frozen=True)
class ProbeFlags:
  """Classify a data set as vertical, horizontal or neutral (section 4.4), by
  short runs with several momenta.
  """

  dataset: config_lib.Dataset = 'digits'
  """Data set."""
  data_dir: config_lib.DataDir = None
  """Directory of the data set's files."""
  seeds: int = 5
  """Number of runs of each pair of momenta."""
  accelerated: tuple[float, ...] = (0.95,)
  """Larger momenta to compare with 0.9."""
  epochs: Annotated[int | None, _probes_default('epochs')] = None
  """Passes over the training images."""
  train_examples: Annotated[int | None, _probes_default('train_examples')] = (
    None
  )
  """Number of training images."""
  validation_examples: Annotated[
    int | None, _probes_default('validation_examples')
  ] = None
  """Number of training images to hold out."""
  image_size: Annotated[int | None, _probes_default('image_size')] = None
  """Shrink the images to N x N."""
  out: Annotated[
    pathlib.Path | None, command_line.default('runs/probe-DATASET')
  ] = None
  """Output folder of probe.json and probe.png. The same command resumes from
  the finished runs in its folder parts.
  """


@dataclasses.dataclass(frozen=True)
class BatchesFlags:
  """Measure whether the phase depends on the weights or on the batch: pairs of
  networks are trained on the same batches.
  """

  dataset: config_lib.Dataset = 'cifar10'
  """Data set of the paper."""
  data_dir: config_lib.DataDir = None
  """Directory of the data set's files."""
  scale: Literal['small', 'medium'] = 'small'
  """Network and images, as in the experiments."""
  batch_sizes: tuple[int, ...] = (32, 128)
  """Images per step."""
  repeats: int = 3
  """Pairs of networks for each batch size."""
  epochs: Annotated[
    int | None, command_line.default('up to the epoch that the paper reports')
  ] = None
  """Train only for the first N epochs of the run."""
  train_examples: Annotated[
    int | None, command_line.default('those of the scale')
  ] = None
  """Train only on the first N images."""
  out: Annotated[
    pathlib.Path | None, command_line.default('runs/batches-DATASET')
  ] = None
  """Output folder of batches.json and batches.png. The same command resumes
  from the finished networks in its folder parts.
  """


# ------------------------------------------------------------------- networks


def _of_movement(flags: MovementFlags) -> Iterable[config_lib.Config]:
  return map(configs.of_run, flags.runs)


def _of_probe(flags: ProbeFlags) -> Iterable[config_lib.Config]:
  size = configs.size_of_probe(flags.dataset, image_size=flags.image_size)
  yield configs.of_probe(flags.dataset, size)


def _of_batches(flags: BatchesFlags) -> Iterable[config_lib.Config]:
  config = configs.of_batches(flags.scale, flags.dataset).config
  for batch_size in flags.batch_sizes:
    yield configs.with_batch_size(config, batch_size)


# ------------------------------------------------------------------- registry

STUDIES = {
  study.name: study
  for study in (
    Study('traction', '', 'Figure 1 as a simulation', TractionFlags),
    Study(
      'movement',
      'RUN...',
      'the same in trained networks',
      MovementFlags,
      trains=_of_movement,
    ),
    Study(
      'probe',
      '--dataset NAME',
      'classify a data set',
      ProbeFlags,
      resumes=True,
      trains=_of_probe,
    ),
    Study(
      'batches',
      '--dataset NAME',
      'is the phase of the weights or the batch?',
      BatchesFlags,
      resumes=True,
      has_overview=True,
      trains=_of_batches,
    ),
  )
}
