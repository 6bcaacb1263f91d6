"""The command line: python -m train [COMMAND] ..."""

from train import errors
from train.devices import interruption

if __name__ == '__main__':
  # Before the imports below, which take seconds and may fail.
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
import re
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
       python -m train sweep NAME... [--seeds N]    several seeds of each
       python -m train eval RUN_DIR                 test a run's checkpoint
       python -m train list [WORD...]               list the experiments
       python -m train report DIR... --out DIR      tables and figures
       python -m train pack DIR... --out DIR        pack runs into tables
       python -m train --version                    the version
{studies}

The main job trains a small Wide ResNet on handwritten digits, with LCAM and
with fixed momentum, three seeds each, and reports the difference. It takes a
minute on two CPU cores and requires no files. `python -m train run --help`
shows the flags of a run.
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
  """The run directory. The same command with the same directory resumes from
  the last checkpoint."""
  distributed: bool = False
  """Run as one of several processes, started by SLURM, Open MPI, Kubernetes or
  on a TPU pod."""
  coordinator: Annotated[str | None, command_line.default('none')] = None
  """HOST:PORT at which process 0 listens, for processes that were started in
  another way."""
  process_id: Annotated[int | None, command_line.default('none')] = None
  """Index of this process, from 0."""
  process_count: Annotated[int | None, command_line.default('none')] = None
  """Number of processes."""
  wandb: Annotated[str | None, command_line.default('none')] = None
  """Weights & Biases project to log to. Requires `pip install wandb`."""


@dataclasses.dataclass(frozen=True)
class SweepFlags(config_lib.Groups):
  """Run experiments with several seeds each. The same command resumes an
  interrupted sweep. Settings given here replace those of the experiments.
  """

  experiments: Annotated[
    tyro.conf.Positional[tuple[str, ...]], command_line.REQUIRED
  ] = ()
  """Names or groups from `python -m train list`, such as small-figure2 or
  small-figure4-cifar10."""
  seeds: int = 3
  """Number of runs of each experiment."""
  first_seed: int = 0
  """Seed of the first run; the others follow it."""
  grid: Annotated[tuple[str, ...], command_line.default('none')] = ()
  """Run each experiment with every combination of these settings, such as
  `horizontal_momentum=0.9,0.93 learning_rate=0.05,0.1`. The report draws a heat
  map of two momenta."""
  run_dir: pathlib.Path = pathlib.Path('runs')
  """Each run is written to RUN_DIR/NAME/seed-N."""
  runs_together: Annotated[
    int | None,
    command_line.default('1 on a CPU or above the size of WRN-16-4, else 8'),
  ] = None
  """Maximum number of runs in one vmapped program. On a CPU, one at a time is
  faster."""
  wandb: Annotated[str | None, command_line.default('none')] = None
  """Weights & Biases project to log to. Requires `pip install wandb`."""


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
  """Images per step."""


@dataclasses.dataclass(frozen=True)
class ListFlags:
  """List the experiments by group. `sweep` accepts names and groups."""

  words: Annotated[
    tyro.conf.Positional[tuple[str, ...]], command_line.default('all')
  ] = ()
  """List only experiments with all of these words in name or summary. Numbers
  match whole: cifar10 does not find cifar100."""


@dataclasses.dataclass(frozen=True)
class ReportFlags:
  """Make tables and figures from finished runs."""

  directories: Annotated[
    tyro.conf.Positional[tuple[pathlib.Path, ...]], command_line.REQUIRED
  ] = ()
  """Run directories, or directories that contain them at any depth."""
  out: pathlib.Path = pathlib.Path('report')
  """Output directory of the report and its figures."""
  name: str = 'report.md'
  """Name of the Markdown file."""
  margin: float = 2.0
  """Margin of equivalence, in percent of the control's error."""


@dataclasses.dataclass(frozen=True)
class PackFlags:
  """Pack run directories into a few tables, which `report` also reads."""

  directories: Annotated[
    tyro.conf.Positional[tuple[pathlib.Path, ...]], command_line.REQUIRED
  ] = ()
  """Run directories, or directories that contain them at any depth."""
  out: pathlib.Path = pathlib.Path('packed')
  """Output directory of the tables."""


def main(argv: list[str]) -> int:
  """Runs a command; returns the exit code."""
  first = argv[0] if argv else ''
  try:
    try:
      return _answer(first, argv)
    finally:
      sys.stdout.flush()
  except SystemExit as stop:  # tyro has printed its message or the help.
    return int(stop.code or 0)
  except errors.UsageError as error:
    _tell(error)
    return 2
  except errors.RunError as error:
    _tell(error)
    return 1
  except OSError as error:
    # A reader may close the pipe early, as `head` does.
    is_closed = isinstance(error, BrokenPipeError)
    if not _give_up_output() and not is_closed:
      raise
    if not is_closed:
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
    _tell(f'stopped by {error.by.name}. The same command {_again(first)}.')
    return error.exit_code


