"""The steps of a program agree with plain computations."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import models
from train import config as config_lib
from train import data
from train.program import augmentation
from train.program import build
from train.program import step as step_lib

_EXAMPLES = 50
_STEPS_PER_EPOCH = 4  # 16 + 16 + 16 + 2
_MEAN = np.asarray([0.3], np.float32)
_STD = np.asarray([0.4], np.float32)


class _Digits(data.Dataset):
  """The first digits, with rounded channel statistics."""

  def channel_statistics(self):
    return _MEAN, _STD


def _digits():
  first = data.load('digits').train
  split = data.Split(first.images[:_EXAMPLES], first.labels[:_EXAMPLES])
  return _Digits('digits', 10, split, split, crop_padding=1, flip=False)


class _Run:
  """A program of one run on the first digits."""

  def __init__(self, devices=1, **settings):
    settings = {'model': 'mlp', 'hidden_size': 32, **settings}
    self.config = config_lib.resolve(
      config_lib.Config(
        batch_size=16, learning_rate=0.01, schedule='constant', **settings
      ),
      _STEPS_PER_EPOCH,
    )
    self.dataset = _digits()
    self.program = build.Program(
      [self.config], self.dataset, devices=jax.devices()[:devices]
    )
    self.images = self.dataset.train.images
    self.labels = self.dataset.train.labels
    self.data, self.test = self.program.place()
    self.epoch_inputs = self.program.epoch(1)
    self.permutation = np.asarray(self.epoch_inputs.order[0])

  def start(self):
    """A new state at step 0, because a step donates its state."""
    return self.program.init()

  @functools.cached_property
  def model(self):
    """The initial network without the program."""
    model = models.NETWORKS[self.config.model].build(
      image_shape=(8, 8, 1),
      num_classes=10,
      dtype=jnp.float32,
      rngs=nnx.Rngs(0),
      **models.NETWORKS[self.config.model].settings_of(self.config),
    )
    start = self.program.fetch(self.start())[0]
    nnx.update(model, start.params, start.batch_stats)
    return model

  def step(self, state, size=16, steps=1):
    state, metrics = self.program.train(
      state, self.data, self.epoch_inputs, size, steps
    )
    return state, jax.tree.map(lambda x: x[0], metrics)

  def epoch(self, state):
    losses = []
    for size in (16, 16, 16, 2):
      state, metrics = self.step(state, size)
      losses.append(float(metrics.loss[0]))
    return state, losses

  def batch(self, step, chosen):
    """The augmented and normalized images of a step."""
    key = jax.random.fold_in(jax.random.key(self.config.augmentation_seed), 2)
    images = augmentation.crop_and_flip(
      jax.random.fold_in(key, step),
      jnp.asarray(self.images[chosen]),
      padding=1,
      flip=False,
    )
    return (np.asarray(images, np.float64) / 255 - 0.3) / 0.4


def _logits(model, images, training):
  model = nnx.clone(model)
  model.train() if training else model.eval()
  images = jnp.asarray(images, jnp.float32)
  return np.asarray(nnx.jit(lambda model, x: model(x))(model, images))


@functools.cache
def _run(devices=1, **settings):
  return _Run(devices, **settings)


@pytest.mark.parametrize('model', ['mlp', 'wrn'])
def test_the_loss_is_the_mean_over_the_batch_in_the_order_of_the_epoch(model):
  run = _run(model=model)
  _, metrics = run.step(run.start())
  # The first batch with the plain model.
  chosen = run.permutation[:16]
  logits = _logits(run.model, run.batch(0, chosen), training=True)
  logits = logits.astype(np.float64)
  log_normalizer = np.log(np.exp(logits).sum(-1))
  expected = log_normalizer - logits[np.arange(16), run.labels[chosen]]
  np.testing.assert_allclose(metrics.loss[0], expected.mean(), rtol=1e-5)


def test_the_optimizer_receives_that_loss():
  run = _run()
  state, metrics = run.step(run.start())
  loss_sum = optax.tree.get(state.opt_state, 'loss_sum')
  np.testing.assert_array_equal(loss_sum, metrics.loss)


def test_the_short_batch_counts_as_one_loss():
  run = _run()
  state, _ = run.epoch(run.start())
  assert state.step.item() == _STEPS_PER_EPOCH
  # Four steps are an epoch, so the sums are reset to zero.
  assert optax.tree.get(state.opt_state, 'step_count').item() == 0
  assert optax.tree.get(state.opt_state, 'loss_sum').item() == 0


def test_the_short_batch_is_the_end_of_the_permutation():
  run = _run()
  state = run.start()
  state = state._replace(step=state.step + 3)
  _, metrics = run.step(state, size=2)
  chosen = run.permutation[-2:]
  logits = _logits(run.model, run.batch(3, chosen), training=True)
  expected = optax.softmax_cross_entropy_with_integer_labels(
    logits, run.labels[chosen]
  ).mean()
  np.testing.assert_allclose(metrics.loss[0], expected, rtol=1e-5)


def test_several_steps_in_one_program_equal_single_steps():
  run = _run()
  one_by_one, losses = run.start(), []
  for _ in range(3):
    one_by_one, metrics = run.step(one_by_one)
    losses.append(float(metrics.loss[0]))
  together, metrics = run.step(run.start(), steps=3)
  np.testing.assert_allclose(metrics.loss, losses, rtol=1e-4)
  assert together.step.item() == 3
  for ours, theirs in zip(
    jax.tree.leaves(together.params),
    jax.tree.leaves(one_by_one.params),
    strict=True,
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


# test_devices.py also has a Wide ResNet on eight devices.
@pytest.mark.parametrize(
  ('devices', 'model'),
  [
    pytest.param(2, 'mlp', marks=pytest.mark.slow),
    (8, 'mlp'),
    pytest.param(8, 'wrn', marks=pytest.mark.slow),
  ],
)
def test_several_devices_agree_with_one(devices, model):
  one, many = _run(model=model), _run(devices, model=model)
  _, expected = one.epoch(one.start())
  # The 2 images of the last batch are not divisible by 8.
  _, losses = many.epoch(many.start())
  np.testing.assert_allclose(losses, expected, rtol=2e-4)


def test_dropout_changes_the_loss_and_is_reproducible():
  run = _run(dropout_rate=0.5)
  _, first = run.step(run.start())
  _, again = run.step(run.start())
  np.testing.assert_array_equal(first.loss, again.loss)
  plain = _run()
  _, without = plain.step(plain.start())
  assert abs(float(first.loss[0]) - float(without.loss[0])) > 1e-4


@pytest.mark.parametrize('batch_size', [1, 7, 25, 50, 64])
def test_evaluation_uses_every_image_once_for_any_batch_size(batch_size):
  run = _run(eval_batch_size=batch_size)
  loss, correct = 0.0, 0
  for metrics in run.program.evaluate(run.start(), run.test):
    loss += float(metrics.loss[0])
    correct += int(metrics.correct[0])
  images = augmentation.normalize(jnp.asarray(run.images), _MEAN, _STD)
  logits = _logits(run.model, images, training=False)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, run.labels)
  np.testing.assert_allclose(loss, losses.sum(), rtol=1e-4)
  assert correct == int((logits.argmax(-1) == run.labels).sum())


def test_correct_answers_are_counted():
  run = _run()
  _, metrics = run.step(run.start())
  assert 0 <= int(metrics.correct[0]) <= 16
  assert metrics.correct.dtype == jnp.int32


def test_init_from_uses_the_given_parameters_and_statistics():
  run = _run(model='wrn')
  state = jax.device_get(run.start())
  given = jax.tree.map(lambda x: x + 1, (state.params, state.batch_stats))
  start = run.program.init_from(*given)
  for ours, theirs in zip(
    jax.tree.leaves((start.params, start.batch_stats)),
    jax.tree.leaves(given),
    strict=True,
  ):
    np.testing.assert_array_equal(ours, theirs)
  traces = jax.tree.leaves(optax.tree.get(start.opt_state, 'trace'))
  assert not any(leaf.any() for leaf in traces)
  assert start.step.item() == 0


def test_remat_reaches_the_network():
  """The tests of the network show that it does not change gradients."""
  flops = [
    _Run(model='wrn', remat=remat)
    .program.lower_train()
    .cost_analysis()['flops']
    for remat in (False, True)
  ]
  assert 1.05 < flops[1] / flops[0] < 1.5


def test_seeds_do_not_depend_on_the_default_prng_of_jax():
  seeds = step_lib.Seeds(*range(5))
  keys = (seeds.init_key, seeds.coin_key, lambda: seeds.order_key(jnp.int32(1)))
  expected = [jax.random.key_data(key()) for key in keys]
  with jax.default_prng_impl('rbg'):
    for key, before in zip(keys, expected, strict=True):
      np.testing.assert_array_equal(jax.random.key_data(key()), before)
