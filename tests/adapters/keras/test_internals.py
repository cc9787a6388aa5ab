"""Checks that Keras still has each internal that the adapter uses; run by test_keras.py on every backend."""

import inspect
import random
import re
import runpy
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from keras.src.backend.common import global_state

from fastinit.adapters.keras import internals, versions
from fastinit.adapters.keras import layers as described

CHANGED = "Keras has changed what fastinit uses of its internals: "


def network():
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, name="convolution")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = keras.ops.relu(layers.Flatten(name="flat")(x))
    inner = keras.Sequential([layers.Dense(5, name="dense")], name="inner")
    return keras.Model(image, inner(x), name="network")


@pytest.mark.parametrize("version", ["3.9.2", "3.2.0rc1", "2.15.0"])
def test_an_older_keras_is_named_at_import(monkeypatch, version):
    monkeypatch.setattr(keras, "__version__", version)
    with pytest.raises(ImportError, match=rf"needs Keras 3\.10 or newer, and {re.escape(version)} is installed$"):
        runpy.run_path(versions.__file__)


def test_the_oldest_version_is_that_of_the_package():
    project = (Path(__file__).resolve().parents[3] / "pyproject.toml").read_text()
    assert f'keras = ["keras>={versions.OLDEST}"]' in project


def test_the_names_that_keras_gives():
    class HTTPServer2D(layers.Layer):
        pass

    for kind, *given in [
        *((kind, kind(2), kind(2)) for kind in (layers.Dense, layers.GRU)),
        *((kind, kind(2, 3), kind(2, 3)) for kind in (layers.Conv2DTranspose, layers.SeparableConv1D)),
        *((kind, kind(), kind()) for kind in (layers.PReLU, layers.RMSNormalization, HTTPServer2D)),
    ]:
        name = internals.automatic_name(kind)
        assert [layer.name for layer in given] == [name, f"{name}_1"], f"{CHANGED}{kind.__name__} is {given[0].name}"
    variables = [keras.Variable(keras.ops.zeros(2)) for _ in range(2)]
    names = [internals.VARIABLE, f"{internals.VARIABLE}_1"]
    assert [variable.name for variable in variables] == names, f"{CHANGED}a variable is called {variables[0].name}"


def test_the_base_class_of_random_initializers():
    base = internals.RandomInitializer
    said = f"{CHANGED}keras.initializers.RandomNormal.__bases__[0] is {base}"
    assert base.__name__ == "RandomInitializer", said
    assert issubclass(base, keras.initializers.Initializer), said
    assert list(inspect.signature(base).parameters) == ["seed"], said
    assert base(seed=3).seed == 3 and base(seed=3).get_config() == {"seed": 3}, said


