"""Saving and restoring the state of a run, with Orbax.

Orbax writes a checkpoint elsewhere and renames it into place, so that one is
complete or absent. What a disk or a person does to it later is found by the
checksums that are saved with it.
"""

from collections.abc import Callable, Sequence
import hashlib
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
from orbax import checkpoint as ocp

from train import errors
from train.step import StepMetrics
from train.step import TrainState

_KEEP = 2


class DamagedError(Exception):
  """A checkpoint cannot be read, or is not what was saved."""


class Checkpoints:
  """The checkpoints of one run, by number of finished steps."""

  def __init__(self, directory: pathlib.Path, steps_per_epoch: int):
    self.directory = directory.absolute()
    self._steps_per_epoch = steps_per_epoch
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=_KEEP,
        create=True,
        enable_async_checkpointing=False,
      ),
    )

  def save(
    self, step: int, state: TrainState, measured: Sequence[StepMetrics]
  ) -> None:
    """Writes the state after a step; older checkpoints go.

    Args:
      step: Steps done since the start of the run.
      state: The state after them.
      measured: Metrics of the steps of this epoch, each field of
        shape=(steps,).

    Raises:
      RunError: It cannot be written. Older ones are as they were.
    """
    leaves = {**_by_name(state), **self._pad(measured)}
    checksums = {name: _sha256(leaf) for name, leaf in leaves.items()}
    try:
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(leaves),
          checksums=ocp.args.JsonSave(checksums),
        ),
      )
    except Exception as error:
      raise errors.RunError(
        f'The checkpoint of step {step} cannot be written to {self.directory}:'
        f' {str(error).splitlines()[0]}. The one before it is intact; the same'
        ' command goes on from there.'
      ) from error

  def steps(self) -> set[int]:
    """The numbers of finished steps of which there are checkpoints."""
    return {
      int(path.name) for path in self.directory.iterdir() if path.name.isdigit()
    }

  def restore(
    self, step: int, like: TrainState
  ) -> tuple[TrainState, StepMetrics]:
    """The state after a step, and what its epoch had measured by then.

    Args:
      step: One of :meth:`steps`.
      like: A state of the same structure, shapes, dtypes and shardings.

    Returns:
      The state, bit for bit as it was saved, and metrics of
      shape=(steps of its epoch,).

    Raises:
      DamagedError: It is not what was saved.
    """
    abstract = {
      **jax.tree.map(ocp.utils.to_shape_dtype_struct, _by_name(like)),
      **self._pad([]),
    }
    try:
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(abstract),
          checksums=ocp.args.JsonRestore(),
        ),
      )
    except Exception as error:
      raise DamagedError(str(error).splitlines()[0]) from error
    leaves, checksums = restored['state'], restored['checksums']
    for name, leaf in leaves.items():
      if _sha256(leaf) != checksums.get(name):
        raise DamagedError(f'{name} is not what was saved')
    state = jax.tree.unflatten(
      jax.tree.structure(like), [leaves[name] for name in _by_name(like)]
    )
    in_epoch = step % self._steps_per_epoch
    measured: dict[str, Any] = {
      field: np.asarray(leaves[f'epoch.{field}'])[:in_epoch]
      for field in StepMetrics._fields
    }
    return state, StepMetrics(**measured)

  def discard(self, step: int) -> None:
    """Removes a checkpoint."""
    shutil.rmtree(self.directory / str(step))
    self._manager.reload()

  def close(self) -> None:
    self._manager.close()

  def _pad(self, measured: Sequence[StepMetrics]) -> dict[str, np.ndarray]:
    """Metrics of an epoch by name, of one shape however many there are."""
    padded = {}
    for i, name in enumerate(StepMetrics._fields):
      dtype = np.int32 if name == 'correct' else np.float32
      padded[f'epoch.{name}'] = np.zeros(self._steps_per_epoch, dtype)
      if measured:
        values = np.concatenate([np.asarray(m[i]) for m in measured])
        padded[f'epoch.{name}'][: len(values)] = values
    return padded


def restore_newest(
  of_runs: Sequence[Checkpoints],
  like: Sequence[TrainState],
  say: Callable[[str], Any],
) -> tuple[int, list[tuple[TrainState, StepMetrics]]]:
  """The newest state that all of some runs have.

  Args:
    of_runs: The checkpoints of each.
    like: A state of each.
    say: Told of each checkpoint that is damaged, and therefore removed.

  Returns:
    Finished steps, and what :meth:`Checkpoints.restore` gives of each run; 0
    and nothing where there are no checkpoints.

  Raises:
    UsageError: There are checkpoints, and none of them can be used.
  """
  common = set.intersection(*(saved.steps() for saved in of_runs))
  for step in sorted(common, reverse=True):
    restored = []
    for saved, own in zip(of_runs, like, strict=True):
      try:
        restored.append(saved.restore(step, own))
      except DamagedError as error:
        say(
          f'The checkpoint {saved.directory / str(step)} is damaged ({error});'
          ' the one before it is used.'
        )
        break
    if len(restored) < len(of_runs):
      continue
    for saved in of_runs:
      # Orbax saves nothing before its newest.
      for newer in saved.steps():
        if newer > step:
          saved.discard(newer)
    return step, restored
  if common:
    raise errors.UsageError(
      f'No checkpoint in {of_runs[0].directory} can be read. To start from the'
      ' beginning, remove this folder.'
    )
  return 0, []


def _by_name(state: TrainState) -> dict[str, jax.Array]:
  """The leaves by their path.

  Orbax then knows nothing of the classes that hold them, and a checkpoint can
  be read without this program.
  """
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): leaf
    for path, leaf in jax.tree.leaves_with_path(state)
  }


def _sha256(leaf: Any) -> str:
  array = np.asarray(jax.device_get(leaf))
  digest = hashlib.sha256(f'{array.shape} {array.dtype}'.encode())
  digest.update(array.tobytes())
  return digest.hexdigest()
