"""Each benchmark runs at its smallest size and prints its tables."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import matplotlib.image
import pytest

from benchmarks import loop_overhead
from benchmarks import memory
from benchmarks import optimizer_step
from benchmarks import report
from train import config as config_lib

_REPOSITORY = pathlib.Path(__file__).parents[2]


@pytest.mark.slow  # test_cost.py counts the bytes that LCAM accesses.
def test_the_optimizer_step():
  results = optimizer_step.measure(True)
  rows = results['optimizers']
  assert rows['optax.sgd']['to_sgd']['median'] == 1
  ours, theirs = rows['optax_lcam.lcam_sgd'], rows['optax.sgd']
  assert ours['bytes_accessed'] <= 1.01 * theirs['bytes_accessed']
  assert 0 < ours['state_bytes'] - theirs['state_bytes'] <= 64
  assert '| optax.contrib.momo' in optimizer_step.tables(results)


def test_many_steps_of_an_optimizer_in_one_program():
  start = [jnp.ones((3, 4)), jnp.ones(4)]
  optimizer = optimizer_step.make_optimizers()['optax_lcam.lcam_sgd']
  one, _ = optimizer_step.make_step(optimizer, start)
  three, _ = optimizer_step.make_step(optimizer, start, 3)
  for _ in range(3):
    one()
  three()  # donates its own copy, not `start`
  assert all(not leaf.is_deleted() for leaf in start)


@pytest.mark.slow
def test_remat_costs_flop():
  results = memory.measure(True)
  programs = results['programs']
  plain, remat = programs['bfloat16, as it is'], programs['bfloat16, --remat']
  assert 1.05 < remat['flops'] / plain['flops'] < 1.5
  assert '--remat' in memory.tables(results)


def test_nothing_is_compiled_after_the_first_epoch():
  config = config_lib.Config(model='mlp', train_examples=40, batch_size=16)
  rows, _, late_compilations = loop_overhead.run(config, 3)
  assert len(rows) == 3
  assert late_compilations == 0


def test_late_compilations_are_counted():
  config = config_lib.Config(model='mlp', train_examples=40, batch_size=16)

  def compile_something():
    with jax.transfer_guard('allow'):
      jax.jit(lambda x: x + 1)(1.0)

  assert loop_overhead.run(config, 2, compile_something)[2] >= 2


@pytest.mark.slow
@pytest.mark.parametrize('name', report.NAMES)
def test_the_command_runs(name, tmp_path):
  out = tmp_path / f'{name}.json'
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  shown = subprocess.run(
    [sys.executable, '-m', f'benchmarks.{name}', '--quick', '--out', str(out)],
    cwd=_REPOSITORY,
    env=environment,
    check=True,
    capture_output=True,
    text=True,
    timeout=600,
  ).stdout
  record = json.loads(out.read_text(encoding='utf-8'))
  assert record['quick'] is True
  assert '| ' in shown
  if name == 'gpu':
    # Flags for a GPU have no effect on a CPU, and no part fails.
    assert record['results']['left_out'] == {}
    assert matplotlib.image.imread(out.with_suffix('.png')).std() > 0.01
