"""A soak test: faults of all kinds, in random order, in one run.

Each fault is applied to the same run, which is resumed afterwards, or to what
runs use: caches, groups of processes, the optimizer. After each fault the rows
of the run must be those of an undisturbed run. At the end of the run all its
files must be the same, bit for bit. Then a new run begins.

    OPTAX_LCAM_FAULTS=200 python -m pytest -m slow -s tests/train/test_soak.py

Each fault is printed with the number survived so far. If a fault is not
survived, what differs is printed, and the run directory is kept as it was
before and after the fault. OPTAX_LCAM_SEED and the number of a fault determine
its kind and its random numbers, but not the timing of the processes.
OPTAX_LCAM_FIRST_FAULT=57 resumes the test at fault 57, or repeats that fault.
"""

import collections
from concurrent import futures
import contextlib
import errno
import functools
import hashlib
import io
import itertools
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from unittest import mock

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import optax
import pytest

import optax_lcam
from tests.train import damage
from tests.train import processes
from train import array_cache
from train import errors
from train import records
from train.devices import rendezvous

_FAULTS = int(os.environ.get('OPTAX_LCAM_FAULTS', '200'))
_FIRST_FAULT = int(os.environ.get('OPTAX_LCAM_FIRST_FAULT', '1'))
_SEED = int(os.environ.get('OPTAX_LCAM_SEED', '0'))
# For one start, on a machine that is busy with other work.
_SECONDS = 1800
_STEPS_PER_EPOCH = 13
_EPOCHS = 24
# More steps than a fault takes, so that no fault finds its run finished.
_STEPS_OF_A_FAULT = 60
# With one test image at a time, evaluations are long enough to be hit.
_FLAGS = (
  'run', '--model', 'mlp', '--epochs', _EPOCHS, '--train-examples', 400,
  '--batch-size', 32, '--eval-batch-size', 1,
)  # fmt: skip
_CHECKPOINT_AFTER_EACH_STEP = ('--checkpoint-seconds', 0)
_NO_OTHER_CHECKPOINTS = ('--checkpoint-seconds', 1e9)
_SMALL = ('--model', 'mlp', '--train-examples', 64, '--batch-size', 32)
# Settings of JAX that change results, or stop a program.
_VARIABLES = {
  'JAX_DEFAULT_PRNG_IMPL': 'rbg',
  'JAX_THREEFRY_PARTITIONABLE': '0',
  'JAX_ENABLE_X64': '1',
  'JAX_NUMPY_RANK_PROMOTION': 'raise',
  'JAX_DEBUG_NANS': '1',
  'JAX_DISABLE_JIT': '1',
  'JAX_TRANSFER_GUARD': 'disallow',
}
# Of /proc/net/tcp and tcp6, words in the byte order of x86 and ARM.
_LISTEN = '0A'
_LOOPBACK = {
  '0100007F',
  '0000000000000000FFFF00000100007F',
  '00000000000000000000000001000000',
}


class _Unavailable(Exception):
  """A fault that this machine does not allow. It is not counted."""


class _Started:
  """A process of the program, and what it writes to standard error."""

  def __init__(self, arguments, shown, **options):
    self._shown = shown
    with shown.open('w') as err, open(os.devnull, 'w') as out:
      self._process = processes.start(
        *arguments, **{'stdout': out, 'stderr': err, **options}
      )
    self.pid = self._process.pid
    self.poll = self._process.poll
    self.send_signal = self._process.send_signal
    self.kill = self._process.kill

  def shown(self):
    return self._shown.read_text(errors='replace')

  def ends(self, *codes):
    """Waits for an exit code without a traceback; returns what was shown."""
    ended = self._process.wait(_SECONDS)
    assert ended in codes, f'Code {ended}:\n{self.shown()}'
    assert 'Traceback' not in self.shown(), self.shown()
    return self.shown()

  def says(self, code, *parts):
    """Waits for an exit code, with some texts in what was shown."""
    shown = self.ends(code)
    for part in parts:
      assert part in shown, f'{part!r} is missing:\n{shown}'
    return shown


