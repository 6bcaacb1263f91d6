"""Every kind of damage to every file of a record, for all its readers.

Damage must be detected and must not cause a traceback: a report leaves the
record out and gives the reason, and a resume, or a random control that follows
the run, is rejected.
"""

import json
import os
import pathlib
import re
import shutil

import pytest

from tests.train.records import made
from train import __main__ as command_line
from train import config as config_lib
from train import errors
from train import following
from train import records
from train.experiments import Takes
from train.records import metrics
from train.records import run_directory

_RESULTS = pathlib.Path(__file__).parents[3] / 'results'

_RESOLVED = config_lib.resolve(made.CONFIG, made.STEPS)


# --------------------------------------------------------------- damaged files


# A required number of each file, and a value out of its range.
_FILES = {
  'config.json': ('epochs', 0),
  'summary.json': ('final_test_error', 101),
  'metrics.jsonl': ('test_error', -1),
  'steps.jsonl': ('epoch', 0),
  'probe.json': ('validation_examples', -1),
  'traction.json': ('settings', None),
  'movement.json': ('settings', None),
}
_OF_A_RUN = ('config.json', 'summary.json', 'metrics.jsonl', 'steps.jsonl')


# ------------------------------------------------------------- kinds of damage


def _on_the_disk(change):
  """Damage to a file on disk."""
  return lambda path, name: change(path)


def _replaced_by(content):
  return _on_the_disk(lambda path: path.write_bytes(content))


def _in_bytes(change):
  return _on_the_disk(lambda path: path.write_bytes(change(path.read_bytes())))


def _in_text(change):
  """Damage to the JSON of a file; in a file of rows, to the second row."""

  def damage(path, name):
    if name.endswith('.jsonl'):
      lines = path.read_text().splitlines()
      lines[1] = change(lines[1], *_FILES[name])
      path.write_text('\n'.join(lines) + '\n')
    else:
      path.write_text(change(path.read_text(), *_FILES[name]))

  return damage


def _with_value(token):
  """Replaces a required number by another JSON token."""

  def change(text, field, out_of_range):
    content = json.loads(text)
    if token is None and out_of_range is None:
      content[field] = {}
    else:
      content[field] = '@' if token is not None else out_of_range
    return json.dumps(content).replace('"@"', token or '')

  return _in_text(change)


def _without(text, field, _):
  content = json.loads(text)
  del content[field]
  return json.dumps(content)


def _twice(text, field, _):
  again = json.dumps({field: json.loads(text)[field]})
  return f'{{{again[1:-1]}, {text.lstrip()[1:]}'


def _in_place(make):
  def damage(path):
    path.unlink()
    make(path)

  return _on_the_disk(damage)


def _middle(content, garbage):
  at = len(content) // 2
  return content[:at] + garbage + content[at + len(garbage) :]


def _rows(change):
  """Damage to the lines of a file of rows."""

  def damage(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b''.join(change(lines)))

  return _on_the_disk(damage)


