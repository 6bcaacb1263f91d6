"""Batch norm with ReLU as a JAX function, for jit, vmap and reverse mode."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.onednn import library

_DTYPES = (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16))

_Arrays = tuple[jax.Array, ...]


def batch_norm_relu(
  x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """ReLU of batch norm by the statistics of this batch, on one CPU.

  The formula is that of :class:`flax.nnx.BatchNorm` with fast variance, in
  float32. The kernels take ``x`` in float32 or bfloat16 with parameters in
  float32. XLA computes all others.

  Results differ from those of XLA by rounding. Repetitions are equal bit for
  bit, for any number of threads. ``vmap`` and reverse mode of any order work;
  forward mode is a TypeError, as for any ``jax.custom_vjp``.

  Args:
    x: shape=(..., channels).
    scale: shape=(channels,).
    bias: shape=(channels,).
    epsilon: Added to the variance.

  Returns:
    The activation, of the shape and dtype of ``x``, and the mean and variance
    of each channel, in float32 and without gradients.

  Raises:
    train.onednn.Unavailable: If the kernels are not built.

  Examples:
    >>> from train import onednn
    >>> x = jnp.ones((2, 8, 8, 16))
    >>> if onednn.is_available():
    ...   y, mean, variance = onednn.batch_norm_relu(
    ...     x, jnp.ones(16), jnp.zeros(16), 1e-5)
  """
  register()
  normalize = _normalize if _is_supported(x, scale, bias) else normalize_by_xla
  y, mean, variance = normalize(x, scale, bias, epsilon)
  return y, jax.lax.stop_gradient(mean), jax.lax.stop_gradient(variance)


def normalize_by_xla(
  x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Computes :func:`batch_norm_relu` with XLA."""
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  axes = tuple(range(x.ndim - 1))
  mean = wide.mean(axes)
  variance = jnp.maximum(0, (wide * wide).mean(axes) - mean * mean)
  y = (x - mean) * (jax.lax.rsqrt(variance + epsilon) * scale) + bias
  return jax.nn.relu(y.astype(x.dtype)), mean, variance


@functools.cache
def register() -> None:
  """Registers the kernels with XLA."""
  kernels = library.load()
  for kind in ('Forward', 'Gradient'):
    handler = getattr(kernels, f'BatchNorm{kind}')
    jax.ffi.register_ffi_target(
      _target(kind), jax.ffi.pycapsule(handler), platform='cpu'
    )


def _target(kind: str) -> str:
  return f'optax_lcam_batch_norm_{kind}'


def _is_supported(x: jax.Array, scale: jax.Array, bias: jax.Array) -> bool:
  return (
    x.ndim > 1
    and x.size > 0
    and x.dtype in _DTYPES
    and scale.dtype == bias.dtype == jnp.float32
    and scale.shape == bias.shape == x.shape[-1:]
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(
  x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> _Arrays:
  return _call('Forward', (x, scale, bias), epsilon)


def _keep(
  x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[_Arrays, _Arrays]:
  y, mean, variance = _normalize(x, scale, bias, epsilon)
  return (y, mean, variance), (x, scale, bias, mean, variance)


def _normalize_back(
  epsilon: float, kept: _Arrays, cotangents: _Arrays
) -> _Arrays:
  return _gradient(*kept, cotangents[0], epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _gradient(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  mean: jax.Array,
  variance: jax.Array,
  dy: jax.Array,
  epsilon: float,
) -> _Arrays:
  return _call('Gradient', (x, scale, bias, mean, variance, dy), epsilon)


def _keep_for_second_order(
  *given: Any,
) -> tuple[_Arrays, tuple[Any, ...]]:
  return _gradient(*given), given[:-1]


def _gradient_back(
  epsilon: float, kept: _Arrays, cotangents: _Arrays
) -> _Arrays:
  """The gradients of the gradients, by XLA."""
  x, scale, bias, mean, variance, dy = kept

  def normalize(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return normalize_by_xla(x, scale, bias, epsilon)[0]

  def gradient(
    x: jax.Array, scale: jax.Array, bias: jax.Array, dy: jax.Array
  ) -> _Arrays:
    _, back = jax.vjp(normalize, x, scale, bias)
    return tuple(back(dy))

  _, back = jax.vjp(gradient, x, scale, bias, dy)
  dx, dscale, dbias, ddy = back(tuple(cotangents))
  # Above, the statistics are functions of x.
  return (
    dx,
    dscale,
    dbias,
    jnp.zeros_like(mean),
    jnp.zeros_like(variance),
    ddy,
  )


_normalize.defvjp(_keep, _normalize_back)
_gradient.defvjp(_keep_for_second_order, _gradient_back)


def _call(kind: str, arrays: _Arrays, epsilon: float) -> _Arrays:
  """Runs a kernel; under vmap once per member."""
  x, scale, *_ = arrays
  of_channels = jax.ShapeDtypeStruct(scale.shape, jnp.float32)
  made = (jax.ShapeDtypeStruct(x.shape, x.dtype), of_channels, of_channels)

  @jax.custom_batching.sequential_vmap
  def call(*arrays: jax.Array) -> _Arrays:
    results = jax.ffi.ffi_call(_target(kind), made)(
      *arrays, epsilon=np.float32(epsilon)
    )
    return tuple(results)

  return call(*arrays)
