"""Bounds on the programs that the compilers for TPUs and GPUs produce.

`.ci/accelerators` installs the packages that these tests need. The tests skip
without them.
"""

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks import compiled
from benchmarks import targets
from tests.references import exact_mean_operations
from train import config as config_lib
from train import errors

_REPOSITORY = pathlib.Path(__file__).parents[2]

# ----------------------------------------------------------- without a compiler


def test_get_parses_the_name_of_a_target():
  assert targets.get('tpu:v5e:4x4').topology == '4x4'
  assert targets.get('gpu:h100').topology == '1x1x1'
  assert targets.get('gpu:h100:8').topology == '1x1x8'


@pytest.mark.parametrize(
  'name',
  [
    '',
    'tpu',
    'tpu:v5e',
    'tpu:v9:1x1',
    'tpu:v5e:4',
    'gpu:a100',
    'gpu:h100:0',
    'gpu:h100:16',
    'cpu',
  ],
)
def test_an_unknown_target_is_rejected(name):
  with pytest.raises(errors.UsageError, match=r'^--target must be') as told:
    targets.get(name)
  assert repr(name) in str(told.value)
  assert 'tpu:v5e:4x4' in str(told.value)


@pytest.mark.parametrize('target', ['tpu:v5e:1x1', 'gpu:h100'])
def test_a_missing_package_is_reported_in_one_sentence(
  target, monkeypatch, capsys
):
  def version(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(targets.importlib.metadata, 'version', version)
  assert compiled.main(['--target', target]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  package = 'libtpu' if target.startswith('tpu') else 'jax-cuda13-plugin'
  assert f'needs the package {package}:' in line
  assert "pip install -e '.[train,compilers]'" in line


@pytest.mark.parametrize(
  ('arguments', 'told'),
  [
    (['--target', 'gpu:b200'], 'gpu:h100'),
    (['--target', 'gpu:h100', '--steps', '0'], '--steps must be from 1'),
    (['--target', 'gpu:h100', '--depth', '11'], '--depth must be 6n + 4'),
    (['--depth', '10'], '--target must be tpu:GENERATION'),
  ],
)
def test_invalid_input_is_reported_in_one_sentence(
  arguments, told, monkeypatch, capsys
):
  monkeypatch.setattr(targets.Target, 'why_not', lambda _: None)
  assert compiled.main(arguments) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert told in line


def test_a_crash_of_the_compiler_is_reported(monkeypatch, capsys):
  monkeypatch.setattr(targets.Target, 'why_not', lambda _: None)

  def run(*_, **__):
    return subprocess.CompletedProcess((), -11, '', 'the last words\n')

  monkeypatch.setattr(compiled.subprocess, 'run', run)
  assert compiled.main(['--target', 'gpu:h100']) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert '-11' in line
  assert 'the last words' in line


# -------------------------------------------------------------- with a compiler

_COMPILED = {}


def _compile(target, *, steps=10, **settings):
  """The result of `inspect` for a Wide ResNet on CIFAR-100, compiled once."""
  reason = targets.get(target).why_not()
  if reason is not None:
    pytest.skip(reason)
  key = (target, steps, *sorted(settings.items()))
  if key not in _COMPILED:
    config = config_lib.Config(dataset='cifar100', **settings)
    _COMPILED[key] = compiled.inspect(target, config, steps)
  return _COMPILED[key]


def _thin(target, **settings):
  return _compile(target, depth=10, widen_factor=1, **settings)


def _wide(target, **settings):
  return _compile(target, depth=28, widen_factor=10, **settings)


def _not_of_batch_norm(found):
  return sum(c['count'] for c in found['all_reduces'] if not c['of_batch_norm'])


@pytest.mark.compilers
def test_h100_convolves_in_bfloat16_with_cudnn():
  found = _wide('gpu:h100')
  convolutions = [c for c in found['convolutions'] if 'conv' in c['call']]
  assert {c['dtype'] for c in convolutions} == {'bfloat16'}
  assert all(c['call'].startswith('__cudnn$conv') for c in convolutions)
  # 28 layers: forward and two gradients, except the gradient of the images.
  assert sum(c['count'] for c in convolutions) == 3 * 28 - 1
  # 31.5 GFLOP per image, minus the products with padding.
  assert found['flops'] == pytest.approx(128 * 31.5e9, rel=0.1)


@pytest.mark.compilers
def test_h100_copies_nothing_large_in_a_step():
  found = _wide('gpu:h100')
  assert found['while_loops'] == 1
  assert found['large_copies_in_step'] == 0


@pytest.mark.compilers
def test_h100_updates_each_tensor_in_one_kernel():
  update = _wide('gpu:h100')['update']
  # XLA may combine small tensors.
  assert update['kernels'] <= update['tensors'] == 29
  # Reads weight, momentum and gradient; writes weight and momentum.
  assert update['passes'] <= 5.1


@pytest.mark.compilers
def test_h100_needs_less_than_2_gb_and_half_the_temporaries_with_remat():
  plain = _wide('gpu:h100')
  remat = _wide('gpu:h100', remat=True)
  assert plain['peak_bytes'] < 2e9
  assert remat['temporary_bytes'] < 0.5 * plain['temporary_bytes']
  assert remat['peak_bytes'] < 0.65 * plain['peak_bytes']


@pytest.mark.compilers
def test_eight_h100_need_half_the_temporaries_with_remat():
  # 1.4 GB without remat; 1.2 GB if collectives overlap with computing.
  remat = _wide('gpu:h100:8', batch_size=1024, remat=True)
  assert remat['temporary_bytes'] < 0.75e9
  assert remat['large_copies_in_step'] == 0


@pytest.mark.compilers
def test_eight_h100_reduce_gradients_in_bfloat16():
  found = _thin('gpu:h100:8', batch_size=1024)
  assert found['devices'] == 8
  _assert_gradients_are_bfloat16(found)


@pytest.mark.compilers
def test_v5e_has_one_loop_and_small_temporaries():
  found = _thin('tpu:v5e:1x1')
  assert found['while_loops'] == 1
  assert found['temporary_bytes'] < 50e6
  assert found['large_copies'] == 0
  # The update is fused with the computation of the gradient.
  assert found['update']['kernels'] <= found['update']['tensors']


@pytest.mark.compilers
def test_v5e_16_has_two_reductions_besides_batch_norm():
  found = _thin('tpu:v5e:4x4', batch_size=2048)
  assert found['devices'] == 16
  assert _not_of_batch_norm(found) <= 2
  _assert_gradients_are_bfloat16(found)


@pytest.mark.compilers
@pytest.mark.parametrize('target', ['gpu:h100', 'tpu:v5e:1x1'])
def test_the_exact_mean_has_all_its_operations(target):
  assert _thin(target)['exact_mean'] == exact_mean_operations.count()


@pytest.mark.compilers
def test_the_command_writes_its_result(tmp_path):
  reason = targets.get('gpu:h100').why_not()
  if reason is not None:
    pytest.skip(reason)
  out = tmp_path / 'found.json'
  shown = subprocess.run(
    [
      sys.executable,
      '-m',
      'benchmarks.compiled',
      '--target',
      'gpu:h100:2',
      '--model',
      'mlp',
      '--steps',
      '3',
      '--out',
      str(out),
    ],
    cwd=_REPOSITORY,
    env={k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'},
    check=True,
    capture_output=True,
    text=True,
  ).stdout
  found = json.loads(out.read_text(encoding='utf-8'))
  assert found['target'] == 'gpu:h100:2'
  assert found['devices'] == 2
  assert 0 < found['argument_bytes'] < found['peak_bytes']
  assert found['compile_seconds'] > 0
  assert found['while_loops'] == 1
  for reduction in found['all_reduces']:
    assert reduction.keys() >= {'dtype', 'bytes', 'count'}
  assert '| per device' in shown


@pytest.mark.compilers
@pytest.mark.slow
def test_wrn_28_10_on_v5e_16():
  found = _wide('tpu:v5e:4x4', batch_size=2048, steps=1)
  assert found['while_loops'] == 0
  assert _not_of_batch_norm(found) <= 2
  assert found['large_copies'] == 0
  assert found['peak_bytes'] < 2e9
  _assert_gradients_are_bfloat16(found)
  assert found['exact_mean'] == exact_mean_operations.count()


def _assert_gradients_are_bfloat16(found):
  """Gradients of convolutions are bfloat16; the rest is reduced in float32."""
  norms = [c for c in found['all_reduces'] if c['of_batch_norm']]
  others = [c for c in found['all_reduces'] if not c['of_batch_norm']]
  assert {c['dtype'] for c in norms} == {'float32'}
  sizes = {}
  for found in others:
    sizes[found['dtype']] = (
      sizes.get(found['dtype'], 0) + found['count'] * found['bytes']
    )
  assert sizes.keys() == {'bfloat16', 'float32'}
