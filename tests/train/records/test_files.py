"""Text, JSON and figures on disk do not depend on the settings of the user."""

import os
import pathlib
import subprocess
import sys

import matplotlib
from matplotlib import figure as mpl_figure
import pytest

from tests.train.records import made
from train import errors
from train import files
from train import pictures
from train import report
from train import safe

_REPOSITORY = pathlib.Path(__file__).parents[3]


def test_a_file_is_replaced_completely_or_not_at_all(tmp_path):
  path = tmp_path / 'file.txt'
  files.replace_text(path, 'whole\n')

  def fail(unfinished):
    unfinished.write_text('half')
    raise OSError(28, 'No space left on device')

  with pytest.raises(OSError, match='No space'):
    files.replace(path, fail)
  assert path.read_bytes() == b'whole\n'
  assert os.listdir(tmp_path) == ['file.txt']


@pytest.mark.parametrize('target', ['nowhere', 'link'])
def test_a_broken_or_circular_link_cannot_be_written(target, tmp_path):
  link = tmp_path / 'link'
  link.symlink_to(tmp_path / target)
  for directory in (link, link / 'run'):
    with pytest.raises(errors.UsageError, match='link is a link to nothing'):
      files.check_writable('--run-dir', directory)


def test_a_figure_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
  made.write_run(tmp_path / 'run')
  report.write([tmp_path / 'run'], tmp_path / 'out')
  before = {p.name: p.read_bytes() for p in (tmp_path / 'out').iterdir()}

  def fail(self, path, **_):
    pathlib.Path(path).write_bytes(b'half')
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(mpl_figure.Figure, 'savefig', fail)
  with pytest.raises(errors.UsageError, match='No space'):
    report.write([tmp_path / 'run'], tmp_path / 'out')
  after = {p.name: p.read_bytes() for p in (tmp_path / 'out').iterdir()}
  assert after == before


def test_the_matplotlibrc_of_the_user_has_no_influence(tmp_path):
  made.write_run(tmp_path / 'run')
  report.write([tmp_path / 'run'], tmp_path / 'plain')
  taste = {
    'figure.facecolor': 'black',
    'font.size': 31,
    'lines.linewidth': 9,
    'savefig.format': 'svg',
    'savefig.bbox': 'tight',
    'image.cmap': 'jet',
  }
  with matplotlib.rc_context(taste):
    report.write([tmp_path / 'run'], tmp_path / 'taste')
    assert matplotlib.rcParams['font.size'] == 31
  for picture in ('curves.png', 'phases.png'):
    one, other = (tmp_path / name / picture for name in ('plain', 'taste'))
    assert one.read_bytes() == other.read_bytes()


_NASTY = '../../x|y`z`\n# *a* <b> [c](d) $e_$ \\ \ud800 \x1b[2J ü'


def test_names_break_neither_tables_nor_figures(tmp_path):
  for seed in (0, 1):
    for optimizer in ('lcam', 'sgd'):
      made.write_run(
        tmp_path / 'runs' / f'{optimizer}-{seed}',
        experiment=f'{_NASTY}{optimizer}',
        seed=seed,
        optimizer=optimizer,
      )
      made.change(
        tmp_path / 'runs' / f'{optimizer}-{seed}' / 'config.json',
        device_kind=_NASTY,
        versions={'jax': _NASTY},
      )
  text = report.write([tmp_path / 'runs'], tmp_path / 'out')
  assert (tmp_path / 'out' / 'report.md').read_bytes() == text.encode()
  tables = [line for line in text.splitlines() if line.startswith('|')]
  assert len(tables) == 4 + 3
  for line in tables:
    cells = line.replace('\\\\', '').replace('\\|', '').strip('|').split('|')
    assert len(cells) in (6, 8)
  assert '<b>' not in text
  assert '\x1b' not in text
  assert [line for line in text.splitlines() if line.startswith('# ')] == [
    '# Report'
  ]


def test_a_study_draws_only_into_the_folder_of_the_report(tmp_path):
  record = files.read_json(
    _REPOSITORY / 'results' / 'probe-digits' / 'probe.json'
  )
  folder = tmp_path / 'runs' / 'probe'
  folder.mkdir(parents=True)
  made.write_json(folder / 'probe.json', record | {'dataset': _NASTY})
  out = tmp_path / 'a' / 'b' / 'out'
  report.write([tmp_path / 'runs'], out)
  (picture,) = out.glob('*.png')
  written = {p for p in tmp_path.rglob('*') if p.is_file()}
  assert written == {
    folder / 'probe.json',
    out / 'report.md',
    out / 'report.json',
    picture,
  }


def test_two_probes_of_a_data_set_have_separate_figures(tmp_path):
  record = files.read_json(
    _REPOSITORY / 'results' / 'probe-digits' / 'probe.json'
  )
  for seconds, name in ((1.0, 'a'), (2.0, 'b'), (2.0, 'copy')):
    (tmp_path / name).mkdir()
    made.write_json(
      tmp_path / name / 'probe.json', record | {'seconds': seconds}
    )
  text = report.write([tmp_path], tmp_path / 'out')
  assert '(probe-digits.png)' in text
  assert '(probe-digits-2.png)' in text
  assert len(list((tmp_path / 'out').glob('*.png'))) == 2


@pytest.mark.parametrize(
  'name', ['../../x', '/etc/passwd', '..', '', '.hidden', 'a/b', 'a\0b']
)
def test_a_file_name_stays_inside_its_folder(name, tmp_path):
  path = (tmp_path / f'{safe.file_name(name)}.png').resolve()
  assert path.parent == tmp_path.resolve()
  assert not path.name.startswith('.')


@pytest.mark.parametrize(
  'environment',
  [
    pytest.param({'PYTHONIOENCODING': 'ascii'}, marks=pytest.mark.slow),
    pytest.param({'PYTHONIOENCODING': 'latin-1'}, marks=pytest.mark.slow),
    {'LC_ALL': 'C', 'PYTHONCOERCECLOCALE': '0', 'PYTHONUTF8': '0'},
  ],
)
def test_a_report_in_a_terminal_with_another_encoding(environment, tmp_path):
  made.write_run(tmp_path / 'rün' / 'a', experiment='Größe')
  made.write_run(tmp_path / 'rün' / 'b', seed=1, experiment='Größe')
  made.write_run(tmp_path / 'rün' / 'c', optimizer='sgd')
  (tmp_path / 'rün' / 'c' / 'config.json').write_text('{')
  argv = ['report', tmp_path / 'rün', '--out', tmp_path / 'out']
  run = subprocess.run(
    [sys.executable, '-m', 'train', *argv],
    cwd=_REPOSITORY,
    env={**os.environ, **environment},
    capture_output=True,
    check=False,
  )
  assert run.returncode == 1
  assert run.stderr == b''
  text = (tmp_path / 'out' / 'report.md').read_text('utf-8')
  assert 'Größe' in text
  assert 'rün/c/config.json' in text


def test_a_figure_is_a_png_despite_its_temporary_name(tmp_path):
  pictures.save(mpl_figure.Figure(), tmp_path / 'x.png')
  assert (tmp_path / 'x.png').read_bytes().startswith(b'\x89PNG')
