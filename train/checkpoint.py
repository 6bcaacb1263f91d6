"""Saving and restoring the state of a run, with Orbax.

Orbax writes a checkpoint elsewhere and renames it into place, so that one is
complete or absent.
"""

import pathlib

import jax
from orbax import checkpoint as ocp

from train.step import TrainState

_KEEP = 2


class Checkpoints:
  """The checkpoints of one run, by number of finished epochs."""

  def __init__(self, directory: pathlib.Path):
    self._manager = ocp.CheckpointManager(
      directory.absolute(),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=_KEEP,
        create=True,
        enable_async_checkpointing=False,
      ),
    )

  def save(self, epoch: int, state: TrainState) -> None:
    """Writes the state after an epoch; older checkpoints go."""
    self._manager.save(epoch, args=ocp.args.StandardSave(_by_name(state)))

  def epochs(self) -> set[int]:
    """The numbers of finished epochs of which there are checkpoints."""
    return set(self._manager.all_steps())

  def restore(self, epoch: int, like: TrainState) -> TrainState:
    """The state after an epoch.

    Args:
      epoch: One of :meth:`epochs`.
      like: A state of the same structure, shapes, dtypes and shardings.

    Returns:
      The state, bit for bit as it was saved.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _by_name(like))
    restored = self._manager.restore(
      epoch, args=ocp.args.StandardRestore(abstract)
    )
    leaves = [restored[name] for name in _by_name(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)

  def close(self) -> None:
    self._manager.close()


def _by_name(state: TrainState) -> dict[str, jax.Array]:
  """The leaves by their path.

  Orbax then knows nothing of the classes that hold them, and a checkpoint can
  be read without this program.
  """
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): leaf
    for path, leaf in jax.tree.leaves_with_path(state)
  }
