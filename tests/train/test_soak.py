"""A run to which everything happens, many times: `pytest -m slow -s` prints it.

Faults of all kinds are done in random order to one run, each while it goes on
from the last, and to what runs use: caches, groups of processes, the optimizer.
After each the rows of the run must be those of a run to which nothing happened,
and at the end all that it has written, bit for bit.

    OPTAX_LCAM_FAULTS=200 python -m pytest -m slow -s tests/train/test_soak.py
"""

import collections
from concurrent import futures
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import random
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_lcam
from tests.train import damage
from tests.train import forked
from tests.train import processes
from train import errors
from train.data import array_cache
from train.devices import rendezvous

_FAULTS = int(os.environ.get('OPTAX_LCAM_FAULTS', '200'))
# Four of them with 50 faults each, at once, are 200 faults too.
_SEED = int(os.environ.get('OPTAX_LCAM_SEED', '0'))
_STEPS_PER_EPOCH = 13
# For one start, on a machine that does much else.
_SECONDS = 1800
# Long enough for all of them. Testing one image at a time makes evaluations
# long enough to be hit.
_FLAGS = (
  'run', '--model', 'mlp', '--epochs', _FAULTS, '--train-examples', 400,
  '--batch-size', 32, '--eval-batch-size', 1,
)  # fmt: skip
_CHECKPOINT_AFTER_EACH_STEP = ('--checkpoint-seconds', 0)
# The settings of JAX that decide on numbers, or stop a program.
_VARIABLES = {
  'JAX_DEFAULT_PRNG_IMPL': 'rbg',
  'JAX_THREEFRY_PARTITIONABLE': '0',
  'JAX_ENABLE_X64': '1',
  'JAX_NUMPY_RANK_PROMOTION': 'raise',
  'JAX_DEBUG_NANS': '1',
  'JAX_DISABLE_JIT': '1',
  'JAX_TRANSFER_GUARD': 'disallow',
}


class _Soak:
  """The run, and how it is started, waited for and stopped."""

  def __init__(self, folder, rng):
    self.folder = folder
    self.directory = folder / 'run'
    self.rng = rng
    self.shown = ''
    self._starts = 0

  def start(self, *flags, run_dir=None, command=_FLAGS, **options):
    self._starts += 1
    return forked.Program(
      [
        *command, *_CHECKPOINT_AFTER_EACH_STEP, *flags, '--run-dir',
        run_dir or self.directory,
      ],
      self.folder.parent / f'shown-{self._starts}',
      **options,
    )  # fmt: skip

  def ended(self, program, code, *parts):
    """Whether it ended with a code, and said so without a traceback.

    None where the run was finished before.
    """
    ended = program.wait(_SECONDS)
    self.shown = program.shown()
    if ended == 0 and code != 0:
      return None
    return self._is_right(ended, code, parts)

  def _is_right(self, ended, code, parts):
    right = (
      ended == code
      and 'Traceback' not in self.shown
      and all(part in self.shown for part in parts)
    )
    if not right:
      print(f'Code {ended} instead of {code}, {parts}:\n{self.shown}')
    return right

  def refused(self, *parts, code=2, **options):
    """Whether a start is answered with one sentence, and changes nothing."""
    before = self.contents()
    ended = self.ended(self.start(**options), code, *parts)
    return ended and self.contents() == before

  def goes_on(self, *parts, program=None, steps=None, **options):
    """Whether a start makes a few steps and stops when it is asked to."""
    newest = self.newest()
    program = program or self.start(**options)
    self.wait(program, newest + (steps or self.rng.randint(1, 5)))
    program.send_signal(signal.SIGTERM)
    return self.ended(program, 143, *parts)

  def wait(self, program, step):
    # One that is damaged is the newest too, until it is set aside.
    while program.poll() is None and self.newest() < step:
      time.sleep(0.01)

  def checkpoints(self):
    # A write that was cut off leaves a folder whose name is more than a number.
    return [
      int(path.name)
      for path in self.directory.glob('checkpoints/*')
      if path.name.isascii() and path.name.isdigit() and path.is_dir()
    ]

  def newest(self):
    return max(self.checkpoints(), default=0)

  def newest_path(self):
    return self.directory / 'checkpoints' / str(self.newest())

  def is_writing(self):
    return any(self.directory.glob('checkpoints/*tmp*'))

  def contents(self):
    """The run directory, byte for byte."""
    return {
      path: hashlib.sha256(path.read_bytes()).digest()
      for path in sorted(self.directory.rglob('*'))
      if path.is_file() and path.name != 'run.lock'
    }


