"""The command line: python -m train [COMMAND] ..."""

from train import errors
from train.devices import interruption

if __name__ == '__main__':
  # Before what takes seconds, and may be missing.
  interruption.end_at_once()
  errors.tell_of_imports()

# isort: split
from collections.abc import Callable, Iterable
import contextlib
import dataclasses
import functools
import io
import os
import pathlib
import sys
import time
from typing import Annotated, Any

import tyro

from train import command_line
from train import config as config_lib
from train import experiments
from train import progress
from train import sources
from train import studies
from train.devices import jax_environment

_USAGE = """\
usage: python -m train [--run-dir DIR]              the main job
       python -m train run [EXPERIMENT] [--flags]   one run
       python -m train sweep NAME... [--seeds N]    arms times seeds
       python -m train eval RUN_DIR                 test a run once more
       python -m train list [WORD...]               the experiments
       python -m train report DIR... --out DIR      tables and pictures
       python -m train pack DIR... --out DIR        a few tables of many runs
       python -m train --version                    the version
{studies}

The main job trains a small Wide ResNet on handwritten digits, with LCAM and
with fixed momentum, three seeds each, and reports the difference. It takes a
minute on two CPU cores and needs no files. `python -m train run --help` shows
the flags of a run.
"""

_MAIN_SEEDS = 3
_MOST_SEEDS = 10_000


@dataclasses.dataclass(frozen=True)
class MainFlags:
  """Train on handwritten digits with LCAM and with fixed momentum."""

  run_dir: pathlib.Path = pathlib.Path('runs/digits')
  """Where the runs and the report are written."""


@dataclasses.dataclass(frozen=True)
class RunFlags(config_lib.Groups):
  """Train one network."""

  run_dir: Annotated[
    pathlib.Path | None, command_line.default('runs/NAME/seed-N')
  ] = None
  """Where the run is written. The same command with the same directory goes on
  from the last checkpoint."""
  distributed: bool = False
  """This is one of several processes, which SLURM, Open MPI, Kubernetes or a
  TPU pod has started."""
  coordinator: Annotated[str | None, command_line.default('none')] = None
  """HOST:PORT at which process 0 of several listens, where they were started in
  another way."""
  process_id: Annotated[int | None, command_line.default('none')] = None
  """Which of the processes this is, from 0."""
  process_count: Annotated[int | None, command_line.default('none')] = None
  """How many processes there are."""
  wandb: Annotated[str | None, command_line.default('none')] = None
  """Project on Weights & Biases that shows the curves live. Needs `pip install
  wandb`."""


@dataclasses.dataclass(frozen=True)
class SweepFlags(config_lib.Groups):
  """Run experiments with several seeds each. The same command goes on where it
  was interrupted. Settings that are given are in place of the experiment's own.
  """

  experiments: Annotated[
    tyro.conf.Positional[tuple[str, ...]], command_line.REQUIRED
  ] = ()
  """Names or groups from `python -m train list`, such as small-figure2 or
  small-figure4-cifar10."""
  seeds: int = 3
  """Runs of each experiment."""
  first_seed: int = 0
  """Their seeds are this one and those after it."""
  grid: Annotated[tuple[str, ...], command_line.default('none')] = ()
  """Run each experiment under every combination of some settings, such as
  `horizontal_momentum=0.9,0.93 learning_rate=0.05,0.1`. Of two momenta the
  report draws a heat map."""
  run_dir: pathlib.Path = pathlib.Path('runs')
  """Each run is written to RUN_DIR/NAME/seed-N."""
  runs_together: Annotated[
    int | None,
    command_line.default('1 on a CPU and of more than WRN-16-4, else 8'),
  ] = None
  """Most runs in one vmapped program. On a CPU one after another is faster."""
  wandb: Annotated[str | None, command_line.default('none')] = None
  """Project on Weights & Biases that shows the curves live. Needs `pip install
  wandb`."""


