"""When a run is tested, `python -m train eval`, and exported weights."""

import dataclasses
import json

from flax import nnx
import jax
import numpy as np
import optax
import pytest

import models
from tests.train import damage
from tests.train import runs
from train import data
from train import errors
from train import evaluate
from train import experiments
from train import loop
from train import records
from train import report
from train.records import read

# All settings of evaluation.
_ALL = {
  'epochs': 5,
  'eval_every': 2,
  'validation_examples': 50,
  'label_smoothing': 0.1,
  'ema_decay': 0.9,
}
_FIGURES = ('test_loss', 'test_error', 'validation_loss', 'validation_error')


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  directory = tmp_path_factory.mktemp('runs') / 'plain'
  return directory, *runs.run(directory, model='wrn', epochs=2)


@pytest.fixture(scope='module')
def full(tmp_path_factory):
  directory = tmp_path_factory.mktemp('runs') / 'full'
  return directory, *runs.run(directory, pictures=True, **_ALL)


def test_epochs_without_a_test_have_no_test_metrics(full):
  directory, summary, shown = full
  rows = read.epochs(directory)
  for row in rows:
    tested = row['epoch'] in (2, 4, 5)
    assert [name in row for name in _FIGURES] == [tested] * 4
  assert summary['final_test_error'] == rows[-1]['test_error']
  tested = [row['test_error'] for row in rows if 'test_error' in row]
  assert summary['best_test_error'] == min(tested)
  assert '50 validation and 360 test images' in shown
  assert shown.count('test error') == 3 and shown.count('validation error') == 3


def test_a_report_of_such_a_run(full, tmp_path):
  directory, summary, _ = full
  assert 'left out' not in report.write([directory], tmp_path)
  assert (tmp_path / 'curves.png').exists()
  (arm,) = records.group_into_arms(records.find([directory]).runs)
  assert [*arm.final_errors().values()] == [summary['final_test_error']]
  assert [*arm.best_errors().values()] == [summary['best_test_error']]


def test_eval_every_does_not_affect_training(full, tmp_path):
  _, summary, _ = full
  often, _ = runs.run(tmp_path / 'often', **{**_ALL, 'eval_every': 1})
  assert often['params_sha256'] == summary['params_sha256']
  assert often['final_test_error'] == summary['final_test_error']


def test_a_run_with_eval_every_resumes(full, tmp_path, monkeypatch):
  directory, summary, _ = full

  class Stopped(Exception):
    pass

  def stop(*_):
    raise Stopped

  with monkeypatch.context() as patch:
    patch.setattr(loop.metrics.MetricsLog, 'close', stop)
    with pytest.raises(Stopped):
      runs.run(tmp_path / 'run', **_ALL)
  # The last epoch is trained again from the previous checkpoint.
  newest = tmp_path / 'run' / 'checkpoints' / '20'
  newest.rename(newest.with_name('20.1.removed'))
  again, _ = runs.run(tmp_path / 'run', **_ALL)
  assert again['params_sha256'] == summary['params_sha256']
  ours, theirs = read.epochs(tmp_path / 'run'), read.epochs(directory)
  for a, b in zip(ours, theirs, strict=True):
    assert a.keys() == b.keys()
    assert a.get('test_loss') == b.get('test_loss')


def test_the_epoch_of_the_reported_result_is_tested():
  experiment = experiments.get('small-figure4-cifar10-lcam')
  assert (experiment.reads_off, experiment.config.epochs) == (12, 15)
  tested = [
    epoch
    for epoch in range(1, 16)
    if experiments.is_tested(experiment, epoch, epochs=15, eval_every=10)
  ]
  assert tested == [10, 12, 15]


def test_a_done_run_without_its_last_test_is_damaged(full, tmp_path):
  directory, _, _ = full
  rows = (directory / 'metrics.jsonl').read_text().splitlines()
  last = json.loads(rows[-1])
  del last['test_error']
  for name in ('config.json', 'summary.json'):
    (tmp_path / name).write_bytes((directory / name).read_bytes())
  (tmp_path / 'metrics.jsonl').write_text(
    '\n'.join([*rows[:-1], json.dumps(last)]) + '\n'
  )
  with pytest.raises(errors.UsageError, match='test_error'):
    read.run(tmp_path)


def test_validation_images_are_in_no_other_split():
  whole = data.load('digits')
  split = data.load('digits', validation_examples=300, train_examples=1000)
  assert (len(split.train), len(split.validation)) == (1000, 300)
  rest = data.load('digits', validation_examples=300)
  assert sorted(
    x.tobytes() for part in (rest.train, rest.validation) for x in part.images
  ) == sorted(x.tobytes() for x in whole.train.images)
  again = data.load('digits', validation_examples=300)
  assert again.validation.images.tobytes() == rest.validation.images.tobytes()
  # They are drawn at random, so all classes occur.
  assert np.bincount(split.validation.labels).min() > 15
  with pytest.raises(errors.UsageError, match='less than the 1437'):
    data.load('digits', validation_examples=1437)
  with pytest.raises(errors.UsageError, match=r'at most 1137.*held out'):
    data.load('digits', validation_examples=300, train_examples=1138)


