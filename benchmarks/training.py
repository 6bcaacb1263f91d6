"""Training steps of small Wide ResNets, beside PyTorch's.

The whole step of both: images by the epoch's order, crop and flip, normalise,
forward, backward, weight decay and momentum. Then each kind of layer alone.
Without PyTorch only the project's own figures are measured.
"""

from collections.abc import Callable
import importlib.util
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks import torch_step
from benchmarks import workload
import models
from train import config as config_lib
from train.program import augmentation

_SIZE = 32
_PADDING = 4
_OURS = 'optax-lcam'
_THEIRS = 'PyTorch'

# A training step of a layer: what it takes and gives is made before.
_Call = Callable[[], object]


def measure(quick: bool) -> harness.Results:
  """Times whole steps and single layers of two networks."""
  if quick:
    cases = [(10, 1, 8)]
  else:
    cases = [(16, 1, 128), (16, 4, 64)]
  return {
    f'WRN-{depth}-{widen_factor}, batch {batch_size}': _measure_case(
      depth, widen_factor, batch_size, quick
    )
    for depth, widen_factor, batch_size in cases
  }


def tables(results: harness.Results) -> str:
  """The results as Markdown."""
  compared = all(_THEIRS in case['steps'] for case in results.values())
  header = ['whole step', 'images/s']
  rows = []
  for name, case in results.items():
    rows.append([name, harness.spread(case['steps'][_OURS], 1)])
    if compared:
      rows[-1] += [
        harness.spread(case['steps'][_THEIRS], 1),
        harness.spread(case['speed_to_torch'], 2),
      ]
  if compared:
    header = [header[0], f'{_OURS} images/s', f'{_THEIRS} images/s', 'ratio']
  parts = [harness.table(header, rows)]
  for name, case in results.items():
    parts.append(_parts_table(name, case))
  return '\n\n'.join(parts)


def _parts_table(name: str, case: harness.Results) -> str:
  compared = _THEIRS in case['steps']
  header = [name, 'times', 'forward ms', 'with backward ms']
  if compared:
    header += ['PyTorch', 'PyTorch', 'ms lost a step']
  rows = []
  for part, row in case['parts'].items():
    ours = row[_OURS]
    line = [part, row['times']]
    line += [_ms(ours.get('forward')), _ms(ours['whole'])]
    if compared:
      theirs = row[_THEIRS]
      line += [_ms(theirs.get('forward')), _ms(theirs['whole'])]
      line.append(f'{1e3 * row["seconds_lost"]:+,.1f}')
    rows.append(line)
  total = ['sum of these', '', '', f'{1e3 * case["parts_seconds"][_OURS]:,.1f}']
  if compared:
    theirs_total = case['parts_seconds'][_THEIRS]
    lost = case['parts_seconds'][_OURS] - theirs_total
    total += ['', f'{1e3 * theirs_total:,.1f}', f'{1e3 * lost:+,.1f}']
  step = ['whole step', '', '', f'{1e3 * case["step_seconds"][_OURS]:,.1f}']
  if compared:
    theirs_step = case['step_seconds'][_THEIRS]
    lost = case['step_seconds'][_OURS] - theirs_step
    step += ['', f'{1e3 * theirs_step:,.1f}', f'{1e3 * lost:+,.1f}']
  return harness.table(header, [*rows, total, step])


def _ms(summary: dict[str, float] | None) -> str:
  return '' if summary is None else harness.spread(summary, 2, 1e3)


