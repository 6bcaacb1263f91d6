"""Keras 3 on JAX: handwritten digits with a small network.

    KERAS_BACKEND=jax python examples/with_keras.py

`Model.fit` does not pass the loss to the optimizer, so this is the JAX training
loop that Keras documents for custom training. Requires `pip install keras`.
Takes a few seconds on a CPU.
"""

import os

os.environ['KERAS_BACKEND'] = 'jax'  # before Keras is imported

import jax
import keras
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

keras.utils.set_random_seed(0)
model = keras.Sequential(
  [
    keras.layers.Input((64,)),
    keras.layers.Dense(64, activation='relu'),
    keras.layers.Dense(10),
  ]
)
params = [v.value for v in model.trainable_variables]
other = [v.value for v in model.non_trainable_variables]
optimizer = optax_lcam.lcam_sgd(
  0.05, weight_decay=5e-4, steps_per_epoch=steps_per_epoch
)
opt_state = optimizer.init(params)


@jax.jit
def train_step(params, other, opt_state, images, labels):
  def loss_fn(params):
    logits, new_other = model.stateless_call(
      params, other, images, training=True
    )
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return loss.mean(), new_other

  (loss, other), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
  updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
  return optax.apply_updates(params, updates), other, opt_state


rng = np.random.default_rng(0)
for epoch in range(1, EPOCHS + 1):
  order = rng.permutation(len(train_images))
  for step in range(steps_per_epoch):
    batch = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
    params, other, opt_state = train_step(
      params, other, opt_state, train_images[batch], train_labels[batch]
    )
  logits, _ = model.stateless_call(params, other, test_images)
  test_error = np.mean(logits.argmax(-1) != test_labels)
  momentum = optax_lcam.read(opt_state).momentum
  print(
    f'epoch {epoch}: test error {test_error:.1%}, next momentum {momentum:.2f}'
  )

# The model holds the trained weights again, for `evaluate` and `save`.
for variable, value in zip(model.trainable_variables, params, strict=True):
  variable.assign(value)
for variable, value in zip(model.non_trainable_variables, other, strict=True):
  variable.assign(value)
