"""Keras initializers inside layers, traced functions, saved models and training."""

import ctypes
import gc
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from keras.src.backend import compute_output_spec

import fastinit
from fastinit.adapters.keras import bases, initializers, versions

BACKEND = keras.config.backend()


def array(tensor):
    """A tensor of any backend as float64, which holds every narrower value."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float64")))


def traced(function):
    """The function compiled by the backend; torch's runs as it is, since Keras builds nothing under its compiler."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


def is_symbolic(tensor):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return not isinstance(tensor, tf.__internal__.EagerTensor)
    if BACKEND == "jax":
        import jax

        return isinstance(tensor, jax.core.Tracer)
    return True


def watched(seen, tensor):
    seen.append(is_symbolic(tensor))
    return tensor


def test_every_layer_takes_them():
    def built(layer, shape):
        layer.build(shape)
        return layer

    init = initializers.HeNormal
    he = fastinit.he_truncated_normal()
    for layer, shape in [
        (layers.Dense(7, kernel_initializer=init(seed=1)), (None, 5)),
        (layers.Conv2D(8, 3, groups=2, kernel_initializer=init(seed=1)), (None, 9, 9, 4)),
        (layers.Conv1DTranspose(6, 3, kernel_initializer=init(seed=1)), (None, 9, 4)),
        (layers.DepthwiseConv2D(3, depthwise_initializer=init(seed=1)), (None, 9, 9, 4)),
        (layers.Embedding(11, 5, embeddings_initializer=init(seed=1)), (None,)),
        (layers.LSTM(3, kernel_initializer=init(seed=1)), (None, 6, 5)),
    ]:
        variable = built(layer, shape).weights[0]
        wanted = fastinit.fill(np.empty(variable.shape, np.float32), he, fastinit.Key(1))
        assert np.array_equal(array(variable), wanted), layer.name
    layer = built(layers.GRU(3, recurrent_initializer=initializers.Orthogonal(seed=2)), (None, 6, 5))
    wanted = fastinit.fill(np.empty((3, 9), np.float32), fastinit.Orthogonal(), fastinit.Key(2))
    assert np.array_equal(array(layer.cell.recurrent_kernel), wanted)


@pytest.mark.skipif(not versions.AXES_OF_FANS, reason="Keras before 3.15 says its initializers no axes")
def test_einsum_layers_say_their_axes():
    layer = layers.EinsumDense(
        "abc,cde->abde", (None, 2, 7), kernel_initializer=initializers.GlorotUniform(seed=1), bias_axes="e"
    )
    layer.build((None, 3, 5))
    core = fastinit.glorot_uniform(layout=fastinit.Axes(0, (1, 2)))
    wanted = fastinit.fill(np.empty((5, 2, 7), np.float32), core, fastinit.Key(1))
    assert np.array_equal(array(layer.kernel), wanted)
    attention = layers.MultiHeadAttention(2, 7, kernel_initializer=initializers.HeUniform(seed=1))
    attention.build((None, 3, 5), (None, 3, 5))
    kernel = attention.query_dense.kernel
    wanted = fastinit.fill(np.empty((5, 2, 7), np.float32), fastinit.he_uniform(layout="IOO"), fastinit.Key(1))
    assert np.array_equal(array(kernel), wanted)


def test_by_name():
    layer = layers.Dense(3, kernel_initializer="fastinit>HeNormal", bias_initializer="fastinit>Zeros")
    layer.build((None, 5))
    assert type(layer.kernel_initializer) is initializers.HeNormal
    key = fastinit.Key(layer.kernel_initializer.seed)
    wanted = fastinit.fill(np.empty((5, 3), np.float32), fastinit.he_truncated_normal(), key)
    assert np.array_equal(array(layer.kernel), wanted)


def test_traced_functions_give_the_same_bytes():
    for dtype in ("float32", "bfloat16"):
        for initializer in (
            initializers.HeNormal(seed=3),
            initializers.RandomUniform(seed=fastinit.Key(4)),
            initializers.Orthogonal(seed=5),
            initializers.Zeros(),
        ):
            seen = []
            found = traced(lambda: watched(seen, initializer((6, 5), dtype=dtype)))()  # noqa: B023
            assert seen == [True], "it was not traced"
            assert keras.backend.standardize_dtype(found.dtype) == dtype
            assert tuple(found.shape) == (6, 5)
            assert np.array_equal(array(found), array(initializer((6, 5), dtype=dtype)))


