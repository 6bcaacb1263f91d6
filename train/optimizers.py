"""Configuration to Optax optimizer."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import optax_lcam
from train import config as config_lib


def make_optimizer(
  config: config_lib.Config, schedule: optax.Schedule, steps_per_epoch: int
) -> optax.GradientTransformationExtraArgs:
  """The optimizer of a run.

  Weight decay is coupled (L2), as in PyTorch's optimizers of these names,
  except for adamw.

  Args:
    config: A resolved configuration.
    schedule: Learning rate over the steps.
    steps_per_epoch: Training steps of one epoch.

  Returns:
    A transformation whose ``update`` takes ``value=loss``.
  """
  if config.optimizer == 'lcam':
    return optax_lcam.lcam_sgd(
      schedule,
      config.horizontal_momentum,
      config.vertical_momentum,
      weight_decay=config.weight_decay,
      steps_per_epoch=steps_per_epoch if config.loss_decay is None else None,
      loss_decay=config.loss_decay,
      reaction=config.reaction,
      initial_momentum=config.initial_momentum,
      inclusive=config.inclusive,
      nesterov=config.nesterov,
    )
  if config.optimizer == 'adamw':
    return optax.with_extra_args_support(
      optax.adamw(schedule, weight_decay=config.weight_decay)
    )
  match config.optimizer:
    case 'coin':
      descent = _coin_sgd(config, schedule)
    case 'sgd':
      descent = optax.sgd(schedule, config.momentum, config.nesterov)
    case 'adam':
      descent = optax.adam(schedule)
    case 'rmsprop':
      # PyTorch's decay and place of epsilon.
      descent = optax.rmsprop(schedule, decay=0.99, eps_in_sqrt=False)
    case 'adagrad':
      descent = optax.adagrad(schedule)
    case name:
      raise ValueError(f'Unknown optimizer {name!r}.')
  return optax.with_extra_args_support(
    optax.chain(optax.add_decayed_weights(config.weight_decay), descent)
  )


def _coin_sgd(
  config: config_lib.Config, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """LCAM's two momenta at random: the ablation of the loss."""
  probability = config_lib.known(config.horizontal_probability)
  key = jax.random.key(config_lib.known(config.coin_seed))

  def momentum(step: jax.Array) -> jax.Array:
    horizontal = jax.random.bernoulli(
      jax.random.fold_in(key, step), probability
    )
    chosen = jnp.where(
      horizontal, config.horizontal_momentum, config.vertical_momentum
    )
    # As with LCAM, nothing has been chosen before the first step.
    return jnp.where(step == 0, config.initial_momentum, chosen)

  return optax.chain(
    optax.inject_hyperparams(optax.trace, static_args='nesterov')(
      decay=momentum, nesterov=config.nesterov
    ),
    optax.scale_by_learning_rate(schedule),
  )


def step_momentum(
  config: config_lib.Config, before: Any, after: Any
) -> tuple[jax.Array, jax.Array]:
  """The momentum that a step was taken with.

  Args:
    config: A resolved configuration.
    before: State of its optimizer before the step.
    after: State of its optimizer after the step.

  Returns:
    The momentum, and 1 where it is the horizontal one, else 0: both of
    shape=(), dtype=float32, and NaN where the optimizer has no such thing.
  """
  nothing = jnp.float32(jnp.nan)
  match config.optimizer:
    case 'lcam':
      reading = optax_lcam.read(before if config.reaction == 'next' else after)
      horizontal = reading.phase == optax_lcam.Phase.HORIZONTAL
      return reading.momentum, horizontal.astype(jnp.float32)
    case 'coin':
      used = optax.tree.get(after, 'hyperparams')['decay']
      horizontal = used == jnp.float32(config.horizontal_momentum)
      return used, horizontal.astype(jnp.float32)
    case 'sgd':
      return jnp.float32(config.momentum), nothing
    case _:
      return nothing, nothing
