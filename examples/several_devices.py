"""Several devices: shard the batch and change nothing else.

    python examples/several_devices.py

Under `jax.jit` the mean over a sharded batch is the mean over all devices, so
every device makes the same choice. The same program runs on the GPUs of a
host; here eight devices are simulated. Takes a few seconds on a CPU.
"""

import os

# Before JAX starts. Remove this on a host with several devices.
os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8')

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

import optax_lcam

BATCH_SIZE, STEPS, STEPS_PER_EPOCH = 64, 60, 20

rng = np.random.default_rng(0)
x = rng.standard_normal((STEPS, BATCH_SIZE, 8)).astype(np.float32)
y = x.sum(-1) + rng.standard_normal((STEPS, BATCH_SIZE)).astype(np.float32)

optimizer = optax_lcam.lcam_sgd(0.01, steps_per_epoch=STEPS_PER_EPOCH)


def loss_fn(params, x, y):
  return jnp.mean((x @ params - y) ** 2)


@jax.jit
def train_step(params, opt_state, x, y):
  loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
  updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
  return optax.apply_updates(params, updates), opt_state


def train(batch_sharding, replicated):
  params = jax.device_put(jnp.zeros(8), replicated)
  opt_state = jax.device_put(optimizer.init(params), replicated)
  momenta = []
  for batch in zip(x, y, strict=True):
    batch = jax.device_put(batch, batch_sharding)
    params, opt_state = train_step(params, opt_state, *batch)
    momenta.append(float(optax_lcam.read(opt_state).momentum))
  return np.asarray(momenta)


devices = jax.devices()
mesh = jax.sharding.Mesh(devices, ('batch',))
many = train(NamedSharding(mesh, P('batch')), NamedSharding(mesh, P()))
one = train(devices[0], devices[0])
print(
  f'{len(devices)} devices against one: {np.sum(many != one)} of {STEPS}'
  ' momenta differ.'
)
