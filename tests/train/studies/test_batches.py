"""Two networks on the same batches: results agree with SciPy."""

import copy
import dataclasses
import io

import jax
import matplotlib.image
import numpy as np
import pytest
import rich.console
from scipy import signal
from scipy import stats

from train import __main__ as command_line
from train import config as config_lib
from train import data
from train import errors
from train import experiments
from train import report
from train import studies
from train.program import build
from train.records import read
from train.studies import batches
from train.studies import configs
from train.studies import traction

_EPOCHS = 4
_REPEATS = 3


@pytest.fixture(scope='module')
def of_digits():
  """A study of small networks, and their losses."""
  digits = data.load('digits', train_examples=330)
  config = config_lib.Config(
    model='mlp', train_examples=330, batch_size=16, epochs=5
  )
  experiment = dataclasses.replace(
    experiments.get('digits-lcam'), config=config, reads_off=_EPOCHS
  )
  train = batches._train
  trained = []

  def remember(own, *rest, **keywords):
    trained.append((own, train(own, *rest, **keywords)))
    return trained[-1][1]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(configs, 'of_batches', lambda *_: experiment)
    patch.setattr(batches, '_train', remember)
    patch.setattr(data, 'load', lambda *_, **__: digits)
    console = rich.console.Console(file=io.StringIO())
    record = batches.measure(
      'digits', batch_sizes=(16, 32), repeats=_REPEATS, console=console
    )
  return record, trained, digits, console.file.getvalue()


def test_the_choices_are_those_of_the_optimizer(of_digits):
  _, trained, digits, _ = of_digits
  config, run = trained[0]
  program = build.Program([config], digits, devices=jax.devices()[:1])
  images, _ = program.place()
  state, used = program.init(), []
  for epoch in range(1, _EPOCHS + 1):
    state, measured = program.train_epoch(state, images, epoch)
    used.append(measured)
  # The loss of a step selects the momentum of the next step. Of 21 batches, 20
  # are full.
  momenta = np.concatenate([m.momentum[0] for m in used])[1:]
  chosen = np.concatenate([h for h in run.horizontal])
  full = np.concatenate([np.arange(21) < 20] * _EPOCHS)[:-1]
  horizontal = np.isclose(momenta, config.horizontal_momentum)
  np.testing.assert_array_equal(horizontal[full], chosen[: full.sum()] == 1)
  np.testing.assert_array_equal(
    np.stack([m.loss[0, :20] for m in used]), run.losses
  )


def test_pairs_share_batches_but_not_initial_weights(of_digits):
  _, trained, *_ = of_digits
  seeds = [(c.init_seed, c.order_seed, c.augmentation_seed) for c, _ in trained]
  assert seeds == 2 * [
    (0, 0, 0), (1, 0, 0), (2, 1, 1), (3, 1, 1), (4, 2, 2), (5, 2, 2)
  ]  # fmt: skip
  small, large = trained[0][0], trained[6][0]
  assert (small.batch_size, large.batch_size) == (16, 32)
  assert large.learning_rate == 2 * small.learning_rate


def test_figures_over_the_repeats_equal_scipy(of_digits):
  record, trained, *_ = of_digits
  runs = [run for _, run in trained[:6]]
  last = record['sizes'][0]['of_epochs'][-1]

  def correlation(first, second):
    return stats.pearsonr(signal.detrend(first), signal.detrend(second))[0]

  same = [
    correlation(runs[2 * i].losses[-1], runs[2 * i + 1].losses[-1])
    for i in range(_REPEATS)
  ]
  assert last['same_correlation']['mean'] == pytest.approx(
    np.mean(same), rel=1e-4
  )
  interval = stats.t.interval(
    0.95, _REPEATS - 1, np.mean(same), stats.sem(same)
  )
  assert last['same_correlation']['half_width'] == pytest.approx(
    interval[1] - np.mean(same), rel=1e-3
  )
  other = [
    correlation(runs[2 * i].losses[-1], runs[(2 * i + 2) % 6].losses[-1])
    for i in range(_REPEATS)
  ]
  assert last['other_correlation']['mean'] == pytest.approx(
    np.mean(other), abs=1e-4
  )
  agree = [
    np.mean(runs[2 * i].horizontal[-1] == runs[2 * i + 1].horizontal[-1])
    for i in range(_REPEATS)
  ]
  assert last['same_agreement']['mean'] == pytest.approx(
    np.mean(agree), rel=1e-4
  )


