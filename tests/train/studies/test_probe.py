"""A probe agrees with single runs, and its answers with their formulas."""

import dataclasses
import io
import json

import jax
import matplotlib.image
import numpy as np
import pytest
import rich.console
from scipy import stats
from statsmodels.stats import multitest

from tests.train import runs
from train import config as config_lib
from train import data
from train import errors
from train import sources
from train import studies
from train.data import dataset as dataset_lib
from train.records import read
from train.studies import probe

_EPOCHS = 3
_TRAIN = 128  # four batches of 32
_VALIDATION = 100


class _Unreadable:
  """A split that raises on any access."""

  def __getattr__(self, name):
    raise AssertionError(f'The {name} of the test set were read.')

  def __len__(self):
    raise AssertionError('The test set was counted.')


_DIGITS = data.load('digits')


def _digits():
  return dataclasses.replace(_DIGITS, test=_Unreadable())


def _probe(dataset='digits', **settings):
  console = rich.console.Console(file=io.StringIO())
  record = probe.measure(dataset, console=console, **settings)
  return record, console.file.getvalue()


def _with_mlp(train):
  """Uses an MLP, because these tests do not depend on the network."""

  def of_mlp(configs, *arguments):
    configs = [dataclasses.replace(c, model='mlp') for c in configs]
    return train(configs, *arguments)

  return of_mlp


@pytest.fixture(scope='module')
def finished():
  whole = _digits()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(data, 'load', lambda *_: whole)
    patch.setattr(probe, '_train', _with_mlp(probe._train))
    return _probe(
      seeds=2,
      epochs=_EPOCHS,
      train_examples=_TRAIN,
      validation_examples=_VALIDATION,
    )


def _by_hand():
  """The images of the probe as a data set, without the code of the probe.

  Returns:
    The first training images, with the next ones as the test split.
  """
  whole = _digits()
  until = _TRAIN + _VALIDATION
  images, labels = whole.train.images, whole.train.labels
  return dataclasses.replace(
    whole,
    train=data.Split(images[:_TRAIN], labels[:_TRAIN]),
    test=data.Split(images[_TRAIN:until], labels[_TRAIN:until]),
  )


# The settings of the vertical pair of a probe.
_VERTICAL = config_lib.Config(
  model='mlp',
  horizontal_momentum=0.9,
  vertical_momentum=0.95,
  epochs=_EPOCHS,
  batch_size=32,
  eval_batch_size=250,
  train_examples=_TRAIN,
  image_size=8,
)


# ------------------------------------------------------------------- training


def test_a_member_equals_the_single_run_with_its_momenta_and_seed(
  finished, tmp_path, monkeypatch
):
  monkeypatch.setattr(data, 'of_run', lambda *_: _by_hand())
  summary, _ = runs.run(tmp_path / 'run', _VERTICAL, seed=1)
  rows = read.epochs(tmp_path / 'run')
  record, _ = finished
  (arm,) = (arm for arm in record['pairs'] if arm['role'] == 'vertical')
  # The program is the same, so the results are bit-identical.
  assert arm['errors'][1] == summary['final_test_error']
  assert arm['train_losses'][1] == rows[-1]['train_loss']
  assert arm['horizontal_fractions'][1] == np.mean(
    [row['horizontal_fraction'] for row in rows]
  )


def test_members_trained_together_agree_with_separate_ones(finished):
  members = [
    config_lib.resolve(dataclasses.replace(_VERTICAL, **settings), 4)
    for settings in ({'seed': 0}, {'seed': 1}, {'learning_rate': 1e30})
  ]
  measured = probe._train(members, _by_hand(), lambda _: None, together=3)
  (arm,) = (arm for arm in finished[0]['pairs'] if arm['role'] == 'vertical')
  np.testing.assert_allclose(measured.losses[:2], arm['train_losses'], 1e-4)
  np.testing.assert_array_equal(
    measured.fractions[:2], arm['horizontal_fractions']
  )
  # Rounding may change the class of an image near a decision boundary.
  np.testing.assert_allclose(
    measured.errors[:2], arm['errors'], atol=100 / _VALIDATION + 1e-9
  )
  # A non-finite member has no error.
  assert np.isnan(measured.errors[2])


def test_momenta_and_seeds_change_the_result(finished):
  losses = [
    loss for arm in finished[0]['pairs'] for loss in arm['train_losses']
  ]
  assert len(set(losses)) == 4 * 2


