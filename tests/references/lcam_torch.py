"""LCAM as its authors run it: PyTorch's SGD and a training loop around it.

``torch.optim.SGD`` knows nothing of LCAM. The loop compares each loss with the
mean loss of the epoch so far and writes the momentum of the next step into
``param_groups``. All of it is Python floats, that is float64, whatever the
model's dtype. Importing this file without PyTorch skips the test that does.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip('torch')


class Trajectory(NamedTuple):
  """One entry a step."""

  losses: list[float]
  means: list[float]  # of the epoch so far, this step's loss included.
  momenta: list[float]  # that the step was made with.


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
    params: Tensors, or dicts of ``torch.optim.SGD``'s parameter groups, which
      may have a ``weight_decay`` of their own.
    loss_fn: Gives the loss of one batch.
    epochs: The batches of each epoch.
    learning_rates: One for each step of all epochs together.
    horizontal_momentum: After a loss at or below the mean.
    vertical_momentum: After a loss above it.
    initial_momentum: Of the first step.
    weight_decay: Coupled, as SGD does it.
    inclusive: Whether a loss equal to the mean is horizontal.
    nesterov: As in SGD.
    reaction: ``'next'``: a loss chooses the momentum of the step after it, as
      Algorithm 1 has it. ``'current'``: of its own step.

  Returns:
    What happened at each step.
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
