"""Optax's own suite for contributed optimizers, with ``lcam_sgd`` under test.

The suite's test methods are run as they are. It looks optimizers up by name,
and passes ``value=loss`` to those named ``momo``; so that is the name that
``lcam_sgd`` takes here.
"""

import inspect
import itertools
from unittest import mock

import jax.numpy as jnp
from optax.contrib import _common_test
import pytest

import optax_lcam

# As in the suite: the optimizer itself, each of Optax's wrappers around it.
# The wrappers' arguments and the learning rates are the suite's for SGD, but
# for half the rate beside reduce_on_plateau: optax.sgd(1e-3, momentum=0.93)
# fails there as well, as a momentum's overshoot looks like a plateau.
UNDER_TEST = {
  'lcam_sgd': (1e-3, None, None),
  'mechanize': (1.0, 'mechanize', {'weight_decay': 0.0}),
  'schedule_free': (1e-2, 'schedule_free', {'learning_rate': 1e-2}),
  'reduce_on_plateau': (5e-4, 'reduce_on_plateau', {}),
}
TARGETS = (
  '_setup_parabola',
  '_setup_rosenbrock',
  '_setup_matrix_parabola',
  '_setup_mixed_tensor_target',
)
DTYPES = ('float16', 'bfloat16', 'float32', 'float64')

# Each test of the suite with the axes, beside the optimizers, of its product.
SUITE = {
  'test_optimizers_accept_extra_args': {'wrap': (True, False)},
  'test_optimizers': {
    'target': tuple(getattr(_common_test, name) for name in TARGETS),
    'dtype': ('float32',),
  },
  'test_optimizers_can_be_wrapped_in_inject_hyperparams': {},
  'test_preserve_dtype': {'dtype': ('bfloat16', 'float32')},
  'test_gradient_accumulation': {'dtype': ('bfloat16', 'float32')},
  'test_state_shape_dtype_shard_stability': {
    'dtype': tuple(getattr(jnp, name) for name in DTYPES)
  },
  'test_optimizers_accept_learning_rate_schedule_if_type_annotated_as_such': {},
}


def find_test(name):
  """The suite's test method of that name, before its parameters are bound."""
  bound = getattr(_common_test.ContribTest, f'{name}0')
  return inspect.unwrap(bound)


def cases():
  for name, axes in SUITE.items():
    for label in UNDER_TEST:
      for values in itertools.product(*axes.values()):
        words = [getattr(v, '__name__', str(v)) for v in values]
        yield pytest.param(
          name,
          label,
          dict(zip(axes, values, strict=True)),
          id='-'.join([name, label, *words]),
        )


def test_every_test_of_the_suite_is_run():
  names = {
    name.rstrip('0123456789')
    for name in dir(_common_test.ContribTest)
    if name.startswith('test_')
  }
  assert names == set(SUITE)


@pytest.mark.parametrize(('name', 'label', 'parameters'), list(cases()))
def test_suite(name, label, parameters):
  learning_rate, wrapper_name, wrapper_kwargs = UNDER_TEST[label]
  case = _common_test.ContribTest()
  with mock.patch.object(
    _common_test, '_get_opt_factory', return_value=optax_lcam.lcam_sgd
  ):
    find_test(name)(
      case,
      opt_name='momo',
      opt_kwargs={'learning_rate': learning_rate},
      wrapper_name=wrapper_name,
      wrapper_kwargs=wrapper_kwargs,
      **parameters,
    )
