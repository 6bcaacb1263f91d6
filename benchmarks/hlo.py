"""Parses the HLO text of a compiled program, and counts its operations."""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import functools
import itertools
import math
import re
from typing import Any

_BYTES = {
  'pred': 1,
  's4': 0.5,
  'u4': 0.5,
  's8': 1,
  'u8': 1,
  's16': 2,
  'u16': 2,
  'f16': 2,
  'bf16': 2,
  's32': 4,
  'u32': 4,
  'f32': 4,
  's64': 8,
  'u64': 8,
  'f64': 8,
}
# The names in NumPy and JAX.
_DTYPES = {
  'pred': 'bool',
  'bf16': 'bfloat16',
  **{f'f{n}': f'float{n}' for n in (16, 32, 64)},
  **{f's{n}': f'int{n}' for n in (4, 8, 16, 32, 64)},
  **{f'u{n}': f'uint{n}' for n in (4, 8, 16, 32, 64)},
}

COLLECTIVES = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'collective-permute',
  'all-to-all',
)

# cuDNN's convolutions, with the roles of the first operand, the second operand
# and the result.
_CUDNN = {
  '__cudnn$convForward': ('input', 'kernel', 'output'),
  '__cudnn$convBiasActivationForward': ('input', 'kernel', 'output'),
  '__cudnn$convForwardGraph': ('input', 'kernel', 'output'),
  '__cudnn$convBackwardInput': ('output', 'kernel', 'input'),
  '__cudnn$convBackwardFilter': ('input', 'output', 'kernel'),
}

# Instructions without a kernel: names, constants, the ends of asynchronous
# operations, and loops, whose bodies are counted separately.
_NO_KERNELS = frozenset(
  {
    'parameter',
    'constant',
    'tuple',
    'get-tuple-element',
    'bitcast',
    'after-all',
    'opt-barrier',
    'partition-id',
    'replica-id',
    'while',
    'copy-done',
    'slice-done',
    'async-done',
    'async-update',
    *(f'{name}-done' for name in COLLECTIVES),
  }
)
_MOVES = frozenset({'copy', 'transpose'})
# What a fusion that only copies may also contain.
_WITH_MOVES = frozenset({'parameter', 'bitcast', 'tuple', 'reshape'})
_READS_A_PART = frozenset({'gather', 'dynamic-slice', 'slice'})

_ARRAY = re.compile(
  r'\b(?P<dtype>[a-z]+\d*)\[(?P<shape>[\d,]*)\](?P<layout>\{[^{}]*\})?'
)
_HEADER = re.compile(r'(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{\s*$')
_NAME = re.compile(r'\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = ')
_OPCODE = re.compile(r' ?(?P<opcode>[a-z][\w\-]*)\(')
_OPERAND = re.compile(r'%([\w.\-]+)')
_CALLED = re.compile(r'\b(calls|to_apply|body|condition)=%?([\w.\-]+)')
_FRAME = re.compile(r'\bstack_frame_id=(\d+)')
_SOURCE = re.compile(r'\bsource_file="([^"]*)"')
_OP_NAME = re.compile(r'\bop_name="((?:[^"\\]|\\.)*)"')
# The value numbers of the parameters of a computation.
_Bound = tuple[int, ...]

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of an instruction's result."""

  dtype: str
  shape: tuple[int, ...]
  layout: str = ''

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  @property
  def bytes(self) -> int:
    return math.ceil(self.size * _BYTES.get(self.dtype, 0))

  @property
  def in_memory(self) -> bool:
    """Whether it is in the memory of the device, not in on-chip memory."""
    space = re.search(r'S\((\d+)\)', self.layout)
    return space is None or space[1] == '0'


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One instruction of a computation."""

  name: str
  opcode: str
  arrays: tuple[Array, ...]
  """The arrays of its result."""
  operands: tuple[str, ...]
  attributes: str
  is_root: bool

  @property
  def bytes(self) -> int:
    return sum(array.bytes for array in self.arrays)

  @property
  def op_name(self) -> str:
    """JAX's name of the operation that it implements."""
    found = _OP_NAME.search(self.attributes)
    return found[1] if found else ''

  @property
  def cycles(self) -> int | None:
    """The estimate of the compiler, if it prints one."""
    found = _CYCLES.search(self.attributes)
    return int(found[1]) if found else None

  def called(self, *kinds: str) -> list[str]:
    """The computations that it runs, such as the body of a loop or fusion."""
    return [
      name
      for kind, name in _CALLED.findall(self.attributes)
      if not kinds or kind in kinds
    ]

  def attribute(self, name: str) -> str:
    """The text after ``name=`` up to the next comma; empty if absent."""
    found = re.search(
      rf'\b{name}=(\{{[^}}]*\}}|"[^"]*"|[^,\s]+)', self.attributes
    )
    return found[1].strip('{}"') if found else ''


