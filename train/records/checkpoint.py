"""Saving and restoring the state of a run, with Orbax.

The state is the same on all devices. Of several processes the first alone
writes and reads it, and tells the others, which need no common file system.

Orbax writes a checkpoint elsewhere and renames it into place, so that one is
complete or absent. What a disk or a person does to it later is found by the
checksums that are saved with it.
"""

from collections.abc import Callable, Sequence
import hashlib
import logging
import os
import pathlib
import shutil
import sys
import tempfile
from typing import Any

import jax
import numpy as np
from orbax import checkpoint as ocp

from train import errors
from train import files
from train.devices import processes
from train.program.step import StepMetrics
from train.program.step import TrainState

_KEEP = 2

# Bytes of names, shapes and checksums.
_ROOM_FOR_THE_REST = 1_000_000


class DamagedError(Exception):
  """A checkpoint cannot be read, or is not what was saved."""


class Checkpoints:
  """The checkpoints of one run, by number of finished steps."""

  def __init__(self, directory: pathlib.Path, steps_per_epoch: int):
    self.directory = directory.absolute()
    self._steps_per_epoch = steps_per_epoch
    if not processes.is_first():
      return
    # Orbax and its libraries also show the traces of their threads. What is
    # wrong is said below.
    for name in ('absl', 'asyncio'):
      logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = _ignore_closed_loops
    with files.writing(self.directory):
      self.directory.mkdir(exist_ok=True)
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=_KEEP,
        create=False,
        enable_async_checkpointing=False,
        multiprocessing_options=ocp.options.MultiprocessingOptions(
          primary_host=0, active_processes={0}
        ),
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
    if not processes.is_first():
      return
    leaves = {**jax.device_get(_by_name(state)), **self._pad(measured)}
    checksums = {name: _sha256(leaf) for name, leaf in leaves.items()}
    try:
      self._reserve(sum(leaf.nbytes for leaf in leaves.values()))
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
        f' {str(error).splitlines()[0]}. Once it can be, the same command goes'
        ' on from the one before.'
      ) from error

  def steps(self) -> set[int]:
    """The numbers of finished steps of which there are checkpoints."""
    return {
      int(path.name) for path in self.directory.iterdir() if path.name.isdigit()
    }

  def blank(self, like: TrainState) -> dict[str, np.ndarray]:
    """Arrays by name, of the shapes and dtypes of those in a checkpoint.

    Args:
      like: A state of the run.
    """
    of_state = {
      name: np.zeros(leaf.shape, leaf.dtype)
      for name, leaf in _by_name(like).items()
    }
    return {**of_state, **self._pad([])}

  def read(self, step: int, like: TrainState) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by name, bit for bit as they were saved.

    Args:
      step: One of :meth:`steps`.
      like: A state of the same structure, shapes and dtypes.

    Raises:
      DamagedError: They are not what was saved.
    """
    abstract = self.blank(like)
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
    return leaves

  def unpack(
    self, step: int, leaves: dict[str, np.ndarray], like: TrainState
  ) -> tuple[TrainState, StepMetrics]:
    """The state after a step, and what its epoch had measured by then.

    Args:
      step: Where the arrays are from.
      leaves: From :meth:`read`.
      like: A state of the same structure.

    Returns:
      The state, of NumPy arrays, and metrics of shape=(steps of its epoch,).
    """
    state = jax.tree.unflatten(
      jax.tree.structure(like), [leaves[name] for name in _by_name(like)]
    )
    in_epoch = step % self._steps_per_epoch
    measured: dict[str, Any] = {
      field: leaves[f'epoch.{field}'][:in_epoch]
      for field in StepMetrics._fields
    }
    return state, StepMetrics(**measured)

  def restore(
    self, step: int, like: TrainState
  ) -> tuple[TrainState, StepMetrics]:
    """What :meth:`unpack` makes of what :meth:`read` gives. In one process."""
    return self.unpack(step, self.read(step, like), like)

  def discard(self, step: int) -> None:
    """Removes a checkpoint."""
    shutil.rmtree(self.directory / str(step))
    self._manager.reload()

  def close(self) -> None:
    if processes.is_first():
      self._manager.close()

  def _reserve(self, size: int) -> None:
    """Raises OSError if there is no directory, or no room for so many bytes.

    Orbax would notice too, after it has written a part, and say so at length.
    """
    with tempfile.TemporaryFile(dir=self.directory) as file:
      if hasattr(os, 'posix_fallocate'):
        os.posix_fallocate(file.fileno(), 0, size + _ROOM_FOR_THE_REST)

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
  like: TrainState,
  say: Callable[[str], Any],
) -> tuple[int, list[tuple[TrainState, StepMetrics]]]:
  """The newest state that all of some runs have.

  Args:
    of_runs: The checkpoints of each.
    like: A state of any, or its shapes and dtypes.
    say: Told of each checkpoint that is damaged, and therefore removed.

  Returns:
    Finished steps, and what :meth:`Checkpoints.unpack` gives of each run; 0
    and nothing where there are no checkpoints.

  Raises:
    UsageError: There are checkpoints, and none of them can be used.
  """
  found: list[dict[str, np.ndarray]] = []
  step = processes.from_first(lambda: _find_newest(of_runs, like, say, found))
  if step == 0:
    return 0, []
  restored = []
  for i, saved in enumerate(of_runs):
    leaves = found[i] if found else saved.blank(like)
    leaves = processes.arrays_from_first(leaves)
    restored.append(saved.unpack(step, leaves, like))
  return step, restored


def _find_newest(
  of_runs: Sequence[Checkpoints],
  like: TrainState,
  say: Callable[[str], Any],
  found: list[dict[str, np.ndarray]],
) -> int:
  """Fills ``found`` with the arrays of each run; see :func:`restore_newest`."""
  common = set.intersection(*(saved.steps() for saved in of_runs))
  for step in sorted(common, reverse=True):
    found.clear()
    for saved in of_runs:
      try:
        found.append(saved.read(step, like))
      except DamagedError as error:
        say(
          f'The checkpoint {saved.directory / str(step)} is damaged ({error});'
          ' the one before it is used.'
        )
        break
    if len(found) < len(of_runs):
      continue
    for saved in of_runs:
      # Orbax saves nothing before its newest.
      for newer in saved.steps():
        if newer > step:
          saved.discard(newer)
    return step
  if common:
    raise errors.UsageError(
      f'No checkpoint in {of_runs[0].directory} can be read. To start from the'
      ' beginning, remove this folder.'
    )
  return 0


def _ignore_closed_loops(unraisable: Any) -> None:
  """TensorStore tells of its later failures a loop that Orbax has closed."""
  if str(unraisable.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(unraisable)


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
  array = np.asarray(leaf)
  digest = hashlib.sha256(f'{array.shape} {array.dtype}'.encode())
  digest.update(array.tobytes())
  return digest.hexdigest()
