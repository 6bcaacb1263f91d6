"""Learning rates agree with the paper, Optax and PyTorch in float64."""

import math

import jax
import numpy as np
import optax
import pytest

from train import config as config_lib
from train.program import schedules

_STEPS = 391


def _rates(steps_per_epoch=_STEPS, steps=None, **settings):
  config = config_lib.resolve(config_lib.Config(**settings), steps_per_epoch)
  if steps is None:
    steps = np.arange(config.epochs * steps_per_epoch)
  return schedules.learning_rates(config, steps_per_epoch, steps)


def test_the_decay_of_the_paper_starts_after_the_first_step_of_epoch_31():
  first = 30 * _STEPS
  steps = [0, first - 1, first, first + 1, first + 2, 150 * _STEPS - 1]
  rates = _rates(
    steps=steps,
    epochs=150,
    schedule='exponential',
    decay_start=30,
    decay_rate=0.99985,
  )
  expected = [0.1 * 0.99985 ** max(0, step - first) for step in steps]
  np.testing.assert_allclose(rates, expected, rtol=1e-12, atol=1e-16)
  assert rates[2] == rates[0]
  assert rates[3] < rates[2]


def test_steps_drop_with_the_first_step_after_a_milestone():
  steps = [
    epoch * _STEPS + offset for epoch in (30, 60, 90) for offset in (-1, 0)
  ]
  rates = _rates(steps=steps, epochs=150, schedule='steps')
  expected = [0.1, 0.02, 0.02, 0.004, 0.004, 0.0008]
  np.testing.assert_allclose(rates, expected, rtol=1e-12, atol=1e-16)


def test_milestones_within_one_step_all_count():
  rates = _rates(
    steps_per_epoch=1, epochs=4, schedule='steps', milestones=(1.6, 1.9, 2.1)
  )
  np.testing.assert_allclose(
    rates, [0.1, 0.1, 0.0008, 0.0008], rtol=1e-12, atol=1e-16
  )


def test_cosine():
  rates = _rates(
    steps_per_epoch=10, epochs=10, schedule='cosine', final_learning_rate=0.01
  )
  expected = [
    0.01 + 0.09 * (1 + math.cos(math.pi * t / 100)) / 2 for t in range(100)
  ]
  np.testing.assert_allclose(rates, expected, rtol=1e-12, atol=1e-16)


def test_polynomial():
  rates = _rates(
    steps_per_epoch=10, epochs=10, schedule='polynomial', polynomial_power=2
  )
  expected = [0.1 * (1 - t / 100) ** 2 for t in range(100)]
  np.testing.assert_allclose(rates, expected, rtol=1e-12, atol=1e-16)


def test_constant():
  assert set(_rates(10, epochs=3, schedule='constant')) == {0.1}


def test_warm_up_rises_linearly_and_stays():
  rates = _rates(10, epochs=4, schedule='warm-up', warmup_epochs=2)
  expected = [0.1 * min(t / 20, 1) for t in range(40)]
  np.testing.assert_allclose(rates, expected, rtol=1e-12, atol=1e-16)


def test_a_warm_up_of_less_than_one_step_has_no_effect():
  rates = _rates(10, epochs=2, schedule='warm-up', warmup_epochs=0.01)
  np.testing.assert_allclose(rates, 0.1, rtol=1e-12, atol=1e-16)


def test_warm_restarts_double_each_cycle():
  rates = _rates(10, epochs=7, schedule='warm-restarts', cycle_epochs=1)
  expected = []
  for cycle in (10, 20, 40):
    expected += [
      0.1 * (1 + math.cos(math.pi * t / cycle)) / 2 for t in range(cycle)
    ]
  np.testing.assert_allclose(rates, expected, rtol=1e-12, atol=1e-16)


def test_one_cycle_rises_to_its_peak_and_ends_near_zero():
  rates = _rates(10, epochs=10, schedule='one-cycle', warmup_epochs=3)
  assert rates.argmax() == 30
  np.testing.assert_allclose(rates[30], 0.1, rtol=1e-12, atol=1e-16)
  assert (np.diff(rates[:31]) > 0).all()
  assert (np.diff(rates[30:]) < 0).all()
  assert rates[-1] < 1e-4


