"""The settings that an arm takes from a finished run of LCAM.

The ablations need the share of horizontal steps or the mean momentum of LCAM,
which are known after its run.
"""

import pathlib
from typing import Any

import numpy as np

from train import errors
from train.experiments import Takes
from train.records import read
from train.records.run import Run


def take_over(takes: Takes, path: pathlib.Path) -> dict[str, Any]:
  """Reads the setting from the followed run.

  Args:
    takes: The quantity to take.
    path: The directory of the followed run.

  Returns:
    ``horizontal_probability`` or ``momentum`` by name.

  Raises:
    RunError: If there is no finished run of LCAM.
  """
  try:
    run = read.run(path)
  except errors.UsageError as error:
    raise errors.RunError(
      f'It follows {path}, which must be a finished run: {error}'
    ) from error
  if not run.is_done:
    raise errors.RunError(f'It follows {path}, which must be a finished run.')
  shares = _of_each_epoch(run, 'horizontal_fraction')
  momenta = _of_each_epoch(run, 'mean_momentum')
  # All epochs have the same number of steps.
  value: Any
  match takes:
    case Takes.SHARE:
      value = (float(np.mean(shares)),)
    case Takes.SHARE_OF_EACH_EPOCH:
      value = tuple(shares)
    case Takes.MEAN_MOMENTUM:
      value = float(np.mean(momenta))
  return {takes.setting: value}


def _of_each_epoch(run: Run, name: str) -> list[float]:
  values = [value for value in run.curve(name) if value is not None]
  if len(values) < len(run.rows):
    raise errors.RunError(
      f'It follows {run.path}, which must be a run of lcam, or of another'
      ' optimizer that follows the loss.'
    )
  return values
