"""Loads a data set of train/sources.py by name."""

import dataclasses
import importlib
import pathlib

from train import config as config_lib
from train import errors
from train import sources
from train.data import dataset


def load(
  name: str,
  data_dir: pathlib.Path | None = None,
  train_examples: int | None = None,
  image_size: int | None = None,
  validation_examples: int | None = None,
) -> dataset.Dataset:
  """Loads a data set.

  Args:
    name: One of :data:`train.sources.SOURCES`.
    data_dir: Directory of the files, ``None`` for the default of the source.
    train_examples: Keep the first N training examples, ``None`` for all.
    image_size: Shrink the images to this height and width, ``None`` to keep
      them as they are.
    validation_examples: Hold out this number of training images, see
      :func:`train.data.dataset.hold_out`.

  Returns:
    The data set.

  Raises:
    UsageError: If the data cannot be loaded, is invalid, has fewer training
      examples, or has images whose size is not a multiple of ``image_size``.
  """
  reader = importlib.import_module(f'train.data.{sources.get(name).reader}')
  splits: dataset.Splits = reader.load(name, data_dir)
  return prepare(name, splits, train_examples, image_size, validation_examples)


def prepare(
  name: str,
  splits: dataset.Splits,
  train_examples: int | None = None,
  image_size: int | None = None,
  validation_examples: int | None = None,
) -> dataset.Dataset:
  """Builds the data set of :func:`load` from the splits of a reader."""
  source = sources.get(name)
  try:
    dataset.check(splits, source.channels)
  except ValueError as error:
    raise errors.UsageError(f'{name} cannot be used: {error}.') from error
  loaded = dataset.Dataset(
    name=name,
    num_classes=splits.num_classes,
    train=splits.train,
    test=splits.test,
    crop_padding=(
      splits.train.images.shape[2] // 8
      if source.crop_padding is None
      else source.crop_padding
    ),
    flip=source.flip,
  )
  available = len(loaded.train)
  if validation_examples is not None:
    if validation_examples >= available:
      raise errors.UsageError(
        f'--validation-examples must be less than the {available} training'
        f' images of {name}, got {validation_examples}.'
      )
    loaded = dataset.hold_out(loaded, validation_examples)
    available -= validation_examples
  if train_examples is not None:
    if train_examples > available:
      raise errors.UsageError(
        f'--train-examples must be at most {available} for {name}'
        f'{" without those held out" if validation_examples else ""}, got'
        f' {train_examples}.'
      )
    first = dataset.Split(
      loaded.train.images[:train_examples],
      loaded.train.labels[:train_examples],
    )
    loaded = dataclasses.replace(loaded, train=first)
  if image_size is not None:
    size = loaded.train.images.shape[1]
    if size % image_size:
      raise errors.UsageError(
        f'--image-size must divide {size} for {name}, got {image_size}.'
      )
    loaded = dataset.shrink(loaded, size // image_size)
  return loaded


def of_run(config: config_lib.Config) -> dataset.Dataset:
  """Loads the data set of a run from its settings."""
  return load(
    config.dataset,
    config.data_dir,
    config.train_examples,
    config.image_size,
    config.validation_examples,
  )
