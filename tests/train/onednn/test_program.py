"""The program of a run with the kernels."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests.train import runs
from train import config as config_lib
from train import data
from train import errors
from train import onednn
from train.program import build

_CONFIG = config_lib.Config(
  train_examples=64, batch_size=32, eval_batch_size=360, epochs=2
)


def _program(devices=1, **settings):
  config = config_lib.resolve(dataclasses.replace(_CONFIG, **settings), 2)
  return build.Program(
    [config],
    data.load('digits', train_examples=64),
    devices=jax.devices()[:devices],
  )


def _losses(program):
  images, _ = program.place()
  state = program.init()
  losses = []
  for epoch in (1, 2):
    state, measured = program.train_epoch(state, images, epoch)
    losses.append(measured.loss[0])
  return np.concatenate(losses)


@pytest.mark.usefixtures('kernels')
def test_onednn_is_used_if_built_and_agrees_with_xla():
  ours = _program()
  assert ours.convolutions == 'onednn'
  theirs = _program(convolutions='xla')
  assert theirs.convolutions == 'xla'
  np.testing.assert_allclose(_losses(ours), _losses(theirs), rtol=1e-3)


@pytest.mark.usefixtures('kernels')
def test_batch_norm_is_by_a_kernel_where_convolutions_are():
  def count(program):
    return program.lower_train().as_text().count('optax_lcam_batch_norm')

  # Forward and backward of two in each of three blocks and of the last one.
  assert count(_program()) >= 2 * (3 * 2 + 1)
  assert count(_program(convolutions='xla')) == 0


@pytest.mark.usefixtures('kernels')
def test_onednn_is_not_used_where_it_is_not_supported():
  assert _program(devices=2).convolutions == 'xla'
  assert _program(model='mlp').convolutions == 'xla'
  with pytest.raises(errors.UsageError, match='--convolutions onednn'):
    _program(devices=2, convolutions='onednn')


def test_requesting_onednn_without_a_build_is_rejected(monkeypatch):
  monkeypatch.setattr(onednn, 'why_not', lambda: 'The kernels are not built.')
  assert _program().convolutions == 'xla'
  with pytest.raises(errors.UsageError, match='are not built'):
    _program(convolutions='onednn')


@pytest.mark.usefixtures('kernels')
def test_a_resume_with_other_convolutions_is_reported(tmp_path):
  runs.run(tmp_path / 'run', _CONFIG, convolutions='xla')
  config = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert config['convolutions'] == 'xla'
  (tmp_path / 'run' / 'summary.json').write_text('{"status": "incomplete"}')
  _, shown = runs.run(tmp_path / 'run', _CONFIG)
  assert 'started with convolutions xla (now onednn)' in shown