@dataclasses.dataclass(frozen=True)
class Convolution:
  """A convolution or a matrix product."""

  call: str
  """The XLA instruction or the library function that computes it."""
  dtype: str
  """The dtype of the factors."""
  flops: int


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A unit that a device launches: a fusion, a library function, a copy."""

  name: str
  op_name: str
  flops: int
  """FLOP of its convolutions and matrix products."""
  bytes: int
  """Bytes to and from the memory of the device."""
  convolves: bool
  cycles: int | None
  made_bytes: int = 0
  """See :meth:`Module.makers`."""

  def seconds(self, flops: float, memory: float) -> float:
    """The roofline time for the given FLOP/s and bytes/s."""
    return max(self.flops / flops, self.bytes / memory)


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation."""

  name: str
  arrays: tuple[Array, ...]
  """The arrays of its result on one device."""

  @property
  def bytes(self) -> int:
    return sum(array.bytes for array in self.arrays)

  @property
  def dtype(self) -> str:
    """The dtypes of its arrays, joined by a plus sign."""
    return '+'.join(sorted({dtype(array.dtype) for array in self.arrays}))


def dtype(name: str) -> str:
  """The name in NumPy and JAX of an XLA dtype."""
  return _DTYPES.get(name, name)


class Module:
  """A compiled program.

  Args:
    text: The result of ``jax.stages.Compiled.as_text``.
  """

  def __init__(self, text: str):
    self.computations: dict[str, dict[str, Instruction]] = {}
    self.entry = ''
    self._files = _files_of_frames(text)
    current: dict[str, Instruction] | None = None
    for line in text.splitlines():
      if line.startswith('}'):
        current = None
      elif current is not None:
        instruction = _read(line)
        if instruction is not None:
          current[instruction.name] = instruction
      else:
        header = _HEADER.match(line)
        if header:
          current = self.computations.setdefault(header['name'], {})
          if header['entry']:
            self.entry = header['name']

  def instructions(self) -> Iterator[Instruction]:
    """All instructions of all computations."""
    for computation in self.computations.values():
      yield from computation.values()

  @functools.cached_property
  def loops(self) -> list[Instruction]:
    return [i for i in self.instructions() if i.opcode == 'while']

  @functools.cached_property
  def step(self) -> str:
    """The computation of one step: the body of the loop, or the program."""
    return max(self.bodies(), key=lambda name: len(self._started(name)))

  def bodies(self) -> list[str]:
    """The entry computation, and the bodies of the loops."""
    return [
      self.entry,
      *(name for loop in self.loops for name in loop.called('body')),
    ]

  def within(self, instruction: Instruction) -> Iterator[Instruction]:
    """An instruction, and the instructions of the computations that it runs."""
    yield instruction
    for name in instruction.called('calls', 'to_apply'):
      for inner in self.computations.get(name, {}).values():
        yield from self.within(inner)

  def _started(self, computation: str) -> list[tuple[str, Instruction]]:
    """The kernels of a computation and of the computations that it calls."""
    found = []
    for instruction in self.computations[computation].values():
      if instruction.opcode in ('call', 'conditional'):
        for name in instruction.called():
          found += self._started(name)
      elif instruction.opcode not in _NO_KERNELS:
        found.append((computation, instruction))
    return found

  def kernels(self, computation: str | None = None) -> list[Kernel]:
    """The kernels of a computation. Default: those of one step."""
    return [
      self._kernel(where, instruction)
      for where, instruction in self._started(computation or self.step)
    ]

  def _kernel(self, where: str, instruction: Instruction) -> Kernel:
    products = list(self._products(where, instruction))
    return Kernel(
      name=instruction.name,
      op_name=instruction.op_name,
      flops=sum(product.flops for product in products),
      bytes=self._bytes_moved(where, instruction),
      convolves=bool(products),
      cycles=instruction.cycles,
    )

  # ------------------------------------------------------------------ counts

  def collectives(self) -> list[Collective]:
    """The collectives of the program; the body of a loop counts once."""
    found = []
    for instruction in self.instructions():
      name = instruction.opcode.removesuffix('-start')
      if name in COLLECTIVES:
        found.append(Collective(name, _results_of_start(instruction)))
    return found

  def convolutions(self) -> list[Convolution]:
    """The convolutions and matrix products of one step."""
    return [
      product
      for where, instruction in self._started(self.step)
      for product in self._products(where, instruction)
    ]

  def copies(self, computation: str, least_bytes: int) -> list[Instruction]:
    """Kernels that only copy or transpose an array of at least this size.

    Copies between the memory of the device and on-chip memory do not count:
    they are part of reading the data.
    """
    found = []
    for where, instruction in self._started(computation):
      if (
        self._only_moves(instruction)
        and instruction.bytes >= least_bytes
        and not self._changes_memory_alone(where, instruction)
      ):
        found.append(instruction)
    return found

  def transpositions(
    self, computation: str, least_bytes: int
  ) -> list[Instruction]:
    """Kernels that transpose such an array and also compute something else."""
    copies = {i.name for i in self.copies(computation, least_bytes)}
    return [
      instruction
      for _, instruction in self._started(computation)
      if instruction.name not in copies
      and any(
        inner.opcode == 'transpose' and inner.bytes >= least_bytes
        for inner in self.within(instruction)
      )
    ]

  def _only_moves(self, instruction: Instruction) -> bool:
    inner = {i.opcode for i in self.within(instruction)} - {'fusion'}
    return bool(inner & _MOVES) and inner <= _MOVES | _WITH_MOVES

  def _changes_memory_alone(self, where: str, instruction: Instruction) -> bool:
    if instruction.opcode != 'copy':
      return False
    source = self._operand(where, instruction.operands[0])
    if source is None or len(source.arrays) != 1:
      return False
    (before,), (after,) = source.arrays, instruction.arrays
    return before.in_memory != after.in_memory and (
      _order(before.layout) == _order(after.layout)
    )

  def arithmetic(self, file: str) -> dict[str, int]:
    """Counts float32 operations on scalars that come from a source file.

    Args:
      file: The end of its path.

    Returns:
      The number of operations by opcode. An operation that several fusions
      compute counts once.
    """
    values = _Values(self)
    found: dict[str, set[int]] = {}
    for where, instruction, bound in values.all():
      if (
        len(instruction.arrays) == 1
        and instruction.arrays[0].dtype == 'f32'
        and instruction.arrays[0].size == 1
        and any(name.endswith(file) for name in self.files(instruction))
      ):
        value = values.of(where, instruction.name, bound)
        found.setdefault(instruction.opcode, set()).add(value)
    return {opcode: len(distinct) for opcode, distinct in found.items()}

  def files(self, instruction: Instruction) -> frozenset[str]:
    """The source files in the stack trace of an instruction."""
    named = _SOURCE.search(instruction.attributes)
    if named:  # The format of older versions of XLA, without tables.
      return frozenset({named[1]})
    frame = _FRAME.search(instruction.attributes)
    return self._files.get(frame[1], frozenset()) if frame else frozenset()

  def makers(self, shapes: Iterable[tuple[int, ...]]) -> list[Kernel]:
    """The kernels that compute the results of a step with given shapes.

    Args:
      shapes: Shapes of float32 arrays. Axes of length 1 are ignored.

    Returns:
      Each kernel once, including kernels that only copy the result of another
      kernel. ``made_bytes`` is the size of the results with these shapes, and 0
      for a kernel whose result is copied afterwards.
    """
    wanted = {_squeeze(shape) for shape in shapes}
    (root,) = [i for i in self.computations[self.step].values() if i.is_root]
    made: dict[str, tuple[Instruction, int]] = {}
    for operand in root.operands:
      result = self._operand(self.step, operand)
      if result is None or not any(
        array.dtype == 'f32' and _squeeze(array.shape) in wanted
        for array in result.arrays
      ):
        continue
      size = result.bytes
      maker = self._maker(self.step, result)
      while maker is not None and maker.opcode != 'parameter':
        _, before = made.get(maker.name, (maker, 0))
        made[maker.name] = (maker, before + size)
        if not self._only_moves(maker):
          break
        size = 0
        source = self._operand(self.step, maker.operands[0])
        maker = source and self._maker(self.step, source)
    return [
      dataclasses.replace(self._kernel(self.step, i), made_bytes=size)
      for i, size in made.values()
    ]

  # ------------------------------------------------------------------- private

  def _operand(self, where: str, name: str) -> Instruction | None:
    return self.computations[where].get(name)

  def _maker(self, where: str, instruction: Instruction) -> Instruction | None:
    """Follows names back to the instruction that computed the array."""
    through = ('get-tuple-element', 'bitcast', 'copy-done', 'copy-start')
    while instruction.opcode in through:
      before = self._operand(where, instruction.operands[0])
      if before is None:
        return None
      instruction = before
    return instruction

  def _products(
    self, where: str, instruction: Instruction
  ) -> Iterator[Convolution]:
    if instruction.opcode == 'custom-call':
      target = instruction.attribute('custom_call_target')
      operands = self._arrays_of_operands(where, instruction)
      if target in _CUDNN:
        yield Convolution(
          target,
          dtype(operands[0].dtype),
          _cudnn_flops(target, operands, instruction),
        )
      elif target.startswith('__cublas$'):
        yield Convolution(
          target,
          dtype(operands[0].dtype),
          _gemm_flops(operands[0], operands[1], instruction.arrays[0]),
        )
    elif instruction.opcode in ('convolution', 'dot'):
      lhs, rhs = self._arrays_of_operands(where, instruction)[:2]
      if instruction.opcode == 'dot':
        axes = instruction.attribute('lhs_contracting_dims')
        contracted = [lhs.shape[int(n)] for n in axes.split(',') if n]
        flops = 2 * instruction.arrays[0].size * math.prod(contracted)
      else:
        flops = _convolution_flops(lhs, rhs, instruction)
      yield Convolution(instruction.opcode, dtype(lhs.dtype), flops)
    for name in instruction.called('calls'):
      for inner in self.computations.get(name, {}).values():
        yield from self._products(name, inner)

  def _arrays_of_operands(
    self, where: str, instruction: Instruction
  ) -> list[Array]:
    found = []
    for name in instruction.operands:
      operand = self._operand(where, name)
      if operand is not None:
        found += operand.arrays
    return found

  def _bytes_moved(self, where: str, instruction: Instruction) -> int:
    """The bytes that a kernel reads and writes in the memory of the device."""
    called = instruction.called('calls')
    inside = self.computations.get(called[0], {}) if called else {}
    read = 0
    for position, name in enumerate(instruction.operands):
      operand = self._operand(where, name)
      if operand is None:
        continue
      whole = sum(a.bytes for a in operand.arrays if a.in_memory)
      read += min(whole, _bytes_read(inside, position, instruction, whole))
    if instruction.opcode == 'copy-start':
      # The tuple also contains the source.
      results: Sequence[Array] = instruction.arrays[:1]
    elif instruction.opcode.endswith('-start'):
      results = _results_of_start(instruction)
    else:
      results = instruction.arrays
    written = sum(array.bytes for array in results if array.in_memory)
    updated = [
      i
      for i in (inside.values() if inside else [instruction])
      if i.opcode == 'dynamic-update-slice'
    ]
    for update in updated:
      # In place: only the part is written.
      part = (inside or self.computations[where]).get(update.operands[1])
      if part is not None and update.bytes > part.bytes:
        written -= min(written, update.bytes - part.bytes)
    return read + written


