"""Trains one run, or several runs in one program.

The sections, in order: settings and data, program, run directories, network,
resume, compilation, epochs, summaries.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import functools
import pathlib
import time
from typing import Any

import jax
import numpy as np
import rich.console

from train import config as config_lib
from train import data
from train import experiments as experiments_lib
from train import files
from train import pictures
from train import progress
from train.devices import interruption
from train.devices import processes
from train.experiments import Experiment
from train.program import build
from train.program.step import StepMetrics
from train.records import checkpoint
from train.records import metrics
from train.records import ownership
from train.records import read
from train.records import run_directory
from train.records import weights_and_biases
from train.records.schema import Summary


def run(
  config: config_lib.Config,
  run_dir: pathlib.Path,
  *,
  experiment: Experiment | None = None,
  **options: Any,
) -> Summary:
  """Trains one network, or resumes an unfinished run. Skips a finished one.

  Args:
    config: The settings from the command line.
    run_dir: The run directory.
    experiment: The experiment of the run, for the records.
    **options: See :func:`run_together`.

  Returns:
    The contents of summary.json.

  Raises:
    UsageError: If a setting is out of range, the data cannot be loaded, or the
      directory contains another run.
  """
  return run_together([config], [run_dir], experiments=[experiment], **options)[
    0
  ]


def run_together(
  configs: Sequence[config_lib.Config],
  run_dirs: Sequence[pathlib.Path],
  *,
  experiments: Sequence[Experiment | None] | None = None,
  devices: Sequence[jax.Device] | None = None,
  title: str | None = None,
  console: rich.console.Console | None = None,
  wandb: str | None = None,
) -> list[Summary]:
  """Trains several networks at once, in one vmapped program.

  Each run has its own directory. It can be resumed alone or together with other
  runs, and its results equal those of a separate run up to rounding.

  Args:
    configs: The settings of the runs, see :func:`can_run_together`.
    run_dirs: The run directories.
    experiments: The experiments of the runs, for the records.
    devices: The devices over which a batch is sharded. Default: all.
    title: Name of the runs in the progress line. Default: the name of the first
      directory.
    console: Where progress is shown. Default: standard error.
    wandb: Project on Weights & Biases for the curves, if any.

  Returns:
    The contents of each summary.json.

  Raises:
    UsageError: See :func:`run`; or if another process owns a run.
    ValueError: If the runs cannot share one program.
  """
  with contextlib.ExitStack() as owned:
    return _run_together(
      configs, run_dirs, owned, experiments, devices, title, console, wandb
    )


def _run_together(
  configs: Sequence[config_lib.Config],
  run_dirs: Sequence[pathlib.Path],
  owned: contextlib.ExitStack,
  experiments: Sequence[Experiment | None] | None,
  devices: Sequence[jax.Device] | None,
  title: str | None,
  console: rich.console.Console | None,
  wandb: str | None,
) -> list[Summary]:
  """See :func:`run_together`, which closes ``owned``."""
  if not can_run_together(configs):
    raise ValueError(
      'Runs of one program may differ only in seeds, schedules and the'
      ' hyperparameters of their optimizer.'
    )
  if not processes.is_first():
    console = rich.console.Console(quiet=True)
  console = console or progress.console()
  say = functools.partial(
    console.print, highlight=False, markup=False, soft_wrap=True
  )
  started = time.monotonic()
  experiments = experiments or [None] * len(configs)

  # ------------------------------------------------------- settings and data
  if processes.several():
    of_this = run_directory.software()
    processes.check_equal(
      'software',
      {**of_this.pop('versions'), **of_this.pop('jax_settings'), **of_this},
    )
  directories = [run_directory.RunDirectory(path) for path in run_dirs]
  with processes.errors_of_any():
    if processes.is_first():
      # Before decoding the data, which may take minutes.
      for directory in directories:
        directory.check_writable()
      weights_and_biases.check(wandb)
    for config in configs:
      config_lib.check(config)
    config = configs[0]
    dataset = data.of_run(config)
  examples = len(dataset.train)
  steps_per_epoch = -(-examples // config.batch_size)
  resolved = [config_lib.resolve(c, steps_per_epoch) for c in configs]
  config = resolved[0]
  if processes.several():
    for own in resolved:
      processes.check_equal('settings', config_lib.of_all_processes(own))
    processes.check_equal('images', {config.dataset: dataset.sha256()})

  # ----------------------------------------------------------------- program
  program = build.Program(resolved, dataset, devices=devices)
  resolved = [
    dataclasses.replace(own, convolutions=program.convolutions)
    for own in resolved
  ]

  # --------------------------------------------------------- run directories
  def claim() -> list[Summary | None]:
    for d, given, own, experiment in zip(
      directories, configs, resolved, experiments, strict=True
    ):
      facts = experiment.record() if experiment else {'experiment': None}
      d.claim(
        given,
        own,
        program.devices,
        **facts,
        compute_dtype=program.dtype,
      )
    summaries = [d.read_summary() for d in directories]
    for d, summary in zip(directories, summaries, strict=True):
      if summary is None or summary['status'] != 'done':
        different = d.check_resume(
          program.devices,
          compute_dtype=program.dtype,
          convolutions=program.convolutions,
        )
        if different:
          say(
            f'{d.path} was started with {", ".join(different)}: its result may'
            ' differ from that of an uninterrupted run by rounding.'
          )
      for field in dict.fromkeys(d.notes):
        say(f'{d.path}: this version does not know the field {field}.')
    return summaries

  def take() -> list[Summary | None]:
    owned.enter_context(ownership.hold(run_dirs))
    return [d.read_summary() for d in directories]

  summaries = processes.from_first(claim)
  if not _any_done(summaries):
    # Read again, because another process may have finished one meanwhile.
    summaries = processes.from_first(take)
  is_done = [s is not None and s['status'] == 'done' for s in summaries]
  if _any_done(summaries):
    owned.close()
    for directory, done in zip(directories, is_done, strict=True):
      if done:
        say(f'{directory.path} is finished.')
    open_runs = [i for i, done in enumerate(is_done) if not done]
    if open_runs:
      made = run_together(
        [configs[i] for i in open_runs],
        [run_dirs[i] for i in open_runs],
        experiments=[experiments[i] for i in open_runs],
        devices=devices,
        title=title,
        console=console,
        wandb=wandb,
      )
      for i, ended in zip(open_runs, made, strict=True):
        summaries[i] = ended
    return [summary for summary in summaries if summary is not None]

  # --------------------------------------------------------- data and network
  runs = range(len(configs))
  train_images, test_images = program.place()
  validation_images = (
    None
    if dataset.validation is None
    else program.place_split(dataset.validation)
  )
  state = program.init()
  title = title or run_dirs[0].name
  held_out = (
    f', {len(dataset.validation):,} validation' if dataset.validation else ''
  )
  several = f'{len(configs)} runs of ' if len(configs) > 1 else ''
  say(
    f'{title}: {several}{program.title} with {program.count_parameters():,}'
    f' parameters in {program.dtype}, {examples:,} training{held_out} and'
    f' {len(dataset.test):,} test images, {len(program.devices)} x'
    f' {program.devices[0].device_kind}'
  )

  for note in dict.fromkeys(
    n for own in resolved for n in config_lib.notes(own, examples)
  ):
    say(f'{title}: {note}')

  # ------------------------------------------------------------------ resume
  checkpoints = [
    checkpoint.Checkpoints(d.checkpoints, steps_per_epoch) for d in directories
  ]
  steps_done, restored = checkpoint.restore_newest(
    checkpoints, program.shape_member(), say
  )
  # Metrics of the steps of this epoch so far.
  measured: list[StepMetrics] = []
  if restored:
    states, so_far = zip(*restored, strict=True)
    state = program.stack(states)
    if steps_done % steps_per_epoch:
      measured = [jax.tree.map(lambda *x: np.stack(x), *so_far)]
    say(
      f'{title}: resuming after epoch {steps_done // steps_per_epoch}, step'
      f' {steps_done % steps_per_epoch} of {steps_per_epoch}.'
    )
  elif any(summaries):
    say(f'{title}: there is no checkpoint; it starts from the beginning.')
  epochs_done, steps_done = divmod(steps_done, steps_per_epoch)
  logs = [
    metrics.MetricsLog(directory, epochs_done) for directory in directories
  ]
  for directory in directories:
    directory.write_summary({'status': 'incomplete'})

  # ------------------------------------------------------------- compilation
  compilation_started = time.monotonic()
  program.compile(steps_done)
  say(f'Compiled in {time.monotonic() - compilation_started:.1f} s.')

  # ------------------------------------------------------------------ epochs
  # For each run that diverged, the first step with a non-finite loss.
  diverged: dict[int, int] = {}
  saved_at = time.monotonic()

  def save(epoch: int, steps_done: int) -> None:
    """Writes a checkpoint of each run that has not diverged."""
    nonlocal saved_at
    # Orbax transfers arrays implicitly.
    with jax.transfer_guard('allow'):
      of_steps = build.each_by_member(jax.device_get(measured))
      for i, finite in enumerate(program.are_finite(state)):
        if not finite and i not in diverged:
          diverged[i] = (epoch - 1) * steps_per_epoch + (
            metrics.first_not_finite(of_steps[i], steps_done)
          )
      if processes.is_first():
        for i, own_state in enumerate(program.fetch(state)):
          if i not in diverged:
            done = (epoch - 1) * steps_per_epoch + steps_done
            checkpoints[i].save(done, own_state, of_steps[i])
    # After it, as Orbax creates a directory that is gone.
    ownership.check(run_dirs)
    saved_at = time.monotonic()

  shown = progress.Progress(
    console,
    title,
    config.epochs,
    steps_per_epoch,
    steps_done=epochs_done * steps_per_epoch + steps_done,
  )
  watched = weights_and_biases.Runs(wandb, directories, logs, say)
  with (
    interruption.Interruption() as interrupted,
    watched,
    shown,
    jax.transfer_guard('disallow'),
  ):
    for epoch in range(epochs_done + 1, config.epochs + 1):
      with_epoch = program.epoch(epoch)
      jax.block_until_ready(with_epoch)
      epoch_started = time.monotonic()
      paused = 0.0
      first_step = steps_done
      for size, steps in program.plan(steps_done):
        state, step_metrics = program.train(
          state, train_images, with_epoch, size, steps
        )
        if measured and shown.wants_step():
          loss = jax.device_get(measured[-1].loss)[..., -1]
          shown.step(epoch, steps_done, float(loss.mean()))
        measured.append(step_metrics)
        steps_done += steps
        if steps_done == steps_per_epoch:
          break
        is_time, stop = processes.agree(
          time.monotonic() - saved_at > config.checkpoint_seconds,
          interrupted.by,
        )
        if is_time or stop:
          jax.block_until_ready(state)
          pause_started = time.monotonic()
          save(epoch, steps_done)
          interruption.stop_if(stop)
          paused += time.monotonic() - pause_started
          if len(diverged) == len(configs):
            break
      jax.block_until_ready(state)
      train_seconds = time.monotonic() - epoch_started - paused
      if len(diverged) == len(configs):
        break

      tested = [
        experiments_lib.is_tested(e, epoch, config.epochs, config.eval_every)
        for e in experiments
      ]
      of_test = of_validation = None
      if any(tested):
        of_test = build.each_by_member(
          jax.device_get(program.evaluate(state, test_images))
        )
        if validation_images is not None:
          of_validation = build.each_by_member(
            jax.device_get(program.evaluate(state, validation_images))
          )
      of_steps = build.each_by_member(jax.device_get(measured))

      def test_figures(i: int) -> dict[str, float]:
        figures: dict[str, float] = {}
        for split, of_split, images in (
          ('test', of_test, dataset.test),
          ('validation', of_validation, dataset.validation),
        ):
          if of_split is not None and images is not None:
            figures |= metrics.summarize_test(of_split[i], len(images), split)
        return figures

      last_rates = program.learning_rates(epoch)[:, -1]
      ownership.check(run_dirs)
      for i in runs:
        if i in diverged:
          continue
        row: Any = files.finite(
          {
            'epoch': epoch,
            'step': epoch * steps_per_epoch,
            **metrics.summarize_epoch(of_steps[i], config.batch_size, examples),
            **(test_figures(i) if tested[i] else {}),
            'learning_rate': float(last_rates[i]),
            'images_per_second': (examples - first_step * config.batch_size)
            / train_seconds,
            'seconds': time.monotonic() - epoch_started,
          }
        )
        logs[i].append(row, of_steps[i])
        watched.log(i)
      shown.epoch(_mean_row([log.rows[-1] for log in logs if log.rows]))
      is_last = epoch == config.epochs
      _, stop = processes.agree(False, interrupted.by)
      if epoch % config.checkpoint_every == 0 or is_last or stop:
        save(epoch, steps_per_epoch)
        if not is_last:
          interruption.stop_if(stop)
      if len(diverged) == len(configs):
        break
      measured, steps_done = [], 0

  # --------------------------------------------------------------- summaries
  states = program.fetch(state)
  written: list[Summary] = []
  for i, (directory, log) in enumerate(zip(directories, logs, strict=True)):
    checkpoints[i].close()
    log.close()
    if i not in diverged and processes.is_first():
      with files.writing(directory.weights):
        files.replace(
          directory.weights,
          functools.partial(program.write_weights, states[i]),
        )
    last: dict[str, Any] = {'epoch': 0, 'step': 0}
    if log.rows:
      last = {**log.rows[-1]}
    summary: Summary = {
      'status': 'diverged' if i in diverged else 'done',
      'final_test_error': last.get('test_error'),
      'best_test_error': log.best_test_error(),
      'final_train_loss': last.get('train_loss'),
      'epochs': last['epoch'],
      'steps': last['step'],
      'params_sha256': run_directory.params_sha256(states[i].params),
      'runs_together': len(configs),
      'seconds': time.monotonic() - started,
    }
    if i in diverged:
      summary['diverged_at_step'] = diverged[i]
      say(f'{directory.path} diverged at step {diverged[i]}.')
    directory.write_summary(summary)
    watched.finish(i, summary)
    written.append(summary)
    if log.rows and processes.is_first():
      experiment = experiments[i]
      name = experiment.name if experiment else config.dataset
      drawn = f'{name}, seed {resolved[i].seed}'
      _draw(directory, log, resolved[i], drawn, say)
  return written


def _draw(
  directory: run_directory.RunDirectory,
  log: metrics.MetricsLog,
  config: config_lib.Resolved,
  title: str,
  say: Callable[[str], Any],
) -> None:
  """Draws the figures of a run. Errors are only reported.

  The run itself is complete, and its summary is written.
  """
  try:
    pictures.draw_run(log.rows, directory.picture, title)
    steps = read.steps(directory.path)
    if any(row['horizontal'] for row in steps):
      settings = config_lib.to_json(config)
      pictures.draw_phases(steps, settings, directory.phases, title)
  except Exception as error:  # Of many kinds: fonts, memory, a full disk.
    reason = ' '.join(str(error).split()) or type(error).__name__
    say(f'{directory.path}: a figure cannot be drawn: {reason}')


def can_run_together(configs: Sequence[config_lib.Config]) -> bool:
  """Whether runs can share one program.

  Args:
    configs: Their settings, see :func:`train.program.build.can_share`.
  """
  return build.can_share(configs)


def _any_done(summaries: Sequence[Summary | None]) -> bool:
  return any(s is not None and s['status'] == 'done' for s in summaries)


def _mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """The mean row of an epoch of several runs, for the progress line."""
  newest = max(row['epoch'] for row in rows)
  alive = [row for row in rows if row['epoch'] == newest]
  return {
    name: None
    if any(row[name] is None for row in alive)
    else sum(row[name] for row in alive) / len(alive)
    for name in alive[0]
    # Only some of the runs may be tested after this epoch.
    if all(name in row for row in alive)
  } | {'epoch': newest}
