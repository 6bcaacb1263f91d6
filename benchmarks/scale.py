"""Steps over several devices: what they send, and a model of their time.

The collectives are counted in the program that XLA compiles for 1, 2, 4 and 8
simulated devices; nothing is allocated. The model says what that costs on
accelerators; the same model is held against steps measured here.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks import workload

_BYTES = {'pred': 1, 's32': 4, 'u32': 4, 'f16': 2, 'bf16': 2, 'f32': 4}
_COLLECTIVES = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'collective-permute',
  'all-to-all',
)
_DEFINITION = re.compile(
  r'= (?P<type>\(.*?\)|\S+) (?P<name>'
  + '|'.join(_COLLECTIVES)
  + r')(?:-start)?\('
)
_ARRAY = re.compile(r'\b(?P<dtype>[a-z]+\d*)\[(?P<shape>[\d,]*)\]')


@dataclasses.dataclass(frozen=True)
class Machine:
  """What the model knows of a device and of what joins several."""

  flops: float
  """Matrix products, FLOP/s."""
  share: float
  """Share of it that a training step reaches, collectives aside. An
  assumption."""
  memory: float
  """Bytes/s to and from memory."""
  link: float
  """Bytes/s that a device sends while all send, as a ring does."""
  latency: float
  """Seconds until a collective moves its first byte, for each hop."""


MACHINES = {
  # 790 TFLOP/s is a measured bf16 product of 8192 x 8192 matrices; 4.8 TB/s and
  # NVLink's 450 GB/s each way are the manufacturer's. The latency is assumed:
  # 28 us for a small reduction over eight.
  'H200': Machine(790e12, 0.5, 4.8e12, 450e9, 2e-6),
  # Manufacturer: 197 TFLOP/s, 819 GB/s, four links of 50 GB/s each way, of
  # which a ring along one axis of the torus uses two. The latency is assumed.
  'TPU v5e': Machine(197e12, 0.5, 819e9, 100e9, 1e-6),
}


# XLA's default for `--xla_gpu_all_reduce_combine_threshold_bytes`: on a GPU
# reductions that do not wait for each other are put together up to this size.
_GPU_COMBINES = 30 * 2**20 + 7
# What is smaller belongs to a batch norm: a sum and a sum of squares.
_LARGE = 6000


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation of a compiled program."""

  name: str
  arrays: tuple[int, ...]
  """Bytes of each array of its result, on one device."""

  @property
  def bytes(self) -> int:
    return sum(self.arrays)


def measure(quick: bool) -> harness.Results:
  """Counts collectives, and times what the model needs to be held against."""
  networks = [(10, 1, 16)] if quick else [(10, 1, 128), (28, 10, 128)]
  counts = [n for n in (1, 2, 4, 8) if n <= jax.device_count()]
  results: dict[str, Any] = {'collectives': {}, 'model': {}}
  for depth, widen_factor, batch_size in networks:
    name = f'WRN-{depth}-{widen_factor}, batch {batch_size}'
    rows = {}
    for count in counts:
      compiled = compile_step(depth, widen_factor, batch_size, count)
      rows[str(count)] = count_collectives(compiled.as_text(), count)
      if count == 1:
        costs = compiled.cost_analysis()
        step = {
          'flops': costs['flops'],
          'bytes': costs['bytes accessed'],
          'batch_size': batch_size,
        }
    results['collectives'][name] = rows
    # Ranks of one program: the most devices counted stand for any number.
    sent = rows[str(counts[-1])]
    results['model'][name] = {
      'step': step,
      'predictions': _predictions(step, sent),
    }
  results['here'] = _measure_here(quick)
  return results


