"""Many runs: arms times seeds, one after another."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import rich.console

from train import loop
from train.experiments import Experiment


def sweep(
  experiments: Sequence[Experiment],
  seeds: int,
  run_dir: pathlib.Path,
  console: rich.console.Console,
) -> list[dict[str, Any]]:
  """Runs every experiment with every seed; finished runs are skipped.

  The seeds are 0 to ``seeds - 1`` in every arm, so that arms can be compared
  in pairs: runs of one seed share their start and the order of their images.

  Args:
    experiments: The arms.
    seeds: Runs of each.
    run_dir: Each run gets run_dir/EXPERIMENT/seed-N.
    console: Where progress is shown.

  Returns:
    The summaries of the runs.
  """
  plan = [(arm, seed) for seed in range(seeds) for arm in experiments]
  return [
    loop.run(
      dataclasses.replace(arm.config, seed=seed),
      run_dir / arm.name / f'seed-{seed}',
      experiment=arm.name,
      title=f'{i}/{len(plan)} {arm.name} seed {seed}',
      console=console,
    )
    for i, (arm, seed) in enumerate(plan, start=1)
  ]
