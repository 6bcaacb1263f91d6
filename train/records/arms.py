"""Runs grouped into arms."""

from collections.abc import Iterable
import dataclasses
import json

from train import experiments
from train.records.run import Run
from train.records.run import Seeds


@dataclasses.dataclass(frozen=True)
class Arm:
  """Runs that differ only in their seeds, ordered by seed."""

  name: str
  runs: list[Run]
  experiment: experiments.Experiment | None = None
  """The registered experiment, for its arm with the most runs."""

  @property
  def label(self) -> str:
    """The name among others of its section."""
    return self.experiment.arm if self.experiment else self.name

  @property
  def dataset(self) -> str:
    dataset: str = self.runs[0].config['dataset']
    return dataset

  @property
  def has_phases(self) -> bool:
    """Whether this is an arm of LCAM, not a control."""
    return self.runs[0].config['optimizer'] == 'lcam'

  @property
  def finished(self) -> list[Run]:
    """The finished runs."""
    return [run for run in self.runs if run.is_done]

  def final_errors(self) -> dict[Seeds, float]:
    """Final test error in percent of the finished runs, by seed."""
    return {run.seeds: run.rows[-1]['test_error'] for run in self.finished}

  def read_off_errors(self) -> dict[Seeds, float]:
    """Test error in percent at the epoch of the paper, by seed."""
    return {run.seeds: run.read_off_error for run in self.finished}

  def best_errors(self) -> dict[Seeds, float]:
    """Lowest test error of any epoch in percent, by seed."""
    return {run.seeds: min(run.test_errors.values()) for run in self.finished}


def group_into_arms(runs: Iterable[Run]) -> list[Arm]:
  """Groups runs that differ only in their seeds.

  The name of an arm is that of its experiment, plus the settings in which it
  differs from other arms of the same name.
  """
  groups: dict[tuple[str, str], list[Run]] = {}
  for run in runs:
    key = (_name(run), json.dumps(run.settings, sort_keys=True))
    groups.setdefault(key, []).append(run)

  arms = []
  for (name, _), members in groups.items():
    namesakes = [
      others for (other_name, _), others in groups.items() if other_name == name
    ]
    own = members[0].settings
    telling = [
      f'{setting}={value}'
      for setting, value in own.items()
      if any(other[0].settings.get(setting) != value for other in namesakes)
    ]
    experiment = experiments.of_record(members[0].config)
    is_registered = experiment is not None and not experiment.changes
    # On a tie, the first one.
    is_largest = max(namesakes, key=len) is members
    arms.append(
      Arm(
        ' '.join([name, *telling]),
        sorted(members, key=lambda run: run.seeds),
        experiment if is_registered and is_largest else None,
      )
    )
  return sorted(arms, key=lambda arm: not arm.has_phases)


def _name(run: Run) -> str:
  config = run.config
  experiment = experiments.of_record(config)
  if experiment is not None:
    return experiment.name
  return (
    config.get('experiment') or f'{config["dataset"]}-{config["optimizer"]}'
  )
