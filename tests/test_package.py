"""The published package: contents, imports, and the README."""

import importlib.metadata
import pathlib
import re
import runpy
import shutil
import socket
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

import optax_lcam
from tests.train import processes
from train import experiments
from train import studies

_REPOSITORY = pathlib.Path(__file__).parents[1]
_README = (_REPOSITORY / 'README.md').read_text()


def test_the_examples_of_the_readme_run():
  examples = re.findall(r'```python\n(.*?)```', _README, re.DOTALL)
  assert len(examples) >= 2
  names = {}
  for example in examples:
    exec(compile(example, 'README.md', 'exec'), names)
  assert names['loss'] < 1e-3


def test_the_readme_has_both_commands():
  assert "pip install -e '.[train]' && python -m train" in _README
  assert "pip install -e '.[train,test]' && python -m pytest" in _README


def test_the_readme_is_short():
  assert len(_README.splitlines()) <= 150


def test_the_links_and_pictures_of_the_readme_exist():
  links = re.findall(r'\]\((?!https?:|#)(.+?)\)', _README)
  assert any(link.endswith('.png') for link in links)
  assert len(links) > 15
  for link in links:
    assert (_REPOSITORY / link).exists(), link


def test_the_commands_of_the_readme_are_valid():
  """Experiments exist, and an earlier command writes each folder."""
  blocks = re.findall(r'```bash\n(.*?)```', _README, re.DOTALL)
  lines = [line.split('#')[0] for line in ''.join(blocks).splitlines()]
  commands = [line.split('python -m train', 1)[1].split()
              for line in lines if 'python -m train' in line]  # fmt: skip
  assert len(commands) >= 6
  written = set()
  for command, *arguments in filter(None, commands):
    assert command in ('run', 'sweep', 'report', *studies.STUDIES)
    if command in ('run', 'sweep'):
      for experiment in experiments.select(arguments[0]):
        written.add(f'runs/{experiment.name}')
    elif arguments[0].startswith('runs'):
      folder = arguments[0].removesuffix('/seed-*')
      assert any(path.startswith(folder) for path in written), folder


def test_the_documented_extras_exist():
  project = tomllib.loads((_REPOSITORY / 'pyproject.toml').read_text())[
    'project'
  ]
  extras = project['optional-dependencies']
  assert extras.keys() >= {'train', 'test', 'cuda12', 'cuda13', 'tpu'}
  assert extras['cuda12'] == ['jax[cuda12]']
  assert project['requires-python'] == '>=3.11'


def test_neither_imports_nor_runs_access_the_network(tmp_path):
  """Attempts are recorded and rejected. Without --wandb it is not imported."""
  program = f"""
import atexit, runpy, sys
from tests import no_network
tried = []
def watch(event, arguments):
  try:
    no_network.refuse(event, arguments)
  except ConnectionRefusedError as refused:
    tried.append(str(refused))
    raise
sys.addaudithook(watch)
def show():
  print('imported:', [name for name in sys.modules if name == 'wandb'])
  print('tried:', tried)
atexit.register(show)
import optax_lcam, optax_lcam.flax, models
sys.argv = ['train', 'run', '--model', 'mlp', '--epochs', '1',
            '--train-examples', '64', '--run-dir', {str(tmp_path / 'run')!r}]
runpy.run_module('train', run_name='__main__')
"""
  finished = subprocess.run(
    [sys.executable, '-c', program],
    cwd=_REPOSITORY,
    env=processes.environment(),
    capture_output=True,
    text=True,
    check=True,
  )
  assert finished.stdout.splitlines()[-2:] == ['imported: []', 'tried: []']
  assert not (tmp_path / 'run' / 'wandb.json').exists()
  assert (tmp_path / 'run' / 'summary.json').exists()


def test_network_access_is_detected():
  with pytest.raises(ConnectionRefusedError):
    socket.create_connection(('192.0.2.1', 80), timeout=1)
  with pytest.raises(ConnectionRefusedError):
    socket.getaddrinfo('example.org', 80)


def test_the_published_readme_has_no_broken_links():
  """Without an address links become text; with an address, absolute links."""
  published = runpy.run_path(str(_REPOSITORY / 'hatch_build.py'))['published']
  relative = re.compile(r'\]\((?!https?:|#)')
  assert relative.search(_README)
  for address in ('', 'https://example.org/lcam'):
    assert not relative.search(published(_README, address))
  text = 'See [the map](docs/map.md), [all](docs/) and ![a plot](docs/a.png).'
  assert published(text, '') == 'See the map, all and .'
  assert published(text, 'https://e.org/r') == (
    'See [the map](https://e.org/r/blob/HEAD/docs/map.md),'
    ' [all](https://e.org/r/tree/HEAD/docs/) and'
    ' ![a plot](https://e.org/r/raw/HEAD/docs/a.png).'
  )


def test_the_version_is_that_of_the_package():
  assert optax_lcam.__version__ == importlib.metadata.version('optax-lcam')


def test_the_wheel_contains_only_the_optimizer(tmp_path):
  subprocess.run(
    [sys.executable, '-m', 'hatchling', 'build', '-t', 'wheel', '-d', tmp_path],
    cwd=_REPOSITORY,
    check=True,
  )
  (wheel,) = tmp_path.glob('*.whl')
  names = zipfile.ZipFile(wheel).namelist()
  tops = {name.split('/')[0] for name in names}
  assert {top for top in tops if not top.endswith('.dist-info')} == {
    'optax_lcam'
  }
  assert 'optax_lcam/py.typed' in names
  assert any(name.endswith('licenses/LICENSE') for name in names)
  (metadata,) = [name for name in names if name.endswith('/METADATA')]
  text = zipfile.ZipFile(wheel).read(metadata).decode()
  assert 'Loss-Controlled Asymmetric Momentum (LCAM) for [Optax]' in text
  assert 'Project-URL: Paper' in text
  assert not re.search(r'\]\((?!https?:|#)', text)


def test_the_source_distribution_is_small_and_builds_a_wheel(tmp_path):
  def build(target, folder):
    subprocess.run(
      [
        *f'{sys.executable} -m hatchling build -t {target} -d'.split(),
        tmp_path,
      ],
      cwd=folder,
      check=True,
    )

  build('sdist', _REPOSITORY)
  (sdist,) = tmp_path.glob('*.tar.gz')
  with tarfile.open(sdist) as archive:
    names = {name.split('/', 1)[1] for name in archive.getnames()}
  shutil.unpack_archive(sdist, tmp_path)
  assert names >= {
    'optax_lcam/_lcam.py',
    'LICENSE',
    'README.md',
    'CITATION.cff',
  }
  assert not {name.split('/')[0] for name in names} & {'results', 'docs'}
  assert sdist.stat().st_size < 10**6
  # Without git, the version is that of the source distribution.
  folder = tmp_path / sdist.name.removesuffix('.tar.gz')
  build('wheel', folder)
  (wheel,) = tmp_path.glob('*.whl')
  assert wheel.name.split('-')[1] == folder.name.split('-', 1)[1]
