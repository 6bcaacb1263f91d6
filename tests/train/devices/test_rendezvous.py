"""An invalid group of processes is reported by one sentence in each of them.

Threads represent the processes, and JAX is not used.
"""

from concurrent import futures
import contextlib
import json
import socket
import threading
import time

import pytest

from train import errors
from train.devices import rendezvous

_SECONDS = 2


@pytest.fixture
def port():
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return free.getsockname()[1]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  monkeypatch.setattr(rendezvous, '_GREETING_SECONDS', 1)
  monkeypatch.setattr(rendezvous, '_FAREWELL_SECONDS', 0.5)
  monkeypatch.setattr(rendezvous, '_RETRY_SECONDS', 0.02)


def _meet(port, *members, host='localhost'):
  """The result of each (id, count). The first also starts JAX's service."""

  def join(process, count):
    try:
      bind = rendezvous.meet(f'{host}:{port}', process, count, seconds=_SECONDS)
    except errors.UsageError as error:
      return str(error)
    if process == 0:
      # Like JAX, immediately and on the same port.
      jax = opened.enter_context(
        socket.create_server(('localhost', port), reuse_port=False)
      )
      jax.listen()
      return bind
    return None

  with (
    contextlib.ExitStack() as opened,
    futures.ThreadPoolExecutor(len(members)) as pool,
  ):
    return list(pool.map(lambda member: join(*member), members))