def test_the_base_classes_of_convolutions():
    for name, kinds in {
        internals.CONVOLUTION: (layers.Conv1D, layers.Conv2D, layers.Conv3D),
        internals.TRANSPOSED: (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
        internals.DEPTHWISE: (layers.DepthwiseConv1D, layers.DepthwiseConv2D),
        internals.SEPARABLE: (layers.SeparableConv1D, layers.SeparableConv2D),
    }.items():
        for kind in kinds:
            names = [cls.__name__ for cls in kind.__mro__]
            assert name in names, f"{CHANGED}{kind.__name__} has no base {name!r} among {names}"


def test_the_cells_that_geometry_knows():
    cells = layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell, type(layers.ConvLSTM2D(2, 3).cell)
    for cell in cells:
        assert cell.__name__ in described._GEOMETRY, f"{CHANGED}{cell.__name__} is a cell of another name"


def test_the_layers_of_a_model():
    model = network()
    assert hasattr(model, "_flatten_layers"), f"{CHANGED}Layer._flatten_layers is gone"
    names = [layer.name for layer in internals.layers_of(model)]
    assert names[0] == "network" and {"convolution", "norm", "flat", "inner", "dense"} <= set(names), names
    assert "dense" in [layer.name for layer in internals.inner_layers(model)]
    direct = [layer.name for layer in internals.inner_layers(model, direct=True)]
    assert "inner" in direct and "dense" not in direct and "network" not in direct, direct


def test_the_variables_of_a_layer():
    model = network()
    for name, number in {"convolution": 2, "norm": 2, "inner": 0, "flat": 0}.items():
        layer = model.get_layer(name)
        assert hasattr(layer, "_trainable_variables"), f"{CHANGED}Layer._trainable_variables is gone"
        layer.trainable = False
        assert len(internals.own_variables(layer)) == number, f"{CHANGED}Layer._trainable_variables of {name}"
    assert internals.own_variables(object()) == []


def test_the_statistics_of_a_norm():
    for renorm in {True, False} if "renorm" in inspect.signature(layers.BatchNormalization).parameters else {False}:
        norm = layers.BatchNormalization(**({"renorm": True} if renorm else {}))
        norm.build((None, 4))
        assert hasattr(norm, "_non_trainable_variables"), f"{CHANGED}Layer._non_trainable_variables is gone"
        found = {variable.name: value for variable, value in internals.statistics_of(norm)}
        assert found == {variable.name: float(variable.value[0]) for variable in norm.non_trainable_variables}
        assert {"moving_mean", "moving_variance"} <= set(found), f"{CHANGED}a BatchNormalization moves {list(found)}"


def test_what_follows_a_layer():
    model = network()
    norm, flat = model.get_layer("norm"), model.get_layer("flat")
    assert hasattr(norm, "_outbound_nodes"), f"{CHANGED}Operation._outbound_nodes is gone"
    assert internals.consumers(norm) == [flat], f"{CHANGED}Operation._outbound_nodes: {internals.consumers(norm)}"
    (relu,) = internals.consumers(flat)
    assert internals.is_neural_operation(relu), f"{CHANGED}keras.ops.relu is of {type(relu).__module__}"
    assert type(relu).__name__ == "Relu", f"{CHANGED}keras.ops.relu is {type(relu).__name__}"
    assert not internals.is_neural_operation(flat)


def test_the_classes_of_operations():
    for known, name in described._OPERATIONS.items():
        given = keras.Input((4,), name=f"before_{name}")
        getattr(keras.ops, name)(given)
        (found,) = internals.consumers(given._keras_history.operation)
        assert type(found).__name__ == known, f"{CHANGED}keras.ops.{name} is {type(found).__name__}, not {known}"
        assert internals.is_neural_operation(found), f"{CHANGED}keras.ops.{name} is of {type(found).__module__}"


def test_the_layout_of_a_variable():
    variable = keras.Variable(keras.ops.zeros((2, 2)), name="plain")
    assert internals.layout_of(variable) is None
    if keras.config.backend() == "jax":
        assert hasattr(variable, "_layout"), f"{CHANGED}Variable._layout of the JAX backend is gone"


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="TensorFlow's tapes")
def test_what_a_tape_watches():
    import tensorflow as tf

    one, other = tf.ones(2), tf.ones(2)
    assert not internals.is_watched(one)
    with tf.GradientTape() as tape:
        tape.watch(one)
        assert internals.is_watched(one * 2), f"{CHANGED}tensorflow.python.eager.record"
        assert not internals.is_watched(other * 2), f"{CHANGED}tensorflow.python.eager.record"


def test_a_call_is_looked_up_when_a_layer_is_called():
    dense = layers.Dense(3, activation="relu")
    dense.build((None, 2))
    own = dense.call
    seen = []

    def stand_in(*given, **named):
        seen.append(given)
        return own(*given, **named)

    with internals.replaced(dense, "call", stand_in):
        dense(keras.ops.ones((1, 2)))
    assert len(seen) == 1, f"{CHANGED}a layer does not call what stands for its `call`"
    assert "call" not in vars(dense)
    before = dense.activation
    with internals.replaced(dense, "activation", None):
        assert dense.activation is None
    assert dense.activation is before


