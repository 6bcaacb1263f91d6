"""One run in this process: what it writes, and that it repeats."""

import contextlib
import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from tests.train import processes
from tests.train import runs
from train import config as config_lib
from train import errors
from train import experiments
from train import following
from train import loop
from train import sweep
from train.experiments import Takes
from train.records import checkpoint

_run = runs.run


def _rows(directory):
  return [json.loads(line) for line in (directory / 'metrics.jsonl').open()]


def _without_times(rows):
  times = {'images_per_second', 'seconds'}
  return [{k: v for k, v in row.items() if k not in times} for row in rows]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  directory = tmp_path_factory.mktemp('runs') / 'finished'
  return directory, *_run(directory, pictures=True)


def test_a_row_an_epoch(finished):
  directory, _, _ = finished
  rows = _rows(directory)
  assert [row['epoch'] for row in rows] == [1, 2, 3]
  # 200 images in batches of 64: 64, 64, 64, 8.
  assert [row['step'] for row in rows] == [4, 8, 12]
  for row in rows:
    assert row.keys() >= {
      'epoch',
      'step',
      'train_loss',
      'test_loss',
      'test_error',
      'learning_rate',
      'horizontal_fraction',
      'images_per_second',
    }
    assert row['horizontal_fraction'] * 4 in range(5)
    assert row['images_per_second'] > 0
  assert rows[-1]['train_loss'] < rows[0]['train_loss']


def test_the_summary_says_how_it_ended(finished):
  directory, summary, _ = finished
  assert summary == json.loads((directory / 'summary.json').read_text())
  assert summary['status'] == 'done'
  rows = _rows(directory)
  assert summary['final_test_error'] == rows[-1]['test_error']
  assert summary['best_test_error'] == min(row['test_error'] for row in rows)
  assert len(summary['params_sha256']) == 64


def test_the_configuration_is_complete(finished):
  directory, _, _ = finished
  config = json.loads((directory / 'config.json').read_text())
  for field in dataclasses.fields(config_lib.Config):
    assert field.name in config
  assert config['seed'] == config['order_seed'] == 0
  assert config['learning_rate'] == 0.1
  assert config['device_kind'] == jax.devices()[0].device_kind
  assert config['device_count'] == 1
  assert config['process_count'] == 1
  assert config['versions']['jax'] == jax.__version__
  assert 'git_commit' in config


def test_the_steps_are_those_of_the_epochs(finished):
  directory, _, _ = finished
  lines = (directory / 'steps.jsonl').open()
  for row, line in zip(_rows(directory), lines, strict=True):
    steps = json.loads(line)
    assert steps['epoch'] == row['epoch']
    # As they were trained on: 64, 64, 64 and 8 images.
    np.testing.assert_allclose(
      np.average(steps['loss'], weights=[64, 64, 64, 8]),
      row['train_loss'],
      rtol=1e-6,
    )
    assert np.mean(steps['horizontal']) == row['horizontal_fraction']
    assert steps['momentum'] == [(0.9, 0.93)[h] for h in steps['horizontal']]


def test_the_picture_and_the_events(finished):
  directory, _, _ = finished
  for name in ('curves.png', 'phases.png'):
    assert (directory / name).stat().st_size > 10_000
  events = event_accumulator.EventAccumulator(str(directory / 'tensorboard'))
  events.Reload()
  rows = _rows(directory)
  np.testing.assert_allclose(
    [event.value for event in events.Scalars('test_error')],
    [row['test_error'] for row in rows],
    rtol=1e-6,
  )


def test_what_it_shows(finished):
  _, _, shown = finished
  assert 'MLP-1x64' in shown
  assert '200 training and 360 test images' in shown
  assert 'epoch 3/3' in shown


def test_the_same_command_twice_gives_the_same_bytes(finished, tmp_path):
  directory, summary, _ = finished
  again, _ = _run(tmp_path / 'again')
  assert again['params_sha256'] == summary['params_sha256']
  assert _without_times(_rows(tmp_path / 'again')) == _without_times(
    _rows(directory)
  )


@pytest.mark.parametrize(
  'seed', ['init_seed', 'order_seed', 'augmentation_seed']
)
def test_each_seed_matters(finished, tmp_path, seed):
  _, summary, _ = finished
  other, _ = _run(tmp_path / 'other', **{seed: 1})
  assert other['params_sha256'] != summary['params_sha256']


def test_the_dropout_seed_matters_where_there_is_dropout(tmp_path):
  summaries = [
    _run(
      tmp_path / str(seed),
      dropout_rate=0.3,
      dropout_seed=seed,
      epochs=1,
      train_examples=64,  # one step
    )[0]
    for seed in (0, 1)
  ]
  assert summaries[0]['params_sha256'] != summaries[1]['params_sha256']


