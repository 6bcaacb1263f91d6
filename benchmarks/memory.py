"""Memory of a training step, as XLA plans it. Nothing is allocated.

With float32 and with bfloat16 activations, and with `jax.checkpoint` around
each block, which computes a block's activations again instead of keeping them.
"""

from collections.abc import Callable
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from benchmarks import harness
from benchmarks import workload
import models
from train import config as config_lib


class RematWideResNet(models.WideResNet):
  """A WideResNet that keeps the inputs of its blocks alone."""

  def __call__(
    self, images: jax.Array, *, rngs: nnx.Rngs | None = None
  ) -> jax.Array:
    x = self.stem(images.astype(self.dtype))
    for block in self.blocks:
      x = nnx.remat(lambda block, x: block(x, rngs=rngs))(block, x)
    x = nnx.relu(self.norm(x))
    return self.head(jnp.mean(x, axis=(1, 2), dtype=jnp.float32))


_MODELS: dict[str, Callable[..., nnx.Module]] = {
  'as it is': models.WideResNet,
  'blocks computed again': RematWideResNet,
}


def measure(quick: bool) -> harness.Results:
  """Compiles the step of each kind and reads XLA's plan."""
  depth, widen_factor, batch_size = (10, 1, 8) if quick else (28, 10, 128)
  dataset = workload.noise(batch_size)
  programs: dict[str, Any] = {}
  for dtype in ('float32', 'bfloat16'):
    for name, model in _MODELS.items():
      config = config_lib.Config(
        dataset='cifar10',
        depth=depth,
        widen_factor=widen_factor,
        batch_size=batch_size,
        dtype=dtype,
      )
      prepared = workload.Workload(config, dataset, model=model)
      programs[f'{dtype}, {name}'] = _plan(prepared.lower().compile())
  return {
    'network': f'WRN-{depth}-{widen_factor}, batch {batch_size}',
    'programs': programs,
  }


def tables(results: harness.Results) -> str:
  """The results as Markdown."""
  programs = results['programs']
  least = programs['float32, as it is']
  return harness.table(
    [
      results['network'],
      'peak GB',
      'of which temporary',
      'of which arguments',
      'TFLOP a step',
      'peak to the first',
      'FLOP to the first',
    ],
    [
      [
        name,
        f'{plan["peak_bytes"] / 1e9:.2f}',
        f'{plan["temporary_bytes"] / 1e9:.2f}',
        f'{plan["argument_bytes"] / 1e9:.2f}',
        f'{plan["flops"] / 1e12:.2f}',
        f'{plan["peak_bytes"] / least["peak_bytes"]:.2f}',
        f'{plan["flops"] / least["flops"]:.2f}',
      ]
      for name, plan in programs.items()
    ],
  )


def _plan(compiled: Any) -> dict[str, float]:
  plan = compiled.memory_analysis()
  return {
    # The results take the place of donated arguments.
    'peak_bytes': plan.argument_size_in_bytes
    + plan.output_size_in_bytes
    - plan.alias_size_in_bytes
    + plan.temp_size_in_bytes,
    'temporary_bytes': plan.temp_size_in_bytes,
    'argument_bytes': plan.argument_size_in_bytes,
    'flops': compiled.cost_analysis()['flops'],
  }


if __name__ == '__main__':
  harness.main('memory', measure, tables)
