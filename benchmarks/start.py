"""From the command to the first step.

Fresh processes: a run on the digits with an empty cache of compiled programs
and with a full one, the compilation of WRN-28-10's step, and what
`import optax_lcam` takes beyond `import optax`.
"""

from collections.abc import Mapping
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

# An epoch of two steps, of 128 and of 72 images: as in a run on all digits,
# two programs are compiled, and the first row is written early.
_RUN = ['--dataset', 'digits', '--train-examples', '200', '--epochs', '1']

_COMPILE = """
import json
import sys
from train import jax_environment
jax_environment.prepare()
from benchmarks import start
depth, widen_factor, batch_size = map(int, sys.argv[1:])
print(json.dumps(start.compile_step(depth, widen_factor, batch_size)))
"""


def measure(quick: bool) -> harness.Results:
  """Times fresh processes."""
  times = 1 if quick else 5
  cold, warm = [], []
  for _ in range(times):
    with tempfile.TemporaryDirectory() as directory:
      root = pathlib.Path(directory)
      cache = {'XDG_CACHE_HOME': str(root / 'cache')}
      cold.append(_seconds_to_first_row(root / 'cold', cache))
      warm.append(_seconds_to_first_row(root / 'warm', cache))
  imports = [
    1e3 * float(_python(['-c', _IMPORT], {})) for _ in range(3 if quick else 15)
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
    'digits': {
      'cold_seconds': harness.summarize(cold),
      'warm_seconds': harness.summarize(warm),
      'cold_to_warm': harness.ratio(cold, warm),
      'import_seconds': harness.summarize(of_program),
    },
    'compile': {
      'network': f'WRN-{depth}-{widen_factor}, batch {batch_size}',
      'cold': compiled[0],
      'warm': compiled[1],
    },
    'import_milliseconds': harness.summarize(imports),
  }


def tables(results: harness.Results) -> str:
  """The results as Markdown."""
  digits, compiled = results['digits'], results['compile']
  rows = [
    ['`import optax_lcam` beyond `import optax`', _in_ms(results)],
    [
      'imports of the training program',
      harness.spread(digits['import_seconds'], 2) + ' s',
    ],
    [
      'digits, command to two steps and a row, empty cache',
      harness.spread(digits['cold_seconds'], 2) + ' s',
    ],
    [
      'the same, compiled programs cached',
      harness.spread(digits['warm_seconds'], 2) + ' s',
    ],
  ]
  for cache, label in (('cold', 'empty cache'), ('warm', 'cached')):
    seconds = compiled[cache]
    rows.append(
      [
        f'{compiled["network"]}: tracing + compiling the step, {label}',
        f'{seconds["lower_seconds"]:.1f} + {seconds["compile_seconds"]:.1f} s',
      ]
    )
  return harness.table(['from', 'takes'], rows)


def compile_step(
  depth: int, widen_factor: int, batch_size: int
) -> dict[str, float]:
  """Seconds to trace and lower a training step, and to compile it."""
  from benchmarks import workload
  from train import config as config_lib

  config = config_lib.Config(
    dataset='cifar10',
    depth=depth,
    widen_factor=widen_factor,
    batch_size=batch_size,
  )
  prepared = workload.Workload(config, workload.noise(4 * batch_size))
  started = time.perf_counter()
  lowered = prepared.lower()
  then = time.perf_counter()
  lowered.compile()
  return {
    'lower_seconds': then - started,
    'compile_seconds': time.perf_counter() - then,
  }


def _in_ms(results: harness.Results) -> str:
  return harness.spread(results['import_milliseconds'], 1) + ' ms'


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
  # What a user's shell has not set, the program is to set itself.
  # Nor would it compile Python's modules at each start.
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


def _seconds_to_first_row(
  run_dir: pathlib.Path, changes: Mapping[str, str]
) -> float:
  command = [sys.executable, '-m', 'train', 'run', *_RUN]
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
