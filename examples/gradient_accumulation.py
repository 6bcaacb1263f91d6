"""Gradient accumulation: four micro-batches that equal one batch.

    python examples/gradient_accumulation.py

`optax.MultiSteps` passes LCAM only the loss of the last micro-batch.
`optax_lcam.multi_steps` also accumulates the loss, so that the choices are
those of the full batch. Takes a few seconds on a CPU.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_lcam

BATCH_SIZE, EVERY_K, STEPS_PER_EPOCH, EPOCHS = 64, 4, 20, 3

rng = np.random.default_rng(0)
x = rng.standard_normal(
  (EPOCHS * STEPS_PER_EPOCH, BATCH_SIZE, 8)
).astype(np.float32)  # fmt: skip
y = x.sum(-1) + rng.standard_normal(x.shape[:2]).astype(np.float32)


def loss_fn(params, x, y):
  return jnp.mean((x @ params - y) ** 2)


def train(optimizer, micro_batches):
  """Returns the momentum after each full batch, and the final parameters."""

  @jax.jit
  def train_step(params, opt_state, x, y):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
    return optax.apply_updates(params, updates), opt_state

  params = jnp.zeros(8)
  opt_state = optimizer.init(params)
  momenta = []
  for batch_x, batch_y in zip(x, y, strict=True):
    for part_x, part_y in zip(
      np.split(batch_x, micro_batches),
      np.split(batch_y, micro_batches),
      strict=True,
    ):
      params, opt_state = train_step(params, opt_state, part_x, part_y)
    momenta.append(float(optax_lcam.read(opt_state).momentum))
  return np.asarray(momenta), params


# steps_per_epoch counts full batches.
optimizer = optax_lcam.lcam_sgd(0.01, steps_per_epoch=STEPS_PER_EPOCH)
whole, whole_params = train(optimizer, micro_batches=1)
ours, our_params = train(optax_lcam.multi_steps(optimizer, EVERY_K), EVERY_K)
optaxs, _ = train(optax.MultiSteps(optimizer, EVERY_K), EVERY_K)

print(f'Momenta that differ from the full batch, out of {len(whole)}:')
print(f'  optax_lcam.multi_steps {np.sum(ours != whole)}')
print(f'  optax.MultiSteps       {np.sum(optaxs != whole)}')
print(f'Largest difference: {np.abs(our_params - whole_params).max():.1e}.')
