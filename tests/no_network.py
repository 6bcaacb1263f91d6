"""An audit hook that rejects connections to other machines."""

_LOCAL = ('localhost', '127.0.0.1', '::1', '', None)


def refuse(event, arguments):
  """For sys.addaudithook: raises if a program accesses the network."""
  if event == 'socket.getaddrinfo':
    host = arguments[0]
  elif event == 'socket.connect' and isinstance(arguments[1], tuple):
    host = arguments[1][0]
  else:
    return
  if isinstance(host, bytes):
    host = host.decode()
  if host not in _LOCAL:
    raise ConnectionRefusedError(f'{event} {host}: tests have no network.')
