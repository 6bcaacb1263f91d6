"""Compiles the program of a run for a target in this process, and counts.

`benchmarks.compiled` starts it, so that the compiler has its own environment
and a crash of the compiler ends only this process.
"""

import collections
import json
import pathlib
import resource
import sys
import time
from typing import Any

from benchmarks import hlo
from benchmarks import targets
from train import config as config_lib
from train import errors
from train.devices import jax_environment

_LARGE_COPY = 1_000_000
_EXACT_MEAN = 'optax_lcam/_exact_mean.py'
_MOST_EXPENSIVE = 20

CONVOLUTIONS = 'convolutions and products'


def main(request: pathlib.Path, answer: pathlib.Path) -> int:
  """Compiles the requested program; returns the exit code."""
  asked = json.loads(request.read_text(encoding='utf-8'))
  try:
    jax_environment.prepare()
    found = inspect(
      targets.get(asked['target']),
      config_lib.from_json(asked['config']),
      asked['steps'],
    )
  except errors.UsageError as error:
    answer.write_text(json.dumps({'error': str(error)}), encoding='utf-8')
    return 2
  answer.write_text(json.dumps(found), encoding='utf-8')
  return 0


def inspect(
  target: targets.Target, config: config_lib.Config, steps: int | None
) -> dict[str, Any]:
  """Counts what the compiled program of a run consists of.

  Args:
    target: The target of the compilation.
    config: Settings of the run.
    steps: Steps in one dispatch. Default: as many as in the run.

  Returns:
    See :func:`benchmarks.compiled.inspect`.
  """
  from benchmarks import workload

  devices = target.devices()
  program = workload.of_run(config, workload.blank(config), devices=devices)
  size, planned = next(program.plan())
  steps = steps or planned
  started, cpu = time.perf_counter(), _cpu_seconds()
  compiled = program.compile_train(size, steps)
  seconds, cpu = time.perf_counter() - started, _cpu_seconds() - cpu
  plan = compiled.memory_analysis()
  module = hlo.Module(compiled.as_text())
  return {
    'target': target.name,
    'devices': len(devices),
    'chip': target.chip.title,
    'network': program.title,
    'dtype': program.dtype,
    'batch_size': size,
    'steps': steps,
    'compile_seconds': seconds,
    'compile_cpu_seconds': cpu,
    'argument_bytes': plan.argument_size_in_bytes,
    'temporary_bytes': plan.temp_size_in_bytes,
    # The results reuse the memory of donated arguments.
    'peak_bytes': plan.argument_size_in_bytes
    + plan.output_size_in_bytes
    - plan.alias_size_in_bytes
    + plan.temp_size_in_bytes,
    **count(module, program, target.chip),
    'versions': target.versions(),
  }


def count(
  module: hlo.Module, program: Any, chip: targets.Chip
) -> dict[str, Any]:
  """The counts of a step; those of the program are named so."""
  member = program.shape_member()
  kernels = module.kernels()
  makers = module.makers(leaf.shape for leaf in _weights(member))
  own = module.copies(module.step, _LARGE_COPY)
  copied = [
    i for name in module.bodies() for i in module.copies(name, _LARGE_COPY)
  ]
  exact = module.arithmetic(_EXACT_MEAN)
  norms = 2 * max(
    (4 * leaf.size for leaf in _leaves(member.batch_stats)), default=0
  )
  collectives = _collectives(module, norms)
  return {
    'flops': sum(kernel.flops for kernel in kernels),
    'bytes': sum(kernel.bytes for kernel in kernels),
    'kernels': len(kernels),
    'collectives': collectives,
    'all_reduces': [
      {name: value for name, value in found.items() if name != 'kind'}
      for found in collectives
      if found['kind'] == 'all-reduce'
    ],
    'convolutions': _convolutions(module),
    'while_loops': len(module.loops),
    'large_copies': len(copied),
    'large_copies_in_step': len(own),
    'large_copy_bytes': sum(i.bytes for i in copied),
    'large_transpositions_in_step': len(
      module.transpositions(module.step, _LARGE_COPY)
    ),
    'update': _update(makers, member),
    'exact_mean': {
      'additions': exact.get('add', 0),
      'subtractions': exact.get('subtract', 0),
    },
    'limits': _limits(kernels, {maker.name for maker in makers}, chip),
  }


def _collectives(module: hlo.Module, norms: int) -> list[dict[str, Any]]:
  """Equal collectives are grouped, the largest first.

  Args:
    module: The program.
    norms: The largest number of bytes that a batch norm reduces at once.
  """
  counted = collections.Counter(
    (c.name, c.dtype, c.bytes) for c in module.collectives()
  )
  return [
    {
      'kind': kind,
      'dtype': dtype,
      'bytes': size,
      'count': number,
      'of_batch_norm': size <= norms,
    }
    for (kind, dtype, size), number in sorted(
      counted.items(), key=lambda item: -item[0][2]
    )
  ]