def test_cyclical_rises_and_falls_linearly():
  rates = _rates(10, epochs=4, schedule='cyclical', cycle_epochs=2)
  expected = [0.1 * (1 - abs((t % 20) / 10 - 1)) for t in range(40)]
  np.testing.assert_allclose(rates, expected, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize(
  ('settings', 'make'),
  [
    (
      {'schedule': 'exponential', 'decay_start': 2.0, 'decay_rate': 0.99},
      lambda: optax.exponential_decay(0.1, 1, 0.99, transition_begin=20),
    ),
    (
      {'schedule': 'steps', 'milestones': (2.0, 4.0, 6.0)},
      lambda: optax.piecewise_constant_schedule(
        0.1, {20: 0.2, 40: 0.2, 60: 0.2}
      ),
    ),
    (
      {'schedule': 'cosine', 'final_learning_rate': 0.01},
      lambda: optax.cosine_decay_schedule(0.1, 100, alpha=0.1),
    ),
    (
      {'schedule': 'warm-restarts', 'cycle_epochs': 1.0},
      lambda: optax.sgdr_schedule(
        [
          {
            'init_value': 0.1,
            'peak_value': 0.1,
            'warmup_steps': 0,
            'decay_steps': length,
          }
          for length in (10, 20, 40, 80)
        ]
      ),
    ),
    (
      {'schedule': 'one-cycle', 'warmup_epochs': 3.0},
      lambda: optax.cosine_onecycle_schedule(100, 0.1, pct_start=0.3),
    ),
    (
      {'schedule': 'polynomial', 'polynomial_power': 3.0},
      lambda: optax.polynomial_schedule(0.1, 0.0, 3.0, 100),
    ),
    (
      {'schedule': 'warm-up', 'warmup_epochs': 2.0},
      lambda: optax.warmup_constant_schedule(0.0, 0.1, 20),
    ),
  ],
  ids=lambda value: value['schedule'] if isinstance(value, dict) else '',
)
def test_schedules_equal_optax(settings, make):
  with jax.enable_x64():
    schedule = make()
    expected = [float(schedule(step)) for step in range(100)]
  np.testing.assert_allclose(
    _rates(10, epochs=10, **settings), expected, rtol=1e-12, atol=1e-16
  )


def test_a_decay_that_underflows_is_zero():
  rates = _rates(
    10, epochs=10, schedule='exponential', decay_start=0.0, decay_rate=1e-300
  )
  assert rates[0] == 0.1
  assert not rates[2:].any()


def test_as_many_cycles_as_there_are_steps():
  rates = _rates(1000, epochs=3, schedule='cyclical', cycle_epochs=0.001)
  np.testing.assert_allclose(rates, [0.0, 0.1] * 1500, atol=1e-12)


@pytest.mark.parametrize(
  ('settings', 'make'),
  [
    (
      {'schedule': 'steps', 'milestones': (2.0, 4.0, 6.0)},
      lambda torch, optimizer: torch.optim.lr_scheduler.MultiStepLR(
        optimizer, [20, 40, 60], 0.2
      ),
    ),
    (
      {'schedule': 'cosine'},
      lambda torch, optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, 100
      ),
    ),
    (
      {'schedule': 'polynomial', 'polynomial_power': 2.0},
      lambda torch, optimizer: torch.optim.lr_scheduler.PolynomialLR(
        optimizer, 100, 2.0
      ),
    ),
    (
      {'schedule': 'warm-restarts', 'cycle_epochs': 1.0},
      lambda torch, optimizer: (
        torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 10, 2)
      ),
    ),
  ],
  ids=lambda value: value['schedule'] if isinstance(value, dict) else '',
)
def test_schedules_equal_pytorch(settings, make):
  torch = pytest.importorskip('torch')
  parameter = torch.nn.Parameter(torch.zeros(1))
  optimizer = torch.optim.SGD([parameter], lr=0.1)
  scheduler = make(torch, optimizer)
  expected = []
  for _ in range(100):
    expected.append(optimizer.param_groups[0]['lr'])
    optimizer.step()
    scheduler.step()
  np.testing.assert_allclose(
    _rates(10, epochs=10, **settings), expected, rtol=1e-9, atol=1e-12
  )
