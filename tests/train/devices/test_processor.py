"""The name and the threads of the CPU."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.train import processes
from train.devices import processor

_HIDDEN = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: {family}
model\t\t: {model}
model name\t: AMD EPYC
cpu MHz\t\t: 2596.100
"""
_ARM = """\
processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd0c
"""


def test_models_that_a_hypervisor_hides_differ():
  fifth = _HIDDEN.format(family=26, model=2)
  third = _HIDDEN.format(family=25, model=1)
  name = processor.describe(fifth, 'x86_64')
  assert name == 'AMD EPYC (family 26, model 2)'
  assert processor.describe(third, 'x86_64') != name
  # The first one counts.
  assert processor.describe(f'{fifth}\n{third}', 'x86_64') == name


def test_a_processor_without_a_name_has_its_part():
  name = processor.describe(_ARM, 'aarch64')
  assert name == 'aarch64 (implementer 0x41, part 0xd0c)'


@pytest.mark.parametrize('cpuinfo', ['', 'processor\t: 0\n', 'no colon'])
def test_a_file_that_says_nothing(cpuinfo):
  assert processor.describe(cpuinfo, 'riscv64') == 'riscv64'


@pytest.mark.skipif(shutil.which('lscpu') is None, reason='needs lscpu')
def test_this_processor_is_that_of_lscpu():
  told = subprocess.run(
    ['lscpu'],
    env={**os.environ, 'LC_ALL': 'C'},
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  fields = dict(line.split(':', 1) for line in told.splitlines() if ':' in line)
  if 'CPU family' not in fields:
    pytest.skip('lscpu does not know the family')
  assert processor.name() == (
    f'{fields["Model name"].strip()} (family {fields["CPU family"].strip()},'
    f' model {fields["Model"].strip()})'
  )


_COUNT = """\
import pathlib
import jax

jax.numpy.ones(3).block_until_ready()
names = [p.read_text() for p in pathlib.Path('/proc/self/task').glob('*/comm')]
print(sum('XLAEigen' in name for name in names))
"""


@pytest.mark.skipif(
  not pathlib.Path('/proc/self/task').is_dir(),
  reason='counts the threads of a process in /proc',
)
@pytest.mark.parametrize(
  'variables',
  [
    {},
    {'PJRT_NPROC': '5', 'NPROC': '3'},
    {'PJRT_NPROC': 'all', 'NPROC': '3'},
    {'NPROC': '-1'},
  ],
)
def test_the_threads_are_those_that_jax_starts(variables, monkeypatch):
  for name in ('PJRT_NPROC', 'NPROC'):
    monkeypatch.delenv(name, raising=False)
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  counted = subprocess.run(
    [sys.executable, '-c', _COUNT],
    env=processes.environment() | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert processor.threads() == int(counted)
