"""Signals that ask to stop are handled, unless the parent ignores them."""

import signal
import subprocess
import sys

import pytest

from train.devices import interruption


@pytest.fixture(autouse=True)
def _as_before():
  before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
  yield
  interruption.stopped()
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_the_parent_ignores_stays_ignored(number):
  """As with nohup, or a shell that starts a background job."""
  signal.signal(number, signal.SIG_IGN)
  interruption.raise_at_once()
  with interruption.Interruption() as interrupted:
    signal.raise_signal(number)
    assert interrupted.by is None
    assert signal.getsignal(number) == signal.SIG_IGN
  interruption.end_at_once()
  signal.raise_signal(number)


class _Garbage:
  """Python ignores exceptions in __del__."""

  def __del__(self):
    signal.raise_signal(signal.SIGTERM)
    # The handler is called before the next instruction.
    self.reached = True


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_signal_within_a_destructor_still_stops_the_program():
  interruption.raise_at_once()
  garbage = _Garbage()
  del garbage
  for _ in range(2):  # Any number of times.
    with (
      pytest.raises(interruption.Interrupted) as raised,
      interruption.Interruption(),
    ):
      pytest.fail('It trains.')
    assert raised.value.exit_code == 143
  with pytest.raises(interruption.Interrupted):
    interruption.stop_if_asked()
  interruption.stopped()
  interruption.stop_if_asked()


def test_a_signal_in_the_last_step_stops_before_the_next_run():
  interruption.raise_at_once()
  with interruption.Interruption():
    signal.raise_signal(signal.SIGINT)
  with pytest.raises(interruption.Interrupted):
    interruption.stop_if_asked()


def test_a_run_in_another_program_leaves_no_state():
  with interruption.Interruption() as interrupted:
    signal.raise_signal(signal.SIGINT)
  assert interrupted.by == signal.SIGINT
  interruption.stop_if_asked()


_IMPORT = """
import signal, sys
from train.devices import interruption
interruption.raise_at_once()
with interruption.importing():
  signal.raise_signal(int(sys.argv[1]))
  print('still there', flush=True)
"""


@pytest.mark.parametrize(
  ('number', 'code'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_asked_to_stop_during_imports(number, code):
  ended = subprocess.run(
    [sys.executable, '-c', _IMPORT, str(int(number))],
    capture_output=True,
    text=True,
  )
  assert ended.returncode == code
  assert ended.stderr == f'python -m train: stopped by {number.name}.\n'
  assert ended.stdout == ''


def test_after_the_imports_a_signal_raises_again():
  interruption.raise_at_once()
  with interruption.importing():
    pass
  with pytest.raises(interruption.Interrupted):
    signal.raise_signal(signal.SIGTERM)


def test_without_the_libraries_of_the_program():
  """As after a plain `pip install .`: python -S sees no installed packages."""
  ended = subprocess.run(
    [sys.executable, '-S', '-m', 'train'], capture_output=True, text=True
  )
  assert ended.returncode == 1
  assert len(ended.stderr.splitlines()) == 1
  assert 'tyro is missing' in ended.stderr
  assert "'.[train]'" in ended.stderr
