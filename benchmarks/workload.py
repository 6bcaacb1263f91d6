"""The program of a run: its steps and epochs without the training loop.

Unless a data set is given, the images are noise of its shape, because their
content does not affect the time.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from train import config as config_lib
from train import data
from train.program import build

_CIFAR_CLASSES = {'cifar10': 10, 'cifar100': 100}


def noise(
  examples: int, size: int = 32, channels: int = 3, padding: int = 4
) -> data.Dataset:
  """Random images with the augmentation of CIFAR."""
  random = np.random.default_rng(0)

  def split(count: int) -> data.Split:
    shape = (count, size, size, channels)
    return data.Split(
      random.integers(0, 256, shape, np.uint8),
      random.integers(0, 10, count, np.int32),
    )

  return data.Dataset(
    'noise',
    num_classes=10,
    train=split(examples),
    test=split(max(1, examples // 10)),
    crop_padding=padding,
    flip=True,
  )


def blank(config: config_lib.Config) -> data.Dataset:
  """Black images with the number and shape of those of a run.

  This does not need the files of CIFAR. Untouched zero pages take no memory.
  """
  classes = _CIFAR_CLASSES.get(config.dataset)
  limits = (config.train_examples, config.image_size)
  if classes is None:
    return data.load(config.dataset, config.data_dir, *limits)

  def split(count: int) -> data.Split:
    return data.Split(
      np.zeros((count, 32, 32, 3), np.uint8), np.zeros(count, np.int32)
    )

  splits = data.Splits(classes, split(50_000), split(10_000))
  return data.prepare(config.dataset, splits, *limits)


def of_network(
  depth: int,
  widen_factor: int,
  batch_size: int,
  *,
  devices: Sequence[jax.Device] | None = None,
  **settings: Any,
) -> build.Program:
  """A Wide ResNet on noise in the shape of CIFAR-10, for a few steps."""
  config = config_lib.Config(
    dataset='cifar10',
    depth=depth,
    widen_factor=widen_factor,
    batch_size=batch_size,
    **settings,
  )
  return of_run(config, noise(4 * batch_size), devices=devices)


def of_run(
  config: config_lib.Config,
  dataset: data.Dataset,
  *,
  seeds: int = 1,
  devices: Sequence[jax.Device] | None = None,
  param_dtype: str = 'float32',
) -> build.Program:
  """The program of a run.

  Args:
    config: The settings.
    dataset: The images.
    seeds: Number of seeds in one vmapped program.
    devices: The devices of the batch. Default: the first device.
    param_dtype: dtype of the parameters and of the trace; float32 in a run.
  """
  steps_per_epoch = -(-len(dataset.train) // config.batch_size)
  return build.Program(
    [
      config_lib.resolve(
        dataclasses.replace(config, seed=seed), steps_per_epoch
      )
      for seed in range(seeds)
    ],
    dataset,
    devices=devices or jax.devices()[:1],
    param_dtype=param_dtype,
  )


def start(
  program: build.Program, compiled: Any = None
) -> Callable[[int], None]:
  """Returns a function that runs n dispatches.

  Args:
    program: A program.
    compiled: The compiled result of ``lower_train``. Default: one step.
  """
  compiled = compiled or program.lower_train().compile()
  state, epoch = program.init(), program.epoch(1)
  images, _ = program.place()

  def advance(times: int) -> None:
    nonlocal state
    for _ in range(times):
      state, _ = compiled(state, images, program.seeds, epoch)
    jax.block_until_ready(state)

  return advance


def start_epochs(program: build.Program) -> Callable[[], None]:
  """Compiles the steps and returns a function that runs an epoch."""
  program.compile()
  state, epoch = program.init(), program.epoch(1)
  images, _ = program.place()

  def make() -> None:
    nonlocal state
    for size, steps in program.plan():
      state, _ = program.train(state, images, epoch, size, steps)
    jax.block_until_ready(state)

  return make


def start_evaluation(program: build.Program) -> Callable[[], None]:
  """Compiles the evaluation and returns a function that runs it."""
  state = program.init()
  _, images = program.place()

  def evaluate() -> None:
    jax.block_until_ready(program.evaluate(state, images))

  evaluate()
  return evaluate
