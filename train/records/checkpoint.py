"""Saves and restores the state of a run with Orbax.

The state is replicated on all devices. With several processes, only the first
one writes and reads it and sends it to the others, which need no shared file
system.

Orbax writes a checkpoint to a temporary folder and renames it, so that it is
complete or absent. A checkpoint contains one array of bytes: a SHA-256,
followed by the arrays by name in the safetensors format. With several arrays,
Orbax stops at the first that fails, and errors of the others are lost.

Later damage is detected by the SHA-256 and by the step, after which the folder
is named. A damaged checkpoint is renamed and no longer used. If a checkpoint
cannot be read at the moment, it stays, and the run stops.
"""

from collections.abc import Callable, Iterator, Sequence
import errno
import hashlib
import logging
import os
import pathlib
import re
import shutil
import stat
import tempfile
from typing import Any

import jax
import numpy as np
from orbax import checkpoint as ocp
import safetensors
from safetensors import numpy as safetensors_numpy

from train import errors
from train import files
from train.devices import processes
from train.program.step import StepMetrics
from train.program.step import TrainState

_KEEP = 2

# Bytes of Orbax's own files.
_ROOM_FOR_THE_REST = 1_000_000

_DIGEST_SIZE = hashlib.sha256().digest_size

_STEP = re.compile('0|[1-9][0-9]*')

# Suffixes of checkpoints that are no longer used or are being removed, and
# Orbax's mark of unfinished ones.
_SET_ASIDE = '.set-aside'
_REMOVED = '.removed'
_UNFINISHED = '.orbax-checkpoint-tmp'

# Errors that do not show that a checkpoint is damaged.
_NOT_NOW = frozenset(
  {
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EBUSY,
    errno.EINTR,
    errno.EAGAIN,
    errno.ENODEV,
    errno.ENXIO,
  }
)


class DamagedError(Exception):
  """A checkpoint differs from what was saved."""


