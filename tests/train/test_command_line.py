"""The commands, as users run them."""

import dataclasses
import functools
import json
import os
import pathlib
import re
from unittest import mock

import pytest

import optax_lcam
from tests.train import processes
from tests.train import runs
from train import __main__ as program
from train import experiments
from train import loop
from train import studies


@pytest.mark.parametrize(
  ('arguments', 'parts'),
  [
    (['rnu'], ["'rnu'", "Did you mean 'run'"]),
    (['run', '--train-examples', '5000'], ['--train-examples', '1437', '5000']),
  ],
  ids=' '.join,
)
def test_invalid_input_is_one_message_and_exit_code_2(
  arguments, parts, tmp_path
):
  """More invalid inputs are in test_flags.py, in this process."""
  where = ['--run-dir', tmp_path / 'run'] if arguments[0] == 'run' else []
  finished = processes.train(*arguments, *where)
  assert finished.returncode == 2
  assert finished.stdout == ''
  assert len(finished.stderr.splitlines()) == 1
  for part in parts:
    assert part in finished.stderr
  assert not (tmp_path / 'run').exists()


def test_help_names_every_flag():
  finished = processes.train('run', '--help')
  assert finished.returncode == 0
  for flag in (
    '--dataset', '--data-dir', '--run-dir', '--seed', '--epochs',
    '--batch-size', '--depth', '--widen-factor', '--train-examples',
    '--horizontal-momentum', '--vertical-momentum', '--optimizer',
    '--schedule', '--learning-rate', '--weight-decay',
  ):  # fmt: skip
    assert flag in finished.stdout
  assert 'python -m train run' in processes.train('--help').stdout


def test_help_has_groups_and_shows_each_default_once():
  shown = processes.train('run', 'figure4-cifar100-lcam', '--help').stdout
  lines = [line.strip('│ ') for line in shown.splitlines()]
  titles = [line for line in lines if line.startswith('╭─')]
  assert [title.split()[1] for title in titles] == [
    'options', 'data', 'network', 'optimizer', 'schedule', 'run',
  ]  # fmt: skip
  assert '{None}' not in shown and 'default: None' not in shown
  text = ' '.join(lines)
  for name, default in (
    ('depth', '28'),
    ('decay-start', '30'),
    ('milestones', '30 60 90'),
    ('train-examples', 'all'),
    ('cycle-epochs', 'a fifth of the run'),
    ('order-seed', '--seed'),
  ):
    of_flag = re.search(rf' --{name} [A-Z].*?\(default: (.*?)\)', text)
    assert of_flag is not None
    assert of_flag[1] == default
    assert of_flag[0].lower().count('default') == 1


def test_the_version():
  shown = processes.train('--version').stdout
  assert shown == f'optax-lcam {optax_lcam.__version__}\n'


def test_eval_prints_the_recorded_results(tmp_path):
  run = tmp_path / 'run'
  trained = processes.train(
    'run', '--model', 'mlp', '--epochs', 1, '--train-examples', 100,
    '--run-dir', run,
  )  # fmt: skip
  assert trained.returncode == 0, trained.stderr
  shown = processes.train('eval', run).stdout
  row = json.loads((run / 'metrics.jsonl').read_text())
  assert shown == (
    f'{run}: after 1 epochs test loss {row["test_loss"]:.4f}, test error'
    f' {row["test_error"]:.2f} %.\n'
  )


def test_list_shows_groups_and_one_line_per_experiment():
  finished = processes.train('list')
  assert finished.returncode == 0
  lines = {
    line.split()[0]: line for line in finished.stdout.splitlines() if line
  }
  assert "the paper's own size" in lines['figure4:']
  assert 'minutes on one H200' in lines['figure4-cifar100-lcam']
  assert 'sweep only' not in lines['figure4-cifar100-lcam']
  # An experiment that depends on another run cannot run alone.
  assert 'sweep only' in lines['ablation-cifar100-coin']
  assert 'python -m train sweep GROUP' in finished.stdout


def _listed(*words):
  finished = processes.train('list', *words)
  assert finished.returncode == 0
  return [
    line.split()[0]
    for line in finished.stdout.splitlines()
    if line.startswith('  ')
  ]


def test_list_shows_the_experiments_that_match_all_words():
  named = _listed('cifar100', 'COIN')
  assert 'small-ablation-cifar100-coin' in named
  assert all('cifar100' in name and 'coin' in name for name in named)


def test_list_matches_whole_numbers():
  named = _listed('medium-figure4-cifar10', 'fixed-0.9')
  assert named == ['medium-figure4-cifar10-fixed-0.9']


