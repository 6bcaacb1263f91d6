"""The command line: python -m train [COMMAND] ..."""

from collections.abc import Callable
import contextlib
import dataclasses
import io
import os
import pathlib
import sys
import time
from typing import Annotated, Any

import rich.console
import tyro

from train import config as config_lib
from train import errors
from train import experiments
from train import flags as flags_lib
from train import interruption
from train import jax_environment
from train import sources

_USAGE = """\
usage: python -m train [--run-dir DIR]              the main job
       python -m train run [EXPERIMENT] [--flags]   one run
       python -m train sweep NAME... [--seeds N]    arms times seeds
       python -m train list                         the experiments
       python -m train report DIR... --out DIR      tables and pictures
       python -m train pack DIR... --out DIR        a few tables of many runs
       python -m train probe --dataset NAME         what kind of data set it is
       python -m train traction                     Figure 1 as a simulation
       python -m train movement RUN...              the same in trained networks

The main job trains a small Wide ResNet on handwritten digits, with LCAM and
with fixed momentum, three seeds each, and reports the difference. It takes a
minute on two CPU cores and needs no files. `python -m train run --help` shows
the flags of a run.
"""

_MAIN_EXPERIMENTS = ('digits-lcam', 'digits-fixed')
_MAIN_SEEDS = 3
_MOST_SEEDS = 10_000


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
  distributed: bool = False
  """This is one of several processes, which SLURM, Open MPI, Kubernetes or a
  TPU pod has started."""
  coordinator: str | None = None
  """HOST:PORT at which process 0 of several listens, where they were started in
  another way."""
  process_id: int | None = None
  """Which of the processes this is, from 0."""
  process_count: int | None = None
  """How many processes there are."""
  wandb: str | None = None
  """Project on Weights & Biases that shows the curves live. Needs `pip install
  wandb`. Default: nothing is sent."""


@dataclasses.dataclass(frozen=True)
class SweepFlags:
  """Run experiments with several seeds each. The same command goes on where it
  was interrupted.
  """

  experiments: tyro.conf.Positional[tuple[str, ...]]
  """Names from `python -m train list`, or what they begin with: figure2."""
  seeds: int = 3
  """Runs of each experiment, with the seeds 0 to N - 1."""
  horizontal_momenta: tuple[float, ...] = ()
  """Run each experiment, which must be of lcam, under every pair of these and
  of --vertical-momenta, as EXPERIMENT-hH-vV. The report draws a heat map."""
  vertical_momenta: tuple[float, ...] = ()
  """See --horizontal-momenta."""
  run_dir: pathlib.Path = pathlib.Path('runs')
  """Each run is written to RUN_DIR/EXPERIMENT/seed-N."""
  runs_together: int | None = None
  """Most runs in one vmapped program. Default: 1 on a CPU, where one after
  another is faster; on a GPU or TPU 8 of networks up to the size of WRN-16-4,
  and 1 of larger ones."""
  data_dir: pathlib.Path | None = None
  """Directory of the data set's files. Default: for CIFAR, that of TensorFlow
  Datasets."""
  wandb: str | None = None
  """Project on Weights & Biases that shows the curves live. Needs `pip install
  wandb`. Default: nothing is sent."""


@dataclasses.dataclass(frozen=True)
class ReportFlags:
  """Draw figures and tables from finished runs."""

  directories: tyro.conf.Positional[tuple[pathlib.Path, ...]]
  """Run directories, or directories that hold them at any depth."""
  out: pathlib.Path = pathlib.Path('report')
  """Where the report and its pictures are written."""
  name: str = 'report.md'
  """Name of the Markdown file."""


@dataclasses.dataclass(frozen=True)
class PackFlags:
  """Make a few tables of many run directories, which report reads as well."""

  directories: tyro.conf.Positional[tuple[pathlib.Path, ...]]
  """Run directories, or directories that hold them at any depth."""
  out: pathlib.Path = pathlib.Path('packed')
  """Where the tables are written."""


def _probes_default(meaning: str, size: str) -> Any:
  """Help of a flag whose default is that of the data set."""
  numbers = ', '.join(
    f'{name} {getattr(source.probe, size):,}'
    for name, source in sources.SOURCES.items()
  )
  return tyro.conf.arg(help=f'{meaning} Default: {numbers}.')


