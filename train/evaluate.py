"""Tests the last checkpoint of a run."""

from collections.abc import Sequence
import dataclasses
import pathlib

import jax

from train import config as config_lib
from train import data
from train import errors
from train.program import build
from train.records import checkpoint
from train.records import metrics
from train.records import run_directory


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The result of :func:`evaluate`."""

  steps: int
  """Training steps of the checkpoint."""
  epochs: float
  figures: dict[str, float]
  """Loss and error in percent, by their names in metrics.jsonl."""


def evaluate(
  run_dir: pathlib.Path,
  data_dir: pathlib.Path | None = None,
  eval_batch_size: int | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Evaluation:
  """Loads the last checkpoint of a run and tests it.

  Args:
    run_dir: The directory of a finished or unfinished run.
    data_dir: Directory of the data set. Default: that of the run.
    eval_batch_size: Images per step. Default: that of the run.
    devices: The devices over which a batch is sharded. Default: all.

  Raises:
    UsageError: If there is no run or no checkpoint, or the last checkpoint is
      damaged.
  """
  if not run_dir.is_dir():
    raise errors.UsageError(f'There is no directory {run_dir}.')
  directory = run_directory.RunDirectory(run_dir)
  saved = directory.read_config()
  config = config_lib.resolved_from_json(saved, str(run_dir))
  config = dataclasses.replace(
    config,
    dtype=saved.get('compute_dtype', config.dtype),
    data_dir=data_dir or config.data_dir,
    eval_batch_size=eval_batch_size or config.eval_batch_size,
  )
  config_lib.check(config)
  if not directory.checkpoints.is_dir():
    raise errors.UsageError(f'{run_dir} has no checkpoints.')
  dataset = data.of_run(config)
  program = build.Program([config], dataset, devices=devices)
  restored = checkpoint.restore_one(
    directory.checkpoints, program.steps_per_epoch, program.shape_member()
  )
  if restored is None:
    raise errors.UsageError(f'{run_dir} has no checkpoints.')
  steps, member = restored
  state = program.stack([member])
  figures: dict[str, float] = {}
  for name, split in (
    ('test', dataset.test),
    ('validation', dataset.validation),
  ):
    if split is not None:
      images = program.place_split(split)
      (measured,) = build.each_by_member(
        jax.device_get(program.evaluate(state, images))
      )
      figures |= metrics.summarize_test(measured, len(split), name)
  return Evaluation(steps, steps / program.steps_per_epoch, figures)
