"""The parts of results/README.md that the README and the index page show.

The first section of results/README.md, before its first `##` heading, is the
short answer: a verdict, a picture and a table of six rows.

    python docs/extensions/results_page.py

puts it into the README, between the markers.
"""

import pathlib
import re

REPOSITORY = pathlib.Path(__file__).parents[2]

# What stands in for the verdict until the results have one.
PENDING = (
  'There is no verdict yet: evidence is being collected as the'
  ' [preregistration](PREREGISTRATION.md) describes. The earlier runs at the'
  ' small scale do not decide the question.'
)
_MARKERS = re.compile(r'(<!-- results -->\n).*(<!-- /results -->)', re.DOTALL)


def verdict(results: str) -> str:
  """The first paragraph of the results, or what stands in for it."""
  for block in _lead(results):
    if not block.startswith(('|', '!', '-', '#', '>', '<')):
      return block
  return PENDING


def table(results: str) -> str:
  """The table of six rows, or that of the claims the paper implies."""
  tables = [block for block in _lead(results) if block.startswith('|')]
  if tables:
    return tables[0]
  for block in results.split('\n\n'):
    lines = block.strip().splitlines()
    rows = [line for line in lines if '| implied |' in re.sub(' +', ' ', line)]
    if rows:
      return '\n'.join([*lines[:2], *rows])
  return ''


def picture(results: str) -> str:
  """The first picture, in Markdown."""
  pictures = re.findall(r'^!\[.*?\]\(.*?\)$', results, re.MULTILINE)
  return pictures[0] if pictures else ''


def with_results(readme: str, results: str) -> str:
  """The README with the short answer between its markers."""
  parts = [verdict(results), picture(results), table(results)]
  shown = '\n\n'.join(filter(None, parts))
  # Links of the results are relative to their folder.
  shown = re.sub(r'\]\((?!https?:|#)', '](results/', shown)
  return _MARKERS.sub(
    lambda found: f'{found[1]}\n{shown}\n\n{found[2]}', readme
  )


def _lead(results: str) -> list[str]:
  """The blocks between the title and the first section."""
  first = re.split(r'^## ', results, maxsplit=1, flags=re.MULTILINE)[0]
  blocks = [block.strip() for block in first.split('\n\n')]
  return [block for block in blocks if block and not block.startswith('# ')]


if __name__ == '__main__':
  path = REPOSITORY / 'README.md'
  results_text = (REPOSITORY / 'results' / 'README.md').read_text('utf-8')
  path.write_text(with_results(path.read_text('utf-8'), results_text), 'utf-8')