class _Values:
  """Value numbering: equal computations have equal numbers.

  This identifies values that several fusions compute.
  """

  def __init__(self, module: Module):
    self._module = module
    self._numbers: dict[Any, int] = {}
    self._known: dict[tuple[str, str, _Bound], int] = {}
    self._tuples: dict[int, _Bound] = {}

  def all(self) -> Iterator[tuple[str, Instruction, _Bound]]:
    """Each instruction, with the parameters of its computation."""
    module = self._module
    outer = [module.entry]
    outer += [n for i in module.loops for n in i.called('body', 'condition')]
    for where in outer:
      yield from self._within(where, ())

  def _within(
    self, where: str, bound: _Bound
  ) -> Iterator[tuple[str, Instruction, _Bound]]:
    for instruction in self._module.computations[where].values():
      # In program order, which avoids deep recursion.
      self.of(where, instruction.name, bound)
      yield where, instruction, bound
      if instruction.opcode in ('fusion', 'call'):
        operands = self._operands(where, instruction, bound)
        for name in instruction.called('calls', 'to_apply'):
          yield from self._within(name, operands)

  def of(self, where: str, name: str, bound: _Bound) -> int:
    """The number of an instruction's result."""
    key = (where, name, bound)
    if key not in self._known:
      self._known[key] = self._number(
        self._describe(where, self._module.computations[where][name], bound)
      )
    return self._known[key]

  def _describe(
    self, where: str, instruction: Instruction, bound: _Bound
  ) -> Any:
    if instruction.opcode == 'parameter':
      position = int(instruction.attributes[1:].partition(')')[0])
      if position < len(bound):
        return ('same', bound[position])
      return (where, position)
    operands = self._operands(where, instruction, bound)
    if instruction.opcode in ('bitcast', 'copy') and len(operands) == 1:
      return ('same', operands[0])
    if instruction.opcode == 'get-tuple-element':
      return ('element', operands, instruction.attribute('index'))
    if instruction.opcode == 'fusion':
      (called,) = instruction.called('calls')
      root = next(
        i for i in self._module.computations[called].values() if i.is_root
      )
      return ('same', self.of(called, root.name, operands))
    if instruction.opcode == 'constant':
      return (instruction.arrays, instruction.attributes.partition(',')[0])
    arithmetic = ','.join(
      instruction.attribute(name)
      for name in ('direction', 'dimensions', 'slice', 'index')
    )
    # An instruction without operands is equal to no other.
    own = '' if operands else (where, instruction.name)
    shapes = tuple((a.dtype, a.shape) for a in instruction.arrays)
    return (instruction.opcode, shapes, operands, arithmetic, own)

  def _operands(
    self, where: str, instruction: Instruction, bound: _Bound
  ) -> _Bound:
    known = self._module.computations[where]
    return tuple(
      self.of(where, name, bound)
      for name in instruction.operands
      if name in known
    )

  def _number(self, description: Any) -> int:
    if description[0] == 'same':
      return description[1]
    if description[0] == 'element' and len(description[1]) == 1:
      # An element of a known tuple is the operand at this position.
      parts = self._tuples.get(description[1][0])
      if parts is not None:
        return parts[int(description[2])]
    number = self._numbers.setdefault(description, len(self._numbers))
    if description[0] == 'tuple':
      self._tuples[number] = description[2]
    return number


