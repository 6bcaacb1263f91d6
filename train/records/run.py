"""One run on disk, after reading and checks."""

from collections.abc import Callable, Sequence
import dataclasses
import math
import pathlib
from typing import Any

from train import config as config_lib
from train import experiments
from train.records.schema import EpochRow
from train.records.schema import StepsRow
from train.records.schema import Summary

Seeds = tuple[int, ...]
"""The seeds of a run, in the order of :data:`train.config.SEEDS`."""


@dataclasses.dataclass(frozen=True)
class Run:
  """One run, from its directory or from packed tables."""

  path: pathlib.Path
  """Its directory, or its place relative to the tables."""
  config: dict[str, Any]
  """See :func:`schema.check_config`."""
  summary: Summary
  rows: list[EpochRow]
  read_steps: Callable[[], list[StepsRow]] = dataclasses.field(
    repr=False, compare=False
  )
  """Reads the steps on demand: they are too large to keep for every run."""

  @property
  def seed(self) -> int:
    seed: int = self.config['seed']
    return seed

  @property
  def seeds(self) -> Seeds:
    """All seeds, which pair this run with runs of other arms."""
    return tuple(self.config[name] for name in config_lib.SEEDS)

  @property
  def is_done(self) -> bool:
    return self.summary['status'] == 'done'

  @property
  def test_errors(self) -> dict[int, float]:
    """Test error in percent, by tested epoch."""
    return {
      row['epoch']: row['test_error']
      for row in self.rows
      if 'test_error' in row
    }

  @property
  def read_off_epoch(self) -> int:
    """The epoch that the paper reports."""
    return experiments.read_off_epoch(
      experiments.of_record(self.config), len(self.rows)
    )

  @property
  def read_off_error(self) -> float:
    """Test error in percent at the epoch that the paper reports."""
    return self.test_errors[self.read_off_epoch]

  @property
  def seconds(self) -> float:
    """Time of its epochs, its share if runs were trained together.

    The time of the summary is that of the last process. NaN if not recorded.
    """
    epochs = [row.get('seconds', math.nan) for row in self.rows]
    return sum(epochs) / self.summary.get('runs_together', 1)

  @property
  def mean_momentum(self) -> float:
    """Mean momentum of the epochs up to the one that the paper reports.

    NaN if it is not recorded.
    """
    momenta = self.curve('mean_momentum')[: self.read_off_epoch]
    known = [momentum for momentum in momenta if momentum is not None]
    return sum(known) / len(known) if len(known) == len(momenta) else math.nan

  @property
  def steps(self) -> list[StepsRow]:
    """One row per epoch; empty for records of older versions."""
    return self.read_steps()

  def curve(self, name: str) -> list[float | None]:
    """One metric over the epochs."""
    rows: Sequence[Any] = self.rows
    return [row.get(name) for row in rows]

  @property
  def settings(self) -> dict[str, Any]:
    """Everything that must be equal in all runs of an arm."""
    own = config_lib.OWN_TO_EACH_RUN
    experiment = experiments.of_record(self.config)
    if experiment is not None and experiment.takes is not None:
      own = own | {experiment.takes.setting}
    names = [field.name for field in dataclasses.fields(config_lib.Config)]
    return {
      **{name: self.config[name] for name in names if name not in own},
      # The resolved value of dtype=auto.
      'compute_dtype': self.config.get('compute_dtype'),
    }

  @property
  def results(self) -> tuple[Any, ...]:
    """The results, which a repetition with the same seeds must reproduce."""
    figures = (
      'train_loss', 'train_error', 'test_loss', 'test_error', 'mean_momentum',
      'horizontal_fraction',
    )  # fmt: skip
    sha256 = self.summary.get('params_sha256')
    return (sha256, *(tuple(self.curve(name)) for name in figures))
