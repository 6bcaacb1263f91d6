"""Several processes that make one run, one a machine or one a device.

Each runs the same program with the same settings, loads the data itself and
trains on its share of every batch. The state is the same on all of them, so the
first process alone reads and writes the run directory and shows progress. What
it has read, and what any of them has to say, the others are told here.

With a single process everything here does nothing.
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

# A process that ends closes its connections, which the others see at once. One
# that is stopped, or whose machine is gone, is found by its missing heartbeats.
HEARTBEAT_SECONDS = 60

_CONNECT_SECONDS = 120

# The first process holds the connections by which the others learn what has
# happened: after an error it ends last.
_LAST_WORDS_SECONDS = 3


@contextlib.contextmanager
def group(
  coordinator: str | None = None,
  process_id: int | None = None,
  process_count: int | None = None,
) -> Iterator[None]:
  """Connects the processes of a run for as long as the program lives.

  Args:
    coordinator: HOST:PORT at which the first process listens.
    process_id: Which of them this is, from 0.
    process_count: How many there are. All three are ``None`` where the cluster
      knows them: SLURM, Open MPI, Kubernetes, TPU pods.

  Raises:
    UsageError: They cannot be connected.
    RunError: One of the others has ended.
  """
  # JAX's own handler of SIGTERM would hide it from train.devices.interruption.
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
        # A cluster does not tell where to listen.
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
      f'--distributed finds no cluster: {reason} Name the processes with'
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
        raise  # All of them have stopped at the same step.
      code = error.exit_code
    # JAX would wait minutes for the others, and they for this one.
    atexit.register(_end_at_once, code)
    if not _is_of_the_group(error):
      raise
    raise errors.RunError(
      f'Process {jax.process_index()} has lost another one, which has ended or'
      f' cannot be reached ({str(error).splitlines()[0]}). The same commands on'
      ' all of them go on from the last checkpoint.'
    ) from error


class _Group(NamedTuple):
  """What JAX is told, or has found out, of the processes."""

  coordinator: str | None = None
  process_id: int | None = None
  process_count: int | None = None
  local_device_ids: Sequence[int] | None = None


def _of_cluster() -> _Group:
  """What JAX finds out from the cluster, or nothing."""
  try:
    # There is no public way, and JAX has to be asked before it connects.
    from jax._src import clusters

    detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
  except (ImportError, AttributeError):
    return _Group()  # Another version of JAX: it will find out itself.
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
  """Raises in all processes what one of them raises in this block.

  So that none goes on alone, to wait for the others for ever.
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
  """What each process has to say: JSON values, in the order of processes."""
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
  """The JSON value that the first process makes, or the error that it raises.

  Args:
    make: Called by the first process alone.
  """
  made = None
  with errors_of_any():
    if is_first():
      made = make()
  return exchange(made)[0]


def gather(mine: Any) -> np.ndarray:
  """Arrays of one shape from all processes, stacked in their order."""
  if not several():
    return np.asarray(mine)[None]
  with jax.transfer_guard('allow'):
    return multihost_utils.process_allgather(np.asarray(mine))


def agree(
  first_says: bool, by: signal.Signals | None
) -> tuple[bool, signal.Signals | None]:
  """What all processes do at this step, the same in each.

  Args:
    first_says: Counts in the first process, whose clock is everyone's.
    by: A signal that this process got.

  Returns:
    What the first process says, and a signal that any of them got.
  """
  if not several():
    return first_says, by
  told = gather(np.asarray([first_says, by or 0], np.int32))
  strongest = int(told[:, 1].max())
  return bool(told[0, 0]), signal.Signals(strongest) if strongest else None


def arrays_from_first(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays of the first process, bit for bit.

  Args:
    arrays: By name; the other processes give arrays of the same shapes and
      dtypes.
  """
  if not several():
    return arrays
  # JAX sums over the processes, all but the first giving zeros. Of floating
  # point numbers that would not keep the sign of -0.0.
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
    tree: Arrays or numbers. In several processes, no PRNG keys.
    sharding: A replicated one.
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
  """Raises UsageError unless all processes have the same facts.

  Args:
    what: What they are, for the message.
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
  """Whether it is what JAX raises when another process is gone."""
  return isinstance(error, (jax.errors.JaxRuntimeError, ValueError)) and any(
    sign in str(error) for sign in ('Gloo', 'NCCL', 'UNAVAILABLE')
  )


def _end_at_once(code: int) -> None:
  if is_first():
    time.sleep(_LAST_WORDS_SECONDS)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)
