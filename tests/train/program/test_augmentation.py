"""Crop, flip and normalization agree with NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.program import augmentation


def _images(count, size=32, channels=3, seed=0):
  shape = (count, size, size, channels)
  # No zeros, so that padding differs from the image.
  return np.random.default_rng(seed).integers(1, 256, shape, np.uint8)


def _window(image, padding, dy, dx, mode='constant'):
  """A window of the padded image, computed with NumPy."""
  height, width, _ = image.shape
  padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode)
  return padded[dy : dy + height, dx : dx + width]


@pytest.mark.parametrize(
  ('reflect', 'mode'), [(False, 'constant'), (True, 'reflect')]
)
def test_results_are_windows_with_equal_probability(reflect, mode):
  padding, count = 2, 1500
  image = _images(1, size=6)[0]
  windows = {
    (dy, dx, flipped): (
      _window(image, padding, dy, dx, mode)[:, ::-1]
      if flipped
      else _window(image, padding, dy, dx, mode)
    )
    for dy in range(2 * padding + 1)
    for dx in range(2 * padding + 1)
    for flipped in (False, True)
  }
  names = {window.tobytes(): name for name, window in windows.items()}
  cropped = augmentation.crop_and_flip(
    jax.random.key(0),
    jnp.asarray([image] * count),
    padding=padding,
    flip=True,
    reflect=reflect,
  )
  counts = dict.fromkeys(windows, 0)
  for result in np.asarray(cropped):
    counts[names[result.tobytes()]] += 1
  # For 50 equally likely outcomes, chi-squared with 49 degrees of freedom
  # exceeds 98 once in 25,000 times. The key is fixed.
  expected = count / len(windows)
  assert sum((c - expected) ** 2 / expected for c in counts.values()) < 98


def test_cifar_offsets_reach_from_minus_4_to_4():
  images = np.zeros((2000, 32, 32, 1), np.uint8)
  images[:, 16, 16] = 255
  cropped = np.asarray(
    augmentation.crop_and_flip(
      jax.random.key(1), jnp.asarray(images), padding=4, flip=False
    )
  )
  _, ys, xs, _ = np.nonzero(cropped)
  assert set(ys - 16) == set(range(-4, 5))
  assert set(xs - 16) == set(range(-4, 5))


def test_without_padding_and_flip_images_are_unchanged():
  images = _images(64, size=8, channels=1)
  same = augmentation.crop_and_flip(
    jax.random.key(0), jnp.asarray(images), padding=0, flip=False
  )
  np.testing.assert_array_equal(same, images)


def test_pixels_keep_their_dtype():
  cropped = augmentation.crop_and_flip(
    jax.random.key(0), jnp.asarray(_images(4)), padding=4, flip=True
  )
  assert cropped.dtype == jnp.uint8
  assert cropped.shape == (4, 32, 32, 3)


@pytest.mark.parametrize('channels', [1, 3])
def test_normalize_agrees_with_float64(channels):
  images = _images(8, channels=channels)
  mean = np.linspace(0.2, 0.6, channels)
  std = np.linspace(0.1, 0.3, channels)
  expected = (images.astype(np.float64) / 255 - mean) / std
  normalized = augmentation.normalize(
    jnp.asarray(images), mean.astype(np.float32), std.astype(np.float32)
  )
  assert normalized.dtype == jnp.float32
  np.testing.assert_allclose(normalized, expected, rtol=1e-5, atol=1e-5)
