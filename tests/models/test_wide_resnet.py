"""``models.WideResNet`` agrees with PyTorch and with its documentation.

Both frameworks have the same random weights and running statistics. Results are
compared with golden values, and with PyTorch itself if it is installed.
"""

import doctest
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import models
from models import wide_resnet
from tests.references import golden

# The second differs in every size, and its images are halved unevenly.
NETWORKS = [
  golden.GOLDEN_NETWORK,
  golden.Network(
    depth=16,
    widen_factor=2,
    num_classes=100,
    in_channels=3,
    height=30,
    width=28,
  ),
]

# Each has one of these properties.
MORE_NETWORKS = [
  golden.Network(depth=10, widen_factor=2, in_channels=1, height=28, width=28),
  golden.Network(depth=16, widen_factor=1, height=30, width=30),
  golden.Network(depth=10, widen_factor=4, num_classes=100),
]

CASES = [
  pytest.param('golden', golden.GOLDEN_NETWORK, id='golden'),
  *(pytest.param('live', n, id=f'live-{n.name}') for n in NETWORKS),
  *(
    pytest.param('live', n, id=f'live-{n.name}', marks=pytest.mark.slow)
    for n in MORE_NETWORKS
  ),
]


@pytest.fixture(autouse=True)
def _full_precision():
  """GPUs and TPUs otherwise round the factors of float32 products."""
  with jax.default_matmul_precision('highest'):
    yield


# --- Comparison with PyTorch -------------------------------------------------


@functools.cache
def _pytorch(source, network, dtype='float32'):
  if source == 'golden':
    return golden.load('network')
  pytest.importorskip('torch', reason='PyTorch is not installed')
  from tests.references import make_golden

  return make_golden.training_step(network, dtype)


@functools.cache
def _ours(network, dtype=jnp.float32):
  """The same as the PyTorch reference's ``one_training_step``."""
  model = _with_golden_weights(network, dtype=dtype)
  images, labels = golden.images_and_labels(network)

  @nnx.jit
  def step(model, images, labels):
    model.eval()
    eval_logits = model(images)
    model.train()
    (loss, train_logits), grads = nnx.value_and_grad(_loss_fn, has_aux=True)(
      model, images, labels
    )
    return eval_logits, train_logits, loss, grads

  eval_logits, train_logits, loss, grads = step(model, images, labels)
  results = {
    'eval_logits': eval_logits,
    'train_logits': train_logits,
    'loss': loss,
  }
  for name, array in golden.from_nnx(grads).items():
    results[f'gradient/{name}'] = array
  for name, array in golden.from_nnx(nnx.state(model, nnx.BatchStat)).items():
    results[f'statistic/{name}'] = array
  return results


def _loss_fn(model, images, labels):
  logits = model(images)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return losses.mean(), logits


def _with_golden_weights(network, **kwargs):
  model = _abstract(
    network.depth,
    network.widen_factor,
    network.num_classes,
    in_channels=network.in_channels,
    **kwargs,
  )
  golden.copy_to_nnx(golden.weights(network), model)
  return model


def _abstract(*args, **kwargs):
  """An abstract model, without weights."""
  return nnx.eval_shape(
    lambda: models.WideResNet(*args, **kwargs, rngs=nnx.Rngs(0))
  )


def _relative_difference(ours, theirs):
  """The relative difference of two arrays in the Euclidean norm."""
  assert ours.shape == theirs.shape
  ours, theirs = np.float64(ours), np.float64(theirs)
  return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize(('source', 'network'), CASES)
@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_logits_equal_pytorch(source, network, mode):
  theirs = _pytorch(source, network)[f'{mode}_logits']
  ours = _ours(network)[f'{mode}_logits']
  assert _relative_difference(ours, theirs) < 1e-4


@pytest.mark.parametrize(('source', 'network'), CASES)
def test_loss_and_gradients_equal_pytorch(source, network):
  # In float32 one of half a million ReLUs may be active in one framework only,
  # because of rounding, which changes a gradient by up to a percent.
  theirs = _pytorch(source, network, 'float64')
  with jax.enable_x64():
    ours = _ours(network, jnp.float64)
  assert float(ours['loss']) == pytest.approx(float(theirs['loss']), rel=1e-5)
  names = {name for name in theirs if name.startswith('gradient/')}
  assert names == {name for name in ours if name.startswith('gradient/')}
  for name in names:
    assert _relative_difference(ours[name], theirs[name]) < 1e-4, name


