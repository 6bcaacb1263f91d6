"""Checkpoints are restored bit for bit, for any number of devices."""

import errno
import os
import pathlib
import pwd
import resource
import shutil

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np
import pytest

from tests.train import damage
from train import errors
from train.program.step import StepMetrics
from train.program.step import TrainState
from train.records import checkpoint

# Errors in threads of Orbax or TensorStore are errors of the test.
pytestmark = pytest.mark.filterwarnings(
  'error::pytest.PytestUnraisableExceptionWarning'
)


def _state(devices, scale=1.0, step=None):
  mesh = jax.make_mesh(
    (devices,),
    ('batch',),
    axis_types=(AxisType.Auto,),
    devices=jax.devices()[:devices],
  )
  random = np.random.default_rng(0)
  state = TrainState(
    step=np.int32(scale if step is None else step),
    params={'kernel': scale * random.normal(size=(3, 4)).astype(np.float32)},
    batch_stats={'mean': np.full(4, scale, np.float32)},
    opt_state=(
      (),
      {'trace': np.asarray(scale * random.normal(size=5), jnp.bfloat16)},
    ),
  )
  return jax.device_put(state, NamedSharding(mesh, PartitionSpec()))


def _measured(steps):
  return StepMetrics(
    loss=np.linspace(1, 2, steps, dtype=np.float32),
    correct=np.arange(steps, dtype=np.int32),
    momentum=np.full(steps, 0.9, np.float32),
    horizontal=np.full(steps, np.nan, np.float32),
  )


def _assert_equal(first, second):
  assert jax.tree.structure(first) == jax.tree.structure(second)
  for ours, theirs in zip(
    jax.tree.leaves(first), jax.tree.leaves(second), strict=True
  ):
    assert ours.dtype == theirs.dtype
    assert isinstance(ours, np.ndarray)
    assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def test_a_new_directory_has_no_checkpoints(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path / 'c', 4)
  assert checkpoints.steps() == set()
  checkpoints.close()


def test_the_two_newest_checkpoints_are_kept(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path / 'c', 4)
  for step in (1, 2, 5):
    checkpoints.save(step, _state(1, scale=step), [_measured(step % 4)])
  checkpoints.close()
  kept = {path.name for path in (tmp_path / 'c').iterdir()}
  assert kept == {'2', '5'}
  again = checkpoint.Checkpoints(tmp_path / 'c', 4)
  assert again.steps() == {2, 5}
  restored, measured = again.restore(5, _state(1))
  again.close()
  _assert_equal(restored, _state(1, scale=5))
  # The fifth step is the first of its epoch of four.
  for ours, theirs in zip(measured, _measured(1), strict=True):
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == theirs.dtype


def test_a_checkpoint_of_eight_devices_is_restored_on_any_number(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path / 'c', 4)
  checkpoints.save(3, _state(8, step=3), [_measured(3)])
  checkpoints.close()
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _state(1, scale=0.0)
  )
  for like in (shapes, _state(1, scale=0.0), _state(8, scale=0.0)):
    again = checkpoint.Checkpoints(tmp_path / 'c', 4)
    restored, _ = again.restore(3, like)
    again.close()
    _assert_equal(restored, _state(8, step=3))


