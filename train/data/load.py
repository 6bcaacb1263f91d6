"""From a name to a data set: the one place that knows the sources."""

import dataclasses
import pathlib

from train import errors
from train.data import cifar
from train.data import dataset
from train.data import digits


def load(
  name: str,
  data_dir: pathlib.Path | None = None,
  train_examples: int | None = None,
  image_size: int | None = None,
) -> dataset.Dataset:
  """Loads a data set.

  Args:
    name: digits, cifar10 or cifar100.
    data_dir: TensorFlow Datasets directory of CIFAR, ``None`` for its default.
    train_examples: Keep the first N training examples, ``None`` for all.
    image_size: Shrink the images to this height and width, ``None`` to keep
      them as they are.

  Returns:
    The data set.

  Raises:
    UsageError: The data cannot be had, has fewer training examples, or images
      whose size is no multiple of ``image_size``.
  """
  loaded = digits.load() if name == 'digits' else cifar.load(name, data_dir)
  if train_examples is not None:
    available = len(loaded.train)
    if train_examples > available:
      raise errors.UsageError(
        f'--train-examples must be at most {available} for {name}, got'
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
