"""Figures of an epoch against NumPy, and the files that hold them."""

import json

import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from train import metrics
from train.step import EvalMetrics
from train.step import StepMetrics


def _row(epoch):
  return {
    'epoch': epoch,
    'step': 10 * epoch,
    'train_loss': 1 / epoch,
    'train_error': 2.0,
    'test_loss': 0.5,
    'test_error': 10.0 - epoch % 3,
    'learning_rate': 0.1,
    'horizontal_fraction': None,
    'mean_momentum': 0.9,
    'images_per_second': 100.0,
    'seconds': 1.0,
  }


def test_an_epoch_is_the_mean_over_its_images():
  dispatches = [
    StepMetrics(
      loss=np.asarray([2.0, 1.0], np.float32),
      correct=np.asarray([5, 7], np.int32),
      momentum=np.asarray([0.9, 0.93], np.float32),
      horizontal=np.asarray([0.0, 1.0], np.float32),
    ),
    StepMetrics(
      loss=np.asarray([4.0], np.float32),
      correct=np.asarray([1], np.int32),
      momentum=np.asarray([0.93], np.float32),
      horizontal=np.asarray([1.0], np.float32),
    ),
  ]
  epoch = metrics.summarize_epoch(dispatches, 10, 25)
  np.testing.assert_allclose(epoch['train_loss'], (20 + 10 + 20) / 25)
  np.testing.assert_allclose(epoch['train_error'], 100 * 12 / 25)
  np.testing.assert_allclose(epoch['horizontal_fraction'], 2 / 3)
  np.testing.assert_allclose(epoch['mean_momentum'], 0.92, rtol=1e-6)


def test_the_first_loss_that_is_not_finite():
  steps = [
    StepMetrics(np.asarray(losses, np.float32), None, None, None)
    for losses in ([1.0, 2.0], [np.inf], [np.nan, 1.0])
  ]
  assert metrics.first_not_finite(steps, 5) == 3
  assert metrics.first_not_finite(steps[:1], 5) == 5


def test_an_evaluation_is_the_mean_over_the_test_set():
  steps = [
    EvalMetrics(np.float32(30), np.int32(8)),
    EvalMetrics(np.float32(6), np.int32(2)),
  ]
  tested = metrics.summarize_test(steps, 12)
  assert tested == {'test_loss': 3.0, 'test_error': pytest.approx(100 / 6)}


def test_rows_are_json_lines_and_tensorboard_reads_the_same(tmp_path):
  log = metrics.MetricsLog(tmp_path / 'm.jsonl', tmp_path / 'tb', 0)
  for epoch in (1, 2, 3):
    log.append(_row(epoch))
  log.close()
  rows = [json.loads(line) for line in (tmp_path / 'm.jsonl').open()]
  assert rows == [_row(1), _row(2), _row(3)]
  assert log.best_test_error() == 8.0
  events = event_accumulator.EventAccumulator(str(tmp_path / 'tb'))
  events.Reload()
  losses = [(e.step, e.value) for e in events.Scalars('train_loss')]
  np.testing.assert_allclose(losses, [(1, 1), (2, 1 / 2), (3, 1 / 3)])
  assert 'horizontal_fraction' not in events.Tags()['scalars']


def test_a_log_taken_up_again_keeps_the_epochs_that_count(tmp_path):
  log = metrics.MetricsLog(tmp_path / 'm.jsonl', tmp_path / 'tb', 0)
  for epoch in (1, 2, 3):
    log.append(_row(epoch))
  log.close()
  with (tmp_path / 'm.jsonl').open('a') as file:
    file.write('{"epoch": 4, "ste')  # cut off by a crash
  log = metrics.MetricsLog(tmp_path / 'm.jsonl', tmp_path / 'tb', 2)
  log.append(_row(3))
  log.close()
  rows = metrics.read_rows(tmp_path / 'm.jsonl')
  assert [row['epoch'] for row in rows] == [1, 2, 3]
