"""Being asked to stop: SIGINT (Ctrl-C) and SIGTERM (preemption).

A run finishes its step and writes a checkpoint first. Who asks twice does not
want to wait, and before and after the training there is nothing to save. A
signal that was ignored when the program began, as nohup and `trap ''` have it,
stays ignored.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import threading
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Asked to stop, and not yet stopped. Python drops an exception that a signal
# raises within a destructor or a callback of the garbage collector.
_asked: signal.Signals | None = None


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
    stop_if_asked()
    if threading.current_thread() is threading.main_thread():
      for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
          self._before[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    global _asked
    if kind is None and self.by and self._before[self.by] is _raise:
      _asked = self.by  # This run is done. There may be others.
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
  _handle_with(_raise)


def end_at_once() -> None:
  """From now on such a signal ends the program on the spot, with a sentence.

  For imports: an exception in the middle of one ends in the C++ of a library,
  which aborts. And for when all is done.
  """
  _handle_with(_end)


@contextlib.contextmanager
def importing() -> Iterator[None]:
  """Within it :func:`end_at_once` holds in place of :func:`raise_at_once`."""
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
  """Raises Interrupted for a signal that has not stopped the program so far."""
  if _asked is not None:
    raise Interrupted(_asked)


def stopped() -> None:
  """Says that the program stops, as it was asked to."""
  global _asked
  _asked = None


def stop_if(by: signal.Signals | None) -> None:
  """Raises Interrupted, after a checkpoint, if there was a signal."""
  if by is not None:
    raise Interrupted(by, saved=True)
