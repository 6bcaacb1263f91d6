"""One run, from top to bottom.

Settings and data, devices, run directory, optimizer, model, compilation,
resume, epochs, summary.
"""

import functools
import pathlib
import time
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np
import rich.console

import models
from train import augmentation
from train import checkpoint
from train import config as config_lib
from train import data
from train import followed_run
from train import metrics
from train import optimizers
from train import progress
from train import report
from train import run_directory
from train import schedules
from train import step as step_lib

# Each kind of randomness has a stream of its own, also under one seed.
_INIT, _ORDER, _AUGMENTATION, _DROPOUT = range(4)

_MOST_STEPS_PER_DISPATCH = 100


def run(
  config: config_lib.Config,
  run_dir: pathlib.Path,
  *,
  experiment: str | None = None,
  title: str | None = None,
  console: rich.console.Console | None = None,
) -> dict[str, Any]:
  """Trains one network, or goes on with it, or sees that it is done.

  Args:
    config: The settings, as the command line gave them.
    run_dir: Where the run is written.
    experiment: Name of the experiment, for the records.
    title: What the progress line calls the run. Default: the directory's name.
    console: Where progress is shown. Default: standard error.

  Returns:
    The content of summary.json.

  Raises:
    UsageError: A setting is out of range, the data cannot be had, or the
      directory holds another run.
  """
  console = console or rich.console.Console(stderr=True)
  say = functools.partial(
    console.print, highlight=False, markup=False, soft_wrap=True
  )
  started = time.monotonic()

  # ------------------------------------------------------- settings and data
  config_lib.check(config)
  config = followed_run.take_over(config)
  dataset = data.load(
    config.dataset, config.data_dir, config.train_examples, config.image_size
  )
  examples = len(dataset.train)
  steps_per_epoch = -(-examples // config.batch_size)
  given, config = config, config_lib.resolve(config, steps_per_epoch)

  # ----------------------------------------------------------------- devices
  devices = jax.devices()
  on_cpu = devices[0].platform == 'cpu'
  dtype = config.dtype
  if dtype == 'auto':
    dtype = 'float32' if on_cpu else 'bfloat16'
  mesh = jax.make_mesh((len(devices),), ('batch',), axis_types=(AxisType.Auto,))
  replicated = NamedSharding(mesh, PartitionSpec())
  by_batch = NamedSharding(mesh, PartitionSpec('batch'))

  # ----------------------------------------------------------- run directory
  directory = run_directory.RunDirectory(run_dir)
  directory.claim(given, config, experiment=experiment, compute_dtype=dtype)
  summary = directory.read_summary()
  if summary is not None and summary['status'] == 'done':
    say(f'{run_dir} is finished.')
    return summary

  # ---------------------------------------------------------- data on device
  train_images, test_images = jax.device_put(
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

  order_key = _key(config.order_seed, _ORDER)
  keys = step_lib.Keys(
    augmentation=_key(config.augmentation_seed, _AUGMENTATION),
    dropout=_key(config.dropout_seed, _DROPOUT),
  )
  keys, order_key = jax.device_put((keys, order_key), replicated)
  order_of_epoch = jax.jit(
    lambda key, epoch: jax.random.permutation(
      jax.random.fold_in(key, epoch), examples
    ),
    out_shardings=replicated,
  )

  # --------------------------------------------------------------- optimizer
  schedule = schedules.make_schedule(config, steps_per_epoch)
  last_steps = steps_per_epoch * jnp.arange(1, config.epochs + 1) - 1
  learning_rates = jax.device_get(jax.vmap(schedule)(last_steps))
  optimizer = optimizers.make_optimizer(config, schedule, steps_per_epoch)

  # ------------------------------------------------------------------- model
  def make_model(key: jax.Array) -> nnx.Module:
    return models.WideResNet(
      config.depth,
      config.widen_factor,
      dataset.num_classes,
      config.dropout_rate,
      in_channels=dataset.train.images.shape[-1],
      dtype=jnp.dtype(dtype),
      # The steps bring dropout keys of their own.
      rngs=nnx.Rngs(params=key, dropout=0),
    )

  graphdef = nnx.graphdef(nnx.eval_shape(make_model, jax.random.key(0)))

  @functools.partial(jax.jit, out_shardings=replicated)
  def init(key: jax.Array) -> tuple[step_lib.TrainState, Any]:
    return step_lib.init_state(make_model(key), optimizer)

  state, unused_streams = init(_key(config.init_seed, _INIT))

  parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  say(
    f'{title or run_dir.name}: WRN-{config.depth}-{config.widen_factor} with'
    f' {parameters:,} parameters in {dtype}, {examples:,} training and'
    f' {len(dataset.test):,} test images, {len(devices)} x'
    f' {devices[0].device_kind}'
  )

  # ------------------------------------------------------------- compilation
  compilation_started = time.monotonic()
  train_steps = jax.jit(
    step_lib.repeat(
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
    ),
    static_argnames=('batch_size', 'steps'),
    donate_argnames='state',
    out_shardings=replicated,
  )
  eval_step = jax.jit(
    step_lib.make_eval_step(
      graphdef,
      unused_streams,
      examples=len(dataset.test),
      mean=mean,
      deviation=deviation,
      batch_sharding=by_batch,
    ),
    static_argnames='batch_size',
    out_shardings=replicated,
  )

  dispatches = _plan_epoch(config, examples, on_cpu)
  order = order_of_epoch(order_key, jax.device_put(np.int32(0), replicated))
  compiled_train = {
    (size, steps): train_steps.lower(
      state, train_images, order, keys, batch_size=size, steps=steps
    ).compile()
    for size, steps in set(dispatches)
  }
  eval_starts = jax.device_put(
    list(
      np.arange(0, len(dataset.test), config.eval_batch_size, dtype=np.int32)
    ),
    replicated,
  )
  compiled_eval = eval_step.lower(
    state.params,
    state.batch_stats,
    test_images,
    eval_starts[0],
    batch_size=config.eval_batch_size,
  ).compile()

  say(f'Compiled in {time.monotonic() - compilation_started:.1f} s.')

  # ------------------------------------------------------------------ resume
  checkpoints = checkpoint.Checkpoints(directory.checkpoints)
  epochs_done = 0
  restored = checkpoints.restore_latest(state)
  if restored is not None:
    epochs_done, state = restored
    say(f'{run_dir}: going on after epoch {epochs_done}.')
  log = metrics.MetricsLog(
    directory.metrics, directory.tensorboard, epochs_done
  )
  directory.write_summary({'status': 'incomplete'})

  # ------------------------------------------------------------------ epochs
  status = 'done'
  shown = progress.Progress(
    console, title or run_dir.name, config.epochs, steps_per_epoch
  )
  with shown, jax.transfer_guard('disallow'):
    for epoch in range(epochs_done + 1, config.epochs + 1):
      epoch_on_device = jax.device_put(np.int32(epoch), replicated)
      order = order_of_epoch(order_key, epoch_on_device)
      jax.block_until_ready(order)
      epoch_started = time.monotonic()
      measured: list[step_lib.StepMetrics] = []
      steps_done = 0
      for size, steps in dispatches:
        state, step_metrics = compiled_train[size, steps](
          state, train_images, order, keys
        )
        if measured and shown.wants_step():
          loss = jax.device_get(measured[-1].loss)[-1]
          shown.step(epoch, steps_done, float(loss))
        measured.append(step_metrics)
        steps_done += steps
      jax.block_until_ready(state)
      train_seconds = time.monotonic() - epoch_started

      tested = [
        compiled_eval(state.params, state.batch_stats, test_images, start)
        for start in eval_starts
      ]
      row = run_directory.finite(
        {
          'epoch': epoch,
          'step': epoch * steps_per_epoch,
          **metrics.summarize_epoch(
            jax.device_get(measured),
            [size for size, steps in dispatches for _ in range(steps)],
          ),
          **metrics.summarize_test(jax.device_get(tested), len(dataset.test)),
          'learning_rate': float(learning_rates[epoch - 1]),
          'images_per_second': examples / train_seconds,
          'seconds': time.monotonic() - epoch_started,
        }
      )
      log.append(row)
      shown.epoch(row)
      if row['train_loss'] is None:
        status = 'diverged'
        break
      if epoch % config.checkpoint_every == 0 or epoch == config.epochs:
        # Orbax fetches arrays in its own ways.
        with jax.transfer_guard('allow'):
          checkpoints.save(epoch, state)

  # ----------------------------------------------------------------- summary
  checkpoints.close()
  log.close()
  report.draw_run(
    log.rows,
    directory.picture,
    f'{experiment or config.dataset}, seed {config.seed}',
  )
  summary = {
    'status': status,
    'final_test_error': log.rows[-1]['test_error'],
    'best_test_error': log.best_test_error(),
    'final_train_loss': log.rows[-1]['train_loss'],
    'epochs': log.rows[-1]['epoch'],
    'steps': log.rows[-1]['step'],
    'params_sha256': run_directory.params_sha256(state.params),
    'seconds': time.monotonic() - started,
  }
  directory.write_summary(summary)
  return summary


def _key(seed: int | None, stream: int) -> jax.Array:
  return jax.random.fold_in(jax.random.key(config_lib.known(seed)), stream)


def _plan_epoch(
  config: config_lib.Config, examples: int, on_cpu: bool
) -> list[tuple[int, int]]:
  """The dispatches of one epoch, each as (batch size, steps)."""
  full, last = divmod(examples, config.batch_size)
  most = config.steps_per_dispatch or (
    1 if on_cpu else _MOST_STEPS_PER_DISPATCH
  )
  # Dispatches of one length, so that they share one compiled program.
  length = max(
    n for n in range(1, min(most, max(full, 1)) + 1) if full % n == 0
  )
  plan = [(config.batch_size, length)] * (full // length)
  return [*plan, (last, 1)] if last else plan
