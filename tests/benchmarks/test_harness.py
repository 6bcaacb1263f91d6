"""Turns, medians, tables and records, which all benchmarks share."""

import json
import math

import numpy as np
import pytest

from benchmarks import harness


def test_candidates_take_turns_and_the_order_rotates(monkeypatch):
  monkeypatch.setattr(harness, '_PAUSE', 0)
  calls = []
  candidates = {name: lambda n=name: calls.append(n) for name in 'abc'}
  samples = harness.interleave(candidates, rounds=3, calls=2)
  assert {name: len(taken) for name, taken in samples.items()} == {
    'a': 3, 'b': 3, 'c': 3,
  }  # fmt: skip
  # The first call of each is a warm-up.
  assert ''.join(calls) == 'abc' + 'aabbcc' + 'bbccaa' + 'ccaabb'


def test_a_sample_is_the_time_of_one_call(monkeypatch):
  now = [0.0]

  def work():
    now[0] += 0.25

  monkeypatch.setattr(harness.time, 'perf_counter', lambda: now[0])
  samples = harness.interleave({'work': work}, rounds=4, calls=8)
  assert samples == {'work': [0.25] * 4}


def test_the_time_limit_leaves_at_least_three_rounds():
  samples = harness.interleave({'nothing': lambda: None}, rounds=9, seconds=0)
  assert len(samples['nothing']) == 3


def test_median_and_quartiles_are_those_of_numpy():
  samples = np.random.default_rng(0).exponential(size=14).tolist()
  lower, median, upper = np.quantile(samples, [0.25, 0.5, 0.75])
  summary = harness.summarize(samples)
  assert summary['median'] == pytest.approx(median)
  assert summary['lower_quartile'] == pytest.approx(lower)
  assert summary['upper_quartile'] == pytest.approx(upper)
  assert summary['rounds'] == 14
  assert harness.summarize([2.0])['upper_quartile'] == 2.0


def test_a_ratio_compares_samples_of_the_same_round():
  # The machine was slow in the second round, for both samples.
  ratio = harness.ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0])
  assert ratio['median'] == ratio['lower_quartile'] == 2.0
  with pytest.raises(ValueError, match='zip'):
    harness.ratio([1.0], [1.0, 2.0])


def test_the_quartiles_of_a_rate_are_ordered():
  rate = harness.rate(12, [1.0, 2.0, 3.0])
  assert rate['median'] == 6.0
  assert rate['lower_quartile'] < rate['median'] < rate['upper_quartile']
  assert harness.spread(rate, 1) == '6.0 (5.0–9.0)'
  assert harness.spread(rate, 0, 1e3) == '6,000 (5,000–9,000)'


def test_a_table_is_aligned():
  made = harness.table(['what', 'ms'], [['a', 1.5], ['longer', '10']])
  assert made.splitlines() == [
    '| what   |  ms |',
    '| ------ | --: |',
    '| a      | 1.5 |',
    '| longer |  10 |',
  ]


def test_a_record_contains_the_environment(tmp_path):
  record = harness.make_record('name', lambda quick: {'quick': quick}, True)
  assert record['results'] == {'quick': True}
  harness.write(record, tmp_path / 'deep' / 'record.json')
  read = json.loads((tmp_path / 'deep' / 'record.json').read_text())
  assert read == record
  line = harness.describe(read['environment'])
  for part in ('jax', 'optax', 'Python', 'commit', 'cores'):
    assert part in line


def test_a_record_rejects_nan(tmp_path):
  with pytest.raises(ValueError, match='JSON'):
    harness.write({'results': math.nan}, tmp_path / 'record.json')
