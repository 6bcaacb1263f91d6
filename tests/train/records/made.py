"""Complete records of runs without training."""

import json

from train import config as config_lib

EPOCHS, STEPS = 4, 5
CONFIG = config_lib.Config(epochs=EPOCHS, model='mlp')


def row(epoch):
  """A row of metrics.jsonl."""
  return {
    'epoch': epoch,
    'step': STEPS * epoch,
    'train_loss': 1 / epoch,
    'train_error': 50 / epoch,
    'test_loss': 1.1 / epoch,
    'test_error': 60 / epoch,
    'learning_rate': 0.1,
    'horizontal_fraction': 0.6,
    'mean_momentum': 0.91,
    'images_per_second': 100.0,
    'seconds': 1.0,
  }


def steps_row(epoch):
  """A row of steps.jsonl."""
  return {
    'epoch': epoch,
    'loss': [0.5 / epoch] * STEPS,
    'momentum': [0.9] + [0.93] * (STEPS - 1),
    'horizontal': [0] + [1] * (STEPS - 1),
  }


def write_run(path, *, status='done', experiment=None, sha256=None, **settings):
  """Writes a run directory without checkpoints.

  Args:
    path: The directory, which is created.
    status: The status in the summary.
    experiment: The name of the experiment.
    sha256: The hash of the parameters. Default: derived from the seed.
    **settings: Settings that are not the default.
  """
  path.mkdir(parents=True)
  config = config_lib.resolve(
    config_lib.Config(**{**vars(CONFIG), **settings}), STEPS
  )
  content = {
    'experiment': experiment,
    'compute_dtype': 'float32',
    **config_lib.to_json(config),
    'versions': {'jax': '1'},
    'device_kind': 'cpu',
    'device_count': 1,
  }
  write_json(path / 'config.json', content)
  for name, make in (('metrics.jsonl', row), ('steps.jsonl', steps_row)):
    rows = map(make, range(1, config.epochs + 1))
    (path / name).write_text(''.join(f'{json.dumps(row)}\n' for row in rows))
  error = row(config.epochs)['test_error']
  summary = {
    'status': status,
    'final_test_error': error,
    'best_test_error': error,
    'final_train_loss': 0.25,
    'epochs': config.epochs,
    'steps': config.epochs * STEPS,
    'params_sha256': sha256 or f'{config.seed:064}',
    'runs_together': 1,
    'seconds': 9.0,
  }
  if status == 'incomplete':
    summary = {'status': status}
  write_json(path / 'summary.json', summary)


def write_json(path, content):
  path.write_text(json.dumps(content, indent=2))


def change(path, **fields):
  """Changes fields of a JSON file."""
  write_json(path, {**json.loads(path.read_text()), **fields})
