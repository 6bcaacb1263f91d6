"""One run from top to bottom, or several seeds of it in one program.

Settings and data, devices, run directories, optimizer, model, resume,
compilation, epochs, summaries.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import pathlib
import time
from typing import Any, TypeVar

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np
import rich.console

from train import augmentation
from train import checkpoint
from train import config as config_lib
from train import data
from train import followed_run
from train import interruption
from train import metrics
from train import networks
from train import optimizers
from train import processes
from train import progress
from train import report
from train import run_directory
from train import schedules
from train import step as step_lib
from train import weights_and_biases

# Each kind of randomness has a stream of its own, also under one seed.
_INIT, _ORDER, _AUGMENTATION, _DROPOUT = range(4)

_Metrics = TypeVar('_Metrics', step_lib.StepMetrics, step_lib.EvalMetrics)

_MOST_STEPS_PER_DISPATCH = 100


def run(
  config: config_lib.Config, run_dir: pathlib.Path, **options: Any
) -> dict[str, Any]:
  """Trains one network, or goes on with it, or sees that it is done.

  Args:
    config: The settings, as the command line gave them.
    run_dir: Where the run is written.
    **options: See :func:`run_together`.

  Returns:
    The content of summary.json.

  Raises:
    UsageError: A setting is out of range, the data cannot be had, or the
      directory holds another run.
  """
  return run_together([config], [run_dir], **options)[0]


def run_together(
  configs: Sequence[config_lib.Config],
  run_dirs: Sequence[pathlib.Path],
  *,
  experiment: str | None = None,
  title: str | None = None,
  console: rich.console.Console | None = None,
  wandb: str | None = None,
) -> list[dict[str, Any]]:
  """Trains networks of several seeds at once, in one vmapped program.

  Each has a run directory as if it had run alone, and may be gone on with alone
  or in other company. What it computes is what it would alone, up to rounding.

  Args:
    configs: The settings of the runs, see :func:`can_run_together`.
    run_dirs: Where the runs are written.
    experiment: Name of the experiment, for the records.
    title: What the progress line calls the runs. Default: the name of the first
      directory.
    console: Where progress is shown. Default: standard error.
    wandb: Project on Weights & Biases to send the curves to, if any.

  Returns:
    The content of each summary.json.

  Raises:
    UsageError: See :func:`run`.
    ValueError: The runs cannot be one program.
  """
  if not can_run_together(configs):
    raise ValueError('Runs of one program must differ in their seeds alone.')
  if not processes.is_first():
    console = rich.console.Console(quiet=True)
  console = console or rich.console.Console(stderr=True)
  say = functools.partial(
    console.print, highlight=False, markup=False, soft_wrap=True
  )
  started = time.monotonic()

  # ------------------------------------------------------- settings and data
  directories = [run_directory.RunDirectory(path) for path in run_dirs]
  with processes.errors_of_any():
    if processes.is_first():
      # Before the data are decoded, which may take minutes.
      for directory in directories:
        directory.check_writable()
      weights_and_biases.check(wandb)
    for config in configs:
      config_lib.check(config)
    configs = [followed_run.take_over(config) for config in configs]
    config = configs[0]
    dataset = data.load(
      config.dataset, config.data_dir, config.train_examples, config.image_size
    )
  examples = len(dataset.train)
  steps_per_epoch = -(-examples // config.batch_size)
  resolved = [config_lib.resolve(c, steps_per_epoch) for c in configs]
  config = resolved[0]
  if processes.several():
    for own in resolved:
      processes.check_equal('settings', config_lib.of_all_processes(own))
    processes.check_equal('images', {config.dataset: dataset.sha256()})

  # ----------------------------------------------------------------- devices
  devices = jax.devices()
  on_cpu = devices[0].platform == 'cpu'
  dtype = config.dtype
  if dtype == 'auto':
    dtype = 'float32' if on_cpu else 'bfloat16'
  mesh = jax.make_mesh(
    (len(devices),), ('batch',), axis_types=(AxisType.Auto,), devices=devices
  )
  replicated = NamedSharding(mesh, PartitionSpec())
  by_batch = NamedSharding(mesh, PartitionSpec('batch'))

  # --------------------------------------------------------- run directories
  def claim() -> list[dict[str, Any] | None]:
    for d, given, own in zip(directories, configs, resolved, strict=True):
      d.claim(given, own, experiment=experiment, compute_dtype=dtype)
    return [d.read_summary() for d in directories]

  summaries = processes.from_first(claim)
  is_done = [s is not None and s['status'] == 'done' for s in summaries]
  if any(is_done):
    for directory, done in zip(directories, is_done, strict=True):
      if done:
        say(f'{directory.path} is finished.')
    open_runs = [i for i, done in enumerate(is_done) if not done]
    if open_runs:
      made = run_together(
        [configs[i] for i in open_runs],
        [run_dirs[i] for i in open_runs],
        experiment=experiment,
        title=title,
        console=console,
        wandb=wandb,
      )
      for i, summary in zip(open_runs, made, strict=True):
        summaries[i] = summary
    return [config_lib.known(summary) for summary in summaries]

  # ---------------------------------------------------------- data on device
  train_images, test_images = processes.replicate(
    tuple(
      step_lib.Images(split.images, split.labels)
      for split in (dataset.train, dataset.test)
    ),
    replicated,
  )
  mean, deviation = dataset.channel_statistics()
  if config.normalization == 'imagenet':
    mean = np.asarray(augmentation.IMAGENET_MEAN, np.float32)
    deviation = np.asarray(augmentation.IMAGENET_DEVIATION, np.float32)

  # A single run has no leading axis: vmap makes convolutions slower.
  together = len(configs) > 1
  runs = range(len(configs))

  def over_runs(fn: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
    return jax.vmap(fn, in_axes) if together else fn

  @functools.partial(jax.jit, static_argnums=(0, 1), out_shardings=replicated)
  def own_keys(seed: str, stream: int) -> jax.Array:
    all_keys = jnp.stack([_key(getattr(c, seed), stream) for c in resolved])
    return all_keys if together else all_keys[0]

  order_key = own_keys('order_seed', _ORDER)
  keys = step_lib.Keys(
    augmentation=own_keys('augmentation_seed', _AUGMENTATION),
    dropout=own_keys('dropout_seed', _DROPOUT),
  )

  def permutation(key: jax.Array, epoch: jax.Array) -> jax.Array:
    return jax.random.permutation(jax.random.fold_in(key, epoch), examples)

  order_of_epoch = jax.jit(
    over_runs(permutation, (0, None)), out_shardings=replicated
  )

  # --------------------------------------------------------------- optimizer
  schedule = schedules.make_schedule(config, steps_per_epoch)
  last_steps = steps_per_epoch * jnp.arange(1, config.epochs + 1) - 1
  learning_rates = jax.device_get(jax.vmap(schedule)(last_steps))
  optimizer = optimizers.make_optimizer(config, schedule, steps_per_epoch)

  # ------------------------------------------------------------------- model
  make_model = functools.partial(networks.make_network, config, dataset, dtype)
  graphdef = nnx.graphdef(nnx.eval_shape(make_model, jax.random.key(0)))

  def init(key: jax.Array) -> tuple[step_lib.TrainState, Any]:
    return step_lib.init_state(make_model(key), optimizer)

  init_key = own_keys('init_seed', _INIT)
  state, _ = jax.jit(over_runs(init), out_shardings=replicated)(init_key)
  _, unused_streams = jax.jit(
    lambda: init(jax.random.key(0)), out_shardings=replicated
  )()

  parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  parameters //= len(configs)
  title = title or run_dirs[0].name
  several = f'{len(configs)} runs of ' if together else ''
  say(
    f'{title}: {several}WRN-{config.depth}-{config.widen_factor} with'
    f' {parameters:,} parameters in {dtype}, {examples:,} training and'
    f' {len(dataset.test):,} test images, {len(devices)} x'
    f' {devices[0].device_kind}'
  )

  # ------------------------------------------------------------------ resume
  @functools.partial(jax.jit, out_shardings=replicated)
  def apart(state: step_lib.TrainState) -> list[step_lib.TrainState]:
    """The state of each run, as it is without the leading axis."""
    if not together:
      return [state]
    return [jax.tree.map(lambda x: x[i], state) for i in range(len(configs))]

  checkpoints = [
    checkpoint.Checkpoints(d.checkpoints, steps_per_epoch) for d in directories
  ]
  steps_done, restored = checkpoint.restore_newest(
    checkpoints, apart(state), say
  )
  measured: list[step_lib.StepMetrics] = []
  if restored:
    states, so_far = zip(*restored, strict=True)
    state, epoch_so_far = states[0], so_far[0]
    if together:
      state = jax.device_put(
        jax.tree.map(lambda *x: jnp.stack(x), *states), replicated
      )
      epoch_so_far = jax.tree.map(lambda *x: np.stack(x), *so_far)
    if steps_done % steps_per_epoch:
      measured = [epoch_so_far]
    say(
      f'{title}: going on after epoch {steps_done // steps_per_epoch}, step'
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
  train_steps = step_lib.repeat(
    step_lib.make_train_step(
      config,
      graphdef,
      unused_streams,
      optimizer,
      steps_per_epoch=steps_per_epoch,
      crop_padding=dataset.crop_padding,
      flip=dataset.flip,
      mean=mean,
      deviation=deviation,
      batch_sharding=by_batch,
    )
  )
  eval_step = step_lib.make_eval_step(
    graphdef,
    unused_streams,
    examples=len(dataset.test),
    mean=mean,
    deviation=deviation,
    batch_sharding=by_batch,
  )

  plan_epoch = functools.partial(
    _plan_epoch,
    config.batch_size,
    examples,
    config.steps_per_dispatch or (1 if on_cpu else _MOST_STEPS_PER_DISPATCH),
  )
  order = order_of_epoch(
    order_key, processes.replicate(np.int32(0), replicated)
  )
  # Also keeps XLA from choosing algorithms by how fast they happen to be.
  compiler_options: dict[str, str | bool] = {
    'xla_gpu_deterministic_ops': config.deterministic
  }
  compiled_train = {
    (size, steps): jax.jit(
      over_runs(
        functools.partial(train_steps, batch_size=size, steps=steps),
        (0, None, 0, 0),
      ),
      donate_argnums=0,
      out_shardings=replicated,
    )
    .lower(state, train_images, order, keys)
    .compile(compiler_options)
    for size, steps in {*plan_epoch(), *plan_epoch(steps_done)}
  }
  eval_starts = processes.replicate(
    list(
      np.arange(0, len(dataset.test), config.eval_batch_size, dtype=np.int32)
    ),
    replicated,
  )
  compiled_eval = (
    jax.jit(
      over_runs(
        functools.partial(eval_step, batch_size=config.eval_batch_size),
        (0, 0, None, None),
      ),
      out_shardings=replicated,
    )
    .lower(state.params, state.batch_stats, test_images, eval_starts[0])
    .compile(compiler_options)
  )

  def all_finite(params: Any) -> jax.Array:
    """shape=(runs,): whether all parameters of each run are finite."""
    return jnp.stack(
      [
        jnp.isfinite(leaf).reshape(len(configs), -1).all(-1)
        for leaf in jax.tree.leaves(params)
      ]
    ).all(0)

  are_finite = (
    jax.jit(all_finite, out_shardings=replicated).lower(state.params).compile()
  )

  say(f'Compiled in {time.monotonic() - compilation_started:.1f} s.')

  # ------------------------------------------------------------------ epochs
  # First step at which the loss was not finite, of the runs that diverged.
  diverged: dict[int, int] = {}
  saved_at = time.monotonic()

  def save(epoch: int, steps_done: int) -> None:
    """Writes a checkpoint of each run that has not diverged by now."""
    nonlocal saved_at
    # Orbax fetches arrays in its own ways.
    with jax.transfer_guard('allow'):
      of_steps = [_of_run(jax.device_get(measured), i, together) for i in runs]
      for i, finite in enumerate(jax.device_get(are_finite(state.params))):
        if not finite and i not in diverged:
          diverged[i] = (epoch - 1) * steps_per_epoch + (
            metrics.first_not_finite(of_steps[i], steps_done)
          )
      states = apart(state)
      for i in runs:
        if i not in diverged:
          checkpoints[i].save(
            (epoch - 1) * steps_per_epoch + steps_done, states[i], of_steps[i]
          )
    saved_at = time.monotonic()

  shown = progress.Progress(console, title, config.epochs, steps_per_epoch)
  watched = weights_and_biases.Runs(wandb, directories, logs, say)
  with (
    interruption.Interruption() as interrupted,
    watched,
    shown,
    jax.transfer_guard('disallow'),
  ):
    for epoch in range(epochs_done + 1, config.epochs + 1):
      epoch_on_device = processes.replicate(np.int32(epoch), replicated)
      order = order_of_epoch(order_key, epoch_on_device)
      jax.block_until_ready(order)
      epoch_started = time.monotonic()
      paused = 0.0
      first_step = steps_done
      for size, steps in plan_epoch(steps_done):
        state, step_metrics = compiled_train[size, steps](
          state, train_images, order, keys
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
        compiled_eval(state.params, state.batch_stats, test_images, start)
        for start in eval_starts
      ]
      of_steps = jax.device_get(measured)
      of_test = jax.device_get(tested)
      for i in runs:
        if i in diverged:
          continue
        own_steps = _of_run(of_steps, i, together)
        row = run_directory.finite(
          {
            'epoch': epoch,
            'step': epoch * steps_per_epoch,
            **metrics.summarize_epoch(own_steps, config.batch_size, examples),
            **metrics.summarize_test(
              _of_run(of_test, i, together), len(dataset.test)
            ),
            'learning_rate': float(learning_rates[epoch - 1]),
            'images_per_second': (examples - first_step * config.batch_size)
            / train_seconds,
            'seconds': time.monotonic() - epoch_started,
          }
        )
        logs[i].append(row, own_steps)
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
  states = apart(state)
  written: list[dict[str, Any]] = []
  for i, (directory, log) in enumerate(zip(directories, logs, strict=True)):
    checkpoints[i].close()
    log.close()
    if log.rows and processes.is_first():
      picture_title = f'{experiment or config.dataset}, seed {resolved[i].seed}'
      with run_directory.writing(directory.picture):
        report.draw_run(log.rows, directory.picture, picture_title)
      steps_rows = metrics.read_rows(directory.steps)
      if any(row['horizontal'] for row in steps_rows):
        with run_directory.writing(directory.phases):
          settings = config_lib.to_json(config)
          report.draw_phases(
            steps_rows, settings, directory.phases, picture_title
          )
    last = log.rows[-1] if log.rows else {'epoch': 0, 'step': 0}
    summary = {
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
  return written


def can_run_together(configs: Sequence[config_lib.Config]) -> bool:
  """Whether runs can be one program.

  They can if they differ in nothing but their seeds, and their optimizer draws
  no random numbers of its own.
  """
  no_seeds: dict[str, Any] = dict.fromkeys(config_lib.SEEDS)
  without_seeds = {dataclasses.replace(c, **no_seeds) for c in configs}
  return len(configs) == 1 or (
    len(without_seeds) == 1 and configs[0].optimizer != 'coin'
  )


def _of_run(
  measured: Sequence[_Metrics], i: int, together: bool
) -> list[_Metrics]:
  """The metrics of one run from those of all: NamedTuples of NumPy arrays."""
  if not together:
    return list(measured)
  return [type(m)(*(field[i] for field in m)) for m in measured]


def _mean_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """What is shown of an epoch of several runs."""
  newest = max(row['epoch'] for row in rows)
  alive = [row for row in rows if row['epoch'] == newest]
  return {
    name: None
    if any(row[name] is None for row in alive)
    else sum(row[name] for row in alive) / len(alive)
    for name in alive[0]
  } | {'epoch': newest}


def _key(seed: int | None, stream: int) -> jax.Array:
  return jax.random.fold_in(jax.random.key(config_lib.known(seed)), stream)


def _plan_epoch(
  batch_size: int, examples: int, most_steps: int, steps_done: int = 0
) -> Iterator[tuple[int, int]]:
  """The dispatches of an epoch, or its rest, each as (batch size, steps)."""
  full, last = divmod(examples, batch_size)
  # Dispatches of one length, so that they share one compiled program.
  length = max(
    n for n in range(1, min(most_steps, max(full, 1)) + 1) if full % n == 0
  )
  while steps_done < full:
    # One by one up to where a longer dispatch begins.
    steps = length if steps_done % length == 0 else 1
    yield batch_size, steps
    steps_done += steps
  if last and steps_done == full:
    yield last, 1
