"""Several seeds in one vmapped program, compared with sequential runs.

Steps of small networks can leave a device idle. This measures whether, and from
how many seeds on, one program is faster.
"""

from collections.abc import Callable
from typing import Any

from benchmarks import harness
from benchmarks import workload
from train import config as config_lib


def measure(quick: bool) -> harness.Results:
  """Times k vmapped steps against k steps."""
  # Label, depth, widen factor, height and width, channels, batch size.
  cases: list[tuple[str, int, int, int, int, int]] = [
    ('WRN-10-1, 8×8 digits', 10, 1, 8, 1, 128),
    ('WRN-10-1, 16×16', 10, 1, 16, 3, 128),
    ('WRN-10-1, 32×32', 10, 1, 32, 3, 128),
  ]
  counts = [2, 4, 8]
  if quick:
    cases = [('WRN-10-1, 8×8 digits', 10, 1, 8, 1, 8)]
    counts = [2]
  return {case[0]: _measure_case(*case[1:], counts, quick) for case in cases}


def tables(results: harness.Results) -> str:
  """The results as Markdown."""
  rows: list[list[object]] = []
  for name, case in results.items():
    for seeds, row in case.items():
      rows.append(
        [
          name,
          seeds,
          harness.spread(row['one_by_one'], 1, 1e3),
          harness.spread(row['together'], 1, 1e3),
          harness.spread(row['speedup'], 2),
        ]
      )
  return harness.table(
    ['network', 'seeds', 'sequential, ms', 'vmapped, ms', 'speed-up'], rows
  )


def _measure_case(
  depth: int,
  widen_factor: int,
  size: int,
  channels: int,
  batch_size: int,
  counts: list[int],
  quick: bool,
) -> harness.Results:
  dataset = workload.noise(8 * batch_size, size, channels, size // 8)
  config = config_lib.Config(
    dataset='cifar10',
    depth=depth,
    widen_factor=widen_factor,
    batch_size=batch_size,
  )

  def start(seeds: int) -> Callable[[int], None]:
    return workload.start(workload.of_run(config, dataset, seeds=seeds))

  alone = start(1)
  case: dict[str, Any] = {}
  for seeds in counts:
    together = start(seeds)
    samples = harness.interleave(
      {
        # Sequential runs share nothing. The device waits only for the first
        # step, because the steps are in one queue.
        'one_by_one': lambda seeds=seeds: alone(seeds),  # type: ignore[misc]
        'together': lambda together=together: together(1),  # type: ignore[misc]
      },
      rounds=3 if quick else 11,
      seconds=5,
    )
    case[str(seeds)] = {
      **{name: harness.summarize(taken) for name, taken in samples.items()},
      'speedup': harness.ratio(samples['one_by_one'], samples['together']),
    }
  return case


if __name__ == '__main__':
  harness.main('many_seeds', measure, tables)
