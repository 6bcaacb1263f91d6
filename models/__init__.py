"""Networks in Flax NNX, and their registry.

To add a network, write its file and add an entry to :data:`NETWORKS`, as
CONTRIBUTING.md shows.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import importlib
import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from models.mlp import MLP as MLP
  from models.wide_resnet import WideResNet as WideResNet

__all__ = ['MLP', 'NETWORKS', 'Network', 'WideResNet', 'load', 'save']

_CLASSES = {'MLP': 'mlp', 'WideResNet': 'wide_resnet'}


@dataclasses.dataclass(frozen=True)
class Network:
  """An entry of the registry.

  Its file in models/ is imported on first use and defines three functions that
  take the settings as keywords:

  * ``build(*, image_shape, num_classes, dtype, rngs, **settings)``: the model,
    a :class:`flax.nnx.Module` that maps images of shape=(batch, *image_shape)
    to logits of shape=(batch, num_classes) and whose call takes ``rngs`` for
    dropout.
  * ``flop(*, image_shape, num_classes, **settings)``: floating-point operations
    of the forward pass for one image.
  * ``title(**settings)``: a short name, such as WRN-28-10.
  """

  module: str
  """The name of the file, without ``.py``."""
  settings: tuple[str, ...]
  """The names of the run's settings that the network takes."""
  convolves: bool = False
  """Whether ``build`` also takes ``conv_general_dilated``, a function with the
  signature of :func:`jax.lax.conv_general_dilated`."""
  normalizes: bool = False
  """Whether ``build`` also takes ``batch_norm_parts``, the number of equal
  parts of the batch that batch norm normalizes separately, and
  ``batch_norm_relu``, a function that computes batch norm with ReLU in
  training."""

  def build(self, **arguments: Any) -> Any:
    return self._load().build(**arguments)

  def flop(self, **arguments: Any) -> int:
    return self._load().flop(**arguments)

  def settings_of(self, config: Any) -> dict[str, Any]:
    """Returns the settings from an object that has them as attributes."""
    return {name: getattr(config, name) for name in self.settings}

  def title_of(self, config: Any) -> str:
    return self._load().title(**self.settings_of(config))

  def _load(self) -> Any:
    return importlib.import_module(f'models.{self.module}')


# The metadata key of a weights file that describes the network.
_METADATA = 'network'

NETWORKS: dict[str, Network] = {
  'wrn': Network(
    'wide_resnet',
    ('depth', 'widen_factor', 'dropout_rate', 'remat'),
    convolves=True,
    normalizes=True,
  ),
  'mlp': Network('mlp', ('hidden_layers', 'hidden_size', 'dropout_rate')),
}


def save(
  path: str | os.PathLike[str],
  state: Any,
  network: str,
  *,
  image_shape: Sequence[int],
  num_classes: int,
  settings: Mapping[str, Any],
  **facts: Any,
) -> None:
  """Writes the weights of a network as a safetensors file.

  Args:
    path: The file.
    state: The values of the model's ``nnx.Param`` and ``nnx.BatchStat``, of any
      structure that has their paths.
    network: A name in :data:`NETWORKS`.
    image_shape: Height, width and channels.
    num_classes: Number of classes.
    settings: The settings of the network.
    **facts: Further JSON values to store in the file.
  """
  import jax
  import numpy as np
  from safetensors import numpy as safetensors

  arrays = {
    _path(path): np.asarray(leaf, order='C')
    for path, leaf in jax.tree.leaves_with_path(state)
  }
  content = {
    'network': network,
    'image_shape': list(image_shape),
    'num_classes': num_classes,
    'settings': dict(settings),
    **facts,
  }
  # The format stores only strings and does not order them. With a single one,
  # the same weights give the same bytes.
  safetensors.save_file(arrays, path, {_METADATA: json.dumps(content)})


def load(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
  """Loads a network from a file that :func:`save` wrote.

  Args:
    path: The file, for example ``weights.safetensors`` of a run.

  Returns:
    The model, an :class:`flax.nnx.Module` in evaluation mode with float32
    arithmetic, and the values stored in the file. Those of a run include
    ``mean`` and ``std`` per channel, of pixels in [0, 1]: the model takes
    ``(images / 255 - mean) / std``.

  Raises:
    ValueError: If the file does not contain the weights of a known network.
  """
  from flax import nnx
  import jax
  import jax.numpy as jnp
  import safetensors

  with safetensors.safe_open(path, framework='numpy') as file:
    arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata = file.metadata() or {}
  try:
    facts = json.loads(metadata.get(_METADATA, '{}'))
  except ValueError:
    facts = {}
  if not isinstance(facts, dict):
    facts = {}
  if facts.get('network') not in NETWORKS:
    raise ValueError(
      f'{path} must contain one of the networks {", ".join(NETWORKS)}, got'
      f' {facts.get("network")}.'
    )
  model = NETWORKS[facts['network']].build(
    image_shape=tuple(facts['image_shape']),
    num_classes=facts['num_classes'],
    dtype=jnp.float32,
    rngs=nnx.Rngs(0),
    **facts['settings'],
  )
  state = nnx.state(model, (nnx.Param, nnx.BatchStat))
  leaves, structure = jax.tree.flatten_with_path(state)
  names = [_path(path) for path, _ in leaves]
  if {*names} != arrays.keys():
    raise ValueError(f'{path} does not contain the weights of its network.')
  nnx.update(
    model,
    jax.tree.unflatten(structure, [jnp.asarray(arrays[n]) for n in names]),
  )
  model.eval()
  return model, facts


def _path(keys: Any) -> str:
  """The path of a leaf as text, such as `head.kernel`."""
  import jax

  return jax.tree_util.keystr(keys, simple=True, separator='.')


def __getattr__(name: str) -> Any:
  # Importing Flax takes seconds, and the command line needs only the names.
  if name in _CLASSES:
    return getattr(importlib.import_module(f'models.{_CLASSES[name]}'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
