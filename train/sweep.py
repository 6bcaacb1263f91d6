"""Many runs: arms times seeds, one after another.

An arm that follows another comes after it, and the other is run too. A sweep
that was interrupted goes on with the same command: runs that are done are
skipped, one that was cut off resumes.
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
from train.experiments import Experiment

_ERROR = 'error.txt'

# On an accelerator a step of a network up to WRN-16-4 is too small to fill the
# device.
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
  runs of one seed share their start and the order of their images.

  Args:
    experiments: The arms.
    seeds: Runs of each.
    run_dir: Each run gets run_dir/EXPERIMENT/seed-N, where EXPERIMENT is its
      :attr:`~train.experiments.Experiment.folder`.
    console: Where progress is shown.
    runs_together: Most runs in one vmapped program. ``None``: what
      :func:`choose_together` says.
    wandb: Project on Weights & Biases to send the curves to, if any.
    first_seed: The seeds are this one and those after it.

  Returns:
    The directories of the runs that failed. One that does leaves the others
    alone: what it raised is shown, and kept as error.txt in its directory.

  Raises:
    UsageError: The input is wrong, which concerns all runs.
  """
  files.check_writable('--run-dir', run_dir)
  # Every arm has its first seed before any has its next.
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
  """The directory of the run that it takes a setting over from."""

  @property
  def planned(self) -> config_lib.Config:
    """See :attr:`Experiment.planned`."""
    return dataclasses.replace(self.arm.planned, seed=self.seed)

  def configure(self) -> config_lib.Config:
    """The settings, once the run that it follows is finished."""
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
  """Splits a plan into runs that are made by one program each.

  Args:
    plan: All runs in order.
    runs_together: Most runs in one program, ``None`` for
      :func:`choose_together`.

  Yields:
    Groups in the order of their first runs. A run that follows another is in a
    later group than that.
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
  """How many runs are best made by one vmapped program.

  One on a CPU: benchmarks/README.md has what was measured, and from no number
  of runs on is one program faster there. On a GPU or TPU eight of a small
  network, which alone leaves most of the device idle, and one of a large
  network.

  Args:
    config: The settings of the run.

  Returns:
    Most runs in one program.
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
  """The experiments, with those that others follow before these."""
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