def test_a_closed_pipe_is_no_error():
  with processes.start('list') as process:
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ''


def test_an_experiment_with_a_flag_and_its_report(tmp_path):
  for seed in (0, 1):
    finished = processes.train(
      'run', 'digits-lcam', '--model', 'mlp', '--epochs', 1,
      '--train-examples', 100, '--seed', seed,
      '--run-dir', tmp_path / str(seed),
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert 'test error' in finished.stdout
  config = json.loads((tmp_path / '1' / 'config.json').read_text())
  assert config['experiment'] == 'digits-lcam'
  assert (config['seed'], config['epochs']) == (1, 1)
  reported = processes.train(
    'report', tmp_path / '0', tmp_path / '1', '--out', tmp_path / 'out'
  )
  assert reported.returncode == 0, reported.stderr
  assert (tmp_path / 'out' / 'report.md').exists()
  assert (tmp_path / 'out' / 'curves.png').exists()


# test_data.py checks the images themselves.
@pytest.mark.parametrize(
  'name', ['cifar10', pytest.param('cifar100', marks=pytest.mark.slow)]
)
def test_real_cifar_images(name, tmp_path, cifar_dir):
  finished = processes.train(
    'run', '--dataset', name, '--data-dir', cifar_dir, '--model', 'mlp',
    '--epochs', 1, '--train-examples', 256, '--run-dir', tmp_path / 'run',
  )  # fmt: skip
  assert finished.returncode == 0, finished.stderr
  assert '256 training and 10,000 test images' in finished.stderr


def test_the_traction_model_prints_its_verdicts(tmp_path):
  finished = processes.train(
    'traction', '--seeds', 1, '--steps', 200, '--out', tmp_path
  )
  assert finished.returncode == 0, finished.stderr
  assert '- W_Q pulls W_S, 0.95/0.9' in finished.stdout
  assert (tmp_path / 'traction.png').exists()


def test_the_main_job_at_small_size(tmp_path, monkeypatch, capsys):
  """With smaller networks, in this process."""
  config = dataclasses.replace(runs.CONFIG, epochs=2)
  arms = [
    dataclasses.replace(
      arm, config=dataclasses.replace(config, optimizer=arm.config.optimizer)
    )
    for arm in experiments.members(experiments.OWN, 'digits')
  ]
  monkeypatch.setattr(program.experiments, 'members', lambda *_: arms)
  run_together = functools.partial(loop.run_together, devices=runs.one_device())
  monkeypatch.setattr(loop, 'run_together', run_together)
  arguments = ['--run-dir', str(tmp_path / 'digits')]
  with mock.patch.dict(os.environ), runs.without_pictures():
    assert program.main(arguments) == 0
    _assert_the_main_job(
      tmp_path / 'digits',
      capsys.readouterr().out,
      changes=' + model mlp, epochs 2',
    )
    assert program.main(arguments) == 0
  assert capsys.readouterr().err.count('is finished') == 6


@pytest.mark.slow
def test_the_main_job(tmp_path):
  finished = processes.train('--run-dir', tmp_path / 'digits')
  assert finished.returncode == 0, finished.stderr
  summaries = _assert_the_main_job(tmp_path / 'digits', finished.stdout)
  assert max(summary['final_test_error'] for summary in summaries) < 3
  again = processes.train('--run-dir', tmp_path / 'digits')
  assert again.stderr.count('is finished') == 6


def _assert_the_main_job(directory, shown, changes=''):
  """Checks its output; returns its six summaries."""
  summaries = [
    json.loads(path.read_text()) for path in directory.rglob('summary.json')
  ]
  assert [summary['status'] for summary in summaries] == ['done'] * 6
  assert f'digits-lcam{changes} − digits-fixed{changes}' in shown
  assert (directory / 'curves.png').exists()
  return summaries


def test_the_default_output_folders_are_ignored_by_git():
  """Checks the default of every flag that names an output folder."""
  root = pathlib.Path(__file__).parents[2]
  ignored = (root / '.gitignore').read_text().splitlines()
  for flags in (
    program.MainFlags(),
    program.SweepFlags(),
    program.ReportFlags(),
    program.PackFlags(),
    *(study.flags() for study in studies.STUDIES.values()),
  ):
    out = getattr(flags, 'out', None) or getattr(flags, 'run_dir', None)
    # Without a default it is runs/NAME, see the help.
    if out is not None:
      assert {f'{out.parts[0]}/', f'/{out.parts[0]}/'} & {*ignored}, out
