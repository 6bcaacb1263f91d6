"""One run on 1, 2 and 8 simulated devices: the same choices and losses."""

import io

import jax
import numpy as np
import pytest
import rich.console

from train import config as config_lib
from train import loop
from train import metrics

# Neither 33 nor the last 5 images can be shared evenly by 2 or 8 devices. The
# low rate keeps rounding from growing: 28 steps are not yet chaotic.
_CONFIG = config_lib.Config(
  epochs=4,
  batch_size=33,
  train_examples=203,
  eval_batch_size=77,
  learning_rate=0.01,
)
_TOLERANCE = 1e-4


def _run(directory, devices, monkeypatch):
  """The metrics of each epoch's steps: loss, correct, momentum, horizontal."""
  some = jax.devices()[:devices]
  steps = []

  def summarize_epoch(measured, *arguments):
    steps.append([np.concatenate(field) for field in zip(*measured)])  # noqa: B905
    return original(measured, *arguments)

  original = metrics.summarize_epoch
  with monkeypatch.context() as patch:
    patch.setattr(loop.jax, 'devices', lambda: some)
    patch.setattr(metrics, 'summarize_epoch', summarize_epoch)
    loop.run(
      _CONFIG, directory, console=rich.console.Console(file=io.StringIO())
    )
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


@pytest.mark.parametrize('devices', [2, 8])
def test_the_same_run_on_several_devices(
  devices, on_one, tmp_path, monkeypatch
):
  steps = _run(tmp_path / 'run', devices, monkeypatch)
  _assert_alike(steps, on_one)
  # There is something to choose.
  assert len(np.unique(np.concatenate([epoch[2] for epoch in steps]))) == 2


@pytest.mark.parametrize(('before', 'after'), [(8, 1), (1, 8)])
def test_a_checkpoint_goes_on_on_other_devices(
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
