"""fastinit.adapters.jax inside flax: linen and nnx."""

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import fastinit
from fastinit.adapters import jax as initializers
from fastinit.adapters.jax import fills


class Network(flax.linen.Module):
    """A small classifier."""

    @flax.linen.compact
    def __call__(self, inputs):
        x = flax.linen.Dense(16, kernel_init=initializers.he_normal(), name="hidden")(inputs)
        x = flax.linen.relu(x)
        x = flax.linen.DenseGeneral((2, 4), kernel_init=initializers.glorot_uniform(), name="general")(x)
        return flax.linen.Dense(2, kernel_init=initializers.orthogonal(), name="logits")(x.reshape(len(x), -1))


def _data():
    chooser = np.random.default_rng(0)
    inputs = chooser.normal(size=(256, 8)).astype("float32")
    return inputs, (inputs[:, 0] * inputs[:, 1] > 0).astype("int32")


def _loss(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()


def test_a_linen_model_trains():
    inputs, labels = _data()
    network = Network()
    variables = network.init(jax.random.key(0), inputs)
    again = jax.jit(network.init)(jax.random.key(0), inputs)
    assert all(map(np.array_equal, jax.tree.leaves(variables), jax.tree.leaves(again)))
    shapes = jax.eval_shape(network.init, jax.random.key(0), inputs)
    assert jax.tree.map(lambda leaf: leaf.shape, shapes) == jax.tree.map(lambda leaf: leaf.shape, variables)
    kernel = np.asarray(variables["params"]["logits"]["kernel"])
    assert np.abs(kernel.T @ kernel - np.eye(2)).max() < 1e-5

    @jax.jit
    def step(variables):
        value, gradients = jax.value_and_grad(lambda v: _loss(network.apply(v, inputs), labels))(variables)
        return jax.tree.map(lambda leaf, gradient: leaf - 0.5 * gradient, variables, gradients), value

    losses = []
    for _ in range(150):
        variables, value = step(variables)
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0], losses[::50]


def test_an_nnx_model():
    layer = flax.nnx.Linear(8, 16, kernel_init=initializers.he_normal(), rngs=flax.nnx.Rngs(0))
    kernel = np.asarray(layer.kernel[...])
    assert kernel.shape == (8, 16)
    assert np.abs(kernel).max() <= 2 * np.sqrt(2 / 8) / 0.8796
    same = flax.nnx.Linear(8, 16, kernel_init=initializers.he_normal(), rngs=flax.nnx.Rngs(0))
    assert np.array_equal(kernel, same.kernel[...])
    own = fastinit.Key("nnx")
    linear = flax.nnx.Linear(
        8, 16, kernel_init=lambda key, *rest: initializers.normal(1.0)(own, *rest), rngs=flax.nnx.Rngs(0)
    )
    wanted = fastinit.fill(np.empty((8, 16), np.float32), fastinit.Normal(), own)
    assert np.array_equal(linear.kernel[...], wanted)


def test_a_linen_model_on_a_mesh(monkeypatch):
    mesh = jax.make_mesh((4, 2), ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)
    network = flax.linen.Dense(
        16, kernel_init=flax.linen.with_partitioning(initializers.he_normal(), ("rows", "columns"))
    )
    inputs, key = np.ones((4, 8), np.float32), jax.random.key(0)
    whole = network.init(key, inputs)["params"]["kernel"].value
    shardings = flax.linen.get_sharding(jax.eval_shape(network.init, key, inputs), mesh)
    sizes, original = [], fills.new_memory
    monkeypatch.setattr(fills, "new_memory", lambda shape, dtype: sizes.append(shape) or original(shape, dtype))
    alone = jax.jit(network.init, out_shardings=shardings)(key, inputs)["params"]["kernel"].value
    assert alone.sharding == NamedSharding(mesh, P("rows", "columns"))
    assert np.array_equal(alone, whole)
    assert sizes == [(2, 8)] * 8  # each device its own piece
    with jax.set_mesh(mesh):
        placed = jax.jit(network.init, out_shardings=shardings)(key, inputs)["params"]["kernel"].value
        anywhere = jax.jit(network.init)(key, inputs)["params"]["kernel"].value
    assert placed.sharding.spec == P("rows", "columns")
    assert np.array_equal(placed, whole)
    assert np.array_equal(anywhere, whole)


def test_nnx_metadata_of_partitions():
    mesh = jax.make_mesh((4, 2), ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)
    alone = flax.nnx.Linear(8, 16, kernel_init=initializers.he_normal(), rngs=flax.nnx.Rngs(0))

    def create():
        kernel_init = flax.nnx.with_partitioning(initializers.he_normal(), ("rows", "columns"))
        return flax.nnx.Linear(8, 16, kernel_init=kernel_init, rngs=flax.nnx.Rngs(0))

    with jax.set_mesh(mesh):
        for layer in (create(), flax.nnx.jit(create)()):
            assert layer.kernel[...].sharding.is_equivalent_to(NamedSharding(mesh, P("rows", "columns")), 2)
            assert np.array_equal(layer.kernel[...], alone.kernel[...])


def test_layers_by_the_stack():
    class Layer(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, inputs, _=None):
            return flax.linen.Dense(8, kernel_init=initializers.he_normal())(inputs), None

    stack = flax.linen.scan(flax.linen.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    kernel = np.asarray(
        stack().init(jax.random.key(0), np.ones((4, 8), np.float32), None)["params"]["Dense_0"]["kernel"]
    )
    assert kernel.shape == (3, 8, 8)
    assert len(np.unique(kernel)) > 180  # every layer has values of its own
