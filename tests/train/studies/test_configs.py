"""The networks of a study are known before JAX is imported."""

import io
import pathlib
import subprocess
import sys

import pytest
import rich.console

from tests.train import runs
from train import __main__ as program
from train import data
from train import studies
from train.devices import jax_environment
from train.program import build

# That of glibc, see mallopt(3): M_MMAP_THRESHOLD.
_MAPPED_EACH_TIME = 32 * 2**20


class _Stop(Exception):
  pass


def _size(config):
  names = ('model', 'depth', 'widen_factor', 'image_size', 'batch_size')
  return tuple(getattr(config, name) for name in names)


@pytest.mark.parametrize(
  ('name', 'settings'),
  [
    ('batches', {'scale': 'small', 'batch_sizes': (32,)}),
    ('batches', {'scale': 'medium', 'batch_sizes': (128,)}),
    ('probe', {'dataset': 'digits'}),
    ('probe', {'dataset': 'digits', 'image_size': 4, 'train_examples': 64}),
  ],
)
def test_they_are_those_that_it_trains(name, settings, monkeypatch):
  built = []

  def stop(configs, *_, **__):
    built.extend(configs)
    raise _Stop

  digits = data.load('digits')
  monkeypatch.setattr(data, 'load', lambda *_, **__: digits)
  monkeypatch.setattr(build, 'Program', stop)
  flags = studies.STUDIES[name].flags(**settings)
  console = rich.console.Console(file=io.StringIO())
  given = {k: v for k, v in vars(flags).items() if k != 'out'}
  with pytest.raises(_Stop):
    studies.STUDIES[name].load().measure(**given, console=console)

  expected = studies.STUDIES[name].networks(flags)
  assert set(map(_size, built)) == set(map(_size, expected))


def test_those_of_movement_are_its_runs(tmp_path):
  runs.run(tmp_path / 'run')
  study = studies.STUDIES['movement']
  (found,) = study.networks(study.flags(runs=(tmp_path / 'run',)))
  assert _size(found) == _size(runs.CONFIG)


@pytest.mark.parametrize(
  ('name', 'settings'),
  [
    ('batches', {'dataset': 'digits'}),
    ('movement', {'runs': (pathlib.Path('nowhere'),)}),
  ],
)
def test_wrong_flags_are_left_to_the_study(name, settings):
  study = studies.STUDIES[name]
  assert study.networks(study.flags(**settings)) == []


@pytest.mark.parametrize(
  ('scale', 'kept'), [('small', False), ('medium', True)]
)
def test_a_study_keeps_the_memory_of_large_networks(scale, kept, monkeypatch):
  """Without it, a step of WRN-16-1 with 128 images takes a quarter longer."""
  asked = []

  def stop(temporary_bytes):
    asked.append(temporary_bytes)
    raise _Stop

  monkeypatch.setattr(jax_environment, 'keep_freed_memory', stop)
  with pytest.raises(_Stop):
    program.main(['batches', '--scale', scale])
  assert (asked[0] > _MAPPED_EACH_TIME) == kept


def test_jax_is_not_imported():
  """The C library's settings would be too late."""
  finished = subprocess.run(
    [
      sys.executable,
      '-c',
      'import sys\n'
      'from train import studies\n'
      'for name in ("batches", "probe"):\n'
      '  study = studies.STUDIES[name]\n'
      '  assert study.networks(study.flags())\n'
      'print("jax" in sys.modules)\n',
    ],
    capture_output=True,
    text=True,
    check=True,
  )
  assert finished.stdout.strip() == 'False'
