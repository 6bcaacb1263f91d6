"""The parts of results/README.md that the README and the index page show.

From its section on the preregistered questions, these are the first picture,
the first table and the first paragraph, which is the verdict; from its section
on the phase, the first paragraph.

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
_SECTION_ON_THE_PHASE = '## The phase: weights or batch?'
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


def phase(results: str) -> str:
  """What the phase depends on, or nothing if no study has measured it."""
  blocks = _blocks(results, _SECTION_ON_THE_PHASE)
  return blocks[0] if blocks else ''


def with_results(readme: str, results: str) -> str:
  """The README with the short answer between its markers."""
  parts = [verdict(results), picture(results), table(results), phase(results)]
  shown = '\n\n'.join(filter(None, parts))
  # Links of the results are relative to their folder.
  shown = re.sub(r'\]\((?!https?:|#)', '](results/', shown)
  return _MARKERS.sub(
    lambda found: f'{found[1]}\n{shown}\n\n{found[2]}', readme
  )


def _blocks(results: str, section: str = _SECTION) -> list[str]:
  """The blocks below a heading, up to the next of its level."""
  _, _, rest = results.partition(f'{section}\n')
  own = re.split(r'^## ', rest, maxsplit=1, flags=re.MULTILINE)[0]
  return [block.strip() for block in own.split('\n\n') if block.strip()]


if __name__ == '__main__':
  path = REPOSITORY / 'README.md'
  results_text = (REPOSITORY / 'results' / 'README.md').read_text('utf-8')
  path.write_text(with_results(path.read_text('utf-8'), results_text), 'utf-8')
