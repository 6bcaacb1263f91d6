"""The overhead of train.loop beyond the training steps.

Compares whole runs, with shuffling, progress, metrics, TensorBoard, evaluation
and checkpoints, with the same number of bare jitted steps.
"""

from collections.abc import Callable
import dataclasses
import io
import itertools
import json
import pathlib
import tempfile
import time
from typing import Any
from unittest import mock

import jax
import jax.monitoring
import rich.console

from benchmarks import harness
from benchmarks import workload
from train import config as config_lib
from train import data
from train import errors
from train import loop
from train import progress

_COMPILATION = '/jax/core/compile/backend_compile_duration'


def measure(quick: bool) -> harness.Results:
  """Times runs against bare steps, and counts compilations."""
  digits = config_lib.Config(dataset='digits')
  cases = {
    'WRN-10-1, digits': digits,
    'WRN-10-1, CIFAR-10 at 16×16': config_lib.Config(
      dataset='cifar10', image_size=16, train_examples=12800
    ),
  }
  epochs = 9
  if quick:
    cases = {
      'WRN-10-1, digits': dataclasses.replace(
        digits, train_examples=40, batch_size=16
      )
    }
    epochs = 2
  results = {}
  for name, config in cases.items():
    try:
      results[name] = _measure_case(config, epochs, 1 if quick else 3)
    except errors.UsageError as error:
      print(f'Left out, {name}: {error}')
  return results


def tables(results: harness.Results) -> str:
  """The results as Markdown."""
  return harness.table(
    [
      'training',
      'steps per epoch',
      'bare steps, images/s',
      'train.loop, images/s',
      'bare / loop',
      'whole epoch: ms besides steps and evaluation',
      'compilations after the first epoch',
    ],
    [
      [
        name,
        case['steps_per_epoch'],
        harness.spread(case['bare_images_per_second'], 0),
        harness.spread(case['loop_images_per_second'], 0),
        harness.spread(case['bare_to_loop'], 3),
        harness.spread(case['extra_seconds'], 0, 1e3),
        case['late_compilations'],
      ]
      for name, case in results.items()
    ],
  )


def _measure_case(
  config: config_lib.Config, epochs: int, rounds: int
) -> harness.Results:
  dataset = data.load(
    config.dataset, config.data_dir, config.train_examples, config.image_size
  )
  program = workload.of_run(config, dataset, devices=jax.devices())
  epoch = workload.start_epochs(program)
  evaluate = workload.start_evaluation(program)
  run(config, 1)  # work that a process does only once
  examples = len(dataset.train)
  bare, looped, extra = [], [], []
  between: list[float] = []

  def make_bare_epoch() -> None:
    between.append(_time(epoch))

  for _ in range(rounds):
    between.clear()
    rows, seconds, late_compilations = run(config, epochs, make_bare_epoch)
    _, seconds_of_one, _ = run(config, 1)
    # Each epoch of the run, except the first, lies between two bare ones,
    # because the speed of a shared machine varies.
    bare += [sum(pair) / 2 for pair in itertools.pairwise(between)]
    own = [examples / row['images_per_second'] for row in rows[1:]]
    looped += own
    evaluation = min(_time(evaluate) for _ in range(3))
    whole_epoch = (seconds - sum(between) - seconds_of_one) / (epochs - 1)
    extra.append(whole_epoch - sum(own) / len(own) - evaluation)
  return {
    'steps_per_epoch': program.steps_per_epoch,
    'epochs': epochs,
    'bare_images_per_second': harness.rate(examples, bare),
    'loop_images_per_second': harness.rate(examples, looped),
    'bare_to_loop': harness.ratio(looped, bare),
    'extra_seconds': harness.summarize(extra),
    'late_compilations': late_compilations,
  }


def _time(call: Callable[[], None]) -> float:
  started = time.perf_counter()
  call()
  return time.perf_counter() - started


def run(
  config: config_lib.Config,
  epochs: int,
  after_epoch: Callable[[], None] = lambda: None,
) -> tuple[list[dict[str, Any]], float, int]:
  """The rows of a run, its duration in seconds, and its late compilations.

  Late means after the first row of metrics. Work after the end of an epoch is
  part of the duration but of no row.
  """
  with tempfile.TemporaryDirectory() as directory:
    run_dir = pathlib.Path(directory) / 'run'
    metrics = run_dir / 'metrics.jsonl'
    late = 0

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
      nonlocal late
      is_late = metrics.exists() and metrics.stat().st_size > 0
      late += event == _COMPILATION and is_late

    show = progress.Progress.epoch

    def show_and_call(*arguments: Any) -> None:
      show(*arguments)
      after_epoch()

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
      with mock.patch.object(progress.Progress, 'epoch', show_and_call):
        summary = loop.run(
          dataclasses.replace(config, epochs=epochs),
          run_dir,
          console=rich.console.Console(file=io.StringIO()),
        )
    finally:
      jax.monitoring.unregister_event_duration_listener(listen)
    lines = metrics.read_text(encoding='utf-8').splitlines()
  return [json.loads(line) for line in lines], summary['seconds'], late


if __name__ == '__main__':
  harness.main('loop_overhead', measure, tables)