class _Soak:
  """The run, and methods to start it, wait for it and stop it."""

  def __init__(self, folder):
    self.elsewhere = folder
    self.folder = folder / 'disk'
    self.folder.mkdir()
    self.directory = self.folder / 'run'
    self.undisturbed = folder / 'undisturbed'
    self.rng = random.Random()
    self.has_disk = damage.can_mount()
    self._started = []
    self._numbers = itertools.count()

  def new_path(self, name):
    """An unused path, not on the disk of the run."""
    return self.elsewhere / f'{name}-{next(self._numbers)}'

  def call(self, *arguments, **options):
    """Starts the program with a command line."""
    started = _Started(arguments, self.new_path('shown'), **options)
    self._started.append(started)
    return started

  def start(self, *flags, run_dir=None, **options):
    """Starts the run."""
    return self.call(
      *_FLAGS, *_CHECKPOINT_AFTER_EACH_STEP, *flags, '--run-dir',
      run_dir or self.directory, **options,
    )  # fmt: skip

  def start_over(self):
    """Removes the run, and everything else on its disk."""
    for path in self.folder.iterdir():
      if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
      else:
        path.unlink()

  def stop_all(self):
    """Kills processes that still run; returns what all have shown."""
    shown = [started.shown() for started in self._started]
    for started in self._started:
      started.kill()
      started._process.wait(_SECONDS)
    self._started = []
    return '\n'.join(shown)

  def refused(self, *parts, code=2, program=None, **options):
    """Asserts that a start ends with one message, and changes no file."""
    before = self.contents()
    shown = (program or self.start(**options)).says(code, *parts)
    # One sentence, or tyro's frame around the error of a flag.
    assert len(shown.splitlines()) == 1 or shown.startswith('╭'), shown
    after = self.contents()
    names = before.keys() | after.keys()
    changed = [name for name in names if before.get(name) != after.get(name)]
    assert not changed

  def resumes(self, *parts, program=None, steps=None, **options):
    """Asserts that a start makes a few steps, and stops at SIGTERM."""
    newest = self.newest()
    program = program or self.start(**options)
    self.wait(program, newest + (steps or self.rng.randint(1, 5)))
    program.send_signal(signal.SIGTERM)
    return program.says(143, *parts)

  def wait(self, program, step):
    """Waits for a step. A damaged checkpoint counts until it is set aside."""
    while program.poll() is None and self.newest() < step:
      time.sleep(0.01)

  def with_checkpoints(self):
    """Ensures two checkpoints, so that one can be damaged."""
    if len(self.checkpoints()) < 2:
      self.resumes(steps=3)

  def checkpoints(self):
    # The name of an unfinished checkpoint is not just a number.
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
    """The checksums of all files of the run except its lock."""
    return {
      str(path.relative_to(self.directory)): (
        hashlib.sha256(path.read_bytes()).hexdigest()
      )
      for path in sorted(self.directory.rglob('*'))
      if path.is_file() and path.name != 'run.lock'
    }


# -------------------------------------------------------------------- killed


def _kill(soak, program, within):
  time.sleep(soak.rng.uniform(0, within))
  program.kill()
  program.ends(-signal.SIGKILL)


def killed_as_it_starts(soak):
  # Half of them import their libraries.
  imported = soak.rng.random() < 0.5
  _kill(soak, soak.start(imported=imported), 2)


def _compile_all():
  jax.config.update('jax_enable_compilation_cache', False)


def killed_as_it_compiles(soak):
  program = soak.start(preexec_fn=_compile_all)
  while program.poll() is None and 'MLP-' not in program.shown():
    time.sleep(0.01)
  _kill(soak, program, 1)


def killed_in_a_step(soak):
  program = soak.start()
  soak.wait(program, soak.newest() + soak.rng.randint(1, 20))
  _kill(soak, program, 0.1)


def killed_as_it_writes_a_checkpoint(soak):
  program = soak.start()
  soak.wait(program, soak.newest() + soak.rng.randint(1, 5))
  while program.poll() is None and not soak.is_writing():
    time.sleep(0.001)
  _kill(soak, program, 0.02)


def killed_as_it_evaluates(soak):
  before_last = soak.newest() + soak.rng.randint(1, _STEPS_PER_EPOCH)
  before_last += -(before_last + 1) % _STEPS_PER_EPOCH
  program = soak.start()
  soak.wait(program, before_last)
  _kill(soak, program, 0.15)


def killed_at_an_access_to_its_files(soak):
  program = soak.call(
    soak.rng.randint(1, 200), soak.directory, *_FLAGS,
    *_CHECKPOINT_AFTER_EACH_STEP, '--run-dir', soak.directory,
    module='tests.train.kill_at',
  )  # fmt: skip
  program.ends(-signal.SIGKILL)


# ------------------------------------------------------------------- signals


def _stopped(soak, number, code):
  program = soak.start()
  soak.wait(program, soak.newest() + soak.rng.randint(1, 20))
  time.sleep(soak.rng.uniform(0, 0.1))
  program.send_signal(number)
  program.says(code, f'stopped by {number.name}')


def stopped_by_sigterm(soak):
  _stopped(soak, signal.SIGTERM, 143)


