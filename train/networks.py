"""Configuration to network."""

from flax import nnx
import jax
import jax.numpy as jnp

import models
from train import config as config_lib
from train.data import dataset as dataset_lib


def make_network(
  config: config_lib.Config,
  dataset: dataset_lib.Dataset,
  dtype: str,
  key: jax.Array,
) -> nnx.Module:
  """A new network of a run.

  Args:
    config: The settings of the run.
    dataset: Its images, for their channels and classes.
    dtype: Arithmetic of the network, such as ``'float32'``.
    key: PRNG key of the parameters.

  Returns:
    A Wide ResNet whose parameters and statistics are float32. Its own dropout
    stream is the same for every key: the steps bring dropout keys of their own.
  """
  return models.WideResNet(
    config.depth,
    config.widen_factor,
    dataset.num_classes,
    config.dropout_rate,
    in_channels=dataset.train.images.shape[-1],
    dtype=jnp.dtype(dtype),
    remat=config.remat,
    rngs=nnx.Rngs(params=key, dropout=0),
  )
