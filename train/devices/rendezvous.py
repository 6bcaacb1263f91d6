"""Checks that the processes of a run are complete before JAX connects them.

JAX aborts in C++, after minutes, if a process is missing, two processes have
one id, or the port is in use. Here process 0 first listens at the coordinator's
address, and the others report to it. All receive the same answer: the group is
complete, or one sentence that describes the error. The port is free again
before JAX listens there.
"""

import asyncio
from collections.abc import Sequence
import contextlib
import errno
import ipaddress
import json
import os
import socket
import time
from typing import Any

from train import errors

# The first message of process 0, which identifies it.
_GREETING = b'optax-lcam\n'
_GREETING_SECONDS = 10
_RETRY_SECONDS = 0.2
# How long process 0 waits for the others to receive its answer, including those
# that connect a little later.
_FAREWELL_SECONDS = 5

# Errors of a bind to an address that this machine does not have.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def meet(
  coordinator: str,
  process_id: int,
  process_count: int,
  *,
  seconds: float,
  everywhere: bool = False,
) -> str | None:
  """Waits until all processes of a group have connected.

  Args:
    coordinator: HOST:PORT at which process 0 listens.
    process_id: Index of this process, from 0.
    process_count: Number of processes.
    seconds: How long to wait for the others.
    everywhere: Whether process 0 listens on all interfaces, independent of the
      host.

  Returns:
    In process 0, HOST:PORT for JAX to listen at; ``None`` for all interfaces,
    the default of JAX.

  Raises:
    UsageError: If the group is not complete after this time, or is invalid.
  """
  deadline = time.monotonic() + seconds
  own = {
    'process': process_id,
    'count': process_count,
    'who': f'process {os.getpid()} on {socket.gethostname()}',
  }
  if process_id != 0:
    bind = None
    wrong = _report(coordinator, own, seconds, deadline)
  else:
    try:
      sockets, bind = _listen(coordinator, everywhere)
    except OSError as error:
      if error.errno == errno.EADDRINUSE:
        # If another process 0 listens there, it should learn of this one.
        told = _ask(coordinator, own, _GREETING_SECONDS)
        if told:
          raise errors.UsageError(told) from error
      reason = error.strerror
      if not isinstance(error, socket.gaierror):
        reason = os.strerror(error.errno or 0)  # Python adds the address.
      raise errors.UsageError(
        f'Process 0 cannot listen at --coordinator {coordinator}: {reason}. It'
        ' needs a free port of its machine.'
      ) from error
    wrong = asyncio.run(_lead(sockets, own, seconds))
  if wrong:
    raise errors.UsageError(wrong)
  if process_id != 0:
    _wait_for_jax(coordinator, seconds)
  return bind


# ------------------------------------------------------------------ process 0


def _listen(
  coordinator: str, everywhere: bool
) -> tuple[list[socket.socket], str | None]:
  """Opens the listening sockets; also returns the address for JAX.

  They listen on all interfaces if the host is not an address of this machine,
  as behind a NAT, or if it is the machine's name and /etc/hosts maps that to a
  loopback address, which other machines cannot reach.
  """
  # JAX's variable for listening at another address than the coordinator's.
  told = os.environ.get('JAX_COORDINATOR_BIND_ADDRESS', coordinator)
  host, port = _split(told)
  bind: str | None = told
  addresses: list[tuple[Any, str]] = []
  if not everywhere:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A dict removes duplicates.
    addresses = list({(a[0], str(a[4][0])): None for a in found})
    if not _is_literal(host) and host != 'localhost':
      seen = [ipaddress.ip_address(a.partition('%')[0]) for _, a in addresses]
      everywhere = any(address.is_loopback for address in seen)
  sockets: list[socket.socket] = []
  with contextlib.ExitStack() as opened:
    for family, address in [] if everywhere else addresses:
      try:
        listening = socket.create_server((address, port), family=family)
      except OSError as error:
        if error.errno in _NOT_HERE:
          continue
        raise
      sockets.append(opened.enter_context(listening))
    if not sockets:
      bind = None
      both = socket.has_dualstack_ipv6()
      family = socket.AF_INET6 if both else socket.AF_INET
      sockets = [
        socket.create_server(('', port), family=family, dualstack_ipv6=both)
      ]
    opened.pop_all()
  if 'JAX_COORDINATOR_BIND_ADDRESS' in os.environ:
    bind = None  # JAX reads the variable itself.
  return sockets, bind


