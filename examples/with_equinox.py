"""Equinox: handwritten digits with a small network.

    python examples/with_equinox.py

Takes a few seconds on a CPU.
"""

import equinox as eqx
import jax
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

model = eqx.nn.MLP(64, 10, width_size=64, depth=1, key=jax.random.key(0))
optimizer = optax_lcam.lcam_sgd(
  0.05, weight_decay=5e-4, steps_per_epoch=steps_per_epoch
)
opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))


@eqx.filter_jit
def train_step(model, opt_state, images, labels):
  def loss_fn(model):
    return optax.softmax_cross_entropy_with_integer_labels(
      jax.vmap(model)(images), labels
    ).mean()

  loss, grads = eqx.filter_value_and_grad(loss_fn)(model)
  updates, opt_state = optimizer.update(
    grads, opt_state, eqx.filter(model, eqx.is_inexact_array), value=loss
  )
  return eqx.apply_updates(model, updates), opt_state


rng = np.random.default_rng(0)
for epoch in range(1, EPOCHS + 1):
  order = rng.permutation(len(train_images))
  for step in range(steps_per_epoch):
    batch = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
    model, opt_state = train_step(
      model, opt_state, train_images[batch], train_labels[batch]
    )
  logits = jax.vmap(model)(test_images)
  test_error = np.mean(logits.argmax(-1) != test_labels)
  momentum = optax_lcam.read(opt_state).momentum
  print(
    f'epoch {epoch}: test error {test_error:.1%}, next momentum {momentum:.2f}'
  )
