"""Being asked to stop: SIGINT (Ctrl-C) and SIGTERM (preemption).

A run finishes its step and writes a checkpoint first. Who asks twice does not
want to wait.
"""

import signal
import threading
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
  """A run has stopped as it was asked to, after a checkpoint."""

  def __init__(self, by: signal.Signals):
    super().__init__(by.name)
    self.by = by


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
      raise KeyboardInterrupt
    self.by = signal.Signals(number)


def stop_if(by: signal.Signals | None) -> None:
  """Raises Interrupted if there was a signal."""
  if by is not None:
    raise Interrupted(by)
