"""Loss-Controlled Asymmetric Momentum (LCAM) for Optax."""

from optax_lcam._accumulation import MultiStepsState
from optax_lcam._accumulation import multi_steps
from optax_lcam._inspection import Reading
from optax_lcam._inspection import read
from optax_lcam._lcam import LcamState
from optax_lcam._lcam import Phase
from optax_lcam._lcam import lcam
from optax_lcam._optimizer import lcam_sgd

__all__ = [
  'LcamState',
  'MultiStepsState',
  'Phase',
  'Reading',
  'lcam',
  'lcam_sgd',
  'multi_steps',
  'read',
]