@pytest.mark.parametrize(('source', 'network'), CASES)
def test_running_statistics_equal_pytorch(source, network):
  """PyTorch uses the unbiased variance of the batch, Flax the biased one."""
  before = golden.weights(network)
  theirs, ours = _pytorch(source, network), _ours(network)
  layers = [
    name.removeprefix('count/') for name in theirs if name.startswith('count/')
  ]
  assert len(layers) == 1 + 2 * (network.depth - 4) // 2
  for layer in layers:
    mean = f'{layer}.running_mean'
    np.testing.assert_allclose(
      ours[f'statistic/{mean}'],
      theirs[f'statistic/{mean}'],
      rtol=1e-4,
      atol=1e-5,
      err_msg=mean,
    )
    var = f'{layer}.running_var'
    kept = 0.9 * before[var]
    count = theirs[f'count/{layer}']
    unbiased = kept + (ours[f'statistic/{var}'] - kept) * count / (count - 1)
    np.testing.assert_allclose(
      unbiased, theirs[f'statistic/{var}'], rtol=1e-4, err_msg=var
    )


def test_golden_values_equal_those_of_the_reference():
  stored = _pytorch('golden', golden.GOLDEN_NETWORK)
  computed = _pytorch('live', golden.GOLDEN_NETWORK)
  assert stored.keys() == computed.keys()
  for name, array in stored.items():
    np.testing.assert_allclose(
      array, computed[name], rtol=1e-3, atol=1e-5, err_msg=name
    )


def test_copy_to_nnx_copies_every_weight():
  pytest.importorskip('torch', reason='PyTorch is not installed')
  from tests.references import make_golden
  from tests.references import wide_resnet_torch

  network = golden.GOLDEN_NETWORK
  model = _abstract(10, 1, in_channels=1)
  wide_resnet_torch.copy_to_nnx(make_golden.model_of(network), model)
  copied = golden.from_nnx(nnx.state(model))
  for name, array in golden.weights(network).items():
    np.testing.assert_array_equal(copied.pop(name), array)
  assert not copied


# --- Sizes -------------------------------------------------------------------


def _parameter_count(model):
  leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
  return sum(leaf.size for leaf in leaves)


@pytest.mark.parametrize(
  ('num_classes', 'count'), [(10, 36_479_194), (100, 36_536_884)]
)
def test_28_10_has_as_many_parameters_as_in_the_paper(num_classes, count):
  model = _abstract(num_classes=num_classes)
  assert _parameter_count(model) == count


@pytest.mark.parametrize(
  ('depth', 'widen_factor', 'millions'),
  [
    (40, 1, 0.6),
    (40, 2, 2.2),
    (40, 4, 8.9),
    (40, 8, 35.7),
    (28, 10, 36.5),
    (28, 12, 52.5),
    (22, 8, 17.2),
    (22, 10, 26.8),
    (16, 8, 11.0),
    (16, 10, 17.1),
  ],
)
def test_parameter_counts_equal_table_4_of_the_wrn_paper(
  depth, widen_factor, millions
):
  count = _parameter_count(_abstract(depth, widen_factor))
  assert count / 1e6 == pytest.approx(millions, abs=0.051)


@pytest.mark.parametrize('depth', [10, 28])
def test_depth_counts_the_convolutions(depth):
  convs = [
    node
    for _, node in nnx.iter_graph(_abstract(depth, 2))
    if isinstance(node, nnx.Conv)
  ]
  assert len(convs) == depth


def test_defaults_are_28_10_for_three_channels_and_ten_classes():
  model = _abstract()
  assert len(model.blocks) == 12
  assert model.stem.kernel.shape == (3, 3, 3, 16)
  assert model.blocks[0].conv1.kernel.shape == (3, 3, 16, 160)
  assert model.head.kernel.shape == (640, 10)
  assert all(block.dropout is None for block in model.blocks)


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (8, 8), (31, 17), (33, 64)])
def test_any_image_size_is_halved_twice_and_rounded_up(size):
  model = _abstract(10, 1)
  height, width = size

  def shapes(model, images):
    x = model.stem(images)
    for block in model.blocks:
      x = block(x)
    return x, model(images)

  images = jnp.zeros((2, height, width, 3))
  features, logits = nnx.eval_shape(shapes, model, images)
  assert features.shape == (2, -(-height // 4), -(-width // 4), 64)
  assert logits.shape == (2, 10)


def test_invalid_image_shapes_are_rejected():
  model = _abstract(10, 1, in_channels=3)
  for shape in [(2, 32, 32, 1), (2, 3, 32, 32), (32, 32, 3), (3,)]:
    with pytest.raises(ValueError, match='`images` must have shape') as error:
      model(jnp.zeros(shape))
    assert f'got {shape}' in str(error.value)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'depth': 4}, r'`depth` must be 6n \+ 4 .* got 4'),
    ({'depth': 12}, r'`depth` must be 6n \+ 4 .* got 12'),
    ({'depth': -2}, r'`depth` must be 6n \+ 4 .* got -2'),
    ({'widen_factor': 0}, '`widen_factor` must be at least 1, got 0'),
    ({'num_classes': 0}, '`num_classes` must be at least 1, got 0'),
    ({'in_channels': -3}, '`in_channels` must be at least 1, got -3'),
    ({'dropout_rate': 1.0}, r'`dropout_rate` must be in \[0, 1\), got 1.0'),
    ({'dropout_rate': -0.1}, r'`dropout_rate` must be in \[0, 1\), got -0.1'),
    (
      {'dropout_rate': float('nan')},
      r'`dropout_rate` must be in \[0, 1\), got nan',
    ),
  ],
)
def test_arguments_out_of_range_are_rejected(arguments, message):
  with pytest.raises(ValueError, match=message):
    models.WideResNet(**arguments, rngs=nnx.Rngs(0))