_KINDS = {
  'empty': _replaced_by(b''),
  'blank': _replaced_by(b' \n'),
  'only zeros': _in_bytes(lambda content: bytes(len(content))),
  'zeros in the middle': _in_bytes(lambda c: _middle(c, bytes(9))),
  'cut in the middle': _in_bytes(lambda content: content[: len(content) // 2]),
  'not UTF-8': _in_bytes(lambda content: _middle(content, b'\xff')),
  'UTF-16': _in_bytes(lambda content: content.decode().encode('utf-16')),
  'with a byte order mark': _in_bytes(
    lambda content: b'\xef\xbb\xbf' + content
  ),
  'a directory': _in_place(pathlib.Path.mkdir),
  'a link to nothing': _in_place(lambda path: path.symlink_to('nothing')),
  'a link to itself': _in_place(lambda path: path.symlink_to(path.name)),
  'a pipe': _in_place(os.mkfifo),
  'a list': _in_text(lambda text, *_: f'[{text}]'),
  'a number': _in_text(lambda *_: '1'),
  'null': _in_text(lambda *_: 'null'),
  'nested deeply': _in_text(lambda *_: '[' * 100_000 + ']' * 100_000),
  'a field twice': _in_text(_twice),
  'a field gone': _in_text(_without),
  'a field of NaN': _with_value('NaN'),
  'a field of -Infinity': _with_value('-Infinity'),
  'a field of 1e999': _with_value('1e999'),
  'a field of null': _with_value('null'),
  'a field of true': _with_value('true'),
  'a field of text': _with_value('"9"'),
  'a field of a list': _with_value('[9]'),
  'a field of 300 digits': _with_value('9' * 300),
  'a field of 5000 digits': _with_value('9' * 5000),
  'a field out of its range': _with_value(None),
}
_KINDS_OF_ROWS = {
  'last row cut off': _rows(lambda rows: [*rows[:-1], rows[-1][:-9]]),
  'last row gone': _rows(lambda rows: rows[:-1]),
  'first row gone': _rows(lambda rows: rows[1:]),
  'row in the middle gone': _rows(lambda rows: [rows[0], *rows[2:]]),
  'row twice': _rows(lambda rows: [*rows[:2], *rows[1:]]),
  'all rows twice': _rows(lambda rows: rows * 2),
  'rows reversed': _rows(lambda rows: rows[::-1]),
  'garbage between rows': _rows(lambda rows: [rows[0], b'?\n', *rows[1:]]),
  'empty line between rows': _rows(lambda rows: [rows[0], b'\n', *rows[1:]]),
  'row of another run': _rows(
    lambda rows: [
      re.sub(rb'"step": \d+|\[[\d.]+, ', b'"step": 7', row, count=1)
      if row is rows[2]
      else row
      for row in rows
    ]
  ),
}
_ALL = [
  *((file, kind) for file in _FILES for kind in _KINDS),
  *(
    (file, kind)
    for file in ('metrics.jsonl', 'steps.jsonl')
    for kind in _KINDS_OF_ROWS
  ),
  *(
    (file, 'gone') for file in ('config.json', 'summary.json', 'metrics.jsonl')
  ),
]


def _damage(directory, file, kind):
  path = directory / file
  if kind == 'gone':
    path.unlink()
  else:
    {**_KINDS, **_KINDS_OF_ROWS}[kind](path, file)


def _make(directory, file, kind, **run):
  """Writes a record with a damaged file."""
  if file in _OF_A_RUN:
    made.write_run(directory, **run)
  else:
    directory.mkdir(parents=True)
    name = {'traction.json': 'traction'}.get(file, f'{file[:-5]}-cifar10')
    shutil.copy(_RESULTS / name / file, directory / file)
  _damage(directory, file, kind)


def _is_one_sentence(text):
  return '\n' not in text and text.endswith('.') and 'Traceback' not in text


# --------------------------------------------------------------------- readers


@pytest.mark.parametrize(('file', 'kind'), _ALL)
def test_a_damaged_record_is_left_out_and_named(file, kind, tmp_path):
  made.write_run(tmp_path / 'good', seed=1)
  bad = tmp_path / 'bad'
  _make(bad, file, kind)
  found = records.find([tmp_path])
  assert [run.path.name for run in found.runs] == ['good']
  assert found.studies == []
  (sentence,) = found.left_out
  assert _is_one_sentence(sentence)
  assert str(bad) in sentence
  assert file in sentence


def test_a_report_lists_all_damaged_records_and_uses_the_others(
  tmp_path, capsys
):
  runs = tmp_path / 'runs'
  for seed in (1, 2, 3):
    made.write_run(runs / 'good' / f'seed-{seed}', seed=seed)
  for file, kind in _ALL:
    _make(runs / f'{file}, {kind}', file, kind)
  argv = ['report', str(runs), '--out', str(tmp_path / 'out')]
  assert command_line.main(argv) == 1
  text = (tmp_path / 'out' / 'report.md').read_text('utf-8')
  head, rest = text.split('\n| arm ')
  assert f'{len(_ALL)} records are left out' in head
  for file, kind in _ALL:
    assert head.count(str(runs / f'{file}, {kind}')) >= 1
  assert '| digits-lcam |   3 |' in rest
  print(f'\n{len(_ALL)} kinds of damage: all left out and named.')


def test_a_report_of_only_damaged_records_is_rejected(tmp_path, capsys):
  _make(tmp_path / 'run', 'metrics.jsonl', 'row twice')
  argv = ['report', str(tmp_path), '--out', str(tmp_path / 'out')]
  assert command_line.main(argv) == 2
  assert 'metrics.jsonl, line 3 must be of epoch 3' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


_NEEDED = 3  # Epochs before the checkpoint of the resume.

# A resume removes rows after the checkpoint without checking them.
_BEHIND = {'last row cut off', 'last row gone', 'all rows twice'}
_RESUMED = [
  (file, kind) for file, kind in _ALL if file in _OF_A_RUN and kind != 'gone'
]


@pytest.mark.parametrize(('file', 'kind'), _RESUMED)
def test_a_resume_of_a_damaged_record_is_rejected(file, kind, tmp_path):
  path = tmp_path / 'run'
  made.write_run(path, status='incomplete')
  if file == 'summary.json' and kind.startswith('a field'):
    made.write_run(tmp_path / 'done')
    shutil.copy(tmp_path / 'done' / file, path / file)
  _damage(path, file, kind)
  before = _bytes(path / file)

  def resume():
    directory = run_directory.RunDirectory(path)
    directory.claim(made.CONFIG, _RESOLVED)
    directory.read_summary()
    log = metrics.MetricsLog(directory, _NEEDED)
    log.close()
    return log.rows

  if kind in _BEHIND:
    assert resume() == [made.row(epoch) for epoch in range(1, _NEEDED + 1)]
    return
  with pytest.raises((errors.UsageError, errors.RunError)) as refused:
    resume()
  assert _is_one_sentence(str(refused.value))
  assert str(path / file) in str(refused.value)
  assert _bytes(path / file) == before


def _bytes(path):
  return path.read_bytes() if path.is_file() else None


@pytest.mark.parametrize(
  ('file', 'kind'), [x for x in _ALL if x[0] in _OF_A_RUN]
)
def test_a_control_that_follows_a_damaged_run_is_rejected(file, kind, tmp_path):
  _make(tmp_path / 'run', file, kind)
  with pytest.raises(errors.RunError, match='It follows') as refused:
    following.take_over(Takes.SHARE, tmp_path / 'run')
  assert _is_one_sentence(str(refused.value))
  assert file in str(refused.value)


def test_a_control_that_follows_an_intact_run_is_accepted(tmp_path):
  made.write_run(tmp_path / 'run')
  taken = following.take_over(Takes.SHARE, tmp_path / 'run')
  assert taken == {'horizontal_probability': (0.6,)}


def test_a_file_without_read_permission(tmp_path, monkeypatch):
  made.write_run(tmp_path / 'good', seed=1)
  made.write_run(tmp_path / 'bad')

  def read_bytes(path, read=pathlib.Path.read_bytes):
    # The effect of the mode of a file on users other than root.
    if path == tmp_path / 'bad' / 'steps.jsonl':
      raise PermissionError(13, 'Permission denied')
    return read(path)

  monkeypatch.setattr(pathlib.Path, 'read_bytes', read_bytes)
  found = records.find([tmp_path])
  assert [run.path.name for run in found.runs] == ['good']
  assert found.left_out == [
    f'{tmp_path / "bad" / "steps.jsonl"} cannot be read: Permission denied.'
  ]


def test_fields_of_a_newer_version_are_reported(tmp_path):
  made.write_run(tmp_path / 'run')
  for file in _OF_A_RUN:
    path = tmp_path / 'run' / file
    path.write_text(
      path.read_text().replace('{', f'{{"new_of_{file[:5]}": [1], ', 1)
    )
  found = records.find([tmp_path])
  assert len(found.runs) == 1
  assert found.left_out == []
  assert len(found.notes) == 4
  for file in _OF_A_RUN:
    assert any(f'new_of_{file[:5]} of {file}' in note for note in found.notes)
