"""The types that every source of images returns."""

import dataclasses
import functools
import hashlib
from typing import NamedTuple

import numpy as np

_HELD_OUT_SEED = 0


@dataclasses.dataclass(frozen=True)
class Split:
  """Images and their labels."""

  images: np.ndarray
  """shape=(examples, height, width, channels), dtype=uint8."""
  labels: np.ndarray
  """shape=(examples,), dtype=int32. From 0 to the number of classes - 1."""

  def __len__(self) -> int:
    return len(self.labels)


class Splits(NamedTuple):
  """What a reader in train/data/ returns."""

  num_classes: int
  train: Split
  test: Split


def check(splits: Splits, channels: int | None) -> None:
  """Raises ValueError for unexpected shapes, dtypes or labels.

  Args:
    splits: From a reader.
    channels: Number of channels. ``None`` accepts 1 or 3.
  """
  if channels is None:
    channels = 3 if splits.train.images.shape[-1] == 3 else 1
  size = splits.train.images.shape[1:3]
  for name, split in (('train', splits.train), ('test', splits.test)):
    images, labels = split.images, split.labels
    if images.dtype != np.uint8 or images.shape[1:] != (*size, channels):
      raise ValueError(
        f'images must be uint8 of shape (examples, height, width, {channels}),'
        f' all of one size, but those of the {name} split are {images.dtype}'
        f' {images.shape}'
      )
    if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
      raise ValueError(
        f'labels must be int32 of shape ({len(images)},), but those of the'
        f' {name} split are {labels.dtype} {labels.shape}'
      )
    if not len(labels):
      raise ValueError(f'the {name} split is empty')
    check_labels(labels, splits.num_classes)


def check_labels(labels: np.ndarray, num_classes: int) -> None:
  """Raises ValueError for the first label that is not a class."""
  outside = (labels < 0) | (labels >= num_classes)
  if outside.any():
    raise ValueError(
      f'label {labels[outside][0]} is not from 0 to {num_classes - 1}'
    )


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A data set and how to augment it."""

  name: str
  num_classes: int
  train: Split
  test: Split
  crop_padding: int
  """Zeros around an image before the random crop, in pixels."""
  flip: bool
  """Whether to augment with horizontal flips."""
  validation: Split | None = None
  """Training images that are held out, in no other split."""

  def sha256(self) -> str:
    """A checksum of the images and labels."""
    return self._sha256

  @functools.cached_property
  def _sha256(self) -> str:
    digest = hashlib.sha256()
    for split in filter(None, (self.train, self.test, self.validation)):
      digest.update(split.images.tobytes())
      digest.update(split.labels.tobytes())
    return digest.hexdigest()

  def channel_statistics(self) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the training pixels, in [0, 1].

    Returns:
      Two arrays of shape=(channels,), dtype=float32.
    """
    return self._channel_statistics

  @functools.cached_property
  def _channel_statistics(self) -> tuple[np.ndarray, np.ndarray]:
    channels = self.train.images.shape[-1]
    pixels = self.train.images.reshape(-1, channels)
    counts = np.stack(
      [np.bincount(pixels[:, c], minlength=256) for c in range(channels)]
    )
    values = np.arange(256) / 255
    weights = counts / len(pixels)
    mean = weights @ values
    std = np.sqrt(weights @ values**2 - mean**2)
    return mean.astype(np.float32), std.astype(np.float32)


def hold_out(whole: Dataset, examples: int) -> Dataset:
  """Moves some of the training images to a validation split.

  They are drawn at random, since files may be sorted, with a fixed seed.

  Args:
    whole: A data set with more than ``examples`` training images.
    examples: Number of images to hold out.
  """
  order = np.random.default_rng(_HELD_OUT_SEED).permutation(len(whole.train))
  chosen = np.zeros(len(order), bool)
  chosen[order[:examples]] = True

  def part(where: np.ndarray) -> Split:
    return Split(whole.train.images[where], whole.train.labels[where])

  return dataclasses.replace(
    whole, train=part(~chosen), validation=part(chosen)
  )


def shrink(whole: Dataset, factor: int) -> Dataset:
  """Shrinks the images: each square of pixels becomes its mean.

  Args:
    whole: Images whose height and width are multiples of ``factor``.
    factor: Side of a square, in pixels.

  Returns:
    The data set with smaller images and a crop padding to match.
  """

  def smaller(split: Split) -> Split:
    count, height, width, channels = split.images.shape
    squares = split.images.reshape(
      count, height // factor, factor, width // factor, factor, channels
    )
    means = squares.mean(axis=(2, 4), dtype=np.float32)
    return Split(np.rint(means).astype(np.uint8), split.labels)

  return dataclasses.replace(
    whole,
    train=smaller(whole.train),
    test=smaller(whole.test),
    validation=whole.validation and smaller(whole.validation),
    crop_padding=round(whole.crop_padding / factor),
  )
