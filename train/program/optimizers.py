"""The registry of optimizers: how each is built, and what it logs.

To add one, write a function that builds it and add an entry to
:data:`OPTIMIZERS`. `--optimizer`, its default learning rate and the records
follow from the entry.

A builder is called inside the compiled training step. Its numeric settings are
float32 arguments of the program, so that runs that differ only in these share
one program.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  import jax
  import optax

# JAX and Optax are imported inside functions: the command line reads the
# registry for its flags before JAX is configured.


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An entry of the registry."""

  build: Callable[..., optax.GradientTransformation]
  """``build(learning_rate, *, steps_per_epoch, coin_key, **settings)``: the
  transformation for a learning rate and settings that may be traced."""
  learning_rate: float
  """The default of ``--learning-rate``."""
  numbers: tuple[str, ...] = ('weight_decay',)
  """Settings that are arguments of the compiled program."""
  options: tuple[str, ...] = ()
  """Settings that are compiled into it."""
  log: Callable[..., tuple[Any, Any]] | None = None
  """``log(before, after, **settings)``: the momentum of a step and whether it
  is the horizontal one, from the optimizer states before and after the step.
  ``None``: the optimizer has no phases."""
  arguments: Callable[[dict[str, Any]], dict[str, Any]] = dict
  """Maps the settings named above to the arguments of the builder. Numbers
  become arguments of the compiled program, everything else is compiled in."""

  def arguments_of(self, config: Any, epoch: int = 1) -> dict[str, Any]:
    """The arguments of a run in an epoch, counted from 1, by name."""
    names = (*self.numbers, *self.options)
    return self.arguments(
      {name: _in_epoch(getattr(config, name), epoch) for name in names}
    )

  def numbers_of(self, config: Any, epoch: int = 1) -> dict[str, float]:
    """The arguments of a run in an epoch that are numbers."""
    return {
      name: value
      for name, value in self.arguments_of(config, epoch).items()
      if _is_number(value)
    }

  def options_of(self, config: Any) -> dict[str, Any]:
    """The other arguments of a run."""
    return {
      name: value
      for name, value in self.arguments_of(config).items()
      if not _is_number(value)
    }

  def structure_of(self, config: Any) -> Any:
    """What a compiled program depends on. Equal structures share it."""
    return (
      self.build,
      self.log,
      tuple(sorted(self.numbers_of(config))),
      tuple(sorted(self.options_of(config).items())),
    )


def _in_epoch(value: Any, epoch: int) -> Any:
  """The value of a setting in an epoch; a setting may have one per epoch."""
  if isinstance(value, tuple):
    return value[min(epoch, len(value)) - 1]
  return value


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def get(config: Any) -> Optimizer:
  """The entry of the ``--optimizer`` of a run."""
  return OPTIMIZERS[config.optimizer]


# ------------------------------------------------------------------------- SGD


def _lcam(
  rate: Any, *, coin_key: jax.Array, has_phases: Any, **settings: Any
) -> optax.GradientTransformation:
  import optax_lcam

  del coin_key, has_phases
  if settings['loss_decay'] is not None:
    settings['steps_per_epoch'] = None
  return optax_lcam.lcam_sgd(rate, **settings)


def _coin_sgd(
  rate: Any, *, weight_decay: Any, nesterov: bool, **settings: Any
) -> optax.GradientTransformation:
  """Random control: the two momenta of LCAM, chosen without the loss."""
  import optax

  trace = optax.inject_hyperparams(optax.trace, static_args='nesterov')
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    trace(decay=_toss(**settings), nesterov=nesterov),
    optax.scale_by_learning_rate(rate),
  )


# -------------------------------------------------------------------- adaptive


def _coupled(make: Callable[[Any], Any]) -> Callable[..., Any]:
  """An Optax optimizer with L2 regularization, as in PyTorch."""

  def build(rate: Any, *, weight_decay: Any, **_: Any) -> Any:
    import optax

    return optax.chain(optax.add_decayed_weights(weight_decay), make(rate))

  return build


def _adam(rate: Any) -> optax.GradientTransformation:
  import optax

  return optax.adam(rate)


def _rmsprop(rate: Any) -> optax.GradientTransformation:
  import optax

  # The decay and the position of epsilon of PyTorch.
  return optax.rmsprop(rate, decay=0.99, eps_in_sqrt=False)


def _adagrad(rate: Any) -> optax.GradientTransformation:
  import optax

  return optax.adagrad(rate)


def _adamw(
  rate: Any, *, weight_decay: Any, **_: Any
) -> optax.GradientTransformation:
  import optax

  return optax.adamw(rate, weight_decay=weight_decay)


def _adam_with(rule: Callable[..., Any], *, decoupled: bool) -> Any:
  """Adam or AdamW whose ``b1`` follows a rule."""

  def build(
    rate: Any, *, weight_decay: Any, **settings: Any
  ) -> optax.GradientTransformation:
    import optax

    adam = optax.inject_hyperparams(
      optax.scale_by_adam,
      static_args=('b2', 'eps', 'eps_root', 'mu_dtype', 'nesterov'),
    )(b1=rule(**settings))
    decay = optax.add_decayed_weights(weight_decay)
    parts = (adam, decay) if decoupled else (decay, adam)
    return optax.chain(*parts, optax.scale_by_learning_rate(rate))

  return build