# --- Initialization ----------------------------------------------------------


def test_convolutions_have_he_initialization_with_fan_out():
  model = models.WideResNet(16, 1, rngs=nnx.Rngs(0))
  for path, node in nnx.iter_graph(model):
    if not isinstance(node, nnx.Conv):
      continue
    kernel = np.asarray(node.kernel[...])
    k, _, _, out_channels = kernel.shape
    std = np.sqrt(2 / (k * k * out_channels))
    # Five standard errors of the standard deviation and mean of the sample.
    assert kernel.std() == pytest.approx(
      std, rel=5 / np.sqrt(2 * kernel.size)
    ), path
    assert abs(kernel.mean()) < 5 * std / np.sqrt(kernel.size), path
    # Normal, not uniform or truncated.
    assert np.mean(np.abs(kernel) < std) == pytest.approx(
      0.6827, abs=5 * 0.4655 / np.sqrt(kernel.size)
    ), path
    assert node.bias is None or node.bias[...] is None


def test_norms_and_head_start_as_in_pytorch_except_the_bias_of_the_head():
  model = models.WideResNet(10, 4, num_classes=100, rngs=nnx.Rngs(0))
  for _, node in nnx.iter_graph(model):
    if isinstance(node, nnx.BatchNorm):
      np.testing.assert_array_equal(node.scale[...], 1)
      np.testing.assert_array_equal(node.bias[...], 0)
      np.testing.assert_array_equal(node.mean[...], 0)
      np.testing.assert_array_equal(node.var[...], 1)
  kernel = np.asarray(model.head.kernel[...])
  bound = 1 / np.sqrt(256)
  assert 0.999 * bound < np.abs(kernel).max() <= bound
  assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
  np.testing.assert_array_equal(model.head.bias[...], 0)


def test_the_seed_determines_the_initial_weights():
  first, again, other = (
    jax.tree.leaves(
      nnx.state(models.WideResNet(10, 1, rngs=nnx.Rngs(seed)), nnx.Param)
    )
    for seed in (3, 3, 4)
  )
  assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
  kernels = [(a, b) for a, b in zip(first, other, strict=True) if a.ndim > 1]
  assert kernels and not any(np.array_equal(a, b) for a, b in kernels)


# --- dtype -------------------------------------------------------------------


def test_bfloat16_computation_keeps_parameters_and_statistics_in_float32():
  network = golden.Network(height=16, width=16, batch=16)
  images, labels = golden.images_and_labels(network)
  results = {}
  for dtype in (jnp.float32, jnp.bfloat16):
    model = _with_golden_weights(network, dtype=dtype)
    model.train()

    @nnx.jit
    def step(model):
      return nnx.value_and_grad(_loss_fn, has_aux=True)(model, images, labels)

    (_, logits), grads = step(model)
    statistics = nnx.state(model, nnx.BatchStat)
    for tree in (logits, nnx.state(model, nnx.Param), statistics, grads):
      assert {x.dtype for x in jax.tree.leaves(tree)} == {jnp.dtype('float32')}
    results[dtype] = logits, statistics, grads

  # With PyTorch's autocast to bfloat16 the gradients differ as much.
  logits, statistics, gradients = (
    jax.tree.leaves(jax.tree.map(_relative_difference, half, full))
    for full, half in zip(*results.values(), strict=True)
  )
  assert 1e-4 < logits[0] < 0.02
  assert max(statistics) < 0.01
  assert np.median(gradients) < 0.2 and max(gradients) < 0.4