@dataclasses.dataclass(frozen=True)
class ProbeFlags:
  """Find out whether a data set is vertical, horizontal or neutral in the sense
  of section 4.4, by short runs under several momenta.
  """

  dataset: config_lib.Dataset = 'digits'
  """The images."""
  data_dir: pathlib.Path | None = None
  """Directory of the data set's files. Default: for CIFAR, that of TensorFlow
  Datasets."""
  seeds: int = 5
  """Runs of each pair of momenta."""
  accelerated: tuple[float, ...] = (0.95,)
  """The larger momenta to try, beside 0.9."""
  epochs: Annotated[
    int | None, _probes_default('Passes over the training images.', 'epochs')
  ] = None
  train_examples: Annotated[
    int | None, _probes_default('Images to train on.', 'train_examples')
  ] = None
  validation_examples: Annotated[
    int | None,
    _probes_default('Training images held out.', 'validation_examples'),
  ] = None
  image_size: Annotated[
    int | None, _probes_default('Shrink the images to N x N.', 'image_size')
  ] = None
  out: pathlib.Path | None = None
  """Where probe.json and probe.png are written. Default:
  runs/probe-DATASET."""


@dataclasses.dataclass(frozen=True)
class TractionFlags:
  """Simulate Figure 1: two weights that pull each other, under LCAM and under
  coins.
  """

  seeds: int = 1000
  """Repetitions."""
  steps: int = 2400
  """Steps of each."""
  seed: int = 0
  """Seed of the noise."""
  out: pathlib.Path = pathlib.Path('runs/traction')
  """Where traction.json and traction.png are written."""


@dataclasses.dataclass(frozen=True)
class MovementFlags:
  """Measure how far quick and slow weights of trained networks move in each
  phase.
  """

  runs: tyro.conf.Positional[tuple[pathlib.Path, ...]]
  """Directories of finished runs."""
  epochs: int = 3
  """Measured epochs."""
  learning_rate: float | None = None
  """Constant learning rate. Default: a tenth of each run's initial one."""
  data_dir: pathlib.Path | None = None
  """Directory of the data set's files. Default: the run's."""
  out: pathlib.Path = pathlib.Path('runs/movement')
  """Where movement.json and movement.png are written."""


def main(argv: list[str]) -> int:
  """Runs a command; returns the exit code."""
  started = time.monotonic()
  commands: dict[str, Callable[[list[str]], int]] = {
    'run': _run,
    'sweep': _sweep,
    'list': _list,
    'report': _report,
    'pack': _pack,
    'probe': _probe,
    'traction': _traction,
    'movement': _movement,
  }
  first = argv[0] if argv else ''
  try:
    if first in ('-h', '--help'):
      print(_USAGE, end='')
    elif first in commands:
      return commands[first](argv[1:])
    elif first and not first.startswith('-'):
      raise errors.UsageError(
        f'There is no command {first!r}; there are {", ".join(commands)}.'
        f'{errors.did_you_mean(first, commands)}'
      )
    else:
      return _main_job(argv, started)
  except errors.UsageError as error:
    print(f'python -m train: {error}', file=sys.stderr)
    return 2
  except errors.RunError as error:
    print(f'python -m train: {error}', file=sys.stderr)
    return 1
  except BrokenPipeError:
    # Whoever read the output has seen enough, as `head` has. Python would
    # complain once more when it flushes at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except Exception as error:
    if not _is_out_of_memory(error):
      raise
    print(
      'python -m train: there is not enough memory'
      f' ({str(error).splitlines()[0]}). A smaller --batch-size, --widen-factor'
      ' or --depth needs less.',
      file=sys.stderr,
    )
    return 1
  except interruption.Interrupted as error:
    how = (
      'goes on from the last checkpoint'
      if commands.get(first, _run) in (_run, _sweep)
      else 'starts anew'
    )
    print(
      f'python -m train: stopped by {error.by.name}. The same command {how}.',
      file=sys.stderr,
    )
    return error.exit_code
  return 0


def _is_out_of_memory(error: Exception) -> bool:
  # JAX has no class for it, and names it in more than one way.
  return isinstance(error, MemoryError) or any(
    sign in str(error) for sign in ('RESOURCE_EXHAUSTED', 'Out of memory')
  )


