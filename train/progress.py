"""Progress of a run: a live line in a terminal, else plain lines.

Plain lines come after each epoch, and within an epoch longer than a minute.
"""

import sys
import time
from typing import Any

import rich.console
import rich.live
import rich.text

_REFRESH_SECONDS = 0.2

LINE_SECONDS = 60.0
"""Between lines without a terminal, where every line stays."""


def console() -> rich.console.Console:
  """A console on standard error, with a live line only in a terminal.

  With FORCE_COLOR, rich would treat a pipe as a terminal.
  """
  return rich.console.Console(
    stderr=True, force_terminal=bool(sys.stderr and sys.stderr.isatty())
  )


class Progress:
  """Shows the progress of one run. A context manager.

  Args:
    console: Where it is shown.
    title: Name of the run.
    epochs: Epochs of the run.
    steps: Steps of an epoch.
    steps_done: Steps of the run that an earlier process took. They count for
      what is done but not for the time that a step takes.
  """

  def __init__(
    self,
    console: rich.console.Console,
    title: str,
    epochs: int,
    steps: int,
    steps_done: int = 0,
  ):
    self._console = console
    self._title = title
    self._epochs = epochs
    self._steps = steps
    self._row: dict[str, Any] | None = None
    self._started = time.monotonic()
    self._epochs_before = steps_done / steps
    self._shown = time.monotonic()
    self._seconds = _REFRESH_SECONDS if console.is_terminal else LINE_SECONDS
    self._live = rich.live.Live(console=console, auto_refresh=False)

  def __enter__(self) -> 'Progress':
    if self._console.is_terminal:
      self._live.start()
    return self

  def __exit__(self, *_: object) -> None:
    if self._console.is_terminal:
      self._live.stop()

  def say(self, line: str) -> None:
    """Prints a permanent line."""
    self._console.print(line, highlight=False, markup=False, soft_wrap=True)

  def wants_step(self) -> bool:
    """Whether enough time has passed to show another step."""
    return time.monotonic() - self._shown > self._seconds

  def step(self, epoch: int, step: int, loss: float) -> None:
    """Shows a step of an epoch. Both are counted from 1."""
    done = (epoch - 1) + step / self._steps
    line = f'step {step}/{self._steps}  loss {loss:.4f}'
    if self._row is not None and self._console.is_terminal:
      line += f'  |  last epoch: {_figures(self._row)}'
    self._show(epoch, f'{line}  {self._time_left(done)}')

  def epoch(self, row: dict[str, Any]) -> None:
    """Shows the row of a finished epoch."""
    self._row = row
    self._show(
      row['epoch'], f'{_figures(row)}  {self._time_left(row["epoch"])}'
    )

  def _show(self, epoch: int, line: str) -> None:
    self._shown = time.monotonic()
    if not self._console.is_terminal:
      self.say(self._prefix(epoch) + line)
      return
    text = rich.text.Text(self._prefix(epoch) + line, overflow='ellipsis')
    text.no_wrap = True
    self._live.update(text, refresh=True)

  def _prefix(self, epoch: int) -> str:
    return f'{self._title}  epoch {epoch}/{self._epochs}  '

  def _time_left(self, epochs_done: float) -> str:
    here = epochs_done - self._epochs_before
    if here <= 0:
      return ''
    elapsed = time.monotonic() - self._started
    seconds = elapsed / here * (self._epochs - epochs_done)
    return f'{duration(seconds)} left'


def _figures(row: dict[str, Any]) -> str:
  parts = [f'loss {_fixed(row["train_loss"], 4)}']
  for split in ('validation', 'test'):
    # Not every epoch is tested.
    if f'{split}_error' in row:
      parts.append(f'{split} error {_fixed(row[f"{split}_error"], 2)} %')
  if row['horizontal_fraction'] is not None:
    parts.append(f'horizontal {100 * row["horizontal_fraction"]:.0f} %')
  parts.append(f'{row["images_per_second"]:.0f} images/s')
  return '  '.join(parts)


def _fixed(value: float | None, digits: int) -> str:
  return 'not finite' if value is None else f'{value:.{digits}f}'


def duration(seconds: float) -> str:
  """Formats seconds: 42s, 3m05s, 2h10m."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}h{minutes:02}m'
  return f'{minutes}m{seconds:02}s' if minutes else f'{seconds}s'
