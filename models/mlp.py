"""A multilayer perceptron on flattened images.

A small network for tests and examples.
"""

import itertools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp


class MLP(nnx.Module):
  """Linear layers with ReLU and dropout between them.

  Args:
    image_shape: Height, width and channels of the images.
    hidden_layers: Number of hidden layers, at least 0.
    hidden_size: Units of each hidden layer, at least 1.
    num_classes: Number of logits, at least 1.
    dropout_rate: Probability of zeroing a hidden unit, in [0, 1).
    dtype: dtype of the activations and of the arithmetic. Parameters and logits
      are always float32.
    rngs: Random streams: ``params``, and ``dropout`` if ``dropout_rate`` is
      above 0.

  Raises:
    ValueError: If an argument is out of range.

  Examples:
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> import models
    >>> model = models.MLP((8, 8, 1), num_classes=10, rngs=nnx.Rngs(0))
    >>> model(jnp.zeros((2, 8, 8, 1))).shape
    (2, 10)
  """

  def __init__(
    self,
    image_shape: tuple[int, int, int],
    hidden_layers: int = 1,
    hidden_size: int = 64,
    num_classes: int = 10,
    dropout_rate: float = 0.0,
    *,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    for name, given, least in (
      ('hidden_layers', hidden_layers, 0),
      ('hidden_size', hidden_size, 1),
      ('num_classes', num_classes, 1),
    ):
      if given < least:
        raise ValueError(f'`{name}` must be at least {least}, got {given}.')
    if not 0 <= dropout_rate < 1:
      raise ValueError(f'`dropout_rate` must be in [0, 1), got {dropout_rate}.')
    self.image_shape = tuple(image_shape)
    self.dtype = dtype
    sizes = _sizes(image_shape, hidden_layers, hidden_size)
    self.hidden = nnx.List(
      nnx.Linear(
        inputs,
        outputs,
        kernel_init=jax.nn.initializers.he_normal(),
        dtype=dtype,
        rngs=rngs,
      )
      for inputs, outputs in itertools.pairwise(sizes)
    )
    self.dropout = nnx.data(
      nnx.Dropout(dropout_rate, rngs=rngs) if dropout_rate else None
    )
    self.head = nnx.Linear(sizes[-1], num_classes, rngs=rngs)

  def __call__(
    self, images: jax.Array, *, rngs: nnx.Rngs | None = None
  ) -> jax.Array:
    """Computes the logits of a batch.

    Args:
      images: shape=(batch, *image_shape), normalized.
      rngs: Random stream ``dropout`` for this call, in place of the model's.

    Returns:
      shape=(batch, num_classes), dtype=float32.

    Raises:
      ValueError: If ``images`` has another shape.
    """
    if images.shape[1:] != self.image_shape:
      wanted = ', '.join(map(str, self.image_shape))
      raise ValueError(
        f'`images` must have shape (batch, {wanted}), got {images.shape}.'
      )
    x = images.astype(self.dtype).reshape(len(images), -1)
    for layer in self.hidden:
      x = nnx.relu(layer(x))
      if self.dropout is not None:
        x = self.dropout(x, rngs=rngs)
    return self.head(x.astype(jnp.float32))


def build(
  *,
  image_shape: tuple[int, int, int],
  num_classes: int,
  dtype: Any,
  rngs: nnx.Rngs,
  **settings: Any,
) -> MLP:
  """See :class:`models.Network`."""
  return MLP(
    image_shape, num_classes=num_classes, dtype=dtype, rngs=rngs, **settings
  )


def flop(
  *,
  image_shape: tuple[int, int, int],
  num_classes: int,
  hidden_layers: int,
  hidden_size: int,
  **_: Any,
) -> int:
  """See :class:`models.Network`."""
  sizes = [*_sizes(image_shape, hidden_layers, hidden_size), num_classes]
  return sum(
    2 * inputs * outputs for inputs, outputs in itertools.pairwise(sizes)
  )


def title(*, hidden_layers: int, hidden_size: int, **_: Any) -> str:
  """See :class:`models.Network`."""
  return f'MLP-{hidden_layers}x{hidden_size}'


def _sizes(
  image_shape: tuple[int, int, int], hidden_layers: int, hidden_size: int
) -> list[int]:
  """Sizes of the input and of the hidden layers."""
  height, width, channels = image_shape
  return [height * width * channels, *[hidden_size] * hidden_layers]
