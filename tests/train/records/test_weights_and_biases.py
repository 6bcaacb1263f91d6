"""Runs on Weights & Biases, read from its offline files."""

import json
import sys
import time
import types

import pytest

from tests.train import runs
from train import config as config_lib
from train.records import checkpoint
from train.records import metrics
from train.records import read
from train.records import run_directory
from train.records import weights_and_biases

_BLOCK = 32768


@pytest.fixture
def offline(monkeypatch, tmp_path):
  pytest.importorskip('wandb', reason='needs wandb: pip install wandb')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))


def _records(path):
  """The records of a .wandb file, which has the log format of LevelDB."""
  from wandb.proto import wandb_internal_pb2

  content = path.read_bytes()
  at, record = 7, b''  # after the header
  while at + 7 <= len(content):
    if _BLOCK - at % _BLOCK < 7:  # no room for a chunk in this block
      at += _BLOCK - at % _BLOCK
      continue
    length = int.from_bytes(content[at + 4 : at + 6], 'little')
    if at + 7 + length > len(content):
      return  # not complete yet
    kind = content[at + 6]
    record += content[at + 7 : at + 7 + length]
    at += 7 + length
    if kind in (1, 4):  # complete, or the last of its chunks
      parsed = wandb_internal_pb2.Record()
      parsed.ParseFromString(record)
      yield parsed
      record = b''


def _sent(directory):
  """The rows, runs and exits sent by all starts of a run."""
  files = sorted(
    directory.glob('wandb/offline-run-*/*.wandb'),
    key=lambda path: path.stat().st_mtime_ns,
  )
  assert files
  # Another process writes them and may not have finished.
  deadline = time.monotonic() + 30
  exits = []
  while len(exits) < len(files) and time.monotonic() < deadline:
    time.sleep(0.1)
    records = [record for path in files for record in _records(path)]
    exits = [
      record.exit.exit_code
      for record in records
      if record.WhichOneof('record_type') == 'exit'
    ]
  rows = []
  for record in records:
    if record.WhichOneof('record_type') == 'history':
      row = {
        item.key or '/'.join(item.nested_key): json.loads(item.value_json)
        for item in record.history.item
      }
      rows.append(
        {'epoch': record.history.step.num or row['_step']}
        | {name: row[name] for name in row if not name.startswith('_')}
      )
  runs = [r.run for r in records if r.WhichOneof('record_type') == 'run']
  return rows, runs, exits


def _curves(row):
  placing = {'step', 'seconds'}
  return {
    name: value
    for name, value in row.items()
    if value is not None and name not in placing
  }


def _train(directory, **options):
  return runs.run(directory, epochs=2, options=options)[1]


@pytest.mark.usefixtures('offline')
def test_an_interrupted_run_is_one_run_with_each_epoch_once(
  tmp_path, monkeypatch
):
  directory = tmp_path / 'run'
  save = checkpoint.Checkpoints.save

  def killed_before_the_last(self, step, state, measured):
    if step == 8:
      raise RuntimeError('killed')
    save(self, step, state, measured)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.Checkpoints, 'save', killed_before_the_last)
    with pytest.raises(RuntimeError, match='killed'):
      _train(directory, wandb='digits', experiment='arm')
  before = read.epochs(directory)
  shown = _train(directory, wandb='digits', experiment='arm')
  assert f'wandb sync {directory}' in shown

  rows, runs, exits = _sent(directory)
  after = read.epochs(directory)
  # The second epoch was sent before it was trained again.
  assert rows == [_curves(after[0]), _curves(before[1])]
  assert [row['epoch'] for row in rows] == [1, 2]
  assert exits == [1, 0]
  assert len({run.run_id for run in runs}) == 1
  for run in runs:
    assert (run.project, run.run_group) == ('digits', 'arm')
    assert run.display_name == 'arm-seed-0'
  settings = {
    item.key: json.loads(item.value_json) for item in runs[0].config.update
  }
  saved = json.loads((directory / 'config.json').read_text())
  assert settings.items() >= saved.items()