def _again(first: str) -> str:
  """What an interrupted command does when it is repeated."""
  study = studies.STUDIES.get(first)
  if study is not None and study.resumes:
    return 'resumes from the finished networks, if there are any'
  if study is not None or first in ('eval', 'list', 'report', 'pack'):
    return 'starts from the beginning'
  return 'resumes from the last checkpoint, if there is one'


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
      f'There is no command {first!r}; the commands are {", ".join(commands)}.'
      f'{errors.did_you_mean(first, commands)}'
    )
  return _main_job(argv, started)


def _tell(what: object) -> None:
  """Prints a message to standard error, if possible."""
  with contextlib.suppress(OSError):
    print(f'python -m train: {what}', file=sys.stderr, flush=True)


def _give_up_output() -> bool:
  """Whether standard output cannot be written; if so, it is discarded."""
  try:
    print(flush=True)  # The failed output is no longer in the buffer.
    return False
  except OSError:
    # Otherwise Python reports the error again when it flushes at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _usage() -> str:
  lines = (
    f'{f"python -m train {study.name} {study.usage}":44} {study.summary}'
    for study in studies.STUDIES.values()
  )
  return _USAGE.format(studies='\n'.join(f'       {line}' for line in lines))


def _is_out_of_memory(error: Exception) -> bool:
  # JAX has no exception class for it, and more than one message.
  return isinstance(error, MemoryError) or any(
    sign in str(error) for sign in ('RESOURCE_EXHAUSTED', 'Out of memory')
  )


def _start_jax(configs: Iterable[config_lib.Config] = ()) -> None:
  """Configures the environment for these networks, before JAX is imported."""
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
    return 1  # Each run has reported its error.
  print(report.write([flags.run_dir], flags.run_dir))
  print(
    f'{time.monotonic() - started:.0f} s. The table and the figure are in'
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
        f'{experiment.name} takes the {changed.takes.value} from a finished run'
        f' of {changed.follows.name}: pass it as {flag}, or use `python -m'
        f' train sweep {experiment.name}`, which trains both.'
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
      '--coordinator, --process-id and --process-count must be given together,'
      ' or --distributed alone if JAX detects the cluster.'
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
        f'{config_lib.flag(seed)} is not a flag of sweep, whose seeds start at'
        ' --first-seed.'
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
        f'--grid must have distinct values, got {text!r}.'
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
      if all(_occurs(word, f'{e.name} {e.summary}') for word in flags.words)
    ]
    shown += len(found)
    if not found:
      continue
    size = max(found, key=lambda e: e.config.epochs).size
    print(f'{group}: {len(found)} experiments, {found[0].scale.title}; {size}')
    for experiment in found:
      # `run` does not know the run to follow.
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
    'To run one: python -m train run NAME. To run several, with seeds: python'
    ' -m train sweep GROUP or NAME...'
  )
  return 0


def _occurs(word: str, text: str) -> bool:
  """Whether a word is in a text, in either case. Numbers must be whole."""
  pattern = re.escape(word)
  if word[:1].isdigit():
    pattern = r'(?<![\d.])' + pattern
  if word[-1:].isdigit():
    pattern += r'(?!\.?\d)'
  return re.search(pattern, text, re.IGNORECASE) is not None


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
  _start_jax(study.networks(flags))
  with interruption.importing():
    module = study.load()
  settings = vars(flags).copy()
  out = settings.pop('out')
  if out is None:
    out = pathlib.Path(f'runs/{study.name}-{settings["dataset"]}')
  _check_out(out)
  if study.resumes:
    settings['parts'] = out / 'parts'
  record = module.measure(**settings, console=progress.console())
  study.write(record, out)
  for sentence in module.sentences(record):
    print(f'- {sentence}')
  print(f'The figure is in {out}.')
  return 0


def _check_out(out: pathlib.Path) -> None:
  """Raises UsageError before the work if its result cannot be written."""
  from train import files

  files.check_writable('--out', out)


def _survive_any_encoding() -> None:
  """Replaces characters that a terminal cannot encode with escapes."""
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')


if __name__ == '__main__':
  _survive_any_encoding()
  interruption.raise_at_once()
  _code = main(sys.argv[1:])
  interruption.end_at_once()
  sys.exit(_code)