def stopped_by_sigint(soak):
  _stopped(soak, signal.SIGINT, 130)


def _ignore_sigint():
  signal.signal(signal.SIGINT, signal.SIG_IGN)


def sigint_that_the_parent_ignores(soak):
  program = soak.start(preexec_fn=_ignore_sigint)
  soak.wait(program, soak.newest() + 2)
  program.send_signal(signal.SIGINT)
  soak.resumes(program=program)


def ctrl_c_during_the_imports(soak):
  program = soak.start(imported=False)
  # Not during the start of Python, before the program can catch it.
  while program.poll() is None and not _catches_sigterm(program.pid):
    time.sleep(0.01)
  time.sleep(soak.rng.uniform(0, 2))
  program.send_signal(signal.SIGINT)
  program.says(130, 'stopped by SIGINT')


def _catches_sigterm(pid):
  status = pathlib.Path(f'/proc/{pid}/status').read_text()
  caught = int(re.search(r'SigCgt:\s*(\w+)', status)[1], base=16)
  return caught >> (signal.SIGTERM - 1) & 1


# --------------------------------------------------------- disks and records


def a_full_disk(soak):
  if not soak.has_disk:
    raise _Unavailable
  program = soak.start()
  soak.wait(program, soak.newest() + soak.rng.randint(1, 10))
  time.sleep(soak.rng.uniform(0, 0.1))
  with damage.full(soak.folder, soak.rng.choice([0, 500_000])):
    program.says(1, 'cannot be written')


def a_read_only_disk(soak):
  if not soak.has_disk:
    raise _Unavailable
  with damage.read_only(soak.folder):
    soak.refused('cannot be written: Read-only file system')


def a_run_directory_that_vanishes(soak):
  program = soak.start()
  soak.wait(program, soak.newest() + soak.rng.randint(1, 5))
  moved = soak.folder / 'moved'
  soak.directory.rename(moved)
  program.says(1, str(soak.directory))
  # No run is put in its place.
  assert not (soak.directory / 'config.json').exists()
  shutil.rmtree(soak.directory, ignore_errors=True)
  moved.rename(soak.directory)


def the_newest_checkpoint_damaged(soak):
  soak.with_checkpoints()
  soak.rng.choice(damage.ALL)(soak.newest_path())
  soak.resumes('is damaged', 'going on')


def the_newest_checkpoint_renamed(soak):
  """Its folder has the name of another step."""
  soak.with_checkpoints()
  newest = soak.newest_path()
  newest.rename(newest.with_name(str(soak.newest() + soak.rng.randint(1, 20))))
  soak.resumes('is damaged (it holds step', 'going on')


def a_checkpoint_without_read_permission(soak):
  soak.with_checkpoints()
  newest = soak.newest_path()
  newest.chmod(0)
  try:
    program = soak.start(preexec_fn=damage.give_up_rights)
    shown = program.says(1, 'cannot be read')
    assert 'Permission denied' in shown, shown
  finally:
    newest.chmod(0o755)


def _cannot_open(folder, code):
  def audit(event, arguments):
    if event == 'open' and str(arguments[0]).startswith(folder):
      raise OSError(code, os.strerror(code))

  sys.addaudithook(audit)


def a_checkpoint_with_a_read_error(soak):
  soak.with_checkpoints()
  code = soak.rng.choice(
    [errno.EIO, errno.EMFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT]
  )
  newest = soak.newest_path()
  before = soak.contents()
  program = soak.start(
    preexec_fn=functools.partial(_cannot_open, f'{newest}/', code)
  )
  program.says(1, f'{newest} cannot be read', os.strerror(code))
  of_checkpoints = {k: v for k, v in before.items() if 'checkpoints/' in k}
  assert of_checkpoints.items() <= soak.contents().items()


def a_checkpoint_of_a_user_without_a_name(soak):
  if os.geteuid() != 0:
    raise _Unavailable
  soak.with_checkpoints()
  newest = soak.newest_path()
  for path in (newest.parent, newest, *newest.rglob('*')):
    os.chown(path, 54321, 54321)
  soak.resumes('going on')


def other_files_among_the_checkpoints(soak):
  soak.with_checkpoints()
  folder = soak.directory / 'checkpoints'
  # One of them is where the next checkpoint but one will be written.
  (folder / str(soak.newest() + 2)).write_text('a file')
  (folder / '99999999999').write_text('a file')
  names = ('\N{SUPERSCRIPT TWO}', '\N{ARABIC-INDIC DIGIT THREE}', 'x\udcff')
  for name in names:
    (folder / name).mkdir()
  soak.resumes('going on', steps=3)
  (folder / '99999999999').unlink()
  for name in names:
    (folder / name).rmdir()