def _write_config(path, experiment, seed):
  settings = config_lib.to_json(config_lib.Config(seed=seed))
  (path / 'config.json').write_text(
    json.dumps({'experiment': experiment, **settings})
  )


@pytest.mark.usefixtures('offline')
def test_runs_of_one_program_are_separate_runs(tmp_path):
  directories, logs = [], []
  for seed in (0, 1):
    directory = run_directory.RunDirectory(tmp_path / str(seed))
    directory.path.mkdir()
    _write_config(directory.path, experiment='arm', seed=seed)
    directories.append(directory)
    logs.append(types.SimpleNamespace(rows=[]))
  runs = weights_and_biases.Runs('digits', directories, logs, print)
  with runs:
    for epoch in (1, 2):
      for i, log in enumerate(logs):
        log.rows.append(_row(epoch) | {'test_error': 10.0 * i + epoch})
        runs.log(i)
  runs.finish(0, {'status': 'done'})
  runs.finish(1, {'status': 'diverged'})
  sent = [_sent(directory.path) for directory in directories]
  assert [[row['test_error'] for row in rows] for rows, _, _ in sent] == [
    [1, 2],
    [11, 12],
  ]
  assert [exits for _, _, exits in sent] == [[0], [1]]
  names = [started[0].display_name for _, started, _ in sent]
  assert names == ['arm-seed-0', 'arm-seed-1']


def _row(epoch):
  return {'epoch': epoch} | dict.fromkeys(metrics.CURVES, float(epoch))


class _Server:
  """A fake of wandb online that has one epoch and may fail later."""

  def __init__(self, fails_at=None):
    self.sent = []
    self.fails_at = fails_at
    self.offline = False
    self.url = 'https://server/run'
    self.step = 2

  def init(self, **_):
    return self

  def Settings(self, **_):
    return None

  def log(self, row, step):
    if step == self.fails_at:
      raise ConnectionError('no\nnetwork')
    self.sent.append(step)


def _send_three(server, path, monkeypatch):
  monkeypatch.setattr(weights_and_biases, '_import', lambda: server)
  _write_config(path, experiment=None, seed=0)
  said = []
  log = types.SimpleNamespace(rows=[_row(1), _row(2)])
  runs = weights_and_biases.Runs(
    'digits', [run_directory.RunDirectory(path)], [log], said.append
  )
  with runs:
    log.rows.append(_row(3))
    runs.log(0)
  return said


def test_missing_epochs_are_sent(tmp_path, monkeypatch):
  server = _Server()
  said = _send_three(server, tmp_path, monkeypatch)
  assert server.sent == [2, 3]
  assert said == [f'{tmp_path}: https://server/run']


def test_a_run_continues_without_the_network(tmp_path, monkeypatch):
  server = _Server(fails_at=2)
  said = _send_three(server, tmp_path, monkeypatch)
  assert server.sent == []
  assert len(said) == 2
  assert 'continues without it: no network' in said[1]


@pytest.mark.parametrize(
  ('project', 'part'),
  [('', "name of a project, got ''"), ('mine', 'pip install wandb')],
)
@pytest.mark.parametrize('command', [('run',), ('sweep', 'digits-lcam')])
def test_an_invalid_project_is_rejected(
  command, project, part, tmp_path, monkeypatch, capsys
):
  from train import __main__ as command_line

  monkeypatch.setitem(sys.modules, 'wandb', None)  # as if not installed
  flags = ['--run-dir', str(tmp_path / 'runs'), '--wandb', project]
  assert command_line.main([*command, *flags]) == 2
  message = capsys.readouterr().err
  assert '--wandb' in message
  assert part in message
  assert len(message.splitlines()) == 1
  assert not (tmp_path / 'runs').exists()
