"""The kernels as JAX functions, for jit, vmap and reverse mode."""

from collections.abc import Sequence
import functools
from typing import Any, Literal, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from train.onednn import library

Kind = Literal['Forward', 'InputGradient', 'KernelGradient']
_Shape = tuple[int, ...]

_NHWC = (0, 3, 1, 2)
_HWIO = (3, 2, 0, 1)


class Geometry(NamedTuple):
  strides: tuple[int, int]
  padding: tuple[tuple[int, int], tuple[int, int]]  # Before, after.


def conv_general_dilated(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: Any = None,
  feature_group_count: int = 1,
  batch_group_count: int = 1,
  precision: Any = None,
  preferred_element_type: Any = None,
  out_sharding: Any = None,
) -> jax.Array:
  """``jax.lax.conv_general_dilated`` by oneDNN, for programs on one CPU.

  oneDNN computes convolutions with two spatial dimensions in NHWC and HWIO,
  without dilation or groups, in float32 or, on processors that support it,
  bfloat16. XLA computes all others, and shapes for which XLA is faster.

  Results differ from those of XLA by rounding. Repetitions are equal bit for
  bit; those of oneDNN for any number of threads. ``vmap`` and reverse mode of
  any order work; forward mode is a TypeError, as for any ``jax.custom_vjp``.

  Args:
    lhs: Images, shape=(batch, height, width, channels).
    rhs: Kernel, shape=(height, width, channels, out_channels), of the same
      dtype.
    window_strides: This and the following arguments are as in JAX.
    padding: A name, or the rows before and after and columns before and after.
    lhs_dilation: Ones or None, else XLA computes it.
    rhs_dilation: Ones or None, else XLA computes it.
    dimension_numbers: NHWC, HWIO, NHWC, else XLA computes it.
    feature_group_count: 1, else XLA computes it.
    batch_group_count: 1, else XLA computes it.
    precision: Only for XLA. The kernels accumulate in float32 for both dtypes.
    preferred_element_type: None or the dtype, else XLA computes it.
    out_sharding: None, else XLA computes it.

  Returns:
    shape=(batch, out_height, out_width, out_channels), of the same dtype.

  Raises:
    train.onednn.Unavailable: If the kernels are not built.

  Examples:
    >>> from flax import nnx
    >>> from train import onednn
    >>> layer = nnx.Conv(
    ...   3, 16, (3, 3), conv_general_dilated=onednn.conv_general_dilated,
    ...   rngs=nnx.Rngs(0))
    >>> if onednn.is_available():
    ...   _ = layer(jnp.zeros((2, 32, 32, 3)))
  """
  processor = register()
  numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
  if (
    numbers == (_NHWC, _HWIO, _NHWC)
    and _all_one(lhs_dilation)
    and _all_one(rhs_dilation)
    and feature_group_count == batch_group_count == 1
    and preferred_element_type in (None, lhs.dtype)
    and out_sharding is None
    and lhs.dtype == rhs.dtype
    and lhs.dtype in processor.dtypes
  ):
    geometry = _geometry(lhs.shape, rhs.shape, window_strides, padding)
    if _is_supported(lhs.shape, rhs.shape, geometry):
      return _forward(lhs, rhs, geometry)
  return lax.conv_general_dilated(
    lhs,
    rhs,
    window_strides,
    padding,
    lhs_dilation=lhs_dilation,
    rhs_dilation=rhs_dilation,
    dimension_numbers=dimension_numbers,
    feature_group_count=feature_group_count,
    batch_group_count=batch_group_count,
    precision=precision,
    preferred_element_type=preferred_element_type,
    out_sharding=out_sharding,
  )


class _Processor(NamedTuple):
  """Properties of this processor."""

  dtypes: tuple[Any, ...]
  """The dtypes of its kernels."""
  has_avx512: bool


