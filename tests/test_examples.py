"""The programs in examples/ run and have the documented results."""

import pathlib
import runpy

from flax import nnx
import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.image
import nbclient
import nbformat
import numpy as np
import pytest

import optax_lcam
from tests.references import lcam_float64
from train import config as config_lib
from train import data
from train.program import build

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
  # Each class is a tenth of the digits, so guessing has an error of 90 %.
  assert run(name)['test_error'] < 0.08


def test_a_language_model_beats_single_characters(run):
  names = run('language_model.py')
  assert names['bits'] < 0.6 * names['entropy']


def test_a_sweep_trains_many_different_networks(run):
  errors = run('momentum_sweep.py')['test_errors']
  assert errors.shape == (4, 4, 3)
  assert len(np.unique(errors)) > 12
  assert 3 < errors.mean() < 25


def test_accumulation_chooses_like_the_full_batch(run):
  names = run('gradient_accumulation.py')
  np.testing.assert_array_equal(names['ours'], names['whole'])
  assert (names['optaxs'] != names['whole']).any()


def test_several_devices_choose_like_one(run):
  names = run('several_devices.py')
  assert len(names['devices']) > 1
  np.testing.assert_array_equal(names['many'], names['one'])
  assert len(set(names['one'])) == 2


def test_several_devices_under_shard_map_choose_like_one(run):
  names = run('shard_map.py')
  assert len(names['devices']) > 1
  assert len(set(names['one'])) == 2
  for momenta, params in (
    (names['many'], names['many_params']),
    (names['unchecked'], names['unchecked_params']),
  ):
    np.testing.assert_array_equal(momenta, names['one'])
    np.testing.assert_allclose(params, names['one_params'], rtol=1e-5)


def test_keras_learns_the_digits(run, monkeypatch):
  pytest.importorskip('keras', reason='needs Keras')
  monkeypatch.setenv('KERAS_BACKEND', 'jax')
  assert run('with_keras.py')['test_error'] < 0.08


def test_the_paper_in_one_file_has_the_steps_of_the_program():
  """Compares the first steps with `python -m train`, small and in float32."""
  example = runpy.run_path(str(_EXAMPLES / 'paper_run.py'))
  rng = np.random.default_rng(0)
  split = data.Split(
    rng.integers(0, 256, (28, 16, 16, 3)).astype(np.uint8),
    rng.integers(0, 10, 28).astype(np.int32),
  )
  dataset = data.Dataset('noise', 10, split, split, crop_padding=4, flip=True)
  config = config_lib.resolve(
    config_lib.Config(
      depth=10, widen_factor=1, batch_size=8, learning_rate=0.1,
      weight_decay=5e-4, epochs=150, schedule='exponential', decay_start=30,
      decay_rate=0.99985, optimizer='lcam', horizontal_momentum=0.93,
      vertical_momentum=0.9, convolutions='xla',
    ),
    steps_per_epoch=4,
  )  # fmt: skip
  program = build.Program([config], dataset, devices=jax.devices()[:1])
  state = program.init()
  start = program.fetch(state)[0]
  images, _ = program.place()
  epoch = program.epoch(1)
  order, seeds = np.asarray(epoch.order[0]), program.seeds
  seeds = jax.tree.map(lambda seed: seed[0], seeds)
  mean, std = dataset.channel_statistics()

  model = example['WideResNet'](10, 1, 10, jnp.float32, nnx.Rngs(0))
  nnx.update(model, start.params, start.batch_stats)
  model.train()
  optimizer = example['make_optimizer'](model, steps_per_epoch=4)
  losses, phases = [], set()
  for step, size in enumerate((8, 8, 8, 4)):  # the last batch is short
    batch = order[8 * step : 8 * step + size]
    loss = example['train_step'](
      model, optimizer, seeds.augmentation_key(step),
      split.images[batch], split.labels[batch], mean, std,
    )  # fmt: skip
    state, metrics = program.train(state, images, epoch, size)
    np.testing.assert_allclose(loss, metrics.loss[0, 0], rtol=1e-4)
    losses.append(float(loss))
    phases.add(int(optax_lcam.read(optimizer.opt_state).phase))
  assert len(phases) == 2 and len(set(losses)) == 4
  np.testing.assert_allclose(
    optax_lcam.read(optimizer.opt_state).momentum,
    optax_lcam.read(state.opt_state).momentum[0],
  )
  end = program.fetch(state)[0]
  for ours, theirs in (
    (nnx.state(model, nnx.Param), end.params),
    (nnx.state(model, nnx.BatchStat), end.batch_stats),
  ):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
      jax.tree.leaves(ours),
      jax.tree.leaves(theirs),
    )


def test_the_paper_in_one_file_has_the_size_and_schedule_of_the_paper():
  example = runpy.run_path(str(_EXAMPLES / 'paper_run.py'))
  model = nnx.eval_shape(
    lambda: example['WideResNet'](28, 10, 100, jnp.bfloat16, nnx.Rngs(0))
  )
  params = nnx.state(model, nnx.Param)
  assert sum(x.size for x in jax.tree.leaves(params)) == 36_536_884
  assert example['EPOCHS'] == 150


def test_the_notebook_runs_from_top_to_bottom():
  notebook = nbformat.read(_EXAMPLES / 'one_epoch.ipynb', as_version=4)
  # Outputs are generated by the documentation and not committed.
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


def test_every_program_is_tested():
  tested = pathlib.Path(__file__).read_text()
  for program in [*_EXAMPLES.glob('*.py'), *_EXAMPLES.glob('*.ipynb')]:
    assert f"'{program.name}'" in tested
