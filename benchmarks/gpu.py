"""All measurements of a GPU in one command of at most eight minutes.

Measures the peak rates of the device; the optimizer step and the training step
of WRN-28-10, relative to these rates and to PyTorch; the overhead of an epoch
beyond its steps; compilation; the most expensive operations; and the effect of
settings and flags. The most important parts come first. Parts that do not fit
into the time are listed as left out. On a CPU a tiny network is used, as a test
of the program.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any
from unittest import mock

from benchmarks import harness

_REPOSITORY = pathlib.Path(__file__).parents[1]
_SECONDS = 450.0  # leaves half a minute of reserve

_OURS = 'optax-lcam'
_EAGER = 'PyTorch'
_COMPILED = 'PyTorch, torch.compile'

# Candidate flags, the most promising first. Each needs its own process.
_XLA_FLAGS = (
  '--xla_gpu_enable_command_buffer=',
  '--xla_gpu_force_conv_nhwc=true',
  '--xla_gpu_force_conv_nchw=true',
  '--xla_gpu_experimental_enable_conv_fusion=true',
  '--xla_gpu_autotune_level=0',
  '--xla_gpu_enable_latency_hiding_scheduler=true',
  '--xla_gpu_triton_gemm_any=true',
  '--xla_gpu_cudnn_gemm_fusion_level=2',
  '--xla_gpu_exhaustive_tiling_search=true',
)


@dataclasses.dataclass(frozen=True)
class Size:
  """The size of the measurements."""

  depth: int
  widen_factor: int
  batch_sizes: tuple[int, ...]
  matrix: int
  """Side of the matrices."""
  copied: int
  """Number of float32 values to copy."""
  examples: int
  """Images per epoch."""
  steps: int
  """Steps per program."""
  calls: int
  """Programs per turn."""
  rounds: int
  flags: tuple[str, ...]


FULL = Size(28, 10, (128, 256, 512), 8192, 2**28, 50_000, 10, 2, 5, _XLA_FLAGS)
# Convolutions in a loop are slow on a CPU, hence one step per program.
SMALL = Size(10, 1, (8, 16), 256, 2**22, 100, 1, 2, 3, _XLA_FLAGS[:1])

# -------------------------------------------------------------- measurements


def measure(quick: bool) -> harness.Results:
  """Runs the parts, each in its own process, while there is time."""
  import jax

  on_gpu = jax.devices()[0].platform == 'gpu'
  size = FULL if on_gpu and not quick else SMALL
  first, *others = size.batch_sizes
  results: dict[str, Any] = {
    'size': dataclasses.asdict(size),
    'on_gpu': on_gpu,
    'gflop_per_image': flop_per_image(size.depth, size.widen_factor) / 1e9,
  }
  deadline = time.monotonic() + _SECONDS
  left_out: dict[str, str] = {}
  with tempfile.TemporaryDirectory() as cache:

    def run(
      title: str, name: str, settings: Any = None, flags: str = ''
    ) -> dict[str, Any]:
      left = deadline - time.monotonic()
      if left < 5:
        left_out[title] = 'no time was left'
        return {}
      found, error = _run_part(name, size, settings, flags, cache, left)
      if error:
        left_out[title] = error
      return found

    main = {'dtype': 'bfloat16', 'batch_size': first}
    results |= run('peak rates and update', 'ceilings')
    cold = run('the step', 'steps', [{**main, 'profile': True}])
    results['step'] = cold.get(_key(main), {})
    results['compilation'] = {'nothing': _compilation(cold)}
    for kept, drop in (('the program', False), ("XLA's tuning", True)):
      if drop:
        _drop_programs(pathlib.Path(cache))
      again = run(f'compilation, {kept} cached', 'steps', [main])
      results['compilation'][kept] = _compilation(again)
    ours = run(
      'the step in bfloat16',
      'steps',
      [{**main, 'batch_size': n} for n in others],
    )
    theirs = run(
      'PyTorch',
      'torch',
      [
        {'batch_size': n, 'compiled': compiled, 'bfloat16': True}
        for compiled in (False, True)
        for n in size.batch_sizes
      ],
    )
    results |= run('an epoch', 'epoch', main)
    ours |= run(
      'the step in float32',
      'steps',
      [{'dtype': 'float32', 'batch_size': n} for n in size.batch_sizes],
    )
    results['steps'] = _of_all(cold | ours, theirs)
    variants: dict[str, dict[str, Any]] = {
      'one step in a program': {'steps': 1},
      'ten times as many steps in one': {'steps': 10 * size.steps},
      'state not donated': {'donate': False},
      'weights in bfloat16 too': {'param_dtype': 'bfloat16'},
      'activations recomputed (--remat)': {'remat': True},
      'deterministic operations (--deterministic)': {'deterministic': True},
    }
    found = run(
      'settings',
      'steps',
      [{**main, **changes} for changes in variants.values()],
    )
    results['variants'] = {
      name: found[_key({**main, **changes})]
      for name, changes in variants.items()
      if _key({**main, **changes}) in found
    }
    for flag in size.flags:
      made = run(flag, 'steps', [main], flag)
      results['variants'] |= {f'`{flag}`': step for step in made.values()}
  results['left_out'] = left_out
  results['seconds'] = time.monotonic() - deadline + _SECONDS
  return results


def tables(results: harness.Results) -> str:
  """The results as Markdown."""
  parts = [
    _ceilings_table(results),
    _steps_table(results),
    _epoch_table(results),
    _compilation_table(results),
    _operations_table(results),
    _variants_table(results),
  ]
  if results['left_out']:
    parts.append(
      'Left out: '
      + '; '.join(
        f'{name} ({why})' for name, why in results['left_out'].items()
      )
      + '.'
    )
  return '\n\n'.join(part for part in parts if part)


def draw(results: harness.Results, path: pathlib.Path) -> None:
  """Draws images per second, operations and settings."""
  import matplotlib.pyplot as plt

  # The colors of Okabe and Ito, safe for color blindness and in gray.
  colors = ['#0072B2', '#56B4E9', '#E69F00', '#D55E00']
  figure, (left, middle, right) = plt.subplots(
    1, 3, figsize=(15, 4.5), width_ratios=(1.2, 1, 1), layout='constrained'
  )
  batches = results['size']['batch_sizes']
  steps = results['steps']
  width = 0.8 / max(1, len(steps))
  for i, (name, made) in enumerate(steps.items()):
    shown = [(j, made[str(n)]) for j, n in enumerate(batches) if str(n) in made]
    left.bar(
      [j + (i - (len(steps) - 1) / 2) * width for j, _ in shown],
      [step['images_per_second']['median'] for _, step in shown],
      width,
      label=name,
      color=colors[i % len(colors)],
      edgecolor='black',
      linewidth=0.5,
      hatch=('', '//', '..', 'xx')[i % 4],
    )
  left.set_xticks(range(len(batches)), [str(n) for n in batches])
  left.set_xlabel('batch size')
  left.set_ylabel('images/s')
  left.set_title(f'Training, {_network(results)}')
  left.legend(
    fontsize=8, ncols=2, loc='upper center', bbox_to_anchor=(0.5, -0.14)
  )

  operations = results['step'].get('operations', [])[:10]
  _draw_bars(
    middle,
    [f'{row["name"]}\n({row["kind"]})' for row in operations],
    [1e3 * row['seconds'] for row in operations],
  )
  middle.set_xlabel('ms per step')
  middle.set_title('Most expensive operations')

  ratios = _variant_ratios(results)
  _draw_bars(
    right,
    [
      name.replace('`', '').replace('--xla_gpu_', '').replace(' (', '\n(')
      for name in ratios
    ],
    [x['median'] for x in ratios.values()],
  )
  right.axvline(1, color='black', linewidth=1, linestyle='--')
  right.set_xlabel('speed relative to the default')
  right.set_title('Settings and XLA flags')
  figure.savefig(path, dpi=130)
  plt.close(figure)


def _draw_bars(axes: Any, names: list[str], values: list[float]) -> None:
  places = range(len(names))
  axes.barh(places, values, color='#0072B2', edgecolor='black', linewidth=0.5)
  axes.set_yticks(places, names, fontsize=7)
  axes.invert_yaxis()


def flop_per_image(depth: int, widen_factor: int, size: int = 32) -> float:
  """FLOP of a training step per image: three times those of the forward pass.

  Counts the convolutions; a multiplication and an addition are two FLOP.
  """

  def conv(kernel: int, channels: int, out_channels: int, side: int) -> float:
    return 2 * kernel**2 * channels * out_channels * side**2

  channels = 16
  total = conv(3, 3, channels, size)
  for group, side in ((16, size), (32, size // 2), (64, size // 4)):
    out_channels = group * widen_factor
    for _ in range((depth - 4) // 6):
      total += conv(3, channels, out_channels, side)
      total += conv(3, out_channels, out_channels, side)
      if channels != out_channels:
        total += conv(1, channels, out_channels, side)
      channels = out_channels
  return 3 * total


# ------------------------------------------------------- tables of the parts


def _ceilings_table(results: harness.Results) -> str:
  if 'update' not in results:
    return ''
  rows = [
    ['device copy', f'{harness.spread(results["copy"], 0, 1e-9)} GB/s', ''],
    [
      f'bfloat16 product of {results["size"]["matrix"]}² matrices',
      f'{harness.spread(results["product"], 1, 1e-12)} TFLOP/s',
      '',
    ],
  ]
  for name, row in results['update'].items():
    share = row['bytes_per_second']['median'] / results['copy']['median']
    rows.append(
      [
        f'{name}, {results["parameters"]:,} parameters',
        f'{harness.spread(row["bytes_per_second"], 0, 1e-9)} GB/s,'
        f' {100 * share:.0f} % of the copy',
        harness.spread(row['to_sgd'], 3),
      ]
    )
  return harness.table(
    ['peak rates and the update', 'rate', 'time / optax.sgd'], rows
  )


def _steps_table(results: harness.Results) -> str:
  rows = []
  for name, made in results['steps'].items():
    for batch_size, step in made.items():
      rate = step['images_per_second']
      share = ''
      if 'product' in results:
        flops = rate['median'] * 1e9 * results['gflop_per_image']
        share = f'{100 * flops / results["product"]["median"]:.1f}'
      peak = step.get('peak_bytes')
      rows.append(
        [
          name,
          batch_size,
          harness.spread(rate, 0),
          share,
          f'{peak / 1e9:.2f}' if peak else '–',
        ]
      )
  if not rows:
    return ''
  header = [
    _network(results),
    'batch',
    'images/s',
    '% of matrix product',
    'peak GB',
  ]
  return harness.table(header, rows)


def _epoch_table(results: harness.Results) -> str:
  if 'epoch' not in results:
    return ''
  epoch = results['epoch']
  return harness.table(
    [f'epoch of {epoch["steps"]} steps', 'images/s', 'bare / this'],
    [
      ['bare steps', harness.spread(epoch['bare'], 0), '1'],
      [
        '`python -m train`, training',
        harness.spread(epoch['loop'], 0),
        harness.spread(epoch['bare_to_loop'], 3),
      ],
      [
        'the same with evaluation and metrics',
        harness.spread(epoch['whole'], 0),
        harness.spread(epoch['bare_to_whole'], 3),
      ],
    ],
  )


def _compilation_table(results: harness.Results) -> str:
  rows = [
    [kept, f'{made["lower_seconds"]:.1f} + {made["compile_seconds"]:.1f} s']
    for kept, made in results['compilation'].items()
    if made
  ]
  if not rows:
    return ''
  return harness.table(['cached before', 'tracing + compiling'], rows)


def _operations_table(results: harness.Results) -> str:
  step = results['step']
  if not step.get('operations'):
    return ''
  rows = [
    [
      f'`{row["name"]}`',
      row['kind'],
      f'{1e3 * row["seconds"]:.3f}',
      f'{100 * row["share"]:.1f}',
    ]
    for row in step['operations']
  ]
  kinds = [
    [f'total of {kind}', '', f'{1e3 * seconds:.3f}', f'{100 * share:.1f}']
    for kind, (seconds, share) in step['kinds'].items()
  ]
  return harness.table(
    ['operation', 'kind', 'ms per step', '% of total'], [*kinds, *rows]
  )


def _variants_table(results: harness.Results) -> str:
  rows = []
  ratios = _variant_ratios(results)
  for name, step in results.get('variants', {}).items():
    rows.append(
      [
        name,
        harness.spread(step['images_per_second'], 0),
        harness.spread(ratios[name], 3) if name in ratios else '',
        f'{step["compile_seconds"]:.1f}',
        f'{step["planned_bytes"] / 1e9:.2f}',
      ]
    )
  if not rows:
    return ''
  return harness.table(
    ['setting', 'images/s', 'speed / default', 'compiling, s', 'planned GB'],
    rows,
  )


def _variant_ratios(results: harness.Results) -> dict[str, dict[str, float]]:
  if 'images_per_second' not in results['step']:
    return {}
  base = results['step']['images_per_second']['median']
  return {
    name: {
      key: step['images_per_second'][key] / base
      for key in ('median', 'lower_quartile', 'upper_quartile')
    }
    for name, step in results.get('variants', {}).items()
  }


def _network(results: harness.Results) -> str:
  size = results['size']
  return f'WRN-{size["depth"]}-{size["widen_factor"]}'


# ------------------------------------------------- the process of each part


def _run_part(
  name: str,
  size: Size,
  settings: Any,
  flags: str,
  cache: str,
  seconds: float,
) -> tuple[dict[str, Any], str | None]:
  """The results of a part, complete or up to the time limit."""
  arguments = json.dumps([name, dataclasses.asdict(size), settings])
  changes = {
    'JAX_COMPILATION_CACHE_DIR': cache,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} {flags}'.strip(),
    # Results are written to a pipe.
    'PYTHONUNBUFFERED': '1',
  }
  kept = {
    key: value
    for key, value in os.environ.items()
    if key != 'XLA_PYTHON_CLIENT_PREALLOCATE'
  }
  error = None
  with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
    process = subprocess.Popen(
      [sys.executable, '-m', 'benchmarks.gpu', '--part', arguments],
      cwd=_REPOSITORY,
      env=kept | changes,
      stdout=out,
      stderr=err,
    )
    try:
      if process.wait(seconds):
        err.seek(0)
        lines = err.read().strip().splitlines() or ['no message']
        error = f'{lines[-1][:200]}'
    except subprocess.TimeoutExpired:
      error = 'no time was left'
    finally:
      process.kill()
      process.wait()
    out.seek(0)
    found: dict[str, Any] = {}
    for line in out.read().splitlines():
      if line.startswith('{') and line.endswith('}'):
        found |= json.loads(line)
  return found, error


def _part(arguments: str) -> None:
  """Runs a part in its process: prints one JSON object per result."""
  name, size, settings = json.loads(arguments)
  parts: dict[str, Callable[[Size, Any], Iterator[dict[str, Any]]]] = {
    'ceilings': _ceilings,
    'steps': _steps,
    'torch': _torch,
    'epoch': _epoch,
  }
  size['batch_sizes'], size['flags'] = map(
    tuple, (size['batch_sizes'], size['flags'])
  )
  for found in parts[name](Size(**size), settings):
    print(json.dumps(found, allow_nan=False))


def _ceilings(size: Size, settings: Any) -> Iterator[dict[str, Any]]:
  del settings
  import jax
  import jax.numpy as jnp

  from benchmarks import optimizer_step

  calls = size.calls * size.steps
  numbers = jnp.ones(size.copied, jnp.float32)
  copy = jax.jit(jnp.copy).lower(numbers).compile()
  matrix = jax.random.normal(
    jax.random.key(0), (size.matrix, size.matrix), jnp.bfloat16
  )
  product = jax.jit(jnp.dot).lower(matrix, matrix).compile()

  def repeated(call: Callable[[], object]) -> Callable[[], object]:
    # A device works through a queue and does not wait between calls.
    return lambda: jax.block_until_ready([call() for _ in range(calls)])

  samples = harness.interleave(
    {
      'copy': repeated(lambda: copy(numbers)),
      'product': repeated(lambda: product(matrix, matrix)),
    },
    rounds=2 * size.rounds,
  )
  yield {
    'copy': harness.rate(8 * size.copied * calls, samples['copy']),
    'product': harness.rate(2 * size.matrix**3 * calls, samples['product']),
  }

  start = optimizer_step.make_params(size.depth, size.widen_factor)
  parameters = sum(leaf.size for leaf in start)
  made = optimizer_step.make_optimizers()
  names = ('optax_lcam.lcam_sgd', optimizer_step.BASELINE)
  steps = 10 * size.steps
  samples = harness.interleave(
    {
      # Many steps per program: a single one is shorter than its dispatch.
      name: optimizer_step.make_step(made[name], start, steps)[0]
      for name in names
    },
    rounds=2 * size.rounds,
  )
  # Reads parameters, gradients and trace; writes parameters and trace.
  moved = 5 * 4 * parameters * steps
  yield {
    'parameters': parameters,
    'update': {
      name: {
        'bytes_per_second': harness.rate(moved, samples[name]),
        'to_sgd': harness.ratio(samples[name], samples[names[1]]),
      }
      for name in names
    },
  }


def _steps(
  size: Size, settings: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
  import jax

  from benchmarks import workload
  from train import config as config_lib

  for spec in settings:
    config = config_lib.Config(
      dataset='cifar10',
      depth=size.depth,
      widen_factor=size.widen_factor,
      batch_size=spec['batch_size'],
      dtype=spec['dtype'],
      remat=spec.get('remat', False),
    )
    prepared = workload.of_run(
      config,
      workload.noise(4 * spec['batch_size']),
      param_dtype=spec.get('param_dtype', 'float32'),
    )
    steps = spec.get('steps', size.steps)
    started = time.perf_counter()
    lowered = prepared.lower_train(steps=steps, donate=spec.get('donate', True))
    then = time.perf_counter()
    program = lowered.compile(
      {'xla_gpu_deterministic_ops': spec.get('deterministic', False)}
    )
    compiled = time.perf_counter()
    plan = program.memory_analysis()
    advance = workload.start(prepared, program)
    samples = harness.interleave(
      {'step': lambda advance=advance: advance(1)},  # type: ignore[misc]
      rounds=size.rounds,
      calls=max(1, size.calls * size.steps // steps),
      seconds=15,
    )
    found = {
      'images_per_second': harness.rate(
        steps * spec['batch_size'], samples['step']
      ),
      'lower_seconds': then - started,
      'compile_seconds': compiled - then,
      'planned_bytes': plan.argument_size_in_bytes
      + plan.output_size_in_bytes
      - plan.alias_size_in_bytes
      + plan.temp_size_in_bytes,
    }
    statistics = jax.devices()[0].memory_stats() or {}
    if spec is settings[0] and 'peak_bytes_in_use' in statistics:
      # The peak of the process so far; of this program only if it is the first.
      found['peak_bytes'] = statistics['peak_bytes_in_use']
    if spec.get('profile'):
      one = prepared.lower_train().compile()
      found |= profile(workload.start(prepared, one), one.as_text())
    yield {_key(spec): found}


def _torch(
  size: Size, settings: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
  import importlib.util

  if importlib.util.find_spec('torch') is None:
    raise SystemExit('PyTorch is not installed')
  import torch

  from benchmarks import torch_step
  from benchmarks import workload

  has_gpu = torch.cuda.is_available()
  if not has_gpu and size.matrix == FULL.matrix:
    raise SystemExit('PyTorch finds no GPU')
  torch.backends.cudnn.benchmark = True
  calls = size.calls * size.steps
  for spec in settings:
    if spec['compiled'] and not has_gpu:
      continue  # On a CPU it would need a C++ compiler.
    batch_size = spec['batch_size']
    if has_gpu:
      torch.cuda.reset_peak_memory_stats()
    advance = torch_step.make_steps(
      torch_step.make_model(
        size.depth, size.widen_factor, 'cuda' if has_gpu else 'cpu'
      ),
      workload.noise(4 * batch_size).train,
      batch_size,
      bfloat16=spec['bfloat16'],
      compiled=spec['compiled'],
    )
    started = time.perf_counter()
    advance(1)
    first = time.perf_counter() - started
    samples = harness.interleave(
      {'step': lambda advance=advance: advance(calls)},  # type: ignore[misc]
      rounds=size.rounds,
      seconds=15,
    )
    found: dict[str, Any] = {
      'images_per_second': harness.rate(calls * batch_size, samples['step']),
      'compile_seconds': first,
    }
    if has_gpu:
      found['peak_bytes'] = torch.cuda.max_memory_allocated()
    yield {_key(spec): found}


def _epoch(size: Size, spec: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
  from benchmarks import loop_overhead
  from benchmarks import workload
  from train import config as config_lib
  from train import data

  epochs = 3 if size.steps > 1 else 2
  dataset = workload.noise(size.examples)
  config = config_lib.Config(
    dataset='cifar10',
    depth=size.depth,
    widen_factor=size.widen_factor,
    **spec,
  )
  # The content of the images does not affect the time, so CIFAR is not needed.
  with mock.patch.object(data, 'load', return_value=dataset):
    (_, *rows), _, _ = loop_overhead.run(config, epochs)

  prepared = workload.of_run(config, dataset)
  epoch = workload.start_epochs(prepared)
  samples = harness.interleave({'epoch': epoch}, rounds=epochs)['epoch']
  bare = harness.rate(size.examples, samples)
  looped = harness.summarize([row['images_per_second'] for row in rows])
  # A row is written before its checkpoint, so its time excludes it.
  whole = harness.summarize([size.examples / row['seconds'] for row in rows])
  yield {
    'epoch': {
      'steps': prepared.steps_per_epoch,
      'bare': bare,
      'loop': looped,
      'whole': whole,
      'bare_to_loop': _quotient(bare, looped),
      'bare_to_whole': _quotient(bare, whole),
    }
  }


def _quotient(
  a: Mapping[str, float], b: Mapping[str, float]
) -> dict[str, float]:
  """The ratio of two independent measurements, with the widest quartiles."""
  return {
    'median': a['median'] / b['median'],
    'lower_quartile': a['lower_quartile'] / b['upper_quartile'],
    'upper_quartile': a['upper_quartile'] / b['lower_quartile'],
  }


# ------------------------------------------------- the operations of a step

_STEPS_PROFILED = 3
_MOST_OPERATIONS = 15


def profile(advance: Callable[[int], None], text: str) -> dict[str, Any]:
  """The operations of a step, from a trace of several steps.

  Args:
    advance: Runs n steps, each one run of the program.
    text: The HLO text of the program.

  Returns:
    ``operations``, the most expensive first, and ``kinds``, the total seconds
    and share of each kind of operation. If operations run concurrently, as on a
    CPU, their times add up to more than that of the step.
  """
  import jax

  advance(1)
  with tempfile.TemporaryDirectory() as directory:
    with jax.profiler.trace(directory):
      advance(_STEPS_PROFILED)
    (path,) = pathlib.Path(directory).rglob('*.xplane.pb')
    data = jax.profiler.ProfileData.from_file(str(path))
  seconds: dict[str, float] = {}
  for name, taken in _operations_of(data):
    seconds[name] = seconds.get(name, 0) + taken / _STEPS_PROFILED
  total = sum(seconds.values()) or 1.0
  named = find_kinds(text)
  kinds: dict[str, float] = {}
  rows = []
  for name, taken in sorted(seconds.items(), key=lambda item: -item[1]):
    is_convolution = name.startswith('conv') and 'convert' not in name
    kind = named.get(name, 'convolution' if is_convolution else 'other')
    kinds[kind] = kinds.get(kind, 0) + taken
    rows.append(
      {'name': name, 'kind': kind, 'seconds': taken, 'share': taken / total}
    )
  return {
    'operations': rows[:_MOST_OPERATIONS],
    'kinds': {
      kind: (taken, taken / total)
      for kind, taken in sorted(kinds.items(), key=lambda item: -item[1])
    },
  }


def _operations_of(data: Any) -> Iterator[tuple[str, float]]:
  """Name and seconds of each operation that ran, on the GPU if there is one."""
  planes = list(data.planes)
  on_gpu = [plane for plane in planes if plane.name.startswith('/device:GPU')]
  for plane in on_gpu or planes:
    for line in plane.lines:
      if on_gpu and not line.name.startswith('Stream'):
        continue  # The other lines repeat the same.
      for event in line.events:
        name = dict(event.stats).get('hlo_op')
        # These only contain others.
        if name and not re.match(r'(call|while|conditional)\b', name):
          yield name, 1e-9 * event.duration_ns


_COMPUTATION = re.compile(r'^(?:ENTRY )?%?([\w.\-]+) .*\{$')
_OPERATION = re.compile(r'^ +(?:ROOT )?%?([\w.\-]+) = ')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CALLS = re.compile(r'calls=%?([\w.\-]+)')


def find_kinds(text: str) -> dict[str, str]:
  """The purpose of each operation of a compiled program.

  Args:
    text: The HLO text of the program.

  Returns:
    The kind of each operation with a source location, its own or that of the
    computation that it calls.
  """
  own: dict[str, str] = {}
  called: dict[str, str] = {}
  inside: dict[str, list[str]] = {}
  computation = ''
  for line in text.splitlines():
    if match := _COMPUTATION.match(line):
      computation = match[1]
    if not (match := _OPERATION.match(line)):
      continue
    if source := _OP_NAME.search(line):
      own[match[1]] = source[1]
      inside.setdefault(computation, []).append(source[1])
    if calls := _CALLS.search(line):
      called[match[1]] = calls[1]
  kinds = {name: _kind([source]) for name, source in own.items()}
  for name, computation in called.items():
    sources = inside.get(computation, [])
    is_convolution = any('conv_general' in x for x in sources)
    if sources and (is_convolution or name not in kinds):
      kinds[name] = _kind(sources)
  return kinds


def _kind(sources: Sequence[str]) -> str:
  backward = any('transpose(jvp' in x for x in sources)
  if any('conv_general_dilated' in x for x in sources):
    return 'convolution, backward' if backward else 'convolution, forward'
  if backward:
    return 'norm and ReLU, backward'
  if any('jvp(' in x for x in sources):
    return 'norm and ReLU, forward'
  return 'images and optimizer'


# --------------------------------------------------------------------- helpers


def _key(spec: Mapping[str, Any]) -> str:
  """Names a measurement in the output of a part."""
  return json.dumps(
    {k: v for k, v in spec.items() if k != 'profile'}, sort_keys=True
  )


def _compilation(found: Mapping[str, Any]) -> dict[str, float]:
  return {
    key: step[key]
    for step in found.values()
    for key in ('lower_seconds', 'compile_seconds')
  }


def _drop_programs(cache: pathlib.Path) -> None:
  """Deletes the compiled programs but not the autotuning results of XLA."""
  for path in cache.iterdir():
    if path.is_file():
      path.unlink()


def _of_all(
  ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
  """Steps by framework and batch size."""
  rows: dict[str, dict[str, Any]] = {}
  for key, step in {**ours, **theirs}.items():
    spec = json.loads(key)
    if 'compiled' in spec:
      name = _COMPILED if spec['compiled'] else _EAGER
      name += ', bfloat16'
    else:
      name = f'{_OURS}, {spec["dtype"]}'
    rows.setdefault(name, {})[str(spec['batch_size'])] = step
  return rows


if __name__ == '__main__':
  if sys.argv[1:2] == ['--part']:
    from train.devices import jax_environment

    jax_environment.prepare()
    _part(sys.argv[2])
  else:
    # The parts need the memory.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
    harness.main('gpu', measure, tables, draw=draw)
