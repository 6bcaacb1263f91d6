"""Scikit-learn's handwritten digits: real images that need no download.

1,797 grey images of 8x8, a part of the UCI set "Optical Recognition of
Handwritten Digits" (Alpaydin and Kaynak, 1998).
"""

import pathlib

import numpy as np
from sklearn import datasets
from sklearn import model_selection

from train.data import dataset

_TEST_EXAMPLES = 360
_SPLIT_SEED = 0
_WHITE = 16  # the largest pixel


def load(name: str, data_dir: pathlib.Path | None) -> dataset.Splits:
  """Loads the digits with a fixed stratified split, 1,437 to 360.

  Args:
    name: Unused: there is only one such data set.
    data_dir: Unused: scikit-learn contains the images.
  """
  del name, data_dir
  digits = datasets.load_digits()
  images = np.rint(digits.images * (255 / _WHITE)).astype(np.uint8)[..., None]
  labels = digits.target.astype(np.int32)
  train_images, test_images, train_labels, test_labels = (
    model_selection.train_test_split(
      images,
      labels,
      test_size=_TEST_EXAMPLES,
      stratify=labels,
      random_state=_SPLIT_SEED,
    )
  )
  return dataset.Splits(
    num_classes=10,
    train=dataset.Split(train_images, train_labels),
    test=dataset.Split(test_images, test_labels),
  )