def _bytes_read(
  inside: dict[str, Instruction],
  position: int,
  instruction: Instruction,
  whole: int,
) -> int:
  """Bytes that a kernel reads of an operand: all, or the parts it needs."""
  if not inside:
    if instruction.opcode in _READS_A_PART and position == 0:
      return instruction.bytes
    return 0 if _is_updated(instruction, position) else whole
  parameter = next(
    (
      i
      for i in inside.values()
      if i.opcode == 'parameter' and i.attributes.startswith(f'({position})')
    ),
    None,
  )
  if parameter is None:
    return whole
  parts = 0
  names = {parameter.name}
  for user in inside.values():
    if names.isdisjoint(user.operands):
      continue
    if user.opcode == 'bitcast':
      names.add(user.name)
    elif user.opcode in _READS_A_PART and user.operands[0] in names:
      parts += user.bytes
    elif not (_is_updated(user, 0) and user.operands[0] in names):
      return whole
  return parts


def _results_of_start(instruction: Instruction) -> tuple[Array, ...]:
  """The results of an instruction, asynchronous or not."""
  operands = len(instruction.operands)
  # The result of an asynchronous start may also contain the operands.
  if (
    instruction.opcode.endswith('-start')
    and len(instruction.arrays) >= 2 * operands
  ):
    return instruction.arrays[operands : 2 * operands]
  return instruction.arrays


