"""A run on 1, 2 and 8 simulated devices has the same choices and losses."""

import dataclasses
import json

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np
import pytest

from benchmarks import hlo
from benchmarks import workload
import models
from tests.train import runs
from train import config as config_lib
from train import data
from train import errors
from train import loop
from train.records import metrics

# Neither 33 images nor the last 5 are divisible by 2 or 8 devices. With the low
# learning rate, rounding errors stay small over 28 steps.
_CONFIG = config_lib.Config(
  model='mlp',
  epochs=4,
  batch_size=33,
  train_examples=203,
  eval_batch_size=77,
  learning_rate=0.01,
)
_TOLERANCE = 1e-4


def _run(directory, devices, monkeypatch):
  """Per epoch, the loss, correct, momentum and horizontal of its steps."""
  steps = []

  def summarize_epoch(measured, *arguments):
    steps.append([np.concatenate(field) for field in zip(*measured)])  # noqa: B905
    return original(measured, *arguments)

  original = metrics.summarize_epoch
  with monkeypatch.context() as patch:
    patch.setattr(metrics, 'summarize_epoch', summarize_epoch)
    options = {'devices': jax.devices()[:devices]}
    runs.run(directory, _CONFIG, options=options)
  return steps


def _assert_alike(ours, theirs):
  for our_epoch, their_epoch in zip(ours, theirs, strict=True):
    loss, _, momentum, horizontal = our_epoch
    np.testing.assert_array_equal(momentum, their_epoch[2])
    np.testing.assert_array_equal(horizontal, their_epoch[3])
    np.testing.assert_allclose(loss, their_epoch[0], rtol=_TOLERANCE)


@pytest.fixture(scope='module')
def on_one(tmp_path_factory):
  directory = tmp_path_factory.mktemp('devices') / 'one'
  return _run(directory, 1, pytest.MonkeyPatch())


@pytest.mark.parametrize(
  'devices', [pytest.param(2, marks=pytest.mark.slow), 8]
)
def test_the_same_run_on_several_devices(
  devices, on_one, tmp_path, monkeypatch
):
  steps = _run(tmp_path / 'run', devices, monkeypatch)
  _assert_alike(steps, on_one)
  config = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert config['device_count'] == devices
  # Both momenta occur.
  assert len(np.unique(np.concatenate([epoch[2] for epoch in steps]))) == 2


@pytest.mark.parametrize(('before', 'after'), [(8, 1), (1, 8)])
def test_a_checkpoint_resumes_on_another_number_of_devices(
  before, after, on_one, tmp_path, monkeypatch
):
  def power_cut(*_):
    raise MemoryError

  with monkeypatch.context() as patch:
    patch.setattr(loop.progress.Progress, 'epoch', _on_call(3, power_cut))
    with pytest.raises(MemoryError):
      _run(tmp_path, before, patch)
  steps = _run(tmp_path, after, monkeypatch)
  # The checkpoint is that of epoch 2.
  _assert_alike(steps, on_one[2:])


def _on_call(number, action):
  calls = []

  def replacement(*arguments):
    calls.append(arguments)
    if len(calls) == number:
      action(*arguments)

  return replacement


def test_batch_norm_normalizes_by_the_global_batch():
  norm = models.WideResNet(10, 1, rngs=nnx.Rngs(0)).blocks[0].norm1
  # The images of each of the eight devices have another mean.
  x = np.random.default_rng(0).normal(size=(32, 4, 4, 16)).astype(np.float32)
  x += np.repeat(np.arange(8, dtype=np.float32), 4)[:, None, None, None]
  mesh = jax.make_mesh((8,), ('batch',), axis_types=(AxisType.Auto,))
  shares = jax.device_put(x, NamedSharding(mesh, PartitionSpec('batch')))
  y = nnx.jit(lambda norm, x: norm(x))(norm, shares)
  mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
  np.testing.assert_allclose(
    y, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-3, atol=1e-4
  )
  np.testing.assert_allclose(norm.mean[...], 0.1 * mean, rtol=1e-4)
  np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * variance, rtol=1e-4)


def _device_batch_norm(batch_size=16, examples=72):
  config = config_lib.Config(
    depth=10, widen_factor=1, batch_size=batch_size, batch_norm='device'
  )
  images = workload.noise(examples, 8, 1, 1)
  return workload.of_run(config, images, devices=jax.devices()[:4])


def test_device_batch_norm_needs_no_collectives():
  program = _device_batch_norm()
  text = program.lower_train().compile().as_text()
  # Gradients, running statistics and the loss; 15 with the global batch.
  assert len(hlo.Module(text).collectives()) <= 2


def test_device_batch_norm_requires_equal_shares():
  with pytest.raises(errors.UsageError, match=r'on each of 4 .* a batch of 6'):
    _device_batch_norm(examples=70)


def test_replicas_are_equal_bit_by_bit():
  program = workload.of_network(
    10, 1, 16, devices=jax.devices()[:8], dtype='bfloat16', convolutions='xla'
  )
  state, _ = program.train_epoch(program.init(), program.place()[0], 1)
  for leaf in jax.tree.leaves(state):
    first, *others = (np.asarray(x.data) for x in leaf.addressable_shards)
    assert len(others) == 7
    for other in others:
      np.testing.assert_array_equal(other, first)


@pytest.mark.slow
def test_a_bfloat16_sum_adds_less_error_than_bfloat16_arithmetic():
  """Gradients can therefore be summed over devices in bfloat16.

  Like a ring all-reduce, rounds after adding the share of each device.
  """
  bfloat16 = _gradients_of_devices('bfloat16')
  exact = bfloat16.sum(0)
  in_a_ring = bfloat16[0].astype(jnp.bfloat16)
  for share in bfloat16[1:]:
    in_a_ring = in_a_ring + share.astype(jnp.bfloat16)
  error = np.linalg.norm(np.asarray(in_a_ring, np.float64) - exact)
  assert 0 < error < 2**-7 * np.linalg.norm(exact)
  float32 = _gradients_of_devices('float32').sum(0)
  assert 8 * error < np.linalg.norm(exact - float32)


def _gradients_of_devices(dtype):
  """The gradients of the convolutions on 8 devices with 16 images each.

  Returns:
    shape=(8, parameters), dtype=float64.
  """
  gradients = []
  for device in range(8):
    some = slice(16 * device, 16 * (device + 1))
    digits = data.load('digits')
    split = data.Split(digits.train.images[some], digits.train.labels[some])
    program = workload.of_run(
      config_lib.Config(
        dtype=dtype, batch_size=16, weight_decay=0.0, convolutions='xla'
      ),
      dataclasses.replace(digits, train=split),
    )
    state, _ = program.train_epoch(program.init(), program.place()[0], 1)
    # After one step the trace is the gradient.
    gradients.append(
      np.concatenate(
        [
          np.asarray(leaf, np.float64).ravel()
          for leaf in jax.tree.leaves(state.opt_state)
          if leaf.ndim == 5  # Members, and the axes of a kernel.
        ]
      )
    )
  return np.stack(gradients)
