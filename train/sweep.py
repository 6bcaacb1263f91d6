"""Many runs: arms times seeds, one after another.

An arm that follows another comes after it, and the other is run too. A sweep
that was interrupted goes on with the same command: runs that are done are
skipped, one that was cut off resumes.
"""

from collections.abc import Sequence
import dataclasses
import pathlib
import traceback
from typing import Any

import rich.console

from train import errors
from train import experiments as experiments_lib
from train import loop
from train.experiments import Experiment

_ERROR = 'error.txt'


def sweep(
  experiments: Sequence[Experiment],
  seeds: int,
  run_dir: pathlib.Path,
  console: rich.console.Console,
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
    **settings: Settings of every run, in place of the experiment's own.

  Returns:
    The directories of the runs that failed. One that does leaves the others
    alone: what it raised is shown, and kept as error.txt in its directory.

  Raises:
    UsageError: The input is wrong, which concerns all runs.
  """
  # Every arm has its first seed before any has its second.
  plan = [(arm, seed) for seed in range(seeds) for arm in in_order(experiments)]
  failed = []
  for i, (arm, seed) in enumerate(plan, start=1):
    directory = run_dir / arm.name / f'seed-{seed}'
    title = f'{i}/{len(plan)} {arm.name} seed {seed}'
    (directory / _ERROR).unlink(missing_ok=True)
    config = dataclasses.replace(arm.config, seed=seed, **settings)
    if arm.follows is not None:
      config = dataclasses.replace(
        config, follow_run=run_dir / arm.follows / f'seed-{seed}'
      )
    try:
      loop.run(
        config,
        directory,
        experiment=arm.name,
        title=title,
        console=console,
      )
    except errors.UsageError:
      raise
    except Exception as error:
      failed.append(directory)
      console.print(f'{title} failed: {error!r}', markup=False, soft_wrap=True)
      if directory.is_dir():
        (directory / _ERROR).write_text(traceback.format_exc())
  return failed


def in_order(experiments: Sequence[Experiment]) -> list[Experiment]:
  """The experiments, with those that others follow before these."""
  followed = {e.follows for e in experiments if e.follows is not None}
  missing = followed - {experiment.name for experiment in experiments}
  return sorted(
    [*map(experiments_lib.get, sorted(missing)), *experiments],
    key=lambda experiment: experiment.follows is not None,
  )
