"""Each convolution of small Wide ResNets, with XLA and with oneDNN.

Measures the forward pass and both gradients separately. The choice between XLA
and oneDNN in ``train/onednn/convolution.py`` is based on the results. Without
the compiled kernels only XLA is measured.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp

from benchmarks import harness
import models
from train import onednn
from train.onednn import convolution

_Shape = tuple[int, ...]
_KINDS: tuple[convolution.Kind, ...] = (
  'Forward',
  'InputGradient',
  'KernelGradient',
)


def measure(quick: bool) -> harness.Results:
  """Times all convolutions of some networks."""
  # Depth, widening factor, images per step, their size.
  networks = (
    [(10, 1, 4, 8)]
    if quick
    else [
      (16, 1, 128, 32),
      (16, 4, 64, 32),
      (10, 1, 32, 16),
      (10, 1, 128, 8),
    ]
  )
  return {
    f'WRN-{depth}-{widen_factor}, batch {batch_size}, {size}×{size}': [
      _measure_one(*shapes, quick)
      for shapes in _convolutions(depth, widen_factor, batch_size, size)
    ]
    for depth, widen_factor, batch_size, size in networks
  }


def tables(results: harness.Results) -> str:
  """The results as Markdown."""
  parts = []
  for name, rows in results.items():
    header = [name, 'XLA ms']
    if 'onednn' in rows[0]:
      header += ['oneDNN ms', 'speed / XLA', 'used']
    parts.append(harness.table(header, [_line(row) for row in rows]))
  return '\n\n'.join(parts)


def _line(row: dict[str, Any]) -> list[str]:
  line = [row['convolution'], harness.spread(row['xla'], 2, 1e3)]
  if 'onednn' in row:
    line.append(harness.spread(row['onednn'], 2, 1e3))
    line.append(harness.spread(row['speed_to_xla'], 2))
    line.append(row['used'])
  return line


def _convolutions(
  depth: int, widen_factor: int, batch_size: int, size: int
) -> list[tuple[convolution.Kind, _Shape, _Shape, convolution.Geometry]]:
  """All distinct convolutions of a training step."""
  found = {}

  def remember(
    images: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: Any,
    **rest: Any,
  ) -> jax.Array:
    geometry = convolution.Geometry(tuple(strides), tuple(map(tuple, padding)))
    for kind in _KINDS:
      # The images need no gradient.
      if kind != 'InputGradient' or images.shape[-1] > 3:
        found[kind, images.shape, kernel.shape, geometry] = None
    return lax.conv_general_dilated(images, kernel, strides, padding, **rest)

  def forward() -> jax.Array:
    model = models.WideResNet(
      depth, widen_factor, conv_general_dilated=remember, rngs=nnx.Rngs(0)
    )
    return model(jnp.zeros((batch_size, size, size, 3)))

  nnx.eval_shape(forward)
  return list(found)


def _measure_one(
  kind: convolution.Kind,
  image_shape: _Shape,
  kernel_shape: _Shape,
  geometry: convolution.Geometry,
  quick: bool,
) -> dict[str, Any]:
  out_shape = convolution.out_shape(image_shape, kernel_shape, geometry)
  a_shape, b_shape, shape = {
    'Forward': (image_shape, kernel_shape, out_shape),
    'InputGradient': (out_shape, kernel_shape, image_shape),
    'KernelGradient': (image_shape, out_shape, kernel_shape),
  }[kind]
  a, b = (
    jax.random.normal(jax.random.key(i), x)
    for i, x in enumerate((a_shape, b_shape))
  )

  def compiled(call: Callable[..., jax.Array]) -> Callable[[], object]:
    function = jax.jit(
      functools.partial(call, kind, shape=shape, geometry=geometry)
    )
    program = function.lower(a, b).compile()
    return lambda: jax.block_until_ready(program(a, b))

  candidates = {'xla': compiled(convolution.call_xla)}
  if onednn.is_available():
    candidates['onednn'] = compiled(convolution.call_onednn)
  samples = harness.interleave(
    candidates,
    rounds=3 if quick else 25,
    calls=1 if quick else 2,
    seconds=8,
  )
  rows, columns, channels, out_channels = kernel_shape
  stride = geometry.strides[0]
  strided = f' stride {stride}' if stride > 1 else ''
  size = image_shape[1]
  row: dict[str, Any] = {
    'convolution': f'{rows}×{columns}{strided} {channels}→{out_channels} at'
    f' {size}×{size}, {_NAMES[kind]}'
  }
  row |= {name: harness.summarize(taken) for name, taken in samples.items()}
  if 'onednn' in samples:
    row['speed_to_xla'] = harness.ratio(samples['xla'], samples['onednn'])
    by_xla = convolution.xla_is_faster(kind, b_shape, shape, geometry)
    row['used'] = 'XLA' if by_xla else 'oneDNN'
  return row


_NAMES: dict[convolution.Kind, str] = {
  'Forward': 'forward',
  'InputGradient': 'gradient of the images',
  'KernelGradient': 'gradient of the kernel',
}


if __name__ == '__main__':
  harness.main('convolutions', measure, tables)
