"""Configuration to learning rate over the steps, all from Optax."""

import optax

from train import config as config_lib

# Of the learning rate; a normal number in float32.
_SMALLEST_FACTOR = 1e-30


def make_schedule(
  config: config_lib.Config, steps_per_epoch: int
) -> optax.Schedule:
  """The learning rate as a function of the step, counted from 0.

  Args:
    config: A resolved configuration.
    steps_per_epoch: Training steps of one epoch.

  Returns:
    An Optax schedule.
  """
  peak = config_lib.known(config.learning_rate)
  cycle = config_lib.known(config.cycle_epochs)
  milestones = config_lib.known(config.milestones)
  warmup = config_lib.known(config.warmup_epochs)
  final = config.final_learning_rate
  total = config.epochs * steps_per_epoch

  def steps(epochs: float) -> int:
    # What comes after the last step that can be counted never comes.
    return round(min(epochs * steps_per_epoch, config_lib.MOST_STEPS))

  match config.schedule:
    case 'constant':
      return optax.constant_schedule(peak)
    case 'exponential':
      # Section 4.3. The first step after the start still has the full rate.
      # A step's factor may be too near to 1 for float32, an epoch's too small.
      # At 0 Optax would stay at the initial rate for ever.
      decay_rate = config_lib.known(config.decay_rate)
      span = steps_per_epoch
      if decay_rate**span < _SMALLEST_FACTOR:
        span = 1
      return optax.exponential_decay(
        peak,
        transition_steps=span,
        decay_rate=max(decay_rate**span, _SMALLEST_FACTOR),
        transition_begin=steps(config_lib.known(config.decay_start)),
      )
    case 'steps':
      # Section 4: times 0.2 after epochs 30, 60 and 90.
      return _drops(
        peak,
        [steps(m) for m in milestones],
        config.milestone_factor,
      )
    case 'cosine':
      return optax.cosine_decay_schedule(peak, total, alpha=final / peak)
    case 'warm-restarts':
      return _warm_restarts(peak, final, steps(cycle), total)
    case 'one-cycle':
      return optax.cosine_onecycle_schedule(
        total, peak, pct_start=min(1.0, warmup / config.epochs)
      )
    case 'polynomial':
      return optax.polynomial_schedule(
        peak, final, config.polynomial_power, total
      )
    case 'cyclical':
      return _triangles(peak, final, steps(cycle), total)
    case 'warm-up' if steps(warmup) == 0:
      # Optax would stay at the initial rate, zero, for ever.
      return optax.constant_schedule(peak)
    case 'warm-up':
      return optax.warmup_constant_schedule(0.0, peak, steps(warmup))
    case name:
      raise ValueError(f'Unknown schedule {name!r}.')


def _drops(peak: float, steps: list[int], factor: float) -> optax.Schedule:
  # Milestones of a very short run may fall on the same step.
  factors = {step: factor ** steps.count(step) for step in steps}
  return optax.piecewise_constant_schedule(peak, factors)


def _warm_restarts(
  peak: float, final: float, first_cycle: int, total: int
) -> optax.Schedule:
  """Loshchilov and Hutter, 2017: cosine cycles, each twice as long."""
  cycles = []
  start, length = 0, max(1, first_cycle)
  while start < total:
    cycles.append(
      {
        'init_value': peak,
        'peak_value': peak,
        'warmup_steps': 0,
        'decay_steps': length,
        'end_value': final,
      }
    )
    start, length = start + length, 2 * length
  return optax.sgdr_schedule(cycles)


def _triangles(
  peak: float, lowest: float, cycle: int, total: int
) -> optax.Schedule:
  """Smith, 2017: up and down in straight lines."""
  half = max(1, cycle // 2)
  count = -(-total // half)
  return optax.join_schedules(
    [
      optax.linear_schedule(lowest, peak, half)
      if i % 2 == 0
      else optax.linear_schedule(peak, lowest, half)
      for i in range(count)
    ],
    [half * (i + 1) for i in range(count - 1)],
  )
