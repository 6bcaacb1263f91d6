"""Crop, flip and normalise: pure functions that run inside the jitted step.

As in section 1 of the authors' program: zeros around the image, a random window
of the image's own size, a mirror image half of the time, then the channels'
normalisation.
"""

import jax
import jax.numpy as jnp

# The channels' statistics of ImageNet, which the authors use for CIFAR.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def crop_and_flip(
  key: jax.Array, images: jax.Array, *, padding: int, flip: bool
) -> jax.Array:
  """A random window of each padded image, mirrored half of the time.

  Args:
    key: A PRNG key.
    images: shape=(batch, height, width, channels), dtype=uint8.
    padding: Zeros on each side, in pixels. Windows start at -padding to
      padding, each offset as likely as any other.
    flip: Whether to mirror left and right.

  Returns:
    Images of the same shape and dtype.
  """
  batch, height, width, channels = images.shape
  offset_key, flip_key = jax.random.split(key)
  padded = jnp.pad(
    images, ((0, 0), (padding, padding), (padding, padding), (0, 0))
  )
  offsets = jax.random.randint(offset_key, (batch, 2), 0, 2 * padding + 1)

  def window(image: jax.Array, offset: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice(
      image, (offset[0], offset[1], 0), (height, width, channels)
    )

  cropped = jax.vmap(window)(padded, offsets)
  if not flip:
    return cropped
  mirrored = jax.random.bernoulli(flip_key, shape=(batch, 1, 1, 1))
  return jnp.where(mirrored, cropped[:, :, ::-1], cropped)


def normalize(
  images: jax.Array,
  mean: jax.typing.ArrayLike,
  std: jax.typing.ArrayLike,
) -> jax.Array:
  """Pixels of 0 to 255 as float32 with the given statistics taken out.

  Args:
    images: shape=(batch, height, width, channels), dtype=uint8.
    mean: shape=(channels,), on a scale of 0 to 1.
    std: shape=(channels,), on a scale of 0 to 1.

  Returns:
    shape=(batch, height, width, channels), dtype=float32.
  """
  return (images.astype(jnp.float32) / 255 - mean) / std
