"""Inserts the tables of the records into README.md.

Each table is between two comments with the name of its benchmark.
"""

import importlib
import json
import pathlib

from benchmarks import harness

README = pathlib.Path(__file__).parent / 'README.md'
NAMES = (
  'optimizer_step',
  'training',
  'convolutions',
  'loop_overhead',
  'start',
  'many_seeds',
  'compiled',
  'scale',
  'memory',
  'gpu',
)


def main() -> None:
  """Updates the README."""
  text = README.read_text(encoding='utf-8')
  README.write_text(render(text), encoding='utf-8')


def render(text: str) -> str:
  """Returns the text with the tables of the current records."""
  for name in NAMES:
    path = harness.RECORDS / f'{name}.json'
    if not path.exists():
      continue
    record = json.loads(path.read_text(encoding='utf-8'))
    module = importlib.import_module(f'benchmarks.{name}')
    begin, end = f'<!-- {name} -->', f'<!-- end of {name} -->'
    before, rest = text.split(begin)
    _, after = rest.split(end)
    where = harness.describe(record['environment'])
    text = (
      f'{before}{begin}\n\n{where}\n\n{module.tables(record["results"])}\n\n'
      f'{end}{after}'
    )
  return text


if __name__ == '__main__':
  main()
