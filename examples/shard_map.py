"""`jax.shard_map`: average the loss inside `value_and_grad`.

    python examples/shard_map.py

Each device has its own part of a batch. If the differentiated function averages
over the devices, its value is the loss of the whole batch and its gradient the
gradient of that loss, so that every device makes the same choice. With
`check_vma=False` the gradients must be averaged separately. Here eight devices
are simulated. Takes a few seconds on a CPU.
"""

import functools
import os

# Before JAX starts. Remove this on a host with several devices.
os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8')

import jax
import jax.numpy as jnp
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


def train_step(params, opt_state, x, y, *, check_vma):
  mean_loss = lambda params: jax.lax.pmean(loss_fn(params, x, y), 'batch')
  loss, grads = jax.value_and_grad(mean_loss)(params)
  if not check_vma:
    # JAX then does not know that the parameters are replicated, and each device
    # has the gradient of its own part.
    grads = jax.lax.pmean(grads, 'batch')
  updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
  return optax.apply_updates(params, updates), opt_state


def train(devices, *, check_vma=True):
  step = jax.jit(
    jax.shard_map(
      functools.partial(train_step, check_vma=check_vma),
      mesh=jax.sharding.Mesh(devices, ('batch',)),
      in_specs=(P(), P(), P('batch'), P('batch')),
      out_specs=(P(), P()),
      check_vma=check_vma,
    )
  )
  params = jnp.zeros(8)
  opt_state = optimizer.init(params)
  momenta = []
  for batch in zip(x, y, strict=True):
    params, opt_state = step(params, opt_state, *batch)
    momenta.append(float(optax_lcam.read(opt_state).momentum))
  return np.asarray(momenta), np.asarray(params)


devices = jax.devices()
one, one_params = train(devices[:1])
many, many_params = train(devices)
unchecked, unchecked_params = train(devices, check_vma=False)
for name, momenta, params in (
  ('check_vma=True', many, many_params),
  ('check_vma=False', unchecked, unchecked_params),
):
  print(
    f'{len(devices)} devices against one, {name}: {np.sum(momenta != one)} of'
    f' {STEPS} momenta differ, parameters by at most'
    f' {np.max(np.abs(params - one_params)):.0e}.'
  )
