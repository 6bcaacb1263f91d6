"""Counts the float32 operations of LCAM's mean before compilation."""

import collections

import jax
import jax.numpy as jnp

import optax_lcam

_FILE = '_exact_mean.py'


def count() -> dict[str, int]:
  """The number of traced ``additions`` and ``subtractions`` on scalars."""
  optimizer = optax_lcam.lcam()
  params = jnp.zeros(3)
  traced = jax.make_jaxpr(
    lambda grads, state, loss: optimizer.update(
      grads, state, params, value=loss
    )
  )(params, optimizer.init(params), jnp.float32(1))
  found = collections.Counter(_names(traced.jaxpr))
  return {'additions': found['add'], 'subtractions': found['sub']}


def _names(jaxpr):
  for equation in jaxpr.eqns:
    for value in equation.params.values():
      for inner in value if isinstance(value, tuple | list) else [value]:
        # A jaxpr or a closed jaxpr.
        inner = getattr(inner, 'jaxpr', inner)
        if hasattr(inner, 'eqns'):
          yield from _names(inner)
    (result, *_) = [v.aval for v in equation.outvars] or [None]
    frames = getattr(equation.source_info.traceback, 'frames', ())
    if (
      result is not None
      and result.shape == ()
      and result.dtype == jnp.float32
      and any(frame.file_name.endswith(_FILE) for frame in frames)
    ):
      yield equation.primitive.name
