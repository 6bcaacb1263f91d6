"""The progress output on a terminal and in a pipe."""

import io
import sys

import pytest
import rich.console

from train import progress

_ROW = {
  'epoch': 2,
  'train_loss': 0.51234,
  'test_error': 12.345,
  'horizontal_fraction': 0.61,
  'images_per_second': 1234.5,
}


def _shown(terminal, row=_ROW):
  stream = io.StringIO()
  console = rich.console.Console(
    file=stream, force_terminal=terminal, width=200
  )
  with progress.Progress(console, 'digits', epochs=4, steps=10) as shown:
    if terminal:
      shown.step(2, 5, 0.75)
    shown.epoch(row)
  return stream.getvalue()


def test_a_pipe_receives_one_plain_line_per_epoch():
  lines = _shown(terminal=False).splitlines()
  assert len(lines) == 1
  assert '\x1b' not in lines[0]
  for part in (
    'epoch 2/4',
    'loss 0.5123',
    'test error 12.35 %',
    'horizontal 61 %',
    '1234 images/s',
    'left',
  ):
    assert part in lines[0]


def test_a_terminal_shows_a_live_line_with_the_step():
  shown = _shown(terminal=True)
  assert 'step 5/10' in shown
  assert 'loss 0.7500' in shown
  assert '\x1b' in shown


def test_a_pipe_receives_one_line_per_minute_within_an_epoch(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  console = rich.console.Console(file=io.StringIO(), width=200)
  with progress.Progress(console, 'run', epochs=2, steps=100) as shown:
    for step in range(1, 100):
      now[0] += 2
      if shown.wants_step():
        shown.step(1, step, 0.75)
    shown.epoch(_ROW | {'epoch': 1})
    assert not shown.wants_step()
  lines = console.file.getvalue().splitlines()
  assert len(lines) == 4
  for line, step in zip(lines, (31, 62, 93), strict=False):
    assert f'epoch 1/2  step {step}/100  loss 0.7500' in line
    assert 'left' in line


def test_an_epoch_without_a_test_shows_no_error():
  row = {k: v for k, v in _ROW.items() if k != 'test_error'}
  line = _shown(False, row)
  assert 'loss 0.5123' in line and 'error' not in line


def test_without_phases_no_share_is_shown():
  assert 'horizontal' not in _shown(False, _ROW | {'horizontal_fraction': None})


def test_a_non_finite_loss_is_shown_as_such():
  assert 'loss not finite' in _shown(False, _ROW | {'train_loss': None})


@pytest.mark.parametrize(
  ('steps_done', 'first_seconds'),
  [(600, 90), (609, 9)],
  ids=('epoch', 'step'),
)
def test_the_time_left_counts_only_steps_of_this_process(
  monkeypatch, steps_done, first_seconds
):
  now = [100.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  console = rich.console.Console(file=io.StringIO(), width=200)
  # Resumed in or after epoch 60 of 100; each step takes 9 seconds.
  with progress.Progress(
    console, 'run', epochs=100, steps=10, steps_done=steps_done
  ) as shown:
    for epoch, seconds in ((61, first_seconds), (62, 90)):
      now[0] += seconds
      shown.epoch(_ROW | {'epoch': epoch})
  for line, left in zip(
    console.file.getvalue().splitlines(), ('58m30s', '57m00s'), strict=True
  ):
    assert line.endswith(f'{left} left')


def test_no_time_left_is_shown_before_the_first_step_of_this_process():
  console = rich.console.Console(file=io.StringIO(), width=200)
  with progress.Progress(
    console, 'run', epochs=9, steps=10, steps_done=15
  ) as shown:
    shown.step(2, 5, 0.75)
  assert console.file.getvalue().rstrip().endswith('loss 0.7500')


def test_a_pipe_receives_lines_even_with_force_color(monkeypatch):
  stream = io.StringIO()
  monkeypatch.setenv('FORCE_COLOR', '1')
  monkeypatch.setattr(sys, 'stderr', stream)
  with progress.Progress(progress.console(), 'digits', 4, 10) as shown:
    assert not shown.wants_step()
    shown.epoch(_ROW)
  assert len(stream.getvalue().splitlines()) == 1
  assert '\x1b' not in stream.getvalue()
