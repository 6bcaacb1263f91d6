"""Batch norm with ReLU of the kernels agrees with float64, Flax and PyTorch."""

import functools
import hashlib

from flax import nnx
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

import models
from train import onednn
from train.onednn import batch_norm

pytestmark = pytest.mark.usefixtures('kernels')

_EPSILON = 1e-5
_BATCH = 3

_normalize = functools.partial(onednn.batch_norm_relu, epsilon=_EPSILON)
_xla = functools.partial(batch_norm.normalize_by_xla, epsilon=_EPSILON)


def _random(shape, dtype=np.float32):
  """Images whose channels have different means, two parameters, a cotangent."""
  random = np.random.default_rng(0)
  channels = shape[-1:]
  x = random.normal(size=shape) * 2 + random.normal(size=channels)
  scale, bias = random.normal(size=(2, *channels))
  cotangent = random.normal(size=shape)
  return (
    jnp.asarray(x, dtype),
    jnp.asarray(scale, np.float32),
    jnp.asarray(bias, np.float32),
    jnp.asarray(cotangent, dtype),
  )


@functools.partial(jax.jit, static_argnums=0)
def _with_gradients(normalize, x, scale, bias, cotangent):
  """The activation, the mean, the mean of squares and three gradients.

  The variance is a difference, as exact as the mean of squares is.
  """
  (y, mean, variance), back = jax.vjp(normalize, x, scale, bias)
  nothing = jnp.zeros_like(mean)
  gradients = back((cotangent, nothing, nothing))
  return [y, mean, variance + mean * mean, *gradients]


def _reference(x, scale, bias, cotangent):
  """The same in float64."""
  x, scale, bias, cotangent = (
    np.asarray(array.astype(jnp.float32), np.float64)
    for array in (x, scale, bias, cotangent)
  )
  axes = tuple(range(x.ndim - 1))
  mean, variance = x.mean(axes), x.var(axes)
  inverse = 1 / np.sqrt(variance + _EPSILON)
  normalized = (x - mean) * inverse
  y = normalized * scale + bias
  dy = np.where(y > 0, cotangent, 0)
  dscale, dbias = (dy * normalized).sum(axes), dy.sum(axes)
  rows = x.size / x.shape[-1]
  dx = scale * inverse * (dy - dbias / rows - normalized * dscale / rows)
  squares = variance + mean * mean
  return [np.maximum(y, 0), mean, squares, dx, dscale, dbias]


def _assert_close(ours, theirs, tolerance):
  for our, their in zip(ours, theirs, strict=True):
    our = np.asarray(our.astype(jnp.float32), np.float64)
    their = np.asarray(jnp.asarray(their).astype(jnp.float32), np.float64)
    assert our.shape == their.shape
    assert np.abs(our - their).max() <= tolerance * np.abs(their).max()


@functools.cache
def _shapes_of_wide_resnets():
  """Shapes of all activations of batch norm for 8x8 images."""
  found = {}

  def spy(x, scale, bias, epsilon):
    assert epsilon == _EPSILON
    found[x.shape] = None
    return batch_norm.normalize_by_xla(x, scale, bias, epsilon)

  for depth, widen_factor in [(10, 1), (28, 1), (16, 2), (16, 4), (10, 10)]:

    def call(depth=depth, widen_factor=widen_factor):
      model = models.WideResNet(
        depth, widen_factor, batch_norm_relu=spy, rngs=nnx.Rngs(0)
      )
      return model(jnp.zeros((_BATCH, 8, 8, 3)))

    nnx.eval_shape(call)
  return list(found)


# Narrow channels, of which several rows make a vector; rows that do not fill
# one; several blocks, the last of them smaller; no rows of images.
_ODD = [
  (1, 7, 5, 3),
  (2, 3, 5, 10),
  (5, 6, 9, 1),
  (3, 11, 7, 48),
  (1, 3, 3, 1001),
  (37, 32, 32, 16),
  (37, 13, 13, 64),
  (64, 160),
]


def test_all_batch_norms_of_wide_resnets():
  shapes = _shapes_of_wide_resnets()
  assert len(shapes) > 10
  for shape in [*shapes, *_ODD]:
    given = _random(shape)
    ours = _with_gradients(_normalize, *given)
    _assert_close(ours, _reference(*given), 1e-5)
    if shape in _ODD:  # XLA compiles each shape for half a second.
      _assert_close(ours, _with_gradients(_xla, *given), 1e-5)


def test_a_single_row_becomes_the_bias():
  x, scale, bias, cotangent = _random((1, 1, 1, 16))
  y, _, _, dx, dscale, dbias = _with_gradients(
    _normalize, x, scale, bias, cotangent
  )
  expected = np.where(bias > 0, cotangent[0, 0, 0], 0)
  np.testing.assert_allclose(y[0, 0, 0], np.maximum(bias, 0), atol=1e-4)
  np.testing.assert_allclose(dx, np.zeros_like(x), atol=1e-3)
  np.testing.assert_allclose(dscale, np.zeros(16), atol=1e-3)
  np.testing.assert_allclose(dbias, expected, rtol=1e-6)