def test_what_variables_are_made_with():
    with internals.noting():
        dense = layers.Dense(3, kernel_initializer="he_normal", name="dense")
        dense.build((None, 4))
        given = keras.Variable(np.ones(2, "float32"))
    said = f"{CHANGED}Variable.__init__ is not what the backends' variables call"
    assert type(internals.made_with(dense.kernel)) is keras.initializers.HeNormal, said
    assert internals.made_with(given).tolist() == [1, 1], said
    plain = layers.Dense(3)
    plain.build((None, 4))
    assert internals.made_with(plain.kernel) is None


def test_an_assigned_variable_no_longer_says_what_it_was_made_with():
    with internals.noting():
        variable = keras.Variable("zeros", shape=(3,), dtype="float32")
        assert internals.made_with(variable) is not None
        variable.assign(np.ones(3, "float32"))
    assert internals.made_with(variable) is None, f"{CHANGED}Variable.assign"


def test_layers_are_built_apart():
    keras.utils.clear_session()
    model = network()
    names = [layers.Flatten().name for _ in range(2)]
    with internals.apart() as scope, internals.noting(arrays_too=True):
        twins = [internals.twin_of(layer) for layer in model.layers[1:3]]
        variables = [variable for twin in twins for variable in internals.own_variables(twin)]
        array = keras.Variable(np.ones((2, 3), "float32"))
        array.assign(np.zeros((2, 3), "float32"))
        assert not keras.ops.any(scope.get_current_value(array))
    said = f"{CHANGED}a stateless scope makes variables otherwise"
    assert len(variables) == 4 and all(variable._value is None for variable in [*variables, array]), said
    assert tuple(array.shape) == (2, 3), said
    count = int(names[1].rpartition("_")[2])
    assert layers.Flatten().name.endswith(f"_{count + 1}"), f"{CHANGED}names are counted elsewhere"
    with keras.StatelessScope():
        pass  # at whose end variables would be initialized
    assert all(variable._value is None for variable in variables), said


def begin_again(seed):
    """All generators, Keras's global one too, which ``set_random_seed`` leaves in some releases."""
    global_state.set_global_attribute("global_seed_generator", None)
    keras.utils.set_random_seed(seed)


def test_generators_go_on_as_before():
    def numbers():
        return random.random(), np.random.rand(), float(keras.ops.convert_to_numpy(keras.random.uniform(())))

    begin_again(3)
    wanted = [numbers() for _ in range(3)]
    begin_again(3)
    found = [numbers()]
    drawn = []
    for _ in range(2):
        with internals.seeded(8):
            drawn.append(numbers())
        found.append(numbers())
    assert found == wanted, f"{CHANGED}the generator of keras.random is kept elsewhere"
    assert drawn[0] == drawn[1]


def test_the_bias_of_an_lstm():
    for layer, shape in ((layers.LSTM(3), (None, 4, 5)), (layers.ConvLSTM1D(3, 2), (None, 4, 6, 5))):
        with internals.noting():
            layer.build(shape)
        found = internals.bias_with_forget_gate(internals.made_with(layer.cell.bias))
        assert type(found) is keras.initializers.Zeros, f"{CHANGED}{type(layer.cell).__name__}.build"
    assert internals.bias_with_forget_gate(lambda: 0) is None
    assert internals.bias_with_forget_gate(keras.initializers.Zeros()) is None


def test_the_layout_of_a_weight_file():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.BatchNormalization()])
    found = internals.weights_layout(model)
    dense, norm = (f"layers/{name}/vars/" for name in ("dense", "batch_normalization"))
    names = [*(f"{dense}{n}" for n in range(2)), *(f"{norm}{n}" for n in range(4))]
    assert list(found) == names, f"{CHANGED}saving_lib"
    assert [id(saved) for saved in found.values()] == [id(variable) for variable in model.variables]
