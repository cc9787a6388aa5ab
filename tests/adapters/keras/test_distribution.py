"""Keras initializers under keras.distribution, on eight devices of JAX."""

import keras
import numpy as np
import pytest
from keras import distribution, layers

import fastinit
from fastinit.adapters.keras import initialize, initializers

if keras.config.backend() != "jax":
    pytest.skip("Keras distributes by JAX", allow_module_level=True)

# isort: split
from fastinit.adapters.jax import fills


def model_parallel():
    mesh = distribution.DeviceMesh((2, 4), ["batch", "model"], distribution.list_devices())
    layouts = distribution.LayoutMap(mesh)
    layouts[".*dense/kernel"] = (None, "model")
    layouts[".*dense/bias"] = ("model",)
    layouts[".*other/kernel"] = ("batch", "model")
    return distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")


def built(seed):
    return keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(24, kernel_initializer=initializers.HeNormal(seed=seed), name="dense"),
            layers.Dense(8, kernel_initializer=initializers.Orthogonal(seed=seed), name="other"),
        ],
        name="model",
    )


def test_there_are_eight_devices():
    assert len(distribution.list_devices()) == 8


def test_variables_are_filled_piece_by_piece_and_equal_the_whole():
    plain = [np.asarray(variable.value) for variable in built(3).variables]
    sizes, original = [], fills.new_memory
    fills.new_memory = lambda shape, dtype: sizes.append(shape) or original(shape, dtype)
    try:
        with model_parallel().scope():
            model = built(3)
    finally:
        fills.new_memory = original
    assert all(map(np.array_equal, plain, (np.asarray(variable.value) for variable in model.variables)))
    kernel = model.get_layer("dense").kernel.value
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(16, 6)}
    if not hasattr(keras.Variable, "_initialize_layout"):
        pytest.skip("equal, but filled whole: this Keras hands its initializers no layout")
    assert (16, 6) in sizes  # of a kernel (16, 24) over four devices
    assert (16, 24) not in sizes


def test_variables_so_large_that_keras_would_compile_their_initializer():
    with model_parallel().scope():
        dense = layers.Dense(4096, kernel_initializer=initializers.GlorotUniform(seed=5), name="dense")
        dense.build((None, 2048))
    whole = fastinit.fill(np.empty((2048, 4096), np.float32), fastinit.glorot_uniform(), fastinit.Key(5))
    assert np.array_equal(np.asarray(dense.kernel.value), whole)
    assert len({shard.index for shard in map(_hashable, dense.kernel.value.addressable_shards)}) == 4


def _hashable(shard):
    from types import SimpleNamespace

    return SimpleNamespace(index=tuple((axis.start, axis.stop) for axis in shard.index))


def test_a_call_with_a_layout():
    mesh = distribution.DeviceMesh((8,), ["x"], distribution.list_devices())
    layout = distribution.TensorLayout(("x", None), mesh)
    found = initializers.RandomNormal(seed=1)((16, 5), layout=layout)
    assert np.array_equal(np.asarray(found), np.asarray(initializers.RandomNormal(seed=1)((16, 5))))
    assert {shard.data.shape for shard in found.addressable_shards} == {(2, 5)}


def test_whole_models_keep_their_layouts():
    plain = built(0)
    wanted = initialize(plain, seed=4, digests=True)
    with model_parallel().scope():
        model = built(0)
        before = [variable.value.sharding for variable in model.variables]
        record = initialize(model, seed=4, digests=True)
    assert [variable.value.sharding for variable in model.variables] == before
    assert [entry.digest for entry in record] == [entry.digest for entry in wanted]
