"""Starts the program in processes whose libraries are imported already.

A start of the program costs 9 seconds of CPU time, most of them for imports.
Here one server process imports the libraries and forks for each start, which
then costs 1.5 seconds. The forked process has its own number, signals, files,
working directory and environment. It imports the modules of this repository
itself and starts JAX itself. It shares with the others only the libraries and
the seed of Python's string hashes.
"""

import atexit
import contextlib
import functools
import gc
import os
import pathlib
import pickle
import runpy
import socket
import subprocess
import sys
import threading

_REPOSITORY = pathlib.Path(__file__).parents[2]
_OURS = ('models', 'optax_lcam', 'tests', 'train')
_AT_IMPORT = ('GLIBC_', 'JAX_', 'MALLOC_', 'MPL', 'PYTHON', 'XDG_')
_LONGEST_REQUEST = 1 << 20


class Process:
  """The part of :class:`subprocess.Popen` that the tests use."""

  def __init__(
    self,
    module,
    arguments,
    *,
    cwd,
    env,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    preexec_fn=None,
  ):
    """Starts ``python -m module``.

    Args:
      module: The name of the module.
      arguments: Its command line.
      cwd: The working directory.
      env: The environment, see :func:`can_start`.
      stdout: ``subprocess.PIPE``, or an open file.
      stderr: As ``stdout``.
      preexec_fn: Called in the new process before it imports any module of this
        repository. It is pickled: a function of a module.
    """
    self.stdout, out = _open(stdout)
    self.stderr, err = _open(stderr)
    self._status, status = _open(subprocess.PIPE)
    request = {
      'argv': [module, *map(str, arguments)],
      'cwd': str(cwd),
      'env': env,
      'preexec_fn': preexec_fn,
    }
    descriptors = [file.fileno() for file in (out, err, status)]
    socket.send_fds(_server().control, [pickle.dumps(request)], descriptors)
    for file, given in ((out, stdout), (err, stderr), (status, None)):
      if file is not given:
        file.close()
    self.pid = int(self._status.readline())
    self.returncode = None
    self._ended = threading.Thread(target=self._wait, daemon=True)
    self._ended.start()

  def _wait(self):
    self.returncode = int(self._status.readline())

  def poll(self):
    return self.returncode

  def wait(self, timeout=None):
    self._ended.join(timeout)
    if self.returncode is None:
      raise subprocess.TimeoutExpired(f'process {self.pid}', timeout)
    return self.returncode

  def send_signal(self, number):
    if self.returncode is None:
      with contextlib.suppress(ProcessLookupError):
        os.kill(self.pid, number)

  def kill(self):
    self.send_signal(9)

  def communicate(self, timeout=None):
    said = dict.fromkeys(('stdout', 'stderr'))

    def read(name):
      pipe = getattr(self, name)
      said[name] = '' if pipe.closed else pipe.read()
      pipe.close()

    readers = [
      threading.Thread(target=read, args=[name], daemon=True)
      for name in said
      if getattr(self, name) is not None
    ]
    for reader in readers:
      reader.start()
    self.wait(timeout)
    for reader in readers:
      reader.join(timeout)
    return said['stdout'], said['stderr']

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for pipe in (self.stdout, self.stderr):
      if pipe is not None:
        pipe.close()
    self.wait()
    self._status.close()


def _open(file):
  """What is read here (None: nothing), and what the new process writes to."""
  if file != subprocess.PIPE:
    return None, file
  read, write = os.pipe()
  return os.fdopen(read), os.fdopen(write, 'wb')


def can_start(environment):
  """Whether the libraries would be the same if imported with these variables.

  Some libraries read variables when they are imported.
  """
  return sys.platform == 'linux' and (
    _at_import(environment) == _at_import(_server().environment)
  )


def _at_import(environment):
  """The variables that are read at an import, or earlier."""
  return {k: v for k, v in environment.items() if k.startswith(_AT_IMPORT)}


class _Server:
  """The server process, from the first start to the end of the tests."""

  def __init__(self):
    self.environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
    self.control, theirs = socket.socketpair(
      socket.AF_UNIX, socket.SOCK_SEQPACKET
    )
    with theirs:
      self._process = subprocess.Popen(
        [sys.executable, '-m', __name__, str(theirs.fileno())],
        cwd=_REPOSITORY,
        env=self.environment,
        pass_fds=[theirs.fileno()],
        stdout=subprocess.DEVNULL,
      )
    atexit.register(self._end)

  def _end(self):
    self.control.close()
    self._process.wait()


@functools.cache
def _server():
  return _Server()


# ------------------------------------------------------ in the server process


def _import_libraries():
  """Imports the libraries of the program, and forgets the program itself."""
  import train.data.digits
  import train.loop
  import train.report
  import train.sweep  # noqa: F401

  _forget_ours()
  # A forked process that searched all this for garbage, as Python does at its
  # end, would have to copy it first: a second of CPU time.
  gc.collect()
  gc.freeze()


def _forget_ours():
  for name in list(sys.modules):
    if name.split('.')[0] in _OURS:
      del sys.modules[name]


def _serve(control):
  """Serves requests; returns one in the process forked for it."""
  while True:
    message, descriptors, *_ = socket.recv_fds(control, _LONGEST_REQUEST, 3)
    with contextlib.suppress(ChildProcessError):
      while os.waitpid(-1, os.WNOHANG if message else 0)[0]:
        pass
    if not message:
      sys.exit()
    # The first fork waits for the second, and reports how it has ended.
    if os.fork() == 0:
      control.close()
      out, err, status = descriptors
      child = os.fork()
      if child == 0:
        os.close(status)
        for descriptor, place in ((out, 1), (err, 2)):
          os.dup2(descriptor, place)
          os.close(descriptor)
        return pickle.loads(message)
      os.close(out)
      os.close(err)
      os.write(status, f'{child}\n'.encode())
      code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
      os.write(status, f'{code}\n'.encode())
      os._exit(0)
    for descriptor in descriptors:
      os.close(descriptor)


def _become(request):
  """Does what ``python -m`` does."""
  os.environ.clear()
  os.environ.update(request['env'])
  os.chdir(request['cwd'])
  if request['preexec_fn'] is not None:
    request['preexec_fn']()
    _forget_ours()  # The module of that function, and what it has imported.
  # The server's streams remember the position and buffering of other files.
  sys.stdout, sys.stderr = (
    open(  # noqa: SIM115
      stream.fileno(),
      'w',
      buffering=buffering,
      encoding=stream.encoding,
      errors=stream.errors,
      closefd=False,
    )
    for stream, buffering in ((sys.stdout, -1), (sys.stderr, 1))
  )
  sys.path[0] = request['cwd']
  sys.argv = request['argv']
  runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  _import_libraries()
  _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