def test_how_images_are_batched_for_testing_changes_nothing(finished, tmp_path):
  directory, summary, _ = finished
  other, _ = _run(tmp_path / 'other', eval_batch_size=77)
  assert other['params_sha256'] == summary['params_sha256']
  for ours, theirs in zip(
    _rows(tmp_path / 'other'), _rows(directory), strict=True
  ):
    assert ours['test_error'] == theirs['test_error']
    np.testing.assert_allclose(
      ours['test_loss'], theirs['test_loss'], rtol=1e-4
    )


def test_a_finished_run_says_so_and_does_nothing(finished):
  directory, summary, _ = finished
  before = {p: p.stat().st_mtime_ns for p in directory.rglob('*')}
  again, shown = _run(directory)
  assert again == summary
  assert 'is finished' in shown
  assert {p: p.stat().st_mtime_ns for p in directory.rglob('*')} == before


def test_another_command_is_refused_and_told_what_differs(finished):
  directory, _, _ = finished
  with pytest.raises(
    errors.UsageError, match=r'--horizontal-momentum 0.95 \(was 0.93\)'
  ):
    _run(directory, horizontal_momentum=0.95)


def test_a_directory_with_something_else_in_it_is_refused(tmp_path):
  (tmp_path / 'letter.txt').write_text('dear reader')
  with pytest.raises(errors.UsageError, match='not empty'):
    _run(tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ['letter.txt']


@pytest.mark.parametrize('settings', [{'epochs': 0}, {'train_examples': 9999}])
def test_wrong_input_leaves_no_directory(tmp_path, settings):
  with pytest.raises(errors.UsageError):
    _run(tmp_path / 'run', **settings)
  assert not (tmp_path / 'run').exists()


def test_a_loss_that_explodes_is_called_diverged(tmp_path):
  summary, _ = _run(tmp_path / 'run', learning_rate=1e30, epochs=4)
  assert summary['status'] == 'diverged'
  assert summary['epochs'] < 4
  assert _rows(tmp_path / 'run')[-1]['train_loss'] is None
  # Nothing that is not finite is kept.
  checkpoints = list((tmp_path / 'run' / 'checkpoints').glob('[0-9]*'))
  assert len(checkpoints) < summary['epochs']


def test_longer_dispatches_are_the_same_run(finished, tmp_path):
  directory, _, _ = finished
  _run(tmp_path / 'run', steps_per_dispatch=3)
  for ours, theirs in zip(
    _rows(tmp_path / 'run'), _rows(directory), strict=True
  ):
    assert ours['step'] == theirs['step']
    np.testing.assert_allclose(
      ours['train_loss'], theirs['train_loss'], rtol=1e-4
    )
    assert ours['horizontal_fraction'] == theirs['horizontal_fraction']


@pytest.fixture
def _one_device(monkeypatch):
  """A sweep takes all devices that there are."""
  run_together = functools.partial(loop.run_together, devices=runs.one_device())
  monkeypatch.setattr(loop, 'run_together', run_together)
  with runs.without_pictures():
    yield


def _digits():
  """Two arms, of one epoch each, in the programs of the other tests."""
  config = dataclasses.replace(runs.CONFIG, epochs=1)
  return [
    dataclasses.replace(
      experiments.get(f'digits-{name}'),
      config=dataclasses.replace(config, optimizer=optimizer),
    )
    for name, optimizer in (('lcam', 'lcam'), ('fixed', 'sgd'))
  ]


@pytest.mark.usefixtures('_one_device')
def test_a_sweep_pairs_its_seeds(tmp_path):
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
def test_a_run_that_fails_leaves_the_rest_of_a_sweep_alone(
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


def _run_together(directories, configs, pictures=False):
  with contextlib.nullcontext() if pictures else runs.without_pictures():
    return loop.run_together(
      configs, directories, devices=runs.one_device(), console=runs.console()
    )


def _configs(*settings):
  return [dataclasses.replace(runs.CONFIG, **own) for own in settings]


def test_runs_of_one_program_are_the_runs_that_they_are_alone(
  finished, tmp_path
):
  alone = [finished[0], tmp_path / 'alone']
  other = {
    'seed': 1, 'vertical_momentum': 0.7, 'weight_decay': 0.01,
    'learning_rate': 0.05, 'schedule': 'cosine',
  }  # fmt: skip
  _run(alone[1], **other)
  directories = [tmp_path / name for name in 'ab']
  summaries = _run_together(directories, _configs({}, other), pictures=True)
  assert [s['status'] for s in summaries] == ['done', 'done']
  assert summaries[0]['params_sha256'] != summaries[1]['params_sha256']
  for ours, theirs in zip(directories, alone, strict=True):
    assert (ours / 'curves.png').exists()
    for row, expected in zip(_rows(ours), _rows(theirs), strict=True):
      np.testing.assert_allclose(
        row['train_loss'], expected['train_loss'], rtol=1e-4
      )
      assert row['horizontal_fraction'] == expected['horizontal_fraction']
      assert row['learning_rate'] == expected['learning_rate']
  assert (
    _rows(directories[1])[0]['train_loss']
    != (_rows(directories[0])[0]['train_loss'])
  )


def test_a_program_of_seeds_goes_on_from_what_all_of_them_have(
  tmp_path, monkeypatch
):
  configs = _configs({'seed': 0}, {'seed': 1})
  whole = [tmp_path / 'whole' / str(seed) for seed in (0, 1)]
  expected = _run_together(whole, configs)

  cut = [tmp_path / 'cut' / str(seed) for seed in (0, 1)]
  saved = []
  save = checkpoint.Checkpoints.save

  def killed_between_two_checkpoints(self, step, state, measured):
    save(self, step, state, measured)
    saved.append(step)
    if saved == [4, 4, 8]:
      raise RuntimeError('killed')

  monkeypatch.setattr(
    checkpoint.Checkpoints, 'save', killed_between_two_checkpoints
  )
  with pytest.raises(RuntimeError, match='killed'):
    _run_together(cut, configs)
  monkeypatch.undo()

  assert [s['params_sha256'] for s in _run_together(cut, configs)] == [
    s['params_sha256'] for s in expected
  ]
  for ours, theirs in zip(cut, whole, strict=True):
    assert _without_times(_rows(ours)) == _without_times(_rows(theirs))
    steps = [(d / 'steps.jsonl').read_text() for d in (ours, theirs)]
    assert steps[0] == steps[1]


def test_a_wide_resnet_goes_on_within_an_epoch(tmp_path, monkeypatch):
  """Its state has more parts; all else is tested with the smallest network."""
  settings = {
    'model': 'wrn', 'batch_size': 32, 'train_examples': 64, 'epochs': 2,
    'checkpoint_seconds': 0,
  }  # fmt: skip
  _run(tmp_path / 'whole', **settings)
  save = checkpoint.Checkpoints.save

  def killed_after_the_third_step(self, step, *arguments):
    save(self, step, *arguments)
    if step == 3:
      raise RuntimeError('killed')

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.Checkpoints, 'save', killed_after_the_third_step)
    with pytest.raises(RuntimeError, match='killed'):
      _run(tmp_path / 'cut', **settings)
  _, shown = _run(tmp_path / 'cut', **settings)
  assert 'WRN-10-1' in shown
  assert 'going on after epoch 1, step 1 of 2' in shown
  processes.assert_the_same_end(tmp_path / 'cut', tmp_path / 'whole')


def test_what_can_be_one_program(tmp_path):
  coin = {'optimizer': 'coin', 'horizontal_probability': (0.5,)}
  assert loop.can_run_together(
    _configs(
      {},
      {'seed': 1},
      {'order_seed': 3},
      {'horizontal_momentum': 0.5, 'initial_momentum': 0.1},
      {'weight_decay': 0.0},
      {'learning_rate': 0.01},
      {'schedule': 'steps', 'milestones': (1.0,)},
      # LCAM with equal momenta.
      {'optimizer': 'sgd', 'momentum': 0.95},
    )
  )
  assert loop.can_run_together(
    _configs(coin, {**coin, 'seed': 1, 'horizontal_probability': (0.9, 0.1)})
  )
  for other in (
    coin,
    {'optimizer': 'adam'},
    {'inclusive': False},
    {'nesterov': True},
    {'loss_decay': 0.9},
    {'epochs': 4},
    {'batch_size': 32},
    {'hidden_size': 32},
    {'model': 'wrn'},
    {'train_examples': 100},
  ):
    configs = _configs({}, {'seed': 1, **other})
    assert not loop.can_run_together(configs), other
  with pytest.raises(ValueError, match='seeds, schedules and the numbers'):
    _run_together([tmp_path / '0', tmp_path / '1'], configs)
  assert list(tmp_path.iterdir()) == []


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
  """The runs of each program of a sweep, by arm and seed; none is made."""
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


def test_arms_of_one_kind_are_one_program(groups, tmp_path):
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
      # What follows a run is in a later program.
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
def test_the_device_and_the_network_choose_how_many_seeds_go_together(
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
def test_a_coin_follows_the_run_of_its_own_seed(tmp_path):
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
  _run(fixed, optimizer='sgd', epochs=1)
  with pytest.raises(errors.RunError, match='a run of lcam'):
    following.take_over(Takes.SHARE, fixed)
  with pytest.raises(errors.UsageError, match='horizontal-probability'):
    _run(tmp_path / 'a', optimizer='coin')
  assert not (tmp_path / 'a').exists()


def test_a_run_that_cannot_follow_leaves_the_others_alone(
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
