"""The environment that the program sets before JAX starts."""

import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys

import pytest

from benchmarks import workload
from train import config as config_lib
from train import errors
from train.devices import jax_environment

_NAMES = (
  'XLA_FLAGS',
  'OPTAX_LCAM_KEEP_MEMORY',
  'GLIBC_TUNABLES',
  'MALLOC_ARENA_MAX',
  'JAX_COMPILATION_CACHE_DIR',
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS',
  'JAX_ENABLE_X64',
  'JAX_DEFAULT_PRNG_IMPL',
  'JAX_DEBUG_NANS',
)


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
  for name in _NAMES:
    # Setting it first makes monkeypatch restore it.
    monkeypatch.setenv(name, '')
    monkeypatch.delenv(name)


def test_compiled_programs_are_in_the_cache_of_the_user(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  jax_environment.prepare()
  assert os.environ['JAX_COMPILATION_CACHE_DIR'].startswith(str(tmp_path))


def test_variables_that_the_user_has_set_are_kept(monkeypatch):
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
def test_the_flag_is_set_for_versions_that_benefit(version, set_, monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_force_host_platform_device_count=2')
  monkeypatch.setattr(importlib.metadata, 'version', lambda name: version)
  jax_environment.prepare()
  flags = os.environ['XLA_FLAGS'].split()
  assert '--xla_force_host_platform_device_count=2' in flags
  assert any('ynn_fusion' in flag for flag in flags) == set_


def test_flags_in_a_file_are_not_changed(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', ' flags.txt')
  monkeypatch.setattr(importlib.metadata, 'version', lambda name: '0.10.2')
  jax_environment.prepare()
  assert os.environ['XLA_FLAGS'] == ' flags.txt'


def test_variables_that_affect_results_are_reset_and_reported(monkeypatch):
  monkeypatch.setenv('JAX_ENABLE_X64', '1')
  monkeypatch.setenv('JAX_DEFAULT_PRNG_IMPL', 'rbg')
  monkeypatch.setenv('JAX_DEBUG_NANS', 'No')  # The default.
  told = jax_environment.prepare()
  assert [sentence.partition(' ')[0] for sentence in told] == [
    'JAX_ENABLE_X64=1',
    'JAX_DEFAULT_PRNG_IMPL=rbg',
  ]
  assert os.environ['JAX_ENABLE_X64'] == 'false'
  assert os.environ['JAX_DEFAULT_PRNG_IMPL'] == 'threefry2x32'
  assert os.environ['JAX_DEBUG_NANS'] == 'No'


@pytest.mark.parametrize('flag', ['', '=true', '=1', '=false {}=True'])
def test_fast_math_is_rejected(flag, monkeypatch):
  name = '--xla_cpu_enable_fast_math'
  monkeypatch.setenv('XLA_FLAGS', f'--xla_dump_to=x {name}{flag.format(name)}')
  with pytest.raises(errors.UsageError, match=f'must not have {name}'):
    jax_environment.prepare()


@pytest.mark.parametrize('value', ['false', '0', 'False'])
def test_disabled_fast_math_is_accepted(value, monkeypatch):
  name = '--xla_cpu_enable_fast_math'
  monkeypatch.setenv('XLA_FLAGS', f'{name} {name}={value}')
  jax_environment.prepare()


@pytest.mark.parametrize(
  ('limit', 'enough'),
  [(600_000_000, False), (2**40, True), (resource.RLIM_INFINITY, True)],
)
def test_too_little_address_space_for_jax_is_rejected(
  limit, enough, monkeypatch
):
  monkeypatch.setattr(resource, 'getrlimit', lambda _: (limit, limit))
  with contextlib.ExitStack() as stack:
    if not enough:
      stack.enter_context(
        pytest.raises(errors.RunError, match=r'0\.6 GB .*ulimit')
      )
    jax_environment.check_address_space()


def test_jax_starts_in_the_prepared_environment():
  program = (
    'from train.devices import jax_environment\n'
    'jax_environment.prepare()\n'
    'import jax\n'
    'print(jax.jit(lambda x: x + 1)(1))\n'
  )
  finished = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert finished.stdout.strip() == '2'


# The product needs its operand, 40 MB or 9,800 pages, in memory.
_PROGRAM = """
import json, resource, sys
from train.devices import jax_environment
kept = jax_environment.keep_freed_memory(int(sys.argv[1]))
import jax, jax.numpy as jnp
x, y = jnp.ones(10000), jnp.ones((1000, 4))
f = jax.jit(lambda x, y: jnp.sin(x[:, None] * y[:, 0]) @ y)
counts = [0]
for _ in range(30):
  f(x, y).block_until_ready()
  counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
# At first, small arrays sometimes take the place of the operand.
faults = sorted(b - a for a, b in zip(counts, counts[1:]))[15]
late = jax_environment.keep_freed_memory(int(sys.argv[1]))
print(json.dumps([kept, faults, late]))
"""


@pytest.mark.skipif(
  platform.libc_ver()[0] != 'glibc', reason='needs glibc, whose calls these are'
)
@pytest.mark.parametrize('switch', ['0', '1'])
def test_large_temporaries_are_mapped_once(switch):
  finished = subprocess.run(
    [sys.executable, '-c', _PROGRAM, '40000000'],
    capture_output=True,
    text=True,
    check=True,
    env=os.environ | {'OPTAX_LCAM_KEEP_MEMORY': switch, 'XLA_FLAGS': ''},
  )
  kept, faults, late = json.loads(finished.stdout)
  assert kept == (switch == '1')
  assert (faults < 1000) == kept
  assert not late  # JAX has started its threads.


class _Library:
  """A C library that records the calls of mallopt."""

  def __init__(self, is_glibc):
    self.told = []
    self.mallopt = lambda *arguments: self.told.append(arguments) or 1
    if is_glibc:
      self.gnu_get_libc_version = lambda: b'2.36'


@pytest.mark.parametrize(
  ('temporary_bytes', 'environment', 'is_glibc', 'kept'),
  [
    (34_000_000, {}, True, True),
    (33_000_000, {}, True, False),
    (33_000_000, {'OPTAX_LCAM_KEEP_MEMORY': '1'}, True, True),
    (34_000_000, {'OPTAX_LCAM_KEEP_MEMORY': '0'}, True, False),
    (34_000_000, {'GLIBC_TUNABLES': ''}, True, False),
    (34_000_000, {'MALLOC_ARENA_MAX': '4'}, True, False),
    (34_000_000, {}, False, False),
  ],
)
def test_memory_is_kept_if_it_helps(
  temporary_bytes, environment, is_glibc, kept, monkeypatch
):
  library = _Library(is_glibc)
  monkeypatch.setattr(jax_environment.ctypes, 'CDLL', lambda _: library)
  monkeypatch.delitem(sys.modules, 'jax')
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert jax_environment.keep_freed_memory(temporary_bytes) == kept
  # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h.
  assert sorted(library.told) == ([(-8, 1), (-4, 0), (-1, -1)] if kept else [])


@pytest.mark.parametrize(
  ('depth', 'widen_factor', 'image_size', 'batch_size'),
  [(10, 1, 32, 16), pytest.param(16, 2, 8, 64, marks=pytest.mark.slow)],
)
def test_activation_bytes_approximate_the_temporaries_of_the_program(
  depth, widen_factor, image_size, batch_size
):
  config = config_lib.Config(
    dataset='cifar10',
    depth=depth,
    widen_factor=widen_factor,
    batch_size=batch_size,
  )
  images = workload.noise(2 * batch_size, size=image_size)
  # Without optimizations XLA plans the same memory in half the time.
  compiled = (
    workload.of_run(config, images)
    .lower_train()
    .compile(compiler_options={'xla_backend_optimization_level': 0})
  )
  actual = compiled.memory_analysis().temp_size_in_bytes
  expected = jax_environment.activation_bytes(
    depth=depth,
    widen_factor=widen_factor,
    image_size=image_size,
    batch_size=batch_size,
  )
  assert 0.8 < expected / actual < 1.2, (expected, actual)
