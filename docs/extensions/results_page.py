"""The parts of results/README.md that the README and the index page show.

From its section on the preregistered questions, these are the first picture,
the first table, which is that of the stage that decides, and the first
paragraph, which is the verdict; from its section on the phase, the first
paragraph.

    python docs/extensions/results_page.py

puts them into the README, between the markers.
"""

from collections.abc import Callable
import pathlib
import re

REPOSITORY = pathlib.Path(__file__).parents[2]

_SECTION = '## Preregistered questions'
_SECTION_ON_THE_PHASE = '## The phase: weights or batch?'
_MARKERS = re.compile(r'(<!-- results -->\n).*(<!-- /results -->)', re.DOTALL)


def verdict(results: str) -> str:
  """The verdict of the results."""
  return _first_block(results, lambda block: block[0] not in '|!-#')


def table(results: str) -> str:
  """The six contrasts of the stage that decides."""
  return _first_block(results, lambda block: block[0] == '|')


def picture(results: str) -> str:
  """The picture of the verdict."""
  return _first_block(results, lambda block: block[0] == '!')


def phase(results: str) -> str:
  """What the phase depends on."""
  return _blocks(results, _SECTION_ON_THE_PHASE)[0]


def with_results(readme: str, results: str) -> str:
  """The README with the short answer between its markers."""
  parts = [verdict(results), picture(results), table(results), phase(results)]
  shown = '\n\n'.join(parts)
  # Links of the results are relative to their folder.
  shown = re.sub(r'\]\((?!https?:|#)', '](results/', shown)
  return _MARKERS.sub(
    lambda found: f'{found[1]}\n{shown}\n\n{found[2]}', readme
  )


def _first_block(results: str, is_wanted: Callable[[str], bool]) -> str:
  return next(block for block in _blocks(results) if is_wanted(block))


def _blocks(results: str, section: str = _SECTION) -> list[str]:
  """The blocks below a heading, up to the next of its level."""
  _, _, rest = results.partition(f'{section}\n')
  own = re.split(r'^## ', rest, maxsplit=1, flags=re.MULTILINE)[0]
  return [block.strip() for block in own.split('\n\n') if block.strip()]


if __name__ == '__main__':
  path = REPOSITORY / 'README.md'
  results_text = (REPOSITORY / 'results' / 'README.md').read_text('utf-8')
  path.write_text(with_results(path.read_text('utf-8'), results_text), 'utf-8')
