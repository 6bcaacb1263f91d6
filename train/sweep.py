"""Many runs: arms times seeds, one after another.

An arm that follows another comes after it, and the other is run too. A sweep
that was interrupted goes on with the same command: runs that are done are
skipped, one that was cut off resumes.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import pathlib
import time
import traceback
from typing import Any

import jax
import rich.console

from train import config as config_lib
from train import errors
from train import experiments as experiments_lib
from train import loop
from train import progress
from train import run_directory
from train.experiments import Experiment

_ERROR = 'error.txt'

# On an accelerator a step of a network up to WRN-16-4 is too small to fill the
# device. The time of a step grows with the depth and the square of the width.
_SMALL = 16 * 4**2
_MOST_TOGETHER = 8


def sweep(
  experiments: Sequence[Experiment],
  seeds: int,
  run_dir: pathlib.Path,
  console: rich.console.Console,
  seeds_together: int | None = None,
  wandb: str | None = None,
  **settings: Any,
) -> list[pathlib.Path]:
  """Runs every experiment with every seed.

  The seeds are 0 to ``seeds - 1`` in every arm, so that arms can be compared
  in pairs: runs of one seed share their start and the order of their images.

  Args:
    experiments: The arms.
    seeds: Runs of each.
    run_dir: Each run gets run_dir/EXPERIMENT/seed-N.
    console: Where progress is shown.
    seeds_together: Most seeds of an arm in one vmapped program. ``None``:
      what :func:`choose_together` says.
    wandb: Project on Weights & Biases to send the curves to, if any.
    **settings: Settings of every run, in place of the experiment's own.

  Returns:
    The directories of the runs that failed. One that does leaves the others
    alone: what it raised is shown, and kept as error.txt in its directory.

  Raises:
    UsageError: The input is wrong, which concerns all runs.
  """
  run_directory.check_writable('--run-dir', run_dir)
  # Every arm has its first seeds before any has its next.
  arms = [
    (arm, seeds_together or choose_together(arm.config))
    for arm in in_order(experiments)
  ]
  plan = [
    (arm, range(first, min(first + together, seeds)))
    for first in range(seeds)
    for arm, together in arms
    if first % together == 0
  ]
  failed = []
  started = time.monotonic()
  for i, (arm, group) in enumerate(plan, start=1):
    configs = [_configure(arm, seed, run_dir, settings) for seed in group]
    directories = [run_dir / arm.name / f'seed-{seed}' for seed in group]
    as_one = len(group) > 1 and loop.can_run_together(configs)
    parts = (
      [(configs, directories)]
      if as_one
      else [([c], [d]) for c, d in zip(configs, directories, strict=True)]
    )
    for own_configs, own_directories in parts:
      own_seeds = ', '.join(str(c.seed) for c in own_configs)
      title = f'{i}/{len(plan)} {arm.name} seed {own_seeds}'
      for directory in own_directories:
        (directory / _ERROR).unlink(missing_ok=True)
      try:
        loop.run_together(
          own_configs,
          own_directories,
          experiment=arm.name,
          title=title,
          console=console,
          wandb=wandb,
        )
      except errors.UsageError:
        raise
      except Exception as error:
        failed += own_directories
        console.print(
          f'{title} failed: {error!r}', markup=False, soft_wrap=True
        )
        for directory in own_directories:
          if directory.is_dir():
            with contextlib.suppress(OSError):  # The disk may be full.
              (directory / _ERROR).write_text(traceback.format_exc())
    left = (time.monotonic() - started) / i * (len(plan) - i)
    if i < len(plan):
      console.print(
        f'{i} of {len(plan)} done, about {progress.duration(left)} left.',
        highlight=False,
      )
  return failed


def choose_together(config: config_lib.Config) -> int:
  """How many seeds of a run are best made by one vmapped program.

  One on a CPU: benchmarks/README.md has what was measured, and from no number
  of seeds on is one program faster there. On a GPU or TPU eight of a small
  network, which alone leaves most of the device idle, and one of a large
  network.

  Args:
    config: The settings of the run.

  Returns:
    Most seeds in one program.
  """
  if jax.default_backend() == 'cpu':
    return 1
  is_small = config.depth * config.widen_factor**2 <= _SMALL
  return _MOST_TOGETHER if is_small else 1


def _configure(
  arm: Experiment, seed: int, run_dir: pathlib.Path, settings: dict[str, Any]
) -> config_lib.Config:
  config = dataclasses.replace(arm.config, seed=seed, **settings)
  if arm.follows is None:
    return config
  return dataclasses.replace(
    config, follow_run=run_dir / arm.follows / f'seed-{seed}'
  )


def in_order(experiments: Sequence[Experiment]) -> list[Experiment]:
  """The experiments, with those that others follow before these."""
  followed = {e.follows for e in experiments if e.follows is not None}
  missing = followed - {experiment.name for experiment in experiments}
  return sorted(
    [*map(experiments_lib.get, sorted(missing)), *experiments],
    key=lambda experiment: experiment.follows is not None,
  )
