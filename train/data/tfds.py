"""Images with labels through TensorFlow Datasets, such as CIFAR.

Reading a prepared ArrayRecord directory does not need TensorFlow; preparing it
does.
"""

import hashlib
import importlib.util
import logging
import os
import pathlib
from typing import Any

import numpy as np
from rich import progress as rich_progress

from train import array_cache
from train import errors
from train import progress
from train.data import dataset
from train.devices import interruption

_ARRAYS = ('train_images', 'train_labels', 'test_images', 'test_labels')


def load(name: str, data_dir: pathlib.Path | None) -> dataset.Splits:
  """Loads a data set: decodes it on the first call and caches it.

  Args:
    name: Name of a data set with a train and a test split, whose examples have
      a ``label`` and an ``image``, all of one size.
    data_dir: TensorFlow Datasets directory, ``None`` for its default.

  Returns:
    All images, in the order of the files.

  Raises:
    UsageError: If the data set is damaged, or is not prepared and cannot be.
  """
  builder = _prepared_builder(name, data_dir)
  _check(builder)
  key = (
    f'{name}-{builder.version}-{_fingerprint(pathlib.Path(builder.data_dir))}'
  )
  arrays = array_cache.load_or_build(key, _ARRAYS, lambda: _decode(builder))
  return dataset.Splits(
    num_classes=builder.info.features['label'].num_classes,
    train=dataset.Split(arrays['train_images'], arrays['train_labels']),
    test=dataset.Split(arrays['test_images'], arrays['test_labels']),
  )


def _prepared_builder(name: str, data_dir: pathlib.Path | None) -> Any:
  # Imported here, because digits do not need it.
  with interruption.importing():
    import tensorflow_datasets as tfds

  # An absent directory is reported below.
  logging.getLogger('absl').setLevel(logging.ERROR)
  try:
    builder = tfds.builder(name, data_dir=data_dir, file_format='array_record')
  except Exception as error:
    reason = str(error).split(': ', 1)[-1]
    raise errors.UsageError(
      f'{name} in {data_dir or "the default directory"} cannot be read:'
      f' {reason}'
    ) from error
  if builder.is_prepared():
    return builder
  directory = data_dir or pathlib.Path(builder.data_dir).parents[1]
  if importlib.util.find_spec('tensorflow') is None:
    raise errors.UsageError(
      f'{name} is not prepared in {directory}, and preparing it requires'
      ' TensorFlow: run `pip install tensorflow` and repeat the command, or'
      ' pass a directory that contains it as --data-dir.'
    )
  try:
    builder.download_and_prepare()
  except Exception as error:
    raise errors.UsageError(
      f'{name} is not prepared in {directory}, and TensorFlow Datasets could'
      f' not prepare it: {error}'
    ) from error
  return builder


def _check(builder: Any) -> None:
  """Raises UsageError unless the data set has images with labels."""
  features = builder.info.features
  if not {'image', 'label'} <= set(features.keys()):
    lacks = 'no examples with an image and a label'
  elif None in features['image'].shape:
    lacks = 'images of different sizes'
  elif not {'train', 'test'} <= set(builder.info.splits):
    lacks = f'the splits {", ".join(builder.info.splits)}, not train and test'
  else:
    return
  raise errors.UsageError(
    f'{builder.name} in {builder.data_dir} cannot be used: it has {lacks}.'
  )


def _decode(builder: Any) -> array_cache.Arrays:
  arrays = {}
  for split in ('train', 'test'):
    images, labels = _decode_split(builder, split)
    arrays[f'{split}_images'] = images
    arrays[f'{split}_labels'] = labels
  return arrays


def _decode_split(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
  num_classes = builder.info.features['label'].num_classes
  shape = builder.info.features['image'].shape
  try:
    source = builder.as_data_source(split=split)
    expected = builder.info.splits[split].num_examples
    if len(source) != expected:
      raise ValueError(f'it has {len(source)} examples instead of {expected}')
    images = np.empty((expected, *shape), np.uint8)
    labels = np.empty(expected, np.int32)
    for i in rich_progress.track(
      range(expected),
      f'Decoding {builder.name} {split}',
      transient=True,
      console=progress.console(),
    ):
      example = source[i]
      if example['image'].shape != shape:
        raise ValueError(
          f'image {i} has shape {example["image"].shape} instead of {shape}'
        )
      images[i] = example['image']
      labels[i] = example['label']
    dataset.check_labels(labels, num_classes)
  except Exception as error:
    raise errors.UsageError(
      f'The {split} split of {builder.name} in {builder.data_dir} cannot be'
      f' read: {error}.'
    ) from error
  return images, labels


def _fingerprint(directory: pathlib.Path) -> str:
  """A fingerprint that changes when a file of the data set changes."""
  digest = hashlib.sha256()
  for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
    stat = entry.stat()
    digest.update(f'{entry.name} {stat.st_size} {stat.st_mtime_ns}\n'.encode())
  return digest.hexdigest()[:16]
