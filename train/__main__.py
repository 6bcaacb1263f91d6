"""The command line: python -m train [run | sweep | list | report] ..."""

from collections.abc import Callable
import dataclasses
import os
import pathlib
import signal
import sys
import time

import rich.console
import tyro

from train import config as config_lib
from train import errors
from train import experiments
from train import jax_environment

_USAGE = """\
usage: python -m train [--run-dir DIR]              the main job
       python -m train run [EXPERIMENT] [--flags]   one run
       python -m train sweep NAME... [--seeds N]    arms times seeds
       python -m train list                         the experiments
       python -m train report DIR... --out DIR      tables and pictures

The main job trains a small Wide ResNet on handwritten digits, with LCAM and
with fixed momentum, three seeds each, and reports the difference. It takes a
minute on two CPU cores and needs no files. `python -m train run --help` shows
the flags of a run.
"""

_MAIN_EXPERIMENTS = ('digits-lcam', 'digits-fixed')
_MAIN_SEEDS = 3


@dataclasses.dataclass(frozen=True)
class MainFlags:
  """Train on handwritten digits with LCAM and with fixed momentum."""

  run_dir: pathlib.Path = pathlib.Path('runs/digits')
  """Where the runs and the report are written."""


@dataclasses.dataclass(frozen=True)
class RunFlags:
  """Train one network."""

  config: tyro.conf.OmitArgPrefixes[config_lib.Config]
  run_dir: pathlib.Path | None = None
  """Where the run is written. The same command with the same directory goes on
  from the last checkpoint. Default: runs/NAME-seed-N."""


@dataclasses.dataclass(frozen=True)
class SweepFlags:
  """Run experiments with several seeds each. The same command goes on where it
  was interrupted.
  """

  experiments: tyro.conf.Positional[tuple[str, ...]]
  """Names from `python -m train list`, or what they begin with: figure2."""
  seeds: int = 3
  """Runs of each experiment, with the seeds 0 to N - 1."""
  run_dir: pathlib.Path = pathlib.Path('runs')
  """Each run is written to RUN_DIR/EXPERIMENT/seed-N."""
  data_dir: pathlib.Path | None = None
  """TensorFlow Datasets directory of CIFAR. Default: TFDS's own."""


@dataclasses.dataclass(frozen=True)
class ReportFlags:
  """Draw figures and tables from finished runs."""

  directories: tyro.conf.Positional[tuple[pathlib.Path, ...]]
  """Run directories, or directories that hold them at any depth."""
  out: pathlib.Path = pathlib.Path('report')
  """Where the report and its pictures are written."""
  name: str = 'report.md'
  """Name of the Markdown file."""


def main(argv: list[str]) -> int:
  """Runs a command; returns the exit code."""
  started = time.monotonic()
  commands: dict[str, Callable[[list[str]], int]] = {
    'run': _run,
    'sweep': _sweep,
    'list': _list,
    'report': _report,
  }
  first = argv[0] if argv else ''
  try:
    if first in ('-h', '--help'):
      print(_USAGE, end='')
    elif first in commands:
      return commands[first](argv[1:])
    elif first and not first.startswith('-'):
      raise errors.UsageError(
        f'There is no command {first!r}; there are run, sweep, list and report.'
        f'{errors.did_you_mean(first, commands)}'
      )
    else:
      return _main_job(argv, started)
  except errors.UsageError as error:
    print(f'python -m train: {error}', file=sys.stderr)
    return 2
  except BrokenPipeError:
    # Whoever read the output has seen enough, as `head` has. Python would
    # complain once more when it flushes at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except KeyboardInterrupt:
    print(
      'python -m train: interrupted. The same command goes on from the last'
      ' checkpoint.',
      file=sys.stderr,
    )
    return 128 + signal.SIGINT
  return 0


def _main_job(argv: list[str], started: float) -> int:
  flags = tyro.cli(MainFlags, args=argv, prog='python -m train')
  jax_environment.prepare()
  from train import report
  from train import sweep

  failed = sweep.sweep(
    [experiments.get(name) for name in _MAIN_EXPERIMENTS],
    _MAIN_SEEDS,
    flags.run_dir,
    rich.console.Console(stderr=True),
  )
  print(report.write([flags.run_dir], flags.run_dir))
  print(
    f'{time.monotonic() - started:.0f} s. The table and the picture are in'
    f' {flags.run_dir}.'
  )
  return 1 if failed else 0


def _run(argv: list[str]) -> int:
  experiment = None
  default = config_lib.Config()
  if argv and not argv[0].startswith('-'):
    experiment = experiments.get(argv[0])
    default, argv = experiment.config, argv[1:]
  flags = tyro.cli(
    RunFlags,
    default=RunFlags(config=default),
    args=argv,
    prog='python -m train run [EXPERIMENT]',
  )
  if (
    experiment is not None
    and experiment.follows is not None
    and flags.config.follow_run is None
  ):
    raise errors.UsageError(
      f'{experiment.name} needs --follow-run, a finished run of'
      f' {experiment.follows}; `python -m train sweep {experiment.name}` makes'
      ' both.'
    )
  config_lib.check(flags.config)
  name = experiment.name if experiment else flags.config.dataset
  run_dir = flags.run_dir or pathlib.Path(
    f'runs/{name}-seed-{flags.config.seed}'
  )
  jax_environment.prepare()
  from train import loop

  summary = loop.run(
    flags.config, run_dir, experiment=experiment.name if experiment else None
  )
  print(
    f'{run_dir}: {summary["status"]}, test error'
    f' {summary["final_test_error"]:.2f} % after the last epoch,'
    f' {summary["best_test_error"]:.2f} % at best.'
  )
  return 0


def _sweep(argv: list[str]) -> int:
  flags = tyro.cli(SweepFlags, args=argv, prog='python -m train sweep')
  if not flags.experiments:
    raise errors.UsageError('sweep needs the name of at least one experiment.')
  if flags.seeds < 1:
    raise errors.UsageError(f'--seeds must be at least 1, got {flags.seeds}.')
  selected = {
    experiment.name: experiment
    for name in flags.experiments
    for experiment in experiments.select(name)
  }
  jax_environment.prepare()
  from train import sweep

  failed = sweep.sweep(
    list(selected.values()),
    flags.seeds,
    flags.run_dir,
    rich.console.Console(stderr=True),
    data_dir=flags.data_dir,
  )
  runs = len(sweep.in_order(list(selected.values()))) * flags.seeds
  print(
    f'{runs - len(failed)} of {runs} runs are in {flags.run_dir}.'
    f' `python -m train report {flags.run_dir}` compares them.'
  )
  return 1 if failed else 0


def _list(argv: list[str]) -> int:
  if argv:
    raise errors.UsageError(f'list takes no arguments, got {argv[0]!r}.')
  for experiment in experiments.EXPERIMENTS.values():
    print(
      f'{experiment.name}\n'
      f'    {experiment.summary}\n'
      f'    python -m train run {experiment.name}    ({experiment.scale})'
    )
  return 0


def _report(argv: list[str]) -> int:
  flags = tyro.cli(ReportFlags, args=argv, prog='python -m train report')
  if not flags.directories:
    raise errors.UsageError('report needs at least one run directory.')
  from train import report

  print(report.write(flags.directories, flags.out, flags.name))
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
