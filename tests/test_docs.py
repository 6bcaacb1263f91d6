"""Every Python block of docs/ runs, each page from top to bottom."""

import pathlib
import re

import pytest

_DOCS = pathlib.Path(__file__).parents[1] / 'docs'


def _blocks():
  """Page, line and source of each block, in the order of the pages."""
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
      # Errors show the line of the page.
      source = '\n' * (line - 1) + source
      exec(compile(source, str(page), 'exec'), names)


def test_the_pages_have_blocks():
  blocks = _blocks()
  print(f'{len(blocks)} blocks of {len(_PAGES)} pages ran.')
  assert len(blocks) >= 19
  assert {'training_loop.md', 'faq.md', 'getting_started.md'} <= {
    page.name for page in _PAGES
  }