# -------------------------------------------------------------------- killed


def _kill(soak, program, within):
  time.sleep(soak.rng.uniform(0, within))
  program.kill()
  return soak.ended(program, -signal.SIGKILL)


def killed_as_it_starts(soak):
  # With its imports, unlike all others.
  with processes.start(
    *_FLAGS,
    *_CHECKPOINT_AFTER_EACH_STEP,
    '--run-dir',
    soak.directory,
    env=processes.environment(),
  ) as program:
    time.sleep(soak.rng.uniform(0, 8))
    program.kill()
    _, soak.shown = program.communicate(timeout=_SECONDS)
  return soak._is_right(program.returncode, -signal.SIGKILL, ())


def killed_as_it_compiles(soak):
  program = soak.start(caches=False)
  while program.poll() is None and 'MLP-' not in program.shown():
    time.sleep(0.01)
  return _kill(soak, program, 1)


def killed_in_a_step(soak):
  program = soak.start()
  soak.wait(program, soak.newest() + soak.rng.randint(1, 20))
  return _kill(soak, program, 0.1)


def killed_as_it_writes_a_checkpoint(soak):
  program = soak.start()
  soak.wait(program, soak.newest() + soak.rng.randint(1, 5))
  while program.poll() is None and not soak.is_writing():
    time.sleep(0.001)
  return _kill(soak, program, 0.02)


def killed_as_it_evaluates(soak):
  before_last = soak.newest() + soak.rng.randint(1, _STEPS_PER_EPOCH)
  before_last += -(before_last + 1) % _STEPS_PER_EPOCH
  program = soak.start()
  soak.wait(program, before_last)
  return _kill(soak, program, 0.15)


def killed_at_an_access_to_its_files(soak):
  moment = soak.rng.randint(1, 200), soak.directory
  program = soak.start(kill_at=moment)
  return soak.ended(program, -signal.SIGKILL)


# ------------------------------------------------------------------- signals


def _stopped(soak, number, code):
  program = soak.start()
  soak.wait(program, soak.newest() + soak.rng.randint(1, 20))
  time.sleep(soak.rng.uniform(0, 0.1))
  program.send_signal(number)
  return soak.ended(program, code, 'stopped by')


def stopped_by_sigterm(soak):
  return _stopped(soak, signal.SIGTERM, 143)


def stopped_by_sigint(soak):
  return _stopped(soak, signal.SIGINT, 130)


def _ignore_sigint():
  signal.signal(signal.SIGINT, signal.SIG_IGN)


def sigint_that_the_parent_ignores(soak):
  program = soak.start(prepare=_ignore_sigint)
  soak.wait(program, soak.newest() + 2)
  program.send_signal(signal.SIGINT)
  return soak.goes_on(program=program)


def ctrl_c_during_the_imports(soak):
  with subprocess.Popen(
    [
      sys.executable,
      '-m',
      'train',
      *map(str, _FLAGS),
      '--run-dir',
      soak.directory,
    ],
    env=processes.environment(),
    stderr=subprocess.PIPE,
    text=True,
    preexec_fn=_heed_sigint,
  ) as program:
    # Python itself is no part of this.
    time.sleep(soak.rng.uniform(0.5, 2))
    program.send_signal(signal.SIGINT)
    _, soak.shown = program.communicate(timeout=_SECONDS)
  return soak._is_right(program.returncode, 130, ['stopped by SIGINT'])


