"""Computes the metrics of each epoch from those of its steps, and logs them."""

from collections.abc import Callable, Mapping, Sequence
import functools
import json
import os
import pathlib
import sys
import time
from typing import Any, TypeVar

import numpy as np

from train import errors
from train import files
from train.devices import processes
from train.program.step import EvalMetrics
from train.program.step import StepMetrics
from train.records import read
from train.records import run_directory
from train.records import schema
from train.records.schema import EpochRow
from train.records.schema import StepsRow

Row = TypeVar('Row', EpochRow, StepsRow)


def _import_tensorboard() -> tuple[Any, Any, Any]:
  """Imports the parts of tensorboardX that are needed, without PyTorch.

  tensorboardX imports PyTorch if it is installed, which takes a third of the
  start time of a run, and needs it only for PyTorch tensors.
  """
  is_hidden = 'torch' not in sys.modules
  if is_hidden:
    sys.modules['torch'] = None  # type: ignore[assignment]
  try:
    from tensorboardX import event_file_writer
    from tensorboardX import summary
    from tensorboardX.proto import event_pb2
  finally:
    if is_hidden:
      del sys.modules['torch']
  return event_file_writer.EventsWriter, summary, event_pb2.Event


_EventsWriter, _summary, _Event = _import_tensorboard()

# Prefix of the file names of TensorBoard.
_EVENTS = 'events'

# Shown by TensorBoard and Weights & Biases.
CURVES = (
  'train_loss',
  'train_error',
  'test_loss',
  'test_error',
  'validation_loss',
  'validation_error',
  'learning_rate',
  'horizontal_fraction',
  'mean_momentum',
  'images_per_second',
)

# Charts of TensorBoard under "Custom scalars".
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
    'images per second': ['Multiline', ['images_per_second']],
  },
}


def summarize_epoch(
  steps: Sequence[StepMetrics], batch_size: int, examples: int
) -> dict[str, float]:
  """Computes the metrics of an epoch from those of its steps.

  Args:
    steps: Metrics of the dispatches in order, each field of shape=(steps,).
    batch_size: Images of each step, except the last one, which may have fewer.
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
    otherwise: The result if every loss is finite.
  """
  (where,) = np.nonzero(~np.isfinite(np.concatenate([s.loss for s in steps])))
  return int(where[0]) + 1 if len(where) else otherwise


def summarize_test(
  steps: Sequence[EvalMetrics], examples: int, split: str = 'test'
) -> dict[str, float]:
  """Computes the metrics of an evaluation from those of its steps.

  Args:
    steps: Metrics of the evaluation steps.
    examples: Images of the split.
    split: Prefix of the names of the results.

  Returns:
    ``test_loss``, the mean, and ``test_error`` in percent.
  """
  loss = sum(float(step.loss) for step in steps)
  correct = sum(int(step.correct) for step in steps)
  return {
    f'{split}_loss': loss / examples,
    f'{split}_error': 100 * (examples - correct) / examples,
  }


def steps_row(epoch: int, steps: Sequence[StepMetrics]) -> StepsRow:
  """The record of the steps of an epoch, as JSON values.

  Args:
    epoch: The epoch, from 1.
    steps: Metrics of the dispatches in order, each field of shape=(steps,).

  Returns:
    ``epoch``, and the lists ``loss``, ``momentum`` (of the step) and
    ``horizontal`` (1 if that is the horizontal momentum). Numbers are float32
    with the fewest digits that identify them. ``None`` stands for a non-finite
    number, and for a whole list of momenta or phases if the optimizer has
    none.

  Example:
    >>> nothing = np.float32([np.nan, np.nan])
    >>> steps = StepMetrics(
    ...     np.float32([0.7, np.nan]), np.int32([3, 4]), nothing, nothing
    ... )
    >>> steps_row(1, [steps])
    {'epoch': 1, 'loss': [0.7, None], 'momentum': None, 'horizontal': None}
  """
  row: Any = _nothing_of(epoch)
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
  steps_of_epoch: StepsRow = row
  return steps_of_epoch


def _nothing_of(epoch: int) -> StepsRow:
  """The record of an epoch whose steps were not recorded."""
  return {'epoch': epoch, 'loss': None, 'momentum': None, 'horizontal': None}


