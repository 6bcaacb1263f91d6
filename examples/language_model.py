"""Training without epochs: a language model of Python source code.

    python examples/language_model.py

A data stream has no epochs. `steps_per_epoch=None` and `loss_decay` compare
each loss with a moving average instead. The model predicts a character from the
twelve before it (Bengio et al., 2003). Takes a few seconds on a CPU.
"""

import argparse
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_lcam

CONTEXT, WIDTH, BATCH_SIZE, STEPS = 12, 64, 128, 600

text = np.frombuffer(inspect.getsource(argparse).encode('ascii'), np.uint8)
characters, codes = np.unique(text, return_inverse=True)
shares = np.bincount(codes) / len(codes)
entropy = -np.sum(shares * np.log2(shares))  # of single characters


def stream(seed):
  """An infinite stream of contexts and the characters that follow them."""
  rng = np.random.default_rng(seed)
  while True:
    starts = rng.integers(0, len(codes) - CONTEXT, BATCH_SIZE)
    windows = codes[starts[:, None] + np.arange(CONTEXT + 1)]
    yield windows[:, :-1], windows[:, -1]


keys = jax.random.split(jax.random.key(0), 3)
params = {
  'embed': jax.random.normal(keys[0], (len(characters), 16)),
  'hidden': jax.random.normal(keys[1], (CONTEXT * 16, WIDTH)) * 0.1,
  'out': jax.random.normal(keys[2], (WIDTH, len(characters))) * 0.1,
}


def loss_fn(params, contexts, targets):
  embedded = params['embed'][contexts].reshape(len(contexts), -1)
  logits = jnp.tanh(embedded @ params['hidden']) @ params['out']
  return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


optimizer = optax.chain(
  optax.clip_by_global_norm(1.0),
  # A loss 50 steps ago has a third of the weight of the newest.
  optax_lcam.lcam(steps_per_epoch=None, loss_decay=0.98),
  optax.scale_by_learning_rate(
    optax.warmup_cosine_decay_schedule(0.0, 0.2, 50, STEPS)
  ),
)
opt_state = optimizer.init(params)


@jax.jit
def train_step(params, opt_state, contexts, targets):
  loss, grads = jax.value_and_grad(loss_fn)(params, contexts, targets)
  updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
  return optax.apply_updates(params, updates), opt_state, loss


for step, batch in zip(range(1, STEPS + 1), stream(seed=0), strict=False):
  params, opt_state, loss = train_step(params, opt_state, *batch)
  if step % 100 == 0:
    now = optax_lcam.read(opt_state)
    bits = float(now.mean_loss) / np.log(2)
    phase = optax_lcam.Phase(int(now.phase)).name.lower()
    print(f'step {step}: {bits:.2f} bits per character, {phase} phase')
print(f'Without any context: {entropy:.2f} bits per character.')