def settings_of_a_newer_version(soak):
  soak.with_checkpoints()
  config = soak.directory / 'config.json'
  content = config.read_text()
  config.write_text(json.dumps({**json.loads(content), 'new': 1}))
  try:
    soak.refused('another version', 'new')
  finally:
    config.write_text(content)


# ----------------------------------------------------------------- ownership


def a_second_owner(soak):
  program = soak.start()
  soak.wait(program, soak.newest() + 1)
  # Stopped, or it could finish before the second process has started.
  program.send_signal(signal.SIGSTOP)
  owner = f'is in use by process {program.pid} on {socket.gethostname()}'
  soak.refused(owner)
  program.send_signal(signal.SIGCONT)
  soak.resumes(program=program)


_SWEEP = ('sweep', 'digits-lcam', '--seeds', 2, '--epochs', 3, *_SMALL)


@functools.cache
def _undisturbed_sweep(soak):
  directory = soak.new_path('undisturbed-sweep')
  soak.call(*_SWEEP, '--run-dir', directory).ends(0)
  return _rows_of_sweep(directory)


def _rows_of_sweep(directory):
  return {
    path.parent.name: (_rows(path.parent), _rows(path.parent, 'steps.jsonl'))
    for path in directory.rglob('metrics.jsonl')
  }


def two_sweeps_at_once(soak):
  expected = _undisturbed_sweep(soak)
  command = (*_SWEEP, '--run-dir', soak.new_path('sweep'))
  for program in [soak.call(*command) for _ in range(2)]:
    # It has made the runs, or says that the other one makes them.
    shown = program.ends(0, 2)
    assert program.poll() == 0 or 'is in use by' in shown, shown
  soak.call(*command).ends(0)
  assert _rows_of_sweep(command[-1]) == expected


# ----------------------------------------------------------- settings of JAX


def environment_variables_of_jax(soak):
  names = soak.rng.sample(sorted(_VARIABLES), soak.rng.randint(1, 3))
  given = {name: _VARIABLES[name] for name in names}
  program = soak.start(env=processes.environment() | given)
  soak.resumes(*(f'{n}={v} is reset to' for n, v in given.items()),
               program=program, steps=2)  # fmt: skip


def xla_flags_in_a_file(soak):
  # Always the same path: it is part of the key of compiled programs.
  file = soak.elsewhere / 'flags'
  file.write_text('--xla_force_host_platform_device_count=1\n')
  given = {'XLA_FLAGS': str(file)}
  soak.resumes(env=processes.environment() | given)


def _another_platform():
  jax.config.update('jax_platforms', 'nonsense')


def an_unknown_platform(soak):
  soak.refused('JAX cannot start', preexec_fn=_another_platform)


def another_compute_dtype(soak):
  soak.with_checkpoints()
  program = soak.start('--dtype', 'bfloat16')
  soak.refused('holds another run', 'bfloat16', program=program)


def _little_address_space():
  resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000, 2_000_000_000))


def little_address_space(soak):
  soak.refused('address space', code=1, preexec_fn=_little_address_space)


# --------------------------------------------------------------------- paths


def a_link_to_the_run(soak):
  soak.with_checkpoints()
  link = soak.folder / 'link'
  link.symlink_to(soak.directory)
  try:
    soak.resumes(run_dir=link)
    # The report also finds it.
    behind = soak.new_path('links')
    behind.mkdir()
    (behind / 'link').symlink_to(link)
    found = records.find([behind])
    assert [run.path.name for run in found.runs] == ['link'], found
  finally:
    link.unlink()


def a_broken_link(soak):
  link = soak.folder / 'link'
  link.symlink_to(soak.rng.choice(['nowhere', 'link']))
  try:
    soak.refused('link to nothing', run_dir=link)
  finally:
    link.unlink()


def the_folder_of_tensorboard_behind_a_link(soak):
  soak.with_checkpoints()
  folder = soak.directory / 'tensorboard'
  moved = folder.rename(soak.folder / 'events')
  folder.symlink_to(moved)
  soak.resumes()
  folder.unlink()
  moved.rename(folder)


def a_home_directory(soak):
  home = processes.environment() | {'HOME': str(soak.folder)}
  soak.resumes(run_dir='~/run', env=home)


