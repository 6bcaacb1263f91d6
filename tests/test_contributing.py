"""The instructions in CONTRIBUTING.md work."""

import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tests.train import processes
from tests.train import tfds_directory
from train import experiments

_REPOSITORY = pathlib.Path(__file__).parents[1]
_TEXT = (_REPOSITORY / 'CONTRIBUTING.md').read_text()


@pytest.fixture(scope='module')
def changed(tmp_path_factory):
  """A copy of the program with all changes of the page."""
  root = tmp_path_factory.mktemp('copy')
  for part in (
    'models',
    'optax_lcam',
    'train',
    'tests',
    'docs',
    'pyproject.toml',
  ):
    copy = shutil.copytree if (_REPOSITORY / part).is_dir() else shutil.copy
    copy(_REPOSITORY / part, root / part)
  for diff in re.findall(r'```diff\n(.*?)```', _TEXT, re.DOTALL):
    name, *lines = diff.splitlines()
    file = root / name.removeprefix('+++ ')
    context = ''.join(f'{line[1:]}\n' for line in lines if line[0] == ' ')
    added = ''.join(f'{line[1:]}\n' for line in lines if line[0] == '+')
    text = file.read_text()
    assert text.count(context) == 1
    file.write_text(text.replace(context, context + added))
  for file in re.findall(r'```python\n(.*?)```', _TEXT, re.DOTALL):
    (name,) = re.findall(r'This file: (.*?)\.?"""', file)
    (root / name).write_text(file)
  return root


def _train(root, *arguments):
  return processes.train(*arguments, cwd=root)


def _run(root, dataset, data_dir, run_dir):
  return _train(
    root, 'run', '--dataset', dataset, '--data-dir', data_dir,
    '--run-dir', run_dir, '--model', 'mlp', '--epochs', 1, '--batch-size', 8,
    '--image-size', 8,
  )  # fmt: skip


def _section(title):
  (section,) = re.findall(rf'^## {title}$(.*?)^## ', _TEXT, re.M | re.S)
  return section


def test_an_experiment(changed):
  (commands,) = re.findall(
    r'```bash\n(.*?)```', _section('Add an experiment'), re.DOTALL
  )
  finished = [
    subprocess.run(
      [sys.executable, *shlex.split(command)[1:]],
      cwd=changed,
      env={**processes.environment(), 'PYTHONPATH': str(_REPOSITORY)},
      capture_output=True,
      text=True,
    )
    for command in commands.splitlines()
  ]
  for run in finished:
    assert run.returncode == 0, run.stdout + run.stderr
  lines = finished[0].stdout.splitlines()
  # Other experiments have the word in their summary.
  names = {line.split()[0] for line in lines if line.startswith('  ')}
  shown = {name for name in names if name.endswith('-nesterov')}
  assert shown == {
    f'{size}ablation-{dataset}-nesterov'
    for size in ('', 'medium-', 'small-')
    for dataset in ('cifar10', 'cifar100')
  }
  # The tests of the copy ran, including those of the new experiments.
  _, of_experiments, of_the_report = finished
  passed = re.search(r'(\d+) passed', of_experiments.stdout)
  assert int(passed[1]) > len(experiments.EXPERIMENTS) + len(shown)
  assert '3 passed' in of_the_report.stdout


def test_a_network_and_an_optimizer(changed, tmp_path):
  finished = _train(
    changed, 'run', '--model', 'linear', '--optimizer', 'lion',
    '--run-dir', tmp_path / 'run', '--epochs', 2,
  )  # fmt: skip
  assert finished.returncode == 0, finished.stderr
  config = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert (config['model'], config['optimizer']) == ('linear', 'lion')
  assert config['learning_rate'] == 1e-4
  rows = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  losses = [json.loads(row)['train_loss'] for row in rows]
  assert losses[1] < losses[0]


def test_a_folder_of_images(changed, tmp_path):
  rng = np.random.default_rng(0)
  for split, count in (('train', 8), ('test', 4)):
    for label, name in enumerate(('daisy', 'rose')):
      folder = tmp_path / split / name
      folder.mkdir(parents=True)
      for i in range(count):
        image = rng.integers(0, 64, (40, 48, 3))
        image[..., label] += 128  # blue daisies, green roses
        assert cv2.imwrite(str(folder / f'{i}.png'), image)
  finished = _run(changed, 'flowers', tmp_path, tmp_path / 'run')
  assert finished.returncode == 0, finished.stderr
  assert (tmp_path / 'run' / 'summary.json').exists()

  (tmp_path / 'test' / 'rose' / '0.png').write_bytes(b'no image')
  finished = _run(changed, 'flowers', tmp_path, tmp_path / 'other')
  assert finished.returncode == 2
  assert 'rose/0.png cannot be read as an image' in finished.stderr
  finished = _run(changed, 'flowers', tmp_path / 'no', tmp_path / 'other')
  assert finished.returncode == 2
  assert '--data-dir must hold the folders train and test' in finished.stderr
  assert not (tmp_path / 'other').exists()


def test_a_data_set_of_tfds(changed, tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (16, 32, 32, 3)).astype(np.uint8)
  labels = np.arange(16) % 10
  tfds_directory.write(
    tmp_path,
    'cmaterdb',
    {'train': (images, labels), 'test': (images[:8], labels[:8])},
  )
  finished = _run(changed, 'cmaterdb', tmp_path, tmp_path / 'run')
  assert finished.returncode == 0, finished.stderr
  assert (tmp_path / 'run' / 'summary.json').exists()


def test_help_and_messages_name_the_new_data_sets(changed):
  shown = _train(changed, 'probe', '--help').stdout
  assert 'cmaterdb,flowers,' in re.sub(r'[\s│]+', '', shown)
  assert 'flowers 2048' in re.sub(r'[\s│]+', ' ', shown)
  refused = _train(changed, 'run', '--dataset', 'flower')
  assert refused.returncode == 2
  message = re.sub(r'[\s│]+', ' ', refused.stderr)
  assert "invalid choice 'flower'" in message and "'flowers'" in message


def _map():
  rows = [line for line in _TEXT.splitlines() if line.startswith('| ')]
  return set(re.findall(r'`([\w/]+(?:\.py|/))`', ''.join(rows)))


def test_every_file_on_the_map_exists():
  assert len(_map()) > 20
  for name in _map():
    assert (_REPOSITORY / name).exists(), name


def test_every_module_is_on_the_map():
  named = _map()
  for package in ('optax_lcam', 'models', 'train'):
    for path in (_REPOSITORY / package).rglob('*.py'):
      name = path.relative_to(_REPOSITORY).as_posix()
      folders = {
        f'{folder}/' for folder in path.relative_to(_REPOSITORY).parents
      }
      if path.name != '__init__.py':
        assert name in named or folders & named, name


def test_the_quick_checks_name_files_that_exist():
  printed = subprocess.run(
    [_REPOSITORY / '.ci' / 'quick', '--tests'],
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  files = printed.stdout.split()
  assert len(files) >= 5
  for file in files:
    assert (_REPOSITORY / file).is_file(), file
