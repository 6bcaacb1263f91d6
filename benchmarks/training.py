"""Training steps of small Wide ResNets, compared with PyTorch.

Measures the whole step of both: gathering the images in the order of the epoch,
crop, flip, normalization, forward, backward, weight decay and momentum. The
convolutions are those of XLA or oneDNN (then a kernel computes batch norm with
ReLU), the C library returns or keeps freed memory, and the dtype is float32 or,
on a processor with instructions for it, bfloat16. Each candidate has its own
process. Then measures each kind of layer separately. Without PyTorch only this
project is measured. The threads of PyTorch spin and are slow beside other work,
so measure at a load below 3.
"""

from collections.abc import Callable, Mapping
import functools
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
from benchmarks.training_process import Candidate
from benchmarks.training_process import Case
from benchmarks.training_process import Process
import models
from train import onednn
from train.onednn import convolution
from train.program import augmentation

_SIZE = 32
_PADDING = 4
_XLA, _OURS, _THEIRS = 'XLA', 'oneDNN', 'PyTorch'

# A training step of a layer. Inputs and cotangents are prepared before.
_Call = Callable[[], object]


def measure(quick: bool) -> harness.Results:
  """Times whole steps of three networks, and the layers of two of them."""
  if quick:
    cases = [Case(10, 1, 8, 8)]
  else:
    cases = [Case(16, 1, 128), Case(16, 4, 64), Case(10, 1, 32, 16)]
  return {case.name: _measure_case(case, quick) for case in cases}


def tables(results: harness.Results) -> str:
  """The results as Markdown."""
  parts = [_steps_table(name, case) for name, case in results.items()]
  parts += [
    _parts_table(name, case) for name, case in results.items() if case['parts']
  ]
  return '\n\n'.join(parts)


def _steps_table(name: str, case: harness.Results) -> str:
  header = [
    name,
    'ms per step',
    'images/s',
    'CPU ms per step',
    'page faults per step',
  ]
  header += [
    'peak MB',
    *(f'speed / {other}' for other in case['compared_with']),
  ]
  rows = []
  for candidate, row in case['steps'].items():
    line = [candidate, harness.spread(row['seconds'], 1, 1e3)]
    line.append(harness.spread(row['images_per_second'], 0))
    line.append(harness.spread(row['cpu_seconds'], 0, 1e3))
    line.append(f'{row["page_faults"]["median"]:,.0f}')
    line.append(f'{row["peak_bytes"]["median"] / 1e6:,.0f}')
    line += [
      harness.spread(row['speed_to'][other], 2)
      for other in case['compared_with']
    ]
    rows.append(line)
  return harness.table(header, rows)


def _parts_table(name: str, case: harness.Results) -> str:
  who = list(case['parts_seconds'])
  header = [name, 'count']
  for one in who:
    header += [f'{one}: forward ms', f'{one}: with backward ms']
  compared = _THEIRS in who and _OURS in who
  if compared:
    header.append(f'{_OURS}: ms lost per step')
  rows = []
  for part, row in case['parts'].items():
    line = [part, row['times']]
    for one in who:
      line += [_ms(row[one].get('forward')), _ms(row[one]['whole'])]
    if compared:
      line.append(f'{1e3 * _lost(row):+,.1f}')
    rows.append(line)
  total: list[object] = ['sum', '']
  for one in who:
    total += ['', f'{1e3 * case["parts_seconds"][one]:,.1f}']
  if compared:
    lost = sum(map(_lost, case['parts'].values()))
    total.append(f'{1e3 * lost:+,.1f}')
  return harness.table(header, [*rows, total])


def _lost(row: Mapping[str, Any]) -> float:
  """Seconds per step by which the layers of a kind are slower than PyTorch."""
  ours, theirs = (row[who]['whole']['median'] for who in (_OURS, _THEIRS))
  return float(row['times'] * (ours - theirs))


def _ms(summary: dict[str, float] | None) -> str:
  return '' if summary is None else harness.spread(summary, 2, 1e3)


def _candidates() -> list[Candidate]:
  found = [
    Candidate('jax', 'xla', keeps_memory=False),
    Candidate('jax', 'xla'),
  ]
  with_torch = importlib.util.find_spec('torch') is not None
  if onednn.is_available():
    found += [Candidate('jax', keeps_memory=False), Candidate('jax')]
  if with_torch:
    found += [Candidate('torch', keeps_memory=False), Candidate('torch')]
  if _multiplies_bfloat16():
    found.append(Candidate('jax', dtype='bfloat16'))
    if with_torch:
      found.append(Candidate('torch', dtype='bfloat16'))
  return found