def _measure_case(
  depth: int, widen_factor: int, batch_size: int, quick: bool
) -> harness.Results:
  dataset = workload.noise(4 * batch_size if quick else 8192)
  config = config_lib.Config(
    dataset='cifar10',
    depth=depth,
    widen_factor=widen_factor,
    batch_size=batch_size,
    # PyTorch has no LCAM of its own; benchmarks.optimizer_step compares those.
    optimizer='lcam',
  )
  steps = 1 if quick else 4
  advance = workload.start(workload.of_run(config, dataset))
  candidates: dict[str, _Call] = {_OURS: lambda: advance(steps)}
  torch_model = None
  if importlib.util.find_spec('torch') is not None:
    torch_model = torch_step.make_model(depth, widen_factor)
    torch_advance = torch_step.make_steps(
      torch_model, dataset.train, batch_size
    )
    candidates[_THEIRS] = lambda: torch_advance(steps)
  samples = harness.interleave(
    candidates, rounds=3 if quick else 9, seconds=120
  )
  images = steps * batch_size
  case: dict[str, Any] = {
    'steps': {
      name: harness.rate(images, taken) for name, taken in samples.items()
    },
    'step_seconds': {
      name: harness.summarize(taken)['median'] / steps
      for name, taken in samples.items()
    },
  }
  if torch_model is not None:
    case['speed_to_torch'] = harness.ratio(samples[_THEIRS], samples[_OURS])
  case |= _measure_parts(depth, widen_factor, batch_size, torch_model, quick)
  return case


def _measure_parts(
  depth: int,
  widen_factor: int,
  batch_size: int,
  torch_model: Any,
  quick: bool,
) -> harness.Results:
  model = models.WideResNet(depth, widen_factor, rngs=nnx.Rngs(0))
  model.train()
  kinds: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
  for label, path, shape in _layers(model):
    kinds.setdefault(label, []).append((path, shape))
  parts: dict[str, Any] = {}
  for label, layers in kinds.items():
    path, image_shape = layers[0]
    shape = (batch_size, *image_shape)
    calls = {
      (_OURS, kind): call
      for kind, call in _jax_layer(_at(model, path), shape, label).items()
    }
    if torch_model is not None:
      calls |= {
        (_THEIRS, kind): call
        for kind, call in _torch_layer(
          _at(torch_model, path), shape, label
        ).items()
      }
    parts[label] = _measure_part(calls, len(layers), quick)
  calls = {(_OURS, 'whole'): _jax_augmentation(batch_size)}
  if torch_model is not None:
    calls[_THEIRS, 'whole'] = _torch_augmentation(batch_size)
  parts['images by order, crop, flip, normalise'] = _measure_part(
    calls, 1, quick
  )
  sums = {
    who: sum(
      row['times'] * row[who]['whole']['median'] for row in parts.values()
    )
    for who in ([_OURS] if torch_model is None else [_OURS, _THEIRS])
  }
  return {'parts': parts, 'parts_seconds': sums}


def _measure_part(
  calls: dict[tuple[str, str], _Call], times: int, quick: bool
) -> dict[str, Any]:
  names = {f'{who} {kind}': (who, kind) for who, kind in calls}
  samples = harness.interleave(
    {name: calls[key] for name, key in names.items()},
    rounds=3 if quick else 9,
    calls=1 if quick else 3,
    seconds=6,
  )
  row: dict[str, Any] = {'times': times}
  for name, (who, kind) in names.items():
    row.setdefault(who, {})[kind] = harness.summarize(samples[name])
  if _THEIRS in row:
    row['seconds_lost'] = times * (
      row[_OURS]['whole']['median'] - row[_THEIRS]['whole']['median']
    )
  return row


