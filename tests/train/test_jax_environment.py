"""What the program sets before JAX starts, and what it leaves alone."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from train import jax_environment

_NAMES = (
  'XLA_FLAGS',
  'JAX_COMPILATION_CACHE_DIR',
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS',
)


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
  for name in _NAMES:
    # Set first, so that what the test sets is undone.
    monkeypatch.setenv(name, '')
    monkeypatch.delenv(name)


def test_compiled_programs_are_kept_in_the_users_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  jax_environment.prepare()
  assert os.environ['JAX_COMPILATION_CACHE_DIR'].startswith(str(tmp_path))


def test_what_the_user_has_set_stays(monkeypatch):
  mine = {
    'XLA_FLAGS': '--xla_cpu_experimental_ynn_fusion_type=x',
    'JAX_COMPILATION_CACHE_DIR': '/mine',
  }
  for name, value in mine.items():
    monkeypatch.setenv(name, value)
  jax_environment.prepare()
  assert {name: os.environ[name] for name in mine} == mine


@pytest.mark.parametrize(
  ('version', 'set_'),
  [('0.10.2', True), ('0.12.0.1', True), ('0.10.1', False), ('0.11.2', False)],
)
def test_the_flag_is_for_the_versions_that_gain_by_it(
  version, set_, monkeypatch
):
  monkeypatch.setenv('XLA_FLAGS', '--xla_force_host_platform_device_count=2')
  monkeypatch.setattr(importlib.metadata, 'version', lambda name: version)
  jax_environment.prepare()
  flags = os.environ['XLA_FLAGS'].split()
  assert '--xla_force_host_platform_device_count=2' in flags
  assert any('ynn_fusion' in flag for flag in flags) == set_


def test_jax_starts_with_it():
  program = (
    'from train import jax_environment\n'
    'jax_environment.prepare()\n'
    'import jax\n'
    'print(jax.jit(lambda x: x + 1)(1))\n'
  )
  finished = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert finished.stdout.strip() == '2'
