"""Steps on several devices: what they send, and a model of their time.

The FLOP, bytes and collectives of a device are those of the programs compiled
for GPUs and TPUs, from the record of `benchmarks.compiled`. The model predicts
their time on accelerators, and is compared with steps measured on this machine.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import compiled
from benchmarks import harness
from benchmarks import workload


@dataclasses.dataclass(frozen=True)
class Machine:
  """The rates of a device and of the links between devices in the model."""

  flops: float
  """Matrix products, FLOP/s."""
  share: float
  """Share of ``flops`` that a training step reaches without collectives. An
  assumption."""
  memory: float
  """Bytes/s to and from memory."""
  link: float
  """Bytes/s that a device sends while all devices send, as in a ring."""
  latency: float
  """Seconds until a collective moves its first byte, per hop."""


MACHINES = {
  # 790 TFLOP/s is a measured bf16 product of 8192 x 8192 matrices on an H200,
  # the same chip with another memory; 3.35 TB/s and NVLink's 450 GB/s each way
  # are the manufacturer's. The latency is assumed: 28 us for a small reduction
  # over eight.
  'H100': Machine(790e12, 0.5, 3.35e12, 450e9, 2e-6),
  # Manufacturer: 197 TFLOP/s, 819 GB/s, four links of 50 GB/s each way, of
  # which a ring along one axis of the torus uses two. The latency is assumed.
  'TPU v5e': Machine(197e12, 0.5, 819e9, 100e9, 1e-6),
}

# The numbers of devices of the predictions, and the program of the record. What
# a device with 128 images computes and sends does not depend on the number of
# devices.
_PREDICTED = {
  'H100': ((1, 8), 'H100 ×8'),
  'TPU v5e': ((1, 16, 64), 'v5e-16'),
}
_NETWORKS = ('WRN-10-1', 'WRN-28-10')
_IMAGES = 128


def measure(quick: bool) -> harness.Results:
  """Predicts steps, and times steps here for comparison."""
  return {
    'model': predictions(compiled.recorded()),
    'here': _measure_here(quick) | {'when': harness.when()},
  }


def predictions(programs: Mapping[str, Any]) -> dict[str, Any]:
  """Predicted steps by network.

  Args:
    programs: Compiled programs, see :func:`benchmarks.compiled.recorded`.
  """
  return {
    network: [
      {'machine': machine, **prediction}
      for machine, (counts, name) in _PREDICTED.items()
      if f'{name}, {network}' in programs
      for prediction in _predictions(
        MACHINES[machine], programs[f'{name}, {network}'], counts
      )
    ]
    for network in _NETWORKS
  }


def tables(results: harness.Results) -> str:
  """The results as Markdown."""
  rows: list[list[object]] = []
  for name, predictions in results['model'].items():
    for prediction in predictions:
      rows.append(
        [
          f'{name}, batch {prediction["batch"]:,}',
          prediction['machine'],
          prediction['devices'],
          prediction['reductions'],
          f'{prediction["reduced_bytes"] / 1e6:.2f}',
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
      'reductions',
      'MB reduced',
      'computation, ms',
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
      'FLOP at matrix peak, ms',
      'bytes at copy speed, ms',
      'measured, ms',
      'larger / measured, %',
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
    f'Peak rates here, {harness.of(here["when"])}:'
    f' {here["flops_per_second"]["median"] / 1e9:.0f} GFLOP/s in'
    f' a float32 product of {here["matrix"]}² matrices,'
    f' {here["bytes_per_second"]["median"] / 1e9:.1f} GB/s in a copy.'
  )
  return f'{predicted}\n\n{ceilings}\n\n{held}'


def predict(
  machine: Machine,
  flops: float,
  memory_bytes: float,
  reduced_bytes: float,
  reductions: float,
  devices: int,
) -> tuple[float, float]:
  """The model: seconds of a step for computation and for collectives.

  Computation takes the time of its FLOP or of its bytes, whichever is longer.
  Collectives are rings and do not overlap with computation: 2 (n - 1) / n of
  the bytes pass each link, and each collective waits for 2 (n - 1) hops.

  Args:
    machine: The kind of device.
    flops: FLOP of one device.
    memory_bytes: Bytes to and from the memory of one device.
    reduced_bytes: Size of the reduced arrays.
    reductions: Number of collectives.
    devices: Number of devices.
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
  machine: Machine, program: Mapping[str, Any], counts: tuple[int, ...]
) -> list[dict[str, Any]]:
  """Steps with a fixed global batch (strong) or batch per device (weak).

  Args:
    machine: The kind of device.
    program: The program of one of several devices with 128 images each.
    counts: Numbers of devices.
  """
  sent = program['all_reduces']
  reduced = sum(found['count'] * found['bytes'] for found in sent)
  reductions = sum(found['count'] for found in sent)
  alone, _ = predict(machine, program['flops'], program['bytes'], 0, 0, 1)
  made = []
  for devices in counts:
    for images in (_IMAGES, _IMAGES * devices) if devices > 1 else (_IMAGES,):
      share = images / devices / _IMAGES
      computing, collectives = predict(
        machine,
        program['flops'] * share,
        program['bytes'] * share,
        reduced if devices > 1 else 0,
        reductions if devices > 1 else 0,
        devices,
      )
      seconds = computing + collectives
      made.append(
        {
          'devices': devices,
          'batch': images,
          'reductions': reductions if devices > 1 else 0,
          'reduced_bytes': reduced if devices > 1 else 0,
          'compute_seconds': computing,
          'collective_seconds': collectives,
          'images_per_second': images / seconds,
          'efficiency': alone * share / seconds,
        }
      )
  return made


def _measure_here(quick: bool) -> dict[str, Any]:
  """Peak rates of this device, and the share of them that steps reach."""
  side = 256 if quick else 2048
  matrix = jnp.ones((side, side), jnp.float32)
  product = jax.jit(jnp.dot).lower(matrix, matrix).compile()
  numbers = jnp.ones((1 if quick else 64) * 2**20, jnp.float32)
  # In place, because new memory costs time at each call.
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
  harness.main('scale', measure, tables)
