"""Arms of a sweep share compiled programs, and can depend on each other."""

import dataclasses
import functools
import io
import json

import jax
import numpy as np
import pytest
import rich.console

from tests.train import runs
from train import errors
from train import experiments
from train import following
from train import loop
from train import sweep
from train.experiments import Takes
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
  # The first choice of an epoch is always horizontal.
  'epochs': 4,
}


def _arms(group):
  return [e.change(_TINY) for e in experiments.select(group)]


def _sweep(arms, seeds, directory, **options):
  console = rich.console.Console(file=io.StringIO())
  # One of the eight devices that the tests simulate.
  with pytest.MonkeyPatch.context() as patch, runs.without_pictures():
    devices = jax.devices()[:1]
    patch.setattr(build.jax, 'devices', lambda *_: devices)
    failed = sweep.sweep(arms, seeds, directory, console, **options)
  assert failed == []


@pytest.fixture
def lowered(monkeypatch):
  """The batch size and number of steps of each lowered program."""
  calls = []
  lower = build.Program.lower_train

  def counted(self, size=None, steps=1, **options):
    calls.append((size, steps))
    return lower(self, size, steps, **options)

  monkeypatch.setattr(build.Program, 'lower_train', counted)
  build._functions.cache_clear()
  return calls


def test_all_arms_of_figure_2_share_one_compiled_program(tmp_path, lowered):
  _sweep(_arms('small-figure2'), 1, tmp_path)
  assert lowered == [(32, 1)]
  summaries = [
    json.loads(path.read_text())['params_sha256']
    for path in tmp_path.rglob('summary.json')
  ]
  # They are nevertheless four different runs.
  assert len(summaries) == len(set(summaries)) == 4


def test_a_grid_shares_one_compiled_program(tmp_path, lowered):
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
  """The runs of each program, by arm and seed, with eight runs together."""
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


def test_arms_that_share_a_program_are_trained_together(tmp_path, monkeypatch):
  arms = [experiments.get(name) for name in ('digits-lcam', 'digits-fixed')]
  assert _groups(arms, 3, tmp_path, monkeypatch) == [
    [
      f'{arm}/seed-{seed}'
      for seed in range(3)
      for arm in ('digits-lcam', 'digits-fixed')
    ]
  ]


def test_a_control_comes_after_the_run_that_it_follows(tmp_path, monkeypatch):
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


