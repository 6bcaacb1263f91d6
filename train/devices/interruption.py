"""Stops the program on SIGINT (Ctrl-C) and SIGTERM (preemption).

In training, the first signal lets the run finish its step and write a
checkpoint. A second signal stops at once, and so does any signal before or
after training, where there is nothing to save. A signal that was ignored when
the program started, as under nohup or `trap ''`, stays ignored.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import threading
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# The last signal, until the program stops. Python drops an exception that a
# signal handler raises within a destructor or a garbage collector callback.
_asked: signal.Signals | None = None


class Interrupted(KeyboardInterrupt):
  """A signal stops the program."""

  def __init__(self, by: signal.Signals, saved: bool = False):
    super().__init__(by.name)
    self.by = by
    self.saved = saved
    """Whether a checkpoint was written, by all processes at the same step."""

  @property
  def exit_code(self) -> int:
    return 128 + self.by


class Interruption:
  """Records SIGINT and SIGTERM. A context manager.

  Python delivers signals to the main thread only; in other threads it records
  nothing.
  """

  def __init__(self) -> None:
    self.by: signal.Signals | None = None
    self._before: dict[signal.Signals, Any] = {}

  def __enter__(self) -> 'Interruption':
    stop_if_asked()
    if threading.current_thread() is threading.main_thread():
      for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
          self._before[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    global _asked
    if kind is None and self.by and self._before[self.by] is _raise:
      _asked = self.by  # This run is done, but others may follow.
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _note(self, number: int, _: Any) -> None:
    if self.by is not None:
      raise Interrupted(signal.Signals(number))
    self.by = signal.Signals(number)


def raise_at_once() -> None:
  """Makes SIGINT and SIGTERM raise Interrupted.

  By default, SIGINT raises KeyboardInterrupt, and SIGTERM ends Python silently.
  """
  _handle_with(_raise)


def end_at_once() -> None:
  """Makes SIGINT and SIGTERM end the process immediately, with a message.

  For imports, where an exception can abort in the C++ code of a library, and
  for the end of the program.
  """
  _handle_with(_end)


@contextlib.contextmanager
def importing() -> Iterator[None]:
  """A context with :func:`end_at_once` instead of :func:`raise_at_once`."""
  raised = signal.getsignal(signal.SIGTERM) is _raise
  if raised:
    end_at_once()
  try:
    yield
  finally:
    if raised:
      raise_at_once()


def _handle_with(handler: Callable[[int, Any], None]) -> None:
  for number in _SIGNALS:
    if signal.getsignal(number) != signal.SIG_IGN:
      signal.signal(number, handler)


def _raise(number: int, _: Any) -> None:
  global _asked
  _asked = signal.Signals(number)
  raise Interrupted(_asked)


def _end(number: int, _: Any) -> None:
  name = signal.Signals(number).name
  with contextlib.suppress(OSError):
    os.write(2, f'python -m train: stopped by {name}.\n'.encode())
  os._exit(128 + number)


def stop_if_asked() -> None:
  """Raises Interrupted if a signal has not stopped the program yet."""
  if _asked is not None:
    raise Interrupted(_asked)


def stopped() -> None:
  """Resets the recorded signal, because the program stops."""
  global _asked
  _asked = None


def stop_if(by: signal.Signals | None) -> None:
  """Raises Interrupted if there was a signal. Requires a checkpoint."""
  if by is not None:
    raise Interrupted(by, saved=True)