def _layers(model: models.WideResNet) -> list[tuple[str, str, tuple[int, ...]]]:
  """Label, attribute path and input shape of each layer that takes time."""
  size, channels = _SIZE, model.in_channels
  layers: list[tuple[str, str, tuple[int, ...]]] = []

  def conv(path: str) -> tuple[int, int]:
    layer = _at(model, path)
    kernel = layer.kernel_size[0]
    stride = (
      layer.strides if isinstance(layer.strides, int) else max(layer.strides)
    )
    strided = f' stride {stride}' if stride > 1 else ''
    label = (
      f'{kernel}×{kernel}{strided} {layer.in_features}→{layer.out_features} at'
      f' {size}×{size}'
    )
    layers.append((label, path, (size, size, channels)))
    return math.ceil(size / stride), layer.out_features

  def norm(path: str) -> None:
    label = f'batch norm, ReLU {channels} at {size}×{size}'
    layers.append((label, path, (size, size, channels)))

  size, channels = conv('stem')
  for i, block in enumerate(model.blocks):
    norm(f'blocks.{i}.norm1')
    if block.projection is not None:
      conv(f'blocks.{i}.projection')
    size, channels = conv(f'blocks.{i}.conv1')
    norm(f'blocks.{i}.norm2')
    size, channels = conv(f'blocks.{i}.conv2')
  norm('norm')
  return layers


def _at(model: Any, path: str) -> Any:
  for name in path.split('.'):
    model = model[int(name)] if name.isdigit() else getattr(model, name)
  return model


def _jax_layer(
  layer: nnx.Module, shape: tuple[int, ...], label: str
) -> dict[str, _Call]:
  graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
  with_relu = 'ReLU' in label

  def forward(params: Any, x: jax.Array) -> jax.Array:
    module: Any = nnx.merge(graphdef, params, rest, copy=True)
    y = module(x)
    return nnx.relu(y) if with_relu else y

  def whole(params: Any, x: jax.Array, cotangent: jax.Array) -> Any:
    if shape[-1] == 3:  # images need no gradient
      y, back = jax.vjp(lambda p: forward(p, x), params)
    else:
      y, back = jax.vjp(forward, params, x)
    return y, back(cotangent)

  x = jax.random.normal(jax.random.key(0), shape)
  cotangent = jax.jit(forward)(params, x)
  compiled_forward = jax.jit(forward).lower(params, x).compile()
  compiled_whole = jax.jit(whole).lower(params, x, cotangent).compile()
  return {
    'forward': lambda: jax.block_until_ready(compiled_forward(params, x)),
    'whole': lambda: jax.block_until_ready(
      compiled_whole(params, x, cotangent)
    ),
  }


def _jax_augmentation(batch_size: int) -> _Call:
  images = jnp.asarray(workload.noise(1024).train.images)
  mean, std = np.full((2, 3), 0.5, np.float32)

  @jax.jit
  def augment(key: jax.Array, chosen: jax.Array) -> jax.Array:
    cropped = augmentation.crop_and_flip(
      key, images[chosen], padding=_PADDING, flip=True
    )
    return augmentation.normalize(cropped, mean, std)

  key = jax.random.key(0)
  chosen = jax.random.permutation(key, len(images))[:batch_size]
  return lambda: jax.block_until_ready(augment(key, chosen))


# ------------------------------------------------------------------- PyTorch


def _torch_augmentation(batch_size: int) -> _Call:
  import torch

  images = torch_step.pad(workload.noise(1024).train.images)
  chosen = torch.randperm(len(images))[:batch_size]
  return lambda: torch_step.augment(images, chosen)


def _torch_layer(
  layer: Any, shape: tuple[int, ...], label: str
) -> dict[str, _Call]:
  import torch

  batch, height, width, channels = shape
  x = torch.randn(batch, channels, height, width)
  x = x.contiguous(memory_format=torch.channels_last)
  with_relu = 'ReLU' in label

  def forward() -> Any:
    y = layer(x)
    return torch.relu(y) if with_relu else y

  def forward_alone() -> None:
    with torch.no_grad():
      forward()

  cotangent = torch.randn_like(forward().detach())
  wanted = list(layer.parameters())
  if channels != 3:  # images need no gradient
    x.requires_grad_(True)
    wanted.append(x)

  def whole() -> None:
    torch.autograd.grad(forward(), wanted, cotangent)

  return {'forward': forward_alone, 'whole': whole}


if __name__ == '__main__':
  harness.main('training', measure, tables)
