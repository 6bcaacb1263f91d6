"""Flax Linen: handwritten digits with a small network.

    python examples/with_linen.py

The `TrainState.apply_gradients` of Flax does not pass the loss to Optax; that
of `optax_lcam.flax` does. Takes a few seconds on a CPU.
"""

from flax import linen as nn
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import optax_lcam
from optax_lcam.flax import TrainState

BATCH_SIZE, EPOCHS = 64, 8

images, labels = load_digits(return_X_y=True)
train_images, test_images, train_labels, test_labels = train_test_split(
  (images / 16).astype(np.float32), labels, random_state=0
)
steps_per_epoch = len(train_images) // BATCH_SIZE  # drops the last short batch


class Network(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(10)(nn.relu(nn.Dense(64)(x)))


model = Network()
state = TrainState.create(
  apply_fn=model.apply,
  params=model.init(jax.random.key(0), train_images[:1]),
  tx=optax_lcam.lcam_sgd(
    0.05, weight_decay=5e-4, steps_per_epoch=steps_per_epoch
  ),
)


@jax.jit
def train_step(state, images, labels):
  def loss_fn(params):
    return optax.softmax_cross_entropy_with_integer_labels(
      state.apply_fn(params, images), labels
    ).mean()

  loss, grads = jax.value_and_grad(loss_fn)(state.params)
  return state.apply_gradients(grads=grads, value=loss)


rng = np.random.default_rng(0)
for epoch in range(1, EPOCHS + 1):
  order = rng.permutation(len(train_images))
  for step in range(steps_per_epoch):
    batch = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
    state = train_step(state, train_images[batch], train_labels[batch])
  logits = state.apply_fn(state.params, test_images)
  test_error = np.mean(logits.argmax(-1) != test_labels)
  momentum = optax_lcam.read(state.opt_state).momentum
  print(
    f'epoch {epoch}: test error {test_error:.1%}, next momentum {momentum:.2f}'
  )
