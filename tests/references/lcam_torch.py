"""LCAM as its authors implement it: a training loop around PyTorch's SGD.

The loop compares each loss with the mean loss of the epoch so far and writes
the momentum of the next step into the ``param_groups`` of ``torch.optim.SGD``.
It uses Python floats (float64) for any dtype of the model. Importing this file
without PyTorch skips the importing test.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip('torch')


class Trajectory(NamedTuple):
  """One entry per step."""

  losses: list[float]
  means: list[float]  # of the epoch so far, including this loss.
  momenta: list[float]  # of the update of the step.


def train(
  params: Iterable[Any],
  loss_fn: Callable[[Any], torch.Tensor],
  epochs: Sequence[Sequence[Any]],
  learning_rates: Sequence[float],
  *,
  horizontal_momentum: float,
  vertical_momentum: float,
  initial_momentum: float = 0.9,
  weight_decay: float = 0.0,
  inclusive: bool = True,
  nesterov: bool = False,
  reaction: str = 'next',
) -> Trajectory:
  """Trains in place.

  Args:
    params: Tensors, or parameter groups of ``torch.optim.SGD`` as dicts, which
      may have their own ``weight_decay``.
    loss_fn: Returns the loss of one batch.
    epochs: The batches of each epoch.
    learning_rates: One per step of all epochs.
    horizontal_momentum: Momentum after a loss at or below the mean.
    vertical_momentum: Momentum after a loss above the mean.
    initial_momentum: Momentum of the first step.
    weight_decay: Coupled, as in SGD.
    inclusive: Whether a loss equal to the mean is horizontal.
    nesterov: As in SGD.
    reaction: ``'next'``: a loss selects the momentum of the next step, as in
      Algorithm 1. ``'current'``: that of its own step.

  Returns:
    The log of the steps.
  """
  optimizer = torch.optim.SGD(
    params,
    lr=learning_rates[0],
    momentum=initial_momentum,
    weight_decay=weight_decay,
    nesterov=nesterov,
  )
  assert sum(map(len, epochs)) == len(learning_rates)
  remaining_rates = iter(learning_rates)
  momentum = initial_momentum
  trajectory = Trajectory([], [], [])
  for batches in epochs:
    total = 0.0
    for count, batch in enumerate(batches, start=1):
      optimizer.zero_grad()
      loss = loss_fn(batch)
      loss.backward()

      total += loss.item()
      mean = total / count
      low = loss.item() <= mean if inclusive else loss.item() < mean
      chosen = horizontal_momentum if low else vertical_momentum
      if reaction == 'current':
        momentum = chosen

      learning_rate = next(remaining_rates)
      for group in optimizer.param_groups:
        group['lr'] = learning_rate
        group['momentum'] = momentum
      optimizer.step()
      trajectory.losses.append(loss.item())
      trajectory.means.append(mean)
      trajectory.momenta.append(momentum)
      momentum = chosen
  return trajectory
