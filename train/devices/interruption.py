"""Being asked to stop: SIGINT (Ctrl-C) and SIGTERM (preemption).

A run finishes its step and writes a checkpoint first. Who asks twice does not
want to wait, and before and after the training there is nothing to save.
"""

import signal
import threading
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
  """The program stops, as it was asked to."""

  def __init__(self, by: signal.Signals, saved: bool = False):
    super().__init__(by.name)
    self.by = by
    self.saved = saved
    """Whether a checkpoint was written, by all processes at the same step."""

  @property
  def exit_code(self) -> int:
    return 128 + self.by


class Interruption:
  """Notes the signals that ask to stop. Use it as a context manager.

  Only the main thread can: elsewhere it notes nothing.
  """

  def __init__(self) -> None:
    self.by: signal.Signals | None = None
    self._before: dict[signal.Signals, Any] = {}

  def __enter__(self) -> 'Interruption':
    if threading.current_thread() is threading.main_thread():
      self._before = {s: signal.signal(s, self._note) for s in _SIGNALS}
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _note(self, number: int, _: Any) -> None:
    if self.by is not None:
      raise Interrupted(signal.Signals(number))
    self.by = signal.Signals(number)


def raise_at_once() -> None:
  """From now on a signal that asks to stop raises Interrupted.

  Python alone would raise a KeyboardInterrupt for one of them, and end without
  a word at the other.
  """
  for number in _SIGNALS:
    if signal.getsignal(number) != signal.SIG_IGN:  # As nohup wants it.
      signal.signal(number, _raise)


def _raise(number: int, _: Any) -> None:
  raise Interrupted(signal.Signals(number))


def stop_if(by: signal.Signals | None) -> None:
  """Raises Interrupted, after a checkpoint, if there was a signal."""
  if by is not None:
    raise Interrupted(by, saved=True)