async def _lead(
  sockets: Sequence[socket.socket], own: dict[str, Any], seconds: float
) -> str:
  """Answers the others once all have connected; returns the error, or ''."""
  count = own['count']
  there = {0: own}
  verdict: asyncio.Future[str] = asyncio.get_running_loop().create_future()
  all_there, closed = asyncio.Event(), asyncio.Event()
  answers: set[asyncio.Task[None]] = set()

  def conclude(wrong: str) -> None:
    if len(there) == count:
      all_there.set()
    if not verdict.done() and (wrong or all_there.is_set()):
      verdict.set_result(wrong)

  def judge(other: dict[str, Any]) -> str:
    process, expected = int(other['process']), int(other['count'])
    if expected != count:
      return (
        f'--process-count must be the same in all processes, but is {count} in'
        f' process 0 and {expected} in process {process}.'
      )
    if process in there:
      return (
        f'--process-id {process} is there twice: {there[process]["who"]}, and'
        f' {other["who"]}.'
      )
    there[process] = other
    return ''

  async def answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
  ) -> None:
    try:
      writer.write(_GREETING)
      try:
        other = json.loads(await reader.readline())
        wrong = judge(other)
      except (ValueError, KeyError, TypeError, RecursionError):
        return  # Another program, such as a port scanner.
      conclude(wrong)
      task = asyncio.current_task()
      assert task is not None
      answers.add(task)
      told = wrong or await asyncio.shield(verdict)
      if not told:
        await closed.wait()
      writer.write(f'{json.dumps({"wrong": told})}\n'.encode())
      await writer.drain()
      await reader.read()  # The other closes first, so that the port is free.
    except OSError:
      pass  # The process has ended, which JAX or the timeout will report.
    finally:
      writer.close()

  conclude('')
  servers = [await asyncio.start_server(answer, sock=s) for s in sockets]
  try:
    told = await asyncio.wait_for(asyncio.shield(verdict), seconds)
    if told:
      with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(all_there.wait(), _FAREWELL_SECONDS)
  except TimeoutError:
    missing = [str(i) for i in range(count) if i not in there]
    shown = ', '.join(missing[:10]) + (', ...' if len(missing) > 10 else '')
    told = (
      f'{len(missing)} of {count} processes are missing after'
      f' {seconds:.0f} seconds: --process-id {shown}.'
    )
    conclude(told)
  for server in servers:
    server.close()
  closed.set()
  if answers:
    await asyncio.wait(answers, timeout=_FAREWELL_SECONDS)
  return told


# ----------------------------------------------------------------- the others


def _report(
  coordinator: str, own: dict[str, Any], seconds: float, deadline: float
) -> str:
  """Reports this process to process 0; returns the error, or ''."""
  while True:
    try:
      wrong = _ask(coordinator, own, seconds + _GREETING_SECONDS)
      if wrong is not None:
        return wrong
      reason = 'another program listens there, not process 0 of a run'
    except OSError as error:
      reason = error.strerror or str(error)
    if time.monotonic() > deadline:
      return (
        f'--coordinator {coordinator} cannot be reached within {seconds:.0f}'
        f' seconds: {reason}.'
      )
    time.sleep(_RETRY_SECONDS)


def _ask(coordinator: str, own: dict[str, Any], seconds: float) -> str | None:
  """The error from process 0, or ''; ``None`` if another program listens.

  Raises:
    OSError: If nothing listens.
  """
  with socket.create_connection(
    _split(coordinator), timeout=_GREETING_SECONDS
  ) as connection:
    try:
      file = connection.makefile('rb')
      if file.read(len(_GREETING)) != _GREETING:
        return None
      connection.sendall(f'{json.dumps(own)}\n'.encode())
      connection.settimeout(seconds)
      answer = file.readline()
      if not answer:
        return 'Process 0 has ended before all processes had connected.'
      return str(json.loads(answer)['wrong'])
    except (OSError, ValueError, KeyError, TypeError):
      return None


def _wait_for_jax(coordinator: str, seconds: float) -> None:
  """Waits until JAX listens in process 0; else JAX would end this process."""
  deadline = time.monotonic() + seconds
  while True:
    try:
      socket.create_connection(_split(coordinator), timeout=5).close()
      return
    except OSError as error:
      if time.monotonic() > deadline:
        raise errors.UsageError(
          f'Process 0 did not start JAX at --coordinator {coordinator} within'
          f' {seconds:.0f} seconds: {error}.'
        ) from error
      time.sleep(_RETRY_SECONDS)


def _split(address: str) -> tuple[str, int]:
  host, _, port = address.rpartition(':')
  return host.strip('[]'), int(port)


def _is_literal(host: str) -> bool:
  try:
    ipaddress.ip_address(host)
  except ValueError:
    return False
  return True
