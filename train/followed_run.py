"""What an arm takes over from a finished run of LCAM.

The ablations of section 4.3 need the share of horizontal steps and the mean
momentum that LCAM had, which are known once it has run.
"""

import dataclasses

import numpy as np

from train import config as config_lib
from train import errors
from train import metrics
from train import run_directory
from train.program import optimizers


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
  directory = run_directory.RunDirectory(config.follow_run)
  summary = directory.read_summary()
  if summary is None or summary['status'] != 'done':
    raise errors.UsageError(
      f'--follow-run {config.follow_run} must be a finished run.'
    )
  rows = metrics.read_rows(directory.metrics)
  shares = [row['horizontal_fraction'] for row in rows]
  if None in shares:
    raise errors.UsageError(
      f'--follow-run {config.follow_run} must be a run of lcam, or of another'
      ' optimizer that follows the loss.'
    )
  # Epochs have the same number of steps each.
  if 'horizontal_probability' in optimizers.get(config).numbers:
    share = float(np.mean(shares))
    return dataclasses.replace(config, horizontal_probability=share)
  mean = float(np.mean([row['mean_momentum'] for row in rows]))
  return dataclasses.replace(config, momentum=mean)