def _heed_sigint():
  # A shell has its background jobs ignore it.
  signal.signal(signal.SIGINT, signal.default_int_handler)


# --------------------------------------------------------- disks and records


def a_full_disk(soak):
  program = soak.start()
  soak.wait(program, soak.newest() + soak.rng.randint(1, 10))
  time.sleep(soak.rng.uniform(0, 0.1))
  with damage.full(soak.folder, soak.rng.choice([0, 500_000])):
    return soak.ended(program, 1, 'cannot be written')


def the_newest_checkpoint_damaged(soak):
  if len(soak.checkpoints()) < 2:
    return None
  soak.rng.choice(damage.ALL)(soak.newest_path())
  return soak.goes_on('is damaged', 'going on')


def the_newest_checkpoint_renamed(soak):
  """Its folder says another step than it holds."""
  if len(soak.checkpoints()) < 2:
    return None
  newest = soak.newest_path()
  newest.rename(newest.with_name(str(soak.newest() + 4)))
  return soak.goes_on('is damaged (it holds step', 'going on')


def a_checkpoint_that_may_not_be_read(soak):
  if not soak.checkpoints():
    return None
  newest = soak.newest_path()
  newest.chmod(0)
  try:
    before = soak.contents()
    told = soak.ended(
      soak.start(prepare=damage.give_up_rights), 1, 'cannot be read'
    )
    return told and soak.contents() == before
  finally:
    if newest.exists():
      newest.chmod(0o755)


def strangers_among_the_checkpoints(soak):
  if not soak.checkpoints():
    return None
  folder = soak.directory / 'checkpoints'
  # A file where the next checkpoint but one is to be written, and others.
  (folder / str(soak.newest() + 2)).write_text('a file')
  strangers = [folder / name for name in ('\N{SUPERSCRIPT TWO}', 'notes')]
  for stranger in strangers:
    stranger.mkdir()
  gone_on = soak.goes_on('going on', steps=3)
  kept = all(stranger.exists() for stranger in strangers)
  for stranger in strangers:
    stranger.rmdir()
  return gone_on and kept


def settings_of_a_newer_version(soak):
  config = soak.directory / 'config.json'
  if not soak.checkpoints():
    return None
  content = config.read_text()
  config.write_text(json.dumps({**json.loads(content), 'new': 1}))
  try:
    return soak.refused('another version', 'new')
  finally:
    config.write_text(content)


# ----------------------------------------------------------------- ownership


def a_second_owner(soak):
  program = soak.start()
  soak.wait(program, soak.newest() + 1)
  if program.poll() is not None:
    return None
  refused = soak.ended(soak.start(), 2, 'is in use by process')
  return soak.goes_on(program=program) and refused


_SWEEP = ('sweep', 'digits-lcam', '--seeds', 2, '--model', 'mlp', '--epochs', 3,
          '--train-examples', 64, '--batch-size', 32)  # fmt: skip


@functools.cache
def _undisturbed_sweep(soak):
  directory = soak.folder.parent / 'sweep'
  soak.start(run_dir=directory, command=_SWEEP).wait()
  return _sweep_rows(directory)


def _sweep_rows(directory):
  return {
    path.parent.name: _rows(path.parent)
    for path in directory.rglob('metrics.jsonl')
  }


def two_sweeps_at_once(soak):
  directory = soak.folder.parent / f'sweeps-{soak._starts}'
  programs = [soak.start(run_dir=directory, command=_SWEEP) for _ in range(2)]
  ended = [soak.ended(program, program.wait()) for program in programs]
  # Either has made a run, or says that the other one makes it.
  codes = {program.wait() for program in programs}
  last = soak.ended(soak.start(run_dir=directory, command=_SWEEP), 0)
  rows = _sweep_rows(directory)
  return (
    None not in ended
    and all(ended)
    and codes <= {0, 1, 2}
    and last
    and len(rows) == 2
    and rows == _undisturbed_sweep(soak)
  )