@functools.cache
def register() -> _Processor:
  """Registers the kernels with XLA."""
  kernels = library.load()
  for kind in ('Forward', 'InputGradient', 'KernelGradient'):
    handler = getattr(kernels, f'Onednn{kind}')
    jax.ffi.register_ffi_target(
      _target(kind), jax.ffi.pycapsule(handler), platform='cpu'
    )
  dtypes = [jnp.dtype(jnp.float32)]
  if kernels.OnednnHasBfloat16():
    dtypes.append(jnp.dtype(jnp.bfloat16))
  return _Processor(tuple(dtypes), bool(kernels.OnednnHasAvx512()))


def _target(kind: str) -> str:
  return f'optax_lcam_onednn_{kind}'


def _all_one(numbers: Sequence[int] | None) -> bool:
  return numbers is None or all(number == 1 for number in numbers)


def _geometry(
  lhs: _Shape,
  rhs: _Shape,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
) -> Geometry:
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(lhs[1:3], rhs[:2], strides, padding)
  rows, columns = ((int(low), int(high)) for low, high in padding)
  return Geometry((int(strides[0]), int(strides[1])), (rows, columns))


def _is_supported(lhs: _Shape, rhs: _Shape, geometry: Geometry) -> bool:
  if 0 in lhs or 0 in rhs or lhs[3] != rhs[2]:
    return False
  # The fast kernels of oneDNN require that each window overlaps the image.
  return all(
    0 <= low < size and 0 <= high < size and n + low + high >= size
    for (low, high), size, n in zip(
      geometry.padding, rhs[:2], lhs[1:3], strict=True
    )
  )


def out_shape(lhs: _Shape, rhs: _Shape, geometry: Geometry) -> _Shape:
  """The shape of a convolution of images ``lhs`` with a kernel ``rhs``."""
  height, width = (
    (n + low + high - size) // stride + 1
    for n, size, stride, (low, high) in zip(
      lhs[1:3], rhs[:2], *geometry, strict=True
    )
  )
  return (lhs[0], height, width, rhs[3])


def xla_is_faster(
  kind: Kind, b: _Shape, shape: _Shape, geometry: Geometry
) -> bool:
  """Whether XLA computes this faster than oneDNN 3.2 does.

  Measured with ``python -m benchmarks.convolutions`` on an AMD EPYC of family
  23 without AVX-512, where oneDNN uses older code for kernel gradients. With
  AVX-512 (an AMD EPYC of family 26) oneDNN computes all convolutions. There the
  benchmark, which does not keep memory, has XLA ahead for the gradients of the
  images of 1x1 convolutions. With memory kept, training steps with either take
  the same time, and oneDNN is 1.2 to 4 times as fast in bfloat16.

  Args:
    kind: See :func:`call_onednn`, as for all others.
    b: Shape of the second argument.
    shape: Shape of the result.
    geometry: Geometry of the convolution.
  """
  if register().has_avx512:
    return False
  if kind == 'KernelGradient':
    rows, columns, channels, _ = shape
    return rows * columns > 1 and channels >= 64
  if kind == 'InputGradient':
    rows, columns, _, _ = b
    is_small = shape[1] * shape[2] <= 64
    return rows * columns == 1 and geometry.strides != (1, 1) and is_small
  return False


def call_xla(
  kind: Kind, a: jax.Array, b: jax.Array, shape: _Shape, geometry: Geometry
) -> jax.Array:
  """Computes :func:`call_onednn` with XLA."""

  def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
      images,
      kernel,
      geometry.strides,
      geometry.padding,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )

  made = jax.ShapeDtypeStruct(shape, a.dtype)
  if kind == 'InputGradient':
    (images,) = jax.linear_transpose(lambda x: convolve(x, b), made)(a)
    return images
  if kind == 'KernelGradient':
    (kernel,) = jax.linear_transpose(lambda x: convolve(a, x), made)(b)
    return kernel
  return convolve(a, b)


