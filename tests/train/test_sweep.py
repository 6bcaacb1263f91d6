"""Arms of a sweep share compiled programs, and follow each other."""

import io
import json

import jax
import pytest
import rich.console

from train import errors
from train import experiments
from train import loop
from train import sweep
from train.program import build

# Two batches of the digits, for the smallest network.
_TINY = {
  'dataset': 'digits',
  'model': 'mlp',
  'hidden_size': 8,
  'image_size': None,
  'train_examples': 64,
  'batch_size': 32,
  'eval_batch_size': 360,
  # The first choice of an epoch is always the horizontal one.
  'epochs': 4,
}


def _arms(group):
  return [e.change(_TINY) for e in experiments.select(group)]


def _sweep(arms, seeds, directory, **options):
  console = rich.console.Console(file=io.StringIO())
  # One device of the eight that the tests simulate.
  with pytest.MonkeyPatch.context() as patch:
    devices = jax.devices()[:1]
    patch.setattr(build.jax, 'devices', lambda *_: devices)
    failed = sweep.sweep(arms, seeds, directory, console, **options)
  assert failed == []


@pytest.fixture
def lowered(monkeypatch):
  """The training steps that are lowered, by size and number."""
  calls = []
  lower = build.Program.lower_train

  def counted(self, size=None, steps=1, **options):
    calls.append((size, steps))
    return lower(self, size, steps, **options)

  monkeypatch.setattr(build.Program, 'lower_train', counted)
  build._functions.cache_clear()
  return calls


def test_all_arms_of_figure_2_are_one_compiled_program(tmp_path, lowered):
  _sweep(_arms('small-figure2'), 1, tmp_path)
  assert lowered == [(32, 1)]
  summaries = [
    json.loads(path.read_text())['params_sha256']
    for path in tmp_path.rglob('summary.json')
  ]
  # And yet they are four different runs.
  assert len(summaries) == len(set(summaries)) == 4


def test_a_grid_is_one_compiled_program(tmp_path, lowered):
  arms = experiments.grid(
    experiments.get('digits-lcam').change(_TINY),
    {'horizontal_momentum': [0.5, 0.9], 'weight_decay': [0.0, 0.1]},
  )
  _sweep(arms, 1, tmp_path)
  assert lowered == [(32, 1)]
  configs = [
    json.loads(path.read_text()) for path in tmp_path.rglob('config.json')
  ]
  assert {(c['horizontal_momentum'], c['weight_decay']) for c in configs} == {
    (h, w) for h in (0.5, 0.9) for w in (0.0, 0.1)
  }
  for config in configs:
    assert config['experiment'] == 'digits-lcam'
    assert config['changes']['horizontal_momentum'] in (0.5, 0.9)


def _groups(arms, seeds, tmp_path, monkeypatch):
  """The runs that go together where eight do, by arm and seed."""
  made = []
  monkeypatch.setattr(
    loop,
    'run_together',
    lambda configs, directories, **_: made.append(
      [d.relative_to(tmp_path).as_posix() for d in directories]
    ),
  )
  monkeypatch.setattr(sweep.following, 'take_over', lambda *_: {})
  _sweep(arms, seeds, tmp_path, runs_together=8)
  return made


def test_arms_that_share_a_program_go_together(tmp_path, monkeypatch):
  arms = [experiments.get(name) for name in ('digits-lcam', 'digits-fixed')]
  assert _groups(arms, 3, tmp_path, monkeypatch) == [
    [
      f'{arm}/seed-{seed}'
      for seed in range(3)
      for arm in ('digits-lcam', 'digits-fixed')
    ]
  ]


def test_a_follower_comes_after_whom_it_follows(tmp_path, monkeypatch):
  arms = [
    experiments.get(f'small-ablation-cifar10-{arm}')
    for arm in ('coin', 'time-average')
  ]
  groups = _groups(arms, 2, tmp_path, monkeypatch)
  order = [name for group in groups for name in group]
  assert len(order) == len(set(order)) == 6
  for group in groups:
    for name in group:
      if 'ablation' in name:
        followed = f'small-figure4-cifar10-lcam/{name.split("/")[1]}'
        assert followed in order[: order.index(group[0])]


def test_wrong_input_ends_a_sweep(tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise errors.UsageError('no')

  monkeypatch.setattr(loop, 'run_together', refuse)
  with pytest.raises(errors.UsageError, match='no'):
    _sweep([experiments.get('digits-lcam')], 1, tmp_path)