# ------------------------------------------------------------------------ eval


@pytest.mark.parametrize('which', ['plain', 'full'])
def test_eval_reproduces_the_recorded_results(which, request):
  directory, summary, _ = request.getfixturevalue(which)
  found = evaluate.evaluate(directory, devices=runs.one_device())
  last = read.epochs(directory)[-1]
  assert found.figures == {
    name: last[name] for name in _FIGURES if name in last
  }
  assert found.figures['test_error'] == summary['final_test_error']
  assert (found.epochs, found.steps) == (last['epoch'], last['step'])


def test_eval_rejects_directories_without_a_checkpoint(plain, tmp_path):
  with pytest.raises(errors.UsageError, match='no directory'):
    evaluate.evaluate(tmp_path / 'absent')
  with pytest.raises(errors.UsageError, match=r'config\.json'):
    evaluate.evaluate(tmp_path)
  directory, _, _ = plain
  (tmp_path / 'config.json').write_bytes(
    (directory / 'config.json').read_bytes()
  )
  with pytest.raises(errors.UsageError, match='no checkpoints'):
    evaluate.evaluate(tmp_path)
  assert not (tmp_path / 'checkpoints').exists()


def test_eval_of_a_damaged_checkpoint(tmp_path):
  runs.run(tmp_path / 'run', epochs=1)
  damage.truncate(tmp_path / 'run' / 'checkpoints' / '4')
  with pytest.raises(errors.UsageError, match='run is damaged'):
    evaluate.evaluate(tmp_path / 'run', devices=runs.one_device())


# --------------------------------------------------------------------- weights


@pytest.mark.parametrize('which', ['plain', 'full'])
def test_the_weights_of_a_run_give_its_test_error(which, request):
  directory, summary, _ = request.getfixturevalue(which)
  model, facts = models.load(directory / 'weights.safetensors')
  test = data.load('digits').test
  images = (test.images / 255 - np.asarray(facts['mean'])) / facts['std']
  logits = nnx.jit(lambda model, x: model(x))(model, images.astype(np.float32))
  wrong = np.argmax(logits, -1) != test.labels
  assert 100 * wrong.mean() == pytest.approx(summary['final_test_error'])
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, test.labels)
  last = read.epochs(directory)[-1]
  assert float(loss.mean()) == pytest.approx(last['test_loss'], rel=1e-4)
  assert facts['dataset'] == 'digits'


def test_weights_of_an_unknown_network_are_rejected(tmp_path):
  models.save(
    tmp_path / 'w.safetensors',
    {'kernel': np.zeros(3)},
    'vgg',
    image_shape=(8, 8, 1),
    num_classes=10,
    settings={},
  )
  with pytest.raises(ValueError, match='networks wrn, mlp, got vgg'):
    models.load(tmp_path / 'w.safetensors')


# ----------------------------------------------------- smoothing and averaging


def test_label_smoothing_equals_its_formula():
  from train.program import step

  logits = np.random.default_rng(0).normal(size=(6, 5))
  labels = np.arange(6) % 5
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  expected = -(0.8 * log_p[np.arange(6), labels] + 0.2 * log_p.mean(-1))
  ours = step._cross_entropy(logits.astype(np.float32), labels, 0.2)
  np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_the_ema_averages_the_weights_after_each_step(tmp_path):
  from train import config as config_lib
  from train.program import build

  digits = data.load('digits', train_examples=200)
  config = dataclasses.replace(runs.CONFIG, ema_decay=0.3)
  programs = [
    build.Program([config_lib.resolve(c, 4)], digits, devices=runs.one_device())
    for c in (config, runs.CONFIG)
  ]
  averaged, plain = (program.init() for program in programs)
  images, _ = programs[0].place()
  expected = None
  for number, (size, steps) in enumerate(programs[0].plan(), start=1):
    assert steps == 1
    averaged, plain = (
      program.train(state, images, program.epoch(1), size)[0]
      for program, state in zip(programs, (averaged, plain), strict=True)
    )
    now = jax.tree.map(np.float64, jax.device_get(plain.params))
    if expected is None:
      start = programs[1].fetch(programs[1].init())[0].params
      expected = jax.tree.map(lambda x: np.float64(x)[None], start)
    decay = min(0.3, (1 + number) / (10 + number))
    expected = jax.tree.map(
      lambda old, new: decay * old + (1 - decay) * new, expected, now
    )
  # Training itself is unchanged.
  for ours, theirs in zip(
    jax.tree.leaves(averaged.params), jax.tree.leaves(plain.params), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)
  assert plain.average is None
  for ours, theirs in zip(
    jax.tree.leaves(averaged.average[0]),
    jax.tree.leaves(expected),
    strict=True,
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
