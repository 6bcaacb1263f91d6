"""The Python blocks of each page in docs/ run from top to bottom."""

import ast
import pathlib
import re
import sys
import tomllib

import pytest

_DOCS = pathlib.Path(__file__).parents[1] / 'docs'
_PROJECT = tomllib.loads((_DOCS.parent / 'pyproject.toml').read_text())[
  'project'
]


def _blocks():
  """Page, line and source of each block."""
  return [
    (page, text[: match.start()].count('\n') + 2, match[1])
    for page in sorted(_DOCS.glob('*.md'))
    for text in [page.read_text()]
    for match in re.finditer(
      r'^```python\n(.*?)^```', text, re.DOTALL | re.MULTILINE
    )
  ]


_PAGES = sorted({page for page, _, _ in _blocks()})


@pytest.mark.parametrize('page', _PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  names = {}
  for of_page, line, source in _blocks():
    if of_page == page:
      # Errors then show the line of the page.
      source = '\n' * (line - 1) + source
      exec(compile(source, str(page), 'exec'), names)


def _distributions(requirements):
  return {re.match(r'[\w-]+', r)[0].lower() for r in requirements}


@pytest.mark.parametrize('page', _PAGES, ids=lambda page: page.name)
def test_a_page_names_the_extra_that_its_blocks_need(page):
  """The requirements of its install command include all imports."""
  installs = re.findall(
    r'pip install (?:-e )?[\'.]+(?:\[(.*?)\])?', page.read_text()
  )
  assert installs, f'{page.name} does not say what to install'
  available = {'optax-lcam', 'numpy', *_distributions(_PROJECT['dependencies'])}
  for extras in installs:
    for extra in filter(None, extras.split(',')):
      available |= _distributions(_PROJECT['optional-dependencies'][extra])
  imported = set()
  for of_page, _, source in _blocks():
    if of_page == page:
      for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
          imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
          imported.add(node.module)
  names = {name.split('.')[0] for name in imported} - set(
    sys.stdlib_module_names
  )
  of_name = {'orbax': 'orbax-checkpoint', 'optax_lcam': 'optax-lcam'}
  assert {of_name.get(name, name) for name in names} <= available


def test_the_pages_have_blocks():
  blocks = _blocks()
  print(f'{len(blocks)} blocks of {len(_PAGES)} pages ran.')
  assert len(blocks) >= 19
  assert {'training_loop.md', 'faq.md', 'getting_started.md'} <= {
    page.name for page in _PAGES
  }


def test_the_examples_page_shows_every_program():
  page = (_DOCS / 'examples.md').read_text()
  for program in (_DOCS.parent / 'examples').glob('*.py'):
    assert f'../examples/{program.name}' in page
