"""A small run without figures, and the same run packed."""

import io

import pytest
import rich.console

from train import config as config_lib
from train import loop
from train import pictures
from train.records import pack
from train.records import read

_CONFIG = config_lib.Config(
  model='mlp', hidden_size=4, epochs=2, batch_size=64, train_examples=64
)


def _run(directory):
  stream = io.StringIO()
  console = rich.console.Console(file=stream, width=1000)
  summary = loop.run(_CONFIG, directory, console=console)
  return summary, stream.getvalue()


def test_a_run_without_figures_has_a_summary(tmp_path, monkeypatch):
  def fail(*_):
    raise RuntimeError('no\nfont')

  with monkeypatch.context() as patched:
    patched.setattr(pictures, 'draw_run', fail)
    summary, shown = _run(tmp_path / 'runs' / 'run')
  path = tmp_path / 'runs' / 'run'
  assert f'{path}: a figure cannot be drawn: no font\n' in shown
  assert not list((tmp_path / 'runs').rglob('*.png'))

  run = read.run(tmp_path / 'runs' / 'run')
  assert run.summary == summary
  assert summary['status'] == 'done'
  assert len(run.steps) == 2

  # The packed run is finished too.
  pack.pack([tmp_path / 'runs'], tmp_path / 'packed')
  again, shown = _run(tmp_path / 'packed' / 'run')
  assert again == pytest.approx(summary)
  assert 'is finished' in shown
  assert not (tmp_path / 'packed' / 'run').exists()