def data_read_from_elsewhere(soak):
  """A path of data relative to `~` or to the working directory of a run."""
  place = soak.new_path('place')
  place.mkdir()
  rng = np.random.default_rng(soak.rng.randrange(2**32))
  images = {
    name: rng.integers(0, 256, (64, 8, 8, 1), np.uint8)
    for name in ('train_images', 'test_images')
  }
  labels = dict.fromkeys(('train_labels', 'test_labels'), np.arange(64) % 10)
  np.savez(place / 'images.npz', **images, **labels)
  given = soak.rng.choice(['~/images.npz', 'images.npz'])
  soak.call(
    'run', *_SMALL, '--epochs', 1, '--dataset', 'npz', '--data-dir', given,
    '--run-dir', 'run', preexec_fn=functools.partial(os.chdir, place),
    env=processes.environment() | {'HOME': str(place)},
  ).ends(0)  # fmt: skip
  row = _rows(place / 'run')[-1]
  read = soak.new_path('read')
  with read.open('w') as out:
    soak.call('eval', place / 'run', stdout=out).ends(0)
  assert f'test error {row["test_error"]:.2f} %' in read.read_text()


def a_remote_path(soak):
  soak.refused('not a path of this machine', run_dir='gs://a/b')
  assert not pathlib.Path('gs:').exists()


def a_path_that_is_not_utf_8(soak):
  soak.refused('is not UTF-8', run_dir='run-\udcff')


# -------------------------------------------------------------------- output


def output_that_cannot_be_written(soak):
  command = soak.rng.choice([['list'], ['list', '--help'], ['--help']])
  with open('/dev/full', 'w') as full:
    program = soak.call(*command, stdout=full)
  program.says(1, 'the output cannot be written')


def help_for_a_command(soak):
  command = soak.rng.choice(['run', 'sweep', 'eval', 'list', 'report', 'pack'])
  written = soak.new_path('help')
  with written.open('w') as out:
    assert not soak.call(command, '--help', stdout=out).ends(0)
  assert 'usage: ' in written.read_text()


def without_the_libraries_of_the_program(soak):
  # With -S, Python finds no installed packages.
  ended = subprocess.run(
    [sys.executable, '-S', '-m', 'train', 'run', '--run-dir', soak.directory],
    cwd=pathlib.Path(__file__).parents[2],
    capture_output=True,
    text=True,
    check=False,
  )
  assert ended.returncode == 1
  assert "'.[train]'" in ended.stderr
  assert len(ended.stderr.splitlines()) == 1, ended.stderr


def colour_forced_in_a_pipe(soak):
  colour = processes.environment() | {'FORCE_COLOR': '1'}
  assert '\x1b' not in soak.resumes(env=colour)


def a_batch_larger_than_the_training_set(soak):
  soak.call(
    'run', '--model', 'mlp', '--epochs', 1, '--train-examples', 40,
    '--batch-size', 64, '--run-dir', soak.new_path('batch'),
  ).says(0, '64', '40')  # fmt: skip


# ----------------------------------------------------------------- the cache


def a_damaged_cache(soak):
  arrays = {'a': np.arange(5), 'b': np.ones((2, 3), np.uint8)}
  built = []

  def build():
    built.append(1)
    return arrays

  root = soak.new_path('arrays')
  load = lambda: array_cache.load_or_build('key', arrays, build)
  with mock.patch.object(array_cache, 'root', return_value=root):
    load()
    manifest, file = root / 'key' / 'manifest.json', root / 'key' / 'a.npy'
    content = file.read_bytes()

    def replace(by):
      """Replaces the file, and its checksum in the manifest."""
      file.write_bytes(by)
      checksums = json.loads(manifest.read_text())
      checksums['a'] = hashlib.sha256(by).hexdigest()
      manifest.write_text(json.dumps(checksums))

    match soak.rng.randrange(6):
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
        claims = content.replace(b'(5,)', b'(1250000000000,)')
        replace(claims.replace(b' ' * 12 + b'\n', b'\n'))
      case 5:
        packed = io.BytesIO()
        np.savez(packed, a=arrays['a'])
        replace(packed.getvalue())
    # As a killed process leaves one.
    (root / 'tmpleft').mkdir()
    again = load()
    load()
  assert len(built) == 2
  for name, array in arrays.items():
    np.testing.assert_array_equal(again[name], array)
  assert [path.name for path in root.iterdir()] == ['key']


# -------------------------------------------------------- groups of processes


def _meet(*members, listening=None):
  """The message in each process (id, count) of a group."""
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
  told = _meet((0, count), (1, count))
  assert all('are missing after' in t for t in told), told


def a_duplicate_process_id(soak):
  # One is missing, so that the group does not start before the duplicate.
  told = _meet((0, 4), (1, 4), (2, 4), (soak.rng.randint(0, 2), 4))
  assert all('is used twice' in t or 'reached' in t for t in told), told