def _is_updated(instruction: Instruction, position: int) -> bool:
  return instruction.opcode == 'dynamic-update-slice' and position == 0


def _read(line: str) -> Instruction | None:
  name = _NAME.match(line)
  if name is None:
    return None
  rest = line[name.end() :]
  end = _end_of_type(rest)
  opcode = _OPCODE.match(rest, end)
  if opcode is None:
    return None
  closed = _closing(rest, opcode.end() - 1)
  inside = rest[opcode.end() : closed]
  attributes = rest[closed + 1 :]
  if opcode['opcode'] in ('parameter', 'constant'):
    attributes = f'({inside}){attributes}'
  return Instruction(
    name=name['name'],
    opcode=opcode['opcode'],
    arrays=_arrays(rest[:end]),
    operands=tuple(_OPERAND.findall(inside)),
    attributes=attributes,
    is_root=bool(name['root']),
  )


def _arrays(text: str) -> tuple[Array, ...]:
  return tuple(
    Array(
      found['dtype'],
      tuple(int(n) for n in found['shape'].split(',') if n),
      found['layout'] or '',
    )
    for found in _ARRAY.finditer(text)
  )


def _end_of_type(text: str) -> int:
  if text.startswith('('):
    return _closing(text, 0) + 1
  # A layout can contain parentheses, but no spaces.
  return text.index(' ')