# ---------------------------------------------------------- what JAX is told


def a_variable_of_jax(soak):
  name = soak.rng.choice(sorted(_VARIABLES))
  variables = processes.environment() | {name: _VARIABLES[name]}
  with (
    mock.patch.object(processes, 'environment', return_value=variables),
    processes.start(
      *_FLAGS, *_CHECKPOINT_AFTER_EACH_STEP, '--run-dir', soak.directory
    ) as program,
  ):
    soak.wait(program, soak.newest() + 2)
    program.send_signal(signal.SIGTERM)
    _, soak.shown = program.communicate(timeout=_SECONDS)
  if program.returncode == 0:
    return None
  return soak._is_right(program.returncode, 143, ['is set back to'])


def _another_platform():
  jax.config.update('jax_platforms', 'nonsense')


def a_platform_that_does_not_exist(soak):
  return soak.refused('JAX cannot start', prepare=_another_platform)


def another_compute_dtype(soak):
  if not soak.checkpoints():
    return None
  program = soak.start('--dtype', 'bfloat16')
  return soak.ended(program, 2, 'holds another run', 'bfloat16')


def _little_address_space():
  resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000, 2_000_000_000))


def little_address_space(soak):
  return soak.refused('address space', prepare=_little_address_space, code=1)


# --------------------------------------------------------------------- paths


def a_link_to_the_run(soak):
  if not soak.directory.exists():
    return None
  link = soak.folder / 'link'
  link.symlink_to(soak.directory)
  try:
    return soak.goes_on(run_dir=link)
  finally:
    link.unlink()


def a_link_to_nothing(soak):
  link = soak.folder / 'link'
  link.symlink_to('nowhere')
  try:
    return soak.refused('link to nothing', run_dir=link)
  finally:
    link.unlink()


def a_home_directory(soak):
  home = {'HOME': str(soak.folder)}
  return soak.goes_on(run_dir='~/run', variables=home)


def a_remote_place(soak):
  refused = soak.refused('not a path of this machine', run_dir='gs://a/b')
  return refused and not pathlib.Path('gs:').exists()


def a_path_that_is_not_utf_8(soak):
  return soak.refused('is not UTF-8', run_dir='run-\udcff')


# -------------------------------------------------------------------- output


def _full_output():
  os.dup2(os.open('/dev/full', os.O_WRONLY), 1)


def output_that_cannot_be_written(soak):
  program = forked.Program(
    ['list'], soak.folder.parent / 'listed', prepare=_full_output
  )
  return soak.ended(program, 1, 'the output cannot be written')


def colour_forced_in_a_pipe(soak):
  told = soak.goes_on(variables={'FORCE_COLOR': '1'})
  return told and '\x1b' not in soak.shown


def more_images_a_batch_than_there_are(soak):
  directory = soak.folder.parent / f'batch-{soak._starts}'
  command = ('run', '--model', 'mlp', '--epochs', 1, '--train-examples', 40)
  program = soak.start('--batch-size', 64, run_dir=directory, command=command)
  return soak.ended(program, 0, '64', '40')


# ----------------------------------------------------------------- the cache