@dataclasses.dataclass(frozen=True)
class EvalFlags:
  """Load the last checkpoint of a run and print its loss and error."""

  run_dir: Annotated[
    tyro.conf.Positional[pathlib.Path | None], command_line.REQUIRED
  ] = None
  """The run directory."""
  data_dir: Annotated[
    pathlib.Path | None, command_line.default("the run's")
  ] = None
  """Directory of the data set's files."""
  eval_batch_size: Annotated[int | None, command_line.default("the run's")] = (
    None
  )
  """Images a step."""


@dataclasses.dataclass(frozen=True)
class ListFlags:
  """Show the experiments: groups, which `sweep` accepts, and their members."""

  words: Annotated[
    tyro.conf.Positional[tuple[str, ...]], command_line.default('all')
  ] = ()
  """Show only experiments with all of these words in name or summary."""


@dataclasses.dataclass(frozen=True)
class ReportFlags:
  """Draw figures and tables from finished runs."""

  directories: Annotated[
    tyro.conf.Positional[tuple[pathlib.Path, ...]], command_line.REQUIRED
  ] = ()
  """Run directories, or directories that hold them at any depth."""
  out: pathlib.Path = pathlib.Path('report')
  """Where the report and its pictures are written."""
  name: str = 'report.md'
  """Name of the Markdown file."""
  margin: float = 2.0
  """Differences within this part of the control's error, in percent, are
  equivalent."""


@dataclasses.dataclass(frozen=True)
class PackFlags:
  """Make a few tables of many run directories, which report reads as well."""

  directories: Annotated[
    tyro.conf.Positional[tuple[pathlib.Path, ...]], command_line.REQUIRED
  ] = ()
  """Run directories, or directories that hold them at any depth."""
  out: pathlib.Path = pathlib.Path('packed')
  """Where the tables are written."""


def main(argv: list[str]) -> int:
  """Runs a command; returns the exit code."""
  first = argv[0] if argv else ''
  try:
    try:
      return _answer(first, argv)
    finally:
      sys.stdout.flush()
  except SystemExit as stop:  # tyro has written its message or the help.
    return int(stop.code or 0)
  except errors.UsageError as error:
    _tell(error)
    return 2
  except errors.RunError as error:
    _tell(error)
    return 1
  except OSError as error:
    # Whoever read the output may have seen enough, as `head` has.
    enough = isinstance(error, BrokenPipeError)
    if not _give_up_output() and not enough:
      raise
    if not enough:
      _tell(f'the output cannot be written: {error.strerror}.')
    return 1
  except Exception as error:
    reason = (str(error).splitlines() or [''])[0]
    if _is_out_of_memory(error):
      _tell(
        f'there is not enough memory ({reason}). A smaller --batch-size,'
        ' --widen-factor or --depth needs less.'
      )
      return 1
    if reason.startswith(('Unable to initialize backend', 'Unknown backend')):
      where = os.environ.get('JAX_PLATFORMS', '')
      _tell(f'JAX cannot start (JAX_PLATFORMS={where}): {reason}')
      return 2
    raise
  except interruption.Interrupted as error:
    interruption.stopped()
    how = (
      'starts anew'
      if first in ('eval', 'list', 'report', 'pack', *studies.STUDIES)
      else 'goes on from the last checkpoint, if there is one'
    )
    _tell(f'stopped by {error.by.name}. The same command {how}.')
    return error.exit_code


def _answer(first: str, argv: list[str]) -> int:
  started = time.monotonic()
  commands: dict[str, Callable[[list[str]], int]] = {
    'run': _run,
    'sweep': _sweep,
    'eval': _eval,
    'list': _list,
    'report': _report,
    'pack': _pack,
    **{
      study.name: functools.partial(_study, study)
      for study in studies.STUDIES.values()
    },
  }
  if first in ('-h', '--help'):
    print(_usage(), end='')
    return 0
  if first == '--version':
    with interruption.importing():
      import optax_lcam

    print(f'optax-lcam {optax_lcam.__version__}')
    return 0
  if first in commands:
    return commands[first](argv[1:])
  if first and not first.startswith('-'):
    raise errors.UsageError(
      f'There is no command {first!r}; there are {", ".join(commands)}.'
      f'{errors.did_you_mean(first, commands)}'
    )
  return _main_job(argv, started)


