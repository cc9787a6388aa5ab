"""Checks of fastinit.adapters.jax inside flax, linen and nnx; run by test_jax.py."""

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np

import fastinit
from fastinit.adapters import jax as initializers


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


def check_a_linen_model_trains():
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


def check_an_nnx_model():
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