def _convolutions(module: hlo.Module) -> list[dict[str, Any]]:
  numbers: collections.Counter[tuple[str, str]] = collections.Counter()
  flops: collections.Counter[tuple[str, str]] = collections.Counter()
  for found in module.convolutions():
    numbers[found.call, found.dtype] += 1
    flops[found.call, found.dtype] += found.flops
  return [
    {'call': call, 'dtype': dtype, 'count': number, 'flops': flops[call, dtype]}
    for (call, dtype), number in sorted(numbers.items())
  ]


def _weights(member: Any) -> list[Any]:
  """The kernels of the layers, which hold nearly all parameters."""
  return [leaf for leaf in _leaves(member.params) if len(leaf.shape) > 1]


def _update(makers: list[hlo.Kernel], member: Any) -> dict[str, Any]:
  """How the weights and the state of the optimizer are updated.

  Args:
    makers: The kernels that compute them.
    member: The state of a run.
  """
  weights = _weights(member)
  shapes = {leaf.shape for leaf in weights}
  kept = [leaf for leaf in _leaves(member.opt_state) if leaf.shape in shapes]
  size = 4 * sum(leaf.size for leaf in weights)
  alone = [kernel for kernel in makers if not kernel.convolves]
  in_gradients = [kernel for kernel in makers if kernel.convolves]
  written = sum(kernel.made_bytes for kernel in alone)
  arrays = 1 + len(kept) / max(len(weights), 1)
  return {
    'tensors': len(weights),
    'tensor_bytes': size,
    'kernels': len(makers),
    'in_gradients': len(in_gradients),
    # For the tensors whose update is a separate kernel.
    'passes': sum(kernel.bytes for kernel in alone) * arrays / written
    if written
    else None,
  }


def _limits(
  kernels: list[hlo.Kernel], update: set[str], chip: targets.Chip
) -> dict[str, Any]:
  """The roofline time of each kernel: that of its FLOP or bytes.

  Args:
    kernels: The kernels of a step.
    update: The names of the kernels that compute the new weights.
    chip: The chip with its peak rates.
  """

  def seconds(kernel: hlo.Kernel) -> float:
    return kernel.seconds(chip.flops, chip.memory)

  kinds: dict[str, float] = collections.defaultdict(float)
  cycles: dict[str, int] = collections.defaultdict(int)
  equal: dict[tuple[str, int, int], list[hlo.Kernel]] = {}
  for kernel in kernels:
    kind = _kind(kernel, update)
    kinds[kind] += seconds(kernel)
    cycles[kind] += kernel.cycles or 0
    key = (_operation(kernel), kernel.flops, kernel.bytes)
    equal.setdefault(key, []).append(kernel)
  estimated = any(cycles.values())

  def cost(alike: list[hlo.Kernel]) -> float:
    if estimated:
      return sum(kernel.cycles or 0 for kernel in alike)
    return sum(map(seconds, alike))

  return {
    'chip_flops': chip.flops,
    'chip_bytes': chip.memory,
    'seconds': sum(kinds.values()),
    'seconds_by_kind': dict(kinds),
    'bound_by_bytes_seconds': sum(
      seconds(kernel)
      for kernel in kernels
      if kernel.bytes / chip.memory > kernel.flops / chip.flops
    ),
    'cycles': sum(cycles.values()) if estimated else None,
    'cycles_by_kind': dict(cycles) if estimated else None,
    'most_expensive': [
      {
        'name': alike[0].name,
        'operation': operation,
        'kind': _kind(alike[0], update),
        'count': len(alike),
        'flops': flops,
        'bytes': moved,
        'seconds': sum(map(seconds, alike)),
        'cycles': sum(k.cycles or 0 for k in alike) if estimated else None,
      }
      for (operation, flops, moved), alike in sorted(
        equal.items(), key=lambda item: cost(item[1]), reverse=True
      )[:_MOST_EXPENSIVE]
    ],
  }


def _kind(kernel: hlo.Kernel, update: set[str]) -> str:
  """The purpose of a kernel."""
  if kernel.convolves:
    return CONVOLUTIONS
  if kernel.name in update:
    return 'update'
  if kernel.name.startswith(hlo.COLLECTIVES):
    return 'collectives'
  if 'transpose(jvp' in kernel.op_name:
    return 'norm, ReLU, sum: backward'
  if 'jvp(' in kernel.op_name:
    return 'norm, ReLU, sum: forward'
  return 'images and others'


def _operation(kernel: hlo.Kernel) -> str:
  """The last part of JAX's name for the operation, and its direction."""
  name = kernel.op_name.rsplit('/', 1)[-1]
  return f'{name}, backward' if 'transpose(jvp' in kernel.op_name else name


def _leaves(tree: Any) -> list[Any]:
  import jax

  return jax.tree.leaves(tree)


def _cpu_seconds() -> float:
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime


if __name__ == '__main__':
  sys.exit(main(*map(pathlib.Path, sys.argv[1:])))