def _main_job(argv: list[str], started: float) -> int:
  flags = flags_lib.parse(MainFlags, argv, 'python -m train')
  jax_environment.prepare()
  from train import report
  from train import sweep

  failed = sweep.sweep(
    [experiments.get(name) for name in _MAIN_EXPERIMENTS],
    _MAIN_SEEDS,
    flags.run_dir,
    rich.console.Console(stderr=True),
  )
  if len(failed) == _MAIN_SEEDS * len(_MAIN_EXPERIMENTS):
    return 1  # Each has said why.
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
  flags = flags_lib.parse(
    RunFlags,
    argv,
    'python -m train run [EXPERIMENT]',
    default=RunFlags(config=default),
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
  _check_processes(flags)
  name = experiment.name if experiment else flags.config.dataset
  run_dir = flags.run_dir or pathlib.Path(
    f'runs/{name}-seed-{flags.config.seed}'
  )
  jax_environment.prepare()
  from train import loop
  from train import processes

  with _processes_of(flags):
    summary = loop.run(
      flags.config,
      run_dir,
      experiment=experiment.name if experiment else None,
      wandb=flags.wandb,
    )
  if not processes.is_first():
    return 0
  if summary['final_test_error'] is None:
    print(f'{run_dir}: {summary["status"]} in the first epoch.')
  else:
    print(
      f'{run_dir}: {summary["status"]}, test error'
      f' {summary["final_test_error"]:.2f} % after the last epoch,'
      f' {summary["best_test_error"]:.2f} % at best.'
    )
  return 0


def _processes_of(flags: RunFlags) -> contextlib.AbstractContextManager[None]:
  from train import processes

  if not flags.distributed and flags.coordinator is None:
    return contextlib.nullcontext()
  return processes.group(
    flags.coordinator, flags.process_id, flags.process_count
  )


def _check_processes(flags: RunFlags) -> None:
  given = (flags.coordinator, flags.process_id, flags.process_count)
  if given == (None, None, None):
    return
  if flags.distributed or None in given:
    raise errors.UsageError(
      '--coordinator, --process-id and --process-count belong together, or'
      ' --distributed alone where the cluster knows them.'
    )
  assert flags.coordinator is not None
  assert flags.process_id is not None
  assert flags.process_count is not None
  _, _, port = flags.coordinator.rpartition(':')
  if not port.isdecimal() or not 0 < int(port) < 2**16:
    raise errors.UsageError(
      '--coordinator must be HOST:PORT with a port from 1 to 65535, got'
      f' {flags.coordinator}.'
    )
  if flags.process_count < 1:
    raise errors.UsageError(
      f'--process-count must be at least 1, got {flags.process_count}.'
    )
  if not 0 <= flags.process_id < flags.process_count:
    raise errors.UsageError(
      f'--process-id must be from 0 to {flags.process_count - 1}, got'
      f' {flags.process_id}.'
    )


def _sweep(argv: list[str]) -> int:
  flags = flags_lib.parse(SweepFlags, argv, 'python -m train sweep')
  if not flags.experiments:
    raise errors.UsageError('sweep needs the name of at least one experiment.')
  if not 1 <= flags.seeds <= _MOST_SEEDS:
    raise errors.UsageError(
      f'--seeds must be at least 1 and at most {_MOST_SEEDS}, got'
      f' {flags.seeds}.'
    )
  if flags.runs_together is not None and flags.runs_together < 1:
    raise errors.UsageError(
      f'--runs-together must be at least 1, got {flags.runs_together}.'
    )
  selected = {
    experiment.name: experiment
    for name in flags.experiments
    for experiment in experiments.select(name)
  }
  arms = _grids(list(selected.values()), flags)
  jax_environment.prepare()
  from train import sweep

  failed = sweep.sweep(
    arms,
    flags.seeds,
    flags.run_dir,
    rich.console.Console(stderr=True),
    runs_together=flags.runs_together,
    wandb=flags.wandb,
    data_dir=flags.data_dir,
  )
  runs = len(sweep.in_order(arms)) * flags.seeds
  print(
    f'{runs - len(failed)} of {runs} runs are in {flags.run_dir}.'
    f' `python -m train report {flags.run_dir}` compares them.'
  )
  return 1 if failed else 0


def _grids(
  selected: list[experiments.Experiment], flags: SweepFlags
) -> list[experiments.Experiment]:
  """The experiments, each under every pair of momenta if any were given."""
  axes = {
    '--horizontal-momenta': flags.horizontal_momenta,
    '--vertical-momenta': flags.vertical_momenta,
  }
  if not any(axes.values()):
    return selected
  for flag, momenta in axes.items():
    given = ' '.join(map(str, momenta)) or 'none'
    if not momenta:
      raise errors.UsageError(
        '--horizontal-momenta and --vertical-momenta belong together, but'
        f' {flag} has none.'
      )
    if not all(0 <= momentum < 1 for momentum in momenta):
      raise errors.UsageError(f'{flag} must be in [0, 1), got {given}.')
    if len(set(momenta)) < len(momenta):
      raise errors.UsageError(f'{flag} must be different, got {given}.')
  return [
    arm
    for experiment in selected
    for arm in experiments.grid(experiment, *axes.values())
  ]


def _list(argv: list[str]) -> int:
  if argv:
    raise errors.UsageError(f'list takes no arguments, got {argv[0]!r}.')
  for experiment in experiments.EXPERIMENTS.values():
    # `run` alone knows nothing of the run to follow.
    command = 'run' if experiment.follows is None else 'sweep'
    print(
      f'{experiment.name}\n'
      f'    {experiment.summary}\n'
      f'    {experiment.scale}: {experiment.duration}\n'
      f'    python -m train {command} {experiment.name}'
    )
  return 0


def _report(argv: list[str]) -> int:
  flags = flags_lib.parse(ReportFlags, argv, 'python -m train report')
  if not flags.directories:
    raise errors.UsageError('report needs at least one run directory.')
  from train import records
  from train import report

  _check_out(flags.out)
  found = records.find(flags.directories)
  print(report.write_found(found, flags.out, flags.name))
  return 1 if found.left_out else 0


def _pack(argv: list[str]) -> int:
  flags = flags_lib.parse(PackFlags, argv, 'python -m train pack')
  if not flags.directories:
    raise errors.UsageError('pack needs at least one directory.')
  from train.records import pack

  _check_out(flags.out)
  packed = pack.pack(flags.directories, flags.out)
  for sentence in packed.told:
    print(f'python -m train: {sentence}', file=sys.stderr)
  print(
    f'Packed into {flags.out}: runs {packed.runs}, studies {packed.studies}.'
    f' `python -m train report {flags.out}` reads them.'
  )
  return 1 if packed.left_out else 0


def _probe(argv: list[str]) -> int:
  flags = flags_lib.parse(ProbeFlags, argv, 'python -m train probe')
  jax_environment.prepare()
  from train.studies import probe

  settings = dataclasses.asdict(flags)
  out = settings.pop('out') or pathlib.Path(f'runs/probe-{flags.dataset}')
  _check_out(out)
  record = probe.probe(**settings)
  probe.write(record, out)
  print(f'{flags.dataset}: {record["sentence"]}\nThe picture is in {out}.')
  return 0


def _traction(argv: list[str]) -> int:
  flags = flags_lib.parse(TractionFlags, argv, 'python -m train traction')
  jax_environment.prepare()
  from train.studies import traction

  _check_out(flags.out)
  record = traction.simulate(flags.seeds, flags.steps, flags.seed)
  traction.write(record, flags.out)
  _print_claims(record, flags.out)
  return 0


def _movement(argv: list[str]) -> int:
  flags = flags_lib.parse(MovementFlags, argv, 'python -m train movement')
  if not flags.runs:
    raise errors.UsageError('movement needs at least one directory of a run.')
  jax_environment.prepare()
  from train.studies import movement

  _check_out(flags.out)
  record = movement.measure(
    flags.runs,
    epochs=flags.epochs,
    learning_rate=flags.learning_rate,
    data_dir=flags.data_dir,
    console=rich.console.Console(stderr=True),
  )
  movement.write(record, flags.out)
  _print_claims(record, flags.out)
  return 0


def _check_out(out: pathlib.Path) -> None:
  """Before the work whose result is to be written there."""
  from train.records import files

  files.check_writable('--out', out)


def _print_claims(record: dict[str, Any], out: pathlib.Path) -> None:
  for claim in record['claims']:
    print(f'- {claim["sentence"]}')
  print(f'The picture is in {out}.')


def _survive_any_encoding() -> None:
  """What a terminal cannot show is shown as the number of its character."""
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')


if __name__ == '__main__':
  _survive_any_encoding()
  interruption.raise_at_once()
  sys.exit(main(sys.argv[1:]))
