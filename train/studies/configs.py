"""The settings of the networks that the studies train.

Needs no JAX: the memory that they take is known before it is imported, see
:func:`train.devices.jax_environment.keep_freed_memory`.
"""

import dataclasses
import pathlib

from train import config as config_lib
from train import errors
from train import experiments
from train import sources
from train.program import optimizers
from train.records import read

_SCALES = {'small': experiments.SMALL, 'medium': experiments.MEDIUM}

# As in the small experiments: more steps for the same images.
_PROBE_BATCH_SIZE = 32
_PROBE_EVAL_BATCH_SIZE = 250


def of_batches(scale: str, dataset: str) -> experiments.Experiment:
  """The experiment whose networks :mod:`train.studies.batches` trains.

  Raises:
    UsageError: If there is none.
  """
  if scale not in _SCALES:
    raise errors.UsageError(
      f'--scale must be one of {", ".join(_SCALES)}, got {scale!r}.'
    )
  try:
    return experiments.find(_SCALES[scale], 'figure4', dataset, 'lcam')
  except KeyError:
    raise errors.UsageError(
      f'--dataset must be a data set of the paper, got {dataset!r}.'
    ) from None


def with_batch_size(
  config: config_lib.Config, batch_size: int
) -> config_lib.Config:
  """The same run with another batch size, as the ablations have it.

  Raises:
    UsageError: If ``batch_size`` is out of range.
  """
  if not 1 <= batch_size <= config_lib.MOST_STEPS:
    raise errors.UsageError(
      f'--batch-sizes must be from 1 to {config_lib.MOST_STEPS}, got'
      f' {batch_size}.'
    )
  factor = batch_size / config.batch_size
  rate = config.learning_rate or optimizers.get(config).learning_rate
  return dataclasses.replace(
    config,
    batch_size=batch_size,
    # In proportion: Goyal et al., 2017.
    learning_rate=rate * factor,
    # Per step, so that an epoch decays as much.
    decay_rate=config.decay_rate and config.decay_rate**factor,
  )


def size_of_probe(dataset: str, **given: int | None) -> sources.ProbeSize:
  """That of the data set, with the given settings."""
  return dataclasses.replace(
    sources.get(dataset).probe,
    **{k: v for k, v in given.items() if v is not None},
  )


def of_probe(
  dataset: str,
  size: sources.ProbeSize,
  data_dir: pathlib.Path | None = None,
  schedule: config_lib.Schedule = 'exponential',
) -> config_lib.Config:
  """The settings that all runs of :mod:`train.studies.probe` share."""
  return config_lib.Config(
    dataset=dataset,
    data_dir=data_dir,
    train_examples=size.train_examples,
    image_size=size.image_size,
    epochs=size.epochs,
    batch_size=_PROBE_BATCH_SIZE,
    eval_batch_size=_PROBE_EVAL_BATCH_SIZE,
    schedule=schedule,
  )


def of_run(path: pathlib.Path) -> config_lib.Resolved:
  """Those of a run in a directory, which are read without a lock.

  Raises:
    UsageError: If there is none, or it is damaged.
  """
  return config_lib.resolved_from_json(read.config(path), str(path))
