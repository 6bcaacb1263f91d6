"""One run on disk, read and checked."""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
from typing import Any

from train import config as config_lib
from train import experiments
from train.records.schema import EpochRow
from train.records.schema import StepsRow
from train.records.schema import Summary

# The settings that tell runs of an arm apart, or change no result.
_OWN_TO_EACH_RUN = {*config_lib.FREE_TO_CHANGE, *config_lib.SEEDS}

Seeds = tuple[int, ...]
"""The seeds of a run, in the order of :data:`train.config.SEEDS`."""


@dataclasses.dataclass(frozen=True)
class Run:
  """One run, from its directory or from packed tables."""

  path: pathlib.Path
  """Its directory, or where that would be beside the tables."""
  config: dict[str, Any]
  """See :func:`schema.check_config`."""
  summary: Summary
  rows: list[EpochRow]
  read_steps: Callable[[], list[StepsRow]] = dataclasses.field(
    repr=False, compare=False
  )
  """Reads the steps again: too many to be kept of every run."""

  @property
  def seed(self) -> int:
    seed: int = self.config['seed']
    return seed

  @property
  def seeds(self) -> Seeds:
    """All of them: what pairs this run with those of other arms."""
    return tuple(self.config[name] for name in config_lib.SEEDS)

  @property
  def is_done(self) -> bool:
    return self.summary['status'] == 'done'

  @property
  def test_errors(self) -> dict[int, float]:
    """In percent, by the epochs after which there was a test."""
    return {
      row['epoch']: row['test_error']
      for row in self.rows
      if 'test_error' in row
    }

  @property
  def read_off_error(self) -> float:
    """Test error in percent at the epoch at which the paper reads it off."""
    epoch = experiments.read_off_epoch(
      experiments.of_record(self.config), len(self.rows)
    )
    return self.test_errors[epoch]

  @property
  def steps(self) -> list[StepsRow]:
    """A row an epoch; none in records of before there were any."""
    return self.read_steps()

  def curve(self, name: str) -> list[float | None]:
    """One figure over the epochs."""
    rows: Sequence[Any] = self.rows
    return [row.get(name) for row in rows]

  @property
  def settings(self) -> dict[str, Any]:
    """What must be the same in all runs of an arm."""
    own = _OWN_TO_EACH_RUN
    experiment = experiments.of_record(self.config)
    if experiment is not None and experiment.takes is not None:
      own = own | {experiment.takes.setting}
    names = [field.name for field in dataclasses.fields(config_lib.Config)]
    return {
      **{name: self.config[name] for name in names if name not in own},
      # What dtype=auto has come to.
      'compute_dtype': self.config.get('compute_dtype'),
    }

  @property
  def results(self) -> tuple[Any, ...]:
    """What a repetition of the run with the same seeds would have to equal."""
    figures = (
      'train_loss', 'train_error', 'test_loss', 'test_error', 'mean_momentum',
      'horizontal_fraction',
    )  # fmt: skip
    sha256 = self.summary.get('params_sha256')
    return (sha256, *(tuple(self.curve(name)) for name in figures))
