"""On a GPU, results agree with the CPU and are reproducible.

`python -m pytest -m gpu` runs only these tests. They skip without a GPU.
"""

import io

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rich.console

import models
import optax_lcam
from tests.references import lcam_float64
from tests.train import processes
from train import config as config_lib
from train import data
from train import loop

pytestmark = pytest.mark.gpu


@pytest.fixture(scope='module')
def gpu() -> jax.Device:
  try:
    return jax.devices('gpu')[0]
  except RuntimeError:
    pytest.skip('needs a GPU')


def _step(device, dtype):
  """Loss and gradients of one step of WRN-16-2 on real images."""
  digits = data.load('digits').train
  images = np.asarray(digits.images[:64], np.float32) / 255
  with jax.default_device(device):
    model = models.WideResNet(
      16, 2, 10, in_channels=1, dtype=dtype, rngs=nnx.Rngs(0)
    )
    graphdef, params, stats = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(params, images, labels):
      def loss_fn(params):
        model = nnx.merge(graphdef, params, stats, copy=True)
        model.train()
        return optax.softmax_cross_entropy_with_integer_labels(
          model(images), labels
        ).mean()

      return jax.value_and_grad(loss_fn)(params)

    # By default a GPU rounds the factors of float32 products to TF32.
    with jax.default_matmul_precision('highest'):
      loss, grads = step(params, images, digits.labels[:64])
    return float(loss), [np.asarray(leaf) for leaf in jax.tree.leaves(grads)]


def test_a_float32_step_agrees_with_the_cpu(gpu):
  loss, grads = _step(gpu, jnp.float32)
  expected_loss, expected = _step(jax.devices('cpu')[0], jnp.float32)
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-4)
  for ours, theirs in zip(grads, expected, strict=True):
    difference = np.linalg.norm(ours - theirs)
    assert difference <= 1e-4 * np.linalg.norm(theirs)


def test_a_bfloat16_step_is_finite_and_close_to_float32(gpu):
  loss, grads = _step(gpu, jnp.bfloat16)
  expected_loss, _ = _step(gpu, jnp.float32)
  np.testing.assert_allclose(loss, expected_loss, rtol=0.05)
  assert all(np.isfinite(leaf).all() for leaf in grads)


@pytest.mark.parametrize('kind', ['noisy', 'constant', 'tied'])
def test_500_choices_are_those_of_float64(gpu, kind):
  random = np.random.default_rng(0)
  base = np.float32(0.7)
  losses = {
    'noisy': random.normal(2, 1, 500),
    'constant': np.full(500, base),
    'tied': np.where(
      random.random(500) < 0.5, base, np.nextafter(base, np.float32(1))
    ),
  }[kind].astype(np.float32)
  optimizer = optax_lcam.lcam(steps_per_epoch=150)
  with jax.default_device(gpu):
    state = optimizer.init(jnp.zeros(3))

    def step(state, loss):
      _, state = optimizer.update(jnp.ones(3), state, value=loss)
      return state, state.momentum

    _, chosen = jax.jit(lambda s, x: jax.lax.scan(step, s, x))(
      state, jnp.asarray(losses)
    )
  expected = [
    step.next_momentum
    for step in lcam_float64.lcam(losses.tolist(), steps_per_epoch=150)
  ]
  np.testing.assert_array_equal(chosen, np.asarray(expected, np.float32))


def test_two_runs_with_one_seed_are_equal(gpu, tmp_path):
  config = config_lib.Config(
    epochs=2, train_examples=300, batch_size=64, deterministic=True
  )
  console = rich.console.Console(file=io.StringIO())

  for name in 'ab':
    loop.run(config, tmp_path / name, console=console)
  processes.assert_the_same_end(tmp_path / 'a', tmp_path / 'b')
