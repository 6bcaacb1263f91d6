"""The parts of results/README.md that the README and the index page show.

They are those of its section on the preregistered questions: the first picture,
the first table and the first paragraph, which is the verdict.

    python docs/extensions/results_page.py

puts them into the README, between the markers.
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
_SECTION = '## Preregistered questions'
_MARKERS = re.compile(r'(<!-- results -->\n).*(<!-- /results -->)', re.DOTALL)


def verdict(results: str) -> str:
  """The verdict of the results, or what stands in for it."""
  for block in _blocks(results):
    if not block.startswith(('|', '!', '-', '#')):
      return block
  return PENDING


def table(results: str) -> str:
  """The table of six rows; before there is one, that of the implied claims."""
  for block in _blocks(results):
    if block.startswith('|'):
      return block
  for block in results.split('\n\n'):
    lines = block.strip().splitlines()
    rows = [line for line in lines if '| implied |' in re.sub(' +', ' ', line)]
    if rows:
      return '\n'.join([*lines[:2], *rows])
  return ''


def picture(results: str) -> str:
  """The picture of the verdict; before there is one, the first picture."""
  for text in (*_blocks(results), results):
    if found := re.search(r'^!\[.*?\]\(.*?\)$', text, re.MULTILINE):
      return found[0]
  return ''


def with_results(readme: str, results: str) -> str:
  """The README with the short answer between its markers."""
  parts = [verdict(results), picture(results), table(results)]
  shown = '\n\n'.join(filter(None, parts))
  # Links of the results are relative to their folder.
  shown = re.sub(r'\]\((?!https?:|#)', '](results/', shown)
  return _MARKERS.sub(
    lambda found: f'{found[1]}\n{shown}\n\n{found[2]}', readme
  )


def _blocks(results: str) -> list[str]:
  """The blocks of the section on the preregistered questions."""
  _, _, rest = results.partition(f'{_SECTION}\n')
  section = re.split(r'^## ', rest, maxsplit=1, flags=re.MULTILINE)[0]
  return [block.strip() for block in section.split('\n\n') if block.strip()]


if __name__ == '__main__':
  path = REPOSITORY / 'README.md'
  results_text = (REPOSITORY / 'results' / 'README.md').read_text('utf-8')
  path.write_text(with_results(path.read_text('utf-8'), results_text), 'utf-8')
