"""The program as a person runs it: a process of its own."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

_REPOSITORY = pathlib.Path(__file__).parents[2]


def _command(*arguments):
  return [sys.executable, '-m', 'train', *map(str, arguments)]


def _environment():
  # One device: it is what the program sees on a plain machine.
  environment = dict(os.environ)
  environment.pop('XLA_FLAGS', None)
  return environment


def _train(*arguments):
  return subprocess.run(
    _command(*arguments),
    cwd=_REPOSITORY,
    env=_environment(),
    capture_output=True,
    text=True,
    timeout=600,
  )


_SHORT = ('--epochs', 6, '--train-examples', 400, '--batch-size', 32)


@pytest.mark.parametrize(
  ('arguments', 'parts'),
  [
    (['rnu'], ["'rnu'", "Did you mean 'run'"]),
    (['run', 'digits-lcm'], ["'digits-lcm'", "Did you mean 'digits-lcam'"]),
    (['run', '--datset', 'digits'], ['--datset', '--dataset']),
    (['run', '--dataset', 'mnist'], ["'mnist'", '--dataset', "'cifar10'"]),
    (['run', '--epochs', 'many'], ['--epochs', "'many'"]),
    (['run', '--epochs', '0'], ['--epochs', 'got 0', 'at least 1']),
    (['run', '--vertical-momentum', '1'], ['--vertical-momentum', '[0, 1)']),
    (['run', '--optimizer', 'sdg'], ["'sdg'", "'sgd'"]),
    (['run', '--schedule', 'step'], ["'step'", "'steps'"]),
    (['run', '--train-examples', '5000'], ['--train-examples', '1437', '5000']),
    (['--epochs', '3'], ['--epochs']),
    (['list', 'all'], ["'all'"]),
    (['sweep'], ['at least one experiment']),
    (['sweep', 'figur2'], ["'figur2'"]),
    (['sweep', 'digits', '--seeds', '0'], ['--seeds', 'got 0']),
    (['report'], ['directory']),
    (['report', 'absent'], ['absent']),
  ],
  ids=' '.join,
)
def test_wrong_input_is_one_message_and_exit_code_2(arguments, parts, tmp_path):
  where = ['--run-dir', tmp_path / 'run'] if arguments[0] == 'run' else []
  finished = _train(*arguments, *where)
  assert finished.returncode == 2
  message = finished.stdout + finished.stderr
  for part in parts:
    assert part in message
  assert 'Traceback' not in message
  assert not (tmp_path / 'run').exists()


def test_data_that_is_not_there(tmp_path):
  finished = _train(
    'run', '--dataset', 'cifar10', '--data-dir', tmp_path / 'no',
    '--run-dir', tmp_path / 'run',
  )  # fmt: skip
  assert finished.returncode == 2
  assert 'pip install tensorflow' in finished.stderr
  assert len(finished.stderr.splitlines()) == 1
  assert not (tmp_path / 'run').exists()


def test_help_names_every_flag():
  finished = _train('run', '--help')
  assert finished.returncode == 0
  for flag in (
    '--dataset', '--data-dir', '--run-dir', '--seed', '--epochs',
    '--batch-size', '--depth', '--widen-factor', '--train-examples',
    '--horizontal-momentum', '--vertical-momentum', '--optimizer',
    '--schedule', '--learning-rate', '--weight-decay',
  ):  # fmt: skip
    assert flag in finished.stdout
  assert 'python -m train run' in _train('--help').stdout


def test_list_names_the_experiments_and_their_commands():
  finished = _train('list')
  assert finished.returncode == 0
  assert 'python -m train run figure4-cifar100-lcam' in finished.stdout


def test_a_reader_that_has_seen_enough():
  with subprocess.Popen(
    _command('list'),
    cwd=_REPOSITORY,
    env=_environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ''


def test_interrupted_it_says_how_to_go_on(tmp_path):
  with subprocess.Popen(
    _command('run', *_SHORT, '--epochs', 500, '--run-dir', tmp_path / 'run'),
    cwd=_REPOSITORY,
    env=_environment(),
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stderr is not None
    for line in process.stderr:
      if 'epoch 2/500' in line:
        break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
  assert process.returncode == 130
  assert 'goes on from the last checkpoint' in rest
  assert 'Traceback' not in rest


def test_killed_and_taken_up_again_ends_at_the_same_bytes(tmp_path):
  undisturbed = _train('run', *_SHORT, '--run-dir', tmp_path / 'a')
  assert undisturbed.returncode == 0, undisturbed.stderr

  metrics = tmp_path / 'b' / 'metrics.jsonl'
  with subprocess.Popen(
    _command('run', *_SHORT, '--run-dir', tmp_path / 'b'),
    cwd=_REPOSITORY,
    env=_environment(),
    stderr=subprocess.DEVNULL,
  ) as process:
    deadline = time.monotonic() + 300
    while not metrics.exists() or metrics.read_text().count('\n') < 3:
      assert time.monotonic() < deadline
      assert process.poll() is None
      time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
  summary = json.loads((tmp_path / 'b' / 'summary.json').read_text())
  assert summary['status'] == 'incomplete'

  resumed = _train('run', *_SHORT, '--run-dir', tmp_path / 'b')
  assert resumed.returncode == 0, resumed.stderr
  assert 'going on after epoch' in resumed.stderr
  first, second = (
    json.loads((tmp_path / name / 'summary.json').read_text())
    for name in ('a', 'b')
  )
  assert first['params_sha256'] == second['params_sha256']
  rows = [
    [json.loads(line) for line in (tmp_path / name / 'metrics.jsonl').open()]
    for name in ('a', 'b')
  ]
  for one, other in zip(*rows, strict=True):
    for name in one.keys() - {'images_per_second', 'seconds'}:
      assert one[name] == other[name]


def test_an_experiment_with_a_flag_and_its_report(tmp_path):
  for seed in (0, 1):
    finished = _train(
      'run', 'digits-lcam', '--epochs', 1, '--train-examples', 100,
      '--seed', seed, '--run-dir', tmp_path / str(seed),
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert 'test error' in finished.stdout
  config = json.loads((tmp_path / '1' / 'config.json').read_text())
  assert config['experiment'] == 'digits-lcam'
  assert (config['seed'], config['epochs']) == (1, 1)
  reported = _train(
    'report', tmp_path / '0', tmp_path / '1', '--out', tmp_path / 'out'
  )
  assert reported.returncode == 0, reported.stderr
  assert (tmp_path / 'out' / 'report.md').exists()
  assert (tmp_path / 'out' / 'curves.png').exists()


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_real_cifar_images(name, tmp_path, cifar_dir):
  finished = _train(
    'run', '--dataset', name, '--data-dir', cifar_dir, '--epochs', 1,
    '--train-examples', 256, '--run-dir', tmp_path / 'run',
  )  # fmt: skip
  assert finished.returncode == 0, finished.stderr
  assert '256 training and 10,000 test images' in finished.stderr


def test_the_main_job(tmp_path):
  finished = _train('--run-dir', tmp_path / 'digits')
  assert finished.returncode == 0, finished.stderr
  summaries = [
    json.loads(path.read_text())
    for path in (tmp_path / 'digits').rglob('summary.json')
  ]
  assert [summary['status'] for summary in summaries] == ['done'] * 6
  assert max(summary['final_test_error'] for summary in summaries) < 3
  assert 'digits-lcam − digits-fixed' in finished.stdout
  assert (tmp_path / 'digits' / 'curves.png').exists()
  again = _train('--run-dir', tmp_path / 'digits')
  assert again.stderr.count('is finished') == 6