def test_traced_functions_refuse_shapes_while_they_are_traced():
    for initializer, shape in [
        (initializers.Identity(), (3, 4, 5)),
        (initializers.Orthogonal(seed=1), (5,)),
        (initializers.DeltaOrthogonal(seed=1), (3, 3, 8, 4)),
        (initializers.ICNR(seed=1), (3, 3, 5, 7)),
        (initializers.ZerO(), (3,)),
    ]:
        reached = []

        def call():
            try:
                initializer(shape)  # noqa: B023
            except ValueError:
                reached.append(initializer)  # noqa: B023
                raise

        for run in (traced(call), lambda: compute_output_spec(call)):
            with pytest.raises(ValueError):
                run()
        assert len(reached) >= 2  # Keras asks twice on torch


def test_traced_functions_fall_back_to_keras():
    if BACKEND == "torch":
        return

    def call():
        return initializers.RandomUniform(1.0, -1.0, seed=3)((4, 4))

    bases.notices.said.clear()
    with pytest.warns(UserWarning, match="Keras's own numbers"):
        found = traced(call)()
    assert np.array_equal(array(found), array(keras.initializers.RandomUniform(1.0, -1.0, seed=3)((4, 4))))


def test_seed_generators_advance_in_traced_functions():
    wanted = initializers.RandomNormal(seed=keras.random.SeedGenerator(9))
    wanted = [array(wanted((6, 5))) for _ in range(3)]
    generator = keras.random.SeedGenerator(9)
    initializer = initializers.RandomNormal(seed=generator)
    if BACKEND == "jax":  # where state is passed in and out

        def step(state):
            with keras.StatelessScope(state_mapping=[(generator.state, state)]) as scope:
                tensor = initializer((6, 5))
            return tensor, scope.get_current_value(generator.state)

        step, state, found = traced(step), generator.state.value, []
        for _ in range(3):
            tensor, state = step(state)
            found.append(array(tensor))
    else:
        call = traced(lambda: initializer((6, 5)))
        found = [array(call()) for _ in range(3)]
    assert all(map(np.array_equal, found, wanted))


def test_models_built_in_a_traced_function():
    if BACKEND != "tensorflow":
        return
    import tensorflow as tf

    layer = layers.Dense(3, kernel_initializer=initializers.HeNormal(seed=1))

    @tf.function
    def call(inputs):
        return layer(inputs)  # which builds it

    call(tf.zeros((2, 5)))
    wanted = fastinit.fill(np.empty((5, 3), np.float32), fastinit.he_truncated_normal(), fastinit.Key(1))
    assert np.array_equal(array(layer.kernel), wanted)


def test_symbolic_calls_make_no_values():
    layer = layers.Dense(3, kernel_initializer=initializers.HeNormal(seed=1))
    outputs = keras.Model(inputs := keras.Input((5,)), layer(inputs)).outputs
    assert outputs[0].shape == (None, 3)
    found = compute_output_spec(lambda: initializers.HeNormal(seed=1)((6, 5)))
    assert found.shape == (6, 5)


