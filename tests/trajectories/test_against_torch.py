"""Whole training runs of LCAM agree with the authors' method in PyTorch.

Both train from the same weights on the same batches: a Wide ResNet of depth 10
on 8x8 digits, and a small perceptron for every option. The momentum of each
step must be the same, and the losses must agree in float32 and, with a smaller
tolerance, in float64. Each run is compared with golden values, and with PyTorch
itself if it is installed.

In float64 the runs differ by at most 1e-14. In float32 the gradient of a ReLU
network is not continuous: an activation that is rounded to the other side of
zero can change later losses by a percent, which no meaningful tolerance allows.
The runs are therefore short, with data for which this does not happen (see
``golden.py``), and differ by about 1e-6.
"""

import functools
import itertools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import models
import optax_lcam
from tests.references import golden

RELATIVE_TOLERANCE = {'float32': 1e-4, 'float64': 1e-10}


# The chain has the dtypes of lcam_sgd, so one is enough for each option.
@pytest.mark.parametrize(
  ('name', 'assembled'),
  [
    pytest.param(
      *(name, assembled),
      marks=[pytest.mark.slow] * (assembled == 'chain' and 'float64' in name),
    )
    for name in golden.RUNS
    for assembled in ('lcam_sgd', 'chain')
  ],
)
def test_equals_golden_values_of_pytorch(name, assembled):
  _assert_equal(_train(name, assembled), golden.load(name), name)


@pytest.mark.parametrize('name', golden.RUNS)
def test_equals_pytorch(name):
  pytest.importorskip('torch', reason='PyTorch is not installed')
  from tests.references import make_golden

  theirs = make_golden.trajectory(golden.RUNS[name])._asdict()
  _assert_equal(_train(name, 'lcam_sgd'), theirs, name)


# --- Conditions under which the comparisons are meaningful -------------------


@pytest.mark.parametrize('name', golden.RUNS)
def test_both_momenta_are_chosen(name):
  run = golden.RUNS[name]
  chosen = golden.load(name)['momenta'][1:]
  assert np.sum(chosen == run.horizontal_momentum) >= 3
  assert np.sum(chosen == run.vertical_momentum) >= 3


@pytest.mark.parametrize('name', golden.RUNS)
def test_no_choice_depends_on_rounding(name):
  """No loss is so close to the mean that rounding could change a choice."""
  theirs = golden.load(name)
  distances = np.abs(theirs['losses'] / theirs['means'] - 1)
  first = np.arange(len(distances)) % golden.RUNS[name].steps_per_epoch == 0
  assert np.all(distances[first] == 0)
  assert np.all(distances[~first] > RELATIVE_TOLERANCE['float32'])


@pytest.mark.parametrize('dtype', RELATIVE_TOLERANCE)
@pytest.mark.parametrize(
  ('option', 'without'),
  [
    ('vertical', 'plain'),
    ('no_decay', 'plain'),
    ('strong_decay', 'plain'),
    ('decay_of_matrices', 'strong_decay'),
    ('nesterov', 'plain'),
    ('authors_ties', 'plain'),
    ('initial_momentum', 'nesterov'),
    ('current', 'plain'),
  ],
)
def test_every_option_changes_the_losses(option, without, dtype):
  """Otherwise the comparisons above could not detect an ignored option."""
  losses = golden.load(f'perceptron-{option}-{dtype}')['losses']
  others = golden.load(f'perceptron-{without}-{dtype}')['losses']
  difference = np.max(np.abs(losses / others - 1))
  assert difference > 3 * RELATIVE_TOLERANCE[dtype]


# --- The runs with JAX --------------------------------------------------------


def _assert_equal(ours, theirs, name):
  np.testing.assert_array_equal(
    ours['momenta'], np.float32(theirs['momenta']), err_msg='chosen momenta'
  )
  np.testing.assert_allclose(
    ours['losses'],
    theirs['losses'],
    rtol=RELATIVE_TOLERANCE[golden.RUNS[name].dtype],
  )


