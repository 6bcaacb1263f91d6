"""``python -m train.onednn`` builds the kernels, or reports why it cannot."""

import importlib.metadata
import os
import pathlib
import shutil
import stat
import subprocess
import sys

import pytest

from train import onednn
from train.onednn import __main__ as command_line
from train.onednn import library


@pytest.fixture(autouse=True)
def _own_cache(request, tmp_path, monkeypatch):
  """An empty cache on disk, and cleared caches in memory."""
  if 'kernels' in request.fixturenames:
    request.getfixturevalue('kernels')  # These are in another cache.
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  remembering = library.load, library.find_onednn
  for function in remembering:
    function.cache_clear()
  yield
  for function in remembering:
    function.cache_clear()


def _compiler(path: pathlib.Path, script: str, monkeypatch) -> None:
  """Sets a fake compiler."""
  path.write_text(f'#!/bin/sh\n{script}\n')
  path.chmod(path.stat().st_mode | stat.S_IXUSR)
  monkeypatch.setenv('CXX', str(path))


@pytest.fixture
def quick_compiler(kernels, tmp_path, monkeypatch):
  """A compiler that slowly copies the result of the real one."""
  made = tmp_path / 'made.so'
  made.write_bytes(kernels.read_bytes()[:-32])
  _compiler(
    tmp_path / 'compiler',
    f'for last; do true; done; head -c 1000 {made} > $last; sleep 0.2;'
    f' cp {made} $last',
    monkeypatch,
  )


def _refused(capsys) -> str:
  assert command_line.main(['build']) == 2
  out, err = capsys.readouterr()
  assert out == ''
  assert err.startswith('python -m train.onednn: ') and err.count('\n') == 1
  return err


def test_help_reports_whether_the_kernels_are_built(
  kernels, quick_compiler, capsys
):
  for argv in ([], ['--help']):
    assert command_line.main(argv) == 0
    assert 'are not built' in capsys.readouterr().out
  assert command_line.main(['build']) == 0
  assert 'are in' in capsys.readouterr().out
  assert command_line.main([]) == 0
  assert 'They are built, for oneDNN 3.' in capsys.readouterr().out


def test_unknown_commands_are_rejected(capsys):
  assert command_line.main(['biuld']) == 2
  assert capsys.readouterr().err.count('\n') == 1


def test_no_compiler(kernels, monkeypatch, capsys):
  monkeypatch.delenv('CXX', raising=False)
  monkeypatch.setenv('PATH', '')
  assert 'C++ compiler' in _refused(capsys)
  monkeypatch.setenv('CXX', 'no-such-compiler -O2')
  assert 'no-such-compiler' in _refused(capsys)


def test_no_onednn(monkeypatch, capsys):
  monkeypatch.setattr(library, '_candidates', list)
  assert "pip install -e '.[cpu]'" in _refused(capsys)
  assert not onednn.is_available()
  assert 'oneDNN 3 is not installed' in onednn.why_not()


def test_no_headers(kernels, tmp_path, monkeypatch, capsys):
  found = library.find_onednn()
  monkeypatch.setattr(
    library, 'find_onednn', lambda: found._replace(prefix=tmp_path)
  )
  assert f'not in {tmp_path}/include' in _refused(capsys)


@pytest.mark.parametrize(
  ('runtime', 'is_fit'), [('OMP', True), ('TBB', False), ('SEQ', True)]
)
def test_a_onednn_with_its_own_threads_is_rejected(
  runtime, is_fit, kernels, quick_compiler, tmp_path, monkeypatch, capsys
):
  headers = tmp_path / 'include' / 'oneapi' / 'dnnl'
  headers.mkdir(parents=True)
  (headers / 'dnnl.hpp').touch()
  (headers / 'dnnl_config.h').write_text(
    f'// x\n#define DNNL_CPU_THREADING_RUNTIME DNNL_RUNTIME_{runtime}\n'
  )
  found = library.find_onednn()
  monkeypatch.setattr(
    library, 'find_onednn', lambda: found._replace(prefix=tmp_path)
  )
  if is_fit:
    assert command_line.main(['build']) == 0
  else:
    assert 'TBB' in _refused(capsys)


def test_a_compiler_that_fails(kernels, tmp_path, monkeypatch, capsys):
  _compiler(
    tmp_path / 'compiler',
    'echo "x.cc: In function f:" >&2; echo "x.cc:7: error: boom" >&2; exit 1',
    monkeypatch,
  )
  assert 'x.cc:7: error: boom' in _refused(capsys)
  assert not list((tmp_path / 'cache').rglob('*.so'))


def test_a_library_that_cannot_be_loaded_is_reported(
  kernels, tmp_path, monkeypatch, capsys
):
  _compiler(
    tmp_path / 'compiler',
    'for last; do true; done; echo no library > $last',
    monkeypatch,
  )
  assert 'cannot be loaded' in _refused(capsys)


@pytest.mark.parametrize('damage', ['truncated', 'changed', 'empty'])
def test_a_damaged_library_is_not_loaded_but_rebuilt(
  damage, kernels, quick_compiler
):
  built = library.path()
  built.parent.mkdir(parents=True)
  content = bytearray(kernels.read_bytes())
  content[len(content) // 2] ^= 1
  built.write_bytes(
    {
      'truncated': kernels.read_bytes()[:5000],
      'changed': bytes(content),
      'empty': b'',
    }[damage]
  )
  assert not onednn.is_available()
  assert 'damaged' in onednn.why_not()
  assert command_line.main(['build']) == 0
  assert built.read_bytes() == kernels.read_bytes()
  library.load.cache_clear()
  assert onednn.is_available()


@pytest.mark.parametrize('what', ['jaxlib', 'oneDNN', 'source'])
def test_other_versions_need_another_build(
  what, kernels, tmp_path, monkeypatch
):
  built = library.path()
  if what == 'jaxlib':
    monkeypatch.setattr(importlib.metadata, 'version', lambda name: '9.9')
  elif what == 'oneDNN':
    found = library.find_onednn()._replace(version='3.99.0')
    monkeypatch.setattr(library, 'find_onednn', lambda: found)
  else:
    # That of batch norm, which must count as well.
    *others, last = library.SOURCES
    source = pathlib.Path(shutil.copy(last, tmp_path))
    source.write_text('// Other.')
    monkeypatch.setattr(library, 'SOURCES', (*others, source))
  assert library.path() != built


def test_processes_can_build_at_once(kernels, quick_compiler):
  command = [sys.executable, '-m', 'train.onednn', 'build']
  builds = [
    subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ)
    for _ in range(3)
  ]
  for build in builds:
    assert build.wait() == 0
    build.stdout.close()
  built = library.path()
  assert built.read_bytes() == kernels.read_bytes()
  assert list(built.parent.iterdir()) == [built]


def test_without_a_build_a_convolution_raises(kernels):
  program = (
    'import jax.numpy as jnp\n'
    'from train import onednn\n'
    'onednn.conv_general_dilated(jnp.ones((1, 4, 4, 1)),'
    ' jnp.ones((3, 3, 1, 1)), (1, 1), "SAME")'
  )
  finished = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True
  )
  assert 'python -m train.onednn build' in finished.stderr.splitlines()[-1]
