"""The parts of the GPU benchmark that need no GPU."""

import jax
import jax.numpy as jnp
import matplotlib.image
import pytest

from benchmarks import gpu
from benchmarks import harness
from benchmarks import workload


def _compile(depth, widen_factor, batch_size):
  program = workload.of_network(
    depth, widen_factor, batch_size, convolutions='xla'
  )
  return program.lower_train().compile()


def test_wrn_28_10_needs_31_5_gflop_per_image():
  assert gpu.flop_per_image(28, 10) == pytest.approx(31.5e9, rel=0.002)


def test_flop_per_image_agrees_with_the_count_of_xla():
  counted = _compile(10, 4, 4).cost_analysis()['flops']
  # XLA includes the norms and excludes products with padding.
  assert 4 * gpu.flop_per_image(10, 4) == pytest.approx(counted, rel=0.15)


def test_operations_are_classified_by_purpose():
  kinds = gpu.find_kinds(_compile(10, 1, 8).as_text())
  assert set(kinds.values()) == {
    'convolution, forward',
    'convolution, backward',
    'norm and ReLU, forward',
    'norm and ReLU, backward',
    'images and optimizer',
  }


def test_a_profile_sorts_operations_by_time():
  x = jnp.ones((600, 600))
  program = jax.jit(lambda x: jnp.tanh(x @ x @ x)).lower(x).compile()

  def advance(steps):
    for _ in range(steps):
      jax.block_until_ready(program(x))

  found = gpu.profile(advance, program.as_text())
  assert found['operations'][0]['seconds'] > 0
  assert sum(row['share'] for row in found['operations']) == pytest.approx(1)
  assert found['operations'] == sorted(
    found['operations'], key=lambda row: -row['seconds']
  )


def _results():
  rate = harness.rate(100, [1.0, 1.1, 0.9])
  step = {
    'images_per_second': rate,
    'lower_seconds': 1.0,
    'compile_seconds': 2.0,
    'planned_bytes': 10**9,
  }
  row = {'name': 'fusion', 'kind': 'other', 'seconds': 0.1, 'share': 1.0}
  return {
    'size': {
      'depth': 10, 'widen_factor': 1, 'batch_sizes': [8, 16], 'matrix': 256,
    },
    'gflop_per_image': 1.0,
    'copy': rate,
    'product': rate,
    'parameters': 5,
    'update': {
      'lcam': {'bytes_per_second': rate, 'to_sgd': rate},
    },
    'step': {**step, 'operations': [row], 'kinds': {'other': (0.1, 1.0)}},
    'steps': {'optax-lcam, bfloat16': {'8': step}},
    'compilation': {'nothing': step, 'the program': {}},
    'variants': {'--remat': step},
    'left_out': {'PyTorch': 'PyTorch is not installed'},
  }  # fmt: skip


def test_tables_show_the_measured_parts_and_name_those_left_out():
  text = gpu.tables(_results())
  assert 'Left out: PyTorch (PyTorch is not installed).' in text
  for part in (
    'device copy',
    'optax-lcam, bfloat16',
    '`fusion`',
    '--remat',
    'nothing',
  ):
    assert part in text
  assert 'bare steps' not in text


def test_without_results_there_is_no_table():
  results = _results() | {
    'step': {}, 'steps': {}, 'compilation': {'nothing': {}}, 'variants': {},
  }  # fmt: skip
  for name in ('copy', 'product', 'update', 'parameters'):
    del results[name]
  assert gpu.tables(results).startswith('Left out')


def test_the_picture_is_not_blank(tmp_path):
  gpu.draw(_results(), tmp_path / 'gpu.png')
  assert matplotlib.image.imread(tmp_path / 'gpu.png').std() > 0.01


def test_a_part_that_fails_or_takes_too_long_is_reported():
  size = gpu.SMALL
  found, error = gpu._run_part('absent', size, None, '', '', 60)
  assert found == {}
  assert 'absent' in error
  assert gpu._run_part('steps', size, [], '', '', 0.01) == (
    {},
    'no time was left',
  )
