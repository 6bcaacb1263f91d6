"""What is saved comes back bit for bit, from however many devices."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np
import pytest

from train.program.step import StepMetrics
from train.program.step import TrainState
from train.records import checkpoint


def _state(devices, scale=1.0):
  mesh = jax.make_mesh(
    (devices,),
    ('batch',),
    axis_types=(AxisType.Auto,),
    devices=jax.devices()[:devices],
  )
  random = np.random.default_rng(0)
  state = TrainState(
    step=np.int32(7 * scale),
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


def test_nothing_saved_is_nothing_restored(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path / 'c', 4)
  assert checkpoints.steps() == set()
  checkpoints.close()


def test_the_newest_come_back_and_the_oldest_go(tmp_path):
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


def test_eight_devices_save_and_any_number_restores(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path / 'c', 4)
  checkpoints.save(3, _state(8), [_measured(3)])
  checkpoints.close()
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _state(1, scale=0.0)
  )
  for like in (shapes, _state(1, scale=0.0), _state(8, scale=0.0)):
    again = checkpoint.Checkpoints(tmp_path / 'c', 4)
    restored, _ = again.restore(3, like)
    again.close()
    _assert_equal(restored, _state(8))


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
def test_whichever_file_is_damaged_what_comes_back_was_saved(harm, tmp_path):
  """Some files hold nothing that a restored state depends on."""
  whole = tmp_path / 'whole'
  checkpoints = checkpoint.Checkpoints(whole, 4)
  for step in (1, 2):
    checkpoints.save(step, _state(1, scale=step), [_measured(step)])
  checkpoints.close()
  files = [path for path in (whole / '2').rglob('*') if path.is_file()]
  assert len(files) > 10
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
