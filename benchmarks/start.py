"""The time from the command to the first step.

Measures fresh processes: runs of a small network and of WRN-28-10 on the digits
with an empty and a full compilation cache, the compilation of the WRN-28-10
step on CIFAR images, and `import optax_lcam` beyond `import optax`.
"""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import harness

_REPOSITORY = pathlib.Path(__file__).parents[1]

# Seconds of the second import, in a process that did the first.
_IMPORT = """
import time
import optax
started = time.perf_counter()
import optax_lcam
print(time.perf_counter() - started)
"""

_IMPORT_PROGRAM = 'from train import loop'

# An epoch of two steps with 128 and 72 images: two programs are compiled, as in
# a run on all digits, and the first row is written early.
_RUN = ['--dataset', 'digits', '--train-examples', '200', '--epochs', '1']

# The large network with minimal computation: a step of eight images, and the
# test set.
_LARGE_RUN = [
  *('--dataset', 'digits', '--train-examples', '8', '--epochs', '1'),
  *('--batch-size', '8', '--depth', '28', '--widen-factor', '10'),
]

_COMPILE = """
import json
import sys
from train.devices import jax_environment
jax_environment.prepare()
from benchmarks import start
depth, widen_factor, batch_size = map(int, sys.argv[1:])
print(json.dumps(start.compile_step(depth, widen_factor, batch_size)))
"""


def measure(quick: bool) -> harness.Results:
  """Times fresh processes."""
  times = 1 if quick else 3
  small = [_seconds_to_first_rows(_RUN) for _ in range(times)]
  large = _seconds_to_first_rows(_RUN if quick else _LARGE_RUN)
  imports = [
    1e3 * float(_python(['-c', _IMPORT], {})) for _ in range(3 if quick else 9)
  ]
  of_program = []
  for _ in range(times):
    started = time.perf_counter()
    _python(['-c', _IMPORT_PROGRAM], {})
    of_program.append(time.perf_counter() - started)
  depth, widen_factor, batch_size = (10, 1, 8) if quick else (28, 10, 128)
  sizes = [str(n) for n in (depth, widen_factor, batch_size)]
  with tempfile.TemporaryDirectory() as directory:
    cache = {'JAX_COMPILATION_CACHE_DIR': directory}
    compiled = [
      json.loads(_python(['-c', _COMPILE, *sizes], cache)) for _ in range(2)
    ]
  return {
    'small': _summarize_starts(small),
    'large': _summarize_starts([large]),
    'import_seconds': harness.summarize(of_program),
    'compile': {
      'network': f'WRN-{depth}-{widen_factor}, batch {batch_size}',
      'cold': compiled[0],
      'warm': compiled[1],
    },
    'import_milliseconds': harness.summarize(imports),
  }


def tables(results: harness.Results) -> str:
  """The results as Markdown."""
  compiled = results['compile']

  def in_seconds(summary: Mapping[str, float]) -> str:
    if summary['rounds'] == 1:
      return f'{summary["median"]:.1f} s'
    return harness.spread(summary, 2) + ' s'

  rows = [
    [
      '`import optax_lcam` beyond `import optax`',
      harness.spread(results['import_milliseconds'], 1) + ' ms',
    ],
    [
      'imports of the training program',
      in_seconds(results['import_seconds']),
    ],
  ]
  for name, label in (('small', 'WRN-10-1'), ('large', 'WRN-28-10')):
    starts = results[name]
    rows += [
      [
        f'{label} on digits, command to its first row, empty cache',
        in_seconds(starts['cold_seconds']),
      ],
      ['the same, cached', in_seconds(starts['warm_seconds'])],
    ]
  for cache, label in (('cold', 'empty cache'), ('warm', 'cached')):
    seconds = compiled[cache]
    rows.append(
      [
        f'{compiled["network"]}: tracing + compiling the step, {label}',
        f'{seconds["lower_seconds"]:.1f} + {seconds["compile_seconds"]:.1f} s',
      ]
    )
  return harness.table(['part', 'time'], rows)


def compile_step(
  depth: int, widen_factor: int, batch_size: int
) -> dict[str, float]:
  """Seconds to trace and lower a training step, and to compile it."""
  from benchmarks import workload

  prepared = workload.of_network(depth, widen_factor, batch_size)
  started = time.perf_counter()
  lowered = prepared.lower_train()
  then = time.perf_counter()
  lowered.compile()
  return {
    'lower_seconds': then - started,
    'compile_seconds': time.perf_counter() - then,
  }


def _summarize_starts(
  starts: Sequence[tuple[float, float]],
) -> dict[str, dict[str, float]]:
  cold, warm = zip(*starts, strict=True)
  return {
    'cold_seconds': harness.summarize(cold),
    'warm_seconds': harness.summarize(warm),
    'cold_to_warm': harness.ratio(cold, warm),
  }


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
  # Drops variables that a user's shell does not set, and caches bytecode.
  left_out = ('XLA_FLAGS', 'PYTHONDONTWRITEBYTECODE')
  kept = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith('JAX_') and name not in left_out
  }
  return {**kept, **changes}


def _python(arguments: list[str], changes: Mapping[str, str]) -> str:
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=_REPOSITORY,
    env=_environment(changes),
    check=True,
    capture_output=True,
    text=True,
  ).stdout


def _seconds_to_first_rows(run: Sequence[str]) -> tuple[float, float]:
  """Seconds of a run with an empty cache, and of its repetition."""
  with tempfile.TemporaryDirectory() as directory:
    root = pathlib.Path(directory)
    cache = {'XDG_CACHE_HOME': str(root / 'cache')}
    return (
      _seconds_to_first_row(run, root / 'cold', cache),
      _seconds_to_first_row(run, root / 'warm', cache),
    )


def _seconds_to_first_row(
  run: Sequence[str], run_dir: pathlib.Path, changes: Mapping[str, str]
) -> float:
  command = [sys.executable, '-m', 'train', 'run', *run]
  metrics = run_dir / 'metrics.jsonl'
  with tempfile.TemporaryFile('w+') as output:
    started = time.perf_counter()
    process: subprocess.Popen[Any] = subprocess.Popen(
      [*command, '--run-dir', str(run_dir)],
      cwd=_REPOSITORY,
      env=_environment(changes),
      stdout=output,
      stderr=output,
    )
    while not (metrics.exists() and metrics.stat().st_size):
      if process.poll() is not None:
        output.seek(0)
        raise RuntimeError(output.read())
      time.sleep(0.002)
    seconds = time.perf_counter() - started
    process.wait()
  return seconds


if __name__ == '__main__':
  harness.main('start', measure, tables)
