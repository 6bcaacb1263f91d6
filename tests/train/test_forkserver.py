"""A forked process behaves as one that Python starts."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from tests.train import forkserver
from tests.train import processes

pytestmark = pytest.mark.skipif(
  sys.platform != 'linux', reason='forks on Linux alone'
)


@pytest.fixture(params=[True, False], ids=['forked', 'started'])
def start(request, tmp_path):
  """Starts a module of this text in a working directory of its own."""

  def start_module(text, *arguments, **options):
    (tmp_path / 'module.py').write_text(textwrap.dedent(text))
    process = processes.start(
      *arguments,
      module='module',
      cwd=tmp_path,
      imported=request.param,
      **options,
    )
    assert isinstance(process, forkserver.Process) == request.param
    return process

  return start_module


def test_what_it_is_given(start, tmp_path):
  with start(
    """
    import os, sys, module
    print(sys.argv[1:], os.getcwd(), os.getpid(), os.environ['GIVEN'])
    print(module.__file__, sorted({'train', 'tests'} & set(sys.modules)))
    print('said', file=sys.stderr)
    """,
    'a b',
    7,
    env={**processes.environment(), 'GIVEN': 'yes'},
  ) as process:
    out, err = process.communicate(timeout=600)
  given = f"['a b', '7'] {tmp_path} {process.pid} yes\n"
  file = f'{tmp_path / "module.py"} []\n'
  assert out == (given + file) * 2  # It also imports itself.
  assert err == 'said\n' * 2
  assert process.returncode == 0


@pytest.mark.parametrize(
  ('end', 'code'),
  [
    ('sys.exit(3)', 3),
    ('1 / 0', 1),
    ('os.kill(os.getpid(), 9)', -signal.SIGKILL),
    ('os._exit(4)', 4),
  ],
)
def test_how_it_ends(start, end, code):
  with start(f'import os, sys\n{end}') as process:
    _, err = process.communicate(timeout=600)
  assert process.returncode == process.poll() == code
  assert ('ZeroDivisionError' in err) == (code == 1)


def test_what_python_does_at_its_end(start):
  text = "import atexit\natexit.register(print, 'at exit')\nprint('before')"
  with start(text) as process:
    assert process.communicate(timeout=600)[0] == 'before\nat exit\n'


def test_a_signal(start):
  with start(
    """
    import signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
    print('ready', flush=True)
    time.sleep(600)
    """
  ) as process:
    assert process.stdout.readline() == 'ready\n'
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
      process.wait(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(600) == 5


def test_files_to_write_to(start, tmp_path):
  with (tmp_path / 'out').open('w') as out, (tmp_path / 'err').open('w') as err:
    text = 'import sys\nprint(1)\nprint(2, file=sys.stderr)'
    with start(text, stdout=out, stderr=err) as process:
      assert process.communicate(timeout=600) == (None, None)
  assert (tmp_path / 'out').read_text() == '1\n'
  assert (tmp_path / 'err').read_text() == '2\n'


def _ignore_sigint():
  signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_what_is_called_before_it(start):
  with start(
    """
    import signal, sys
    print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)
    print(sorted({'train', 'tests'} & set(sys.modules)))
    """,
    preexec_fn=_ignore_sigint,
  ) as process:
    assert process.communicate(timeout=600)[0] == 'True\n[]\n'


def test_variables_that_are_read_at_an_import():
  environment = processes.environment()
  assert forkserver.can_start({**environment, 'HOME': '/', 'XLA_FLAGS': ''})
  assert not forkserver.can_start({**environment, 'JAX_ENABLE_X64': '1'})
  assert os.environ.get('JAX_ENABLE_X64') != '1'