def _tell(what: object) -> None:
  """A sentence on standard error, if that can be written."""
  with contextlib.suppress(OSError):
    print(f'python -m train: {what}', file=sys.stderr, flush=True)


def _give_up_output() -> bool:
  """Whether standard output cannot be written; then nothing more is."""
  try:
    print(flush=True)  # What has failed before is no longer in its buffer.
    return False
  except OSError:
    # Python would complain once more when it flushes at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _usage() -> str:
  lines = (
    f'{f"python -m train {study.name} {study.usage}":44} {study.summary}'
    for study in studies.STUDIES.values()
  )
  return _USAGE.format(studies='\n'.join(f'       {line}' for line in lines))


def _is_out_of_memory(error: Exception) -> bool:
  # JAX has no class for it, and names it in more than one way.
  return isinstance(error, MemoryError) or any(
    sign in str(error) for sign in ('RESOURCE_EXHAUSTED', 'Out of memory')
  )


def _start_jax(configs: Iterable[config_lib.Config] = ()) -> None:
  """What must be set before JAX is imported, for runs with these settings."""
  jax_environment.check_address_space()
  for sentence in jax_environment.prepare():
    _tell(sentence)
  jax_environment.keep_freed_memory(
    max(
      (
        jax_environment.activation_bytes(
          depth=config.depth,
          widen_factor=config.widen_factor,
          image_size=(
            config.image_size or sources.get(config.dataset).image_size
          ),
          batch_size=config.batch_size,
        )
        for config in configs
        if config.model == 'wrn'
      ),
      default=0,
    )
  )