def test_bfloat16_reaches_every_activation():
  model = _abstract(10, 1, dtype=jnp.bfloat16)

  def activations(model, images):
    seen = [model.stem(images.astype(jnp.bfloat16))]
    for block in model.blocks:
      active = block.norm1(seen[-1])
      seen += [active, block.conv1(active), block(seen[-1])]
    return [*seen, model.norm(seen[-1])]

  seen = nnx.eval_shape(activations, model, jnp.zeros((2, 8, 8, 3)))
  assert {x.dtype for x in seen} == {jnp.dtype('bfloat16')}


def test_bfloat16_does_not_round_the_running_statistics():
  model = models.WideResNet(10, 1, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
  model.eval()
  model.norm.mean[...] = jnp.full(64, 257.3, jnp.float32)  # bfloat16: 258
  normalised = model.norm(jnp.full((1, 1, 1, 64), 258, jnp.bfloat16))
  np.testing.assert_allclose(np.float32(normalised), 0.7, rtol=0.01)


# --- Training and evaluation -------------------------------------------------


def _small(dropout_rate=0.0, seed=0, remat=False):
  rngs = nnx.Rngs(seed)
  return models.WideResNet(
    10, 1, dropout_rate=dropout_rate, remat=remat, rngs=rngs
  )


IMAGES = golden.images_and_labels(golden.Network(height=8, width=8))[0]


def _statistics(model):
  return [
    np.asarray(x) for x in jax.tree.leaves(nnx.state(model, nnx.BatchStat))
  ]


def test_evaluation_keeps_statistics_and_treats_images_separately():
  model = _small()
  model.train()
  model(IMAGES)
  model.eval()
  before = _statistics(model)
  logits = model(IMAGES)
  for old, new in zip(before, _statistics(model), strict=True):
    np.testing.assert_array_equal(old, new)
  np.testing.assert_allclose(model(IMAGES[:1]), logits[:1], rtol=1e-4)


def test_training_normalizes_by_the_batch_and_updates_all_statistics():
  model = _small()
  model.train()
  before = _statistics(model)
  logits = model(IMAGES)
  assert all(
    not np.array_equal(old, new)
    for old, new in zip(before, _statistics(model), strict=True)
  )
  assert not np.allclose(model(IMAGES[:2]), logits[:2], rtol=1e-2)
  # Training logits depend only on the batch, not on running statistics.
  np.testing.assert_array_equal(model(IMAGES), logits)


def test_dropout_is_active_only_in_training():
  dropped, plain = _small(dropout_rate=0.5), _small()
  nnx.update(dropped, nnx.state(plain, nnx.Param))
  dropped.eval(), plain.eval()
  np.testing.assert_array_equal(dropped(IMAGES), plain(IMAGES))
  dropped.train(), plain.train()
  assert _relative_difference(dropped(IMAGES), plain(IMAGES)) > 0.05


def test_dropout_precedes_the_second_convolution_and_keeps_the_mean():
  graphdef, start = nnx.split(_small(dropout_rate=0.3))

  @jax.jit
  def inputs_of_second_convolutions(key):
    model = nnx.merge(graphdef, start, copy=True)
    model.train()
    seen = []
    for block in model.blocks:
      block.conv2 = nnx.data(lambda x: seen.append(x) or x)
      block(jax.random.normal(key, (4, 32, 32, block.norm1.num_features)))
    return seen

  seen = inputs_of_second_convolutions(jax.random.key(0))
  assert len(seen) == 3
  for x in map(np.asarray, seen):
    # Normalized activations are about normal, so ReLU zeroes half of them.
    assert np.mean(x == 0) == pytest.approx(1 - 0.5 * 0.7, abs=0.02)
    assert x.mean() == pytest.approx(1 / np.sqrt(2 * np.pi), rel=0.03)


def test_dropout_masks_follow_the_key():
  model = _small(dropout_rate=0.5)
  model.train()
  first = model(IMAGES, rngs=nnx.Rngs(dropout=1))
  again = model(IMAGES, rngs=nnx.Rngs(dropout=1))
  other = model(IMAGES, rngs=nnx.Rngs(dropout=2))
  np.testing.assert_array_equal(first, again)
  assert _relative_difference(other, first) > 0.05


def test_the_stream_of_dropout_advances_with_each_call():
  model, twin = (_small(dropout_rate=0.5) for _ in range(2))
  model.train(), twin.train()
  first, second = model(IMAGES), model(IMAGES)
  assert _relative_difference(second, first) > 0.05
  # A call with its own keys does not advance the stream of the model.
  np.testing.assert_array_equal(twin(IMAGES), first)
  twin(IMAGES, rngs=nnx.Rngs(dropout=1))
  np.testing.assert_array_equal(twin(IMAGES), second)


def test_blocks_have_independent_masks():
  model = _small(dropout_rate=0.5)
  masks = [
    np.asarray(block.dropout(jnp.ones((64, 64)), deterministic=False) == 0)
    for block in model.blocks
  ]
  for i in range(3):
    for other in masks[:i]:
      assert np.mean(masks[i] == other) == pytest.approx(0.5, abs=0.05)


def test_remat_changes_neither_gradients_nor_statistics():
  @nnx.jit
  def step(model):
    loss_fn = lambda model: jnp.mean(model(IMAGES) ** 2)
    results = nnx.value_and_grad(loss_fn)(model)
    return results, model(IMAGES, rngs=nnx.Rngs(dropout=1))

  made = []
  for remat in (False, True):
    model = _small(dropout_rate=0.5, remat=remat)
    model.train()
    # Two steps, because the masks differ in the second.
    results = (step(model), step(model), nnx.state(model, nnx.BatchStat))
    made.append([np.asarray(x) for x in jax.tree.leaves(results)])
  for ours, theirs in zip(*made, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_remat_keeps_less_for_the_backward_pass():
  def kept(remat):
    """Bytes that the forward pass saves for the backward pass."""
    graphdef, params, rest = nnx.split(_small(remat=remat), nnx.Param, ...)

    def forward(params, images):
      def loss_fn(params):
        model = nnx.merge(graphdef, params, rest, copy=True)
        return model(images).sum()

      return jax.vjp(loss_fn, params)[1]

    images = jax.ShapeDtypeStruct((64, 32, 32, 3), jnp.float32)
    back = jax.eval_shape(forward, params, images)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(back))

  assert kept(remat=True) < 0.5 * kept(remat=False)


def test_docstring_examples_run():
  result = doctest.testmod(wide_resnet)
  assert result.attempted > 0
  assert result.failed == 0


def test_all_convolutions_use_the_given_function():
  called = []

  def convolve(images, kernel, *arguments, **settings):
    called.append(kernel.shape)
    y = jax.lax.conv_general_dilated(images, kernel, *arguments, **settings)
    return jnp.zeros_like(y)

  model = models.WideResNet(
    10, 1, conv_general_dilated=convolve, rngs=nnx.Rngs(0)
  )
  logits = model(jnp.ones((2, 8, 8, 3)))
  # The stem, two convolutions per block, two projections.
  assert len(called) == 1 + 3 * 2 + 2
  np.testing.assert_array_equal(logits[0], logits[1])
  np.testing.assert_array_equal(logits, jnp.zeros((2, 10)) + model.head.bias)


def test_each_part_of_a_batch_is_normalized_by_its_own_statistics():
  shape = (12, 4, 4, 16)
  x = np.random.default_rng(0).normal(size=shape)
  # Each of the three parts has its own mean and standard deviation.
  parts = x.reshape(3, 4, *shape[1:])
  parts *= np.arange(1, 4).reshape(3, 1, 1, 1, 1)
  parts += np.arange(3).reshape(3, 1, 1, 1, 1)
  means, variances = parts.mean((1, 2, 3)), parts.var((1, 2, 3))
  expected = [
    (part - mean) / np.sqrt(variance + 1e-5)
    for part, mean, variance in zip(parts, means, variances, strict=True)
  ]

  def norm(parts):
    model = models.WideResNet(10, 1, batch_norm_parts=parts, rngs=nnx.Rngs(0))
    return model.blocks[0].norm1

  by_parts = norm(3)
  x = jnp.asarray(x, jnp.float32)
  y = by_parts(x)
  np.testing.assert_allclose(y, np.concatenate(expected), rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(
    by_parts.mean[...], 0.1 * means.mean(0), rtol=1e-4, atol=1e-6
  )
  np.testing.assert_allclose(
    by_parts.var[...], 0.9 + 0.1 * variances.mean(0), rtol=1e-4
  )

  # The gradients are those of Flax's batch norm on each part.
  cotangent = jax.random.normal(jax.random.key(0), shape)
  _, back = jax.vjp(lambda x: norm(3)(x), x)
  _, back_whole = jax.vjp(lambda x: norm(1)(x), x[:4])
  np.testing.assert_allclose(
    back(cotangent)[0][:4], back_whole(cotangent[:4])[0], rtol=1e-4, atol=1e-5
  )
  with pytest.raises(ValueError, match=r'multiple of 3, .* got 10'):
    by_parts(x[:10])
