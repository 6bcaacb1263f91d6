"""All pairs of momenta at once: one vmapped program.

    python examples/momentum_sweep.py

Both momenta may be traced, so that all pairs, with several seeds each, train in
one program. Writes momentum_sweep.png, a heat map of the mean test errors.
Takes a few seconds on a CPU.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import optax_lcam

MOMENTA = jnp.array([0.85, 0.9, 0.93, 0.95])
SEEDS, BATCH_SIZE, EPOCHS = 3, 64, 5

images, labels = load_digits(return_X_y=True)
train_images, test_images, train_labels, test_labels = map(
  jnp.asarray,
  train_test_split((images / 16).astype(np.float32), labels, random_state=0),
)
steps_per_epoch = len(train_images) // BATCH_SIZE


def logits_of(params, images):
  hidden = jax.nn.relu(images @ params['hidden'] + params['bias'])
  return hidden @ params['out']


def loss_fn(params, images, labels):
  return optax.softmax_cross_entropy_with_integer_labels(
    logits_of(params, images), labels
  ).mean()


def train(horizontal, vertical, key):
  """Trains one network; returns its test error in percent."""
  optimizer = optax_lcam.lcam_sgd(
    0.02, horizontal, vertical, steps_per_epoch=steps_per_epoch
  )
  init_key, order_key = jax.random.split(key)
  hidden_key, out_key = jax.random.split(init_key)
  params = {
    'hidden': jax.random.normal(hidden_key, (64, 32)) / 8,
    'bias': jnp.zeros(32),
    'out': jax.random.normal(out_key, (32, 10)) / 6,
  }

  def train_step(carry, batch):
    params, opt_state = carry
    loss, grads = jax.value_and_grad(loss_fn)(
      params, train_images[batch], train_labels[batch]
    )
    updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
    return (optax.apply_updates(params, updates), opt_state), loss

  def order_of_epoch(key):
    order = jax.random.permutation(key, len(train_images))
    return order[: steps_per_epoch * BATCH_SIZE].reshape(-1, BATCH_SIZE)

  batches = jax.vmap(order_of_epoch)(jax.random.split(order_key, EPOCHS))
  (params, _), _ = jax.lax.scan(
    train_step,
    (params, optimizer.init(params)),
    batches.reshape(-1, BATCH_SIZE),
  )
  wrong = logits_of(params, test_images).argmax(-1) != test_labels
  return 100 * wrong.mean()


# The same seeds for every pair, for a paired comparison.
over_seeds = jax.vmap(train, (None, None, 0))
over_vertical = jax.vmap(over_seeds, (None, 0, None))
over_all = jax.jit(jax.vmap(over_vertical, (0, None, None)))
test_errors = over_all(
  MOMENTA, MOMENTA, jax.random.split(jax.random.key(0), SEEDS)
)  # shape=(horizontal, vertical, seeds)

print(f'Mean test error (%) of {SEEDS} seeds')
print('horizontal \\ vertical', *(f'{m:6.2f}' for m in MOMENTA))
for momentum, row in zip(MOMENTA, test_errors.mean(-1), strict=True):
  print(f'{momentum:21.2f}', *(f'{error:6.2f}' for error in row))
print(
  'Standard deviation over the seeds of a pair:'
  f' {test_errors.std(-1, ddof=1).mean():.2f}.'
)

means = np.asarray(test_errors.mean(-1))
figure, axis = plt.subplots(figsize=(5, 4), layout='constrained')
image = axis.imshow(means, cmap='viridis', origin='lower')
for i, j in np.ndindex(means.shape):
  is_dark = means[i, j] < (means.min() + means.max()) / 2
  axis.text(
    j, i, f'{means[i, j]:.1f}',
    ha='center', va='center', color='white' if is_dark else 'black',
  )  # fmt: skip
ticks = [f'{m:.2f}' for m in MOMENTA]
axis.set_xticks(range(len(ticks)), ticks)
axis.set_yticks(range(len(ticks)), ticks)
axis.set(xlabel='vertical momentum', ylabel='horizontal momentum')
figure.colorbar(image, label='test error (%)')
figure.savefig('momentum_sweep.png', dpi=120)
