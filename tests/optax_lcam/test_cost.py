"""The cost of LCAM compared with SGD with momentum, as counted by XLA.

The counts are those of the compiled program, so the load of the machine does
not change them. The tensors of the network are abstract and need no memory.
"""

import functools
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import models
import optax_lcam

WEIGHT_DECAY = 5e-4
PARAMETERS = 36_479_194  # of WRN-28-10 with 10 classes


def sgd():
  return optax.chain(
    optax.add_decayed_weights(WEIGHT_DECAY), optax.sgd(0.1, momentum=0.9)
  )


def lcam_sgd(**kwargs):
  return optax_lcam.lcam_sgd(0.1, weight_decay=WEIGHT_DECAY, **kwargs)


@functools.cache
def wrn_28_10():
  """The parameters of WRN-28-10 as shapes and dtypes."""
  abstract = nnx.eval_shape(lambda: models.WideResNet(28, 10, rngs=nnx.Rngs(0)))
  state = nnx.state(abstract, nnx.Param)
  return {
    jax.tree_util.keystr(path): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  }


def compile_update(optimizer):
  """Compiles optimizer.update with apply_updates, the state donated."""

  def step(params, grads, state, loss):
    updates, state = optimizer.update(grads, state, params, value=loss)
    return optax.apply_updates(params, updates), state

  optimizer = optax.with_extra_args_support(optimizer)
  params = wrn_28_10()
  state = jax.eval_shape(optimizer.init, params)
  loss = jax.ShapeDtypeStruct((), jnp.float32)
  return (
    jax.jit(step, donate_argnums=(0, 2))
    .lower(params, params, state, loss)
    .compile()
  )


def size_of_state(optimizer):
  state = jax.eval_shape(optimizer.init, wrn_28_10())
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


@functools.cache
def baseline():
  compiled = compile_update(sgd())
  return compiled.cost_analysis(), compiled.as_text()


def large_fusions(text):
  """The number of kernels over whole tensors in the compiled program."""
  entry = text[text.index('ENTRY') :]
  shapes = re.findall(r'= \(?f32\[([\d,]+)\].* (?:fusion|call)\(', entry)
  return len(shapes)


def test_wrn_28_10_has_the_known_number_of_parameters():
  assert sum(int(np.prod(x.shape)) for x in wrn_28_10().values()) == PARAMETERS


@pytest.mark.parametrize(
  'options',
  [
    {},
    {'reaction': 'current'},
    {'steps_per_epoch': None, 'loss_decay': 0.99},
  ],
  ids=str,
)
def test_bytes_and_flop_equal_those_of_sgd(options, record_property):
  theirs, _ = baseline()
  compiled = compile_update(lcam_sgd(**options))
  ours = compiled.cost_analysis()
  for key in ('bytes accessed', 'flops'):
    record_property(f'{key}, lcam_sgd', ours[key])
    record_property(f'{key}, sgd', theirs[key])
    print(f'{key}: lcam_sgd {ours[key]:,.0f}, sgd {theirs[key]:,.0f}')
    assert ours[key] <= 1.001 * theirs[key]
  # The update reads parameters, gradients and trace, writes parameters and
  # trace, and needs four operations per element.
  assert ours['bytes accessed'] >= 5 * 4 * PARAMETERS
  assert ours['flops'] >= 4 * PARAMETERS


def test_an_injected_trace_costs_as_much_as_sgd(record_property):
  decay = optax_lcam.loss_controlled(0.93, 0.9)
  injected = optax.chain(
    optax.add_decayed_weights(WEIGHT_DECAY),
    optax.inject_hyperparams(optax.trace)(decay=decay),
    optax.scale_by_learning_rate(0.1),
  )
  theirs, _ = baseline()
  ours = compile_update(injected).cost_analysis()
  for key in ('bytes accessed', 'flops'):
    record_property(f'{key}, injected trace', ours[key])
    print(f'{key}: injected trace {ours[key]:,.0f}, sgd {theirs[key]:,.0f}')
    assert abs(ours[key] - theirs[key]) <= 1e-4 * theirs[key]
  assert 0 < size_of_state(injected) - size_of_state(sgd()) <= 64


def test_one_pass_over_the_leaves():
  _, theirs = baseline()
  ours = compile_update(lcam_sgd()).as_text()
  assert large_fusions(ours) == large_fusions(theirs) >= len(wrn_28_10())


def test_the_state_is_at_most_64_bytes_larger(record_property):
  ours, theirs = size_of_state(lcam_sgd()), size_of_state(sgd())
  record_property('state bytes, lcam_sgd', ours)
  record_property('state bytes, sgd', theirs)
  print(f'state: lcam_sgd {ours:,} bytes, sgd {theirs:,} bytes')
  assert theirs == 4 * PARAMETERS
  assert 0 < ours - theirs <= 64


def test_nesterov_costs_as_much_as_in_sgd():
  theirs = compile_update(
    optax.chain(
      optax.add_decayed_weights(WEIGHT_DECAY),
      optax.sgd(0.1, momentum=0.9, nesterov=True),
    )
  ).cost_analysis()
  ours = compile_update(lcam_sgd(nesterov=True)).cost_analysis()
  for key in ('bytes accessed', 'flops'):
    assert ours[key] <= 1.001 * theirs[key]