def tables(results: harness.Results) -> str:
  """The results as Markdown."""
  rows: list[list[object]] = []
  for name, counts in results['collectives'].items():
    for count, row in counts.items():
      rows.append(
        [
          name,
          count,
          row['all_reduces'],
          row['large_all_reduces'],
          row['on_gpu'],
          row['other_collectives'],
          f'{row["bytes"] / 1e6:.2f}',
          f'{row["small_bytes"] / 1e3:.1f}',
          f'{row["ring_bytes"] / 1e6:.2f}',
        ]
      )
  counted = harness.table(
    [
      'global batch',
      'devices',
      'all-reduces',
      'of gradients',
      'on a GPU',
      'other collectives',
      'MB reduced',
      'kB of it in the others',
      'MB sent by each device in a ring',
    ],
    rows,
  )
  rows = []
  for name, model in results['model'].items():
    for prediction in model['predictions']:
      rows.append(
        [
          f'{name} a device' if prediction['weak'] else name,
          prediction['machine'],
          prediction['devices'],
          f'{1e3 * prediction["compute_seconds"]:.2f}',
          f'{1e3 * prediction["collective_seconds"]:.2f}',
          f'{prediction["images_per_second"]:,.0f}',
          f'{100 * prediction["efficiency"]:.0f}',
        ]
      )
  predicted = harness.table(
    [
      'predicted',
      'machine',
      'devices',
      'computing, ms',
      'collectives, ms',
      'images/s',
      '% efficiency',
    ],
    rows,
  )
  here = results['here']
  held = harness.table(
    [
      'measured here',
      'GFLOP',
      'MB accessed',
      'FLOP at the matrix ceiling, ms',
      'bytes at copy speed, ms',
      'measured, ms',
      '% of the larger',
    ],
    [
      [
        name,
        f'{row["flops"] / 1e9:.1f}',
        f'{row["bytes"] / 1e6:,.0f}',
        f'{1e3 * row["flop_seconds"]:.1f}',
        f'{1e3 * row["byte_seconds"]:.1f}',
        harness.spread(row['seconds'], 1, 1e3),
        f'{100 * row["share"]:.0f}',
      ]
      for name, row in here['steps'].items()
    ],
  )
  ceilings = (
    f'Ceilings here: {here["flops_per_second"]["median"] / 1e9:.0f} GFLOP/s in'
    f' a float32 product of {here["matrix"]}² matrices,'
    f' {here["bytes_per_second"]["median"] / 1e9:.1f} GB/s in a copy.'
  )
  return f'{counted}\n\n{predicted}\n\n{ceilings}\n\n{held}'


def count_collectives(text: str, devices: int) -> dict[str, float]:
  """Collectives of a compiled program and the bytes that they move.

  Args:
    text: The program, as XLA prints it.
    devices: How many it is for.

  Returns:
    ``all_reduces`` and how many of them are large: of gradients, not of the
    statistics of a batch norm; ``on_gpu``, how many large ones there would be
    with a GPU's default limit to their size; ``other_collectives``; ``bytes``
    of their results on one device and ``small_bytes``, those of them that are
    not in large ones; ``ring_bytes``, what each device sends if they are rings.
  """
  found = list(find_collectives(text))
  reduces = [c for c in found if c.name == 'all-reduce']
  large = [c for c in reduces if c.bytes >= _LARGE]
  total = sum(c.bytes for c in found)
  return {
    'all_reduces': len(reduces),
    'large_all_reduces': len(large),
    'on_gpu': _combine([n for c in large for n in c.arrays]),
    'other_collectives': len(found) - len(reduces),
    'bytes': total,
    'small_bytes': total - sum(c.bytes for c in large),
    # A reduction and a gathering, each of all parts but a device's own.
    'ring_bytes': 2 * (devices - 1) / devices * total,
  }


def find_collectives(text: str) -> list[Collective]:
  """The collective operations in a program as XLA prints it."""
  found = []
  for match in _DEFINITION.finditer(text):
    arrays = []
    for array in _ARRAY.finditer(match['type']):
      shape = [int(n) for n in array['shape'].split(',') if n]
      arrays.append(_BYTES[array['dtype']] * int(np.prod(shape)))
    found.append(Collective(match['name'], tuple(arrays)))
  return found


def _combine(arrays: Sequence[int]) -> int:
  """How many reductions hold these arrays, in order, on a GPU."""
  reductions, size = 0, math.inf
  for array in arrays:
    if size + array > _GPU_COMBINES:
      reductions, size = reductions + 1, 0
    size += array
  return reductions


def predict(
  machine: Machine,
  flops: float,
  memory_bytes: float,
  reduced_bytes: float,
  reductions: float,
  devices: int,
) -> tuple[float, float]:
  """The model: seconds of a step spent in computing and in collectives.

  Computing takes what FLOP or bytes take, whichever is more. Collectives are
  rings that nothing hides: 2 (n - 1) / n of the bytes pass each link, and
  each collective waits for 2 (n - 1) hops.

  Args:
    machine: What computes.
    flops: Of one device.
    memory_bytes: To and from memory, of one device.
    reduced_bytes: Size of what is reduced.
    reductions: Number of collectives.
    devices: How many there are.
  """
  computing = max(
    flops / (machine.flops * machine.share), memory_bytes / machine.memory
  )
  hops = 2 * (devices - 1)
  collectives = (
    hops / devices * reduced_bytes / machine.link
    + reductions * hops * machine.latency
  )
  return computing, collectives


