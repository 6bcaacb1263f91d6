"""Crop, flip and normalization: pure functions inside the jitted step.

As in the authors' program: zero padding, a random crop of the original size, a
horizontal flip with probability 1/2, and per-channel normalization. The WRN
paper uses reflection padding.
"""

import jax
import jax.numpy as jnp

# The ImageNet statistics, which the authors use for CIFAR.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def crop_and_flip(
  key: jax.Array,
  images: jax.Array,
  *,
  padding: int,
  flip: bool,
  reflect: bool = False,
) -> jax.Array:
  """Crops each padded image at random and flips it with probability 1/2.

  Args:
    key: A PRNG key.
    images: shape=(batch, height, width, channels), dtype=uint8.
    padding: Pixels added on each side. The offsets of the crop are uniform from
      -padding to padding.
    flip: Whether to flip horizontally.
    reflect: Whether to pad by reflection, without repeating the outermost
      pixels; ``padding`` must be less than the width and height. Default: zero
      padding.

  Returns:
    Images of the same shape and dtype.
  """
  batch, height, width, channels = images.shape
  offset_key, flip_key = jax.random.split(key)
  offsets = jax.random.randint(offset_key, (batch, 2), 0, 2 * padding + 1)
  # Shift rows of bytes, along the width first: the fastest order on a CPU.
  cropped = images.reshape(batch, height, width * channels)
  cropped = _shift(cropped, offsets[:, 1], 2, channels, padding, reflect)
  cropped = _shift(cropped, offsets[:, 0], 1, 1, padding, reflect)
  cropped = cropped.reshape(images.shape)
  if not flip:
    return cropped
  mirrored = jax.random.bernoulli(flip_key, shape=(batch, 1, 1, 1))
  return jnp.where(mirrored, cropped[:, :, ::-1], cropped)


def _shift(
  images: jax.Array,
  offsets: jax.Array,
  axis: int,
  pixel: int,
  padding: int,
  reflect: bool,
) -> jax.Array:
  """Shifts each image along one axis, with padding.

  Selects among all shifts: on a TPU a separate slice per image becomes a loop
  over the batch, which takes as long as the rest of a WRN-10-1 step.

  Args:
    images: shape=(batch, height, width * channels).
    offsets: shape=(batch,), in pixels. From 0, a shift by ``padding`` towards
      higher indices, to twice ``padding``.
    axis: 1 or 2.
    pixel: Array elements per pixel along the axis.
    padding: The largest shift, in pixels.
    reflect: Whether to pad with reflections instead of zeros.

  Returns:
    Images of the same shape.
  """
  size = images.shape[axis]
  if reflect:
    padded = _reflect(images, axis, pixel, padding)
  else:
    pads = [(0, 0)] * 3
    pads[axis] = (padding * pixel, padding * pixel)
    padded = jnp.pad(images, pads)

  def from_(offset: int) -> jax.Array:
    start = offset * pixel
    return jax.lax.slice_in_dim(padded, start, start + size, axis=axis)

  shifted = from_(0)
  for offset in range(1, 2 * padding + 1):
    chosen = (offsets == offset)[:, None, None]
    shifted = jnp.where(chosen, from_(offset), shifted)
  return shifted


def _reflect(
  images: jax.Array, axis: int, pixel: int, padding: int
) -> jax.Array:
  """Pads one axis with the pixels next to its ends, nearest first."""
  before, after = images.shape[:axis], images.shape[axis + 1 :]
  pixels = images.reshape(*before, -1, pixel, *after)
  pads = [(0, 0)] * pixels.ndim
  pads[axis] = (padding, padding)
  padded = jnp.pad(pixels, pads, mode='reflect')
  return padded.reshape(*before, -1, *after)


def normalize(
  images: jax.Array,
  mean: jax.typing.ArrayLike,
  std: jax.typing.ArrayLike,
) -> jax.Array:
  """Scales pixels to [0, 1] and normalizes them with the given statistics.

  Args:
    images: shape=(batch, height, width, channels), dtype=uint8.
    mean: shape=(channels,), on a scale of 0 to 1.
    std: shape=(channels,), on a scale of 0 to 1.

  Returns:
    shape=(batch, height, width, channels), dtype=float32.
  """
  return (images.astype(jnp.float32) / 255 - mean) / std
