"""The conditions of a resume."""

import json
import types

import jax
import pytest

from tests.train.records import made
from train import config as config_lib
from train import errors
from train.records import run_directory

_GIVEN = config_lib.Config()
_RESOLVED = config_lib.resolve(_GIVEN, steps_per_epoch=12)
_FACTS = {'compute_dtype': 'float32', 'convolutions': 'xla'}


def _claim(path, **facts):
  directory = run_directory.RunDirectory(path)
  directory.claim(_GIVEN, _RESOLVED, **{**_FACTS, **facts})
  return directory


def test_the_software_is_recorded(tmp_path):
  _claim(tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text())
  assert config['versions']['jax'] == jax.__version__
  assert config['jax_settings']['jax_enable_x64'] is False
  assert config['jax_settings']['jax_threefry_partitionable'] is True
  assert len(config['source_sha256']) == 64


def test_a_resume_without_changes_reports_nothing(tmp_path):
  assert _claim(tmp_path).check_resume(**_FACTS) == []


def test_another_compute_dtype_is_rejected(tmp_path):
  _claim(tmp_path)
  changed = {**_FACTS, 'compute_dtype': 'bfloat16'}
  directory = _claim(tmp_path, compute_dtype='bfloat16')  # It may be finished.
  with pytest.raises(
    errors.UsageError, match='started with compute_dtype float'
  ):
    directory.check_resume(**changed)


def test_the_same_dtype_can_be_given_explicitly(tmp_path):
  _claim(tmp_path)
  given = config_lib.Config(dtype='float32')
  resolved = config_lib.resolve(given, steps_per_epoch=12)
  run_directory.RunDirectory(tmp_path).claim(given, resolved, **_FACTS)


@pytest.mark.parametrize(
  ('setting', 'value'),
  [
    ('threefry_partitionable', False),
    ('enable_x64', True),
    ('default_matmul_precision', 'bfloat16'),
  ],
)
def test_other_numerics_of_jax_are_rejected(setting, value, tmp_path):
  directory = _claim(tmp_path)
  with (
    getattr(jax, setting)(value),
    pytest.raises(errors.UsageError, match=f'started with jax_{setting}'),
  ):
    directory.check_resume(**_FACTS)


def test_a_setting_of_a_newer_version_is_rejected(tmp_path):
  directory = _claim(tmp_path)
  made.change(tmp_path / 'config.json', sharpness=3)
  with pytest.raises(errors.UsageError, match='does not know sharpness'):
    directory.check_resume(**_FACTS)


def test_changes_that_affect_rounding_are_reported(tmp_path):
  directory = _claim(tmp_path)
  versions = json.loads((tmp_path / 'config.json').read_text())['versions']
  made.change(
    tmp_path / 'config.json',
    versions={**versions, 'jax': '0.9'},
    source_sha256='0' * 64,
    xla_flags='--xla_cpu_enable_fast_math',
  )
  told = directory.check_resume(**_FACTS)
  assert told[0] == f'jax 0.9 (now {jax.__version__})'
  assert told[1].startswith('xla_flags --xla_cpu_enable_fast_math (now')
  assert told[2] == 'another source'


def test_another_cpu_is_reported_on_a_cpu_only(tmp_path):
  directory = _claim(tmp_path)
  made.change(tmp_path / 'config.json', processor='i486', cpu_threads=99)
  told = directory.check_resume(jax.devices('cpu'), **_FACTS)
  assert told[0].startswith('processor i486 (now ')
  assert told[1].startswith('cpu_threads 99 (now ')
  assert len(told) == 2
  gpu = types.SimpleNamespace(platform='gpu', device_kind='H200')
  told = directory.check_resume([gpu] * jax.device_count(), **_FACTS)
  assert [one.split()[0] for one in told] == ['platform', 'device_kind']


def test_a_record_of_an_earlier_version_is_resumed(tmp_path):
  directory = _claim(tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text())
  for name in (
    'source_sha256', 'jax_settings', 'xla_flags', 'compute_dtype', 'processor',
    'cpu_threads',
  ):  # fmt: skip
    del config[name]
  made.write_json(tmp_path / 'config.json', config)
  assert directory.check_resume(**_FACTS) == []
