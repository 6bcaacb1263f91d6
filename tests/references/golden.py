"""Golden results of PyTorch for machines without it, and their inputs.

``make_golden.py`` writes ``golden.npz``, which contains only results. Weights,
images and batches are generated here with NumPy for both frameworks. Weights
have the names and layouts of PyTorch (convolutions OIHW, linear layers out x
in).
"""

import pathlib
from typing import Any, NamedTuple

from flax import nnx
import jax.numpy as jnp
import numpy as np
from sklearn import datasets

PATH = pathlib.Path(__file__).with_name('golden.npz')

Arrays = dict[str, np.ndarray]


def load(prefix: str) -> Arrays:
  """The golden arrays with ``prefix/``, which is removed from their names."""
  with np.load(PATH) as file:
    return {
      name.removeprefix(f'{prefix}/'): file[name]
      for name in file.files
      if name.startswith(f'{prefix}/')
    }


# --- Networks ----------------------------------------------------------------


class Network(NamedTuple):
  """A Wide ResNet and the shape of its batch."""

  depth: int = 10
  widen_factor: int = 1
  num_classes: int = 10
  in_channels: int = 3
  height: int = 32
  width: int = 32
  batch: int = 4

  @property
  def name(self) -> str:
    return (
      f'WRN-{self.depth}-{self.widen_factor}'
      f'-{self.height}x{self.width}x{self.in_channels}'
    )


GOLDEN_NETWORK = Network(in_channels=1, height=9, width=8, batch=5)


def weights(network: Network, seed: int = 0) -> Arrays:
  """Random nontrivial weights and running statistics."""

  def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    kinds = ('weight', 'bias', 'running_mean', 'running_var')
    return {f'{name}.{kind}': (channels,) for kind in kinds}

  shapes = {'stem.weight': (16, network.in_channels, 3, 3)}
  in_channels = 16
  block = 0
  for group in range(3):
    out_channels = 16 * network.widen_factor * 2**group
    for _ in range((network.depth - 4) // 6):
      prefix = f'blocks.{block}'
      conv1, conv2 = (out_channels, in_channels), (out_channels, out_channels)
      shapes |= norm(f'{prefix}.norm1', in_channels)
      shapes[f'{prefix}.conv1.weight'] = (*conv1, 3, 3)
      shapes |= norm(f'{prefix}.norm2', out_channels)
      shapes[f'{prefix}.conv2.weight'] = (*conv2, 3, 3)
      if in_channels != out_channels:
        shapes[f'{prefix}.projection.weight'] = (*conv1, 1, 1)
      in_channels = out_channels
      block += 1
  shapes |= norm('norm', in_channels)
  shapes['head.weight'] = (network.num_classes, in_channels)
  shapes['head.bias'] = (network.num_classes,)

  drawn = {}
  for i, (name, shape) in enumerate(shapes.items()):
    noise = _uniform(shape, seed=(seed, i))
    if len(shape) > 1:  # about the variance that preserves activations
      noise = noise * np.sqrt(6 / np.prod(shape[1:]))
    elif name.endswith(('weight', 'running_var')):
      noise = 1 + 0.5 * noise
    else:
      noise = 0.3 * noise
    drawn[name] = noise.astype(np.float32)
  return drawn


def images_and_labels(network: Network) -> tuple[np.ndarray, np.ndarray]:
  """A random float32 batch in NHWC, and its int64 labels."""
  n = network
  images = 2 * _uniform((n.batch, n.height, n.width, n.in_channels), seed=100)
  labels = _uniform((n.batch,), seed=101)
  labels = (labels + 1) / 2 * n.num_classes
  return images.astype(np.float32), labels.astype(np.int64)


def copy_to_nnx(arrays: Arrays, model: nnx.Module) -> None:
  """Sets all parameters and running statistics of a ``models.WideResNet``."""
  flat = {}
  remaining = dict(arrays)
  for path, variable in _flat_variables(nnx.state(model)).items():
    array = _to_flax_layout(remaining.pop(_torch_name(path)))
    assert array.shape == variable.shape, (path, array.shape, variable.shape)
    flat[path] = variable.replace(jnp.asarray(array))
  assert not remaining, f'The model lacks {sorted(remaining)}.'
  nnx.update(model, nnx.from_flat_state(list(flat.items())))


def from_nnx(state: nnx.State) -> Arrays:
  """Parameters, gradients or statistics of an NNX model in PyTorch layout."""
  return {
    _torch_name(path): _to_torch_layout(np.asarray(variable.get_value()))
    for path, variable in _flat_variables(state).items()
  }


def _uniform(shape: tuple[int, ...], seed: Any) -> np.ndarray:
  """float64 from -1 to 1. Raw bits are the same in all versions of NumPy."""
  bits = np.random.PCG64(seed).random_raw(int(np.prod(shape)))
  return ((bits >> 11) * 2.0**-52 - 1).reshape(shape)


def _flat_variables(state: nnx.State) -> dict[tuple[Any, ...], nnx.Variable]:
  kept = nnx.filter_state(state, nnx.Any(nnx.Param, nnx.BatchStat))
  return dict(nnx.to_flat_state(kept))


def _torch_name(path: tuple[Any, ...]) -> str:
  kind = {
    'kernel': 'weight',
    'scale': 'weight',
    'bias': 'bias',
    'mean': 'running_mean',
    'var': 'running_var',
  }[path[-1]]
  return '.'.join(str(key) for key in (*path[:-1], kind))


def _to_flax_layout(array: np.ndarray) -> np.ndarray:
  axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim]
  return array.transpose(axes)


