"""Several processes of one run, one per machine or one per device.

Each runs the same program with the same settings, loads the data itself and
trains on its share of every batch. The state is replicated, so only the first
process reads and writes the run directory and shows progress. This module
distributes what it has read, and the errors and signals of any process.

With a single process, nothing here has an effect.
"""

import atexit
from collections.abc import Callable, Iterator, Sequence
import contextlib
import json
import os
import signal
import sys
import time
from typing import Any, NamedTuple, TypeVar

import jax
from jax.experimental import multihost_utils
import numpy as np

from train import errors
from train.devices import interruption
from train.devices import rendezvous

_T = TypeVar('_T')

# A process that ends closes its connections, which the others notice at once.
# Missing heartbeats reveal a suspended process or a lost machine.
HEARTBEAT_SECONDS = 60

_CONNECT_SECONDS = 120

# The others learn of an error over connections to the first process, which
# therefore ends last.
_LAST_WORDS_SECONDS = 3


@contextlib.contextmanager
def group(
  coordinator: str | None = None,
  process_id: int | None = None,
  process_count: int | None = None,
) -> Iterator[None]:
  """Connects the processes of a run until the program ends.

  Args:
    coordinator: HOST:PORT at which the first process listens.
    process_id: Index of this process, from 0.
    process_count: Number of processes. All three are ``None`` if JAX detects
      the cluster: SLURM, Open MPI, Kubernetes, TPU pods.

  Raises:
    UsageError: If the processes cannot be connected.
    RunError: If another process has ended.
  """
  # JAX's SIGTERM handler would hide the signal from
  # train.devices.interruption.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    found = _Group(coordinator, process_id, process_count)
    if coordinator is None:
      found = _of_cluster()
    bind = None
    if not (
      found.coordinator is None
      or found.process_id is None
      or found.process_count is None
    ):
      bind = rendezvous.meet(
        found.coordinator,
        found.process_id,
        found.process_count,
        seconds=_CONNECT_SECONDS,
        # A cluster does not define where to listen.
        everywhere=coordinator is None,
      )
    jax.distributed.initialize(
      found.coordinator,
      found.process_count,
      found.process_id,
      local_device_ids=found.local_device_ids,
      initialization_timeout=_CONNECT_SECONDS,
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      coordinator_bind_address=bind,
    )
  except errors.UsageError:
    raise
  except Exception as error:
    reason = str(error).splitlines()[0]
    raise errors.UsageError(
      f'--distributed finds no cluster: {reason} Specify the processes with'
      ' --coordinator, --process-id and --process-count.'
      if coordinator is None
      else f'--coordinator {coordinator} cannot be reached: {reason}'
    ) from error
  try:
    yield
  except BaseException as error:
    code = 2 if isinstance(error, errors.UsageError) else 1
    if isinstance(error, interruption.Interrupted):
      if error.saved:
        raise  # All processes have stopped at the same step.
      code = error.exit_code
    # JAX would wait minutes for the others, and they for this process.
    atexit.register(_end_at_once, code)
    if not _is_of_the_group(error):
      raise
    raise errors.RunError(
      f'Process {jax.process_index()} has lost another process, which has ended'
      f' or cannot be reached ({str(error).splitlines()[0]}). The same commands'
      ' in all processes resume from the last checkpoint.'
    ) from error


class _Group(NamedTuple):
  """Arguments of ``jax.distributed.initialize``."""

  coordinator: str | None = None
  process_id: int | None = None
  process_count: int | None = None
  local_device_ids: Sequence[int] | None = None


def _of_cluster() -> _Group:
  """The arguments that JAX detects from the cluster, if any."""
  try:
    # There is no public API, and they are needed before JAX connects.
    from jax._src import clusters

    detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
  except (ImportError, AttributeError):
    return _Group()  # Another version of JAX, which detects them itself.
  coordinator, count, process, local = detect(
    os.environ.get('JAX_COORDINATOR_ADDRESS'),
    None,
    None,
    None,
    None,
    _CONNECT_SECONDS,
  )
  if 'JAX_LOCAL_DEVICE_IDS' in os.environ:
    local = None  # JAX reads it.
  return _Group(coordinator, process, count, local)


def is_first() -> bool:
  """Whether this process reads and writes the run directory."""
  return jax.process_index() == 0


def several() -> bool:
  return jax.process_count() > 1


