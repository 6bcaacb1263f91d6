"""Studies in a report."""

import matplotlib.image
import numpy as np

from train import report
from train import studies
from train.studies import probe
from train.studies import verdicts

_SEEDS = 4
_LOW = np.array([30.0, 33.0, 36.0, 39.0])


def _record(dataset, difference):
  """A probe whose pairs differ by about this many points."""
  nothing = np.full(_SEEDS, 0.5)
  noise = np.array([0.1, -0.2, 0.2, -0.1])
  return {
    'dataset': dataset,
    'pairs': [
      probe._arm(pair, errors, nothing, nothing)
      for pair, errors in (
        (probe.Pair(0.95, 0.9), _LOW + difference + noise),
        (probe.Pair(0.9, 0.95), _LOW),
      )
    ],
    'seeds': list(range(_SEEDS)),
    'validation_examples': 100,
    'settings': {'train_examples': 200},
  }


def test_probes_are_judged_together(tmp_path):
  # The last two are of one data set.
  records = [
    _record('cifar10', 1.0),
    _record('cifar100', 0.37),
    _record('cifar100', 0.2),
  ]
  for i, record in enumerate(records):
    studies.STUDIES['probe'].write(record, tmp_path / 'records' / str(i))
  # A record that the report leaves out.
  unfit = tmp_path / 'records' / 'unfit' / 'probe.json'
  verdicts.write_record(unfit, {**_record('digits', 1.0), 'pairs': []})
  text = report.write([tmp_path / 'records'], tmp_path / 'out')
  for i, record in enumerate(records):
    others = records[:i] + records[i + 1 :]
    assert f'- {probe.judge(record, others)["sentence"]}\n' in text
    assert probe.judge(record)['sentence'] not in text
  assert text.count('in the family of 3 probes') == 3
  probe.draw(records[1], tmp_path / 'drawn.png', [records[0], records[2]])
  shown, drawn = (
    matplotlib.image.imread(path)
    for path in (
      tmp_path / 'out' / 'probe-cifar100.png',
      tmp_path / 'drawn.png',
    )
  )
  np.testing.assert_array_equal(shown, drawn)
  assert f'{unfit} cannot be drawn: IndexError' in text
  pictures = {path.name for path in (tmp_path / 'out').glob('*.png')}
  assert pictures == {
    'probe-cifar10.png',
    'probe-cifar100.png',
    'probe-cifar100-2.png',
  }