def test_frozen_parameters_have_the_losses_of_their_start(of_digits):
  """Against a network that starts there and cannot move."""
  record, trained, digits, _ = of_digits
  config, run = trained[0]
  still = dataclasses.replace(config, learning_rate=0.0, weight_decay=0.0)
  moving, standing = (
    build.Program([own], digits, devices=jax.devices()[:1])
    for own in (config, still)
  )
  images, _ = moving.place()
  state = moving.init()
  for epoch in range(1, _EPOCHS + 1):
    before = moving.fetch(state)
    after, measured = standing.train_epoch(
      standing.stack(before), images, epoch
    )
    jax.tree.map(
      np.testing.assert_array_equal,
      before[0].params,
      standing.fetch(after)[0].params,
    )
    np.testing.assert_allclose(
      run.frozen[epoch - 1], measured.loss[0, :20], rtol=1e-6
    )
    # Its first step is that of the network that trains.
    assert run.frozen[epoch - 1, 0] == run.losses[epoch - 1, 0]
    assert run.frozen[epoch - 1, 5] != run.losses[epoch - 1, 5]
    state, _ = moving.train_epoch(state, images, epoch)
  # The second network of a pair does not need them.
  assert trained[1][1].frozen is None
  rows = record['sizes'][0]['of_epochs']
  assert rows[0]['learning_rate'] == config.learning_rate
  rates = moving.learning_rates(_EPOCHS)[0]
  assert rates[-1] < rates[0] < config.learning_rate
  assert rows[-1]['learning_rate'] == pytest.approx(rates[0], rel=1e-3)
  assert rows[-1]['last_learning_rate'] == pytest.approx(rates[-1], rel=1e-3)
  correlations = [
    stats.pearsonr(
      signal.detrend(own.losses[1]), signal.detrend(own.frozen[1])
    )[0]
    for own in (trained[2 * i][1] for i in range(_REPEATS))
  ]
  assert rows[1]['frozen_correlation']['mean'] == pytest.approx(
    np.mean(correlations), rel=1e-4
  )


def test_the_figures_in_a_valley_equal_a_loop_in_float64():
  """The loop is an independent implementation of Algorithm 1."""
  valley = traction.Valley(steps_per_epoch=40)
  seeds, epochs, before, momenta = 2, 55, 50, (0.9, 0.95)
  hessian = np.array(
    [
      [valley.quick_curvature, valley.coupling],
      [valley.coupling, valley.slow_curvature],
    ]
  )

  def losses(minima, side=1):
    weights = side * np.array([valley.quick_start, valley.slow_start])
    velocity, momentum = np.zeros(2), momenta[0]
    found, frozen = [], []
    for of_epoch in minima.reshape(epochs, 40, 2):
      start, own, total = weights, [], 0.0
      for t, minimum in enumerate(of_epoch):
        away = weights - minimum
        own.append(away @ hessian @ away / 2)
        total += own[-1]
        velocity = momentum * velocity + hessian @ away
        weights = weights - valley.learning_rate * velocity
        momentum = momenta[0 if own[-1] <= total / (t + 1) else 1]
      found.append(own)
      rest = start - of_epoch
      frozen.append(np.einsum('ti,ij,tj->t', rest, hessian, rest) / 2)
    return np.array(found)[before:], np.array(frozen)[before:]

  def correlation(first, second):
    return stats.pearsonr(signal.detrend(first), signal.detrend(second))[0]

  def phases(of_epoch):
    return of_epoch <= np.cumsum(of_epoch) / np.arange(1, 41)

  _, minima = traction.walk(momenta, 0, seeds, epochs * 40, valley=valley)
  expected = {name: [] for name in batches._PREDICTED}
  for of_seed in minima.astype(np.float64):
    other = losses(of_seed, side=-1)[0]
    for own, still, second in zip(*losses(of_seed), other, strict=True):
      expected['same_correlation'].append(correlation(own, second))
      expected['same_agreement'].append(np.mean(phases(own) == phases(second)))
      expected['frozen_correlation'].append(correlation(own, still))
      expected['frozen_agreement'].append(np.mean(phases(own) == phases(still)))
      expected['autocorrelation'].append(correlation(own[:-1], own[1:]))
  found = batches._figures_in(valley, momenta, seeds)
  for name, values in expected.items():
    # In float32 a loss may fall on the other side of the mean.
    assert found[name] == pytest.approx(np.mean(values), abs=0.01), name