def _closing(text: str, opened: int) -> int:
  """The position of the parenthesis that closes the one at a position."""
  depth = 0
  for i in range(opened, len(text)):
    if text[i] == '(':
      depth += 1
    elif text[i] == ')':
      depth -= 1
      if not depth:
        return i
  return len(text)


def _order(layout: str) -> str:
  """The axis order and tiles of a layout, without its memory space."""
  return re.sub(r'S\(\d+\)', '', layout).rstrip(':}')


def _squeeze(shape: Sequence[int]) -> tuple[int, ...]:
  return tuple(n for n in shape if n != 1)


def _files_of_frames(text: str) -> dict[str, frozenset[str]]:
  """The source files of each stack frame, from the tables in the text."""

  def table(title: str) -> dict[str, str]:
    begin = text.find(f'\n{title}\n')
    if begin < 0:
      return {}
    lines = itertools.takewhile(
      bool, text[begin + len(title) + 2 :].splitlines()
    )
    return dict(line.split(' ', 1) for line in lines)

  def number(entry: str, field: str) -> str:
    found = re.search(rf'\b{field}=(\d+)', entry)
    return found[1] if found else ''

  names = {n: name.strip('"') for n, name in table('FileNames').items()}
  locations = table('FileLocations')
  frames = table('StackFrames')
  # XLA prints the number of the parent plus 1, and 1 if there is no parent.
  parents = {
    frame: str(int(number(entry, 'parent_frame_id') or 1) - 1)
    for frame, entry in frames.items()
  }
  files: dict[str, frozenset[str]] = {}
  # Parents precede their children.
  for frame, entry in frames.items():
    location = locations.get(number(entry, 'file_location_id'), '')
    own = names.get(number(location, 'file_name_id'), '')
    files[frame] = files.get(parents[frame], frozenset()) | {own}
  return files