def test_pytorch_agrees():
  torch = pytest.importorskip('torch')
  x, scale, bias, cotangent = _random((4, 9, 7, 64))
  ours = _with_gradients(_normalize, x, scale, bias, cotangent)
  their_x = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))
  their_x.requires_grad_(True)
  layer = torch.nn.BatchNorm2d(64, eps=_EPSILON)
  with torch.no_grad():
    layer.weight.copy_(torch.tensor(np.asarray(scale)))
    layer.bias.copy_(torch.tensor(np.asarray(bias)))
  y = torch.relu(layer(their_x))
  y.backward(torch.tensor(np.asarray(cotangent).transpose(0, 3, 1, 2)))
  y, gradient = (
    array.detach().numpy().transpose(0, 2, 3, 1) for array in (y, their_x.grad)
  )
  theirs = [y, gradient, layer.weight.grad.numpy(), layer.bias.grad.numpy()]
  _assert_close([ours[0], *ours[3:]], theirs, 1e-5)


@pytest.mark.parametrize(
  'shape', [(37, 8, 8, 16), (2, 8, 8, 160), (1, 7, 5, 3)]
)
def test_bfloat16(shape):
  given = _random(shape, jnp.bfloat16)
  ours = _with_gradients(_normalize, *given)
  assert [x.dtype.name for x in ours] == [
    'bfloat16' if i in (0, 3) else 'float32' for i in range(6)
  ]
  theirs = _reference(*given)
  # Only results are rounded, to 8 bits. An activation next to 0 may be on the
  # other side of it, as in XLA.
  _assert_close([ours[0], ours[3]], [theirs[0], theirs[3]], 2**-8)
  _assert_close([*ours[1:3], *ours[4:]], [*theirs[1:3], *theirs[4:]], 1e-5)


def test_bfloat16_is_rounded_to_the_nearest():
  given = _random((64, 8, 8, 16), jnp.bfloat16)[:3]
  ours, theirs = _normalize(*given)[0], _xla(*given)[0]
  # The values before differ in the last bits of float32, and few of them lie
  # between two of bfloat16.
  assert np.mean(np.asarray(ours != theirs)) < 1e-3


def test_what_is_not_a_number_stays_so():
  x, scale, bias, cotangent = _random((4, 8, 8, 16))
  x = x.at[0, 0, 0, 3].set(np.nan)
  ours = _with_gradients(_normalize, x, scale, bias, cotangent)
  theirs = _with_gradients(_xla, x, scale, bias, cotangent)
  for our, their in zip(ours, theirs, strict=True):
    np.testing.assert_array_equal(np.isnan(our), np.isnan(their))
  assert np.isnan(ours[0][..., 3]).all() and not np.isnan(ours[0][..., 4]).any()


def test_a_channel_without_variance():
  x, scale, bias, cotangent = _random((4, 8, 8, 16))
  x = x.at[..., 3].set(0.1)
  bias = bias.at[3].set(1)
  ours = _with_gradients(_normalize, x, scale, bias, cotangent)
  # Its variance is what rounding leaves, next to epsilon.
  _assert_close(ours, _with_gradients(_xla, x, scale, bias, cotangent), 1e-3)


@pytest.mark.parametrize(
  'dtypes',
  [(jnp.float16, jnp.float32), (jnp.float32, jnp.bfloat16)],
  ids=['images', 'parameters'],
)
def test_other_dtypes_use_xla(dtypes):
  x, scale, bias, _ = _random((4, 8, 8, 16))
  x, parameters = x.astype(dtypes[0]), scale.astype(dtypes[1])
  made = str(jax.make_jaxpr(_normalize)(x, parameters, bias))
  assert 'ffi_call' not in made


def test_no_images_use_xla():
  x, scale, bias, _ = _random((0, 8, 8, 16))
  assert _normalize(x, scale, bias)[0].shape == (0, 8, 8, 16)


def test_the_statistics_have_no_gradients():
  x, scale, bias, _ = _random((4, 8, 8, 16))
  gradient = jax.grad(
    lambda x: sum(map(jnp.sum, _normalize(x, scale, bias)[1:]))
  )
  np.testing.assert_array_equal(gradient(x), 0)


