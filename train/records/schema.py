"""The types of the files of a run, and their checks.

A record is the result of :func:`train.files.parse`. It is checked against the
types below once, when it is read; all other code relies on them. Each error is
one sentence that names the file and the field. An unknown field is not an
error, because a newer version may have written it.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import json
import math
import pathlib
import types
from typing import (
  Annotated,
  Any,
  Literal,
  NotRequired,
  TypedDict,
  Union,
  cast,
  get_args,
  get_origin,
  get_type_hints,
  is_typeddict,
)

from train import config as config_lib
from train import errors
from train import experiments

Note = Callable[[str], object]
"""Called for a field that this version does not know, as `FIELD of FILE`."""


def ignore(note: str) -> None:
  """A :data:`Note` that ignores its argument."""
  del note


# ----------------------------------------------------------------------- types


class Range(tuple[float, float]):
  """The lowest and the highest number allowed."""

  def __str__(self) -> str:
    low, high = self
    if math.isinf(high):
      return f' of at least {low:g}'
    return f' from {low:g} to {high:g}'


_Count = Annotated[int, Range((1, config_lib.MOST_STEPS))]
_Share = Annotated[float, Range((0, 1))]
_Percent = Annotated[float, Range((0, 100))]
_NotNegative = Annotated[float, Range((0, math.inf))]


class EpochRow(TypedDict):
  """A line of metrics.jsonl. ``None`` means not finite or not available.

  Epochs without a test lack its results.
  """

  epoch: _Count
  step: _Count
  train_loss: float | None
  train_error: NotRequired[_Percent]
  test_loss: NotRequired[float | None]
  test_error: NotRequired[_Percent]
  validation_loss: NotRequired[float | None]
  validation_error: NotRequired[_Percent]
  learning_rate: _NotNegative
  horizontal_fraction: _Share | None
  mean_momentum: NotRequired[_Share | None]
  images_per_second: _NotNegative
  seconds: NotRequired[_NotNegative]


class StepsRow(TypedDict):
  """A line of steps.jsonl: lists with one entry per step.

  An entry ``None`` is a non-finite number. A list ``None`` means that the
  optimizer has no such quantity or, for losses, that none were recorded.
  """

  epoch: _Count
  loss: list[float | None] | None
  momentum: list[float | None] | None
  horizontal: list[Literal[0, 1] | None] | None


class Summary(TypedDict):
  """summary.json. Unless the run is done, only the status is required."""

  status: Literal['done', 'incomplete', 'diverged']
  final_test_error: NotRequired[_Percent | None]
  best_test_error: NotRequired[_Percent | None]
  final_train_loss: NotRequired[float | None]
  epochs: NotRequired[Annotated[int, Range((0, config_lib.MOST_STEPS))]]
  steps: NotRequired[Annotated[int, Range((0, config_lib.MOST_STEPS))]]
  params_sha256: NotRequired[str]
  runs_together: NotRequired[_Count]
  seconds: NotRequired[_NotNegative]
  diverged_at_step: NotRequired[_Count]


# Fields of config.json before and after the settings.
_FACTS_BEFORE: Mapping[str, Any] = {
  'experiment': str | None,
  'changes': dict[str, Any],
  'compute_dtype': str,
}
_FACTS_AFTER: Mapping[str, Any] = {
  'versions': dict[str, str | None],
  'platform': str,
  'device_kind': str,
  'device_count': _Count,
  'processor': str,
  'cpu_threads': _Count,
  'process_count': _Count,
  'git_commit': str | None,
  'source_sha256': str,
  'jax_settings': dict[str, Any],
  'xla_flags': str,
}

CONFIG_FIELDS = frozenset(
  {field.name for field in dataclasses.fields(config_lib.Config)}
  | _FACTS_BEFORE.keys()
  | _FACTS_AFTER.keys()
)
"""The fields of config.json that this version knows."""

# Settings that every record has. Older records may lack newer settings, whose
# default is what older versions did.
_FROM_THE_FIRST = frozenset((
  'dataset', 'data_dir', 'train_examples', 'image_size', 'normalization',
  'depth', 'widen_factor', 'dropout_rate', 'dtype', 'epochs', 'batch_size',
  'optimizer', 'learning_rate', 'weight_decay', 'horizontal_momentum',
  'vertical_momentum', 'initial_momentum', 'inclusive', 'reaction',
  'loss_decay', 'horizontal_probability', 'momentum', 'nesterov',
  'schedule', 'decay_start', 'decay_rate', 'milestones', 'milestone_factor',
  'warmup_epochs', 'cycle_epochs', 'polynomial_power', 'final_learning_rate',
  'seed', 'init_seed', 'order_seed', 'augmentation_seed', 'dropout_seed',
  'coin_seed', 'eval_batch_size', 'steps_per_dispatch', 'checkpoint_every',
  'checkpoint_seconds',
))  # fmt: skip


# Former settings, which are redundant with other fields.
_FORMER: Mapping[str, Any] = {
  # The source of the numbers of a run that follows another.
  'follow_run': str | None
}


class _Estimate(TypedDict):
  n: int
  mean: float | None
  sd: float | None
  half_width: float | None


class _Interval(TypedDict):
  n: int
  mean: float
  low: float | None
  high: float | None


class _ProbedPair(TypedDict):
  name: str
  role: Literal['fixed', 'horizontal', 'vertical']
  horizontal_momentum: float
  vertical_momentum: float
  horizontal_fraction: float
  errors: list[float | None]
  error: _Interval | None


class _ProbeSettings(TypedDict):
  train_examples: _Count


class Probe(TypedDict):
  """probe.json, as far as the report reads it."""

  dataset: str
  pairs: list[_ProbedPair]
  seeds: list[int]
  validation_examples: _Count
  settings: _ProbeSettings


class _TractionSettings(TypedDict):
  seeds: _Count
  steps: _Count
  quick_curvature: float
  slow_curvature: float
  coupling: float
  learning_rate: float
  noise: float


class _TractionArm(TypedDict):
  kind: str
  horizontal: float
  vertical: float
  coupled: bool
  quick_movement_horizontal: _Estimate
  quick_movement_vertical: _Estimate
  slow_movement_horizontal: _Estimate
  slow_movement_vertical: _Estimate
  speed_correlation_to: _Estimate
  speed_correlation_from: _Estimate


class _Coupling(TypedDict):
  coupled: _Estimate
  uncoupled: _Estimate
  due_to_coupling: _Estimate


class _TractionComparison(TypedDict):
  pair: str
  control: Literal['coin', 'fixed']
  quick_movement: _Coupling
  slow_movement: _Coupling
  quick_distance: _Coupling
  slow_distance: _Coupling


class _OtherFigure(TypedDict):
  mean: float | None
  sd: float | None
  needed_mean: float | None
  needed_sd: float | None


class _TractionOther(TypedDict):
  changes: dict[str, float]
  n: _Count
  figures: list[_OtherFigure]


class Traction(TypedDict):
  """traction.json, as far as the report reads it."""

  settings: _TractionSettings
  arms: list[_TractionArm]
  comparisons: list[_TractionComparison]
  others: NotRequired[list[_TractionOther]]
  paths: dict[str, list[list[float]]]


class _MovementSettings(TypedDict):
  epochs: _Count
  datasets: list[str]
  networks: list[str]


class _MovedGroup(TypedDict):
  movement: float | None
  ratio: float | None


class _MovementOfRun(TypedDict):
  quick: _MovedGroup
  slow: _MovedGroup


class _MovementRun(TypedDict):
  speed_correlation_to: float | None
  speed_correlation_from: float | None
  arms: dict[str, _MovementOfRun]


class _MovementArm(TypedDict):
  quick_ratio: _Estimate
  slow_ratio: _Estimate


class _MovementGain(TypedDict):
  pair: str
  quick: _Estimate
  slow: _Estimate


class Movement(TypedDict):
  """movement.json, as far as the report reads it."""

  settings: _MovementSettings
  arms: dict[str, _MovementArm]
  gains: list[_MovementGain]
  runs: list[_MovementRun]


class _BatchesSettings(TypedDict):
  repeats: _Count
  epochs: _Count
  depth: _Count
  widen_factor: _Count
  train_examples: _Count
  image_size: _Count


class _EstimateOfRepeats(_Estimate):
  values: list[float | None]


class _BatchFigures(TypedDict):
  same_correlation: _EstimateOfRepeats
  other_correlation: _EstimateOfRepeats
  same_agreement: _EstimateOfRepeats
  other_agreement: _EstimateOfRepeats
  chance_agreement: _EstimateOfRepeats
  autocorrelation: _EstimateOfRepeats
  frozen_correlation: _EstimateOfRepeats
  frozen_agreement: _EstimateOfRepeats


class _BatchesOfEpoch(_BatchFigures):
  epoch: _Count
  learning_rate: float
  last_learning_rate: float


class _BatchesAll(_BatchFigures):
  first_epoch: _Count


class _BatchesExample(TypedDict):
  first: list[float]
  second: list[float]


class _Range(TypedDict):
  low: float
  high: float


class _PredictionOfValleys(TypedDict):
  same_correlation: _Range
  same_agreement: _Range
  autocorrelation: _Range
  frozen_correlation: _Range
  frozen_agreement: _Range


class _BatchSize(TypedDict):
  batch_size: _Count
  valleys: _PredictionOfValleys
  of_epochs: list[_BatchesOfEpoch]
  all: _BatchesAll
  example: _BatchesExample


class Batches(TypedDict):
  """batches.json, as far as the report reads it."""

  dataset: str
  scale: str
  settings: _BatchesSettings
  sizes: list[_BatchSize]


STUDIES: Mapping[str, Any] = {
  'traction': Traction,
  'movement': Movement,
  'probe': Probe,
  'batches': Batches,
}
"""The type of the record KIND.json, in the order of the report."""


# ---------------------------------------------------------------------- checks


def check_config(
  content: Mapping[str, Any], where: str, note: Note = ignore
) -> dict[str, Any]:
  """Checks config.json, including the range of every setting.

  Returns:
    The settings in the form of :func:`train.config.to_json`, with defaults for
    settings that are newer than the record; and the other fields.
  """
  hints = _hints(config_lib.Config)
  checked: dict[str, Any] = {}
  for name, kind in _FACTS_BEFORE.items():
    if name in content:
      checked[name] = _conform(content[name], kind, name, where)
  for name, value in checked.get('changes', {}).items():
    if name not in hints:
      raise errors.UsageError(f'{where}: changes has no setting {name}.')
    _conform(value, hints[name], f'changes.{name}', where)
  for field in dataclasses.fields(config_lib.Config):
    name = field.name
    if name in content:
      value = content[name]
      # Older versions had one number for all epochs.
      if name == 'horizontal_probability' and isinstance(value, (int, float)):
        value = [value]
      checked[name] = _conform(value, hints[name], name, where)
    elif name in _FROM_THE_FIRST:
      raise errors.UsageError(f'{where} lacks the setting {name}.')
    else:
      checked[name] = field.default
  for name, kind in _FACTS_AFTER.items():
    if name in content:
      checked[name] = _conform(content[name], kind, name, where)
  for name, kind in _FORMER.items():
    if name in content:
      _conform(content[name], kind, name, where)
  for name in sorted(content.keys() - checked.keys() - _FORMER.keys()):
    note(f'{name} of config.json')
    checked[name] = content[name]
  try:
    config_lib.check(config_lib.from_json(checked))
  except errors.UsageError as error:
    raise errors.UsageError(f'{where}: {error}') from error
  return checked


def check_summary(
  content: Mapping[str, Any], where: str, note: Note = ignore
) -> Summary:
  """Checks summary.json. A run that is done has all fields."""
  summary = cast(Summary, _conform(content, Summary, '', where))
  _tell_unknown(content, Summary, 'summary.json', note)
  if summary['status'] == 'done':
    for name in ('final_test_error', 'best_test_error', 'params_sha256'):
      if summary.get(name) is None:
        raise errors.UsageError(
          f'{where} lacks {name}, although its status is done.'
        )
  return summary


def check_epochs(
  rows: Sequence[Mapping[str, Any]],
  where: Callable[[int], str],
  note: Note = ignore,
) -> list[EpochRow]:
  """Checks metrics.jsonl: epochs 1 to n in order, of one length.

  Args:
    rows: The objects in order.
    where: Returns the file and the line of a row, counted from 0.
    note: Called for unknown fields.
  """
  checked = [
    cast(EpochRow, _conform(row, EpochRow, '', where(i)))
    for i, row in enumerate(rows)
  ]
  for row in rows:
    _tell_unknown(row, EpochRow, 'metrics.jsonl', note)
  _check_order([row['epoch'] for row in checked], where)
  for i, row in enumerate(checked):
    if row['step'] != (i + 1) * checked[0]['step']:
      raise errors.UsageError(
        f'{where(i)}: step must be {(i + 1) * checked[0]["step"]},'
        f' {checked[0]["step"]} per epoch, got {row["step"]}.'
      )
  return checked


def check_steps(
  rows: Sequence[Mapping[str, Any]],
  where: Callable[[int], str],
  note: Note = ignore,
) -> list[StepsRow]:
  """Checks steps.jsonl: epochs 1 to n in order, lists of one length.

  Args:
    rows: The objects in order.
    where: Returns the file and the line of a row, counted from 0.
    note: Called for unknown fields.
  """
  checked = [
    cast(StepsRow, _conform(row, StepsRow, '', where(i)))
    for i, row in enumerate(rows)
  ]
  for row in rows:
    _tell_unknown(row, StepsRow, 'steps.jsonl', note)
  _check_order([row['epoch'] for row in checked], where)
  expected = None
  for i, row in enumerate(checked):
    for name in ('loss', 'momentum', 'horizontal'):
      values = cast(list[Any] | None, row[name])
      if values is None:
        continue
      expected = len(values) if expected is None else expected
      if len(values) != expected or not values:
        raise errors.UsageError(
          f'{where(i)}: {name} must have {expected or "some"} steps, got'
          f' {len(values)}.'
        )
  return checked


def check_study(
  content: Mapping[str, Any], kind: str, where: str
) -> dict[str, Any]:
  """Checks the fields of a study that the report reads."""
  checked: dict[str, Any] = _conform(content, STUDIES[kind], '', where)
  if kind == 'movement':
    _check_movement(checked, where)
  if kind == 'traction':
    _check_traction(checked, where)
  return {**content, **checked}


def check_agreement(
  config: Mapping[str, Any],
  summary: Summary,
  rows: Sequence[EpochRow],
  steps: Sequence[StepsRow] | None,
  where: str,
) -> None:
  """Raises UsageError if the files of a run contradict each other.

  Args:
    config: From :func:`check_config`.
    summary: From :func:`check_summary`.
    rows: From :func:`check_epochs`.
    steps: From :func:`check_steps`; ``None`` if the file does not exist.
    where: The name of the run.
  """

  def require(ok: bool, what: str) -> None:
    if not ok:
      raise errors.UsageError(f'{where}: {what}.')

  epochs, status = config['epochs'], summary['status']
  require(
    len(rows) == epochs if status == 'done' else len(rows) <= epochs,
    f'metrics.jsonl has {len(rows)} epochs of {epochs}, and summary.json says'
    f' {status}',
  )
  if status != 'incomplete':
    last: Mapping[str, Any] = rows[-1] if rows else {'epoch': 0, 'step': 0}
    errors_ = [row['test_error'] for row in rows if 'test_error' in row]
    for name, value in (
      ('epochs', last['epoch']),
      ('steps', last['step']),
      ('final_test_error', last.get('test_error')),
      ('best_test_error', min(errors_, default=None)),
    ):
      said = summary.get(name, value)
      require(
        said == value,
        f'summary.json has {name} {said}, and metrics.jsonl {value}',
      )
  check_tests(config, rows, f'{where}: metrics.jsonl')
  if steps is None:
    return
  # The steps of an epoch are written before its row of metrics.
  require(
    len(steps) == len(rows)
    or (status == 'incomplete' and len(steps) == len(rows) + 1),
    f'steps.jsonl has {len(steps)} epochs, and metrics.jsonl {len(rows)}',
  )
  for row in steps:
    if rows and row['loss'] is not None:
      require(
        len(row['loss']) == rows[0]['step'],
        f'steps.jsonl has {len(row["loss"])} steps per epoch, and'
        f' metrics.jsonl {rows[0]["step"]}',
      )


def check_tests(
  config: Mapping[str, Any], rows: Sequence[EpochRow], where: str
) -> None:
  """Raises UsageError if an epoch lacks the results of its test.

  Args:
    config: From :func:`check_config`.
    rows: From :func:`check_epochs`.
    where: The file.
  """
  experiment = experiments.of_record(config)
  for row in rows:
    tested = experiments.is_tested(
      experiment, row['epoch'], config['epochs'], config['eval_every']
    )
    for name in ('test_loss', 'test_error'):
      if tested and name not in row:
        raise errors.UsageError(
          f'{where} lacks the {name} of epoch {row["epoch"]}.'
        )


def _check_order(epochs: Sequence[int], where: Callable[[int], str]) -> None:
  for i, epoch in enumerate(epochs):
    if epoch != i + 1:
      raise errors.UsageError(
        f'{where(i)} must be of epoch {i + 1}, got epoch {epoch}.'
      )


def _check_movement(record: Mapping[str, Any], where: str) -> None:
  if not record['runs']:
    raise errors.UsageError(f'{where} has no runs.')
  for i, run in enumerate(record['runs']):
    if run['arms'].keys() != record['arms'].keys():
      raise errors.UsageError(
        f'{where}: runs[{i}] and the whole have different arms.'
      )


def _check_traction(record: Mapping[str, Any], where: str) -> None:
  if not record['paths'] or not all(
    points and all(len(point) == 2 for point in points)
    for points in record['paths'].values()
  ):
    raise errors.UsageError(f'{where}: paths must be lists of two weights.')


def _tell_unknown(
  content: Mapping[str, Any], kind: Any, file: str, note: Note
) -> None:
  for name in sorted(content.keys() - kind.__annotations__.keys()):
    note(f'{name} of {file}')


# -------------------------------------------------------------- JSON and types

# Names of types in errors.
_WORDS: Mapping[Any, str] = {
  float: 'a finite number',
  int: 'a whole number',
  bool: 'true or false',
  str: 'a string',
}
_LARGEST_INT = 2**63 - 1


def _conform(value: Any, kind: Any, name: str, where: str) -> Any:
  """Converts a JSON value to its type, or raises UsageError.

  Args:
    value: From :func:`train.files.parse`.
    kind: A type annotation of the kinds above.
    name: The field.
    where: The file.

  Returns:
    The value, with whole numbers converted to float if the type is float.
  """
  limits = None
  while get_origin(kind) in (Annotated, NotRequired):
    if get_origin(kind) is Annotated:
      limits = next(
        (extra for extra in kind.__metadata__ if isinstance(extra, Range)), None
      )
      kind = kind.__origin__
    else:
      (kind,) = get_args(kind)
  origin, inner = get_origin(kind), get_args(kind)

  if is_typeddict(kind):
    return _conform_object(value, kind, name, where)
  if origin in (Union, types.UnionType):
    if value is None and type(None) in inner:
      return None
    (other,) = (k for k in inner if k is not type(None))
    return _conform(value, other, name, where)
  if origin is Literal:
    if not any(type(value) is type(x) and value == x for x in inner):
      _refuse(value, f'one of {", ".join(map(str, inner))}', name, where)
    return value
  if origin in (list, tuple):
    if not isinstance(value, list):
      _refuse(value, 'a list', name, where)
    if _is_plain(value, inner[0]):
      return value
    return [
      _conform(x, inner[0], f'{name}[{i}]', where) for i, x in enumerate(value)
    ]
  if origin is dict:
    if not isinstance(value, dict):
      _refuse(value, 'an object', name, where)
    return {
      key: _conform(x, inner[1], f'{name}.{key}', where)
      for key, x in value.items()
    }
  if kind is Any:
    return value
  if kind is pathlib.Path:
    kind = str
  is_bool = isinstance(value, bool)
  if kind is float and isinstance(value, int) and not is_bool:
    value = _as_float(value)
  fits = isinstance(value, kind) and is_bool == (kind is bool)
  if fits and kind is int:
    fits = abs(value) <= _LARGEST_INT
  if fits and limits is not None:
    low, high = limits
    fits = low <= value <= high
  if not fits:
    _refuse(value, _WORDS[kind] + str(limits or ''), name, where)
  return value


def _as_float(value: int) -> float | int:
  try:
    return float(value)
  except OverflowError:
    return value


def _conform_object(value: Any, kind: Any, name: str, where: str) -> Any:
  if not isinstance(value, dict):
    _refuse(value, 'an object', name, where)
  checked = dict(value)
  for field, type_ in _hints(kind).items():
    path = f'{name}.{field}' if name else field
    if field in value:
      checked[field] = _conform(value[field], type_, path, where)
    elif field in kind.__required_keys__:
      raise errors.UsageError(f'{where} lacks {path}.')
  return checked


@functools.cache
def _hints(kind: Any) -> Mapping[str, Any]:
  return get_type_hints(kind, include_extras=True)


def _is_plain(values: list[Any], kind: Any) -> bool:
  """A fast check of a list, because there are many steps."""
  if kind == float | None:
    return {*map(type, values)} <= {float, type(None)}
  if kind == Literal[0, 1] | None:
    return {*map(type, values)} <= {int, type(None)} and {*values} <= {
      0,
      1,
      None,
    }
  return False


def _refuse(value: Any, allowed: str, name: str, where: str) -> None:
  if isinstance(value, list):
    given = 'a list'
  elif isinstance(value, dict):
    given = 'an object'
  else:
    given = json.dumps(value)
    if len(given) > 60:
      given = f'{given[:50]}...'
  subject = f'{where}: {name}' if name else where
  raise errors.UsageError(f'{subject} must be {allowed}, got {given}.')