def _shortest(value: np.float32) -> float:
  # float(value) would be printed with the 17 digits of a float64.
  return float(str(value))


class MetricsLog:
  """Writes one row per epoch to metrics.jsonl, steps.jsonl and TensorBoard.

  Only the first process writes; all processes have the rows of metrics.
  """

  def __init__(self, directory: run_directory.RunDirectory, epochs_done: int):
    """Opens the log of a run and keeps its first ``epochs_done`` epochs.

    Raises:
      UsageError: If one of them is missing.
    """
    self._directory = directory
    self._close_events = lambda: None
    self._write: Callable[[Any, int], None] = lambda *_: None

    def reopen() -> list[EpochRow]:
      path = directory.path
      _cut(
        directory.steps,
        lambda: (
          read.steps(path, first=epochs_done)
          if os.path.lexists(directory.steps)
          # The run was started by a version without this file.
          else [_nothing_of(epoch) for epoch in range(1, epochs_done + 1)]
        ),
      )

      def read_first() -> list[EpochRow]:
        rows = read.epochs(path, first=epochs_done)
        if rows and (path / read.CONFIG).exists():
          schema.check_tests(read.config(path), rows, str(directory.metrics))
        return rows

      rows = _cut(directory.metrics, read_first)
      tensorboard = directory.tensorboard
      with files.writing(tensorboard):
        # It may be a link to a directory of TensorBoard.
        tensorboard.mkdir(exist_ok=True)
        for old in tensorboard.glob(f'{_EVENTS}*'):
          old.unlink()
        # Not SummaryWriter: its thread dies silently if the disk is full, and
        # closing it then blocks forever.
        events = _EventsWriter(str(tensorboard / _EVENTS))
        self._close_events = events.close
        self._write = functools.partial(_write, events)
        self._write(_summary.custom_scalars(_LAYOUT), 0)
        for row in rows:
          self._add_events(row)
      return rows

    self.rows = processes.from_first(reopen)

  def append(self, row: EpochRow, steps: Sequence[StepMetrics]) -> None:
    """Writes the row of one epoch: finite numbers and ``None``.

    Args:
      row: The metrics of the epoch.
      steps: Those of its steps, see :func:`steps_row`.
    """
    self.rows.append(row)
    if not processes.is_first():
      return
    _append(self._directory.steps, steps_row(row['epoch'], steps))
    _append(self._directory.metrics, row)
    with files.writing(self._directory.tensorboard):
      self._add_events(row)

  def best_test_error(self) -> float | None:
    """The lowest test error of any epoch, in percent."""
    return min(
      (row['test_error'] for row in self.rows if 'test_error' in row),
      default=None,
    )

  def close(self) -> None:
    self._close_events()

  def _add_events(self, row: EpochRow) -> None:
    values: Mapping[str, Any] = row
    for name in CURVES:
      if values.get(name) is not None:
        self._write(_summary.scalar(name, values[name]), row['epoch'])


def _write(events: Any, content: Any, epoch: int) -> None:
  """Writes an event and flushes it to the disk."""
  events.write_event(_Event(wall_time=time.time(), step=epoch, summary=content))
  events.flush()


def _cut(
  jsonl: pathlib.Path, read_first: Callable[[], Sequence[Row]]
) -> list[Row]:
  """Truncates a file to the valid rows, and returns them.

  Args:
    jsonl: The file.
    read_first: Reads the rows, see :func:`train.records.read.epochs`.

  Raises:
    UsageError: If a row is missing or damaged. The file is then unchanged.
  """
  try:
    rows = list(read_first())
  except errors.UsageError as error:
    raise errors.UsageError(
      f'{jsonl} is damaged: {error} To start from the beginning, choose another'
      ' directory.'
    ) from error
  with files.writing(jsonl):
    files.replace_text(jsonl, ''.join(map(_line, rows)))
  return rows


def _append(jsonl: pathlib.Path, row: Mapping[str, Any]) -> None:
  with files.writing(jsonl):
    files.append_text(jsonl, _line(row))


def _line(row: Mapping[str, Any]) -> str:
  return json.dumps(row, allow_nan=False) + '\n'
