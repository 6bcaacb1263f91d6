"""Processes of the program that begin with its libraries imported.

A short run takes 9 seconds of a CPU, 6 of which are imports. Here they are made
once, in a process that forks at each start. What it forks is a process as any
other: it has its own number, signals and files, imports the program itself, and
starts JAX. Only the libraries, and Python's seed of hashes, are those of the
others.
"""

import atexit
import contextlib
import functools
import json
import os
import pathlib
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
  """As much of :class:`subprocess.Popen` as the tests use."""

  def __init__(self, module, arguments, cwd, environment):
    out, err, status = (os.pipe() for _ in range(3))
    request = {
      'argv': [module, *map(str, arguments)],
      'cwd': str(cwd),
      'environment': environment,
    }
    theirs = [write for _, write in (out, err, status)]
    socket.send_fds(_server().control, [json.dumps(request).encode()], theirs)
    for descriptor in theirs:
      os.close(descriptor)
    self.stdout, self.stderr, self._status = (
      os.fdopen(read) for read, _ in (out, err, status)
    )
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
    said = {}

    def read(name):
      pipe = getattr(self, name)
      said[name] = '' if pipe.closed else pipe.read()
      pipe.close()

    readers = [
      threading.Thread(target=read, args=[name], daemon=True)
      for name in ('stdout', 'stderr')
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
    self.stdout.close()
    self.stderr.close()
    self.wait()
    self._status.close()


def can_start(environment):
  """Whether a process with these variables can do with those libraries."""
  return sys.platform == 'linux' and (
    _at_import(environment) == _at_import(_server().environment)
  )


def _at_import(environment):
  """The variables that are read before a process is forked."""
  return {k: v for k, v in environment.items() if k.startswith(_AT_IMPORT)}


class _Server:
  """The process that forks, from the first start to the end of the tests."""

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


# ------------------------------------------------------------ in that process


def _import_libraries():
  """All that the program imports, and then nothing of the program itself."""
  import train.data.digits
  import train.loop
  import train.report
  import train.sweep  # noqa: F401

  for name in list(sys.modules):
    if name.split('.')[0] in _OURS:
      del sys.modules[name]


def _serve(control):
  """Returns a request in the process that shall fulfil it."""
  while True:
    message, descriptors, *_ = socket.recv_fds(control, _LONGEST_REQUEST, 3)
    with contextlib.suppress(ChildProcessError):
      while os.waitpid(-1, os.WNOHANG if message else 0)[0]:
        pass
    if not message:
      sys.exit()
    # One process waits for the other, and says how it has ended.
    if os.fork() == 0:
      control.close()
      out, err, status = descriptors
      child = os.fork()
      if child == 0:
        os.close(status)
        for descriptor, place in ((out, 1), (err, 2)):
          os.dup2(descriptor, place)
          os.close(descriptor)
        return json.loads(message)
      os.close(out)
      os.close(err)
      os.write(status, f'{child}\n'.encode())
      code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
      os.write(status, f'{code}\n'.encode())
      os._exit(0)
    for descriptor in descriptors:
      os.close(descriptor)


def _become(request):
  """What `python -m` does."""
  os.environ.clear()
  os.environ.update(request['environment'])
  os.chdir(request['cwd'])
  # Python's own were made for other files, in which one can go back.
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
