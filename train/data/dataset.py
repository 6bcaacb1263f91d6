"""What every source of images gives."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Split:
  """Images and their labels."""

  images: np.ndarray
  """shape=(examples, height, width, channels), dtype=uint8."""
  labels: np.ndarray
  """shape=(examples,), dtype=int32. From 0 to the number of classes - 1."""

  def __len__(self) -> int:
    return len(self.labels)


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
  """Whether a mirror image is another example of the same class."""

  def channel_statistics(self) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the training pixels, in 0 to 1.

    Returns:
      Two arrays of shape=(channels,), dtype=float32.
    """
    channels = self.train.images.shape[-1]
    pixels = self.train.images.reshape(-1, channels)
    counts = np.stack(
      [np.bincount(pixels[:, c], minlength=256) for c in range(channels)]
    )
    values = np.arange(256) / 255
    weights = counts / len(pixels)
    mean = weights @ values
    deviation = np.sqrt(weights @ values**2 - mean**2)
    return mean.astype(np.float32), deviation.astype(np.float32)
