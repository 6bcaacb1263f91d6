"""The figures of each epoch: made from the steps' own, and written down."""

from collections.abc import Sequence
import json
import os
import pathlib
import shutil
import time
from typing import Any

import numpy as np
from tensorboardX import event_file_writer
from tensorboardX import summary
from tensorboardX.proto import event_pb2
from tensorboardX.proto import summary_pb2

from train import errors
from train import processes
from train import run_directory
from train.program.step import EvalMetrics
from train.program.step import StepMetrics

# TensorBoard and Weights & Biases show these; the rest of a row only places it.
CURVES = (
  'train_loss',
  'train_error',
  'test_loss',
  'test_error',
  'learning_rate',
  'horizontal_fraction',
  'mean_momentum',
  'images_per_second',
)

# What TensorBoard draws into one chart, under "Custom scalars".
_LAYOUT = {
  'outcome': {
    'error (%)': ['Multiline', ['train_error', 'test_error']],
    'loss': ['Multiline', ['train_loss', 'test_loss']],
  },
  'momentum': {
    'mean momentum': ['Multiline', ['mean_momentum']],
    'share of horizontal steps': ['Multiline', ['horizontal_fraction']],
  },
  'course': {
    'learning rate': ['Multiline', ['learning_rate']],
    'images a second': ['Multiline', ['images_per_second']],
  },
}


def summarize_epoch(
  steps: Sequence[StepMetrics], batch_size: int, examples: int
) -> dict[str, float]:
  """Figures of one epoch from those of its steps.

  Args:
    steps: Metrics of the dispatches in order, each field of shape=(steps,).
    batch_size: Images of each step but the last, which may have less.
    examples: Images of the epoch.

  Returns:
    ``train_loss`` and ``train_error`` (percent), means over the images as they
    were trained on; ``horizontal_fraction``, the share of the steps taken with
    the horizontal momentum; ``mean_momentum``.
  """
  loss, correct, momentum, horizontal = (
    np.concatenate(field).astype(np.float64)
    for field in zip(*steps, strict=True)
  )
  sizes = np.full(len(loss), batch_size, np.float64)
  sizes[-1] = examples - batch_size * (len(loss) - 1)
  return {
    'train_loss': float(loss @ sizes / examples),
    'train_error': float(100 * (examples - correct.sum()) / examples),
    'horizontal_fraction': float(horizontal.mean()),
    'mean_momentum': float(momentum.mean()),
  }


def first_not_finite(steps: Sequence[StepMetrics], otherwise: int) -> int:
  """The first step of an epoch whose loss is not finite, counted from 1.

  Args:
    steps: Metrics of the dispatches in order, each field of shape=(steps,).
    otherwise: What to return where every loss is finite.
  """
  (where,) = np.nonzero(~np.isfinite(np.concatenate([s.loss for s in steps])))
  return int(where[0]) + 1 if len(where) else otherwise


def summarize_test(
  steps: Sequence[EvalMetrics], examples: int
) -> dict[str, float]:
  """Figures of one evaluation from those of its steps.

  Args:
    steps: Metrics of the evaluation steps.
    examples: Images of the test set.

  Returns:
    ``test_loss``, the mean, and ``test_error`` in percent.
  """
  loss = sum(float(step.loss) for step in steps)
  correct = sum(int(step.correct) for step in steps)
  return {
    'test_loss': loss / examples,
    'test_error': 100 * (examples - correct) / examples,
  }


def steps_row(epoch: int, steps: Sequence[StepMetrics]) -> dict[str, Any]:
  """What is kept of the single steps of an epoch, as JSON values.

  Args:
    epoch: From 1.
    steps: Metrics of the dispatches in order, each field of shape=(steps,).

  Returns:
    ``epoch``, and a list each of ``loss``, ``momentum`` (with which the step
    was taken) and ``horizontal`` (1 where that was the horizontal one). Numbers
    are float32 with no more digits than tell them apart. ``None`` stands for a
    number that is not finite, and for a list of momenta or phases where the
    optimizer has none.

  Example:
    >>> nothing = np.float32([np.nan, np.nan])
    >>> steps = StepMetrics(
    ...     np.float32([0.7, np.nan]), np.int32([3, 4]), nothing, nothing
    ... )
    >>> steps_row(1, [steps])
    {'epoch': 1, 'loss': [0.7, None], 'momentum': None, 'horizontal': None}
  """
  row: dict[str, Any] = {'epoch': epoch}
  for name in ('loss', 'momentum', 'horizontal'):
    values = np.concatenate([getattr(part, name) for part in steps])
    is_finite = np.isfinite(values)
    as_number = int if name == 'horizontal' else _shortest
    row[name] = (
      [
        as_number(value) if finite else None
        for value, finite in zip(values, is_finite, strict=True)
      ]
      if name == 'loss' or is_finite.any()
      else None
    )
  return row


