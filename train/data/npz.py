"""A NumPy file of images and labels, as np.savez and Keras write them."""

import pathlib
import zipfile

import numpy as np

from train import errors
from train import files
from train.data import dataset

# Accepted names of the arrays.
_NAMES = (
  ('train_images', 'train_labels', 'test_images', 'test_labels'),
  ('x_train', 'y_train', 'x_test', 'y_test'),
)


def load(name: str, data_dir: pathlib.Path | None) -> dataset.Splits:
  """Loads the images of an .npz file.

  Images are uint8 with shape=(examples, height, width) or (examples, height,
  width, channels), labels whole numbers from 0 with shape=(examples,).

  Args:
    name: Name of the data set, for errors.
    data_dir: The file.

  Raises:
    UsageError: If it is not such a file.
  """
  wanted = ', '.join(_NAMES[0])
  if data_dir is None:
    raise errors.UsageError(
      f'--data-dir must be an .npz file with {wanted} for --dataset {name}, got'
      ' none.'
    )
  files.read_bytes(data_dir)  # Raises UsageError for an invalid path.
  try:
    with np.load(data_dir, allow_pickle=False) as file:
      arrays = dict(file)
  except (
    ValueError,
    OSError,
    EOFError,
    TypeError,
    zipfile.BadZipFile,
  ) as error:
    reason = str(error).splitlines()[0] if str(error) else 'it is truncated'
    raise errors.UsageError(
      f'--data-dir {data_dir} is not an .npz file of arrays: {reason}.'
    ) from error
  for names in _NAMES:
    if set(names) <= arrays.keys():
      break
  else:
    raise errors.UsageError(
      f'--data-dir {data_dir} must have the arrays {wanted}, got'
      f' {", ".join(sorted(arrays)) or "none"}.'
    )
  train_images, train_labels, test_images, test_labels = (
    arrays[name] for name in names
  )
  labels = [_as_labels(x, data_dir) for x in (train_labels, test_labels)]
  return dataset.Splits(
    num_classes=max((int(x.max()) for x in labels if x.size), default=0) + 1,
    train=dataset.Split(_as_images(train_images, data_dir), labels[0]),
    test=dataset.Split(_as_images(test_images, data_dir), labels[1]),
  )


def _as_images(images: np.ndarray, file: pathlib.Path) -> np.ndarray:
  if images.ndim == 3:
    images = images[..., None]
  if images.dtype != np.uint8 or images.ndim != 4:
    raise errors.UsageError(
      f'{file}: images must be uint8 of shape (examples, height, width) or'
      f' (examples, height, width, channels), got {images.dtype}'
      f' {images.shape}.'
    )
  return images


def _as_labels(labels: np.ndarray, file: pathlib.Path) -> np.ndarray:
  """Converts labels of any integer type, flat or in a column as in Keras."""
  if labels.ndim == 2 and labels.shape[1] == 1:
    labels = labels[:, 0]
  small = labels.size == 0 or (
    labels.dtype.kind in 'iu' and 0 <= labels.min() <= labels.max() < 2**31 - 1
  )
  if labels.dtype.kind not in 'iu' or labels.ndim != 1 or not small:
    raise errors.UsageError(
      f'{file}: labels must be whole numbers from 0, of shape (examples,), got'
      f' {labels.dtype} {labels.shape}.'
    )
  return labels.astype(np.int32)
