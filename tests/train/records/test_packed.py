"""Packed tables give the same records as their run directories."""

import pathlib
import shutil

import pytest

from tests.train.records import made
from train import __main__ as command_line
from train import config as config_lib
from train import errors
from train import following
from train import records
from train import report
from train.experiments import Takes
from train.records import packed
from train.records import run_directory

_RESULTS = pathlib.Path(__file__).parents[3] / 'results'


@pytest.fixture
def runs(tmp_path):
  """Two arms of two seeds, an unfinished run, one with odd names, a study."""
  directory = tmp_path / 'runs'
  for seed in (0, 1):
    made.write_run(directory / 'lcam' / f'seed-{seed}', seed=seed)
    made.write_run(
      directory / 'fixed' / f'seed-{seed}', seed=seed, optimizer='sgd'
    )
  made.write_run(directory / 'lcam' / 'seed-2', seed=2, status='incomplete')
  odd = directory / 'null' / '0.9'
  made.write_run(odd, experiment='a\tb\n"c" | ü', dropout_rate=1e-300)
  made.change(odd / 'config.json', device_kind='[x]', versions={'jax': None})
  (directory / 'lcam' / 'seed-0' / 'steps.jsonl').unlink()
  (directory / 'study').mkdir()
  shutil.copy(_RESULTS / 'probe-digits' / 'probe.json', directory / 'study')
  return directory


def _plain(found):
  """All fields of runs, with floats to the last bit."""
  return [
    [
      repr(sorted(part.items()))
      for part in (run.config, run.summary, *run.rows, *run.steps)
    ]
    for run in found.runs
  ]


def _pack(*directories, out):
  return command_line.main(['pack', *map(str, directories), '--out', str(out)])


def test_packed_records_are_read_bit_for_bit(runs, tmp_path):
  out = tmp_path / 'packed'
  assert _pack(runs, out=out) == 0
  before, after = records.find([runs]), records.find([out])
  assert len(before.runs) == 6
  assert _plain(after) == _plain(before)
  assert after.left_out == after.notes == []
  for one, other in zip(after.runs, before.runs, strict=True):
    assert one.path.relative_to(out) == other.path.relative_to(runs)
  assert [s.record for s in after.studies] == [s.record for s in before.studies]


def test_a_report_of_packed_records_is_the_same(runs, tmp_path):
  out = tmp_path / 'packed'
  _pack(runs, out=out)
  of_both = [
    report.write([directory], tmp_path / name)
    for name, directory in (('one', runs), ('other', out))
  ]
  assert of_both[0] == of_both[1]
  for picture in (tmp_path / 'one').glob('*.png'):
    other = tmp_path / 'other' / picture.name
    assert picture.read_bytes() == other.read_bytes()


def test_the_tables_are_readable_and_stable(runs, tmp_path):
  _pack(runs, out=tmp_path)
  tables = {
    path.name: path.read_text('utf-8').splitlines()
    for path in tmp_path.glob('*.tsv')
  }
  assert len(tables) == 5
  assert 'batch_size\t128' in tables['settings.tsv']
  assert [line.split('\t')[0] for line in tables['arms.tsv']] == [
    'arm', 'digits-sgd', 'digits-lcam', '"a\\tb\\n\\"c\\" | \\u00fc"',
  ]  # fmt: skip
  assert len(tables['runs.tsv']) == 1 + 6
  assert len(tables['epochs.tsv']) == 1 + 6 * made.EPOCHS
  assert 'fixed/seed-0\t1\t0.5*5\t0.9 0.93*4\t0 1*4' in tables['steps.tsv']
  # Packing the tables again gives the same tables.
  again = tmp_path / 'again'
  _pack(tmp_path, out=again)
  for name in tables:
    assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def test_several_directories_are_kept_apart(tmp_path):
  for name in ('b', 'a'):
    made.write_run(tmp_path / name / 'run', seed=ord(name))
  _pack(tmp_path / 'b', tmp_path / 'a', out=tmp_path / 'packed')
  found = records.find([tmp_path / 'packed'])
  assert [run.path.parent.name for run in found.runs] == ['b', 'a']


def test_records_that_are_not_packed_are_reported(runs, tmp_path, capsys):
  (runs / 'lcam' / 'seed-1' / 'summary.json').write_text('{')
  assert _pack(runs, out=tmp_path / 'packed') == 1
  assert 'seed-1/summary.json is not valid JSON' in capsys.readouterr().err
  assert len(records.find([tmp_path / 'packed']).runs) == 5