@pytest.mark.parametrize('order', [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_a_complete_group_meets_and_frees_the_port(port, order):
  told = _meet(port, *((process, 4) for process in order))
  assert sorted(told, key=str) == [None, None, None, f'localhost:{port}']


def test_one_process(port):
  assert _meet(port, (0, 1)) == [f'localhost:{port}']


def test_missing_processes_are_reported_in_all(port):
  started = time.monotonic()
  told = _meet(port, (0, 4), (2, 4))
  assert time.monotonic() - started < _SECONDS + 2
  assert (
    told
    == ['2 of 4 processes are missing after 2 seconds: --process-id 1, 3.'] * 2
  )


def test_a_duplicate_id_ends_all_immediately(port):
  started = time.monotonic()
  told = _meet(port, (0, 4), (1, 4), (1, 4))
  assert time.monotonic() - started < _SECONDS
  assert len(set(told)) == 1
  assert told[0].startswith('--process-id 1 is there twice: process ')


def test_two_first_processes_end_all_immediately(port):
  started = time.monotonic()
  told = _meet(port, (0, 3), (1, 3), (0, 3))
  assert time.monotonic() - started < _SECONDS
  assert len(set(told)) == 1
  assert told[0].startswith('--process-id 0 is there twice: process ')


def test_different_counts_end_all_immediately(port):
  told = _meet(port, (0, 3), (1, 2))
  assert (
    told
    == [
      '--process-count must be the same in all processes, but is 3 in process 0'
      ' and 2 in process 1.'
    ]
    * 2
  )


def _program(kind):
  """Another program that listens, by how it treats a connection."""

  def serve(listening):
    with contextlib.suppress(OSError):
      while True:
        connection, _ = listening.accept()
        if kind == 'http':
          connection.sendall(b'HTTP/1.1 400 Bad Request\r\n\r\n')
        if kind != 'silent':
          connection.close()
        else:
          kept.append(connection)

  kept = []
  listening = socket.create_server(('localhost', 0))
  threading.Thread(target=serve, args=[listening], daemon=True).start()
  return listening


@pytest.mark.parametrize('kind', ['http', 'silent', 'closed'])
def test_a_port_in_use(kind):
  with _program(kind) as listening:
    port = listening.getsockname()[1]
    first, other = _meet(port, (0, 2), (1, 2))
    listening.shutdown(socket.SHUT_RDWR)
  assert first == (
    f'Process 0 cannot listen at --coordinator localhost:{port}: Address'
    ' already in use. It needs a free port of its machine.'
  )
  assert other == (
    f'--coordinator localhost:{port} cannot be reached within 2 seconds:'
    ' another program listens there, not process 0 of a run.'
  )


@pytest.mark.parametrize(
  ('host', 'why'),
  [('localhost', 'Connection refused'), ('no.invalid', '')],
)
def test_a_missing_first_process(port, host, why):
  (told,) = _meet(port, (1, 2), host=host)
  assert told.startswith(
    f'--coordinator {host}:{port} cannot be reached within 2 seconds: {why}'
  )


def test_the_first_process_ends_during_the_rendezvous(port):
  with (
    socket.create_server(('localhost', port)) as listening,
    futures.ThreadPoolExecutor(1) as pool,
  ):
    other = pool.submit(
      rendezvous.meet, f'localhost:{port}', 1, 2, seconds=_SECONDS
    )
    connection, _ = listening.accept()
    connection.sendall(b'optax-lcam\n')
    connection.recv(4096)
    connection.close()
    with pytest.raises(errors.UsageError, match='Process 0 has ended before'):
      other.result()


def test_other_connections_are_ignored(port):
  """For example port scans and health checks."""
  sent = [b'', b'\n', b'GET / HTTP/1.1\r\n\r\n', b'[1]\n', b'{"process": 1}\n',
          b'{"process": {}, "count": 2}\n', bytes(10**5),
          b'[' * 50_000 + b'\n']  # fmt: skip

  def disturb():
    for content in sent:
      while True:
        try:
          with socket.create_connection(('localhost', port)) as connection:
            connection.sendall(content)
          break
        except ConnectionRefusedError:
          time.sleep(0.01)
        except OSError:
          break  # The port was closed.

  with futures.ThreadPoolExecutor(2) as pool:
    first = pool.submit(
      rendezvous.meet, f'localhost:{port}', 0, 2, seconds=_SECONDS
    )
    pool.submit(disturb).result()
    with socket.create_connection(('localhost', port)) as connection:
      file = connection.makefile('rb')
      assert file.readline() == b'optax-lcam\n'
      hello = {'process': 1, 'count': 2, 'who': 'me'}
      connection.sendall(json.dumps(hello).encode() + b'\n')
      assert json.loads(file.readline()) == {'wrong': ''}
    assert first.result() == f'localhost:{port}'


# --------------------------------------------------------- listening addresses


def _addresses(coordinator, everywhere=False):
  sockets, bind = rendezvous._listen(coordinator, everywhere)
  names = sorted(s.getsockname()[0] for s in sockets)
  for listening in sockets:
    listening.close()
  return names, bind


_EVERYWHERE = (['::'], ['0.0.0.0'])


def test_it_listens_on_the_given_address(port):
  names, bind = _addresses(f'localhost:{port}')
  assert set(names) <= {'127.0.0.1', '::1'}
  assert bind == f'localhost:{port}'
  names, bind = _addresses(f'127.0.0.1:{port}')
  assert (names, bind) == (['127.0.0.1'], f'127.0.0.1:{port}')


def test_on_a_cluster_it_listens_on_all_interfaces(port):
  names, bind = _addresses(f'localhost:{port}', everywhere=True)
  assert names in _EVERYWHERE
  assert bind is None


@pytest.mark.parametrize(
  ('host', 'address'),
  [
    # The address of a machine's own name in Debian's /etc/hosts.
    ('host0', '127.0.1.1'),
    # The address of a machine behind a NAT; an example of RFC 5737.
    ('host0', '192.0.2.1'),
    ('192.0.2.1', '192.0.2.1'),
  ],
)
def test_a_host_without_a_local_address(port, host, address, monkeypatch):
  found = [(socket.AF_INET, socket.SOCK_STREAM, 6, '', (address, port))]
  monkeypatch.setattr(socket, 'getaddrinfo', lambda *_, **__: found)
  names, bind = _addresses(f'{host}:{port}')
  assert names in _EVERYWHERE
  assert bind is None


def test_the_variable_of_jax_overrides_the_address(port, monkeypatch):
  monkeypatch.setenv('JAX_COORDINATOR_BIND_ADDRESS', f'127.0.0.1:{port}')
  assert _addresses(f'host0.invalid:{port}') == (['127.0.0.1'], None)
