"""Finished runs as they lie on disk, grouped into arms."""

from collections.abc import Iterable
import dataclasses
import json
import pathlib
from typing import Any

from train import config as config_lib
from train import errors
from train import experiments
from train import metrics
from train import run_directory


@dataclasses.dataclass(frozen=True)
class Run:
  """One run directory."""

  path: pathlib.Path
  config: dict[str, Any]
  summary: dict[str, Any]
  rows: list[dict[str, Any]]

  @property
  def seed(self) -> int:
    return self.config['seed']

  @property
  def read_off_error(self) -> float:
    """Test error in percent at the epoch at which the paper reads it off."""
    epoch = experiments.read_off_epoch(
      experiments.of_record(self.config), len(self.rows)
    )
    return self.rows[epoch - 1]['test_error']

  @property
  def steps(self) -> list[dict[str, Any]]:
    """A row an epoch; none in records of before there were any."""
    return metrics.read_rows(self.path / 'steps.jsonl')

  def curve(self, name: str) -> list[float | None]:
    """One figure over the epochs."""
    return [row.get(name) for row in self.rows]


@dataclasses.dataclass(frozen=True)
class Arm:
  """Runs that differ in nothing but their seeds, in the order of these."""

  name: str
  runs: list[Run]

  @property
  def dataset(self) -> str:
    return self.runs[0].config['dataset']

  @property
  def has_phases(self) -> bool:
    """Whether this is an arm of LCAM, which is what the others are for."""
    return self.runs[0].config['optimizer'] == 'lcam'

  @property
  def finished(self) -> list[Run]:
    """The runs that count."""
    return [run for run in self.runs if run.summary['status'] == 'done']

  def final_errors(self) -> dict[int, float]:
    """Final test error in percent by seed, of the runs that are done."""
    return self._errors('final_test_error')

  def read_off_errors(self) -> dict[int, float]:
    """Test error in percent by seed at the paper's epoch, likewise."""
    return {run.seed: run.read_off_error for run in self.finished}

  def best_errors(self) -> dict[int, float]:
    """Best test error of any epoch in percent by seed, likewise."""
    return self._errors('best_test_error')

  def _errors(self, name: str) -> dict[int, float]:
    return {run.seed: run.summary[name] for run in self.finished}


def find_runs(directories: Iterable[pathlib.Path]) -> list[Run]:
  """Every run in or below the directories.

  Raises:
    UsageError: A directory is absent, or a file of a run is damaged.
  """
  runs = []
  for directory in directories:
    if not directory.is_dir():
      raise errors.UsageError(f'There is no directory {directory}.')
    for summary in sorted(directory.rglob('summary.json')):
      path = summary.parent
      runs.append(
        Run(
          path=path,
          config=run_directory.read_json(path / 'config.json'),
          summary=run_directory.read_json(summary),
          rows=metrics.read_rows(path / 'metrics.jsonl'),
        )
      )
  return runs


def group_into_arms(runs: Iterable[Run]) -> list[Arm]:
  """Puts runs that differ in nothing but their seeds together.

  An arm is named after its experiment, and after the settings in which it
  differs from others of the same name.
  """
  groups: dict[tuple[str, str], list[Run]] = {}
  for run in runs:
    key = (_experiment(run), json.dumps(settings(run), sort_keys=True))
    groups.setdefault(key, []).append(run)

  arms = []
  for (experiment, _), members in groups.items():
    namesakes = [
      settings(others[0])
      for (name, _), others in groups.items()
      if name == experiment
    ]
    own = settings(members[0])
    telling = [
      f'{name}={value}'
      for name, value in own.items()
      if any(other.get(name) != value for other in namesakes)
    ]
    arms.append(
      Arm(
        ' '.join([experiment, *telling]),
        sorted(members, key=lambda run: run.seed),
      )
    )
  return sorted(arms, key=lambda arm: not arm.has_phases)


def _experiment(run: Run) -> str:
  config = run.config
  experiment = experiments.of_record(config)
  if experiment is not None:
    return experiment.name
  return (
    config.get('experiment') or f'{config["dataset"]}-{config["optimizer"]}'
  )


def settings(run: Run) -> dict[str, Any]:
  """What must be the same in all runs of an arm."""
  own_to_each_run = {*config_lib.FREE_TO_CHANGE, *config_lib.SEEDS}
  if run.config.get('follow_run') is not None:
    # Taken over from another run of the same seed.
    own_to_each_run |= {'horizontal_probability', 'momentum'}
  return {
    field.name: run.config.get(field.name)
    for field in dataclasses.fields(config_lib.Config)
    if field.name not in own_to_each_run
  }
