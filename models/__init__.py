"""Networks in Flax NNX, and their registry.

To add a network, write its file and add an entry to :data:`NETWORKS`, as
CONTRIBUTING.md shows.
"""

import dataclasses
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from models.mlp import MLP as MLP
  from models.wide_resnet import WideResNet as WideResNet

__all__ = ['MLP', 'NETWORKS', 'Network', 'WideResNet']

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
  parts of the batch that batch norm takes separate statistics of."""

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


NETWORKS: dict[str, Network] = {
  'wrn': Network(
    'wide_resnet',
    ('depth', 'widen_factor', 'dropout_rate', 'remat'),
    convolves=True,
    normalizes=True,
  ),
  'mlp': Network('mlp', ('hidden_layers', 'hidden_size', 'dropout_rate')),
}


def __getattr__(name: str) -> Any:
  # Importing Flax takes seconds, and the command line needs only the names.
  if name in _CLASSES:
    return getattr(importlib.import_module(f'models.{_CLASSES[name]}'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