@contextlib.contextmanager
def errors_of_any() -> Iterator[None]:
  """Raises an error of one process in all processes.

  Otherwise the others would wait for it forever.
  """
  own = None
  try:
    yield
  except Exception as error:
    own = error
  kind = 'usage' if isinstance(own, errors.UsageError) else 'run'
  told = exchange({} if own is None else {'kind': kind, 'message': str(own)})
  if own is not None:
    raise own
  for process, other in enumerate(told):
    if other:
      raise (errors.RunError if other['kind'] == 'run' else errors.UsageError)(
        f'Process {process}: {other["message"]}'
      )


def exchange(mine: Any) -> list[Any]:
  """Gathers a JSON value of each process, in the order of the processes."""
  if not several():
    return [mine]
  text = np.frombuffer(json.dumps(mine).encode(), np.uint8)
  lengths = gather(np.int32(len(text)))
  padded = np.zeros(lengths.max(), np.uint8)
  padded[: len(text)] = text
  rows = gather(padded)
  return [
    json.loads(row[:length].tobytes())
    for row, length in zip(rows, lengths, strict=True)
  ]


def from_first(make: Callable[[], _T]) -> _T:
  """Returns a JSON value of the first process, or raises its error.

  Args:
    make: Returns the value. Called only in the first process.
  """
  made = None
  with errors_of_any():
    if is_first():
      made = make()
  return exchange(made)[0]


def gather(mine: Any) -> np.ndarray:
  """Stacks arrays of one shape from all processes, in their order."""
  if not several():
    return np.asarray(mine)[None]
  with jax.transfer_guard('allow'):
    return multihost_utils.process_allgather(np.asarray(mine))


def agree(
  first_says: bool, by: signal.Signals | None
) -> tuple[bool, signal.Signals | None]:
  """Agrees on what all processes do at this step.

  Args:
    first_says: A decision. That of the first process counts, so that all use
      one clock.
    by: A signal that this process received.

  Returns:
    The decision of the first process, and a signal that any process received.
  """
  if not several():
    return first_says, by
  told = gather(np.asarray([first_says, by or 0], np.int32))
  strongest = int(told[:, 1].max())
  return bool(told[0, 0]), signal.Signals(strongest) if strongest else None


def arrays_from_first(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Broadcasts the arrays of the first process, bit for bit.

  Args:
    arrays: By name; those of other processes need the same shapes and dtypes.
  """
  if not several():
    return arrays
  # JAX broadcasts by a sum to which the other processes contribute zeros. For
  # floating-point numbers this loses the sign of -0.0.
  words = {
    name: np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for name, array in arrays.items()
  }
  received = multihost_utils.broadcast_one_to_all(words)
  return {
    name: np.asarray(received[name]).view(array.dtype).reshape(array.shape)
    for name, array in arrays.items()
  }


def replicate(tree: Any, sharding: jax.sharding.Sharding) -> Any:
  """Puts arrays that are the same in all processes on all devices.

  Args:
    tree: Arrays or numbers. With several processes, no PRNG keys.
    sharding: A replicated sharding.
  """
  if not several():
    return jax.device_put(tree, sharding)

  def put(leaf: Any) -> jax.Array:
    array = np.asarray(leaf)
    return jax.make_array_from_callback(
      array.shape, sharding, lambda index: array[index]
    )

  with jax.transfer_guard('allow'):
    return jax.tree.map(put, tree)


def check_equal(what: str, facts: dict[str, Any]) -> None:
  """Raises UsageError unless all processes have the same values.

  Args:
    what: What the values are, for the message.
    facts: JSON values by name.
  """
  first, *others = exchange(facts)
  for process, facts in enumerate(others, start=1):
    for name in {**first, **facts}:
      if facts.get(name) != first.get(name):
        raise errors.UsageError(
          f'All processes must have the same {what}, but {name} is'
          f' {first.get(name)} in process 0 and {facts.get(name)} in process'
          f' {process}.'
        )


def _is_of_the_group(error: BaseException) -> bool:
  """Whether JAX raised the error because another process is gone."""
  return isinstance(error, (jax.errors.JaxRuntimeError, ValueError)) and any(
    sign in str(error) for sign in ('Gloo', 'NCCL', 'UNAVAILABLE')
  )


def _end_at_once(code: int) -> None:
  if is_first():
    time.sleep(_LAST_WORDS_SECONDS)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
