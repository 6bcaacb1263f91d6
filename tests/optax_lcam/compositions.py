"""LCAM in the compositions of Optax, by name.

All are for the parameters of ``training.make_params``, with momenta 0.93 and
0.9, epochs of ``STEPS_PER_EPOCH`` steps, and no skipped steps.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import optax_lcam

STEPS_PER_EPOCH = 7
LEARNING_RATE = 0.02


def lcam():
  return optax_lcam.lcam(steps_per_epoch=STEPS_PER_EPOCH)


def lcam_sgd(learning_rate=LEARNING_RATE, **kwargs):
  return optax_lcam.lcam_sgd(
    learning_rate, steps_per_epoch=STEPS_PER_EPOCH, **kwargs
  )


def scale():
  return optax.scale_by_learning_rate(LEARNING_RATE)


def is_vector(params):
  return jax.tree.map(lambda p: p.ndim == 1, params)


def injected(**kwargs):
  arguments = {'steps_per_epoch': STEPS_PER_EPOCH} | kwargs
  return optax.inject_hyperparams(optax_lcam.lcam_sgd)(
    LEARNING_RATE, **arguments
  )


# These train exactly like lcam_sgd alone.
TRANSPARENT: dict[str, Callable[[], optax.GradientTransformationExtraArgs]] = {
  'lcam_sgd': lcam_sgd,
  'chain': lambda: optax.chain(lcam(), scale()),
  'chain in chain': lambda: optax.chain(
    optax.identity(),
    optax.chain(optax.chain(lcam()), optax.identity()),
    scale(),
  ),
  'named_chain': lambda: optax.named_chain(
    ('lcam', lcam()), ('scale', scale())
  ),
  'masked, nothing masked': lambda: optax.masked(
    lcam_sgd(), lambda p: jax.tree.map(lambda _: True, p)
  ),
  'masked in two': lambda: optax.chain(
    optax.masked(lcam(), is_vector),
    optax.masked(
      lcam(), lambda p: jax.tree.map(lambda vector: not vector, is_vector(p))
    ),
    scale(),
  ),
  'partition': lambda: optax.partition(
    {'vector': lcam_sgd(), 'scalar': lcam_sgd()},
    lambda p: jax.tree.map(lambda v: 'vector' if v else 'scalar', is_vector(p)),
  ),
  'inject_hyperparams': injected,
  'inject_hyperparams, schedules': lambda: injected(
    horizontal_momentum=optax.constant_schedule(0.93),
    vertical_momentum=optax.constant_schedule(0.9),
  ),
  'inject_hyperparams in chain': lambda: optax.chain(
    optax.clip(1e9), injected()
  ),
  'inject_hyperparams in partition': lambda: optax.partition(
    {'all': injected()}, lambda p: jax.tree.map(lambda _: 'all', p)
  ),
  'loss_controlled trace': lambda: optax.chain(
    optax.inject_hyperparams(optax.trace)(
      decay=optax_lcam.loss_controlled(
        0.93, 0.9, steps_per_epoch=STEPS_PER_EPOCH
      )
    ),
    scale(),
  ),
  'loss_controlled trace in partition': lambda: optax.partition(
    {
      'all': optax.inject_hyperparams(optax.sgd)(
        LEARNING_RATE,
        momentum=optax_lcam.loss_controlled(
          0.93, 0.9, steps_per_epoch=STEPS_PER_EPOCH
        ),
      )
    },
    lambda p: jax.tree.map(lambda _: 'all', p),
  ),
  'learning rate schedule': lambda: lcam_sgd(
    optax.constant_schedule(LEARNING_RATE)
  ),
  'MultiSteps of 1': lambda: optax.MultiSteps(lcam_sgd(), 1),
  'multi_steps of 1': lambda: optax_lcam.multi_steps(lcam_sgd(), 1),
  'multi_steps of 1 in chain': lambda: optax.chain(
    optax.clip(1e9), optax_lcam.multi_steps(lcam(), 1), scale()
  ),
  'apply_if_finite': lambda: optax.apply_if_finite(lcam_sgd(), 3),
  'conditionally_transform': lambda: optax.conditionally_transform(
    lcam_sgd(), lambda step: step >= 0
  ),
  'conditionally_mask': lambda: optax.conditionally_mask(
    lcam_sgd(), lambda step: step >= 0
  ),
  'freeze nothing': lambda: optax.chain(lcam_sgd(), optax.freeze(False)),
  'flatten': lambda: optax.flatten(lcam_sgd()),
}

# These train differently, as intended, but LCAM receives each loss.
OPAQUE: dict[str, Callable[[], optax.GradientTransformationExtraArgs]] = {
  'clip_by_global_norm before': lambda: optax.chain(
    optax.clip_by_global_norm(0.5), lcam_sgd()
  ),
  'weight decay': lambda: lcam_sgd(weight_decay=0.1),
  'weight decay, masked': lambda: lcam_sgd(
    weight_decay=0.1, weight_decay_mask=is_vector
  ),
  'masked': lambda: optax.chain(optax.masked(lcam(), is_vector), scale()),
  'freeze': lambda: optax.chain(
    lcam_sgd(), optax.freeze({'dense': False, 'scale': True})
  ),
  'selective_transform': lambda: optax.selective_transform(
    lcam_sgd(), freeze_mask={'dense': False, 'scale': True}
  ),
  'partition with a frozen group': lambda: optax.partition(
    {'train': lcam_sgd(), 'freeze': optax.set_to_zero()},
    {'dense': 'train', 'scale': 'freeze'},
  ),
  'schedule_free': lambda: optax.contrib.schedule_free(
    lcam_sgd(), LEARNING_RATE
  ),
  'mechanize': lambda: optax.contrib.mechanize(lcam_sgd(1.0)),
  'reduce_on_plateau beside': lambda: optax.chain(
    lcam_sgd(), optax.contrib.reduce_on_plateau(patience=2)
  ),
  'ema after': lambda: optax.chain(lcam_sgd(), optax.ema(0.5)),
  'after scale_by_adam': lambda: optax.chain(optax.scale_by_adam(), lcam_sgd()),
  'nesterov': lambda: lcam_sgd(nesterov=True),
  'bfloat16 accumulator': lambda: lcam_sgd(accumulator_dtype=jnp.bfloat16),
}

ALL = TRANSPARENT | OPAQUE