def test_invalid_input_ends_a_sweep(tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise errors.UsageError('no')

  monkeypatch.setattr(loop, 'run_together', refuse)
  with pytest.raises(errors.UsageError, match='no'):
    _sweep([experiments.get('digits-lcam')], 1, tmp_path)


@pytest.fixture
def _one_device(monkeypatch):
  """Restricts a sweep, which uses all devices, to one device."""
  run_together = functools.partial(loop.run_together, devices=runs.one_device())
  monkeypatch.setattr(loop, 'run_together', run_together)
  with runs.without_pictures():
    yield


def _rows(directory):
  return [json.loads(line) for line in (directory / 'metrics.jsonl').open()]


def _digits():
  """Two arms of one epoch each, with the programs of the other tests."""
  config = dataclasses.replace(runs.CONFIG, epochs=1)
  return [
    dataclasses.replace(
      experiments.get(f'digits-{name}'),
      config=dataclasses.replace(config, optimizer=optimizer),
    )
    for name, optimizer in (('lcam', 'lcam'), ('fixed', 'sgd'))
  ]


@pytest.mark.usefixtures('_one_device')
def test_arms_of_a_sweep_have_the_same_seeds(tmp_path):
  console = runs.console()
  assert sweep.sweep(_digits(), 2, tmp_path, console) == []
  assert '3 of 4 done, about' in console.file.getvalue()
  configs = {
    path.parent.relative_to(tmp_path).as_posix(): json.loads(path.read_text())
    for path in tmp_path.rglob('config.json')
  }
  assert configs.keys() == {
    f'digits-{arm}/seed-{seed}' for arm in ('lcam', 'fixed') for seed in (0, 1)
  }
  for seed in (0, 1):
    lcam = configs[f'digits-lcam/seed-{seed}']
    fixed = configs[f'digits-fixed/seed-{seed}']
    assert {name for name in lcam if lcam[name] != fixed[name]} == {
      'experiment',
      'optimizer',
    }


@pytest.mark.usefixtures('_one_device')
def test_a_failed_run_does_not_affect_the_rest_of_a_sweep(
  tmp_path, monkeypatch
):
  console = runs.console()
  real = loop.run_together

  def run_together(configs, directories, **keywords):
    if configs[0].optimizer == 'lcam':
      directories[0].mkdir(parents=True)
      raise MemoryError('out of it')
    return real(configs, directories, **keywords)

  monkeypatch.setattr(loop, 'run_together', run_together)
  failed = sweep.sweep(_digits(), 1, tmp_path, console)
  assert failed == [tmp_path / 'digits-lcam' / 'seed-0']
  assert "MemoryError('out of it')" in console.file.getvalue()
  assert 'Traceback' in (failed[0] / 'error.txt').read_text()
  done = json.loads(
    (tmp_path / 'digits-fixed' / 'seed-0' / 'summary.json').read_text()
  )
  assert done['status'] == 'done'


@pytest.mark.usefixtures('_one_device')
def test_a_sweep_of_runs_together(tmp_path):
  lcam, _ = _digits()
  console = runs.console()
  assert sweep.sweep([lcam], 3, tmp_path, console, runs_together=2) == []
  together = {
    path.parent.relative_to(tmp_path).as_posix(): json.loads(path.read_text())[
      'runs_together'
    ]
    for path in tmp_path.rglob('summary.json')
  }
  assert together == {
    f'digits-lcam/seed-{seed}': count
    for seed, count in ((0, 2), (1, 2), (2, 1))
  }


@pytest.fixture
def groups(monkeypatch):
  """The runs of each program of a sweep, by arm and seed, without training."""
  made = []
  monkeypatch.setattr(sweep.following, 'take_over', lambda *_: {})
  monkeypatch.setattr(
    loop,
    'run_together',
    lambda configs, _, experiments, **__: made.append(
      [(e.arm, c.seed) for e, c in zip(experiments, configs, strict=True)]
    ),
  )
  return made


def test_arms_of_one_kind_share_a_program(groups, tmp_path):
  lcam, fixed = _digits()

  def arm(name, of=lcam, takes=None, **settings):
    config = dataclasses.replace(of.config, **settings)
    return dataclasses.replace(
      of, arm=name, config=config, follows=takes and lcam, takes=takes
    )

  arms = [
    lcam,
    arm('other', vertical_momentum=0.5),
    fixed,
    arm('coin', takes=Takes.SHARE, optimizer='coin'),
    arm('average', fixed, Takes.MEAN_MOMENTUM),
    arm('faster', fixed, momentum=0.95),
  ]
  sweep.sweep(arms, 2, tmp_path, runs.console(), runs_together=8)
  assert list(map(set, groups)) == [
    {(name, seed) for name in names for seed in (0, 1)}
    for names in (
      ('lcam', 'other', 'fixed', 'faster'),
      # Controls that follow a run are in later programs.
      ('coin',),
      ('average',),
    )
  ]


@pytest.mark.parametrize(
  ('backend', 'depth', 'widen_factor', 'together'),
  [
    ('cpu', 10, 1, 1),
    ('gpu', 10, 1, 8),
    ('gpu', 16, 4, 8),
    ('tpu', 16, 4, 8),
    ('gpu', 28, 10, 1),
    ('tpu', 28, 10, 1),
  ],
)
def test_device_and_network_determine_how_many_seeds_train_together(
  backend, depth, widen_factor, together, groups, tmp_path, monkeypatch
):
  monkeypatch.setattr(sweep.jax, 'default_backend', lambda: backend)
  lcam, _ = _digits()
  config = dataclasses.replace(
    lcam.config, model='wrn', depth=depth, widen_factor=widen_factor
  )
  arm = dataclasses.replace(lcam, config=config)
  console = runs.console()
  sweep.sweep([arm], 10, tmp_path, console)
  seeds = [('lcam', seed) for seed in range(10)]
  assert groups == [
    seeds[first : first + together] for first in range(0, 10, together)
  ]


@pytest.mark.usefixtures('_one_device')
def test_a_random_control_follows_the_run_with_its_seed(tmp_path):
  lcam, _ = _digits()
  arms = [
    dataclasses.replace(
      lcam,
      arm=name,
      config=dataclasses.replace(lcam.config, optimizer=optimizer),
      follows=lcam,
      takes=takes,
    )
    for name, optimizer, takes in (
      ('coin', 'coin', Takes.SHARE),
      ('coin-by-epoch', 'coin', Takes.SHARE_OF_EACH_EPOCH),
      ('average', 'sgd', Takes.MEAN_MOMENTUM),
    )
  ]
  console = runs.console()
  assert sweep.sweep([*arms, lcam], 1, tmp_path, console) == []
  followed = _rows(tmp_path / 'digits-lcam' / 'seed-0')
  configs = {
    name: json.loads(
      (tmp_path / f'digits-{name}' / 'seed-0/config.json').read_text()
    )
    for name in ('coin', 'coin-by-epoch', 'average')
  }
  shares = [row['horizontal_fraction'] for row in followed]
  assert configs['coin']['horizontal_probability'] == [np.mean(shares)]
  assert configs['coin-by-epoch']['horizontal_probability'] == shares
  assert configs['average']['momentum'] == np.mean(
    [row['mean_momentum'] for row in followed]
  )


def test_only_a_finished_run_of_lcam_can_be_followed(tmp_path):
  with pytest.raises(errors.RunError, match='must be a finished run'):
    following.take_over(Takes.SHARE, tmp_path / 'absent')
  fixed = tmp_path / 'fixed'
  runs.run(fixed, optimizer='sgd', epochs=1)
  with pytest.raises(errors.RunError, match='a run of lcam'):
    following.take_over(Takes.SHARE, fixed)
  with pytest.raises(errors.UsageError, match='horizontal-probability'):
    runs.run(tmp_path / 'a', optimizer='coin')
  assert not (tmp_path / 'a').exists()


def test_a_control_that_cannot_follow_does_not_affect_other_runs(
  tmp_path, monkeypatch
):
  lcam, fixed = _digits()
  coin = dataclasses.replace(
    lcam,
    arm='coin',
    config=dataclasses.replace(lcam.config, optimizer='coin'),
    follows=lcam,
    takes=Takes.SHARE,
  )
  # As if every run had ended without a summary.
  monkeypatch.setattr(loop, 'run_together', lambda *_, **__: None)
  console = runs.console()
  failed = sweep.sweep([lcam, coin, fixed], 1, tmp_path, console)
  assert failed == [tmp_path / 'digits-coin/seed-0']
  assert 'must be a finished run' in console.file.getvalue()
