"""Each run is found once, and contradictory runs are left out."""

import json
import os
import shutil

import pytest

from tests.train.records import made
from train import errors
from train import records
from train import report


def _paths(found):
  return [run.path.name for run in found.runs]


def test_a_run_under_several_paths_counts_once(tmp_path):
  made.write_run(tmp_path / 'a')
  shutil.copytree(tmp_path / 'a', tmp_path / 'copy')
  (tmp_path / 'link').symlink_to(tmp_path / 'a')
  (tmp_path / 'a' / 'around').symlink_to(tmp_path)
  found = records.find([tmp_path, tmp_path / 'a', tmp_path / 'copy'])
  assert _paths(found) == ['a']
  assert found.left_out == []
  assert 'duplicate' in found.notes[0]
  text = report.write([tmp_path], tmp_path / 'out')
  assert 'duplicate' in text
  assert '| digits-lcam | 1 |' in text.replace('  ', '')


def test_interim_runs_are_read_only_if_they_are_named(tmp_path):
  made.write_run(tmp_path / 'a')
  made.write_run(tmp_path / 'interim' / 'b', seed=1)
  assert _paths(records.find([tmp_path])) == ['a']
  assert _paths(records.find([tmp_path / 'interim'])) == ['b']
  assert len(records.find([tmp_path, tmp_path / 'interim']).runs) == 2


def test_other_times_and_paths_are_no_other_results(tmp_path):
  for name in ('a', 'b'):
    made.write_run(tmp_path / name)
  made.change(tmp_path / 'b' / 'config.json', data_dir='/elsewhere')
  made.change(tmp_path / 'b' / 'summary.json', seconds=1.0)
  assert _paths(records.find([tmp_path])) == ['a']


def test_contradictory_results_do_not_count(tmp_path):
  made.write_run(tmp_path / 'a')
  made.write_run(tmp_path / 'b', sha256='another')
  made.write_run(tmp_path / 'c', seed=1)
  found = records.find([tmp_path])
  assert _paths(found) == ['c']
  (sentence,) = found.left_out
  for path in (tmp_path / 'a', tmp_path / 'b'):
    assert str(path) in sentence
  assert 'different results' in sentence


@pytest.mark.parametrize(
  'settings',
  [
    *({seed: 7} for seed in ('init_seed', 'order_seed', 'augmentation_seed')),
    *({seed: 7} for seed in ('dropout_seed', 'coin_seed', 'seed')),
    {'batch_size': 64},
    {'experiment': 'other'},
  ],
)
def test_settings_and_seeds_make_another_run(settings, tmp_path):
  made.write_run(tmp_path / 'a')
  made.write_run(tmp_path / 'b', sha256='another', **settings)
  found = records.find([tmp_path])
  assert _paths(found) == ['a', 'b']
  assert found.left_out == found.notes == []
  if [name for name in settings if 'seed' in name]:
    (arm,) = records.group_into_arms(found.runs)
    assert len(arm.final_errors()) == 2


def test_another_compute_dtype_makes_another_arm(tmp_path):
  for name in ('float32', 'bfloat16'):
    made.write_run(tmp_path / name, sha256=name)
    made.change(tmp_path / name / 'config.json', compute_dtype=name)
  arms = records.group_into_arms(records.find([tmp_path]).runs)
  assert len(arms) == 2
  assert 'compute_dtype=bfloat16' in arms[0].name


def test_a_backup_of_a_run_that_was_resumed(tmp_path):
  made.write_run(tmp_path / 'backup', status='incomplete')
  made.write_run(tmp_path / 'run')
  assert _paths(records.find([tmp_path])) == ['run']


def test_a_run_killed_before_its_first_summary_is_incomplete(tmp_path):
  made.write_run(tmp_path / 'run')
  (tmp_path / 'run' / 'summary.json').unlink()
  for name in ('metrics.jsonl', 'steps.jsonl'):
    (tmp_path / 'run' / name).write_text('')
  (run,) = records.find([tmp_path]).runs
  assert run.summary == {'status': 'incomplete'}


def test_missing_settings_have_the_values_of_earlier_versions(tmp_path):
  for name in ('a', 'b'):
    made.write_run(tmp_path / name, model='wrn')
  path = tmp_path / 'b' / 'config.json'
  content = json.loads(path.read_text())
  for name in ('model', 'hidden_layers', 'hidden_size', 'remat'):
    del content[name]
  made.write_json(path, content)
  assert _paths(records.find([tmp_path])) == ['a']


@pytest.mark.parametrize(
  ('file', 'field', 'value'),
  [
    ('config.json', 'optimizer', 'magic'),
    ('config.json', 'milestones', [1, 'two']),
    ('config.json', 'depth', 11),
    ('config.json', 'experiment', 3),
    ('config.json', 'versions', {'jax': 1}),
    ('config.json', 'device_count', 0),
    ('config.json', 'cpu_threads', 0),
    ('summary.json', 'status', 'fine'),
    ('summary.json', 'params_sha256', None),
    ('summary.json', 'final_test_error', 15.5),
    ('summary.json', 'best_test_error', 14.5),
    ('summary.json', 'epochs', 3),
    ('config.json', 'epochs', 5),
  ],
)
def test_invalid_values_are_rejected(file, field, value, tmp_path):
  made.write_run(tmp_path / 'run')
  made.change(tmp_path / 'run' / file, **{field: value})
  with pytest.raises(errors.UsageError, match=field) as refused:
    records.find([tmp_path])
  assert str(tmp_path / 'run') in str(refused.value)


def test_integers_are_read_as_floats(tmp_path):
  made.write_run(tmp_path / 'run', decay_start=1.0)
  made.change(tmp_path / 'run' / 'config.json', decay_start=1)
  (run,) = records.find([tmp_path]).runs
  assert repr(run.config['decay_start']) == '1.0'


def test_a_folder_without_read_permission(tmp_path, monkeypatch):
  made.write_run(tmp_path / 'run')
  (tmp_path / 'secret').mkdir()
  scandir = os.scandir

  def refuse(path):
    # The effect of the mode of a folder on users other than root.
    if str(path).endswith('secret'):
      raise PermissionError(13, 'Permission denied', str(path))
    return scandir(path)

  monkeypatch.setattr(os, 'scandir', refuse)
  found = records.find([tmp_path])
  assert _paths(found) == ['run']
  assert found.left_out == [
    f'{tmp_path / "secret"} cannot be read: Permission denied.'
  ]
