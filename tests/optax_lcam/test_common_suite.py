"""Optax's test suite for contributed optimizers, applied to ``lcam_sgd``.

The test methods of the suite run unchanged. The suite finds optimizers by name
and passes ``value=loss`` to those named ``momo``, so ``lcam_sgd`` takes this
name here.
"""

import inspect
import itertools
from unittest import mock

import jax.numpy as jnp
from optax.contrib import _common_test
import pytest

import optax_lcam

# As in the suite: the optimizer, and each of Optax's wrappers around it. The
# arguments of the wrappers and the learning rates are those of the suite for
# SGD, except for reduce_on_plateau, which has half the rate: optax.sgd(1e-3,
# momentum=0.93) fails there too, because overshoot looks like a plateau.
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

# Each test of the suite, with its parameters besides the optimizer.
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
  """The test method of the suite with this name, without bound parameters."""
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
