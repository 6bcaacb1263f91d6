"""Studies beside the runs: of the paper's explanations, and of data sets.

A study measures something and writes it down; what it says and shows is made of
that record alone, now or later. :data:`STUDIES` is the register: the command
line and the report know of studies only what stands there and what
:class:`Module` asks of their files. To add one, write a file with these seven
functions, an entry, and what its record holds in
:data:`train.records.schema.STUDIES`.
"""

from collections.abc import Sequence
import dataclasses
import importlib
import pathlib
from typing import Annotated, Any, Literal, Protocol, cast

import rich.console
import tyro

from train import command_line
from train import config as config_lib
from train import sources

Record = dict[str, Any]
"""Plain JSON values: settings, and what was measured."""


class Module(Protocol):
  """What the file of a study has."""

  def measure(
    self, *, console: rich.console.Console | None, **settings: Any
  ) -> Record:
    """Makes the record. The settings are the fields of the study's flags."""

  def title(self, record: Record) -> str:
    """The heading in a report."""

  def summary(self, record: Record) -> str:
    """What was measured, and how much of it. Markdown: names are escaped."""

  def sentences(self, record: Record) -> list[str]:
    """What the record says, each with a :class:`~train.statistics.Verdict`."""

  def together(self, records: Sequence[Record]) -> list[str]:
    """What several records say as one family; none where each is its own."""

  def picture(self, record: Record) -> str:
    """Name of the picture in a report, without its suffix."""

  def draw(self, record: Record, path: pathlib.Path) -> None:
    """Draws the picture as a PNG file."""


@dataclasses.dataclass(frozen=True)
class Study:
  """An entry of the register."""

  name: str
  """The command, the name of its file here and of its record's file."""
  usage: str
  """What the command is followed by."""
  summary: str
  """In a few words."""
  flags: type
  """Of the command: the settings of ``measure``, and ``out``."""

  def load(self) -> Module:
    """The file of the study. It starts JAX: see :mod:`jax_environment`."""
    return cast(Module, importlib.import_module(f'{__name__}.{self.name}'))

  def write(self, record: Record, out: pathlib.Path) -> None:
    """Writes the record and its picture.

    Args:
      record: From ``measure``.
      out: Folder to write into; made if absent.

    Raises:
      UsageError: ``out`` cannot be written.
    """
    from train.studies import verdicts

    verdicts.write_record(out / f'{self.name}.json', record)
    self.load().draw(record, out / f'{self.name}.png')


# ----------------------------------------------------------------------- flags


@dataclasses.dataclass(frozen=True)
class TractionFlags:
  """Simulate Figure 1: two weights that pull each other, under LCAM and under
  coins.
  """

  seeds: int = 1000
  """Repetitions."""
  steps: int = 2400
  """Steps of each."""
  seed: int = 0
  """Seed of the noise."""
  out: pathlib.Path = pathlib.Path('runs/traction')
  """Where traction.json and traction.png are written."""


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
  """Measured epochs."""
  learning_rate: Annotated[
    float | None, command_line.default("a tenth of each run's initial one")
  ] = None
  """Constant learning rate."""
  data_dir: Annotated[
    pathlib.Path | None, command_line.default("the run's")
  ] = None
  """Directory of the data set's files."""
  out: pathlib.Path = pathlib.Path('runs/movement')
  """Where movement.json and movement.png are written."""


def _probes_default(size: str) -> Any:
  """Says in the help what each data set's own default is."""
  return command_line.default(
    ', '.join(
      f'{name} {getattr(source.probe, size)}'
      for name, source in sources.SOURCES.items()
    )
  )


@dataclasses.dataclass(frozen=True)
class ProbeFlags:
  """Find out whether a data set is vertical, horizontal or neutral in the sense
  of section 4.4, by short runs under several momenta.
  """

  dataset: config_lib.Dataset = 'digits'
  """The images."""
  data_dir: config_lib.DataDir = None
  """Directory of the data set's files."""
  seeds: int = 5
  """Runs of each pair of momenta."""
  accelerated: tuple[float, ...] = (0.95,)
  """The larger momenta to try, beside 0.9."""
  epochs: Annotated[int | None, _probes_default('epochs')] = None
  """Passes over the training images."""
  train_examples: Annotated[int | None, _probes_default('train_examples')] = (
    None
  )
  """Images to train on."""
  validation_examples: Annotated[
    int | None, _probes_default('validation_examples')
  ] = None
  """Training images held out."""
  image_size: Annotated[int | None, _probes_default('image_size')] = None
  """Shrink the images to N x N."""
  out: Annotated[
    pathlib.Path | None, command_line.default('runs/probe-DATASET')
  ] = None
  """Where probe.json and probe.png are written."""


@dataclasses.dataclass(frozen=True)
class BatchesFlags:
  """Find out whether a phase says where the weights are, or how hard the batch
  is: pairs of networks are trained on the same batches.
  """

  dataset: config_lib.Dataset = 'cifar10'
  """The images: a data set of the paper."""
  data_dir: config_lib.DataDir = None
  """Directory of the data set's files."""
  scale: Literal['small', 'medium'] = 'small'
  """Network and images, as the experiments have them."""
  batch_sizes: tuple[int, ...] = (32, 128)
  """Images a step."""
  repeats: int = 3
  """Pairs of networks for each batch size."""
  epochs: Annotated[
    int | None, command_line.default('up to where the paper reads off')
  ] = None
  """Train for the first N epochs of the run only."""
  train_examples: Annotated[
    int | None, command_line.default('those of the scale')
  ] = None
  """Train on the first N images only."""
  out: Annotated[
    pathlib.Path | None, command_line.default('runs/batches-DATASET')
  ] = None
  """Where batches.json and batches.png are written."""


# ------------------------------------------------------------------- register

STUDIES = {
  study.name: study
  for study in (
    Study('traction', '', 'Figure 1 as a simulation', TractionFlags),
    Study('movement', 'RUN...', 'the same in trained networks', MovementFlags),
    Study('probe', '--dataset NAME', 'what kind of data set it is', ProbeFlags),
    Study(
      'batches',
      '--dataset NAME',
      'whether a phase is of the weights or of the batch',
      BatchesFlags,
    ),
  )
}