def _predictions(
  step: Mapping[str, float], sent: Mapping[str, float]
) -> list[dict[str, Any]]:
  """Steps of one global batch (strong), and of one batch a device (weak)."""
  made = []
  for name, counts in (('H200', (1, 8)), ('TPU v5e', (1, 16, 64))):
    machine = MACHINES[name]
    alone = predict(machine, step['flops'], 0, 0, 0, 1)[0]
    for devices in counts:
      for weak in (False, True) if devices > 1 else (False,):
        batch = step['batch_size'] * (devices if weak else 1)
        if batch < devices:
          continue
        # Counted bytes are of float32 on a CPU: they bound nothing here.
        computing, collectives = predict(
          machine,
          step['flops'] * batch / step['batch_size'] / devices,
          0,
          sent['bytes'],
          sent['all_reduces'],
          devices,
        )
        seconds = computing + collectives
        made.append(
          {
            'machine': name,
            'devices': devices,
            'weak': weak,
            'compute_seconds': computing,
            'collective_seconds': collectives,
            'images_per_second': batch / seconds,
            'efficiency': alone
            * batch
            / step['batch_size']
            / devices
            / seconds,
          }
        )
  return made


def compile_step(
  depth: int, widen_factor: int, batch_size: int, devices: int
) -> Any:
  """The training step on the first devices, compiled."""
  some = jax.devices()[:devices]
  prepared = workload.of_network(
    # XLA counts nothing of the kernels of oneDNN.
    depth,
    widen_factor,
    batch_size,
    devices=some,
    convolutions='xla',
  )
  return prepared.lower_train().compile()


def _measure_here(quick: bool) -> dict[str, Any]:
  """Ceilings of this device, and steps as a share of the model's time."""
  side = 256 if quick else 2048
  matrix = jnp.ones((side, side), jnp.float32)
  product = jax.jit(jnp.dot).lower(matrix, matrix).compile()
  numbers = jnp.ones((1 if quick else 64) * 2**20, jnp.float32)
  # In place: new memory would be paid for at each call.
  change = jax.jit(jnp.negative, donate_argnums=0).lower(numbers).compile()
  sizes = [(10, 1, 16)] if quick else [(10, 1, 128), (16, 4, 64)]

  def copy() -> None:
    nonlocal numbers
    numbers = jax.block_until_ready(change(numbers))

  calls: dict[str, Any] = {
    'product': lambda: jax.block_until_ready(product(matrix, matrix)),
    'copy': copy,
  }
  costs = {}
  for depth, widen_factor, batch_size in sizes:
    name = f'WRN-{depth}-{widen_factor}, batch {batch_size}'
    prepared = workload.of_network(
      depth, widen_factor, batch_size, convolutions='xla'
    )
    costs[name] = prepared.lower_train().compile().cost_analysis()
    advance = workload.start(prepared)
    calls[name] = lambda advance=advance: advance(1)
  samples = harness.interleave(calls, rounds=3 if quick else 15, seconds=30)
  flops = harness.rate(2 * side**3, samples.pop('product'))
  speed = harness.rate(2 * numbers.nbytes, samples.pop('copy'))
  steps = {}
  for name, taken in samples.items():
    seconds = harness.summarize(taken)
    flop_seconds = costs[name]['flops'] / flops['median']
    byte_seconds = costs[name]['bytes accessed'] / speed['median']
    steps[name] = {
      'flops': costs[name]['flops'],
      'bytes': costs[name]['bytes accessed'],
      'flop_seconds': flop_seconds,
      'byte_seconds': byte_seconds,
      'seconds': seconds,
      'share': max(flop_seconds, byte_seconds) / seconds['median'],
    }
  return {
    'matrix': side,
    'flops_per_second': flops,
    'bytes_per_second': speed,
    'steps': steps,
  }


if __name__ == '__main__':
  harness.main('scale', measure, tables, devices=8)
