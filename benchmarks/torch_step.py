"""The PyTorch side of a comparison: the same network and training step.

Gathers images in the order of the epoch, crops, flips and normalizes them, and
runs forward, backward, weight decay and momentum, on a CPU or a GPU, in
channels_last memory format.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from train import data

_PADDING = 4


def make_model(depth: int, widen_factor: int, device: str = 'cpu') -> Any:
  """The Wide ResNet that the tests compare with ``models.WideResNet``."""
  import torch

  from tests.references import wide_resnet_torch

  model = wide_resnet_torch.WideResNet(depth, widen_factor, 10, 3)
  model.train()
  return model.to(device=device, memory_format=torch.channels_last)


def pad(images: np.ndarray) -> Any:
  """The images with zero padding."""
  import torch

  padding = ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0))
  return torch.from_numpy(np.pad(images, padding))


def augment(images: Any, chosen: Any) -> Any:
  """Crops, flips and normalizes without a loop over the images.

  Args:
    images: From :func:`pad`: shape=(examples, height + 8, width + 8, channels),
      dtype=uint8.
    chosen: shape=(batch,), on the same device.

  Returns:
    shape=(batch, channels, height, width), dtype=float32.
  """
  import torch

  device = images.device
  size = images.shape[1] - 2 * _PADDING
  offsets = torch.randint(
    0, 2 * _PADDING + 1, (2, len(chosen), 1), device=device
  )
  span = torch.arange(size, device=device)
  flipped = torch.rand(len(chosen), 1, device=device) < 0.5
  rows = offsets[0] + span
  columns = offsets[1] + torch.where(flipped, size - 1 - span, span)
  cropped = images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
  normalised = (cropped.float() / 255 - 0.5) / 0.5
  return normalised.permute(0, 3, 1, 2)  # channels_last memory format


def make_steps(
  model: Any,
  train: data.Split,
  batch_size: int,
  *,
  bfloat16: bool = False,
  compiled: bool = False,
) -> Callable[[int], None]:
  """Returns a function that runs n training steps.

  Args:
    model: From :func:`make_model`.
    train: The images.
    batch_size: Images per step.
    bfloat16: Whether to use ``torch.autocast`` with bfloat16.
    compiled: Whether to use ``torch.compile`` for the network and the loss.
  """
  import torch

  device = next(model.parameters()).device
  images = pad(train.images).to(device)
  labels = torch.from_numpy(train.labels).long().to(device)
  order = torch.randperm(len(images), device=device)
  optimizer = torch.optim.SGD(
    model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, fused=True
  )

  def loss_fn(batch: Any, targets: Any) -> Any:
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
      return torch.nn.functional.cross_entropy(model(batch), targets)

  if compiled:
    loss_fn = torch.compile(loss_fn)
  done = 0

  def advance(steps: int) -> None:
    nonlocal done
    for _ in range(steps):
      start = done * batch_size % len(images)
      chosen = order[start : start + batch_size]
      loss = loss_fn(augment(images, chosen), labels[chosen])
      optimizer.zero_grad(set_to_none=True)
      loss.backward()
      optimizer.step()
      done += 1
    if device.type == 'cuda':
      torch.cuda.synchronize()

  return advance