def another_count_of_processes(soak):
  told = _meet((0, 3), (1, soak.rng.choice([2, 4])))
  assert all('--process-count must be the same' in t for t in told), told


def a_port_in_use(soak):
  del soak
  with socket.create_server(('localhost', 0)) as listening:
    first, other = _meet((0, 2), (1, 2), listening=listening)
  assert 'Address already in use' in first
  assert 'cannot be reached' in other


_OF_A_GROUP = ('run', *_SMALL, '--epochs', 5000, '--learning-rate', 0.01)


def _another_setting_of_jax():
  jax.config.update('jax_default_matmul_precision', 'float32')


def _another_version_of_numpy():
  import importlib.metadata

  version = importlib.metadata.version
  importlib.metadata.version = lambda name: (
    '0.1' if name == 'numpy' else version(name)
  )


def a_process_that_differs_from_the_others(soak):
  """Another setting, setting of JAX, version or source."""
  directory = soak.new_path('group')
  flags = (*_OF_A_GROUP, '--run-dir', directory)
  of_second, options = flags, {}
  difference = soak.rng.randrange(4)
  match difference:
    case 0:
      of_second = (*flags, '--weight-decay', 0.1)
    case 1:
      options = {'preexec_fn': _another_setting_of_jax}
    case 2:
      options = {'preexec_fn': _another_version_of_numpy}
    case 3:
      copy = soak.new_path('copy')
      for name in ('models', 'optax_lcam', 'train'):
        source = pathlib.Path(__file__).parents[2] / name
        shutil.copytree(source, copy / name)
      (copy / 'train' / 'other.py').touch()
      options = {
        'cwd': copy,
        'env': processes.environment() | {'PYTHONPATH': str(copy)},
        'imported': False,
      }
  what = ('--weight-decay', 'matmul', 'numpy', 'source')[difference]
  with processes.start_group(flags, of_second, options=[{}, options]) as group:
    codes, messages = processes.finish_group(group)
  assert codes == [2, 2], messages
  for message in messages:
    assert what in message and 'in process 1' in message, messages
    assert 'Traceback' not in message
  assert not directory.exists()


def a_killed_process_of_a_group(soak):
  directory = soak.new_path('group')
  flags = (*_OF_A_GROUP, *_CHECKPOINT_AFTER_EACH_STEP, '--run-dir', directory)
  with processes.start_group(flags, flags) as group:
    while not any(directory.glob('checkpoints/[0-9]*')):
      assert all(process.poll() is None for process in group)
      time.sleep(0.01)
    # The coordinator listens only on the loopback interface.
    listening = _listening(group[0].pid)
    assert listening and listening <= _LOOPBACK, listening
    # Process 0 owns the run directory.
    soak.call(*flags).says(2, f'is in use by process {group[0].pid}')
    group[1].kill()
    codes, messages = processes.finish_group(group)
  assert codes == [1, -signal.SIGKILL], messages
  assert 'has lost another' in messages[0]
  assert 'Traceback' not in messages[0]
  # One process can resume the run of two.
  alone = soak.call(*flags)
  while alone.poll() is None and 'epoch' not in alone.shown():
    time.sleep(0.01)
  alone.send_signal(signal.SIGTERM)
  alone.says(143, 'going on')
  epochs = [row['epoch'] for row in _rows(directory)]
  assert epochs == list(range(1, len(epochs) + 1))


def _listening(pid):
  """The addresses on which a process listens, in the kernel's notation."""
  sockets = set()
  for descriptor in pathlib.Path(f'/proc/{pid}/fd').iterdir():
    with contextlib.suppress(OSError):
      sockets.add(os.readlink(descriptor))
  addresses = set()
  for table in ('tcp', 'tcp6'):
    content = pathlib.Path(f'/proc/{pid}/net/{table}').read_text()
    for line in content.splitlines()[1:]:
      _, local, _, state, *rest = line.split()
      if state == _LISTEN and f'socket:[{rest[5]}]' in sockets:
        addresses.add(local.split(':')[0])
  return addresses


# ------------------------------------------------------------- the optimizer


def losses_whose_sum_overflows(soak):
  losses = [1.0] * soak.rng.randint(2, 8) + [2e38]
  tx = optax_lcam.lcam(steps_per_epoch=100)
  state = tx.init(jnp.ones(2))
  for loss in losses:
    _, state = tx.update(jnp.ones(2), state, value=loss)
  np.testing.assert_allclose(
    optax_lcam.read(state).mean_loss, np.mean(losses), rtol=1e-6
  )