class Checkpoints:
  """The checkpoints of one run, by number of finished steps."""

  def __init__(self, directory: pathlib.Path, steps_per_epoch: int):
    self.directory = directory.absolute()
    self._steps_per_epoch = steps_per_epoch
    if not processes.is_first():
      return
    # Orbax and its libraries also log the tracebacks of their threads. Errors
    # are reported below.
    for name in ('absl', 'asyncio'):
      logging.getLogger(name).setLevel(logging.CRITICAL)
    with files.writing(self.directory):
      self.directory.mkdir(exist_ok=True)
    # Not Orbax's CheckpointManager, which fails if the owner of a file has no
    # name, or if there are other files in the directory.
    alone = ocp.options.MultiprocessingOptions(
      primary_host=0, active_processes={0}
    )
    self._orbax = ocp.Checkpointer(
      ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
      ),
      multiprocessing_options=alone,
    )

  def save(
    self, step: int, state: TrainState, measured: Sequence[StepMetrics]
  ) -> None:
    """Saves the state after a step, and removes old checkpoints.

    Args:
      step: Steps done since the start of the run.
      state: The state after these steps.
      measured: Metrics of the steps of this epoch, each field of
        shape=(steps,).

    Raises:
      RunError: If it cannot be written. Older checkpoints are then unchanged.
    """
    if not processes.is_first():
      return
    content = _to_bytes(
      {**jax.device_get(_by_name(state)), **self._pad(measured)}
    )
    try:
      self._reserve(content.nbytes)
      if os.path.lexists(self._path(step)):
        self.set_aside(step)  # Later checkpoints were set aside at the start.
      self._orbax.save(
        self._path(step),
        args=ocp.args.Composite(state=ocp.args.StandardSave([content])),
      )
    except Exception as error:
      raise errors.RunError(
        f'The checkpoint of step {step} cannot be written to {self.directory}:'
        f' {_first_line(error)}. Once it can be, the same command resumes from'
        ' the previous checkpoint.'
      ) from error
    for old in sorted(self.steps())[:-_KEEP]:
      self._rename(old, _REMOVED)
    self.clean_up()

  def steps(self) -> set[int]:
    """The numbers of finished steps that have a checkpoint.

    Raises:
      RunError: If the directory cannot be read.
    """
    return {int(p.name) for p in self._list() if _STEP.fullmatch(p.name)}

  def clean_up(self) -> None:
    """Removes unfinished checkpoints and those marked for removal."""
    for path in self._list():
      if _UNFINISHED in path.name or path.name.endswith(_REMOVED):
        shutil.rmtree(path, ignore_errors=True)

  def blank(self, like: TrainState) -> dict[str, np.ndarray]:
    """Zeros with the names, shapes and dtypes of the arrays of a checkpoint.

    Args:
      like: A state of the run.
    """
    of_state = {
      name: np.zeros(leaf.shape, leaf.dtype)
      for name, leaf in _by_name(like).items()
    }
    return {**of_state, **self._pad([])}

  def read(self, step: int, like: TrainState) -> dict[str, np.ndarray]:
    """Reads the arrays of a checkpoint by name, bit for bit.

    Args:
      step: One of :meth:`steps`.
      like: A state of the same structure, shapes and dtypes.

    Raises:
      DamagedError: If they differ from what was saved.
      RunError: If they cannot be read at the moment.
    """
    path = self._path(step)
    if os.path.isdir(path / 'checksums'):  # False if it cannot be read.
      raise errors.UsageError(
        f'The checkpoint {path} is of an earlier version. Only that version can'
        ' resume from it.'
      )
    blank = self.blank(like)
    expected = _to_bytes(blank)
    try:
      _read_all(path)
      restored = self._orbax.restore(
        path,
        args=ocp.args.Composite(state=ocp.args.StandardRestore([expected])),
      )
    except Exception as error:
      reason = _why_not_now(error)
      if reason is None:
        raise DamagedError(_first_line(error)) from error
      raise errors.RunError(
        f'The checkpoint {path} cannot be read: {reason}. Nothing was changed;'
        ' once it can be read, the same command resumes.'
      ) from error
    content = restored['state'][0]
    if _digest(content) != content[:_DIGEST_SIZE].tobytes():
      raise DamagedError('its SHA-256 differs')
    if _head(content) != _head(expected):
      raise DamagedError('it holds other arrays')
    leaves = {
      name: np.frombuffer(of_name['data'], blank[name].dtype).reshape(
        of_name['shape']
      )
      for name, of_name in safetensors.deserialize(
        content[_DIGEST_SIZE:].tobytes()
      )
    }
    if int(leaves['step']) != step:
      raise DamagedError(f'it holds step {int(leaves["step"])}')
    return leaves

  def unpack(
    self, step: int, leaves: dict[str, np.ndarray], like: TrainState
  ) -> tuple[TrainState, StepMetrics]:
    """Converts arrays to the state after a step and the metrics of its epoch.

    Args:
      step: The step of the checkpoint.
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
    """:meth:`read` and :meth:`unpack`, for a single process."""
    return self.unpack(step, self.read(step, like), like)

  def set_aside(self, step: int) -> pathlib.Path:
    """Renames a checkpoint so that it is not used; returns its new path."""
    return self._rename(step, _SET_ASIDE)

  def close(self) -> None:
    if processes.is_first():
      self._orbax.close()

  def _path(self, step: int) -> pathlib.Path:
    return self.directory / str(step)

  def _list(self) -> list[pathlib.Path]:
    """The folders of the directory, or RunError."""
    try:
      return [path for path in self.directory.iterdir() if path.is_dir()]
    except OSError as error:
      raise errors.RunError(
        f'{self.directory} cannot be read: {error.strerror}. Nothing was'
        ' changed; once it can be read, the same command resumes.'
      ) from error

  def _rename(self, step: int, suffix: str) -> pathlib.Path:
    number = 1
    while os.path.lexists(
      self.directory / (name := f'{step}.{number}{suffix}')
    ):
      number += 1
    with files.writing(self.directory):
      return self._path(step).rename(self.directory / name)

  def _reserve(self, size: int) -> None:
    """Raises OSError if there is no directory, or no space for this size.

    Orbax notices this only after writing a part, and its messages are long.
    """
    with tempfile.TemporaryFile(dir=self.directory) as file:
      if hasattr(os, 'posix_fallocate'):
        os.posix_fallocate(file.fileno(), 0, size + _ROOM_FOR_THE_REST)

  def _pad(self, measured: Sequence[StepMetrics]) -> dict[str, np.ndarray]:
    """Metrics of an epoch by name, padded to the length of an epoch."""
    padded = {}
    for i, name in enumerate(StepMetrics._fields):
      dtype = np.int32 if name == 'correct' else np.float32
      padded[f'epoch.{name}'] = np.zeros(self._steps_per_epoch, dtype)
      if measured:
        values = np.concatenate([np.asarray(m[i]) for m in measured])
        padded[f'epoch.{name}'][: len(values)] = values
    return padded


def restore_one(
  directory: pathlib.Path,
  steps_per_epoch: int,
  like: TrainState,
  step: int | None = None,
) -> tuple[int, TrainState] | None:
  """Restores the state of one run for evaluation, in a single process.

  Args:
    directory: The directory of the checkpoints.
    steps_per_epoch: Training steps of one epoch.
    like: A state, or its shapes and dtypes.
    step: The number of finished steps. Default: that of the last checkpoint.

  Returns:
    The number of finished steps and the state; ``None`` if there is no such
    checkpoint.

  Raises:
    UsageError: If the checkpoint is damaged.
    RunError: If it cannot be read at the moment.
  """
  saved = Checkpoints(directory, steps_per_epoch)
  try:
    steps = saved.steps()
    last = max(steps, default=None) if step is None else step
    if last is None or last not in steps:
      return None
    state, _ = saved.restore(last, like)
  except DamagedError as error:
    raise errors.UsageError(
      f'The last checkpoint of {directory.parent} is damaged: {error}.'
    ) from error
  finally:
    saved.close()
  return last, state


def restore_newest(
  of_runs: Sequence[Checkpoints],
  like: TrainState,
  say: Callable[[str], Any],
) -> tuple[int, list[tuple[TrainState, StepMetrics]]]:
  """Restores the newest state that several runs have in common.

  Args:
    of_runs: The checkpoints of each run.
    like: A state of a run, or its shapes and dtypes.
    say: Called with a message for each damaged checkpoint, which is set aside.

  Returns:
    The number of finished steps, and the result of :meth:`Checkpoints.unpack`
    for each run; 0 and an empty list if there are no checkpoints.

  Raises:
    UsageError: If there are checkpoints, but none of them can be used.
    RunError: If one cannot be read at the moment.
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
  reason = ''
  for step in sorted(common, reverse=True):
    found.clear()
    for saved in of_runs:
      try:
        found.append(saved.read(step, like))
      except DamagedError as error:
        reason = str(error)
        say(
          f'The checkpoint {saved.directory / str(step)} is damaged ({reason});'
          ' it is set aside, and the one before it is used.'
        )
        break
    if len(found) == len(of_runs):
      break
  else:
    if common:
      raise errors.UsageError(
        f'No checkpoint in {of_runs[0].directory} is intact ({reason}). To'
        ' start from the beginning, rename this folder.'
      )
    step = 0
  for saved in of_runs:
    saved.clean_up()
    # The run will repeat their steps.
    for newer in saved.steps():
      if newer > step:
        saved.set_aside(newer)
  return step


