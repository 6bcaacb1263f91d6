"""What an arm takes over from a finished run of LCAM.

The ablations of section 4.3 need the share of horizontal steps and the mean
momentum that LCAM had, which are known once it has run.
"""

import dataclasses

import numpy as np

from train import config as config_lib
from train import errors
from train.program import optimizers
from train.records import read
from train.records.run import Run


def take_over(config: config_lib.Config) -> config_lib.Config:
  """Fills in the momentum settings from the run that ``follow_run`` names.

  Args:
    config: A checked configuration.

  Returns:
    The configuration with ``horizontal_probability`` (optimizer coin) or
    ``momentum`` (sgd); as it was, if it follows none.

  Raises:
    UsageError: There is no finished run of LCAM.
  """
  if config.follow_run is None:
    return config
  try:
    run = read.run(config.follow_run)
  except errors.UsageError as error:
    raise errors.UsageError(
      f'--follow-run {config.follow_run} must be a finished run: {error}'
    ) from error
  if not run.is_done:
    raise errors.UsageError(
      f'--follow-run {config.follow_run} must be a finished run.'
    )
  # Epochs have the same number of steps each.
  if 'horizontal_probability' in optimizers.get(config).numbers:
    share = _mean(run, 'horizontal_fraction')
    return dataclasses.replace(config, horizontal_probability=share)
  _mean(run, 'horizontal_fraction')
  return dataclasses.replace(config, momentum=_mean(run, 'mean_momentum'))


def _mean(run: Run, name: str) -> float:
  """Of a figure of LCAM over the epochs of a run, or UsageError."""
  values = [value for value in run.curve(name) if value is not None]
  if len(values) < len(run.rows):
    raise errors.UsageError(
      f'--follow-run {run.path} must be a run of lcam, or of another optimizer'
      ' that follows the loss.'
    )
  return float(np.mean(values))
