"""A folder of images: train/CLASS/*.png and test/CLASS/*.png."""

import pathlib

import cv2
import numpy as np

from train import errors
from train.data import dataset

_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp')
_ORDER_SEED = 0


def load(name: str, data_dir: pathlib.Path | None) -> dataset.Splits:
  """Loads the images of a folder; gray images have one channel.

  The classes are the folders in train/, sorted by name. Training images are
  shuffled with a fixed seed; otherwise the first N would be of one class.

  Args:
    name: Name of the data set, for errors.
    data_dir: The folder.

  Raises:
    UsageError: If the folder has another structure, an image cannot be read, or
      the images differ in size.
  """
  if data_dir is None:
    raise errors.UsageError(
      f'--data-dir must be a folder with train/CLASS/*.png and test/CLASS/*.png'
      f' for --dataset {name}, got none.'
    )
  classes = [path.name for path in _folders(data_dir / 'train')]
  for path in _folders(data_dir / 'test'):
    if path.name not in classes:
      raise errors.UsageError(
        f'--data-dir {data_dir}: {path} is not a class in {data_dir / "train"}.'
      )
  files, labels = _list(data_dir / 'train', classes)
  order = np.random.default_rng(_ORDER_SEED).permutation(len(files))
  test_files, test_labels = _list(data_dir / 'test', classes)
  images = _read([*(files[i] for i in order), *test_files])
  return dataset.Splits(
    num_classes=len(classes),
    train=dataset.Split(images[: len(files)], labels[order]),
    test=dataset.Split(images[len(files) :], test_labels),
  )


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
  try:
    found = sorted(path for path in folder.iterdir() if path.is_dir())
  except OSError as error:
    raise errors.UsageError(
      f'--data-dir {folder.parent} cannot be used: {folder} cannot be read:'
      f' {error.strerror}.'
    ) from error
  if not found:
    raise errors.UsageError(
      f'--data-dir {folder.parent} cannot be used: {folder} has no folders. It'
      ' must have one for each class.'
    )
  return found


def _list(
  folder: pathlib.Path, classes: list[str]
) -> tuple[list[pathlib.Path], np.ndarray]:
  """The images of a split, and their labels."""
  files: list[pathlib.Path] = []
  labels: list[int] = []
  for path in _folders(folder):
    of_class = sorted(
      file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES
    )
    files += of_class
    labels += [classes.index(path.name)] * len(of_class)
  if not files:
    raise errors.UsageError(
      f'--data-dir {folder.parent} cannot be used: there are no images'
      f' ({", ".join(_SUFFIXES)}) in {folder}.'
    )
  return files, np.asarray(labels, np.int32)


def _read(files: list[pathlib.Path]) -> np.ndarray:
  """shape=(examples, height, width, channels): 1 if all are gray, else 3."""
  images = [_decode(file) for file in files]
  size = images[0].shape[:2]
  for file, image in zip(files, images, strict=True):
    if image.shape[:2] != size:
      raise errors.UsageError(
        f'{file} has {image.shape[0]} x {image.shape[1]} pixels, and'
        f' {files[0]} {size[0]} x {size[1]}: all images must have one size.'
      )
  if all(image.shape[2] == 1 for image in images):
    return np.stack(images)
  return np.stack([np.broadcast_to(image, (*size, 3)) for image in images])


def _decode(file: pathlib.Path) -> np.ndarray:
  """An image with 1 or 3 channels."""
  try:
    content = np.frombuffer(file.read_bytes(), np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
  except OSError as error:
    raise errors.UsageError(
      f'{file} cannot be read: {error.strerror}.'
    ) from error
  except cv2.error:  # The file is empty.
    image = None
  if image is None or image.dtype != np.uint8:
    raise errors.UsageError(f'{file} is not an image with 8 bits per channel.')
  if image.ndim == 2:
    return image[..., None]
  if image.shape[2] == 4:
    raise errors.UsageError(
      f'{file} has an alpha channel, which is not supported.'
    )
  return image[..., ::-1]  # OpenCV decodes to BGR.
