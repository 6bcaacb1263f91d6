"""LCAM on eight devices: sharded arrays, and replicas with equal choices."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

import optax_lcam
from tests.optax_lcam import training
from tests.references import lcam_float64

DEVICES = 8
STEPS = 20
BATCHES = training.make_batches(STEPS, batch_size=DEVICES * 2)
WIDE = DEVICES * 2  # features of the sharded problem

pytestmark = pytest.mark.skipif(
  jax.device_count() < DEVICES, reason=f'needs {DEVICES} devices'
)


def make_mesh(shape=(DEVICES,), names=('batch',), axis_type=AxisType.Auto):
  return jax.make_mesh(shape, names, axis_types=(axis_type,) * len(names))


def lcam_sgd(**kwargs):
  return optax_lcam.lcam_sgd(0.02, steps_per_epoch=7, **kwargs)


def make_wide():
  """A problem whose parameters can be sharded over the devices."""
  rng = np.random.default_rng(0)
  params = {
    'w': rng.standard_normal((WIDE, 4)).astype(np.float32),
    'b': np.zeros(4, np.float32),
  }
  x = rng.standard_normal((STEPS, WIDE, WIDE)).astype(np.float32)
  y = rng.standard_normal((STEPS, WIDE, 4)).astype(np.float32)
  return params, (x, y)


def wide_loss(params, batch):
  x, y = batch
  return jnp.mean((x @ params['w'] + params['b'] - y) ** 2)


SPECS = {
  'data parallel': ({'w': P(), 'b': P()}, P('data')),
  'parameters sharded too': ({'w': P('data'), 'b': P()}, P('data')),
}


@pytest.mark.parametrize('layout', SPECS)
@pytest.mark.parametrize('axis_type', [AxisType.Auto, AxisType.Explicit])
def test_the_trace_is_sharded_like_the_parameters(layout, axis_type):
  param_specs, batch_spec = SPECS[layout]
  mesh = make_mesh(names=('data',), axis_type=axis_type)
  params, batches = make_wide()
  optimizer = lcam_sgd(weight_decay=1e-2)
  step = jax.jit(training.make_step(optimizer, wide_loss))

  def run(params, place):
    state = optimizer.init(params)
    losses, momenta = [], []
    for batch in zip(*batches, strict=True):
      params, state, loss, _ = step(params, state, place(batch))
      losses.append(float(loss))
      momenta.append(float(optax_lcam.read(state).momentum))
    return params, state, losses, momenta

  expected = run(jax.tree.map(jnp.asarray, params), lambda batch: batch)
  with jax.set_mesh(mesh):
    shardings = {k: NamedSharding(mesh, v) for k, v in param_specs.items()}
    sharded = jax.device_put(params, shardings)
    trace = optimizer.init(sharded)[1].trace
    for name in params:
      assert trace[name].sharding.is_equivalent_to(
        shardings[name], params[name].ndim
      )
    actual = run(
      sharded,
      lambda batch: jax.device_put(batch, NamedSharding(mesh, batch_spec)),
    )
  for name in params:
    for tree in (actual[0], actual[1][1].trace):
      assert tree[name].sharding.is_equivalent_to(
        shardings[name], params[name].ndim
      ), name
  np.testing.assert_allclose(actual[2], expected[2], rtol=1e-5)
  np.testing.assert_array_equal(actual[3], expected[3])
  np.testing.assert_array_equal(
    np.float32(actual[3]),
    np.float32(lcam_float64.choices(actual[2], steps_per_epoch=7)),
  )


def test_under_an_explicit_mesh_init_can_be_jitted():
  mesh = make_mesh(names=('x',), axis_type=AxisType.Explicit)
  with jax.set_mesh(mesh):
    params = jax.device_put(jnp.ones((WIDE, 3)), P('x', None))
    state = jax.jit(optax_lcam.lcam().init)(params)
    assert jax.typeof(state.trace).sharding.spec == P('x', None)
    assert jax.typeof(state.momentum).sharding.spec == P()


def test_two_axes_of_a_mesh():
  mesh = make_mesh((4, 2), ('data', 'model'))
  params, _ = make_wide()
  sharding = NamedSharding(mesh, P('data', 'model'))
  w = jax.device_put(params['w'], sharding)
  optimizer = optax_lcam.lcam(accumulator_dtype=jnp.bfloat16)
  state = optimizer.init(w)
  update = jax.jit(optimizer.update)
  for loss in (1.0, 2.0):
    updates, state = update(w, state, value=loss)
  assert state.trace.sharding.is_equivalent_to(sharding, 2)
  assert updates.sharding.is_equivalent_to(sharding, 2)


def replica_step(optimizer, axis):
  """A training step of one replica on its own part of the batch."""

  def step(params, state, batch):
    loss, grads = jax.value_and_grad(training.loss_fn)(params, batch)
    grads = jax.lax.pmean(grads, axis)
    updates, state = optimizer.update(grads, state, params, value=loss)
    return optax.apply_updates(params, updates), state, loss

  return step


def split(batch):
  return jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), batch)


def run_replicas(step, params, state):
  losses, momenta = [], []
  for batch in zip(*BATCHES, strict=True):
    params, state, loss = step(params, state, batch)
    losses.append(np.ravel(loss))
    momenta.append(np.ravel(optax_lcam.read(state).momentum))
  return params, state, np.stack(losses), np.stack(momenta)


def check_replicas(params, state, losses, momenta):
  """All replicas are bit-identical and agree with the reference."""
  for leaf in jax.tree.leaves((params, state)):
    leaf = np.asarray(leaf)
    bits = leaf.view(np.uint32)
    assert (bits == bits[:1]).all()
  means = np.float32(losses.astype(np.float64).mean(1))
  expected = np.float32(lcam_float64.choices(means, steps_per_epoch=7))
  np.testing.assert_array_equal(momenta, np.tile(expected[:, None], DEVICES))
  assert len(set(expected)) == 2


def stacked(tree):
  return jax.tree.map(lambda x: jnp.stack([x] * DEVICES), tree)


def as_pmap(optimizer):
  step = jax.pmap(replica_step(optimizer, 'batch'), axis_name='batch')
  return lambda params, state, batch: step(params, state, split(batch))


def as_vmap(optimizer):
  step = jax.jit(jax.vmap(replica_step(optimizer, 'batch'), axis_name='batch'))
  return lambda params, state, batch: step(params, state, split(batch))


def as_shard_map(optimizer):
  """Each replica keeps its own copy, so that copies can be compared."""
  mesh = make_mesh()
  one = replica_step(optimizer, 'batch')

  def step(*args):
    own = jax.tree.map(lambda x: x[0], args)
    return jax.tree.map(lambda x: x[None], one(*own))

  step = jax.jit(
    jax.shard_map(
      step,
      mesh=mesh,
      in_specs=P('batch'),
      out_specs=P('batch'),
      check_vma=False,
    )
  )
  return lambda params, state, batch: step(params, state, split(batch))


@pytest.mark.parametrize('make', [as_pmap, as_vmap, as_shard_map])
@pytest.mark.parametrize('options', [{}, {'reaction': 'current'}], ids=str)
def test_replicas_are_bit_identical(make, options):
  optimizer = lcam_sgd(batch_axis_name='batch', **options)
  params = stacked(training.make_params())
  state = jax.vmap(optimizer.init)(params)
  check_replicas(*run_replicas(make(optimizer), params, state))


@pytest.mark.parametrize('make', [as_pmap, as_vmap, as_shard_map])
def test_replicas_diverge_without_the_axis_name(make):
  # Otherwise the test above would show nothing.
  optimizer = lcam_sgd()
  params = stacked(training.make_params())
  state = jax.vmap(optimizer.init)(params)
  *_, momenta = run_replicas(make(optimizer), params, state)
  assert (momenta != momenta[:, :1]).any()


@pytest.mark.parametrize('check_vma', [True, False])
@pytest.mark.parametrize('averaged', [True, False])
def test_shard_map_with_replicated_parameters(check_vma, averaged):
  # The usual form, also if the loss is already averaged.
  mesh = make_mesh()
  optimizer = lcam_sgd(batch_axis_name='batch')

  @jax.jit
  @functools.partial(
    jax.shard_map,
    mesh=mesh,
    in_specs=(P(), P(), P('batch')),
    out_specs=(P(), P(), P()),
    check_vma=check_vma,
  )
  def step(params, state, batch):
    if check_vma:
      # Gradients of replicated parameters are summed over the axis.
      params_of_replica = jax.lax.pcast(params, 'batch', to='varying')
    else:
      params_of_replica = params
    loss, grads = jax.value_and_grad(training.loss_fn)(params_of_replica, batch)
    grads = jax.lax.pmean(grads, 'batch')
    mean = jax.lax.pmean(loss, 'batch')
    updates, state = optimizer.update(
      grads, state, params, value=mean if averaged else loss
    )
    return optax.apply_updates(params, updates), state, mean

  params = training.make_params()
  params, state, losses, momenta = run_replicas(
    step, params, optimizer.init(params)
  )
  whole = training.train(lcam_sgd(), BATCHES)
  np.testing.assert_allclose(losses[:, 0], whole.losses, rtol=1e-4)
  np.testing.assert_array_equal(momenta[:, 0], whole.readings.momentum)
  for leaf in jax.tree.leaves((params, state)):
    shards = [np.asarray(s.data) for s in leaf.addressable_shards]
    assert len(shards) == DEVICES
    assert all((s == shards[0]).all() for s in shards)


def test_one_bad_replica_is_a_bad_loss_for_all():
  optimizer = optax_lcam.lcam(batch_axis_name='batch', steps_per_epoch=10)
  params = stacked(jnp.ones(2))
  state = jax.vmap(optimizer.init)(params)
  update = jax.pmap(
    lambda g, s, loss: optimizer.update(g, s, value=loss), axis_name='batch'
  )
  _, state = update(params, state, jnp.arange(8.0))
  _, after = update(params, state, jnp.arange(8.0).at[3].set(jnp.nan))
  np.testing.assert_array_equal(after.loss_sum, [3.5] * DEVICES)
  np.testing.assert_array_equal(after.step_count, [2] * DEVICES)
  np.testing.assert_array_equal(after.momentum, state.momentum)


def test_an_axis_that_is_not_mapped_is_rejected():
  optimizer = optax_lcam.lcam(batch_axis_name='batch')
  state = optimizer.init(jnp.ones(2))
  with pytest.raises(NameError, match='batch'):
    optimizer.update(jnp.ones(2), state, value=1.0)


def test_the_loss_of_a_sharded_batch_is_the_global_mean():
  # Under jit the same program works on one and on eight devices.
  mesh = make_mesh(names=('data',))
  sharded = jax.tree.map(
    lambda x: jax.device_put(x, NamedSharding(mesh, P(None, 'data'))), BATCHES
  )
  params = training.make_params()
  one = training.train(lcam_sgd(), BATCHES, params)
  eight = training.train(
    lcam_sgd(), sharded, jax.device_put(params, NamedSharding(mesh, P()))
  )
  np.testing.assert_array_equal(one.readings.momentum, eight.readings.momentum)
  np.testing.assert_allclose(one.losses, eight.losses, rtol=1e-5)
