"""Loss-Controlled Asymmetric Momentum (LCAM) for Optax."""

from optax_lcam._lcam import LcamState
from optax_lcam._lcam import Phase
from optax_lcam._lcam import lcam
from optax_lcam._optimizer import lcam_sgd

__all__ = ['LcamState', 'Phase', 'lcam', 'lcam_sgd']
