"""Runs PyTorch on the inputs of golden.py, and writes golden.npz.

Run from the root of the repository, with PyTorch:

  python -m tests.references.make_golden

This is needed only after a change of a reference or an input. If PyTorch is
installed, tests compare with the results of these functions and of the file.
"""

import functools

import numpy as np
import pytest

from tests.references import golden
from tests.references import lcam_torch
from tests.references import wide_resnet_torch

torch = pytest.importorskip('torch')

# One thread is faster for so little work.
torch.set_num_threads(1)


def main() -> None:
  arrays = {
    f'network/{name}': array
    for name, array in training_step(golden.GOLDEN_NETWORK).items()
  }
  for name, run in golden.RUNS.items():
    for field, entries in trajectory(run)._asdict().items():
      arrays[f'{name}/{field}'] = np.array(entries)
  np.savez_compressed(golden.PATH, **arrays)
  size = golden.PATH.stat().st_size
  print(f'{golden.PATH.name}: {len(arrays)} arrays, {size:,} bytes')


def model_of(network: golden.Network) -> wide_resnet_torch.WideResNet:
  """The PyTorch model with the weights of golden.py."""
  model = wide_resnet_torch.WideResNet(
    network.depth,
    network.widen_factor,
    network.num_classes,
    network.in_channels,
  )
  wide_resnet_torch.load_weights(model, golden.weights(network))
  return model


def training_step(
  network: golden.Network, dtype: str = 'float32'
) -> golden.Arrays:
  """See ``wide_resnet_torch.one_training_step``."""
  images, labels = golden.images_and_labels(network)
  model = model_of(network).to(getattr(torch, dtype))
  return wide_resnet_torch.one_training_step(
    model, images.astype(dtype), labels
  )


def trajectory(run: golden.Run) -> lcam_torch.Trajectory:
  """Trains with PyTorch."""
  dtype = getattr(torch, run.dtype)
  weights = golden.initial_weights(run.network)
  if run.network == 'wide_resnet':
    model = wide_resnet_torch.WideResNet(10, 1, 10, in_channels=1)
    wide_resnet_torch.load_weights(model, weights)
    model = model.to(dtype).train()
    params = list(model.parameters())
    forward = lambda images: model(images.permute(0, 3, 1, 2))
  else:
    tensors = {
      name: torch.tensor(array, dtype=dtype, requires_grad=True)
      for name, array in weights.items()
    }
    params = list(tensors.values())
    forward = functools.partial(_perceptron, tensors)

  def loss_fn(batch):
    images, labels = map(torch.from_numpy, batch)
    return torch.nn.functional.cross_entropy(forward(images), labels.long())

  return lcam_torch.train(
    [
      {
        'params': [parameter],
        'weight_decay': run.weight_decay
        if golden.decays(run, parameter)
        else 0,
      }
      for parameter in params
    ],
    loss_fn,
    golden.digits(run),
    golden.learning_rates(run),
    horizontal_momentum=run.horizontal_momentum,
    vertical_momentum=run.vertical_momentum,
    initial_momentum=run.initial_momentum,
    inclusive=run.inclusive,
    nesterov=run.nesterov,
    reaction=run.reaction,
  )


def _perceptron(tensors, images):
  linear = torch.nn.functional.linear
  hidden = linear(
    images.flatten(1), tensors['hidden.weight'], tensors['hidden.bias']
  )
  return linear(
    torch.tanh(hidden), tensors['output.weight'], tensors['output.bias']
  )


if __name__ == '__main__':
  main()