def _halve(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip_a_bit(path):
  content = bytearray(path.read_bytes())
  random = np.random.default_rng(len(content))
  content[random.integers(len(content))] ^= 1 << random.integers(8)
  path.write_bytes(content)


@pytest.mark.parametrize(
  'harm', [pathlib.Path.unlink, _halve, _flip_a_bit, pathlib.Path.touch]
)
def test_with_any_damaged_file_the_restored_state_is_a_saved_one(
  harm, tmp_path
):
  """Some files do not affect the restored state."""
  whole = tmp_path / 'whole'
  checkpoints = checkpoint.Checkpoints(whole, 4)
  for step in (1, 2):
    checkpoints.save(step, _state(1, scale=step), [_measured(step)])
  checkpoints.close()
  files = [path for path in (whole / '2').rglob('*') if path.is_file()]
  assert len(files) > 5
  found = []
  for i, path in enumerate(files):
    damaged = tmp_path / str(i)
    shutil.copytree(whole, damaged)
    harm(damaged / path.relative_to(whole))
    said = []
    again = checkpoint.Checkpoints(damaged, 4)
    step, restored = checkpoint.restore_newest(
      [again], _state(1, scale=0.0), said.append
    )
    again.close()
    _assert_equal(restored[0][0], _state(1, scale=step))
    if step == 1:
      found.append(path)
      assert f'{damaged / "2"} is damaged' in said[0]
    else:
      assert said == []
  assert bool(found) == (harm is not pathlib.Path.touch)


# --------------------------------------------- unreadable and unrelated files


def _save(directory, *steps):
  checkpoints = checkpoint.Checkpoints(directory, 4)
  for step in steps:
    checkpoints.save(step, _state(1, scale=step), [_measured(step % 4)])
  checkpoints.close()


def _restore(directory):
  """The restored step, its state and the messages."""
  said = []
  checkpoints = checkpoint.Checkpoints(directory, 4)
  try:
    step, restored = checkpoint.restore_newest(
      [checkpoints], _state(1, scale=0.0), said.append
    )
  finally:
    checkpoints.close()
  return step, restored, said


def _names(directory):
  return {path.name for path in directory.iterdir()}


def _content(directory):
  return {
    path.relative_to(directory): path.read_bytes()
    for path in directory.rglob('*')
    if path.is_file()
  }


@pytest.mark.parametrize(
  'code', [errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOMEM]
)
def test_a_checkpoint_that_cannot_be_read_now_is_kept_and_ends_the_run(
  code, tmp_path, monkeypatch
):
  _save(tmp_path / 'c', 1, 2)
  before = _content(tmp_path)
  opened = pathlib.Path.open

  def fail(path, *arguments, **options):
    if path.parent.name == 'd':
      raise OSError(code, os.strerror(code))
    return opened(path, *arguments, **options)

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, 'open', fail)
    with pytest.raises(errors.RunError, match=os.strerror(code)):
      _restore(tmp_path / 'c')
  assert _content(tmp_path) == before
  assert _restore(tmp_path / 'c')[0] == 2


def test_a_folder_without_permissions_is_kept_and_ends_the_run(
  tmp_path, monkeypatch
):
  """Like a folder of mode 0: only its name can be read."""
  _save(tmp_path / 'c', 1, 2)
  before = _content(tmp_path)
  inside = str(tmp_path / 'c' / '2') + os.sep
  stat = os.stat

  def fail(path, *arguments, **options):
    if str(path).startswith(inside):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return stat(path, *arguments, **options)

  with monkeypatch.context() as patch:
    patch.setattr(os, 'stat', fail)
    with pytest.raises(errors.RunError, match='Permission denied'):
      _restore(tmp_path / 'c')
  assert _content(tmp_path) == before


def test_too_many_open_files_for_orbax(tmp_path):
  """The program can still open enough files to see the checkpoint."""
  _save(tmp_path / 'c', 1, 2)
  before = _content(tmp_path)
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  files = []
  try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    checkpoints = checkpoint.Checkpoints(tmp_path / 'c', 4)
    while True:
      try:
        files.append(open(os.devnull))  # noqa: SIM115
      except OSError:
        break
    # Enough for a folder and a file in it.
    for file in files[:3]:
      file.close()
    with pytest.raises(errors.RunError, match='Too many open files'):
      checkpoint.restore_newest([checkpoints], _state(1), lambda _: None)
  finally:
    for file in files:
      file.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
  assert _content(tmp_path) == before
  assert _restore(tmp_path / 'c')[0] == 2


def test_a_folder_of_another_user(tmp_path, monkeypatch):
  _save(tmp_path / 'c', 1, 2)
  scanned = os.scandir

  def scandir(path):
    if os.fspath(path) == str(tmp_path / 'c' / '2'):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return scanned(path)

  with monkeypatch.context() as patch:
    patch.setattr(os, 'scandir', scandir)
    with pytest.raises(errors.RunError, match='denied'):
      _restore(tmp_path / 'c')
  assert _names(tmp_path / 'c') == {'1', '2'}


def test_a_user_without_a_name(tmp_path, monkeypatch):
  def nobody(_):
    raise KeyError('uid not found')

  monkeypatch.setattr(pwd, 'getpwuid', nobody)
  _save(tmp_path / 'c', 1, 2, 3)
  assert _restore(tmp_path / 'c')[0] == 3