# ----------------------------------------------------------------------- rules


def _loss_controlled(
  *,
  horizontal_momentum: Any,
  vertical_momentum: Any,
  initial_momentum: Any,
  loss_decay: Any,
  steps_per_epoch: int,
  inclusive: bool,
  reaction: Any,
  **_: Any,
) -> Any:
  import optax_lcam

  return optax_lcam.loss_controlled(
    horizontal_momentum,
    vertical_momentum,
    steps_per_epoch=steps_per_epoch if loss_decay is None else None,
    initial=initial_momentum,
    inclusive=inclusive,
    reaction=reaction,
    loss_decay=loss_decay,
  )


def _toss(
  *,
  horizontal_momentum: Any,
  vertical_momentum: Any,
  initial_momentum: Any,
  horizontal_probability: Any,
  coin_key: jax.Array,
  **_: Any,
) -> Callable[[jax.Array], jax.Array]:
  """A schedule that takes one of two momenta at random at each step."""
  import jax
  import jax.numpy as jnp

  def momentum(step: jax.Array) -> jax.Array:
    horizontal = jax.random.bernoulli(
      jax.random.fold_in(coin_key, step), horizontal_probability
    )
    chosen = jnp.where(horizontal, horizontal_momentum, vertical_momentum)
    # As in LCAM, there is no choice before the first step.
    return jnp.where(step == 0, initial_momentum, chosen)

  return momentum


# ------------------------------------------------------------------------ logs


def _log_loss_controlled(
  before: Any, after: Any, *, reaction: str, has_phases: Any, **_: Any
) -> tuple[jax.Array, jax.Array]:
  import jax.numpy as jnp

  import optax_lcam

  reading = optax_lcam.read(before if reaction == 'next' else after)
  horizontal = reading.phase == optax_lcam.Phase.HORIZONTAL
  return (
    reading.momentum,
    jnp.where(has_phases, horizontal.astype(jnp.float32), jnp.nan),
  )


def _log_coin(
  before: Any, after: Any, *, horizontal_momentum: Any, **_: Any
) -> tuple[jax.Array, jax.Array]:
  import jax.numpy as jnp
  import optax

  del before
  (used,) = optax.tree.get(after, 'hyperparams').values()
  horizontal = used == jnp.asarray(horizontal_momentum, jnp.float32)
  return used, horizontal.astype(jnp.float32)


# -------------------------------------------------------------------- registry


def _as_lcam(settings: dict[str, Any]) -> dict[str, Any]:
  """A fixed momentum, as LCAM with two equal momenta: identical bit for bit.

  LCAM and its controls therefore share one compiled program.
  """
  momentum = settings.pop('momentum')
  return {
    **settings,
    'horizontal_momentum': momentum,
    'vertical_momentum': momentum,
    'initial_momentum': momentum,
    'loss_decay': None,
    'inclusive': True,
    'reaction': 'next',
    'has_phases': 0.0,
  }


_PAIR = (
  'weight_decay',
  'horizontal_momentum',
  'vertical_momentum',
  'initial_momentum',
)
_LOSS_CONTROLLED: dict[str, Any] = {
  'numbers': (*_PAIR, 'loss_decay'),
  'options': ('inclusive', 'reaction'),
  'log': _log_loss_controlled,
  'arguments': lambda settings: {**settings, 'has_phases': 1.0},
}
_COIN: dict[str, Any] = {
  'numbers': (*_PAIR, 'horizontal_probability'),
  'log': _log_coin,
}

OPTIMIZERS: dict[str, Optimizer] = {
  'lcam': Optimizer(
    _lcam,
    0.1,
    **{**_LOSS_CONTROLLED, 'options': ('inclusive', 'reaction', 'nesterov')},
  ),
  'coin': Optimizer(_coin_sgd, 0.1, **_COIN, options=('nesterov',)),
  'sgd': Optimizer(
    _lcam,
    0.1,
    ('weight_decay', 'momentum'),
    ('nesterov',),
    _log_loss_controlled,
    _as_lcam,
  ),
  'adam': Optimizer(_coupled(_adam), 1e-3),
  'adamw': Optimizer(_adamw, 1e-3),
  'rmsprop': Optimizer(_coupled(_rmsprop), 1e-3),
  'adagrad': Optimizer(_coupled(_adagrad), 1e-2),
  'adam-loss-controlled': Optimizer(
    _adam_with(_loss_controlled, decoupled=False), 1e-3, **_LOSS_CONTROLLED
  ),
  'adam-coin': Optimizer(_adam_with(_toss, decoupled=False), 1e-3, **_COIN),
  'adamw-loss-controlled': Optimizer(
    _adam_with(_loss_controlled, decoupled=True), 1e-3, **_LOSS_CONTROLLED
  ),
  'adamw-coin': Optimizer(_adam_with(_toss, decoupled=True), 1e-3, **_COIN),
}