def a_damaged_cache(soak):
  arrays = {'a': np.arange(5), 'b': np.ones((2, 3), np.uint8)}
  built = []

  def build():
    built.append(1)
    return arrays

  root = soak.folder.parent / f'arrays-{soak._starts}-{time.monotonic_ns()}'
  with mock.patch.object(array_cache, 'root', return_value=root):
    load = lambda: array_cache.load_or_build('key', arrays, build)
    load()
    manifest, file = root / 'key' / 'manifest.json', root / 'key' / 'a.npy'
    content = file.read_bytes()
    match soak.rng.randrange(5):
      case 0:
        manifest.write_text('{}')
      case 1:
        manifest.write_text('{"a":' * 10**5)
      case 2:
        file.write_bytes(content[:-1])
      case 3:
        file.unlink()
        os.mkfifo(file)
      case 4:
        claims = content.replace(b'(5,)', b'(1250000000000,)').replace(
          b' ' * 12 + b'\n', b'\n'
        )
        file.write_bytes(claims)
        checksums = json.loads(manifest.read_text())
        checksums['a'] = hashlib.sha256(claims).hexdigest()
        manifest.write_text(json.dumps(checksums))
    (root / 'tmpleft').mkdir()
    again = load()
    load()
    return (
      len(built) == 2
      and all((again[name] == arrays[name]).all() for name in arrays)
      and [path.name for path in root.iterdir()] == ['key']
    )


# -------------------------------------------------------- groups of processes


