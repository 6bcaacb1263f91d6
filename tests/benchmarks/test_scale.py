"""The collectives of the training step, and the model of their time."""

from flax import nnx
import jax
import pytest

from benchmarks import compiled
from benchmarks import hlo
from benchmarks import scale
from benchmarks import workload
import models


def _collectives(devices):
  program = workload.of_network(
    10, 1, 16, devices=jax.devices()[:devices], convolutions='xla'
  )
  text = program.lower_train().compile().as_text()
  return hlo.Module(text).collectives()


@pytest.fixture(scope='module')
def on_eight():
  return _collectives(8)


def test_one_device_sends_nothing():
  assert _collectives(1) == []


def test_gradients_and_loss_are_reduced_together(on_eight):
  assert {c.name for c in on_eight} == {'all-reduce'}
  model = nnx.eval_shape(lambda: models.WideResNet(10, 1, rngs=nnx.Rngs(0)))
  sizes = sorted(
    4 * leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))
  )
  norms = sum(isinstance(m, nnx.BatchNorm) for _, m in nnx.iter_modules(model))
  assert len([c for c in on_eight if c.bytes >= 6000]) == 1
  # Each norm needs one reduction forward and one backward. XLA reduces the
  # gradient of the stem last.
  assert len(on_eight) <= 2 * norms + 2
  # No reduction consists of a scalar such as the loss only.
  assert all(c.bytes > 8 for c in on_eight)
  arrays = [[array.bytes for array in c.arrays] for c in on_eight]
  (with_scalars,) = [of_one for of_one in arrays if 4 in of_one]
  assert with_scalars.count(4) == 2
  assert max(with_scalars) in sizes
  # Each gradient occurs once; the rest belongs to norms.
  gradients = [n for of_one in arrays for n in of_one if n >= 1024]
  assert sorted(gradients) == [n for n in sizes if n >= 1024]


def test_predict_computes_the_documented_model():
  machine = scale.Machine(
    flops=1e12, share=0.5, memory=1e11, link=1e10, latency=1e-6
  )
  computing, collectives = scale.predict(machine, 1e9, 4e8, 1e8, 3, 8)
  assert computing == pytest.approx(4e-3)  # bytes, not the 2 ms of FLOP
  assert collectives == pytest.approx(2 * 7 / 8 * 1e-2 + 3 * 14 * 1e-6)
  assert scale.predict(machine, 1e9, 0, 1e8, 3, 1) == (2e-3, 0)


def test_predictions_use_the_compiled_programs(monkeypatch):
  program = {
    'flops': 128e9,
    'bytes': 1e9,
    'all_reduces': [
      {'dtype': 'float32', 'bytes': 1000, 'count': 49},
      {'dtype': 'bfloat16', 'bytes': 70_000_000, 'count': 1},
    ],
  }
  recorded = dict.fromkeys(compiled.PROGRAMS, program)
  monkeypatch.setattr(compiled, 'recorded', lambda: recorded)
  monkeypatch.setattr(scale, '_measure_here', lambda _: {})
  predicted = scale.measure(True)['model']['WRN-28-10']
  one, strong, weak = (p for p in predicted if p['machine'] == 'H100')
  assert (one['devices'], one['reductions'], one['batch']) == (1, 0, 128)
  assert (strong['devices'], strong['batch']) == (8, 128)
  assert weak['batch'] == 8 * 128
  assert weak['reductions'] == 50
  assert weak['reduced_bytes'] == 70_049_000
  assert weak['compute_seconds'] == one['compute_seconds']
  assert strong['compute_seconds'] == pytest.approx(one['compute_seconds'] / 8)