def test_held_out_images_follow_the_training_images():
  count, size = 30, 8
  # The gray value of each image is its number.
  images = np.broadcast_to(
    np.arange(count, dtype=np.uint8)[:, None, None, None],
    (count, size, size, 1),
  )
  whole = dataset_lib.Dataset(
    name='digits',
    num_classes=count,
    train=data.Split(images, np.arange(count, dtype=np.int32)),
    test=_Unreadable(),
    crop_padding=1,
    flip=False,
  )
  held_out = probe._hold_out(whole, sources.ProbeSize(20, 7, 4, 1))
  for split, expected in (
    (held_out.train, range(20)),
    (held_out.test, range(20, 27)),
  ):
    assert split.images.shape[1:] == (4, 4, 1)
    np.testing.assert_array_equal(split.images[:, 0, 0, 0], expected)
    np.testing.assert_array_equal(split.labels, expected)


# --------------------------------------------------------------------- record


def test_the_record_is_json_and_complete(finished):
  record, shown = finished
  assert json.loads(json.dumps(record, allow_nan=False)) == record
  assert record['answer'] in ('vertical', 'horizontal', 'neutral', 'undecided')
  assert record['sentence'].startswith(record['answer'])
  momenta = [
    (arm['horizontal_momentum'], arm['vertical_momentum'])
    for arm in record['pairs']
  ]
  assert momenta == [(0.9, 0.9), (0.95, 0.95), (0.95, 0.9), (0.9, 0.95)]
  for arm in record['pairs']:
    # Whole numbers, because there are 100 images.
    assert all(error in range(101) for error in arm['errors'])
    assert arm['error']['mean'] == np.mean(arm['errors'])
    # The first of the twelve steps follows no loss.
    assert 0 < arm['horizontal_fraction'] <= 11 / 12
  assert record['settings']['train_examples'] == _TRAIN
  assert record['settings']['schedule'] == 'exponential'
  assert record['device_kind'] == jax.devices()[0].device_kind
  assert record['versions']['jax'] == jax.__version__
  assert f'epoch {_EPOCHS}/{_EPOCHS}' in shown
  assert '128 training and 100 validation images' in shown


def test_the_figure_can_be_drawn_from_the_file(finished, tmp_path):
  record, _ = finished
  studies.STUDIES['probe'].write(record, tmp_path / 'out')
  saved = json.loads((tmp_path / 'out' / 'probe.json').read_text())
  assert saved == record
  probe.draw(saved, tmp_path / 'again.png')
  first, again = (
    matplotlib.image.imread(path)
    for path in (tmp_path / 'out' / 'probe.png', tmp_path / 'again.png')
  )
  np.testing.assert_array_equal(first, again)
  assert (first[..., :3].min(-1) < 0.5).mean() > 0.005


def test_a_folder_that_cannot_be_written(finished, tmp_path):
  (tmp_path / 'out').write_text('in the way')
  with pytest.raises(errors.UsageError, match='cannot be written'):
    studies.STUDIES['probe'].write(finished[0], tmp_path / 'out')


# --------------------------------------------------------------------- answer

_SEEDS = 4
_FIXED = [40.1, 42.9, 46.2, 48.8]


def _arms(horizontal, vertical, fast=0.95):
  nothing = np.full(_SEEDS, 0.5)
  return [
    probe._arm(pair, np.asarray(values), nothing, nothing)
    for pair, values in (
      (probe.Pair(0.9, 0.9), _FIXED),
      (probe.Pair(fast, 0.9), horizontal),
      (probe.Pair(0.9, fast), vertical),
    )
  ]


# About 2 points apart, with less spread of the differences than of the seeds.
_LOW = [30.0, 33.0, 36.0, 39.0]
_HIGH = [32.1, 34.8, 38.2, 40.9]


@pytest.mark.parametrize(
  ('horizontal', 'vertical', 'answer', 'said'),
  [
    (_HIGH, _LOW, 'vertical', 'accelerating the vertical phase gives'),
    (_LOW, _HIGH, 'horizontal', 'accelerating the horizontal phase gives'),
    (_LOW, [30.2, 32.9, 35.9, 39.1], 'neutral', 'the same validation error'),
    (_LOW, [31.0, 32.5, 36.5, 38.0], 'undecided', 'neither a difference'),
  ],
)
def test_answers(horizontal, vertical, answer, said):
  given = probe.judge({'pairs': _arms(horizontal, vertical)})
  assert given['answer'] == answer
  assert given['sentence'].startswith(answer)
  assert said in given['sentence']
  # Residuals of rows and columns have 2 x 3 degrees of freedom.
  errors_ = np.array([_FIXED, horizontal, vertical])
  residual = errors_ - errors_.mean(1, keepdims=True) - errors_.mean(0)
  residual += errors_.mean()
  error = np.sqrt((residual**2).sum() / 6 * 2 / _SEEDS)
  mean = np.mean(np.subtract(horizontal, vertical))
  difference = given['difference']
  np.testing.assert_allclose(difference['mean'], mean)
  np.testing.assert_allclose(
    [difference['low'], difference['high']],
    mean + np.array([-1, 1]) * stats.t.isf(0.025, 6) * error,
  )
  np.testing.assert_allclose(
    difference['p_value'], 2 * stats.t.sf(abs(mean) / error, 6)
  )
  np.testing.assert_allclose(difference['margin'], 0.02 * np.mean(vertical))
  detectable = difference['could_have_found']
  assert (f'{detectable:.2f} points' in given['sentence']) == (
    answer == 'undecided'
  )