def _meet(*members, listening=None):
  """What each (id, count) of a group is told, which takes some seconds."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  if listening is not None:
    address = f'localhost:{listening.getsockname()[1]}'

  def join(member):
    try:
      rendezvous.meet(address, *member, seconds=5)
    except errors.UsageError as error:
      return str(error)
    return ''

  with (
    mock.patch.multiple(rendezvous, _GREETING_SECONDS=5, _FAREWELL_SECONDS=5),
    futures.ThreadPoolExecutor(len(members)) as pool,
  ):
    return list(pool.map(join, members))


def a_missing_process(soak):
  count = soak.rng.randint(3, 9)
  return all('are missing after' in t for t in _meet((0, count), (1, count)))


def a_process_id_that_is_there_twice(soak):
  # Another one is missing, or it might not be noticed in time.
  told = _meet((0, 4), (1, 4), (2, 4), (soak.rng.randint(0, 2), 4))
  return all('is there twice' in t or 'reached' in t for t in told)


def a_port_in_use(soak):
  del soak
  with socket.create_server(('localhost', 0)) as listening:
    first, other = _meet((0, 2), (1, 2), listening=listening)
  return 'Address already in use' in first and 'cannot be reached' in other


# ------------------------------------------------------------- the optimizer


def losses_whose_sum_overflows(soak):
  losses = [1.0] * soak.rng.randint(2, 8) + [2e38]
  tx = optax_lcam.lcam(steps_per_epoch=100)
  state = tx.init(jnp.ones(2))
  for loss in losses:
    _, state = tx.update(jnp.ones(2), state, value=loss)
  return np.isclose(
    optax_lcam.read(state).mean_loss, np.mean(losses), rtol=1e-6
  )


def losses_that_are_no_numbers(soak):
  loss = soak.rng.choice(
    [np.timedelta64(1), np.ma.masked, 10**400, None, 'loss', [1.0, 2.0]]
  )
  tx = optax_lcam.lcam(steps_per_epoch=100)
  with contextlib.suppress(ValueError, TypeError) as _:
    tx.update(jnp.ones(2), tx.init(jnp.ones(2)), value=loss)
    return False
  return True


_KILLS = (
  killed_as_it_starts,
  killed_as_it_compiles,
  killed_in_a_step,
  killed_as_it_writes_a_checkpoint,
  killed_as_it_evaluates,
  killed_at_an_access_to_its_files,
)
_KINDS = (
  *_KILLS,
  stopped_by_sigterm,
  stopped_by_sigint,
  sigint_that_the_parent_ignores,
  ctrl_c_during_the_imports,
  a_full_disk,
  the_newest_checkpoint_damaged,
  the_newest_checkpoint_renamed,
  a_checkpoint_that_may_not_be_read,
  strangers_among_the_checkpoints,
  settings_of_a_newer_version,
  a_second_owner,
  two_sweeps_at_once,
  a_variable_of_jax,
  a_platform_that_does_not_exist,
  another_compute_dtype,
  little_address_space,
  a_link_to_the_run,
  a_link_to_nothing,
  a_home_directory,
  a_remote_place,
  a_path_that_is_not_utf_8,
  output_that_cannot_be_written,
  colour_forced_in_a_pipe,
  more_images_a_batch_than_there_are,
  a_damaged_cache,
  a_missing_process,
  a_process_id_that_is_there_twice,
  a_port_in_use,
  losses_whose_sum_overflows,
  losses_that_are_no_numbers,
)


def _name(kind):
  return kind.__name__.replace('_', ' ')


def _where_it_was(soak):
  """In what a kill has struck, as far as can be told from outside."""
  if 'MLP-' not in soak.shown:
    return 'the start'
  if 'Compiled in' not in soak.shown:
    return 'the compilation'
  if soak.is_writing():
    return 'the writing of a checkpoint'
  epoch, step = divmod(soak.newest(), _STEPS_PER_EPOCH)
  if step == _STEPS_PER_EPOCH - 1 and len(_rows(soak.directory)) == epoch:
    return 'the last step of an epoch or its evaluation'
  return 'a step or anything else'


def _rows(directory, name='metrics.jsonl'):
  path = directory / name
  # Without a last line that a kill has cut off.
  lines = path.read_bytes().split(b'\n')[:-1] if path.exists() else []
  return [processes.without_times(json.loads(line)) for line in lines]


def _are_a_beginning(disturbed, undisturbed):
  """Whether the rows are those of a run to which nothing happened."""
  for name in ('metrics.jsonl', 'steps.jsonl'):
    rows = _rows(disturbed, name)
    if rows != _rows(undisturbed, name)[: len(rows)]:
      return False
  return True


@pytest.mark.slow
def test_everything_happens(tmp_path):
  undisturbed, small = tmp_path / 'undisturbed', tmp_path / 'small'
  rng = random.Random(_SEED)
  first = _SEED * _FAULTS
  faults = [_KINDS[(first + i) % len(_KINDS)] for i in range(_FAULTS)]
  rng.shuffle(faults)
  tried, survived = collections.Counter(), collections.Counter()
  struck = collections.Counter()
  small.mkdir()
  with damage.disk(small, megabytes=16):
    soak = _Soak(small, rng)
    finished = soak.start('--checkpoint-seconds', 1e9, run_dir=undisturbed)
    assert finished.wait() == 0, finished.shown()
    for kind in faults:
      soak.shown = ''
      try:
        answered = kind(soak)
      except Exception:  # The others are to be tried nevertheless.
        traceback.print_exc()
        answered = False
      if answered is None:
        continue  # Nothing could be done to it.
      tried[kind] += 1
      survived[kind] += bool(
        answered and _are_a_beginning(soak.directory, undisturbed)
      )
      where = ''
      if kind in _KILLS:
        moment = _where_it_was(soak)
        struck[moment] += 1
        where = f' in {moment}'
      print(
        f'{tried.total()}. {_name(kind)}{where}: {survived[kind]} of'
        f' {tried[kind]}',
        flush=True,
      )
    finished = soak.start('--checkpoint-seconds', 1e9)
    code = finished.wait()
    print()
    for kind in _KINDS:
      print(f'{_name(kind)}: survived {survived[kind]} of {tried[kind]}')
    kills = [sum(count[kind] for kind in _KILLS) for count in (survived, tried)]
    print(f'kills: survived {kills[0]} of {kills[1]}, which struck in')
    for moment, count in struck.most_common():
      print(f'  {moment}: {count}')
    print(f'all: survived {survived.total()} of {tried.total()}')
    assert code == 0, finished.shown()
    processes.assert_the_same_end(soak.directory, undisturbed)
    print('In the end all is as if nothing had happened.')
  assert survived == tried
