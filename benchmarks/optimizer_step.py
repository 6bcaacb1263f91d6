"""The optimizer step alone, on the tensors of WRN-28-10.

Compares LCAM with alternative optimizers in Optax and PyTorch: time, bytes
accessed as counted by XLA, size of the state, and the rate relative to that of
a memory copy.
"""

from collections.abc import Callable
import concurrent.futures
import importlib.util
import os
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import harness
import models
import optax_lcam

_LEARNING_RATE = 0.1
_MOMENTUM = 0.9
_WEIGHT_DECAY = 5e-4
BASELINE = 'optax.sgd'


def measure(quick: bool) -> harness.Results:
  """Times a step of each optimizer."""
  depth, widen_factor, rounds = (10, 1, 3) if quick else (28, 10, 31)
  start = make_params(depth, widen_factor)
  steps: dict[str, Callable[[], object]] = {}
  facts: dict[str, dict[str, float]] = {}
  for name, optimizer in make_optimizers().items():
    steps[name], facts[name] = make_step(optimizer, start)
  if importlib.util.find_spec('torch') is not None:
    for name, options in (
      ('torch SGD foreach', {'foreach': True}),
      ('torch SGD fused', {'fused': True}),
    ):
      steps[name], facts[name] = _torch_step(options, start)
  size = sum(leaf.size for leaf in start)
  copies = _copies(size)
  samples = harness.interleave({**steps, **copies}, rounds=rounds)

  # A copy reads and writes each byte once.
  copy_rates = {name: harness.rate(8 * size, samples[name]) for name in copies}
  fastest = max(copies, key=lambda name: copy_rates[name]['median'])
  results = {}
  for name in steps:
    results[name] = {
      'seconds': harness.summarize(samples[name]),
      'to_sgd': harness.ratio(samples[name], samples[BASELINE]),
      **facts[name],
    }
    if 'bytes_accessed' in facts[name]:
      byte_time = facts[name]['bytes_accessed'] / (8 * size)
      results[name]['share_of_copy'] = harness.summarize(
        [
          byte_time * copied / taken
          for copied, taken in zip(samples[fastest], samples[name], strict=True)
        ]
      )
  return {
    'network': f'WRN-{depth}-{widen_factor}',
    'parameters': size,
    'copy_bytes_per_second': copy_rates,
    'fastest_copy': fastest,
    'optimizers': results,
  }


def tables(results: harness.Results) -> str:
  """The results as Markdown."""
  rows = []
  for name, row in results['optimizers'].items():
    counted = 'bytes_accessed' in row
    rows.append(
      [
        name,
        harness.spread(row['seconds'], 1, 1e3),
        harness.spread(row['to_sgd'], 3),
        f'{row["bytes_accessed"] / 1e6:,.0f}' if counted else '–',
        f'{row["state_bytes"] / 1e6:,.1f}',
        harness.spread(row['share_of_copy'], 0, 100) if counted else '–',
      ]
    )
  optimizers = harness.table(
    [
      f'{results["network"]}, {results["parameters"]:,} parameters',
      'ms per step',
      'time / optax.sgd',
      'MB accessed',
      'MB state',
      '% of copy speed',
    ],
    rows,
  )
  copies = harness.table(
    ['copy of the same size', 'GB/s read and written'],
    [
      [name, harness.spread(speed, 1, 1e-9)]
      for name, speed in results['copy_bytes_per_second'].items()
    ],
  )
  return f'{optimizers}\n\n{copies}'


def make_params(depth: int, widen_factor: int) -> list[jax.Array]:
  """Random numbers in the shapes of a network's parameters."""
  model = nnx.eval_shape(
    lambda: models.WideResNet(depth, widen_factor, rngs=nnx.Rngs(0))
  )
  leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
  keys = jax.random.split(jax.random.key(0), len(leaves))
  return [
    0.1 * jax.random.normal(key, leaf.shape)
    for key, leaf in zip(keys, leaves, strict=True)
  ]