# A convolution and its two gradients are linear in each argument, and each
# one's gradients are the other two.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _forward(
  images: jax.Array, kernel: jax.Array, geometry: Geometry
) -> jax.Array:
  shape = out_shape(images.shape, kernel.shape, geometry)
  return _call('Forward', images, kernel, shape, geometry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _input_gradient(
  out: jax.Array, kernel: jax.Array, shape: _Shape, geometry: Geometry
) -> jax.Array:
  return _call('InputGradient', out, kernel, shape, geometry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _kernel_gradient(
  images: jax.Array, out: jax.Array, shape: _Shape, geometry: Geometry
) -> jax.Array:
  return _call('KernelGradient', images, out, shape, geometry)


def _keep(function: Any) -> Any:
  return lambda a, b, *static: (function(a, b, *static), (a, b))


def _forward_back(geometry: Geometry, kept: Any, out: jax.Array) -> Any:
  images, kernel = kept
  return (
    _input_gradient(out, kernel, images.shape, geometry),
    _kernel_gradient(images, out, kernel.shape, geometry),
  )


def _input_gradient_back(
  shape: _Shape, geometry: Geometry, kept: Any, images: jax.Array
) -> Any:
  out, kernel = kept
  return (
    _forward(images, kernel, geometry),
    _kernel_gradient(images, out, kernel.shape, geometry),
  )


def _kernel_gradient_back(
  shape: _Shape, geometry: Geometry, kept: Any, kernel: jax.Array
) -> Any:
  images, out = kept
  return (
    _input_gradient(out, kernel, images.shape, geometry),
    _forward(images, kernel, geometry),
  )


_forward.defvjp(_keep(_forward), _forward_back)
_input_gradient.defvjp(_keep(_input_gradient), _input_gradient_back)
_kernel_gradient.defvjp(_keep(_kernel_gradient), _kernel_gradient_back)


def _call(
  kind: Kind, a: jax.Array, b: jax.Array, shape: _Shape, geometry: Geometry
) -> jax.Array:
  """Computes one of the three with the faster implementation."""
  if xla_is_faster(kind, b.shape, shape, geometry):
    return call_xla(kind, a, b, shape, geometry)
  return call_onednn(kind, a, b, shape, geometry)


def call_onednn(
  kind: Kind, a: jax.Array, b: jax.Array, shape: _Shape, geometry: Geometry
) -> jax.Array:
  """Runs a kernel; under vmap once for all members, or once per member.

  Args:
    kind: One of the three. Forward takes images and kernel, InputGradient
      the cotangent and the kernel, KernelGradient images and cotangent.
    a: shape=(batch, height, width, channels).
    b: See ``kind``, of the same dtype.
    shape: Shape of the result.
    geometry: Geometry of the convolution.

  Returns:
    The result, of the same dtype.
  """
  register()

  @jax.custom_batching.custom_vmap
  def call(a: jax.Array, b: jax.Array) -> jax.Array:
    # The kernel sums over the batch in float32.
    made = jnp.float32 if kind == 'KernelGradient' else a.dtype
    result = jax.ffi.ffi_call(_target(kind), jax.ShapeDtypeStruct(shape, made))(
      a,
      b,
      strides=np.asarray(geometry.strides, np.int64),
      padding=np.asarray(geometry.padding, np.int64).ravel(),
    )
    return result.astype(a.dtype)

  @call.def_vmap
  def _(members: int, batched: Any, a: jax.Array, b: jax.Array) -> Any:
    a_batched, b_batched = batched
    if kind != 'KernelGradient' and not b_batched:
      folded = a.reshape(members * a.shape[1], *a.shape[2:])
      together = (members * shape[0], *shape[1:])
      result = _call(kind, folded, b, together, geometry)
      return result.reshape(members, *shape), True

    def one(member: tuple[jax.Array, jax.Array]) -> jax.Array:
      its_a, its_b = member
      return _call(
        kind,
        its_a if a_batched else a,
        its_b if b_batched else b,
        shape,
        geometry,
      )

    nothing = jnp.zeros(members)
    return (
      lax.map(one, (a if a_batched else nothing, b if b_batched else nothing)),
      True,
    )

  return call(a, b)