def _main_job(argv: list[str], started: float) -> int:
  flags = command_line.parse(MainFlags, argv, 'python -m train')
  arms = experiments.members(experiments.OWN, 'digits')
  _start_jax(arm.config for arm in arms)
  with interruption.importing():
    from train import report
    from train import sweep

  failed = sweep.sweep(
    arms,
    _MAIN_SEEDS,
    flags.run_dir,
    progress.console(),
  )
  if len(failed) == _MAIN_SEEDS * len(arms):
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
  flags = command_line.parse(
    RunFlags,
    argv,
    'python -m train run [EXPERIMENT]',
    default=RunFlags.of(default),
  )
  if experiment is not None:
    changed = experiment.change(config_lib.as_dict(flags.config))
    if changed.takes is not None and changed.follows is not None:
      flag = config_lib.flag(changed.takes.setting)
      raise errors.UsageError(
        f'{experiment.name} has the {changed.takes.value} of a finished run of'
        f' {changed.follows.name}: give it by {flag}, or let `python -m train'
        f' sweep {experiment.name}` make both.'
      )
    experiment = changed
  config_lib.check(flags.config)
  _check_processes(flags)
  name = experiment.folder if experiment else flags.config.dataset
  run_dir = flags.run_dir or pathlib.Path(
    f'runs/{name}/seed-{flags.config.seed}'
  )
  _start_jax([flags.config])
  with interruption.importing():
    from train import loop
    from train.devices import processes

  with _processes_of(flags):
    summary = loop.run(
      flags.config,
      run_dir,
      experiment=experiment,
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
  from train.devices import processes

  if not flags.distributed and flags.coordinator is None:
    return contextlib.nullcontext()
  return processes.group(
    flags.coordinator, flags.process_id, flags.process_count
  )


def _check_processes(flags: RunFlags) -> None:
  coordinator, own, count = (
    flags.coordinator,
    flags.process_id,
    flags.process_count,
  )
  if coordinator is own is count is None:
    return
  if flags.distributed or coordinator is None or own is None or count is None:
    raise errors.UsageError(
      '--coordinator, --process-id and --process-count belong together, or'
      ' --distributed alone where the cluster knows them.'
    )
  _, _, port = coordinator.rpartition(':')
  if not port.isdecimal() or not 0 < int(port) < 2**16:
    raise errors.UsageError(
      '--coordinator must be HOST:PORT with a port from 1 to 65535, got'
      f' {coordinator}.'
    )
  if count < 1:
    raise errors.UsageError(f'--process-count must be at least 1, got {count}.')
  if not 0 <= own < count:
    raise errors.UsageError(
      f'--process-id must be from 0 to {count - 1}, got {own}.'
    )


def _sweep(argv: list[str]) -> int:
  flags = command_line.parse(SweepFlags, argv, 'python -m train sweep')
  config = flags.config
  if not flags.experiments:
    raise errors.UsageError('sweep needs the name of at least one experiment.')
  if not 1 <= flags.seeds <= _MOST_SEEDS:
    raise errors.UsageError(
      f'--seeds must be at least 1 and at most {_MOST_SEEDS}, got'
      f' {flags.seeds}.'
    )
  last_seed = flags.first_seed + flags.seeds - 1
  if flags.first_seed < 0 or last_seed >= 2**32:
    raise errors.UsageError(
      '--first-seed must be at least 0, and the last seed at most 4294967295,'
      f' got {flags.first_seed}.'
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
  given = command_line.given(argv, config_lib.Config)
  for seed in config_lib.SEEDS:
    if seed in given:
      raise errors.UsageError(
        f'{config_lib.flag(seed)} is not for a sweep, whose runs have the'
        ' seeds from --first-seed on.'
      )
  settings = {name: getattr(config, name) for name in given}
  axes = _axes(flags.grid)
  arms = [
    arm
    for experiment in selected.values()
    for arm in experiments.grid(experiment.change(settings), axes)
  ]
  for arm in arms:
    config_lib.check(arm.planned)
  _start_jax(arm.config for arm in arms)
  with interruption.importing():
    from train import sweep

  failed = sweep.sweep(
    arms,
    flags.seeds,
    flags.run_dir,
    progress.console(),
    runs_together=flags.runs_together,
    wandb=flags.wandb,
    first_seed=flags.first_seed,
  )
  runs = len(sweep.in_order(arms)) * flags.seeds
  print(
    f'{runs - len(failed)} of {runs} runs are in {flags.run_dir}.'
    f' `python -m train report {flags.run_dir}` compares them.'
  )
  return 1 if failed else 0


def _axes(given: tuple[str, ...]) -> dict[str, list[Any]]:
  """The axes of a grid, from `setting=a,b` each."""
  axes: dict[str, list[Any]] = {}
  names = [field.name for field in dataclasses.fields(config_lib.Config)]
  for text in given:
    written, equals, values = text.partition('=')
    name = written.replace('-', '_')
    if name not in names or name in config_lib.SEEDS:
      allowed = [n for n in names if n not in config_lib.SEEDS]
      raise errors.UsageError(
        f'--grid must name settings of a run, got {written!r}.'
        f'{errors.did_you_mean(name, allowed)}'
      )
    if not equals or not values:
      raise errors.UsageError(
        f'--grid must be SETTING=VALUE,VALUE,..., got {text!r}.'
      )
    if name in axes:
      raise errors.UsageError(f'--grid names {name} twice.')
    flag = config_lib.flag(name)
    axes[name] = [
      getattr(
        command_line.parse(
          config_lib.Config, [flag, value], 'python -m train run'
        ),
        name,
      )
      for value in values.split(',')
    ]
    if len(set(axes[name])) < len(axes[name]):
      raise errors.UsageError(
        f'--grid must have values that differ, got {text!r}.'
      )
  return axes


def _eval(argv: list[str]) -> int:
  flags = command_line.parse(EvalFlags, argv, 'python -m train eval')
  if flags.run_dir is None:
    raise errors.UsageError('eval needs a run directory.')
  if flags.eval_batch_size is not None and flags.eval_batch_size < 1:
    raise errors.UsageError(
      f'--eval-batch-size must be at least 1, got {flags.eval_batch_size}.'
    )
  _start_jax()
  with interruption.importing():
    from train import evaluate

  found = evaluate.evaluate(
    flags.run_dir, flags.data_dir, flags.eval_batch_size
  )
  figures = ', '.join(
    f'{name.replace("_", " ")} {value:.4f}'
    if 'loss' in name
    else f'{name.replace("_", " ")} {value:.2f} %'
    for name, value in found.figures.items()
  )
  print(f'{flags.run_dir}: after {found.epochs:g} epochs {figures}.')
  return 0


def _list(argv: list[str]) -> int:
  flags = command_line.parse(ListFlags, argv, 'python -m train list')
  shown = 0
  for group, members in experiments.groups().items():
    found = [
      e
      for e in members
      if all(word in f'{e.name} {e.summary}'.lower() for word in flags.words)
    ]
    shown += len(found)
    if not found:
      continue
    size = max(found, key=lambda e: e.config.epochs).size
    print(f'{group}: {len(found)} experiments, {found[0].scale.title}; {size}')
    for experiment in found:
      # `run` alone knows nothing of the run to follow.
      follows = ' [sweep only]' if experiment.follows else ''
      print(
        f'  {experiment.name}  {experiment.summary} {experiment.duration}.'
        f'{follows}'
      )
  if not shown:
    raise errors.UsageError(
      f'No experiment has {" and ".join(flags.words)} in its name or summary.'
    )
  print(
    'One: python -m train run NAME. Several, with seeds: python -m train sweep'
    ' GROUP or NAME...'
  )
  return 0


def _report(argv: list[str]) -> int:
  flags = command_line.parse(ReportFlags, argv, 'python -m train report')
  if not flags.directories:
    raise errors.UsageError('report needs at least one run directory.')
  with interruption.importing():
    from train import records
    from train import report

  _check_out(flags.out)
  found = records.find(flags.directories)
  print(report.write_found(found, flags.out, flags.name, flags.margin))
  return 1 if found.left_out else 0


def _pack(argv: list[str]) -> int:
  flags = command_line.parse(PackFlags, argv, 'python -m train pack')
  if not flags.directories:
    raise errors.UsageError('pack needs at least one directory.')
  with interruption.importing():
    from train.records import pack

  _check_out(flags.out)
  packed = pack.pack(flags.directories, flags.out)
  for sentence in packed.told:
    _tell(sentence)
  print(
    f'Packed into {flags.out}: runs {packed.runs}, studies {packed.studies}.'
    f' `python -m train report {flags.out}` reads them.'
  )
  return 1 if packed.left_out else 0


def _study(study: studies.Study, argv: list[str]) -> int:
  flags: Any = command_line.parse(
    study.flags, argv, f'python -m train {study.name}'
  )
  _start_jax()
  with interruption.importing():
    module = study.load()
  settings = vars(flags).copy()
  out = settings.pop('out')
  if out is None:
    out = pathlib.Path(f'runs/{study.name}-{settings["dataset"]}')
  _check_out(out)
  record = module.measure(**settings, console=progress.console())
  study.write(record, out)
  for sentence in module.sentences(record):
    print(f'- {sentence}')
  print(f'The picture is in {out}.')
  return 0


def _check_out(out: pathlib.Path) -> None:
  """Before the work whose result is to be written there."""
  from train import files

  files.check_writable('--out', out)


def _survive_any_encoding() -> None:
  """What a terminal cannot show is shown as the number of its character."""
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')


if __name__ == '__main__':
  _survive_any_encoding()
  interruption.raise_at_once()
  _code = main(sys.argv[1:])
  interruption.end_at_once()
  sys.exit(_code)