def _shortest(value: np.float32) -> float:
  # float(value) would have the 17 digits of a float64.
  return float(str(value))


class MetricsLog:
  """A row an epoch, in metrics.jsonl, in steps.jsonl and for TensorBoard.

  Only the first process writes them; all of them know the rows of metrics.
  """

  def __init__(self, directory: run_directory.RunDirectory, epochs_done: int):
    """Opens the log of a run of which ``epochs_done`` epochs will be kept.

    Raises:
      UsageError: It lacks one of them.
    """
    self._directory = directory
    self._events: event_file_writer.EventsWriter | None = None

    def reopen() -> list[dict[str, Any]]:
      # A run may have begun before there were steps.jsonl.
      _cut(directory.steps, epochs_done, from_any=True)
      rows = _cut(directory.metrics, epochs_done)
      tensorboard = directory.tensorboard
      with run_directory.writing(tensorboard):
        shutil.rmtree(tensorboard, ignore_errors=True)
        tensorboard.mkdir()
        # Not SummaryWriter: it writes in a thread, which a full disk ends
        # without a word, and waits for it for ever.
        self._events = event_file_writer.EventsWriter(
          str(tensorboard / 'events')
        )
        self._write(summary.custom_scalars(_LAYOUT), 0)
        for row in rows:
          self._add_events(row)
      return rows

    self.rows = processes.from_first(reopen)

  def append(self, row: dict[str, Any], steps: Sequence[StepMetrics]) -> None:
    """Writes the row of one epoch: finite numbers and ``None``.

    Args:
      row: The figures of the epoch.
      steps: Those of its steps, see :func:`steps_row`.
    """
    self.rows.append(row)
    if not processes.is_first():
      return
    _append(self._directory.steps, steps_row(row['epoch'], steps))
    _append(self._directory.metrics, row)
    with run_directory.writing(self._directory.tensorboard):
      self._add_events(row)

  def best_test_error(self) -> float | None:
    """The lowest test error of any epoch, in percent."""
    return min((row['test_error'] for row in self.rows), default=None)

  def close(self) -> None:
    if self._events is not None:
      self._events.close()

  def _add_events(self, row: dict[str, Any]) -> None:
    for name in CURVES:
      if row[name] is not None:
        self._write(summary.scalar(name, row[name]), row['epoch'])

  def _write(self, content: summary_pb2.Summary, epoch: int) -> None:
    assert self._events is not None
    self._events.write_event(
      event_pb2.Event(wall_time=time.time(), step=epoch, summary=content)
    )
    self._events.flush()


def _cut(
  jsonl: pathlib.Path, epochs_done: int, from_any: bool = False
) -> list[dict[str, Any]]:
  """Leaves the rows of so many epochs in a file, and returns them.

  Raises:
    UsageError: One is missing. With ``from_any`` the first ones may be.
  """
  with run_directory.writing(jsonl):
    rows = [row for row in read_rows(jsonl) if row['epoch'] <= epochs_done]
  epochs = [row['epoch'] for row in rows]
  first = epochs[0] if epochs and from_any else 1
  if epochs != [*range(first, epochs_done + 1)] and (epochs or not from_any):
    raise errors.UsageError(
      f'{jsonl} is damaged: of the {epochs_done} epochs before the checkpoint'
      f' only {len(rows)} can be read. To start from the beginning, choose'
      ' another directory.'
    )
  run_directory.replace_text(jsonl, ''.join(map(_line, rows)))
  return rows


def _append(jsonl: pathlib.Path, row: dict[str, Any]) -> None:
  with run_directory.writing(jsonl), jsonl.open('a') as file:
    file.write(_line(row))
    file.flush()
    os.fsync(file.fileno())


def _line(row: dict[str, Any]) -> str:
  return json.dumps(row, allow_nan=False) + '\n'


def read_rows(jsonl: pathlib.Path) -> list[dict[str, Any]]:
  """The rows of a metrics.jsonl or steps.jsonl, if it is there.

  A last line cut off by a crash is left out.
  """
  if not jsonl.exists():
    return []
  rows = []
  for line in jsonl.read_bytes().splitlines():
    try:
      rows.append(json.loads(line))
    except ValueError:
      break
  return rows
