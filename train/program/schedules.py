"""The learning rate of each step, computed on the host in float64.

The rates reach the compiled program as an array, so that runs with different
schedules share one program and float32 rounding errors do not accumulate.
"""

import numpy as np

from train import config as config_lib


def learning_rates(
  config: config_lib.Resolved,
  steps_per_epoch: int,
  steps: np.typing.ArrayLike,
) -> np.ndarray:
  """The learning rates of a run at the given steps.

  Args:
    config: The settings of the run.
    steps_per_epoch: Training steps of one epoch.
    steps: Steps since the start of the run, counted from 0, of any shape.

  Returns:
    The rates, with the shape of ``steps``, dtype=float64.
  """
  peak = config.learning_rate
  final = config.final_learning_rate
  total = config.epochs * steps_per_epoch
  step = np.asarray(steps, np.float64)

  def to_steps(epochs: float) -> int:
    # Steps beyond the largest integer are never reached.
    return round(min(epochs * steps_per_epoch, config_lib.MOST_STEPS))

  match config.schedule:
    case 'constant':
      return np.full_like(step, peak)
    case 'exponential':
      # Section 4.3. The first step of the decay still uses the full rate.
      start = to_steps(config.decay_start)
      decay_rate = config.decay_rate
      return peak * decay_rate ** np.maximum(step - start, 0)
    case 'steps':
      # Section 4: times 0.2 after epochs 30, 60 and 90.
      drops = [to_steps(m) for m in config.milestones]
      passed = np.searchsorted(drops, step, side='right')
      return peak * config.milestone_factor**passed
    case 'cosine':
      return _cosine(peak, final, step / total)
    case 'warm-restarts':
      cycle = to_steps(config.cycle_epochs)
      return _warm_restarts(peak, final, max(1, cycle), step)
    case 'one-cycle':
      warmup = config.warmup_epochs
      return _one_cycle(peak, warmup / config.epochs, total, step)
    case 'polynomial':
      left = 1 - np.minimum(step / total, 1)
      return final + (peak - final) * left**config.polynomial_power
    case 'cyclical':
      # Smith, 2017: linear increase and decrease.
      half = max(1, to_steps(config.cycle_epochs) // 2)
      distance = np.abs((step + half) % (2 * half) - half) / half
      return final + (peak - final) * distance
    case 'warm-up':
      warmup_steps = to_steps(config.warmup_epochs)
      if warmup_steps == 0:
        return np.full_like(step, peak)
      return peak * np.minimum(step / warmup_steps, 1)
    case name:
      raise ValueError(f'Unknown schedule {name!r}.')


def _cosine(first: float, last: float, progress: np.ndarray) -> np.ndarray:
  """Half a period of a cosine, from the first rate to the last."""
  share = (1 + np.cos(np.pi * np.minimum(progress, 1))) / 2
  return last + (first - last) * share


def _warm_restarts(
  peak: float, final: float, first_cycle: int, step: np.ndarray
) -> np.ndarray:
  """Loshchilov and Hutter, 2017: cosine cycles, each twice as long."""
  # Cycle k starts at first_cycle * (2**k - 1).
  starts = first_cycle * (2 ** np.arange(32, dtype=np.int64) - 1)
  cycle = np.searchsorted(starts, step, side='right') - 1
  progress = (step - starts[cycle]) / (first_cycle * 2.0**cycle)
  return _cosine(peak, final, progress)


def _one_cycle(
  peak: float, warmup: float, total: int, step: np.ndarray
) -> np.ndarray:
  """Smith and Topin, 2018: up to the peak, then down to almost zero.

  The initial and final fractions are those of Optax and PyTorch.
  """
  first, last = peak / 25, peak / 25 / 1e4
  top = int(min(1.0, warmup) * total)
  up = _cosine(first, peak, step / max(1, top))
  down = _cosine(peak, last, (step - top) / max(1, total - top))
  return np.where(step < top, up, down)