def losses_that_are_not_numbers(soak):
  loss = soak.rng.choice(
    [np.timedelta64(1), np.ma.masked, 10**400, None, 'loss', [1.0, 2.0]]
  )
  tx = optax_lcam.lcam(steps_per_epoch=100)
  with pytest.raises((TypeError, ValueError), match='value'):
    tx.update(jnp.ones(2), tx.init(jnp.ones(2)), value=loss)


def a_loss_averaged_within_shard_map(soak):
  """The recipe of docs/training_loop.md, on many devices and on one."""
  rng = np.random.default_rng(soak.rng.randrange(2**32))
  devices = len(jax.devices())
  x = rng.standard_normal((30, 4 * devices, 3)).astype(np.float32)
  y = x.sum(-1) + rng.standard_normal(x.shape[:2]).astype(np.float32)
  tx = optax_lcam.lcam_sgd(0.01, steps_per_epoch=10)
  p, of_batch = PartitionSpec(), PartitionSpec('batch')

  def step(params, state, x, y):
    mean_loss = lambda params: jax.lax.pmean(
      jnp.mean((x @ params - y) ** 2), 'batch'
    )
    loss, grads = jax.value_and_grad(mean_loss)(params)
    updates, state = tx.update(grads, state, params, value=loss)
    return optax.apply_updates(params, updates), state

  ends = []
  for count in (1, devices):
    mapped = jax.jit(
      jax.shard_map(
        step,
        mesh=jax.sharding.Mesh(jax.devices()[:count], ('batch',)),
        in_specs=(p, p, of_batch, of_batch),
        out_specs=(p, p),
      )
    )
    params = jnp.zeros(3)
    state = tx.init(params)
    for batch in zip(x, y, strict=True):
      params, state = mapped(params, state, *batch)
    ends.append(np.asarray(params))
  np.testing.assert_allclose(*ends, rtol=1e-4)


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
  a_read_only_disk,
  a_run_directory_that_vanishes,
  the_newest_checkpoint_damaged,
  the_newest_checkpoint_renamed,
  a_checkpoint_without_read_permission,
  a_checkpoint_with_a_read_error,
  a_checkpoint_of_a_user_without_a_name,
  other_files_among_the_checkpoints,
  settings_of_a_newer_version,
  a_second_owner,
  two_sweeps_at_once,
  environment_variables_of_jax,
  xla_flags_in_a_file,
  an_unknown_platform,
  another_compute_dtype,
  little_address_space,
  a_link_to_the_run,
  a_broken_link,
  the_folder_of_tensorboard_behind_a_link,
  a_home_directory,
  data_read_from_elsewhere,
  a_remote_path,
  a_path_that_is_not_utf_8,
  output_that_cannot_be_written,
  help_for_a_command,
  without_the_libraries_of_the_program,
  colour_forced_in_a_pipe,
  a_batch_larger_than_the_training_set,
  a_damaged_cache,
  a_missing_process,
  a_duplicate_process_id,
  another_count_of_processes,
  a_port_in_use,
  a_process_that_differs_from_the_others,
  a_killed_process_of_a_group,
  losses_whose_sum_overflows,
  losses_that_are_not_numbers,
  a_loss_averaged_within_shard_map,
)


def _faults():
  """All kinds in random order, then all in another random order, and so on."""
  for repetition in itertools.count():
    kinds = list(_KINDS)
    random.Random(f'{_SEED}, {repetition}').shuffle(kinds)
    yield from kinds


def _name(kind):
  return kind.__name__.replace('_', ' ')


def _where_it_was(soak, shown):
  """What a kill has interrupted, as far as its traces show."""
  if 'MLP-' not in shown:
    return 'the start'
  if 'Compiled in' not in shown:
    return 'the compilation'
  if soak.is_writing():
    return 'the writing of a checkpoint'
  epoch, step = divmod(soak.newest(), _STEPS_PER_EPOCH)
  if step == _STEPS_PER_EPOCH - 1 and len(_rows(soak.directory)) == epoch:
    return 'the last step of an epoch or its evaluation'
  return 'a step or anything else'


def _rows(directory, name='metrics.jsonl'):
  path = directory / name
  # Without the last line, which a kill may have cut off.
  lines = path.read_bytes().split(b'\n')[:-1] if path.exists() else []
  return [processes.without_times(json.loads(line)) for line in lines]


def _assert_a_beginning(disturbed, undisturbed):
  """Asserts that the rows are the first rows of the undisturbed run."""
  for name in ('metrics.jsonl', 'steps.jsonl'):
    rows = _rows(disturbed, name)
    expected = _rows(undisturbed, name)[: len(rows)]
    assert rows == expected, f'{name} differs'


