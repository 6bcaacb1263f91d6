"""LCAM in float64 NumPy, written only from the paper.

A direct implementation of Algorithm 1 (section 4.3) and of SGD with momentum: a
loop over the steps, a Python list of losses, and one average per step. It
shares no code with ``optax_lcam`` and uses neither JAX nor Optax.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Step:
  """The values of one step."""

  momentum: float  # of the update of this step
  next_momentum: float  # of the update of the next step
  mean: float  # of the losses, with which the loss of this step was compared
  loss_sum: float  # of the epoch including this step, even the last one
  step: int  # of the epoch, from 1
  trace: np.ndarray
  update: np.ndarray  # to be scaled by the negative learning rate


def lcam(
  losses: Sequence[float],
  gradients: Sequence[np.ndarray] | None = None,
  *,
  horizontal: float = 0.93,
  vertical: float = 0.9,
  steps_per_epoch: int | None = 391,
  initial: float = 0.9,
  inclusive: bool = True,
  nesterov: bool = False,
  reaction: str = 'next',
  loss_decay: float | None = None,
) -> Iterator[Step]:
  """Follows LCAM over a sequence of losses and gradients.

  Args:
    losses: One per step. Non-finite losses are excluded from the mean.
    gradients: One array per step, complex or real. Default: zeros.
    horizontal: Momentum after a loss at or below the mean.
    vertical: Momentum after a loss above the mean.
    steps_per_epoch: Steps after which the mean is reset; None: never.
    initial: Momentum before the first choice.
    inclusive: Whether a loss equal to the mean is horizontal.
    nesterov: Whether the update is ``g + momentum * trace``.
    reaction: 'next': a loss selects the momentum of the next step; 'current':
      that of its own step.
    loss_decay: None, or the factor by which the weight of a loss in the mean
      decreases with each later loss.

  Yields:
    A ``Step`` for each loss.
  """
  momentum = initial
  trace: np.ndarray | float = 0.0
  step = 0
  seen: list[float] = []
  for i, loss in enumerate(losses):
    loss = float(loss)
    step += 1
    chosen = momentum
    if math.isfinite(loss):
      seen.append(loss)
      below = _is_at_or_below_mean(loss, seen, loss_decay, inclusive)
      chosen = horizontal if below else vertical
    if reaction == 'current':
      momentum = chosen
    gradient = np.zeros(()) if gradients is None else np.asarray(gradients[i])
    gradient = gradient.astype(np.result_type(gradient, np.float64))
    trace = momentum * trace + gradient
    yield Step(
      momentum=momentum,
      next_momentum=chosen,
      mean=_mean(seen, loss_decay),
      loss_sum=float(np.sum(np.asarray(seen, np.float64))),
      step=step,
      trace=np.asarray(trace),
      update=np.asarray(gradient + momentum * trace if nesterov else trace),
    )
    momentum = chosen
    if step == steps_per_epoch:
      step, seen = 0, []


def choices(losses: Sequence[float], **options) -> np.ndarray:
  """The momentum that LCAM selects after each loss."""
  return np.array([s.next_momentum for s in lcam(losses, **options)])


def _mean(seen: list[float], loss_decay: float | None) -> float:
  if not seen:
    return math.nan
  return float(np.average(seen, weights=_weights(seen, loss_decay)))


def _is_at_or_below_mean(
  loss: float, seen: list[float], loss_decay: float | None, inclusive: bool
) -> bool:
  if loss_decay is None:
    mean = np.sum(np.asarray(seen, np.float64)) / len(seen)
    return bool(loss <= mean if inclusive else loss < mean)
  # A weighted mean of equal numbers has a rounding error; a weighted sum of
  # their differences has none.
  excess = np.sum(_weights(seen, loss_decay) * (loss - np.asarray(seen)))
  return bool(excess <= 0 if inclusive else excess < 0)


def _weights(seen: list[float], loss_decay: float | None) -> np.ndarray:
  ages = np.arange(len(seen))[::-1]
  return np.power(1.0 if loss_decay is None else loss_decay, ages)