def test_the_range_is_that_of_the_learning_rates():
  """The slower the weights, the more they resemble frozen ones."""
  steps, momenta = 40, (0.9, 0.95)
  valley = traction.Valley(steps_per_epoch=steps)
  fast, slow = (
    batches._figures_in(valley._replace(learning_rate=rate), momenta, 3)
    for rate in (0.2, 0.03)
  )
  predicted = batches.predict(steps, momenta, seeds=3)
  for name in ('frozen_correlation', 'frozen_agreement'):
    assert predicted[name]['low'] == pytest.approx(fast[name], rel=1e-4)
    assert predicted[name]['high'] == pytest.approx(slow[name], rel=1e-4)
    assert predicted[name]['low'] < predicted[name]['high']
  # Two weights in one valley fall into step.
  assert predicted['same_agreement']['low'] > 0.99
  frozen = batches._figures_in(valley._replace(learning_rate=1e-6), momenta, 3)
  assert frozen['frozen_correlation'] == pytest.approx(1, abs=1e-3)


def test_the_reading_follows_from_the_figures(of_digits):
  record = copy.deepcopy(of_digits[0])
  for size, same in zip(record['sizes'], (0.8, 0.7), strict=True):
    size['all']['same_agreement']['values'] = [same - 0.05, same, same + 0.05]
    size['all']['chance_agreement']['values'] = [0.5, 0.5, 0.5]
    size['valleys']['frozen_correlation'] = {'low': 0.3, 'high': 0.7}
    for row in size['of_epochs']:
      row['frozen_correlation'] |= {'mean': 0.5}
  said = batches.sentences(record)[-1]
  # (0.8 - 0.5) / (1 - 0.5) and (0.7 - 0.5) / (1 - 0.5). The interval is that of
  # Student's t with 2 degrees of freedom: 4.303 * 0.1 / sqrt(3).
  assert '1: complete), is 0.60 ± 0.25 / 0.40 ± 0.25.' in said
  assert (
    'loss has 25 % (valleys: 9 to 49 %) / 25 % (valleys: 9 to 49 %)' in said
  )
  # Left out: nothing is beyond a chance of 1. Of 0.3 and 0.4: 12.706 * 0.1 / 2.
  record['sizes'][1]['all']['chance_agreement']['values'][2] = 1.0
  assert '/ 0.35 ± 0.64 (n = 2).' in batches.sentences(record)[-1]
  record['sizes'][1]['all']['chance_agreement']['values'] = [1.0, 1.0, 1.0]
  assert 'is unknown' in batches.sentences(record)[-1]


def test_the_overview_is_as_careful_as_its_least_figure(of_digits):
  def record(same, other, half_width):
    of = copy.deepcopy(of_digits[0])
    for size, own, rest in zip(of['sizes'], same, other, strict=True):
      means = {'same': own, 'other': rest, 'chance': 0.5}
      for name, mean in means.items():
        figure = size['all'][f'{name}_agreement']
        figure |= {'mean': mean, 'half_width': half_width}
      for row in size['of_epochs']:
        row['frozen_agreement']['mean'] = 0.66
      size['valleys']['same_agreement'] = {'low': 0.99, 'high': 1.0}
    return of

  high = record((0.8, 0.9), (0.5, 0.52), 0.1)
  low = record((0.7, 0.85), (0.47, 0.5), 0.12)
  follows = 'The phase follows the batches'
  shown = batches.overview([high]).split('\n\n')[0]
  assert shown.startswith(follows)
  assert (
    'a low or a high loss, in 80 to 90 % of the steps on the same batches, in'
    ' 50 to 52 % on different batches, and in 50 % by chance (n = 3 pairs, from'
    ' epoch 4 on)' in shown
  )
  assert 'agree, too (simulated: 99 to 100 %)' in shown
  assert 'that trains in 66 % of the steps at the full' in shown
  both = batches.overview([high, low]).split('\n\n')[0]
  assert 'in 70 to 90 % of the steps' in both and '47 to 52 %' in both
  # 0.70 - 0.12 is not above 0.47 + 0.12.
  assert follows not in both
  low['sizes'][0]['all']['chance_agreement']['mean'] = None
  assert 'is unknown' in batches.overview([high, low]).split('\n\n')[0]