class _Count:
  """Applies faults, and prints and counts the outcomes."""

  def __init__(self):
    self.tried = collections.Counter()
    self.survived = collections.Counter()
    self.struck = collections.Counter()
    self.right_ends = self.wrong_ends = 0
    self._started = time.monotonic()

  def add(self, number, kind, soak, keep):
    """Applies a fault, and prints its outcome."""
    begun = time.monotonic()
    soak.rng = random.Random(f'{_SEED}, {number}')
    keep.mkdir()
    if soak.directory.exists():
      shutil.copytree(soak.directory, keep / 'before', symlinks=True)
    outcome = 'survived'
    try:
      kind(soak)
      _assert_a_beginning(soak.directory, soak.undisturbed)
    except _Unavailable:
      outcome = 'not possible here'
    except Exception:  # The other faults are still tried.
      outcome = 'NOT SURVIVED'
      traceback.print_exc(file=sys.stdout)
    shown = soak.stop_all()
    where = ''
    if kind in _KILLS:
      moment = _where_it_was(soak, shown)
      self.struck[moment] += 1
      where = f' in {moment}'
    if outcome == 'NOT SURVIVED':
      self._keep(soak, keep, shown)
    else:
      shutil.rmtree(keep)
    if outcome != 'not possible here':
      self.tried[kind] += 1
      self.survived[kind] += outcome == 'survived'
    print(
      f'{number}. {_name(kind)}{where}: {outcome} in'
      f' {time.monotonic() - begun:.0f} s; {self.survived.total()} of'
      f' {self.tried.total()}.',
      flush=True,
    )

  def finish(self, soak, keep):
    """Finishes the run, compares its end, and removes it."""
    try:
      soak.start(*_NO_OTHER_CHECKPOINTS).ends(0)
      processes.assert_the_same_end(soak.directory, soak.undisturbed)
    except Exception:
      self.wrong_ends += 1
      traceback.print_exc(file=sys.stdout)
      keep.mkdir()
      self._keep(soak, keep, soak.stop_all())
      print('The end of the run DIFFERS.', flush=True)
    else:
      self.right_ends += 1
      print('The end of the run is that of an undisturbed run.', flush=True)
      soak.start_over()

  def _keep(self, soak, keep, shown):
    """Keeps the run after a fault that it has not survived."""
    if soak.directory.exists():
      shutil.copytree(soak.directory, keep / 'after', symlinks=True)
    (keep / 'shown').write_text(shown)
    print(f'Shown:\n{shown}\nThe run is kept in {keep}.')
    soak.start_over()

  def print_all(self):
    print()
    for kind in _KINDS:
      print(f'{_name(kind)}: survived {self.survived[kind]} of'
            f' {self.tried[kind]}')  # fmt: skip
    survived, tried = (
      sum(count[kind] for kind in _KILLS)
      for count in (self.survived, self.tried)
    )
    print(f'kills: survived {survived} of {tried}, which interrupted')
    for moment, count in self.struck.most_common():
      print(f'  {moment}: {count}')
    minutes = (time.monotonic() - self._started) / 60
    ends = self.right_ends + self.wrong_ends
    print(f'ends of runs: {self.right_ends} of {ends} as undisturbed')
    print(
      f'all: survived {self.survived.total()} of {self.tried.total()} in'
      f' {minutes:.0f} minutes',
      flush=True,
    )


def _interrupt(*_):
  raise KeyboardInterrupt


@pytest.mark.slow
def test_everything_happens(tmp_path):
  soak, count = _Soak(tmp_path), _Count()
  with contextlib.ExitStack() as stack:
    if soak.has_disk:
      stack.enter_context(damage.disk(soak.folder, megabytes=16))
    # The results so far are printed even if the test is terminated.
    before = signal.signal(signal.SIGTERM, _interrupt)
    stack.callback(signal.signal, signal.SIGTERM, before)
    stack.callback(count.print_all)
    stack.callback(soak.stop_all)
    soak.start(*_NO_OTHER_CHECKPOINTS, run_dir=soak.undisturbed).ends(0)
    faults = itertools.islice(enumerate(_faults(), 1), _FIRST_FAULT - 1, None)
    for number, kind in itertools.islice(faults, _FAULTS):
      count.add(number, kind, soak, tmp_path / f'fault-{number}')
      if soak.newest() > _STEPS_PER_EPOCH * _EPOCHS - _STEPS_OF_A_FAULT:
        count.finish(soak, tmp_path / f'end-after-{number}')
    count.finish(soak, tmp_path / 'end')
  assert count.survived == count.tried
  assert count.wrong_ends == 0