@pytest.mark.parametrize('nested', [False, True])
@pytest.mark.parametrize('in_axes', [(0, 0, 0, 0), (0, None, None, 0)])
def test_vmap_equals_a_loop(in_axes, nested):
  members = 3
  given = _random((members, 4, 8, 8, 16))
  x, scale, bias, cotangent = given
  if in_axes[1] == 0:
    scale, bias = (jnp.stack([p, p + 1, p + 2]) for p in (scale, bias))
  given = (x, scale, bias, cotangent)
  function = functools.partial(_with_gradients, _normalize)
  expected = [
    function(
      *(
        array[i] if axis == 0 else array
        for array, axis in zip(given, in_axes, strict=True)
      )
    )
    for i in range(members)
  ]
  expected = jax.tree.map(lambda *arrays: np.stack(arrays), *expected)
  mapped = jax.vmap(function, in_axes)
  if nested:
    given = [
      array[None] if axis == 0 else array
      for array, axis in zip(given, in_axes, strict=True)
    ]
    mapped = jax.vmap(mapped, in_axes)
    expected = [array[None] for array in expected]
  _assert_close(jax.jit(mapped)(*given), expected, 1e-6)


def test_reverse_mode_of_second_order():
  x, scale, bias, _ = _random((2, 3, 3, 2))

  def hessian(normalize):
    return jax.jit(
      jax.jacrev(
        jax.grad(
          lambda *given: jnp.sin(normalize(*given)[0]).sum(), argnums=(0, 1, 2)
        ),
        argnums=(0, 1, 2),
      )
    )(x, scale, bias)

  ours, theirs = (jax.tree.leaves(hessian(f)) for f in (_normalize, _xla))
  _assert_close(ours, theirs, 1e-4)


def test_forward_mode_is_rejected():
  x, scale, bias, _ = _random((1, 4, 4, 2))
  with pytest.raises(TypeError, match='forward-mode'):
    jax.jvp(lambda x: _normalize(x, scale, bias), (x,), (x,))


@functools.cache
def _train(dtype, **settings):
  """Gradients and statistics of a step, then logits in evaluation."""
  random = np.random.default_rng(0)
  images = jnp.asarray(random.normal(size=(6, 16, 16, 3)), np.float32)
  weights = jnp.asarray(random.normal(size=(6, 10)), np.float32)
  model = models.WideResNet(10, 1, dtype=dtype, rngs=nnx.Rngs(0), **settings)

  @nnx.jit
  def results(model):
    gradients = nnx.grad(lambda model: (model(images) * weights).sum())(model)
    model.eval()
    return gradients, nnx.state(model, nnx.BatchStat), model(images)

  return results(model)


@pytest.mark.parametrize('remat', [False, True])
def test_networks_agree_with_those_of_flax(remat):
  ours = _train(
    jnp.float32, batch_norm_relu=onednn.batch_norm_relu, remat=remat
  )
  theirs = _train(jnp.float32, remat=remat)
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  _assert_close(*map(jax.tree.leaves, (ours, theirs)), 1e-4)


def test_networks_in_bfloat16_are_as_exact_as_those_of_flax():
  ours = _train(jnp.bfloat16, batch_norm_relu=onednn.batch_norm_relu)
  theirs, exact = _train(jnp.bfloat16), _train(jnp.float32)

  def error(results):
    pairs = zip(*map(jax.tree.leaves, (results, exact)), strict=True)
    return sum(float(jnp.square(a - b).sum()) for a, b in pairs) ** 0.5

  assert error(ours) < 1.1 * error(theirs)


def test_the_kernel_is_used_in_training_of_one_part_alone():
  called = []

  def spy(x, *rest):
    called.append(x.shape)
    return onednn.batch_norm_relu(x, *rest)

  def model(**settings):
    return models.WideResNet(
      10, 1, batch_norm_relu=spy, rngs=nnx.Rngs(0), **settings
    )

  images = jnp.ones((4, 8, 8, 3))
  model()(images)
  assert len(called) == 3 * 2 + 1
  called.clear()
  model(batch_norm_parts=2)(images)
  evaluated = model()
  evaluated.eval()
  evaluated(images)
  assert called == []


# Narrow and wide rows; one block and many.
_REPEATED = [(64, 16, 16, 16), (37, 16, 16, 24), (3, 4, 4, 16), (64, 8, 8, 256)]


def _digest():
  """The digest of results and gradients for several shapes."""
  digest = hashlib.sha256()
  for shape in _REPEATED:
    for dtype in (jnp.float32, jnp.bfloat16):
      for x in _with_gradients(_normalize, *_random(shape, dtype)):
        digest.update(np.asarray(x).tobytes())
  return digest.hexdigest()


def test_repeats_are_equal_bit_for_bit_under_load(load):
  assert len({_digest() for _ in range(10)}) == 1


def test_the_number_of_threads_changes_no_bit(on_one_core):
  assert _digest() == on_one_core(
    'from tests.train.onednn import test_batch_norm',
    'print(test_batch_norm._digest())',
  )
