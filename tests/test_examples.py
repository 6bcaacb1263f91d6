"""Every program of examples/ runs, and shows what it says it shows."""

import pathlib
import runpy

import matplotlib as mpl
import matplotlib.image
import nbclient
import nbformat
import numpy as np
import pytest

from tests.references import lcam_float64

_EXAMPLES = pathlib.Path(__file__).parents[1] / 'examples'


@pytest.fixture(autouse=True)
def run(tmp_path, monkeypatch):
  """Runs a program in an empty folder; returns its global names."""
  mpl.use('agg')
  monkeypatch.chdir(tmp_path)

  def run(name):
    return runpy.run_path(str(_EXAMPLES / name), run_name='__main__')

  return run


def test_plain_optax_draws_the_choices_of_algorithm_1(run):
  names = run('plain_optax.py')
  chosen = lcam_float64.choices(
    names['losses'], steps_per_epoch=names['STEPS_PER_EPOCH']
  )
  used = np.float32([0.9, *chosen[:-1]])
  np.testing.assert_array_equal(np.float32(names['used_momenta']), used)
  assert set(chosen) == {0.93, 0.9}
  assert matplotlib.image.imread('plain_optax.png').std() > 0.01


@pytest.mark.parametrize(
  'name', ['with_nnx.py', 'with_linen.py', 'with_equinox.py']
)
def test_a_framework_learns_the_digits(run, name):
  # A tenth of the digits is one class: a guess is wrong in 90 %.
  assert run(name)['test_error'] < 0.08


def test_a_language_model_beats_single_characters(run):
  names = run('language_model.py')
  assert names['bits'] < 0.6 * names['entropy']


def test_a_sweep_is_a_table_of_many_networks(run):
  errors = run('momentum_sweep.py')['test_errors']
  assert errors.shape == (4, 4, 3)
  assert len(np.unique(errors)) > 12
  assert 3 < errors.mean() < 25


def test_accumulation_chooses_as_the_full_batch(run):
  names = run('gradient_accumulation.py')
  np.testing.assert_array_equal(names['ours'], names['whole'])
  assert (names['optaxs'] != names['whole']).any()


def test_devices_choose_as_one(run):
  names = run('several_devices.py')
  assert len(names['devices']) > 1
  np.testing.assert_array_equal(names['many'], names['one'])
  assert len(set(names['one'])) == 2


def test_devices_under_shard_map_choose_as_one(run):
  names = run('shard_map.py')
  assert len(names['devices']) > 1
  assert len(set(names['one'])) == 2
  for momenta, params in (
    (names['many'], names['many_params']),
    (names['unchecked'], names['unchecked_params']),
  ):
    np.testing.assert_array_equal(momenta, names['one'])
    np.testing.assert_allclose(params, names['one_params'], rtol=1e-5)


def test_the_notebook_runs_from_top_to_bottom():
  notebook = nbformat.read(_EXAMPLES / 'one_epoch.ipynb', as_version=4)
  # Outputs are made where they are shown, and not kept.
  assert not any(cell.get('outputs') for cell in notebook.cells)
  nbclient.NotebookClient(
    notebook,
    timeout=120,
    resources={'metadata': {'path': str(_EXAMPLES.parent)}},
  ).execute()
  printed = ''.join(
    output.get('text', '')
    for cell in notebook.cells
    for output in cell.get('outputs', ())
  )
  assert 'Every loss, every momentum and the weights agree.' in printed


def test_no_program_is_left_out():
  tested = pathlib.Path(__file__).read_text()
  for program in [*_EXAMPLES.glob('*.py'), *_EXAMPLES.glob('*.ipynb')]:
    assert f"'{program.name}'" in tested
