"""A small noisy problem and plain training loops, shared by the tests."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_lcam


class Run(NamedTuple):
  """The log of a training loop; the first axis of arrays is the step."""

  params: Any  # after the last step
  state: Any  # after the last step
  losses: np.ndarray
  updates: Any
  readings: optax_lcam.Reading


def make_params(dtype='float32'):
  return {
    'dense': {
      'w': jnp.array([0.5, -1.0, 2.0], dtype),
      'b': jnp.zeros(1, dtype),
    },
    'scale': jnp.ones((), dtype),
  }


def make_batches(steps, batch_size=4, seed=0, dtype=np.float32):
  """Inputs and noisy targets, shape=(steps, batch_size, ...)."""
  rng = np.random.default_rng(seed)
  x = rng.standard_normal((steps, batch_size, 3)).astype(dtype)
  y = (
    x @ np.array([1.0, -2.0, 0.5], dtype)
    + 0.5 * rng.standard_normal((steps, batch_size))
  ).astype(dtype)
  return x, y


def loss_fn(params, batch):
  """Mean squared error, computed in the dtype of the parameters."""
  x, y = batch
  dtype = params['scale'].dtype
  x, y = jnp.asarray(x, dtype), jnp.asarray(y, dtype)
  outputs = params['scale'] * (x @ params['dense']['w']) + params['dense']['b']
  return jnp.mean(jnp.abs(outputs - y) ** 2)


def make_step(optimizer, loss_fn=loss_fn):
  """A pure training step, as in user code."""

  def step(params, state, batch):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, state = optimizer.update(grads, state, params, value=loss)
    return optax.apply_updates(params, updates), state, loss, updates

  return step


def train(optimizer, batches, params=None):
  """Trains in a Python loop over a jitted step."""
  params = make_params() if params is None else params
  state = jax.jit(optimizer.init)(params)
  step = jax.jit(make_step(optimizer))
  log = []
  for batch in zip(*batches, strict=True):
    params, state, loss, updates = step(params, state, batch)
    log.append((loss, updates, optax_lcam.read(state)))
  losses, updates, readings = jax.tree.map(lambda *x: np.stack(x), *log)
  return Run(params, state, losses, updates, readings)


def follow(optimizer, params, grads, losses):
  """Scans over given gradients and losses: ((params, state), updates)."""

  @jax.jit
  def scan(params, grads, losses):
    def step(carry, inputs):
      params, state = carry
      g, loss = inputs
      updates, state = optimizer.update(g, state, params, value=loss)
      return (optax.apply_updates(params, updates), state), updates

    return jax.lax.scan(step, (params, optimizer.init(params)), (grads, losses))

  return scan(jax.tree.map(jnp.asarray, params), grads, losses)