def test_the_full_rate_is_that_of_all_steps_of_an_epoch(of_digits):
  record = copy.deepcopy(of_digits[0])
  size = record['sizes'][0]
  # The rate begins to fall within epoch 3.
  rates = [(0.1, 0.1), (0.1, 0.1), (0.1, 0.06), (0.05, 0.04)]
  for row, (first, last) in zip(size['of_epochs'], rates, strict=True):
    row |= {'learning_rate': first, 'last_learning_rate': last}
  assert batches._last_at_the_full_rate(size)['epoch'] == 2
  size['of_epochs'][2]['last_learning_rate'] = 0.1
  assert batches._last_at_the_full_rate(size)['epoch'] == 3
  one = {**size, 'of_epochs': size['of_epochs'][:1]}
  assert batches._last_at_the_full_rate(one)['epoch'] == 1


def test_the_study_prints_and_draws_its_results(of_digits, tmp_path):
  record, trained, _, shown = of_digits
  assert 'network 6/6' in shown
  said = ' '.join(batches.sentences(record))
  summary = batches.summary(record)
  assert 'for batches of 16 / 32, with 95 % intervals over the pairs' in summary
  assert 'n = 3.' in summary and 'In epoch 4, the losses' in said
  last = record['sizes'][0]['of_epochs'][-1]['same_agreement']
  assert last['values'] == [
    pytest.approx(
      np.mean(
        trained[2 * i][1].horizontal[-1] == trained[2 * i + 1][1].horizontal[-1]
      ),
      rel=1e-4,
    )
    for i in range(_REPEATS)
  ]
  study = studies.STUDIES['batches']
  study.write(record, tmp_path)
  assert read.study(tmp_path / 'batches.json', 'batches') is not None
  assert matplotlib.image.imread(tmp_path / 'batches.png').std() > 0.01


def test_a_report_compares_all_records_in_one_table(of_digits, tmp_path):
  large = copy.deepcopy(of_digits[0])
  large |= {'scale': 'medium', 'sizes': large['sizes'][:1]}
  values = [0.25, 0.5, 0.75]
  agreement = large['sizes'][0]['all']['same_agreement']
  agreement |= {'values': values, 'mean': 0.5, 'sd': 0.25}
  # Student's t with 2 degrees of freedom: 4.303 * 0.25 / sqrt(3).
  agreement['half_width'] = 0.621
  for name, record in {'small': of_digits[0], 'large': large}.items():
    studies.STUDIES['batches'].write(record, tmp_path / 'records' / name)
  text = report.write([tmp_path / 'records'], tmp_path / 'out')

  assert text.count('Does a phase say where the weights are') == 1
  table = [
    [cell.strip() for cell in line.split('|')[1:-1]]
    for line in text.splitlines()
    if line.startswith(('| data set', '| digits'))
  ]
  head, *rows = table
  # In the order of the records' paths.
  assert [row[0] for row in rows] == [
    'digits, medium, 16', 'digits, small, 16', 'digits, small, 32'
  ]  # fmt: skip
  first = head.index('losses correlate: same batches')
  agree = head.index('phases agree: same batches')
  assert rows[0][agree] == '50.0 ± 62.1 %'
  for row, size in zip(rows[1:], of_digits[0]['sizes'], strict=True):
    assert row[1:3] == ['3', '4']
    mean = np.mean(size['all']['same_correlation']['values'])
    assert float(row[first].split()[0]) == pytest.approx(mean, abs=0.006)
  assert text.index('| digits, small, 32') < text.index('### Phase or batch')


@pytest.mark.parametrize(
  ('flags', 'named'),
  [
    ('--repeats 2', ['--repeats', 'at least 3', '2']),
    ('--epochs 13', ['--epochs', 'at most 12', '13']),
    ('--batch-sizes 32 32', ['--batch-sizes', '32 32']),
    ('--batch-sizes 0', ['--batch-sizes', 'from 1 to 2147483647', 'got 0']),
    ('--batch-sizes 1' + '0' * 400, ['--batch-sizes', 'from 1', 'got 10000']),
    ('--dataset digits', ['--dataset', 'digits']),
  ],
)
def test_invalid_input(flags, named, capsys, tmp_path):
  code = command_line.main(
    ['batches', *flags.split(), '--out', str(tmp_path / 'out')]
  )
  assert code == 2
  message = capsys.readouterr().err
  assert len(message.splitlines()) == 1
  for part in named:
    assert part in message


def test_an_epoch_with_too_few_steps(monkeypatch):
  digits = data.load('digits', train_examples=300)
  monkeypatch.setattr(data, 'load', lambda *_, **__: digits)
  with pytest.raises(errors.UsageError, match='at least 10 steps'):
    batches.measure('cifar10')
