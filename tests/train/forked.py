"""The program in a process of its own that does not import anything first.

It is a fork of a process that has imported everything and done nothing yet: a
start takes a second less than one of `python -m train`, most of the time of a
small run. What happens before and during the imports is not to be seen here.
"""

import contextlib
import multiprocessing
import os
import pathlib
import signal
import sys

import jax

from tests.train import kill_at
from train import __main__ as program
from train import loop  # noqa: F401  Imported before the fork, for its sake.
from train import sweep  # noqa: F401
from train.data import digits  # noqa: F401
from train.devices import interruption

_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload([__name__])


class Program:
  """One start of the program, as `subprocess.Popen` has it."""

  def __init__(
    self,
    arguments,
    shown,
    *,
    prepare=None,
    variables=None,
    kill_at=None,
    caches=True,
  ):
    """Starts it.

    Args:
      arguments: The command line.
      shown: A file for what it writes to standard error.
      prepare: Called in the new process before anything else.
      variables: Of the environment, to be set in it.
      kill_at: Moment and directory of tests/train/kill_at.py.
      caches: Whether it may use compiled programs of others.
    """
    self._shown = pathlib.Path(shown)
    self._shown.touch()
    self._process = _CONTEXT.Process(
      target=_start,
      args=(
        [str(argument) for argument in arguments],
        str(shown),
        prepare,
        variables or {},
        kill_at,
        caches,
      ),
    )
    with _one_device():
      self._process.start()

  def poll(self):
    return self._process.exitcode

  def wait(self, seconds=600):
    self._process.join(seconds)
    assert self._process.exitcode is not None, self.shown()
    return self._process.exitcode

  def send_signal(self, number):
    with contextlib.suppress(ProcessLookupError):
      os.kill(self._process.pid, number)

  def kill(self):
    self.send_signal(signal.SIGKILL)

  def shown(self):
    """What it has written to standard error so far."""
    return self._shown.read_text(errors='replace')


@contextlib.contextmanager
def _one_device():
  """Of the server, which the first start begins."""
  flags = os.environ.pop('XLA_FLAGS', None)
  try:
    yield
  finally:
    if flags is not None:
      os.environ['XLA_FLAGS'] = flags


def _start(arguments, shown, prepare, variables, moment, caches):
  signal.signal(signal.SIGINT, signal.default_int_handler)
  out = os.open(shown, os.O_WRONLY | os.O_APPEND)
  os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
  os.dup2(out, 2)
  sys.stdout = os.fdopen(1, 'w', closefd=False)
  sys.stderr = os.fdopen(2, 'w', buffering=1, closefd=False)
  os.environ.update(variables)
  if not caches:
    jax.config.update('jax_enable_compilation_cache', False)
  if prepare is not None:
    prepare()
  if moment is not None:
    kill_at.kill_at(*map(str, moment))
  interruption.raise_at_once()
  code = program.main(arguments)
  interruption.end_at_once()
  sys.stderr.flush()
  os._exit(code)
