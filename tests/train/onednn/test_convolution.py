"""Convolutions of oneDNN agree with float64, XLA and PyTorch."""

import contextlib
import functools
import hashlib

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

import models
from train import onednn
from train.onednn import convolution

pytestmark = pytest.mark.usefixtures('kernels')

_NUMBERS = ('NHWC', 'HWIO', 'NHWC')
_BATCH = 3


def _call(function, images, kernel, stride=1, padding=None):
  if padding is None:
    padding = [(n // 2, n // 2) for n in kernel.shape[:2]]
  return function(
    images, kernel, (stride, stride), padding, dimension_numbers=_NUMBERS
  )


_convolve = functools.partial(_call, onednn.conv_general_dilated)
_xla = functools.partial(_call, lax.conv_general_dilated)


def _random(*shapes, dtype=np.float32):
  random = np.random.default_rng(0)
  return [jnp.asarray(random.normal(size=s), dtype) for s in shapes]


def _with_gradients(convolve, images, kernel):
  """The result, and both gradients for a fixed cotangent."""
  out, back = jax.vjp(convolve, images, kernel)
  (cotangent,) = _random(out.shape, dtype=out.dtype)
  return [out, *back(cotangent)]


def _reference(images, kernel, stride, cotangent):
  """A convolution with half padding and its gradients, in float64."""
  images, kernel, cotangent = (
    np.asarray(x.astype(jnp.float32), np.float64)
    for x in (images, kernel, cotangent)
  )
  rows, columns = kernel.shape[:2]
  half = ((rows // 2,) * 2, (columns // 2,) * 2)
  padded = np.pad(images, ((0, 0), *half, (0, 0)))
  out = np.zeros(cotangent.shape)
  padded_gradient = np.zeros_like(padded)
  kernel_gradient = np.zeros_like(kernel)
  axes = ((0, 1, 2), (0, 1, 2))
  for i, j in np.ndindex(rows, columns):
    rows_seen = slice(i, i + stride * (out.shape[1] - 1) + 1, stride)
    columns_seen = slice(j, j + stride * (out.shape[2] - 1) + 1, stride)
    seen = padded[:, rows_seen, columns_seen]
    out += seen @ kernel[i, j]
    padded_gradient[:, rows_seen, columns_seen] += cotangent @ kernel[i, j].T
    kernel_gradient[i, j] = np.tensordot(seen, cotangent, axes)
  inside = tuple(
    slice(low, low + n)
    for (low, _), n in zip(half, images.shape[1:3], strict=True)
  )
  return [out, padded_gradient[:, *inside], kernel_gradient]


def _assert_close(ours, theirs, tolerance):
  for our, their in zip(ours, theirs, strict=True):
    our = np.asarray(our.astype(jnp.float32), np.float64)
    their = np.asarray(their, np.float64)
    assert our.shape == their.shape
    assert np.abs(our - their).max() <= tolerance * np.abs(their).max()


@functools.cache
def _shapes_of_wide_resnets():
  """Image shape, kernel shape and stride of all convolutions for 8x8 images."""
  found = {}

  def spy(images, kernel, strides, padding, **rest):
    half = kernel.shape[0] // 2
    assert padding == [(half, half)] * 2 or padding == ((half, half),) * 2
    assert len(set(strides)) == 1
    found[images.shape, kernel.shape, strides[0]] = None
    return lax.conv_general_dilated(images, kernel, strides, padding, **rest)

  for depth, widen_factor in [(10, 1), (28, 1), (16, 2), (16, 4), (10, 10)]:

    def call(depth=depth, widen_factor=widen_factor):
      model = models.WideResNet(
        depth, widen_factor, conv_general_dilated=spy, rngs=nnx.Rngs(0)
      )
      return model(jnp.zeros((_BATCH, 8, 8, 3)))

    nnx.eval_shape(call)
  return list(found)


_ODD = [
  ((1, 7, 5, 9), (3, 3, 9, 4), 2),
  ((1, 1, 1, 1), (1, 1, 1, 1), 1),
  ((5, 6, 9, 3), (5, 3, 3, 7), 1),
  ((7, 2, 2, 8), (3, 3, 8, 8), 3),
  ((37, 32, 32, 16), (3, 3, 16, 16), 1),  # Parts of 5 images, the last has 2.
]


@contextlib.contextmanager
def _only_onednn(monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(convolution, 'xla_is_faster', lambda *_: False)
    yield


def test_all_convolutions_of_wide_resnets(monkeypatch):
  shapes = _shapes_of_wide_resnets()
  assert len(shapes) > 25
  with _only_onednn(monkeypatch):
    for image_shape, kernel_shape, stride in [*shapes, *_ODD]:
      images, kernel = _random(image_shape, kernel_shape)
      ours = _with_gradients(
        functools.partial(_convolve, stride=stride), images, kernel
      )
      (cotangent,) = _random(ours[0].shape)
      theirs = _reference(images, kernel, stride, cotangent)
      _assert_close(ours, theirs, 1e-5)


@pytest.mark.parametrize(
  ('image_shape', 'kernel_shape', 'stride'),
  [((4, 9, 7, 64), (3, 3, 64, 32), 2), ((4, 8, 8, 16), (1, 1, 16, 32), 2)],
)
def test_xla_and_pytorch_agree(image_shape, kernel_shape, stride):
  torch = pytest.importorskip('torch')
  images, kernel = _random(image_shape, kernel_shape)
  ours = _with_gradients(
    functools.partial(_convolve, stride=stride), images, kernel
  )
  xlas = _with_gradients(functools.partial(_xla, stride=stride), images, kernel)
  _assert_close(ours, xlas, 1e-5)

  x, w = (
    torch.tensor(np.asarray(array).transpose(order), requires_grad=True)
    for array, order in ((images, (0, 3, 1, 2)), (kernel, (3, 2, 0, 1)))
  )
  y = torch.nn.functional.conv2d(x, w, None, stride, kernel_shape[0] // 2)
  (cotangent,) = _random(ours[0].shape)
  y.backward(torch.tensor(np.asarray(cotangent).transpose(0, 3, 1, 2)))
  theirs = [
    y.detach().numpy().transpose(0, 2, 3, 1),
    x.grad.numpy().transpose(0, 2, 3, 1),
    w.grad.numpy().transpose(2, 3, 1, 0),
  ]
  _assert_close(ours, theirs, 1e-5)


@pytest.mark.parametrize(
  ('image_shape', 'kernel_shape', 'stride'),
  [((37, 8, 8, 16), (3, 3, 16, 32), 2), ((2, 8, 8, 3), (3, 3, 3, 16), 1)],
)
def test_bfloat16(image_shape, kernel_shape, stride):
  images, kernel = _random(image_shape, kernel_shape, dtype=jnp.bfloat16)
  ours = _with_gradients(
    functools.partial(_convolve, stride=stride), images, kernel
  )
  assert {x.dtype.name for x in ours} == {'bfloat16'}
  (cotangent,) = _random(ours[0].shape, dtype=jnp.bfloat16)
  # Only the result is rounded, to 8 bits, not the terms of the sum.
  _assert_close(ours, _reference(images, kernel, stride, cotangent), 2**-8)


@pytest.mark.parametrize('padding', ['SAME', 'VALID', [(0, 2), (1, 0)]])
def test_paddings(padding):
  images, kernel = _random((2, 9, 8, 4), (3, 3, 4, 5))
  ours, theirs = (
    _with_gradients(
      functools.partial(convolve, stride=2, padding=padding), images, kernel
    )
    for convolve in (_convolve, _xla)
  )
  assert 'ffi_call' in str(
    jax.make_jaxpr(functools.partial(_convolve, padding=padding))(
      images, kernel
    )
  )
  _assert_close(ours, theirs, 1e-5)


@pytest.mark.parametrize(
  'given',
  [
    {'lhs_dilation': (2, 2)},
    {'rhs_dilation': (2, 1)},
    {'feature_group_count': 2},
    {'batch_group_count': 2},
    {'dimension_numbers': None},
    {'padding': [(3, 0), (0, 0)]},
    {'padding': [(-1, 0), (0, 0)]},
    {'preferred_element_type': jnp.float32, 'dtype': jnp.bfloat16},
  ],
  ids=lambda given: next(iter(given)),
)
def test_unsupported_convolutions_use_xla(given):
  groups = given.get('feature_group_count', 1)
  given = dict(given)
  images, kernel = _random(
    (4, 8, 8, 8),
    (3, 3, 8 // groups, 8),
    dtype=given.pop('dtype', jnp.float32),
  )
  if 'dimension_numbers' in given:
    kernel = kernel.transpose(3, 2, 0, 1)
  arguments = {
    'window_strides': (1, 1),
    'padding': [(1, 1), (1, 1)],
    'dimension_numbers': _NUMBERS,
  } | given
  ours, theirs = (
    jax.make_jaxpr(functools.partial(convolve, **arguments))(images, kernel)
    for convolve in (onednn.conv_general_dilated, lax.conv_general_dilated)
  )
  assert str(ours) == str(theirs)


def test_float16_uses_xla():
  images, kernel = _random((4, 8, 8, 8), (3, 3, 8, 8), dtype=jnp.float16)
  assert 'ffi_call' not in str(jax.make_jaxpr(_convolve)(images, kernel))


@pytest.mark.parametrize('in_axes', [(0, None), (None, 0), (0, 0)])
@pytest.mark.parametrize('nested', [False, True])
def test_vmap_equals_a_loop(in_axes, nested):
  members = 3
  images, kernel = _random((members, 2, 8, 8, 4), (members, 3, 3, 4, 6))
  images, kernel = (
    x if axis == 0 else x[0]
    for x, axis in zip((images, kernel), in_axes, strict=True)
  )
  function = functools.partial(_with_gradients, _convolve)
  expected = [
    function(
      *(
        x[i] if axis == 0 else x
        for x, axis in zip((images, kernel), in_axes, strict=True)
      )
    )
    for i in range(members)
  ]
  expected = jax.tree.map(lambda *x: np.stack(x), *expected)
  mapped = jax.vmap(function, in_axes)
  if nested:
    images, kernel = images[None], kernel[None]
    mapped = jax.vmap(mapped)
    expected = [x[None] for x in expected]
  ours = jax.jit(mapped)(images, kernel)
  _assert_close(ours, expected, 1e-5)


def test_reverse_mode_of_second_order(monkeypatch):
  images, kernel = _random((1, 4, 4, 2), (3, 3, 2, 2))
  with _only_onednn(monkeypatch):
    jax.test_util.check_grads(
      lambda images, kernel: jnp.sin(_convolve(images, kernel, stride=2)),
      (images, kernel),
      order=2,
      modes=['rev'],
      atol=1e-2,
      rtol=1e-2,
    )


def test_forward_mode_is_rejected():
  images, kernel = _random((1, 4, 4, 2), (3, 3, 2, 2))
  with pytest.raises(TypeError, match='forward-mode'):
    jax.jvp(_convolve, (images, kernel), (images, kernel))


def test_layers_inside_checkpoint():
  images, first, second = _random((5, 8, 8, 3), (3, 3, 3, 16), (3, 3, 16, 8))

  def gradients(convolve):
    @jax.checkpoint
    def layers(first, second):
      return convolve(jnp.tanh(convolve(images, first)), second, stride=2)

    def loss(first, second):
      return jnp.square(layers(first, second)).mean()

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(first, second)

  _assert_close(gradients(_convolve), gradients(_xla), 1e-5)


# Shapes for the different paths: equal parts; a smaller last part; one part;
# kernel gradients that XLA may compute.
_REPEATED = [
  ((64, 16, 16, 16), (3, 3, 16, 16), 1),
  ((37, 16, 16, 16), (3, 3, 16, 32), 2),
  ((3, 4, 4, 16), (1, 1, 16, 32), 2),
  ((64, 8, 8, 64), (3, 3, 64, 64), 1),
]


def _digest():
  """The digest of results and gradients for several shapes."""
  digest = hashlib.sha256()
  for image_shape, kernel_shape, stride in _REPEATED:
    images, kernel = _random(image_shape, kernel_shape)
    function = functools.partial(_convolve, stride=stride)
    for x in _with_gradients(function, images, kernel):
      digest.update(np.asarray(x).tobytes())
  return digest.hexdigest()


def test_repeats_are_equal_bit_for_bit_under_load(load):
  assert len({_digest() for _ in range(5)}) == 1


def test_the_number_of_threads_changes_no_bit(monkeypatch, on_one_core):
  printed = on_one_core(
    'from tests.train.onednn import test_convolution',
    'test_convolution.convolution.xla_is_faster = lambda *_: False',
    'print(test_convolution._digest())',
  )
  with _only_onednn(monkeypatch):
    assert _digest() == printed