def _convolution_flops(lhs: Array, rhs: Array, instruction: Instruction) -> int:
  """FLOP of an XLA convolution.

  Products with padding, or with the zeros of a dilation, are not counted: some
  kernels skip them, and they contribute nothing.
  """
  ours, theirs, result = _labels(instruction)
  output = instruction.arrays[0]
  window = _window(instruction)
  pairs = 1
  for axis in range(len(window)):
    label = str(axis)
    pairs *= _pairs(
      lhs.shape[ours.index(label)],
      rhs.shape[theirs.index(label)],
      output.shape[result.index(label)],
      window[axis],
    )
  return (
    2
    * pairs
    * output.shape[result.index('b')]
    * output.shape[result.index('f')]
    * rhs.shape[theirs.index('i')]
  )


def _cudnn_flops(
  target: str, operands: Sequence[Array], instruction: Instruction
) -> int:
  """FLOP of a cuDNN convolution.

  The labels and the window are those of the forward convolution, even if the
  call computes a gradient.
  """
  arrays = dict(
    zip(_CUDNN[target], (*operands[:2], instruction.arrays[0]), strict=True)
  )
  ours, theirs, result = _labels(instruction)
  window = _window(instruction)
  pairs = 1
  for axis in range(len(window)):
    label = str(axis)
    pairs *= _pairs(
      arrays['input'].shape[ours.index(label)],
      arrays['kernel'].shape[theirs.index(label)],
      arrays['output'].shape[result.index(label)],
      window[axis],
    )
  return (
    2
    * pairs
    * arrays['output'].shape[result.index('b')]
    * arrays['output'].shape[result.index('f')]
    * arrays['kernel'].shape[theirs.index('i')]
  )


def _labels(instruction: Instruction) -> tuple[str, str, str]:
  inputs, _, result = instruction.attribute('dim_labels').partition('->')
  ours, _, theirs = inputs.partition('_')
  return ours, theirs, result


@dataclasses.dataclass(frozen=True)
class _Axis:
  """How a window moves along an axis."""

  stride: int = 1
  pad: int = 0
  lhs_dilate: int = 1
  rhs_dilate: int = 1


def _window(instruction: Instruction) -> list[_Axis]:
  fields = dict(
    field.split('=', 1)
    for field in instruction.attribute('window').split()
    if '=' in field
  )
  axes = fields['size'].split('x') if 'size' in fields else []

  def numbers(name: str, default: int) -> list[int]:
    # Padding has the form LOW_HIGH and can be negative.
    given = fields.get(name)
    if given is None:
      return [default] * len(axes)
    return [int(part.split('_')[0]) for part in given.split('x')]

  return [
    _Axis(*of_axis)
    for of_axis in zip(
      numbers('stride', 1),
      numbers('pad', 0),
      numbers('lhs_dilate', 1),
      numbers('rhs_dilate', 1),
      strict=True,
    )
  ]


@functools.cache
def _pairs(size: int, kernel: int, output: int, axis: _Axis) -> int:
  """The number of (output, kernel) index pairs that read an input element."""
  last = (size - 1) * axis.lhs_dilate
  count = 0
  for o, k in itertools.product(range(output), range(kernel)):
    at = o * axis.stride + k * axis.rhs_dilate - axis.pad
    count += 0 <= at <= last and at % axis.lhs_dilate == 0
  return count


def _gemm_flops(lhs: Array, rhs: Array, result: Array) -> int:
  """FLOP of a matrix product; the sizes are m * k, k * n and m * n."""
  contracted = math.isqrt(lhs.size * rhs.size // result.size)
  return 2 * result.size * contracted