def _read_all(folder: pathlib.Path) -> None:
  """Raises OSError unless all files of a folder can be read.

  Orbax reports some of them as absent, and others not at all.
  """

  def raise_(error: OSError) -> None:
    raise error

  for place, _, names in os.walk(folder, onerror=raise_):
    for name in names:
      path = pathlib.Path(place, name)
      if not stat.S_ISREG(path.stat().st_mode):  # A pipe would block.
        raise DamagedError(f'{path} is not a file')
      with path.open('rb') as file:
        while file.read(2**20):
          pass


def _why_not_now(error: BaseException) -> str | None:
  """Why a checkpoint cannot be read at the moment; ``None`` if it is damaged.

  Orbax wraps errors in others, and TensorStore converts them to text.
  """
  for part in _parts(error):
    if isinstance(part, MemoryError):
      return os.strerror(errno.ENOMEM)
    if isinstance(part, OSError) and part.errno in _NOT_NOW:
      return part.strerror or str(part)
    for code in _NOT_NOW:
      if os.strerror(code) in str(part):
        return os.strerror(code)
  return None


def _parts(error: BaseException | None) -> Iterator[BaseException]:
  """An error, and all errors that it wraps."""
  while error is not None:
    yield error
    for inner in getattr(error, 'exceptions', ()):
      yield from _parts(inner)
    error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0].rstrip('.')


def _by_name(state: TrainState) -> dict[str, jax.Array]:
  """The leaves by their path.

  A checkpoint thus does not depend on the classes of the state, and can be read
  without this program.
  """
  return {
    jax.tree_util.keystr(path, simple=True, separator='.'): leaf
    for path, leaf in jax.tree.leaves_with_path(state)
  }


def _to_bytes(leaves: dict[str, np.ndarray]) -> np.ndarray:
  """Serializes arrays by name: a SHA-256, then the safetensors content."""
  content = safetensors_numpy.save(
    {name: np.asarray(leaf, order='C') for name, leaf in leaves.items()}
  )
  return np.frombuffer(hashlib.sha256(content).digest() + content, np.uint8)


def _digest(content: np.ndarray) -> bytes:
  """The SHA-256 of the safetensors content in a result of `_to_bytes`."""
  return hashlib.sha256(content[_DIGEST_SIZE:].data).digest()


def _head(content: np.ndarray) -> bytes:
  """The names, shapes and dtypes in a result of `_to_bytes`."""
  content = content[_DIGEST_SIZE:]
  size = int.from_bytes(content[:8].tobytes(), 'little')
  return content[: 8 + size].tobytes()
