"""The README of the benchmarks matches their records."""

import json
import re

import pytest

from benchmarks import harness
from benchmarks import report


def _readme():
  return report.README.read_text(encoding='utf-8')


def test_the_readme_matches_the_records():
  assert report.render(_readme()) == _readme()


@pytest.mark.parametrize('name', report.NAMES)
def test_each_benchmark_has_a_section_and_a_command(name):
  text = _readme()
  assert text.count(f'<!-- {name} -->') == 1
  assert text.count(f'<!-- end of {name} -->') == 1
  assert f'python -m benchmarks.{name}' in text
  assert (harness.RECORDS.parent / f'{name}.py').exists()


def test_all_programs_are_in_the_report():
  programs = {
    path.stem
    for path in harness.RECORDS.parent.glob('*.py')
    if 'harness.main(' in path.read_text(encoding='utf-8')
  } - {'harness'}
  assert programs == set(report.NAMES)


def test_records_are_not_quick():
  for path in harness.RECORDS.glob('*.json'):
    record = json.loads(path.read_text(encoding='utf-8'))
    assert record['benchmark'] == path.stem
    assert record['quick'] is False


def test_a_new_record_changes_only_its_table(tmp_path, monkeypatch):
  monkeypatch.setattr(harness, 'RECORDS', tmp_path)
  name = 'many_seeds'
  seconds = harness.summarize([0.5, 0.5])
  case = {'one_by_one': seconds, 'together': seconds, 'speedup': seconds}
  record = harness.make_record(name, lambda _: {'a network': {'3': case}}, True)
  harness.write(record, tmp_path / f'{name}.json')
  before = _readme()
  after = report.render(before)
  assert '| a network' in after
  section = re.compile(f'<!-- {name} -->.*<!-- end of {name} -->', re.DOTALL)
  assert section.sub('', after) == section.sub('', before)
