"""One candidate of `benchmarks.training`, in a separate process.

Candidates must not share a process, because the settings of the allocator apply
to the whole process and the threads of PyTorch spin. A process reads numbers of
steps from its standard input, and writes its measurements as lines of JSON to
its standard output.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

from train.devices import jax_environment

_ROOT = pathlib.Path(__file__).parents[1]
_KEEP_MEMORY = 'OPTAX_LCAM_KEEP_MEMORY'


@dataclasses.dataclass(frozen=True)
class Candidate:
  """The framework and the settings of the training steps."""

  framework: str
  """``jax`` or ``torch``."""
  convolutions: str = 'onednn'
  """``xla`` or ``onednn``, for ``jax`` only."""
  keeps_memory: bool = True
  """Whether the C library keeps freed memory."""
  dtype: str = 'float32'

  @property
  def name(self) -> str:
    """Its name in the tables."""
    if self.framework == 'torch':
      parts = ['PyTorch']
    else:
      parts = ['optax-lcam', 'oneDNN' if self._is_onednn else 'XLA']
    if self.dtype != 'float32':
      parts.append(self.dtype)
    if self.keeps_memory:
      parts.append('memory kept')
    return ', '.join(parts)

  @property
  def is_reference(self) -> bool:
    """Whether the other candidates are compared with it."""
    return self.framework == 'torch' and self.dtype == 'float32'

  @property
  def _is_onednn(self) -> bool:
    return self.convolutions == 'onednn'


@dataclasses.dataclass(frozen=True)
class Case:
  """A network and its images."""

  depth: int
  widen_factor: int
  batch_size: int
  image_size: int = 32

  @property
  def name(self) -> str:
    """Its name in the tables."""
    return (
      f'WRN-{self.depth}-{self.widen_factor}, batch {self.batch_size},'
      f' {self.image_size}×{self.image_size}'
    )


class Process:
  """A running candidate."""

  def __init__(self, candidate: Candidate, case: Case) -> None:
    """Starts the process, and waits for its first steps."""
    given = {
      'candidate': dataclasses.asdict(candidate),
      'case': dataclasses.asdict(case),
    }
    environment = {
      **os.environ,
      _KEEP_MEMORY: str(int(candidate.keeps_memory)),
    }
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'benchmarks.training_process', json.dumps(given)],
      cwd=_ROOT,
      env=environment,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self.answers: list[dict[str, float]] = []
    """One for each call of :meth:`advance`."""
    self._read()

  def advance(self, steps: int) -> None:
    """Runs training steps."""
    assert self._process.stdin is not None
    self._process.stdin.write(f'{steps}\n')
    self._process.stdin.flush()
    self.answers.append(self._read())

  def close(self) -> None:
    """Ends the process."""
    self._process.communicate(timeout=60)

  def _read(self) -> Any:
    assert self._process.stdout is not None
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(
        f'A candidate ended with exit code {self._process.wait()}.'
      )
    return json.loads(line)


def _serve(candidate: Candidate, case: Case) -> None:
  import resource

  jax_environment.prepare()
  jax_environment.keep_freed_memory(0)
  make = {'jax': _start_jax, 'torch': _start_torch}[candidate.framework]
  advance = make(candidate, case)
  advance(2)
  print('{}', flush=True)
  for line in sys.stdin:
    steps = int(line)
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    advance(steps)
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_seconds = (after.ru_utime + after.ru_stime) - (
      before.ru_utime + before.ru_stime
    )
    answer = {
      'seconds': seconds / steps,
      'cpu_seconds': cpu_seconds / steps,
      'page_faults': (after.ru_minflt - before.ru_minflt) / steps,
      # ru_maxrss is in KiB on Linux.
      'peak_bytes': after.ru_maxrss * 1024,
    }
    print(json.dumps(answer), flush=True)


def _start_jax(candidate: Candidate, case: Case) -> Any:
  from benchmarks import workload
  from train import config as config_lib

  config = config_lib.Config(
    dataset='cifar10',
    depth=case.depth,
    widen_factor=case.widen_factor,
    batch_size=case.batch_size,
    image_size=case.image_size,
    dtype=candidate.dtype,  # type: ignore[arg-type]
    convolutions=candidate.convolutions,  # type: ignore[arg-type]
    # PyTorch has no LCAM; benchmarks.optimizer_step compares the optimizers.
    optimizer='lcam',
  )
  dataset = workload.noise(64 * case.batch_size, case.image_size)
  return workload.start(workload.of_run(config, dataset))


def _start_torch(candidate: Candidate, case: Case) -> Any:
  from benchmarks import torch_step
  from benchmarks import workload

  dataset = workload.noise(64 * case.batch_size, case.image_size)
  return torch_step.make_steps(
    torch_step.make_model(case.depth, case.widen_factor),
    dataset.train,
    case.batch_size,
    bfloat16=candidate.dtype == 'bfloat16',
  )


def _main(argument: str) -> None:
  given: Mapping[str, Any] = json.loads(argument)
  _serve(Candidate(**given['candidate']), Case(**given['case']))


if __name__ == '__main__':
  _main(sys.argv[1])
