"""Wide residual networks, which the LCAM paper trains (section 4).

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016
(https://arxiv.org/abs/1605.07146). A network of depth 6n + 4 has three groups
of n pre-activation blocks, at 1, 1/2 and 1/4 of the input resolution.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

_STEM_CHANNELS = 16
_GROUP_CHANNELS = (16, 32, 64)
_GROUP_STRIDES = (1, 2, 2)
_CONVS_PER_BLOCK = 2

_Convolution = Callable[..., jax.Array]
_BatchNormRelu = Callable[
  [jax.Array, jax.Array, jax.Array, float],
  tuple[jax.Array, jax.Array, jax.Array],
]


class WideResNet(nnx.Module):
  """A wide residual network for small images.

  The pre-activation blocks B(3, 3) apply batch normalization, ReLU and a
  convolution twice, with dropout before the second convolution. If a block
  changes the number of channels or the resolution, its shortcut is a 1x1
  convolution of the first activation; otherwise it is the identity.

  Convolutions have no bias and use the fan-out initialization of He et al.
  (2015). Batch normalization has epsilon 1e-5 and momentum 0.9 (0.1 in
  PyTorch's convention). Under ``jax.jit`` with a sharded batch its statistics
  are those of the global batch.

  Args:
    depth: Number of convolutions, including the three projections: 6n + 4 with
      n at least 1 (10, 16, 22, 28, 34, 40, ...).
    widen_factor: Factor k on the channels of the three groups (16k, 32k, 64k),
      at least 1.
    num_classes: Number of logits, at least 1.
    dropout_rate: Probability of zeroing an activation between the convolutions
      of a block, in [0, 1).
    in_channels: Number of image channels, for example 1 or 3.
    dtype: dtype of the activations and of the arithmetic. Parameters, batch
      statistics and logits are always float32.
    remat: Whether to rematerialize the activations of each block in the
      backward pass, which saves memory and takes more time.
    batch_norm_parts: Number of equal parts of the batch, in order, that are
      normalized by separate means and variances. The running statistics take
      the average of the parts' means and variances.
    conv_general_dilated: The convolution, with the signature of
      ``jax.lax.conv_general_dilated``.
    batch_norm_relu: Computes batch norm with ReLU in training if there is one
      part: ``(x, scale, bias, epsilon) -> (y, mean, variance)``, where the
      last two are the statistics of the batch in float32.
    rngs: Random streams: ``params``, and ``dropout`` if ``dropout_rate`` is
      above 0.

  Raises:
    ValueError: If an argument is out of range.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> import models
    >>> model = models.WideResNet(
    ...     depth=10, widen_factor=1, num_classes=10, rngs=nnx.Rngs(0))
    >>> model.eval()  # running statistics, no dropout
    >>> model(jnp.zeros((2, 32, 32, 3))).shape
    (2, 10)
  """

  def __init__(
    self,
    depth: int = 28,
    widen_factor: int = 10,
    num_classes: int = 10,
    dropout_rate: float = 0.0,
    *,
    in_channels: int = 3,
    dtype: Any = jnp.float32,
    remat: bool = False,
    batch_norm_parts: int = 1,
    conv_general_dilated: _Convolution = jax.lax.conv_general_dilated,
    batch_norm_relu: _BatchNormRelu | None = None,
    rngs: nnx.Rngs,
  ):
    _check(
      depth,
      widen_factor,
      num_classes,
      in_channels,
      batch_norm_parts,
      dropout_rate,
    )
    self.in_channels = in_channels
    self.dtype = dtype
    self.remat = remat
    conv = functools.partial(
      _conv, dtype=dtype, conv_general_dilated=conv_general_dilated, rngs=rngs
    )
    self.stem = conv(in_channels, _STEM_CHANNELS, 3, 1)
    norm = functools.partial(
      _BatchNorm,
      parts=batch_norm_parts,
      batch_norm_relu=batch_norm_relu,
      dtype=dtype,
      rngs=rngs,
    )
    blocks = []
    channels = _STEM_CHANNELS
    for group_channels, group_stride in zip(
      _GROUP_CHANNELS, _GROUP_STRIDES, strict=True
    ):
      for i in range(_blocks_per_group(depth)):
        out_channels = group_channels * widen_factor
        stride = group_stride if i == 0 else 1
        blocks.append(
          WideBlock(
            channels, out_channels, stride, dropout_rate, conv, norm, rngs
          )
        )
        channels = out_channels
    self.blocks = nnx.List(blocks)
    self.norm = norm(channels)
    self.head = nnx.Linear(
      channels,
      num_classes,
      kernel_init=jax.nn.initializers.variance_scaling(
        1 / 3, 'fan_in', 'uniform'
      ),
      rngs=rngs,
    )

  def __call__(
    self, images: jax.Array, *, rngs: nnx.Rngs | None = None
  ) -> jax.Array:
    """Computes the logits of a batch.

    Args:
      images: shape=(batch, height, width, in_channels), normalized. Height and
        width are arbitrary; both are 32 for CIFAR.
      rngs: Random stream ``dropout`` for this call, in place of the model's.

    Returns:
      shape=(batch, num_classes), dtype=float32.

    Raises:
      ValueError: If ``images`` has another rank or number of channels, or in
        training cannot be divided into ``batch_norm_parts``.
    """
    if images.ndim != 4 or images.shape[-1] != self.in_channels:
      raise ValueError(
        '`images` must have shape (batch, height, width,'
        f' {self.in_channels}), got {images.shape}.'
      )
    x = self.stem(images.astype(self.dtype))
    apply = nnx.remat(_apply) if self.remat else _apply
    for block in self.blocks:
      x = apply(block, x, rngs)
    x = self.norm.relu(x)
    x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
    return self.head(x)


def build(
  *,
  image_shape: tuple[int, int, int],
  num_classes: int,
  dtype: Any,
  rngs: nnx.Rngs,
  **settings: Any,
) -> WideResNet:
  """See :class:`models.Network`."""
  return WideResNet(
    num_classes=num_classes,
    in_channels=image_shape[-1],
    dtype=dtype,
    rngs=rngs,
    **settings,
  )


def flop(
  *,
  image_shape: tuple[int, int, int],
  num_classes: int,
  depth: int,
  widen_factor: int,
  **_: Any,
) -> int:
  """See :class:`models.Network`. Counts the convolutions and linear layer."""
  height, width, channels = image_shape
  outputs = _STEM_CHANNELS
  total = 2 * height * width * 9 * channels * outputs
  for group_channels, stride in zip(
    _GROUP_CHANNELS, _GROUP_STRIDES, strict=True
  ):
    inputs, outputs = outputs, group_channels * widen_factor
    height, width = -(-height // stride), -(-width // stride)
    convolutions = _CONVS_PER_BLOCK * _blocks_per_group(depth)
    total += 2 * height * width * 9 * inputs * outputs
    total += 2 * height * width * 9 * outputs**2 * (convolutions - 1)
    if inputs != outputs or stride != 1:
      total += 2 * height * width * inputs * outputs
  return total + 2 * outputs * num_classes


def title(*, depth: int, widen_factor: int, **_: Any) -> str:
  """See :class:`models.Network`."""
  return f'WRN-{depth}-{widen_factor}'


class WideBlock(nnx.Module):
  """A pre-activation block of two 3x3 convolutions."""

  def __init__(
    self,
    in_channels: int,
    out_channels: int,
    stride: int,
    dropout_rate: float,
    conv: Callable[..., nnx.Conv],
    norm: Callable[[int], '_BatchNorm'],
    rngs: nnx.Rngs,
  ):
    self.norm1 = norm(in_channels)
    self.conv1 = conv(in_channels, out_channels, 3, stride)
    self.norm2 = norm(out_channels)
    self.dropout = nnx.data(
      nnx.Dropout(dropout_rate, rngs=rngs) if dropout_rate else None
    )
    self.conv2 = conv(out_channels, out_channels, 3, 1)
    changes_shape = in_channels != out_channels or stride != 1
    self.projection = nnx.data(
      conv(in_channels, out_channels, 1, stride) if changes_shape else None
    )

  def __call__(
    self, x: jax.Array, *, rngs: nnx.Rngs | None = None
  ) -> jax.Array:
    activation = self.norm1.relu(x)
    shortcut = x if self.projection is None else self.projection(activation)
    y = self.conv1(activation)
    y = self.norm2.relu(y)
    if self.dropout is not None:
      y = self.dropout(y, rngs=rngs)
    return shortcut + self.conv2(y)


def _blocks_per_group(depth: int) -> int:
  return (depth - 4) // (len(_GROUP_CHANNELS) * _CONVS_PER_BLOCK)


def _apply(block: WideBlock, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
  return block(x, rngs=rngs)


def _conv(
  in_channels: int,
  out_channels: int,
  kernel: int,
  stride: int,
  *,
  dtype: Any,
  conv_general_dilated: _Convolution,
  rngs: nnx.Rngs,
) -> nnx.Conv:
  return nnx.Conv(
    in_channels,
    out_channels,
    (kernel, kernel),
    strides=stride,
    # SAME pads a strided convolution on one side only.
    padding=kernel // 2,
    use_bias=False,
    kernel_init=jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
    dtype=dtype,
    conv_general_dilated=conv_general_dilated,
    rngs=rngs,
  )


class _BatchNorm(nnx.BatchNorm):
  """Batch norm over the whole batch, or over each of several parts of it."""

  def __init__(
    self,
    channels: int,
    *,
    parts: int,
    batch_norm_relu: _BatchNormRelu | None,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    super().__init__(
      channels,
      momentum=0.9,
      epsilon=1e-5,
      dtype=dtype,
      # By default Flax casts the running statistics to dtype before using them.
      promote_dtype=lambda arrays, **_: arrays,
      rngs=rngs,
    )
    self.parts = parts
    self.batch_norm_relu = batch_norm_relu

  def relu(self, x: jax.Array) -> jax.Array:
    """The ReLU of the result, by the given function where there is one."""
    if (
      self.batch_norm_relu is None
      or self.parts != 1
      or self.use_running_average
    ):
      return nnx.relu(self(x))
    assert self.scale is not None and self.bias is not None
    y, mean, variance = self.batch_norm_relu(
      x, self.scale[...], self.bias[...], self.epsilon
    )
    for running, of_batch in ((self.mean, mean), (self.var, variance)):
      running[...] = jax.lax.stop_gradient(
        self.momentum * running[...] + (1 - self.momentum) * of_batch
      )
    return y.astype(self.dtype)

  def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    if self.parts == 1 or self.use_running_average:
      return super().__call__(x, *args, **kwargs)
    if len(x) % self.parts:
      raise ValueError(
        f'`images` must be a multiple of {self.parts}, the number of'
        f' `batch_norm_parts`, got {len(x)}.'
      )
    parts = x.reshape(self.parts, -1, *x.shape[1:])
    # As in Flax: float32, in one pass.
    wide = parts.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = tuple(range(1, x.ndim))
    mean = wide.mean(axes)
    variance = jnp.maximum(0, (wide * wide).mean(axes) - mean * mean)
    assert self.scale is not None and self.bias is not None
    for running, of_parts in ((self.mean, mean), (self.var, variance)):
      running[...] = jax.lax.stop_gradient(
        self.momentum * running[...] + (1 - self.momentum) * of_parts.mean(0)
      )
    shape = (self.parts, *[1] * (x.ndim - 1), x.shape[-1])
    factor = jax.lax.rsqrt(variance + self.epsilon) * self.scale[...]
    y = (parts - mean.reshape(shape)) * factor.reshape(shape) + self.bias[...]
    return y.reshape(x.shape).astype(self.dtype)


def _check(
  depth: int,
  widen_factor: int,
  num_classes: int,
  in_channels: int,
  batch_norm_parts: int,
  dropout_rate: float,
) -> None:
  if depth < 10 or (depth - 4) % 6:
    raise ValueError(
      '`depth` must be 6n + 4 for a whole n of at least 1 (10, 16, 22, 28,'
      f' ...), got {depth}.'
    )
  for name, given in (
    ('widen_factor', widen_factor),
    ('num_classes', num_classes),
    ('in_channels', in_channels),
    ('batch_norm_parts', batch_norm_parts),
  ):
    if given < 1:
      raise ValueError(f'`{name}` must be at least 1, got {given}.')
  if not 0 <= dropout_rate < 1:
    raise ValueError(f'`dropout_rate` must be in [0, 1), got {dropout_rate}.')
