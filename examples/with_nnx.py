"""Flax NNX: handwritten digits with a small network.

    python examples/with_nnx.py

`nnx.Optimizer.update` passes `value` on to Optax. Takes a few seconds on a CPU.
"""

from flax import nnx
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import optax_lcam

BATCH_SIZE, EPOCHS = 64, 8

images, labels = load_digits(return_X_y=True)
train_images, test_images, train_labels, test_labels = train_test_split(
  (images / 16).astype(np.float32), labels, random_state=0
)
steps_per_epoch = len(train_images) // BATCH_SIZE  # drops the last short batch


class Network(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.hidden = nnx.Linear(64, 64, rngs=rngs)
    self.out = nnx.Linear(64, 10, rngs=rngs)

  def __call__(self, x):
    return self.out(nnx.relu(self.hidden(x)))


model = Network(nnx.Rngs(0))
optimizer = nnx.Optimizer(
  model,
  optax_lcam.lcam_sgd(0.05, weight_decay=5e-4, steps_per_epoch=steps_per_epoch),
  wrt=nnx.Param,
)


@nnx.jit
def train_step(model, optimizer, images, labels):
  def loss_fn(model):
    return optax.softmax_cross_entropy_with_integer_labels(
      model(images), labels
    ).mean()

  loss, grads = nnx.value_and_grad(loss_fn)(model)
  optimizer.update(model, grads, value=loss)
  return loss


rng = np.random.default_rng(0)
for epoch in range(1, EPOCHS + 1):
  order = rng.permutation(len(train_images))
  phases = []
  for step in range(steps_per_epoch):
    batch = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
    loss = train_step(
      model, optimizer, train_images[batch], train_labels[batch]
    )
    phases.append(optax_lcam.read(optimizer.opt_state).phase)
  horizontal = np.mean(np.asarray(phases) == optax_lcam.Phase.HORIZONTAL)
  test_error = np.mean(model(test_images).argmax(-1) != test_labels)
  print(
    f'epoch {epoch}: test error {test_error:.1%}, {horizontal:.0%} horizontal'
  )
