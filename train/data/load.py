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
) -> dataset.Dataset:
  """Loads a data set.

  Args:
    name: digits, cifar10 or cifar100.
    data_dir: TensorFlow Datasets directory of CIFAR, ``None`` for its default.
    train_examples: Keep the first N training examples, ``None`` for all.

  Returns:
    The data set.

  Raises:
    UsageError: The data cannot be had, or has fewer training examples.
  """
  loaded = digits.load() if name == 'digits' else cifar.load(name, data_dir)
  if train_examples is None:
    return loaded
  available = len(loaded.train)
  if train_examples > available:
    raise errors.UsageError(
      f'--train-examples must be at most {available} for {name}, got'
      f' {train_examples}.'
    )
  return dataclasses.replace(
    loaded,
    train=dataset.Split(
      loaded.train.images[:train_examples],
      loaded.train.labels[:train_examples],
    ),
  )