def test_mixed_precision():
    for policy, variable in (("mixed_bfloat16", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16")):
        layer = layers.Dense(300, dtype=policy, kernel_initializer=initializers.HeNormal(seed=1))
        layer.build((None, 400))
        assert keras.backend.standardize_dtype(layer.kernel.dtype) == variable
        full = fastinit.fill(np.empty((400, 300), np.float32), fastinit.he_truncated_normal(), fastinit.Key(1))
        rounded = array(keras.ops.cast(keras.ops.convert_to_tensor(full), variable))  # once, by the framework
        bound = np.abs(array(layer.kernel)).max()  # which no rounded value may exceed
        assert np.array_equal(array(layer.kernel), np.clip(rounded, -bound, bound))
        assert bound <= 2 * np.sqrt(2 / 400) / 0.8796
        if variable == "bfloat16":
            assert len(np.unique(array(layer.kernel))) > 2000  # all the resolution that it has


def _classifier(seed):
    return keras.Sequential(
        [
            keras.Input((8,), name="features"),
            layers.Dense(16, "relu", kernel_initializer=initializers.HeNormal(seed=seed), name="hidden"),
            layers.Dense(16, "relu", kernel_initializer="fastinit>HeUniform", name="second"),
            layers.Dense(2, kernel_initializer=initializers.GlorotUniform(seed=fastinit.Key(seed)), name="logits"),
        ]
    )


def test_training_saving_and_loading(tmp_path):
    chooser = np.random.default_rng(0)
    inputs = chooser.normal(size=(256, 8)).astype("float32")
    labels = (inputs[:, 0] * inputs[:, 1] > 0).astype("int32")
    model = _classifier(3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss)
    history = model.fit(inputs, labels, epochs=15, batch_size=64, verbose=0).history["loss"]
    assert history[-1] < 0.6 * history[0], history
    path = tmp_path / f"{BACKEND}.keras"
    model.save(path)
    again = keras.models.load_model(path)
    assert all(np.array_equal(array(a), array(b)) for a, b in zip(model.weights, again.weights, strict=True))
    own = again.get_layer("logits").kernel_initializer
    assert type(own) is initializers.GlorotUniform
    assert own.seed == fastinit.Key(3)
    assert type(again.get_layer("second").kernel_initializer) is initializers.HeUniform
    clone = keras.models.clone_model(again)
    fresh = _classifier(3)
    for name in ("hidden", "logits"):  # new weights from the initializers that were saved
        assert np.array_equal(array(clone.get_layer(name).kernel), array(fresh.get_layer(name).kernel))
    text = model.to_json()
    assert np.array_equal(
        array(keras.models.model_from_json(text).get_layer("hidden").kernel), array(fresh.get_layer("hidden").kernel)
    )


def test_models_saved_for_a_process_without_fastinit(tmp_path):
    """Which are loaded by test_keras.py."""

    def model(initializer):
        return keras.Sequential([keras.Input((6,)), layers.Dense(4, kernel_initializer=initializer, name="dense")])

    for name, initializer in {
        "zeros": initializers.Zeros(),
        "ones": initializers.Ones(),
        "constant": initializers.Constant(0.3),
        "identity": initializers.Identity(2.0),
        "int": initializers.HeNormal(seed=3),
        "none": initializers.RandomUniform(),
        "key": initializers.Orthogonal(seed=fastinit.Key(3)),
        "generator": initializers.TruncatedNormal(seed=keras.random.SeedGenerator(3)),
        "weight": initializers.GlorotUniform(seed=3, groups=2),
    }.items():
        model(initializer).save(tmp_path / f"saved_{name}.keras")
    model(initializers.HeNormal(seed=3)).save(tmp_path / "saved_legacy.h5")
    model(initializers.ZerO()).save(tmp_path / "saved_zero_init.keras")


def test_memory_is_taken_over_and_owned():
    initializer = initializers.RandomNormal(seed=1)
    first, second = initializer((512, 512)), initializer((512, 512))
    before = array(first).copy()
    variable = keras.Variable(lambda shape, dtype: second, shape=(512, 512), dtype="float32")
    variable.assign_add(keras.ops.ones((512, 512)))
    assert np.array_equal(array(first), before)
    assert np.array_equal(array(initializer((512, 512))), before)  # nothing is kept that somebody could write into
    if BACKEND == "jax":
        assert first.unsafe_buffer_pointer() % 64 == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_memory_is_the_variable():
    def status(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    def variable(side):
        made = keras.Variable(initializers.HeNormal(seed=1), shape=(side, side), dtype="float32")
        return made.value.block_until_ready() if BACKEND == "jax" else made.value

    float(keras.ops.convert_to_numpy(variable(64))[0, 0])  # libraries are loaded, threads have their buffers
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or what earlier tests gave back is taken without being counted
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    kept = variable(8192)
    grown = status("VmHWM") - before
    assert kept is not None
    assert 4 * 8192 * 8192 <= grown < 1.1 * 4 * 8192 * 8192


def test_an_unknown_backend_is_named():
    from fastinit.adapters.keras import tensors

    known = tensors._MAKERS.pop(BACKEND)
    try:
        initializers.HeNormal(seed=1)((3, 3))
    except ValueError as error:
        assert BACKEND in str(error)
    else:
        raise AssertionError("filled by nobody")
    finally:
        tensors._MAKERS[BACKEND] = known
