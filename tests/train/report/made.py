"""Records in memory of registered experiments, without training."""

import dataclasses
import pathlib

from train import config as config_lib
from train.records.run import Run


def run(experiment, seed, error, status='done'):
  """A run with a given error at the epoch of the reported result.

  Args:
    experiment: A registered experiment.
    seed: All seeds of the run.
    error: Test error in percent at this epoch; other epochs differ.
    status: The status in the summary.
  """
  steps = 157
  config = config_lib.resolve(
    dataclasses.replace(experiment.planned, seed=seed), steps
  )
  read_at = experiment.reads_off or config.epochs
  rows = [
    {
      'epoch': epoch,
      'step': steps * epoch,
      'train_loss': 2 / epoch,
      'test_loss': 2.1 / epoch,
      'test_error': error + abs(epoch - read_at) / 3,
      'learning_rate': 0.1,
      # Differs from arm to arm and epoch to epoch.
      'mean_momentum': mean_momentum(config) + epoch / 500,
      'seconds': 2.4,
      'horizontal_fraction': 0.6 if config.optimizer == 'lcam' else None,
      'images_per_second': 100.0,
    }
    for epoch in range(1, config.epochs + 1)
  ]
  return Run(
    pathlib.Path(experiment.name) / f'seed-{seed}',
    {
      **experiment.record(),
      'compute_dtype': 'float32',
      **config_lib.to_json(config),
    },
    {
      'status': status,
      'final_test_error': rows[-1]['test_error'],
      'best_test_error': error,
      'params_sha256': f'{experiment.name} {seed}',
      # Of the last process.
      'seconds': 1.0,
    },
    rows,
    list,
  )


def mean_momentum(config):
  """Of the runs here, before the first epoch."""
  if config.optimizer != 'lcam':
    return 0.9
  return 0.89 + config.vertical_momentum / 100