def _multiplies_bfloat16() -> bool:
  """Whether oneDNN computes in bfloat16 here; nothing else does it fast."""
  return onednn.is_available() and jnp.bfloat16 in convolution.register().dtypes


def _measure_case(case: Case, quick: bool) -> harness.Results:
  # A turn takes about half a second.
  steps = (
    1
    if quick
    else {(16, 1): 4, (16, 4): 1, (10, 1): 40}[case.depth, case.widen_factor]
  )
  candidates = _candidates()
  processes = {c.name: Process(c, case) for c in candidates}
  try:
    samples = harness.interleave(
      {
        name: functools.partial(process.advance, steps)
        for name, process in processes.items()
      },
      rounds=3 if quick else 15,
      seconds=240,
    )
  finally:
    for process in processes.values():
      process.close()
  compared_with = [c.name for c in candidates if c.is_reference]
  rows: dict[str, Any] = {}
  for name, process in processes.items():
    # The first answer is that of the warm-up.
    answers = process.answers[1:]
    rows[name] = {
      kind: harness.summarize([answer[kind] for answer in answers])
      for kind in ('seconds', 'cpu_seconds', 'page_faults', 'peak_bytes')
    }
    rows[name]['images_per_second'] = harness.rate(
      case.batch_size, [answer['seconds'] for answer in answers]
    )
    rows[name]['speed_to'] = {
      other: harness.ratio(samples[other], samples[name])
      for other in compared_with
    }
  measured: harness.Results = {
    'steps': rows,
    'compared_with': compared_with,
    'parts': {},
    'parts_seconds': {},
  }
  if case.image_size == _SIZE or quick:
    measured |= _measure_parts(case, quick)
  return measured


def _measure_parts(case: Case, quick: bool) -> harness.Results:
  networks: dict[str, dict[str, Any]] = {_XLA: {}}
  if onednn.is_available():
    networks[_OURS] = {
      'conv_general_dilated': onednn.conv_general_dilated,
      'batch_norm_relu': onednn.batch_norm_relu,
    }
  shown = {
    name: models.WideResNet(
      case.depth, case.widen_factor, rngs=nnx.Rngs(0), **kernels
    )
    for name, kernels in networks.items()
  }
  torch_model = None
  if importlib.util.find_spec('torch') is not None:
    torch_model = torch_step.make_model(case.depth, case.widen_factor)
  kinds: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
  for label, path, shape in _layers(shown[_XLA], case.image_size):
    kinds.setdefault(label, []).append((path, shape))
  parts: dict[str, Any] = {}
  for label, layers in kinds.items():
    path, image_shape = layers[0]
    shape = (case.batch_size, *image_shape)
    calls = {}
    for name, model in shown.items():
      model.train()
      for kind, call in _jax_layer(_at(model, path), shape, label).items():
        calls[name, kind] = call
    if torch_model is not None:
      layer = _at(torch_model, path)
      for kind, call in _torch_layer(layer, shape, label).items():
        calls[_THEIRS, kind] = call
    parts[label] = _measure_part(calls, len(layers), quick)
  augmentation_call = _jax_augmentation(case.batch_size)
  calls = {(name, 'whole'): augmentation_call for name in shown}
  if torch_model is not None:
    calls[_THEIRS, 'whole'] = _torch_augmentation(case.batch_size)
  parts['images by order, crop, flip, normalise'] = _measure_part(
    calls, 1, quick
  )
  sums = {
    who: sum(
      row['times'] * row[who]['whole']['median'] for row in parts.values()
    )
    for who in [*shown, *([] if torch_model is None else [_THEIRS])]
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
    seconds=3,
  )
  row: dict[str, Any] = {'times': times}
  for name, (who, kind) in names.items():
    row.setdefault(who, {})[kind] = harness.summarize(samples[name])
  return row


def _layers(
  model: models.WideResNet, size: int
) -> list[tuple[str, str, tuple[int, ...]]]:
  """Label, attribute path and input shape of each measured layer."""
  channels = model.in_channels
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
  parts: Any = nnx.split(layer, nnx.Param, ...)
  graphdef, params, rest = parts
  with_relu = 'ReLU' in label

  def forward(params: Any, x: jax.Array) -> jax.Array:
    module: Any = nnx.merge(graphdef, params, rest, copy=True)
    return module.relu(x) if with_relu else module(x)

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