def test_a_checkpoint_under_the_name_of_another_step(tmp_path):
  _save(tmp_path / 'c', 1, 2)
  (tmp_path / 'c' / '2').rename(tmp_path / 'c' / '3')
  step, restored, said = _restore(tmp_path / 'c')
  assert step == 1
  _assert_equal(restored[0][0], _state(1, scale=1))
  assert 'it holds step 2' in said[0]


def test_a_checkpoint_of_an_earlier_version_is_rejected(tmp_path):
  _save(tmp_path / 'c', 1)
  # It stored checksums in a separate folder.
  (tmp_path / 'c' / '1' / 'checksums').mkdir()
  with pytest.raises(errors.UsageError, match=r'c/1 is of an earlier version'):
    _restore(tmp_path / 'c')
  assert _names(tmp_path / 'c') == {'1'}


def test_a_checkpoint_of_other_arrays_is_not_used(tmp_path):
  _save(tmp_path / 'c', 1)
  other = _state(1)._replace(batch_stats={'mean': np.zeros(4, np.int32)})
  said = []
  checkpoints = checkpoint.Checkpoints(tmp_path / 'c', 4)
  with pytest.raises(errors.UsageError, match='other arrays'):
    checkpoint.restore_newest([checkpoints], other, said.append)
  checkpoints.close()
  assert len(said) == 1


def test_a_damaged_checkpoint_is_set_aside_unchanged(tmp_path):
  for again in (1, 2):
    _save(tmp_path / 'c', 1, 2)
    damage.flip_a_bit(tmp_path / 'c' / '2')
    damaged = _content(tmp_path / 'c' / '2')
    assert _restore(tmp_path / 'c')[0] == 1
    assert _content(tmp_path / 'c' / f'2.{again}.set-aside') == damaged
    shutil.rmtree(tmp_path / 'c' / '1')
  assert _names(tmp_path / 'c') == {'2.1.set-aside', '2.2.set-aside'}


def test_files_with_the_name_of_a_new_checkpoint_are_set_aside(tmp_path):
  directory = tmp_path / 'c'
  _save(directory, 1)
  (directory / '2').write_text('a file')
  (directory / '3').symlink_to('nowhere')
  (directory / '2.1.set-aside').write_text('another one')
  _save(directory, 2, 3)
  assert _restore(directory)[0] == 3
  assert (directory / '2.2.set-aside').read_text() == 'a file'
  assert (directory / '3.1.set-aside').is_symlink()
  assert (directory / '2.1.set-aside').read_text() == 'another one'


def test_unrelated_files_are_no_checkpoints(tmp_path):
  directory = tmp_path / 'c'
  _save(directory, 1, 2)
  (directory / '99').write_text('a file')
  strangers = ('²', '٣', '07', '1e3', '-4', 'notes')
  for name in strangers:
    (directory / name).mkdir()
  (directory / '99999999999').mkdir()
  step, restored, said = _restore(directory)
  assert step == 2
  _assert_equal(restored[0][0], _state(1, scale=2))
  assert len(said) == 1 and '99999999999 is damaged' in said[0]
  _save(directory, 3)
  assert _names(directory) == {
    '99', *strangers, '99999999999.1.set-aside', '2', '3',
  }  # fmt: skip


def test_files_left_by_a_kill_are_removed(tmp_path):
  directory = tmp_path / 'c'
  _save(directory, 1, 2)
  shutil.copytree(directory / '2', directory / '3.orbax-checkpoint-tmp')
  (directory / '1').rename(directory / '1.1.removed')
  assert _restore(directory)[0] == 2
  assert _names(directory) == {'2'}


def test_runs_of_one_program_resume_from_their_last_common_checkpoint(
  tmp_path,
):
  """Later checkpoints are set aside, not lost."""
  _save(tmp_path / 'a', 1, 2)
  _save(tmp_path / 'b', 1)
  both = [checkpoint.Checkpoints(tmp_path / name, 4) for name in 'ab']
  step, restored = checkpoint.restore_newest(both, _state(1), lambda _: None)
  assert step == 1 and len(restored) == 2
  assert _names(tmp_path / 'a') == {'1', '2.1.set-aside'}
  for checkpoints in both:
    checkpoints.save(2, _state(1, scale=2), [_measured(2)])
    checkpoints.close()
