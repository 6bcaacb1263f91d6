"""The experiments by name: configurations, no code.

`python -m train list` shows them, `python -m train run NAME` runs one.
"""

import dataclasses

from train import config as config_lib
from train import errors


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A named configuration."""

  name: str
  summary: str
  """What it is, and where in the paper."""
  duration: str
  """How long one run takes, and on what."""
  config: config_lib.Config


_DIGITS = config_lib.Config(
  dataset='digits',
  depth=10,
  widen_factor=1,
  epochs=12,
  batch_size=64,
  checkpoint_every=6,
)

# Section 4.3 at its full size: WRN28-10, a learning rate that decays with every
# step from epoch 31 on. The authors run 150 epochs and read off epoch 120.
_FINAL = config_lib.Config(
  depth=28,
  widen_factor=10,
  epochs=150,
  batch_size=128,
  learning_rate=0.1,
  weight_decay=5e-4,
  schedule='exponential',
  decay_start=30,
  decay_rate=0.99985,
)

_ALL = (
  Experiment(
    'digits-lcam',
    'LCAM 0.93/0.9 on handwritten digits, the default job.',
    '6 s on 2 CPU cores',
    _DIGITS,
  ),
  Experiment(
    'digits-fixed',
    'Fixed momentum 0.9 on handwritten digits, the default job.',
    '6 s on 2 CPU cores',
    dataclasses.replace(_DIGITS, optimizer='sgd', momentum=0.9),
  ),
  Experiment(
    'figure4-cifar10-lcam',
    'Figure 4 and Table 1: LCAM on CIFAR-10, horizontal 0.9, vertical 0.95.',
    'hours on one GPU',
    dataclasses.replace(
      _FINAL,
      dataset='cifar10',
      horizontal_momentum=0.9,
      vertical_momentum=0.95,
    ),
  ),
  Experiment(
    'figure4-cifar10-fixed',
    'The control that Figure 4 lacks: fixed momentum 0.9 on CIFAR-10.',
    'hours on one GPU',
    dataclasses.replace(
      _FINAL, dataset='cifar10', optimizer='sgd', momentum=0.9
    ),
  ),
  Experiment(
    'figure4-cifar100-lcam',
    'Figure 4 and Table 1: LCAM on CIFAR-100, horizontal 0.93, vertical 0.9.',
    'hours on one GPU',
    dataclasses.replace(_FINAL, dataset='cifar100'),
  ),
  Experiment(
    'figure4-cifar100-fixed',
    'The control that Figure 4 lacks: fixed momentum 0.9 on CIFAR-100.',
    'hours on one GPU',
    dataclasses.replace(
      _FINAL, dataset='cifar100', optimizer='sgd', momentum=0.9
    ),
  ),
)

EXPERIMENTS = {experiment.name: experiment for experiment in _ALL}


def get(name: str) -> Experiment:
  """The experiment of this name, or UsageError with the nearest one."""
  if name in EXPERIMENTS:
    return EXPERIMENTS[name]
  raise errors.UsageError(
    f'There is no experiment {name!r}.'
    f'{errors.did_you_mean(name, EXPERIMENTS)} `python -m train list` shows'
    ' them all.'
  )
