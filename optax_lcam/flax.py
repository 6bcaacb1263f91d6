"""A Flax Linen train state. ``import optax_lcam`` does not import Flax."""

from __future__ import annotations

import functools
from typing import Any

from flax.training import train_state
import jax
import optax


class TrainState(train_state.TrainState):
  """Flax's ``TrainState`` with an ``apply_gradients`` that takes the loss.

  The ``apply_gradients`` of Flax passes its keywords to ``replace``, not to the
  optimizer. This class differs in nothing else.

  Examples:
    >>> from flax import linen as nn
    >>> import jax, jax.numpy as jnp, optax_lcam
    >>> from optax_lcam.flax import TrainState
    >>> model = nn.Dense(1)
    >>> x = jnp.ones((4, 3))
    >>> state = TrainState.create(
    ...     apply_fn=model.apply,
    ...     params=model.init(jax.random.key(0), x),
    ...     tx=optax_lcam.lcam_sgd(0.1, steps_per_epoch=10),
    ... )
    >>> @jax.jit
    ... def train_step(state):
    ...   loss_fn = lambda params: jnp.mean(state.apply_fn(params, x) ** 2)
    ...   loss, grads = jax.value_and_grad(loss_fn)(state.params)
    ...   return state.apply_gradients(grads=grads, value=loss)
    >>> state = train_step(state)
    >>> print(optax_lcam.read(state.opt_state).step)
    1
  """

  def apply_gradients(
    self,
    *,
    grads: Any,
    value: jax.typing.ArrayLike | None = None,
    **kwargs: Any,
  ) -> TrainState:
    """Updates the parameters and the optimizer's state.

    Args:
      grads: Gradients with the structure and shapes of ``params``.
      value: The batch loss, shape=(). ``None`` is for optimizers that do not
        need it.
      **kwargs: Other attributes to replace.

    Returns:
      The state with updated ``step``, ``params`` and ``opt_state``.

    Raises:
      ValueError: If the optimizer contains LCAM and ``value`` is ``None`` or
        not a scalar.
      TypeError: If the optimizer contains LCAM and ``value`` is not a real
        number.
    """
    tx = optax.with_extra_args_support(self.tx)
    with_value = tx._replace(update=functools.partial(tx.update, value=value))
    new = super(TrainState, self.replace(tx=with_value)).apply_gradients(
      grads=grads, **kwargs
    )
    restored: TrainState = new.replace(tx=self.tx)
    return restored