@functools.cache
def _train(name, assembled):
  """Trains with JAX; returns losses and momenta."""
  run = golden.RUNS[name]
  with (
    jax.enable_x64(run.dtype == 'float64'),
    jax.default_matmul_precision('highest'),
  ):
    params, grad_fn = _network(run.network, run.dtype)
    optimizer = _optimizer(run, assembled)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    losses, momenta = [], []
    for images, labels in itertools.chain(*golden.digits(run)):
      loss, grads = grad_fn(params, images, labels)
      assert loss.dtype == run.dtype
      losses.append(float(loss))
      old_state = state
      updates, state = update(grads, state, params, value=loss)
      used = old_state if run.reaction == 'next' else state
      momenta.append(np.asarray(optax.tree.get(used, 'momentum')))
      params = optax.apply_updates(params, updates)
    assert all(p.dtype == run.dtype for p in jax.tree.leaves(params))
  return {'losses': losses, 'momenta': momenta}


def _optimizer(run, assembled):
  schedule = optax.exponential_decay(
    run.learning_rate,
    transition_steps=1,
    decay_rate=golden.LEARNING_RATE_DECAY,
    transition_begin=run.steps_per_epoch,
  )
  # Optax evaluates a schedule in the dtype of the count.
  learning_rate = lambda count: schedule(count.astype(run.dtype))
  mask = lambda params: jax.tree.map(lambda p: golden.decays(run, p), params)
  momentum = {
    'horizontal_momentum': run.horizontal_momentum,
    'vertical_momentum': run.vertical_momentum,
    'initial_momentum': run.initial_momentum,
    'steps_per_epoch': run.steps_per_epoch,
    'inclusive': run.inclusive,
    'nesterov': run.nesterov,
    'reaction': run.reaction,
  }
  if assembled == 'lcam_sgd':
    return optax_lcam.lcam_sgd(
      learning_rate,
      weight_decay=run.weight_decay,
      weight_decay_mask=mask,
      **momentum,
    )
  return optax.chain(
    optax.add_decayed_weights(run.weight_decay, mask),
    optax_lcam.lcam(**momentum),
    optax.scale_by_learning_rate(learning_rate),
  )


# --- The networks ------------------------------------------------------------


@functools.cache
def _network(network, dtype):
  """Initial parameters, and ``(params, images, labels) -> loss, gradients``."""
  weights = golden.initial_weights(network)
  if network == 'wide_resnet' and dtype == 'float32':
    return _flax_wide_resnet(weights)
  forward = {
    'wide_resnet': _wide_resnet,
    'perceptron': _perceptron,
  }[network]
  params = {
    name: jnp.asarray(array, dtype)
    for name, array in weights.items()
    if 'running' not in name
  }

  def loss_fn(params, images, labels):
    return _cross_entropy(forward(params, images), labels)

  return params, jax.jit(jax.value_and_grad(loss_fn))


def _flax_wide_resnet(weights):
  model = nnx.eval_shape(
    lambda: models.WideResNet(10, 1, in_channels=1, rngs=nnx.Rngs(0))
  )
  golden.copy_to_nnx(weights, model)
  model.train()
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)

  @jax.jit
  @jax.value_and_grad
  def grad_fn(params, images, labels):
    # Training does not read running statistics, so they can be dropped.
    model = nnx.merge(graphdef, params, rest, copy=True)
    return _cross_entropy(model(images), labels)

  return params, grad_fn


def _cross_entropy(logits, labels):
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return losses.mean()


def _perceptron(params, images):
  x = images.reshape(len(images), -1)
  x = jnp.tanh(x @ params['hidden.weight'].T + params['hidden.bias'])
  return x @ params['output.weight'].T + params['output.bias']


def _wide_resnet(params, images):
  """``models.WideResNet`` in training mode, entirely in float64.

  The parameters and the mean over the pixels of the model are always float32.
  """

  def conv(name, x, stride=1):
    kernel = params[f'{name}.weight']
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      [(kernel.shape[-1] // 2,) * 2] * 2,
      dimension_numbers=('NHWC', 'OIHW', 'NHWC'),
    )

  def normed_relu(name, x):
    x = jax.nn.standardize(x, axis=(0, 1, 2), epsilon=1e-5)
    return jax.nn.relu(x * params[f'{name}.weight'] + params[f'{name}.bias'])

  x = conv('stem', images)
  for i, stride in enumerate((1, 2, 2)):
    active = normed_relu(f'blocks.{i}.norm1', x)
    y = conv(f'blocks.{i}.conv1', active, stride)
    y = conv(f'blocks.{i}.conv2', normed_relu(f'blocks.{i}.norm2', y))
    projection = f'blocks.{i}.projection'
    if f'{projection}.weight' in params:
      x = conv(projection, active, stride)
    x = x + y
  x = normed_relu('norm', x).mean(axis=(1, 2))
  return x @ params['head.weight'].T + params['head.bias']