_FAST = [41.0, 43.5, 47.6, 49.5]


def _four_arms(horizontal, vertical, share_horizontal=0.6, share_vertical=0.5):
  nothing = np.full(_SEEDS, 0.5)
  return [
    probe._arm(
      pair, np.asarray(values), nothing, np.full(_SEEDS, share, np.float64)
    )
    for pair, values, share in (
      (probe.Pair(0.9, 0.9), _FIXED, 0.5),
      (probe.Pair(0.95, 0.95), _FAST, 0.5),
      (probe.Pair(0.95, 0.9), horizontal, share_horizontal),
      (probe.Pair(0.9, 0.95), vertical, share_vertical),
    )
  ]


def test_the_effect_of_the_mean_momentum_is_removed():
  given = probe.judge({'pairs': _four_arms(_HIGH, _LOW)})
  # The mean momenta are 0.93 and 0.925, so a line between the fixed momenta
  # accounts for a tenth of their difference.
  raw = np.mean(np.subtract(_HIGH, _LOW))
  expected = raw - 0.1 * np.mean(np.subtract(_FAST, _FIXED))
  beyond = given['beyond_momentum']
  np.testing.assert_allclose(beyond['mean'], expected)
  assert beyond['low'] < expected < beyond['high']
  assert f'{expected:+.2f} points' in given['sentence']
  # No difference remains if the mean momentum explains all of it.
  slope = np.subtract(_FAST, _FIXED)
  explained = np.add(_LOW, slope)
  given = probe.judge({'pairs': _four_arms(explained, _LOW, 1.0, 1.0)})
  np.testing.assert_allclose(given['beyond_momentum']['mean'], 0, atol=1e-9)
  assert given['beyond_momentum']['verdict'] == 'equivalent'


def test_the_answer_says_if_the_winner_does_not_beat_the_fixed_momentum():
  given = probe.judge({'pairs': _four_arms(np.add(_FIXED, 2), _FIXED)})
  assert given['answer'] == 'vertical'
  np.testing.assert_allclose(given['over_fixed']['mean'], 0, atol=1e-9)
  assert 'beats only the other phase, not the fixed' in given['sentence']
  given = probe.judge({'pairs': _four_arms(_HIGH, _LOW)})
  assert given['over_fixed']['verdict'] == 'better'
  assert 'only the other' not in given['sentence']


@pytest.fixture(scope='module')
def family():
  """Three probes that have an answer, and one that has none."""
  missing = [np.nan] * _SEEDS
  return [
    {
      'dataset': name,
      'pairs': _four_arms(horizontal, _LOW),
      'seeds': list(range(_SEEDS)),
    }
    for name, horizontal in (
      ('cifar10', _HIGH),
      ('digits', [30.2, 34.6, 35.6, 40.0]),
      ('cifar100', [30.4, 34.6, 36.2, 40.4]),
      ('svhn_cropped', missing),
    )
  ]


def _beside(records):
  """Each record, and the others."""
  for i, record in enumerate(records):
    yield record, records[:i] + records[i + 1 :]


def test_probes_of_a_report_are_a_family(family):
  answered = family[:-1]
  alone = [probe.judge(record)['difference'] for record in answered]
  _, holm, _, _ = multitest.multipletests(
    [difference['p_value'] for difference in alone], method='holm'
  )
  given = [probe.judge(record, beside) for record, beside in _beside(family)]
  for record, answer, p in zip(answered, given, holm, strict=False):
    errors_ = np.array([arm['errors'] for arm in record['pairs']])
    residual = errors_ - errors_.mean(1, keepdims=True) - errors_.mean(0)
    residual += errors_.mean()
    # Four arms and four seeds have 3 x 3 degrees of freedom.
    error = np.sqrt((residual**2).sum() / 9 * 2 / _SEEDS)
    half_width = stats.t.isf(0.05 / 3 / 2, 9) * error
    mean = np.mean(errors_[2] - errors_[3])
    difference = answer['difference']
    np.testing.assert_allclose(
      [difference[name] for name in ('mean', 'low', 'high', 'p_value')],
      [mean, mean - half_width, mean + half_width, p],
    )
    assert (
      f'simultaneous 95 % interval {mean - half_width:+.2f} to'
      f" {mean + half_width:+.2f}, Holm's p = {p:.2g}, in the family of 3"
      ' probes)'
    ) in answer['sentence']
    assert answer['sentence'].startswith(answer['answer'])
  assert given[-1]['sentence'].startswith('undecided: fewer than two')
  # The family changes an answer.
  assert probe.judge(family[2])['answer'] == 'vertical'
  assert given[2]['answer'] == 'undecided'


