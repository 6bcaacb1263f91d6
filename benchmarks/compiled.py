"""The program of a run, as the compilers for TPUs and GPUs produce it.

The compilers run on any machine, without the accelerator. Counts and memory are
those of the compiled program, and cycles are estimates of the compiler. Nothing
is executed, and no time is measured on a device. Without `--target`, compiles
the programs of the README.

The JSON file has the fields of :func:`inspect`.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Annotated, Any

from benchmarks import compilation
from benchmarks import harness
from benchmarks import targets
from train import command_line
from train import config as config_lib
from train import errors

_PROG = 'python -m benchmarks.compiled'
_REPOSITORY = pathlib.Path(__file__).parents[1]

Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Flags(config_lib.Groups):
  """Compile the program of a run for a TPU or GPU that need not be present, and
  count what it consists of.
  """

  target: Annotated[
    str | None, command_line.default('the programs of the README')
  ] = None
  """The devices, such as tpu:v5e:1x1, tpu:v5e:4x4, tpu:v6e:2x2, gpu:h100 or
  gpu:h100:8."""
  steps: Annotated[
    int | None, command_line.default('as many as in the run')
  ] = None
  """Training steps in one dispatch."""
  out: Annotated[pathlib.Path | None, command_line.default('none')] = None
  """The JSON file to write."""


@dataclasses.dataclass(frozen=True)
class Program:
  """A program of the README."""

  target: str
  settings: Settings
  steps: int


def _wide(**settings: Any) -> Settings:
  return {
    'dataset': 'cifar100',
    'depth': 28,
    'widen_factor': 10,
    'batch_size': 128,
    **settings,
  }


def _thin(**settings: Any) -> Settings:
  return _wide(depth=10, widen_factor=1, **settings)


# The batch of several devices has 128 images per device.
PROGRAMS: Mapping[str, Program] = {
  'H100, WRN-10-1': Program('gpu:h100', _thin(), 10),
  'H100 ×8, WRN-10-1': Program('gpu:h100:8', _thin(batch_size=1024), 10),
  'H100, WRN-28-10': Program('gpu:h100', _wide(), 10),
  'H100, WRN-28-10, one step': Program('gpu:h100', _wide(), 1),
  'H100, WRN-28-10, --remat': Program('gpu:h100', _wide(remat=True), 10),
  'H100, WRN-28-10, float32': Program('gpu:h100', _wide(dtype='float32'), 10),
  'H100, WRN-28-10, float32, --remat': Program(
    'gpu:h100', _wide(dtype='float32', remat=True), 10
  ),
  'H100 ×8, WRN-28-10': Program('gpu:h100:8', _wide(batch_size=1024), 10),
  'H100 ×8, WRN-28-10, --batch-norm device': Program(
    'gpu:h100:8', _wide(batch_size=1024, batch_norm='device'), 10
  ),
  'H100 ×8, WRN-28-10, --remat': Program(
    'gpu:h100:8', _wide(batch_size=1024, remat=True), 10
  ),
  'v5e, WRN-10-1': Program('tpu:v5e:1x1', _thin(), 10),
  'v5e-16, WRN-10-1': Program('tpu:v5e:4x4', _thin(batch_size=2048), 10),
  'v6e-4, WRN-10-1': Program('tpu:v6e:2x2', _thin(batch_size=512), 10),
  'v5e, WRN-28-10': Program('tpu:v5e:1x1', _wide(), 10),
  'v5e-16, WRN-28-10': Program('tpu:v5e:4x4', _wide(batch_size=2048), 10),
  'v6e-4, WRN-28-10': Program('tpu:v6e:2x2', _wide(batch_size=512), 10),
}
_QUICK = ('H100, WRN-10-1',)

# ----------------------------------------------------------------- compilation


def inspect(
  target: str, config: config_lib.Config, steps: int | None = None
) -> dict[str, Any]:
  """Compiles the program of a run for a target, in a separate process.

  Args:
    target: See :func:`benchmarks.targets.get`.
    config: Settings of the run. The images of CIFAR are not needed.
    steps: Training steps in one dispatch. Default: as many as in the run.

  Returns:
    A JSON-compatible dict. For the program: ``target``, ``devices``,
    ``compile_seconds``, ``compile_cpu_seconds``; bytes on one device:
    ``argument_bytes``, ``temporary_bytes``, ``peak_bytes``; ``while_loops``;
    ``large_copies``, the number of kernels that only copy or transpose more
    than 1 MB, and ``large_copies_in_step``, the number of those in each step.
    For one step on one device: ``flops`` of convolutions and products,
    ``bytes`` to and from memory, ``kernels``, ``convolutions``, ``collectives``
    (``kind``, ``dtype``, ``bytes`` of each, ``count``), and the
    ``all_reduces`` among them; ``update``, how the weights are computed;
    ``exact_mean``, the float32 additions and subtractions for the mean of
    LCAM; ``limits``, the roofline times of the kernels.

  Raises:
    UsageError: The target, the settings or the steps are invalid, or a package
      is missing.
    RunError: The process of the compiler failed.
  """
  found = targets.get(target)
  reason = found.why_not()
  if reason is not None:
    raise errors.UsageError(reason)
  config_lib.check(config)
  if steps is not None and not 1 <= steps <= config_lib.MOST_STEPS:
    raise errors.UsageError(
      f'--steps must be from 1 to {config_lib.MOST_STEPS}, got {steps}.'
    )
  with tempfile.TemporaryDirectory() as directory:
    request = pathlib.Path(directory) / 'request.json'
    answer = pathlib.Path(directory) / 'answer.json'
    asked = {
      'target': target,
      'config': config_lib.to_json(config),
      'steps': steps,
    }
    request.write_text(json.dumps(asked), encoding='utf-8')
    ended = subprocess.run(
      [sys.executable, '-m', 'benchmarks.compilation', request, answer],
      cwd=_REPOSITORY,
      env={**os.environ, **found.environment},
      capture_output=True,
      text=True,
      check=False,
    )
    result = (
      json.loads(answer.read_text(encoding='utf-8')) if answer.exists() else {}
    )
  if 'error' in result:
    raise errors.UsageError(result['error'])
  if ended.returncode or not result:
    last = (ended.stderr.strip().splitlines() or ['no message'])[-1]
    raise errors.RunError(
      f'The compiler for {target} ended with code {ended.returncode}: {last}'
    )
  return result


def of_program(name: str) -> dict[str, Any]:
  """Compiles a program of the README."""
  program = PROGRAMS[name]
  config = config_lib.Config(**program.settings)
  return inspect(program.target, config, program.steps)


def recorded() -> dict[str, dict[str, Any]]:
  """The recorded results for the programs of the README, by name.

  Raises:
    UsageError: There is no record.
  """
  path = harness.RECORDS / 'compiled.json'
  try:
    record = json.loads(path.read_text(encoding='utf-8'))
  except OSError as error:
    raise errors.UsageError(
      f'{path.name} is missing in {path.parent}; `{_PROG}` writes it.'
    ) from error
  return record['results']['programs']


def measure(quick: bool) -> harness.Results:
  """Compiles the programs of the README."""
  names = _QUICK if quick else tuple(PROGRAMS)
  programs = {}
  for i, name in enumerate(names, 1):
    programs[name] = of_program(name)
    seconds = programs[name]['compile_cpu_seconds']
    print(
      f'{i}/{len(names)} {name}: {seconds:.0f} CPU s',
      file=sys.stderr,
      flush=True,
    )
  return {'programs': programs}


# ---------------------------------------------------------------------- tables


def tables(results: harness.Results) -> str:
  """The results as Markdown."""
  programs = results['programs']
  before = _before()
  parts = [_memory(programs, before), _computing(programs)]
  several = {n: p for n, p in programs.items() if p['devices'] > 1}
  if several:
    parts.append(_collectives(several))
  parts += [_convolutions(programs), _update(programs)]
  parts += [_against_limits(programs), _kinds(programs)]
  for name, program in programs.items():
    if name in _SHOWN_KERNELS:
      parts.append(_kernels(name, program))
  versions = next(iter(programs.values()))['versions']
  parts.append(
    'Compiled with '
    + ', '.join(
      f'{name} {version}'
      for name, version in sorted(
        {
          **versions,
          **{n: v for p in programs.values() for n, v in p['versions'].items()},
        }.items()
      )
    )
    + '.'
  )
  return '\n\n'.join(parts)


_SHOWN_KERNELS = ('H100, WRN-28-10', 'v5e-16, WRN-28-10')


def _before() -> dict[str, dict[str, Any]]:
  path = harness.RECORDS / 'compiled_before.json'
  if not path.exists():
    return {}
  return json.loads(path.read_text(encoding='utf-8'))['results']['programs']


def _memory(programs: Mapping[str, Any], before: Mapping[str, Any]) -> str:
  rows: list[list[object]] = []
  for name, program in programs.items():
    for title, p in ((f'{name}, before', before.get(name)), (name, program)):
      if p is not None:
        rows.append(
          [
            title,
            p['batch_size'],
            p['steps'],
            f'{p["compile_cpu_seconds"]:.0f}',
            f'{p["argument_bytes"] / 1e9:.3f}',
            f'{p["temporary_bytes"] / 1e9:.3f}',
            f'{p["peak_bytes"] / 1e9:.3f}',
            p['while_loops'],
            f'{p["large_copies"]} / {p["large_copies_in_step"]}',
          ]
        )
  return harness.table(
    [
      'per device',
      'batch',
      'steps',
      'CPU s to compile',
      'arguments GB',
      'temporaries GB',
      'peak GB',
      'loops',
      'copies over 1 MB / per step',
    ],
    rows,
  )


def _computing(programs: Mapping[str, Any]) -> str:
  return harness.table(
    [
      'one step on one device',
      'kernels',
      'GFLOP',
      'MB to and from memory',
      'roofline, ms',
      'other than convolutions, % of ms',
      'M cycles',
      'other than convolutions, % of cycles',
      'additions, subtractions for the mean loss',
    ],
    [
      [
        name,
        p['kernels'],
        f'{p["flops"] / 1e9:,.1f}',
        f'{p["bytes"] / 1e6:,.0f}',
        f'{1e3 * p["limits"]["seconds"]:.3f}',
        _percent_left(
          p['limits']['seconds_by_kind'].get(compilation.CONVOLUTIONS, 0),
          p['limits']['seconds'],
        ),
        '–'
        if p['limits']['cycles'] is None
        else f'{p["limits"]["cycles"] / 1e6:.2f}',
        '–'
        if p['limits']['cycles'] is None
        else _percent_left(
          p['limits']['cycles_by_kind'].get(compilation.CONVOLUTIONS, 0),
          p['limits']['cycles'],
        ),
        f'{p["exact_mean"]["additions"]}, {p["exact_mean"]["subtractions"]}',
      ]
      for name, p in programs.items()
    ],
  )


def _percent(part: float, whole: float) -> str:
  return f'{100 * part / whole:.0f}'


def _percent_left(part: float, whole: float) -> str:
  return _percent(whole - part, whole)


def _collectives(programs: Mapping[str, Any]) -> str:
  rows: list[list[object]] = []
  for name, p in programs.items():
    norms = [c for c in p['collectives'] if c['of_batch_norm']]
    others = [c for c in p['collectives'] if not c['of_batch_norm']]
    rows.append(
      [
        name,
        sum(c['count'] for c in p['collectives']),
        sum(c['count'] for c in norms),
        f'{sum(c["count"] * c["bytes"] for c in norms) / 1e3:.0f}',
        ', '.join(
          f'{c["count"]} {c["dtype"]} {c["bytes"] / 1e6:.2f} MB' for c in others
        ),
        ', '.join(sorted({c['kind'] for c in p['collectives']})),
      ]
    )
  return harness.table(
    [
      'collectives per step',
      'total',
      'batch norm',
      'kB for batch norm',
      'others',
      'kinds',
    ],
    rows,
  )


def _convolutions(programs: Mapping[str, Any]) -> str:
  return harness.table(
    ['convolutions and products', 'count and dtype of each call'],
    [
      [
        name,
        ', '.join(
          f'{c["count"]} `{c["call"]}` {c["dtype"]}' for c in p['convolutions']
        ),
      ]
      for name, p in programs.items()
    ],
  )


def _update(programs: Mapping[str, Any]) -> str:
  return harness.table(
    [
      'update of the weights',
      'tensors',
      'MB',
      'kernels',
      'fused with a gradient',
      'passes of the separate kernels',
    ],
    [
      [
        name,
        p['update']['tensors'],
        f'{p["update"]["tensor_bytes"] / 1e6:.1f}',
        p['update']['kernels'],
        p['update']['in_gradients'],
        '–'
        if p['update']['passes'] is None
        else f'{p["update"]["passes"]:.2f}',
      ]
      for name, p in programs.items()
    ],
  )


def _against_limits(programs: Mapping[str, Any]) -> str:
  return harness.table(
    [
      'roofline, ms per step',
      'sum of the kernels',
      'FLOP only',
      'bytes only',
      'memory-bound kernels, %',
    ],
    [
      [
        name,
        f'{1e3 * p["limits"]["seconds"]:.3f}',
        f'{1e3 * p["flops"] / p["limits"]["chip_flops"]:.3f}',
        f'{1e3 * p["bytes"] / p["limits"]["chip_bytes"]:.3f}',
        _percent(p['limits']['bound_by_bytes_seconds'], p['limits']['seconds']),
      ]
      for name, p in programs.items()
    ],
  )


def _kinds(programs: Mapping[str, Any]) -> str:
  """The share of each kind of kernel, by roofline time or cycles."""
  shares = {
    name: p['limits']['cycles_by_kind'] or p['limits']['seconds_by_kind']
    for name, p in programs.items()
  }
  kinds = sorted({kind for of_one in shares.values() for kind in of_one})
  return harness.table(
    ['% of a step', 'by', *kinds],
    [
      [
        name,
        'roofline' if programs[name]['limits']['cycles'] is None else 'cycles',
        *(
          f'{100 * of_one.get(kind, 0) / sum(of_one.values()):.1f}'
          for kind in kinds
        ),
      ]
      for name, of_one in shares.items()
    ],
  )


def _kernels(name: str, program: Mapping[str, Any]) -> str:
  limits = program['limits']
  return harness.table(
    [
      f'{name}: the most expensive kernels',
      'count',
      'GFLOP each',
      'MB each',
      'roofline, µs',
      '% of total',
      'k cycles',
      '% of total',
    ],
    [
      [
        f'{kernel["operation"] or kernel["name"]}',
        kernel['count'],
        f'{kernel["flops"] / 1e9:.1f}',
        f'{kernel["bytes"] / 1e6:.1f}',
        f'{1e6 * kernel["seconds"]:.1f}',
        f'{100 * kernel["seconds"] / limits["seconds"]:.1f}',
        *(
          ('–', '–')
          if limits['cycles'] is None
          else (
            f'{kernel["cycles"] / 1e3:.0f}',
            f'{100 * kernel["cycles"] / limits["cycles"]:.1f}',
          )
        ),
      ]
      for kernel in limits['most_expensive']
    ],
  )


def table(result: Mapping[str, Any]) -> str:
  """One program as Markdown."""
  name = f'{result["network"]}, {result["target"]}'
  programs = {name: result}
  parts = [_memory(programs, {}), _computing(programs)]
  if result['devices'] > 1:
    parts.append(_collectives(programs))
  parts += [_convolutions(programs), _update(programs), _kinds(programs)]
  parts.append(_kernels(name, result))
  return '\n\n'.join(parts)


# ---------------------------------------------------------------- command line


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns the exit code."""
  given = {word.partition('=')[0] for word in argv if word.startswith('-')}
  try:
    if given <= {'--quick', '--out'}:
      harness.main('compiled', measure, tables)
      return 0
    flags = command_line.parse(
      Flags, argv, _PROG, default=Flags.of(config_lib.Config())
    )
    if flags.target is None:
      raise errors.UsageError(f'--target must be {targets.ALLOWED}, got none.')
    result = inspect(flags.target, flags.config, flags.steps)
    if flags.out is not None:
      harness.write(result, flags.out)
  except errors.UsageError as error:
    print(f'{_PROG}: {error}', file=sys.stderr)
    return 2
  except errors.RunError as error:
    print(f'{_PROG}: {error}', file=sys.stderr)
    return 1
  print(table(result))
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
