"""Many runs: arms times seeds, one after another.

An arm that follows another runs after it, and the other one is added if needed.
The same command resumes an interrupted sweep: finished runs are skipped, an
unfinished run is resumed.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import pathlib
import time
import traceback
from typing import NamedTuple

import jax
import rich.console

import models
from train import config as config_lib
from train import errors
from train import files
from train import following
from train import loop
from train import progress
from train.devices import interruption
from train.experiments import Experiment

_ERROR = 'error.txt'

# On an accelerator a step of a network up to WRN-16-4 does not fill the device.
_LARGEST_SMALL_NETWORK = {'depth': 16, 'widen_factor': 4}
_MOST_TOGETHER = 8


def sweep(
  experiments: Sequence[Experiment],
  seeds: int,
  run_dir: pathlib.Path,
  console: rich.console.Console,
  runs_together: int | None = None,
  wandb: str | None = None,
  first_seed: int = 0,
) -> list[pathlib.Path]:
  """Runs every experiment with every seed.

  The seeds are the same in every arm, so that arms can be compared in pairs:
  runs with one seed share their initialization and the order of images.

  Args:
    experiments: The arms.
    seeds: Number of seeds per arm.
    run_dir: Each run is in run_dir/EXPERIMENT/seed-N, where EXPERIMENT is its
      :attr:`~train.experiments.Experiment.folder`.
    console: Where progress is shown.
    runs_together: Maximum number of runs in one vmapped program. ``None`` uses
      :func:`choose_together`.
    wandb: Project on Weights & Biases for the curves, if any.
    first_seed: The first seed.

  Returns:
    The directories of the failed runs. A failure does not stop the other runs:
    its error is shown, and saved as error.txt in its directory.

  Raises:
    UsageError: If the input is invalid, which affects all runs.
  """
  files.check_writable('--run-dir', run_dir)
  # All arms run with one seed before the next seed.
  plan = [
    _Run(
      arm,
      seed,
      run_dir / arm.folder / f'seed-{seed}',
      run_dir / arm.follows.folder / f'seed-{seed}' if arm.follows else None,
    )
    for seed in range(first_seed, first_seed + seeds)
    for arm in in_order(experiments)
  ]
  failed: list[pathlib.Path] = []
  done = 0
  started = time.monotonic()
  for group in _groups(plan, runs_together):
    interruption.stop_if_asked()
    directories = [run.directory for run in group]
    title = f'{done + 1}/{len(plan)} {_title(group)}'
    for directory in directories:
      (directory / _ERROR).unlink(missing_ok=True)
    try:
      loop.run_together(
        [run.configure() for run in group],
        directories,
        experiments=[run.arm for run in group],
        title=title,
        console=console,
        wandb=wandb,
      )
    except errors.UsageError:
      raise
    except Exception as error:
      failed += directories
      console.print(f'{title} failed: {error!r}', markup=False, soft_wrap=True)
      for directory in directories:
        if directory.is_dir():
          with contextlib.suppress(OSError):  # The disk may be full.
            (directory / _ERROR).write_text(
              traceback.format_exc(), encoding='utf-8', newline='\n'
            )
    done += len(group)
    left = (time.monotonic() - started) / done * (len(plan) - done)
    if done < len(plan):
      console.print(
        f'{done} of {len(plan)} done, about {progress.duration(left)} left.',
        highlight=False,
      )
  return failed


class _Run(NamedTuple):
  """A run of a sweep."""

  arm: Experiment
  seed: int
  directory: pathlib.Path
  follows: pathlib.Path | None
  """The directory of the run that it follows."""

  @property
  def planned(self) -> config_lib.Config:
    """See :attr:`Experiment.planned`."""
    return dataclasses.replace(self.arm.planned, seed=self.seed)

  def configure(self) -> config_lib.Config:
    """The settings; requires that the followed run is finished."""
    taken = (
      following.take_over(self.arm.takes, self.follows)
      if self.arm.takes is not None and self.follows is not None
      else {}
    )
    return dataclasses.replace(self.arm.config, seed=self.seed, **taken)


def _title(group: Sequence[_Run]) -> str:
  arms = list(dict.fromkeys(run.arm.name for run in group))
  seeds = list(dict.fromkeys(str(run.seed) for run in group))
  others = f' and {len(arms) - 1} more' if len(arms) > 1 else ''
  return f'{arms[0]}{others} seed {", ".join(seeds)}'


def _groups(
  plan: Sequence[_Run], runs_together: int | None
) -> Iterator[list[_Run]]:
  """Splits a plan into groups of runs that share one vmapped program.

  Args:
    plan: All runs in order.
    runs_together: Maximum number of runs per program. ``None`` uses
      :func:`choose_together`.

  Yields:
    Groups in the order of their first runs. A run that follows another is in a
    later group.
  """
  left = list(plan)
  while left:
    first = left[0]
    most = runs_together or choose_together(first.planned)
    waiting = {run.directory for run in left}
    group = [first]
    for run in left[1:]:
      if (
        len(group) < most
        and run.follows not in waiting
        and loop.can_run_together([first.planned, run.planned])
      ):
        group.append(run)
    left = [run for run in left if run not in group]
    yield group


def choose_together(config: config_lib.Config) -> int:
  """The best number of runs in one vmapped program.

  1 on a CPU, where one program is never faster (benchmarks/README.md). On a GPU
  or TPU 8 for a small network, which leaves most of the device idle, and 1 for
  a large network.

  Args:
    config: The settings of the run.

  Returns:
    The maximum number of runs per program.
  """
  if jax.default_backend() == 'cpu':
    return 1
  shape = {'image_shape': (32, 32, 3), 'num_classes': 10}
  network = models.NETWORKS[config.model]
  cost = network.flop(**shape, **network.settings_of(config))
  largest = models.NETWORKS['wrn'].flop(**shape, **_LARGEST_SMALL_NETWORK)
  is_small = cost <= largest
  return _MOST_TOGETHER if is_small else 1


def in_order(experiments: Sequence[Experiment]) -> list[Experiment]:
  """The experiments, each after the one that it follows."""
  given = {experiment.name for experiment in experiments}
  missing = {
    e.follows.name: e.follows
    for e in experiments
    if e.follows is not None and e.follows.name not in given
  }
  return sorted(
    [*(missing[name] for name in sorted(missing)), *experiments],
    key=lambda experiment: experiment.follows is not None,
  )