def test_a_packed_run_is_finished_and_can_be_followed(runs, tmp_path):
  out = tmp_path / 'packed'
  _pack(runs, out=out)
  path = out / 'lcam' / 'seed-1'
  config = config_lib.Config(**{**vars(made.CONFIG), 'seed': 1})
  directory = run_directory.RunDirectory(path)
  directory.claim(config, config_lib.resolve(config, made.STEPS))
  assert directory.read_summary()['status'] == 'done'
  assert not path.exists()
  other = config_lib.Config(**{**vars(config), 'batch_size': 64})
  with pytest.raises(errors.UsageError, match='--batch-size 64'):
    directory.claim(other, config_lib.resolve(other, made.STEPS))
  taken = following.take_over(Takes.SHARE, path)
  assert taken == {'horizontal_probability': (0.6,)}
  # A run that was packed before its end is started again.
  assert (
    run_directory.RunDirectory(out / 'lcam' / 'seed-2').read_summary() is None
  )


def _other(before, after):
  return lambda text: text.replace(before, after, 1)


def _lines(change):
  """Changes the lines of a table; the first line is the header."""
  return lambda text: ''.join(change(text.splitlines(keepends=True)))


def _without_setting(text):
  lines = text.splitlines(keepends=True)
  return ''.join(line for line in lines if not line.startswith('batch_size'))


# The number of the six runs that each kind of damage leaves out.
_DAMAGE = {
  'a word for a number': ('epochs.tsv', _other('\t15.0\t', '\tx\t'), 1),
  'NaN': ('epochs.tsv', _other('\t15.0\t', '\tNaN\t'), 1),
  'no number': ('epochs.tsv', _other('\t15.0\t', '\t\t'), 1),
  'a cell more': ('epochs.tsv', _other('\t15.0', '\t\t15.0'), 1),
  'a row less': ('epochs.tsv', _lines(lambda x: x[:2] + x[3:]), 1),
  'a row twice': ('epochs.tsv', _lines(lambda x: x[:3] + x[2:]), 1),
  'a run twice': ('runs.tsv', _lines(lambda x: x + x[-1:]), 1),
  'a run less': ('runs.tsv', _lines(lambda x: x[:-1]), 1),
  'an arm less': ('arms.tsv', _lines(lambda x: x[:-1]), 1),
  'an arm twice': ('arms.tsv', _lines(lambda x: x + x[-1:]), 1),
  'a step more': ('steps.tsv', _other('0.93*4', '0.93*5'), 1),
  'countless steps': ('steps.tsv', _other('*4', '*999999999999999'), 1),
  'cut off': ('epochs.tsv', lambda text: text[:-1], 6),
  'no table': ('runs.tsv', lambda text: None, 6),
  'empty': ('arms.tsv', lambda text: '', 6),
  'no head': ('runs.tsv', _lines(lambda x: x[1:]), 6),
  'a column twice': ('epochs.tsv', _other('step', 'epoch'), 6),
  'a setting twice': ('settings.tsv', _lines(lambda x: x + x[-1:]), 6),
  'a setting less': ('settings.tsv', _without_setting, 6),
  'no status': ('runs.tsv', _other('status', 'state'), 6),
}


@pytest.mark.parametrize('kind', _DAMAGE)
def test_a_damaged_table_leaves_out_the_affected_runs(kind, runs, tmp_path):
  out = tmp_path / 'packed'
  _pack(runs, out=out)
  file, change, lost = _DAMAGE[kind]
  text = change((out / file).read_text('utf-8'))
  if text is None:
    (out / file).unlink()
  else:
    (out / file).write_text(text, 'utf-8')
  found = records.find([out])
  assert len(found.runs) == 6 - lost
  assert found.left_out
  for sentence in found.left_out:
    assert str(out) in sentence
    assert '.tsv' in sentence
    assert '\n' not in sentence


@pytest.mark.parametrize(
  'value',
  ['', 'null', 'true', '0', '-1e5', 'NaN', '"', '[', '{', ' a', 'a\tb', 'ü',
   '1e999', '0.93*22', 'a, b', '\ud800'],
)  # fmt: skip
def test_text_is_preserved(value):
  cell = packed._text(value)
  assert cell
  assert '\t' not in cell
  assert packed._value(cell, 'here') == value


@pytest.mark.parametrize(
  'values', [None, [0.1], [None], [1.5, 1.5, None, None, 2.0], [0, 1, 1, 1]]
)
def test_lists_are_preserved(values):
  assert repr(packed._split(packed._join(values), 'here')) == repr(values)