def _to_torch_layout(array: np.ndarray) -> np.ndarray:
  axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]
  return array.transpose(axes)


# --- Trajectories ------------------------------------------------------------


class Run(NamedTuple):
  """A training run: three epochs of full batches and one short batch."""

  network: str  # 'wide_resnet' (depth 10, widen factor 1) or 'perceptron'.
  dtype: str
  examples: int
  order: int  # Seed of the order of the examples.
  learning_rate: float  # Decays by 3% per step from the second epoch on.
  horizontal_momentum: float = 0.93
  vertical_momentum: float = 0.9
  initial_momentum: float = 0.9
  weight_decay: float = 5e-4
  decays: str = 'all'  # or 'matrices': neither biases nor normalization.
  inclusive: bool = True
  nesterov: bool = False
  reaction: str = 'next'

  @property
  def steps_per_epoch(self) -> int:
    return -(-self.examples // _BATCH)


EPOCHS = 3
LEARNING_RATE_DECAY = 0.97
_BATCH = 16

# With this order of the examples, no ReLU input of the Wide ResNet is closer to
# zero than the rounding errors of float32. Otherwise its gradient could be zero
# in one framework only, and the losses would diverge.
_NETWORKS = {
  'wide_resnet': {'examples': 90, 'order': 220, 'learning_rate': 0.05},
  'perceptron': {'examples': 150, 'order': 204, 'learning_rate': 0.1},
}

_OPTIONS = {
  'plain': {},
  'vertical': {'horizontal_momentum': 0.9, 'vertical_momentum': 0.95},
  'no_decay': {'weight_decay': 0.0},
  'strong_decay': {'weight_decay': 0.05},
  'decay_of_matrices': {'weight_decay': 0.05, 'decays': 'matrices'},
  'nesterov': {'nesterov': True},
  # Without Nesterov it has no effect, because the trace is zero.
  'initial_momentum': {'initial_momentum': 0.5, 'nesterov': True},
  'authors_ties': {'inclusive': False},
  'current': {'reaction': 'current'},
}

RUNS = {
  f'{network}-{option}-{dtype}': Run(network, dtype, **given, **changed)
  for network, given in _NETWORKS.items()
  for option, changed in _OPTIONS.items()
  if network == 'perceptron' or option in ('plain', 'vertical')
  for dtype in ('float32', 'float64')
}


def learning_rates(run: Run) -> list[float]:
  """The learning rate of each step."""
  return [
    run.learning_rate
    * LEARNING_RATE_DECAY ** max(0, step - run.steps_per_epoch)
    for step in range(EPOCHS * run.steps_per_epoch)
  ]


def digits(run: Run) -> list[list[tuple[np.ndarray, np.ndarray]]]:
  """The batches of each epoch: 8x8 digits in a different order per epoch.

  Returns:
    Images, shape=(16 or fewer, 8, 8, 1), and labels, dtype=int32.
  """
  images, labels = datasets.load_digits(return_X_y=True)
  images = (images[: run.examples].reshape(-1, 8, 8, 1) / 16 - 0.3) / 0.375
  labels = labels[: run.examples].astype(np.int32)
  epochs = []
  for epoch in range(EPOCHS):
    order = np.argsort(_uniform((run.examples,), seed=(run.order, epoch)))
    batches = np.split(order, range(_BATCH, run.examples, _BATCH))
    epochs.append(
      [(images[batch].astype(run.dtype), labels[batch]) for batch in batches]
    )
  return epochs


def initial_weights(network: str) -> Arrays:
  """The initial weights of a run, float32."""
  if network == 'wide_resnet':
    return weights(Network(in_channels=1), seed=1)
  shapes = {
    'hidden.weight': (16, 64),
    'hidden.bias': (16,),
    'output.weight': (10, 16),
    'output.bias': (10,),
  }
  return {
    name: (0.25 * _uniform(shape, seed=(300, i))).astype(np.float32)
    for i, (name, shape) in enumerate(shapes.items())
  }


def decays(run: Run, array: Any) -> bool:
  """Whether weight decay applies to a parameter of a run."""
  return run.decays == 'all' or array.ndim > 1
