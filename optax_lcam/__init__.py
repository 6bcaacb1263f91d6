"""Loss-Controlled Asymmetric Momentum (LCAM) for Optax."""

from importlib import metadata as _metadata

from optax_lcam._accumulation import MultiStepsState
from optax_lcam._accumulation import multi_steps
from optax_lcam._inspection import Reading
from optax_lcam._inspection import read
from optax_lcam._lcam import LcamState
from optax_lcam._lcam import lcam
from optax_lcam._loss_controlled import LossControlledState
from optax_lcam._loss_controlled import Phase
from optax_lcam._loss_controlled import loss_controlled
from optax_lcam._optimizer import lcam_sgd

try:
  __version__: str = _metadata.version('optax-lcam')
except _metadata.PackageNotFoundError:  # Not installed, but on the path.
  __version__ = '0.0.0'

__all__ = [
  'LcamState',
  'LossControlledState',
  'MultiStepsState',
  'Phase',
  'Reading',
  'lcam',
  'lcam_sgd',
  'loss_controlled',
  'multi_steps',
  'read',
]
