"""Memory of a training step of WRN-28-10, and what `--remat` costs.

With float32 and with bfloat16 activations, without and with `--remat`, which
recomputes the activations of each block instead of keeping them. The memory is
that of the programs compiled for an H100, from the record of
`benchmarks.compiled`; the time is that of the steps of a small network on this
machine.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks import compiled
from benchmarks import harness
from benchmarks import workload

_REMAT = {'as it is': False, '--remat': True}
NETWORK = 'H100, WRN-28-10, batch 128'
_PROGRAM = 'H100, WRN-28-10'
_PROGRAMS = {
  'bfloat16, as it is': _PROGRAM,
  'bfloat16, --remat': f'{_PROGRAM}, --remat',
  'float32, as it is': f'{_PROGRAM}, float32',
  'float32, --remat': f'{_PROGRAM}, float32, --remat',
}
_READ = ('peak_bytes', 'temporary_bytes', 'argument_bytes', 'flops')


def measure(quick: bool) -> harness.Results:
  """Reads the memory plans of the compiled programs, and times small steps."""
  small = (10, 1, 8) if quick else (16, 2, 64)
  steps = {
    name: workload.start(workload.of_network(*small, remat=remat))
    for name, remat in _REMAT.items()
  }
  samples = harness.interleave(
    {name: lambda s=step: s(1) for name, step in steps.items()},  # type: ignore[misc]
    rounds=3 if quick else 15,
    seconds=15,
  )
  return {
    'network': NETWORK,
    'programs': programs(compiled.recorded()),
    'when': harness.when(),
    'timed_network': _name(*small),
    'seconds': {name: harness.summarize(s) for name, s in samples.items()},
    'remat_to_plain': harness.ratio(samples['--remat'], samples['as it is']),
  }


def programs(recorded: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of the compiled programs that the table shows.

  Args:
    recorded: See :func:`benchmarks.compiled.recorded`.
  """
  return {
    title: {field: recorded[name][field] for field in _READ}
    for title, name in _PROGRAMS.items()
    if name in recorded
  }


def tables(results: harness.Results) -> str:
  """The results as Markdown."""
  programs = results['programs']
  first = next(iter(programs.values()))
  plans = harness.table(
    [
      results['network'],
      'peak GB',
      'temporaries GB',
      'arguments GB',
      'TFLOP per step',
      'peak / first row',
      'FLOP / first row',
    ],
    [
      [
        name,
        f'{plan["peak_bytes"] / 1e9:.2f}',
        f'{plan["temporary_bytes"] / 1e9:.2f}',
        f'{plan["argument_bytes"] / 1e9:.2f}',
        f'{plan["flops"] / 1e12:.2f}',
        f'{plan["peak_bytes"] / first["peak_bytes"]:.2f}',
        f'{plan["flops"] / first["flops"]:.2f}',
      ]
      for name, plan in programs.items()
    ],
  )
  times = harness.table(
    [
      f'{results["timed_network"]}, float32, {harness.of(results["when"])}',
      'ms per step',
      'time / first row',
    ],
    [
      ['as it is', harness.spread(results['seconds']['as it is'], 1, 1e3), '1'],
      [
        '--remat',
        harness.spread(results['seconds']['--remat'], 1, 1e3),
        harness.spread(results['remat_to_plain'], 2),
      ],
    ],
  )
  return f'{plans}\n\n{times}'


def _name(depth: int, widen_factor: int, batch_size: int) -> str:
  return f'WRN-{depth}-{widen_factor}, batch {batch_size}'


if __name__ == '__main__':
  harness.main('memory', measure, tables)
