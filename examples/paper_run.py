"""The final run of the paper in one file: WRN-28-10 on CIFAR-100 with LCAM.

    python examples/paper_run.py --data-dir ~/tensorflow_datasets

Section 4.3 of "A Simple Asymmetric Momentum Make SGD Greatest Again": 150
epochs of 391 steps, learning rate 0.1 for 30 epochs and then times 0.99985 per
step, weight decay 5e-4, momentum 0.93 after a loss at or below the mean of the
epoch and 0.9 otherwise. The paper reports 19.22 % test error around epoch 120.
For a GPU (bfloat16). Requires CIFAR-100 prepared by TensorFlow Datasets.

`python -m train run figure4-cifar100-lcam` trains the same network with
checkpoints, records and several devices.
"""

import argparse

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_lcam

EPOCHS, BATCH_SIZE, PADDING = 150, 128, 4
STEPS_PER_EPOCH = 391  # 50,000 images, including the last batch of 80


def load(split, data_dir):
  """CIFAR-100: uint8 images and int32 labels."""
  import tensorflow_datasets as tfds

  source = tfds.data_source('cifar100', split=split, data_dir=data_dir)
  images = np.stack([example['image'] for example in source])
  return images, np.asarray([example['label'] for example in source], np.int32)


def augment(key, images):
  """Zero padding, random crop, and a horizontal flip with probability 1/2."""
  batch, height, width, channels = images.shape
  offset_key, flip_key = jax.random.split(key)
  offsets = jax.random.randint(offset_key, (batch, 2), 0, 2 * PADDING + 1)
  pad = (PADDING, PADDING)
  padded = jnp.pad(images, ((0, 0), pad, pad, (0, 0)))
  crop = lambda image, offset: jax.lax.dynamic_slice(
    image, (*offset, 0), (height, width, channels)
  )
  images = jax.vmap(crop)(padded, offsets)
  mirrored = jax.random.bernoulli(flip_key, shape=(batch, 1, 1, 1))
  return jnp.where(mirrored, images[:, :, ::-1], images)


def conv(inputs, outputs, kernel, stride, dtype, rngs):
  return nnx.Conv(
    inputs, outputs, (kernel, kernel), strides=stride, padding=kernel // 2,
    use_bias=False, dtype=dtype, rngs=rngs,
    kernel_init=jax.nn.initializers.variance_scaling(2, 'fan_out', 'normal'),
  )  # fmt: skip


def batch_norm(channels, dtype, rngs):
  return nnx.BatchNorm(
    channels, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs,
    promote_dtype=lambda arrays, **_: arrays,  # float32 running statistics
  )  # fmt: skip


class Block(nnx.Module):
  """Pre-activation residual block of two 3x3 convolutions."""

  def __init__(self, inputs, outputs, stride, dtype, rngs):
    self.norm1 = batch_norm(inputs, dtype, rngs)
    self.conv1 = conv(inputs, outputs, 3, stride, dtype, rngs)
    self.norm2 = batch_norm(outputs, dtype, rngs)
    self.conv2 = conv(outputs, outputs, 3, 1, dtype, rngs)
    self.projection = nnx.data(None)
    if inputs != outputs or stride != 1:
      self.projection = conv(inputs, outputs, 1, stride, dtype, rngs)

  def __call__(self, x):
    active = nnx.relu(self.norm1(x))
    shortcut = x if self.projection is None else self.projection(active)
    return shortcut + self.conv2(nnx.relu(self.norm2(self.conv1(active))))


class WideResNet(nnx.Module):
  """Wide residual network (Zagoruyko and Komodakis, 2016)."""

  def __init__(self, depth, width, classes, dtype, rngs):
    self.dtype = dtype
    self.stem = conv(3, 16, 3, 1, dtype, rngs)
    blocks, inputs = [], 16
    for outputs, group_stride in ((16, 1), (32, 2), (64, 2)):
      for i in range((depth - 4) // 6):
        stride = group_stride if i == 0 else 1
        blocks.append(Block(inputs, outputs * width, stride, dtype, rngs))
        inputs = outputs * width
    self.blocks = nnx.List(blocks)
    self.norm = batch_norm(inputs, dtype, rngs)
    self.head = nnx.Linear(
      inputs, classes, rngs=rngs,
      kernel_init=jax.nn.initializers.variance_scaling(
        1 / 3, 'fan_in', 'uniform'
      ),
    )  # fmt: skip

  def __call__(self, images):
    x = self.stem(images.astype(self.dtype))
    for block in self.blocks:
      x = block(x)
    x = nnx.relu(self.norm(x)).mean((1, 2), dtype=jnp.float32)
    return self.head(x)


def make_optimizer(model, steps_per_epoch=STEPS_PER_EPOCH):
  learning_rate = optax.exponential_decay(
    0.1, steps_per_epoch, 0.99985**steps_per_epoch, 30 * steps_per_epoch
  )
  lcam = optax_lcam.lcam_sgd(
    learning_rate, horizontal_momentum=0.93, vertical_momentum=0.9,
    weight_decay=5e-4, steps_per_epoch=steps_per_epoch,
  )  # fmt: skip
  return nnx.Optimizer(model, lcam, wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, key, images, labels, mean, std):
  inputs = (augment(key, images) / 255 - mean) / std

  def loss_fn(model):
    losses = optax.softmax_cross_entropy_with_integer_labels(
      model(inputs), labels
    )
    return losses.mean()

  loss, grads = nnx.value_and_grad(loss_fn)(model)
  optimizer.update(model, grads, value=loss)
  return loss


@nnx.jit
def count_errors(model, images, labels, mean, std):
  logits = model((images / 255 - mean) / std)
  return jnp.sum(logits.argmax(-1) != labels)


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--data-dir')
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  images, labels = map(jnp.asarray, load('train', args.data_dir))
  test_images, test_labels = map(jnp.asarray, load('test', args.data_dir))
  mean, std = (f(images / 255, (0, 1, 2)) for f in (jnp.mean, jnp.std))
  model = WideResNet(28, 10, 100, jnp.bfloat16, nnx.Rngs(args.seed))
  optimizer = make_optimizer(model)
  step_fn = nnx.cached_partial(train_step, model, optimizer)
  keys = jax.random.split(jax.random.key(args.seed), EPOCHS)
  for epoch, epoch_key in enumerate(keys, start=1):
    model.train()
    order = jax.random.permutation(epoch_key, len(images))
    for i in range(STEPS_PER_EPOCH):
      batch = order[i * BATCH_SIZE : (i + 1) * BATCH_SIZE]
      key = jax.random.fold_in(epoch_key, i)
      step_fn(key, images[batch], labels[batch], mean, std)
    model.eval()
    errors = 0
    for i in range(0, len(test_images), 1000):
      some = slice(i, i + 1000)
      errors += count_errors(
        model, test_images[some], test_labels[some], mean, std
      )
    print(
      f'epoch {epoch}: mean loss'
      f' {optax_lcam.read(optimizer.opt_state).last_epoch_mean:.3f},'
      f' test error {100 * errors / len(test_images):.2f} %'
    )


if __name__ == '__main__':
  main()