def test_a_probe_alone_is_no_family(family):
  *_, unanswered = family
  alone = probe.judge(family[2])
  assert 'family' not in alone['sentence']
  assert probe.judge(family[2], [unanswered]) == alone


def test_the_figure_shows_the_answer_in_the_family(
  family, tmp_path, monkeypatch
):
  drawn = []
  monkeypatch.setattr(
    probe.pictures, 'save', lambda figure, path: drawn.append(figure)
  )
  for record, beside in _beside(family):
    probe.draw(record, tmp_path / 'probe.png', beside)
  probe.draw(family[2], tmp_path / 'probe.png')
  titles = [figure.get_suptitle() for figure in drawn]
  assert titles[0] == 'cifar10: vertical in the family of 3 probes, 4 seeds'
  assert titles[2] == 'cifar100: undecided in the family of 3 probes, 4 seeds'
  assert titles[3:] == [
    'svhn_cropped: undecided, 4 seeds',
    'cifar100: vertical, 4 seeds',
  ]
  for figure, beside in ((drawn[2], family[:2]), (drawn[4], [])):
    difference = probe.judge(family[2], beside)['difference']
    # The right panel has one mean with an interval.
    (container,) = figure.axes[1].containers
    (interval,) = container.lines[2][0].get_segments()
    np.testing.assert_allclose(
      interval[:, 1], [difference['low'], difference['high']]
    )
    (footer,) = (text.get_text() for text in figure.texts[1:])
    assert ('simultaneous' in footer) == bool(beside)


def test_several_accelerated_momenta_are_averaged_per_seed():
  arms = _arms(_HIGH, _LOW) + _arms(_LOW, _LOW, fast=0.93)
  difference = probe.judge({'pairs': arms})['difference']
  np.testing.assert_allclose(
    list(difference['by_seed'].values()), np.subtract(_HIGH, _LOW) / 2
  )


def test_pairs_of_several_accelerated_momenta_mirror_each_other():
  pairs = probe._pairs([0.95, 0.93])
  assert len(set(pairs)) == 7
  assert {(p.vertical, p.horizontal) for p in pairs} == set(pairs)


def test_a_diverged_seed_is_left_out(tmp_path):
  horizontal = [*_HIGH[:3], np.nan]
  arms = _arms(horizontal, _LOW)
  given = probe.judge({'pairs': arms})
  assert given['difference']['n'] == 3
  assert '1 of 4 seeds diverged' in given['sentence']
  assert arms[1]['errors'][3] is None
  assert arms[1]['error']['mean'] == np.mean(_HIGH[:3])


def test_without_two_seeds_there_is_no_answer(tmp_path):
  arms = _arms([_HIGH[0], np.nan, np.nan, np.nan], [np.nan] * 4)
  given = probe.judge({'pairs': arms})
  assert given['answer'] == 'undecided' and given['difference'] is None
  assert given['sentence'].startswith('undecided: fewer than two of 4 seeds')
  record = {
    'dataset': 'digits',
    'seeds': list(range(_SEEDS)),
    'pairs': arms,
    **given,
  }
  studies.STUDIES['probe'].write(record, tmp_path)
  assert json.loads((tmp_path / 'probe.json').read_text()) == record


# -------------------------------------------------------------- invalid input


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'seeds': 1}, '--seeds must be at least 2'),
    ({'epochs': 0}, '--epochs must be at least 1'),
    ({'train_examples': 0}, '--train-examples must be at least 1'),
    ({'validation_examples': 0}, '--validation-examples must be at least 1'),
    (
      {'train_examples': 1400, 'validation_examples': 38},
      '--train-examples and --validation-examples must be at most 1437',
    ),
    ({'image_size': 3}, '--image-size must divide 8'),
    ({'accelerated': ()}, '--accelerated must be at least one'),
    ({'accelerated': (0.9,)}, '--accelerated must be above 0.9'),
    ({'accelerated': (1.0,)}, '--accelerated must be above 0.9 and below 1'),
    ({'accelerated': (0.95, 0.95)}, '--accelerated must be distinct momenta'),
    ({'schedule': 'cosin'}, "--schedule .* Did you mean 'cosine'"),
    ({'dataset': 'cifar1O'}, "--dataset .* Did you mean 'cifar10'"),
  ],
)
def test_invalid_input(monkeypatch, settings, message):
  monkeypatch.delattr(probe, '_train')
  with pytest.raises(errors.UsageError, match=message):
    _probe(**settings)
