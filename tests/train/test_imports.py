"""Imports respect the layers of the program and have no cycles."""

import ast
import graphlib
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[2]

# From the lowest to the highest layer. Modules in no list belong to _MACHINE:
# data, devices, processes.
_LAYERS = (
  (
    'train.errors',
    'train.command_line',
    'train.config',
    'train.experiments',
    'train.statistics',
    'train.files',
    'train.safe',
    'train.pictures',
    # Registries.
    'train.sources',
    'train.program.optimizers',
  ),
  (),
  ('train.program',),
  ('train.records', 'train.following'),
  ('train.loop', 'train.evaluate'),
  ('train.sweep',),
  ('train.studies',),
  ('train.report',),
  ('train.__main__',),
)
_MACHINE = 1


def _layer(module):
  while module:
    for i, names in enumerate(_LAYERS):
      if module in names:
        return i
    module = module.rpartition('.')[0]
  return _MACHINE


def _modules(package):
  found = {}
  for path in (_ROOT / package).rglob('*.py'):
    parts = path.relative_to(_ROOT).with_suffix('').parts
    if parts[-1] == '__init__':
      parts = parts[:-1]
    found['.'.join(parts)] = path
  return found


_MODULES = _modules('train')


def _imports(path):
  """Our modules that a file imports, at its top or in a function."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      # This test would miss relative imports.
      assert node.level == 0, path
      for alias in node.names:
        name = f'{node.module}.{alias.name}'
        found.add(name if name in _MODULES else node.module)
  return {name for name in found if name.split('.')[0] == 'train'}


_GRAPH = {name: _imports(path) for name, path in _MODULES.items()}


def test_no_module_imports_a_higher_layer():
  upwards = [
    f'{name} -> {imported}'
    for name, found in _GRAPH.items()
    for imported in found
    if _layer(imported) > _layer(name)
  ]
  assert not upwards


def test_imports_have_no_cycles():
  graph = {
    name: {i for i in found if i in _MODULES and i != name}
    for name, found in _GRAPH.items()
    if name != 'train'
  }
  try:
    graphlib.TopologicalSorter(graph).prepare()
  except graphlib.CycleError as error:
    pytest.fail(' -> '.join(error.args[1]))


def test_the_graph_contains_known_imports():
  """Checks the test itself."""
  assert 'train.program.build' in _GRAPH['train.loop']
  assert 'train.loop' in _GRAPH['train.sweep']
  assert 'train.statistics' in _GRAPH['train.report.contrasts']
  assert 'train.report' in _GRAPH['train.__main__']
  assert _layer('train.report.write') > _layer('train.studies.probe')


@pytest.mark.parametrize('package', ['models', 'optax_lcam'])
def test_the_packages_do_not_import_the_program(package):
  for name, path in _modules(package).items():
    assert not _imports(path), name
