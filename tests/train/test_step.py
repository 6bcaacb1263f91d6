"""One training step and one evaluation step against plain computations."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np
import optax
import pytest

import models
from train import augmentation
from train import config as config_lib
from train import data
from train import optimizers
from train import step as step_lib

_EXAMPLES = 50
_STEPS_PER_EPOCH = 4  # 16 + 16 + 16 + 2
_MEAN = np.asarray([0.3], np.float32)
_DEVIATION = np.asarray([0.4], np.float32)


def _sharding(devices):
  mesh = jax.make_mesh(
    (devices,),
    ('batch',),
    axis_types=(AxisType.Auto,),
    devices=jax.devices()[:devices],
  )
  return NamedSharding(mesh, PartitionSpec('batch'))


def _replicate(tree, sharding):
  return jax.device_put(tree, NamedSharding(sharding.mesh, PartitionSpec()))


class _Run:
  """All that the steps take, on a number of devices."""

  def __init__(self, devices=1, **settings):
    self.config = config_lib.resolve(
      config_lib.Config(batch_size=16, **settings), _STEPS_PER_EPOCH
    )
    self.optimizer = optimizers.make_optimizer(
      self.config, optax.constant_schedule(0.01), _STEPS_PER_EPOCH
    )

    @nnx.jit
    def make_model():
      return models.WideResNet(
        10,
        1,
        10,
        self.config.dropout_rate,
        in_channels=1,
        rngs=nnx.Rngs(params=0, dropout=0),
      )

    self.model = make_model()
    state, rest = step_lib.init_state(self.model, self.optimizer)
    digits = data.load('digits').train
    self.images = digits.images[:_EXAMPLES]
    self.labels = digits.labels[:_EXAMPLES]
    self.permutation = np.random.default_rng(0).permutation(_EXAMPLES)
    sharding = _sharding(devices)
    self.state, self.data, self.order, self.keys = _replicate(
      (
        state,
        step_lib.Images(self.images, self.labels),
        self.permutation.astype(np.int32),
        step_lib.Keys(jax.random.key(1), jax.random.key(2)),
      ),
      sharding,
    )
    graphdef = nnx.graphdef(self.model)
    step = step_lib.make_train_step(
      self.config,
      graphdef,
      rest,
      self.optimizer,
      steps_per_epoch=_STEPS_PER_EPOCH,
      crop_padding=1,
      flip=False,
      mean=_MEAN,
      deviation=_DEVIATION,
      batch_sharding=sharding,
    )
    self.train_steps = jax.jit(
      step_lib.repeat(step), static_argnames=('batch_size', 'steps')
    )
    self.eval_step = jax.jit(
      step_lib.make_eval_step(
        graphdef,
        rest,
        examples=_EXAMPLES,
        mean=_MEAN,
        deviation=_DEVIATION,
        batch_sharding=sharding,
      ),
      static_argnames='batch_size',
    )

  def step(self, state, batch_size=16, steps=1):
    return self.train_steps(
      state,
      self.data,
      self.order,
      self.keys,
      batch_size=batch_size,
      steps=steps,
    )

  def epoch(self, state):
    losses = []
    for size in (16, 16, 16, 2):
      state, metrics = self.step(state, size)
      losses.append(float(metrics.loss[0]))
    return state, losses


def _logits(model, images, training):
  model = nnx.clone(model)
  model.train() if training else model.eval()
  images = jnp.asarray(images, jnp.float32)
  return np.asarray(nnx.jit(lambda model, x: model(x))(model, images))


@functools.cache
def _run(devices=1, **settings):
  return _Run(devices, **settings)


def test_the_loss_is_the_mean_over_the_batch_in_the_order_of_the_epoch():
  run = _run()
  state, losses = run.epoch(run.state)
  # The first batch by hand: the same images, in the plain model.
  chosen = run.permutation[:16]
  images = augmentation.crop_and_flip(
    jax.random.fold_in(jax.random.key(1), 0),
    jnp.asarray(run.images[chosen]),
    padding=1,
    flip=False,
  )
  images = (np.asarray(images, np.float64) / 255 - 0.3) / 0.4
  logits = _logits(run.model, images, training=True).astype(np.float64)
  log_normalizer = np.log(np.exp(logits).sum(-1))
  expected = log_normalizer - logits[np.arange(16), run.labels[chosen]]
  np.testing.assert_allclose(losses[0], expected.mean(), rtol=1e-5)
  assert int(state.step) == _STEPS_PER_EPOCH


def test_the_optimizer_is_given_that_loss():
  run = _run()
  state, metrics = run.step(run.state)
  loss_sum = optax.tree.get(state.opt_state, 'loss_sum')
  np.testing.assert_array_equal(loss_sum, metrics.loss[0])


def test_the_short_batch_counts_as_one_loss():
  run = _run()
  state, _ = run.epoch(run.state)
  # Four steps are an epoch, so that all went back to zero.
  assert int(optax.tree.get(state.opt_state, 'step_count')) == 0
  assert float(optax.tree.get(state.opt_state, 'loss_sum')) == 0


def test_the_short_batch_is_what_is_left_of_the_permutation():
  run = _run()
  state = run.state._replace(step=jnp.int32(3))
  _, metrics = run.step(state, batch_size=2)
  chosen = run.permutation[-2:]
  images = augmentation.crop_and_flip(
    jax.random.fold_in(jax.random.key(1), 3),
    jnp.asarray(run.images[chosen]),
    padding=1,
    flip=False,
  )
  images = augmentation.normalize(images, _MEAN, _DEVIATION)
  logits = _logits(run.model, images, training=True)
  expected = optax.softmax_cross_entropy_with_integer_labels(
    logits, run.labels[chosen]
  ).mean()
  np.testing.assert_allclose(metrics.loss[0], expected, rtol=1e-5)


def test_several_steps_in_one_program_are_the_same_steps():
  run = _run()
  one_by_one, losses = run.state, []
  for _ in range(3):
    one_by_one, metrics = run.step(one_by_one)
    losses.append(float(metrics.loss[0]))
  together, metrics = run.step(run.state, steps=3)
  np.testing.assert_allclose(metrics.loss, losses, rtol=1e-4)
  assert int(together.step) == 3
  for ours, theirs in zip(
    jax.tree.leaves(together.params),
    jax.tree.leaves(one_by_one.params),
    strict=True,
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('devices', [2, 8])
def test_devices_share_a_batch_and_agree_with_one(devices):
  one, many = _run(), _run(devices)
  _, expected = one.epoch(one.state)
  # The last batch, of 2 images, does not divide by 8.
  _, losses = many.epoch(many.state)
  np.testing.assert_allclose(losses, expected, rtol=2e-4)


def test_dropout_differs_from_step_to_step_and_repeats():
  run = _run(dropout_rate=0.5)
  _, first = run.step(run.state)
  _, again = run.step(run.state)
  np.testing.assert_array_equal(first.loss, again.loss)
  plain = _run()
  _, without = plain.step(plain.state)
  assert abs(float(first.loss[0]) - float(without.loss[0])) > 1e-4


@pytest.mark.parametrize('batch_size', [1, 7, 25, 50, 64])
def test_evaluation_sees_every_image_once_at_any_batch_size(batch_size):
  run = _run()
  loss, correct = 0.0, 0
  for start in range(0, _EXAMPLES, batch_size):
    metrics = run.eval_step(
      run.state.params,
      run.state.batch_stats,
      run.data,
      jnp.int32(start),
      batch_size=batch_size,
    )
    loss += float(metrics.loss)
    correct += int(metrics.correct)
  images = augmentation.normalize(jnp.asarray(run.images), _MEAN, _DEVIATION)
  logits = _logits(run.model, images, training=False)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, run.labels)
  np.testing.assert_allclose(loss, losses.sum(), rtol=1e-4)
  assert correct == int((logits.argmax(-1) == run.labels).sum())


def test_correct_answers_are_counted():
  run = _run()
  _, metrics = run.step(run.state)
  assert 0 <= int(metrics.correct[0]) <= 16
  assert metrics.correct.dtype == jnp.int32
