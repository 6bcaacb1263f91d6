"""What the training step sends between devices, and the model of its time."""

from flax import nnx
import jax
import pytest

from benchmarks import scale
import models


@pytest.fixture(scope='module')
def programs():
  return {
    devices: scale.compile_step(10, 1, 16, devices).as_text()
    for devices in (1, 8)
  }


def test_one_device_sends_nothing(programs):
  assert list(scale.find_collectives(programs[1])) == []


def test_the_gradients_are_reduced_together_and_the_loss_rides_along(programs):
  found = scale.find_collectives(programs[8])
  assert {c.name for c in found} == {'all-reduce'}
  model = nnx.eval_shape(lambda: models.WideResNet(10, 1, rngs=nnx.Rngs(0)))
  sizes = sorted(
    4 * leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))
  )
  norms = sum(isinstance(m, nnx.BatchNorm) for _, m in nnx.iter_modules(model))
  counted = scale.count_collectives(programs[8], 8)
  assert counted['large_all_reduces'] == 1
  # Of each norm a sum and a sum of squares, and as much for its gradient; XLA
  # leaves the stem's gradient for the end.
  assert counted['all_reduces'] <= 2 * norms + 2
  # No scalar goes alone: neither the loss nor the count of correct images.
  assert all(c.bytes > 8 for c in found)
  with_scalars = [c for c in found if 4 in c.arrays]
  assert len(with_scalars) == 1
  assert with_scalars[0].arrays.count(4) == 2
  assert max(with_scalars[0].arrays) in sizes
  # Each gradient once; the rest is of norms.
  gradients = [n for c in found for n in c.arrays if n >= 1024]
  assert sorted(gradients) == [n for n in sizes if n >= 1024]


def test_collectives_are_read_from_the_text():
  text = """
  %all-reduce.1 = (f32[3,3]{1,0}, bf16[8]{0}) all-reduce(%a, %b), channel_id=1
  %x = f32[] all-reduce-start(%c), channel_id=2
  %y = f32[64]{0} all-gather(%d), dimensions={0}
  %z = f32[64]{0} add(%all-reduce.1, %y)
  """
  found = scale.find_collectives(text)
  assert [(c.name, c.arrays) for c in found] == [
    ('all-reduce', (36, 16)),
    ('all-reduce', (4,)),
    ('all-gather', (256,)),
  ]


def test_a_gpu_reduces_in_portions_of_30_mib():
  arrays = ', '.join(['f32[1048576]{0}'] * 16)
  line = f'%r = ({arrays}) all-reduce(%a), channel_id=1'
  counted = scale.count_collectives(line, 2)
  assert counted['large_all_reduces'] == 1
  # 16 arrays of 4 MiB, seven in each.
  assert counted['on_gpu'] == 3


def test_the_model_is_the_arithmetic_that_it_says():
  machine = scale.Machine(
    flops=1e12, share=0.5, memory=1e11, link=1e10, latency=1e-6
  )
  computing, collectives = scale.predict(machine, 1e9, 4e8, 1e8, 3, 8)
  assert computing == pytest.approx(4e-3)  # bytes, not the 2 ms of FLOP
  assert collectives == pytest.approx(2 * 7 / 8 * 1e-2 + 3 * 14 * 1e-6)
  assert scale.predict(machine, 1e9, 0, 1e8, 3, 1) == (2e-3, 0)