def make_optimizers() -> dict[str, optax.GradientTransformationExtraArgs]:
  """The optimizers of Optax that are compared."""
  made = {
    'optax_lcam.lcam_sgd': optax_lcam.lcam_sgd(
      _LEARNING_RATE, weight_decay=_WEIGHT_DECAY
    ),
    BASELINE: optax.chain(
      optax.add_decayed_weights(_WEIGHT_DECAY),
      optax.sgd(_LEARNING_RATE, _MOMENTUM),
    ),
    'optax.adamw': optax.adamw(1e-3, weight_decay=_WEIGHT_DECAY),
    'optax.contrib.momo': optax.contrib.momo(
      _LEARNING_RATE, _MOMENTUM, weight_decay=_WEIGHT_DECAY
    ),
  }
  return {
    name: optax.with_extra_args_support(optimizer)
    for name, optimizer in made.items()
  }


def make_step(
  optimizer: optax.GradientTransformationExtraArgs,
  start: list[jax.Array],
  steps: int = 1,
) -> tuple[Callable[[], None], dict[str, float]]:
  """Compiles an optimizer's step.

  Args:
    optimizer: An optimizer whose ``update`` takes ``value``.
    start: The parameters, which are also the gradients of each step.
    steps: Steps per program.

  Returns:
    A function that runs the steps, and the costs that XLA counts.
  """

  def step(params: Any, grads: Any, state: Any, loss: jax.Array) -> Any:
    updates, state = optimizer.update(grads, state, params, value=loss)
    return optax.apply_updates(params, updates), state

  def program(params: Any, grads: Any, state: Any, loss: jax.Array) -> Any:
    if steps == 1:
      return step(params, grads, state, loss)
    return jax.lax.fori_loop(
      0, steps, lambda _, x: step(x[0], grads, x[1], loss), (params, state)
    )

  state = jax.jit(optimizer.init)(start)
  loss = jnp.float32(2.0)
  compiled = (
    jax.jit(program, donate_argnums=(0, 2))
    .lower(start, start, state, loss)
    .compile()
  )
  # A copy for the step: all candidates use `start` as the gradient.
  params = jax.tree.map(jnp.copy, start)

  def call() -> None:
    nonlocal params, state
    params, state = compiled(params, start, state, loss)
    jax.block_until_ready((params, state))

  costs = compiled.cost_analysis() or {}
  return call, {
    'bytes_accessed': costs['bytes accessed'],
    'state_bytes': sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
  }


def _torch_step(
  options: dict[str, Any], start: list[jax.Array]
) -> tuple[Callable[[], None], dict[str, float]]:
  import torch

  params = [torch.from_numpy(np.array(leaf)) for leaf in start]
  for param in params:
    param.grad = param.clone()
  optimizer = torch.optim.SGD(
    params,
    _LEARNING_RATE,
    momentum=_MOMENTUM,
    weight_decay=_WEIGHT_DECAY,
    **options,
  )
  state_bytes = sum(param.nbytes for param in params)
  return optimizer.step, {'state_bytes': state_bytes}


def _copies(size: int) -> dict[str, Callable[[], object]]:
  """Ways to copy float32 numbers; the fastest is the upper bound."""
  source = np.ones(size, np.float32)
  target = np.zeros(size, np.float32)
  threads = os.cpu_count() or 1
  pool = concurrent.futures.ThreadPoolExecutor(threads)
  parts = list(
    zip(
      np.array_split(source, threads),
      np.array_split(target, threads),
      strict=True,
    )
  )

  def copy_parts() -> None:
    # NumPy releases the GIL during the copy.
    list(pool.map(lambda part: np.copyto(part[1], part[0]), parts))

  def change_parts() -> None:
    # Writes to the cache lines that it reads, so that none is fetched in vain.
    list(pool.map(lambda part: np.negative(part[1], out=part[1]), parts))

  numbers = jnp.asarray(source)
  copy = jax.jit(jnp.copy).lower(numbers).compile()
  in_place = jax.jit(jnp.negative, donate_argnums=0).lower(numbers).compile()
  changing = jnp.copy(numbers)

  def change() -> None:
    nonlocal changing
    changing = jax.block_until_ready(in_place(changing))

  return {
    'NumPy, a thread a core': copy_parts,
    'NumPy, a thread a core, in place': change_parts,
    'XLA, to new memory': lambda: jax.block_until_ready(copy(numbers)),
    'XLA, in place': change,
  }


if __name__ == '__main__':
  harness.main('optimizer_step', measure, tables)
