"""Optax alone: fit a noisy sine and draw the choices of LCAM.

    python examples/plain_optax.py

Writes plain_optax.png: the loss of each batch, the mean of the epoch so far,
and the momentum of each step. Takes a second on a CPU.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import optax_lcam

EXAMPLES, BATCH_SIZE, EPOCHS = 1024, 32, 4
STEPS_PER_EPOCH = EXAMPLES // BATCH_SIZE

rng = np.random.default_rng(0)
x = rng.uniform(-3, 3, (EXAMPLES, 1)).astype(np.float32)
y = np.sin(2 * x) + 0.3 * rng.standard_normal(x.shape).astype(np.float32)
params = {
  'hidden': jnp.asarray(rng.standard_normal((1, 32)), jnp.float32),
  'bias': jnp.asarray(rng.standard_normal(32), jnp.float32),
  'out': jnp.zeros((32, 1)),
}


def loss_fn(params, x, y):
  hidden = jnp.tanh(x @ params['hidden'] + params['bias'])
  return jnp.mean((hidden @ params['out'] - y) ** 2)


optimizer = optax_lcam.lcam_sgd(0.01, steps_per_epoch=STEPS_PER_EPOCH)


@jax.jit
def train_step(params, opt_state, x, y):
  loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
  updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
  return optax.apply_updates(params, updates), opt_state, loss


opt_state = optimizer.init(params)
losses, used_momenta = [], []
for _ in range(EPOCHS):
  for batch in rng.permutation(EXAMPLES).reshape(STEPS_PER_EPOCH, BATCH_SIZE):
    used_momenta.append(float(optax_lcam.read(opt_state).momentum))
    params, opt_state, loss = train_step(params, opt_state, x[batch], y[batch])
    losses.append(float(loss))

# The means of the finished epochs are no longer in the state: recompute them.
losses_by_epoch = np.reshape(losses, (EPOCHS, STEPS_PER_EPOCH))
counts = np.arange(1, STEPS_PER_EPOCH + 1)
means = np.ravel(np.cumsum(losses_by_epoch, axis=1) / counts)
horizontal = np.asarray(losses) <= means
steps = np.arange(1, len(losses) + 1)
print(
  f'Loss {np.mean(losses[-STEPS_PER_EPOCH:]):.3f} in the last epoch,'
  f' {horizontal.mean():.0%} of the losses at or below the mean.'
)

figure, (above, below) = plt.subplots(
  2, sharex=True, height_ratios=(3, 1), figsize=(8, 4.5), layout='constrained'
)
above.plot(steps, means, color='0.2', label='mean of the epoch so far')
above.plot(
  steps[horizontal], np.asarray(losses)[horizontal], 'o', ms=4,
  color='#0072B2', label='loss, horizontal phase',
)  # fmt: skip
above.plot(
  steps[~horizontal], np.asarray(losses)[~horizontal], '^', ms=4,
  color='#D55E00', label='loss, vertical phase',
)  # fmt: skip
above.set(ylabel='loss of the batch', yscale='log')
above.legend(frameon=False)
below.step(steps, used_momenta, where='mid', color='0.2')
below.set(xlabel='step', ylabel='momentum', ylim=(0.89, 0.94))
for axis in (above, below):
  for end in range(STEPS_PER_EPOCH, len(losses), STEPS_PER_EPOCH):
    axis.axvline(end + 0.5, color='0.8', lw=1, zorder=0)
figure.savefig('plain_optax.png', dpi=120)
