"""Whole Keras models: initialize, its record, and replay."""

import json
import math

import keras
import numpy as np
import pytest
from keras import layers

import fastinit
from fastinit import Rule
from fastinit.adapters.keras import initialize, replay
from fastinit.adapters.keras.layers import activation_after
from fastinit.adapters.keras.tensors import memory_of
from fastinit.models.rules import UnmatchedParameter


def array(tensor):
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float64")))


def network(extra=False):
    """One layer of every kind; every one has a name, so that its variables do."""
    image = keras.Input((16, 16, 4), name="image")
    x = layers.Conv2D(8, 3, groups=2, name="grouped")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="gelu", name="depthwise")(x)
    x = layers.SeparableConv2D(6, 3, activation="tanh", name="separable")(x)
    x = layers.Conv2DTranspose(5, 3, strides=2, name="transposed")(x)
    x = layers.LeakyReLU(negative_slope=0.3, name="leaky")(x)
    x = layers.Flatten(name="flat")(x)
    if extra:
        x = layers.Dense(33, activation="selu", name="another")(x)
    x = layers.Dense(12, name="dense")(x)
    x = layers.Dropout(0.1, name="drop")(x)
    x = layers.Activation("silu", name="silu")(x)
    tokens = keras.Input((6,), name="tokens", dtype="int32")
    y = layers.Embedding(50, 12, name="embedding")(tokens)
    y = layers.LSTM(7, return_sequences=True, name="lstm")(y)
    y = layers.Bidirectional(layers.GRU(4, return_sequences=True, name="gru"), name="both")(y)
    y = layers.MultiHeadAttention(2, 3, name="attention")(y, y)
    y = layers.LayerNormalization(name="layer_norm")(y)
    y = layers.RMSNormalization(name="rms_norm")(y)
    y = layers.PReLU(name="prelu")(y)
    y = layers.SimpleRNN(12, name="rnn")(y)
    return keras.Model([image, tokens], layers.Dense(3, name="head")(x + y), name="network")


def refusal(function, *arguments, **named):
    try:
        function(*arguments, **named)
    except Exception as error:
        return error
    raise AssertionError("it was not refused")


def test_a_convolutional_lstm_has_four_gates():
    model = keras.Sequential([keras.Input((4, 8, 8, 3)), layers.ConvLSTM2D(5, 3, name="layer")], name="moving")
    record = initialize(model, "auto", seed=5)
    fans = {entry.name.rpartition("/")[2]: entry.fans for entry in record}
    assert fans["kernel"] == fastinit.Fans(27, 45, 9)
    assert fans["recurrent_kernel"] == fastinit.Fans(45, 45, 9)
    bias = np.asarray(keras.ops.convert_to_numpy(model.layers[0].cell.bias))
    assert bias.tolist() == [0.0] * 5 + [1.0] * 5 + [0.0] * 10  # the forget gate


@pytest.mark.every_backend
def test_every_variable_has_its_rule_and_its_true_fans(tmp_path):
    model = network()
    record = initialize(model, "auto", seed=5, digests=True)
    (tmp_path / "record.json").write_text(record.to_json())
    assert [entry.name for entry in record] == [variable.path for variable in model.trainable_variables]
    fans = {entry.name: (entry.fans.fan_in, entry.fans.fan_out) for entry in record if entry.fans}
    assert fans["grouped/kernel"] == (18, 36)
    assert fans["depthwise/kernel"] == (9, 18)
    assert fans["separable/depthwise_kernel"] == (9, 9)
    assert fans["separable/pointwise_kernel"] == (16, 6)
    assert fans["transposed/kernel"] == (6 * 9 / 4, 5 * 9)
    assert fans["embedding/embeddings"] == (1, 12)
    assert fans["lstm/lstm_cell/kernel"] == (12, 7)
    assert fans["attention/query/kernel"] == (8, 6)
    assert fans["attention/attention_output/kernel"] == (6, 8)
    stds = {entry.name: entry.std for entry in record}
    assert math.isclose(stds["grouped/kernel"], math.sqrt(2 / 18))  # the rectifier behind the norm
    assert math.isclose(stds["depthwise/kernel"], fastinit.gain("gelu") / 3)
    assert math.isclose(stds["separable/depthwise_kernel"], 1 / 3)
    assert math.isclose(stds["separable/pointwise_kernel"], math.sqrt(2 / 22))
    assert math.isclose(stds["transposed/kernel"], math.sqrt(2 / (1 + 0.3**2) / (6 * 9 / 4)))
    assert math.isclose(stds["dense/kernel"], fastinit.gain("silu") / math.sqrt(fans["dense/kernel"][0]))
    for variable in model.trainable_variables:  # and the values are as the record says
        entry = record[variable.path]
        wanted = fastinit.fill(np.empty(entry.shape, np.float32), entry.initializer, entry.key)
        assert entry.key == fastinit.Key(5).fold_in(variable.path)
        assert np.array_equal(array(variable), wanted), variable.path
        assert entry.digest == fastinit.digest(wanted)


def test_gates():
    model = network()
    initialize(model, "auto")
    cell = model.get_layer("lstm").cell
    kernel, bias = array(cell.recurrent_kernel), array(cell.bias)
    for gate in range(4):
        block = kernel[:, 7 * gate : 7 * (gate + 1)]
        assert np.abs(block.T @ block - np.eye(7)).max() < 1e-5
    assert (bias.reshape(4, 7) == [[0], [1], [0], [0]]).all()
    forward = model.get_layer("both").forward_layer.cell
    block = array(forward.recurrent_kernel)[:, 4:8]
    assert np.abs(block.T @ block - np.eye(4)).max() < 1e-5
    assert not array(forward.bias).any()


def test_adding_layers_changes_no_other_variable():
    small, large = network(), network(extra=True)
    few, many = initialize(small, seed="x"), initialize(large, seed="x")
    assert [entry.name for entry in many if entry.name not in few] == ["another/kernel", "another/bias"]
    for entry in few:
        if entry.name != "dense/kernel":  # which has another shape now
            assert many[entry.name] == entry


def test_statistics_are_reset_and_other_state_is_left_alone():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Normalization(mean=2.0, variance=3.0),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.5),
            layers.Dense(2),
        ]
    )
    norm = model.get_layer("norm")
    norm.moving_mean.assign(keras.ops.full((4,), 9.0))
    norm.moving_variance.assign(keras.ops.full((4,), 9.0))
    state = [array(variable) for variable in model.layers[2].variables]  # of the dropout's generator
    initialize(model)
    assert (array(norm.moving_mean) == 0).all()
    assert (array(norm.moving_variance) == 1).all()
    assert all(map(np.array_equal, state, map(array, model.layers[2].variables)))


def test_frozen_layers_and_shared_ones():
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, shared(shared(inputs)))
    shared.trainable = False
    record = initialize(model)
    assert [entry.name for entry in record] == ["shared/kernel", "shared/bias"]


def test_a_kernel_that_a_wrapper_shares_is_the_inner_layers():
    kernels = [layers.Dense(5, activation="relu"), layers.Conv1D(5, 3, activation="relu"), layers.Embedding(9, 4)]
    for inner in kernels:
        inside = keras.Input((8,)) if isinstance(inner, layers.Embedding) else keras.Input((8, 6))
        own = keras.Sequential([inside, inner])
        shared = keras.Sequential([inside, layers.SpectralNormalization(type(inner).from_config(inner.get_config()))])
        plain, wrapped = ([entry.initializer for entry in initialize(each, "auto", seed=0)] for each in (own, shared))
        assert plain == wrapped


def test_subclassed_models():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.first = layers.Dense(5, activation="relu", name="first")
            self.rest = [layers.Dense(5, name=f"rest{number}") for number in range(2)]

        def call(self, inputs):
            for layer in (self.first, *self.rest):
                inputs = layer(inputs)
            return inputs

    model = Own()
    assert "build it first" in str(refusal(initialize, model))
    model(np.zeros((2, 3), "float32"))
    record = initialize(model, "auto")
    assert [entry.shape for entry in record if entry.fans] == [(3, 5), (5, 5), (5, 5)]
    first = next(entry for entry in record if entry.fans)
    assert math.isclose(first.std, math.sqrt(2 / 3))


def test_replay(tmp_path):
    model = network()
    record = initialize(model, "auto", seed=8, digests=True)
    values = [array(variable) for variable in model.trainable_variables]
    for variable in model.trainable_variables:
        variable.assign(keras.ops.zeros(variable.shape))
    path = tmp_path / "replayed.json"
    record.save(path)
    for form in (record, record.to_json(), path, str(path)):
        assert replay(form, model) == record
        assert all(map(np.array_equal, values, map(array, model.trainable_variables)))
    wrong = json.loads(record.to_json())
    wrong["entries"][0]["digest"] = "0" * 64
    assert "other bytes" in str(refusal(replay, json.dumps(wrong), model))
    wrong["stream_version"] = 2
    assert "stream version" in str(refusal(replay, json.dumps(wrong), model))
    assert "lacks the parameters" in str(refusal(replay, record, network(extra=True)))
    other = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="dense")], name="other")
    assert type(refusal(replay, record, other)) is ValueError
    assert type(refusal(replay, 3, model)) is TypeError


def test_recipes_of_ones_own():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, name="first"),
            layers.Dense(5, name="second"),
        ]
    )
    recipe = fastinit.AUTO.with_rules(Rule("Dense", "*second/kernel", fastinit.Orthogonal(), "second"))
    record = initialize(model, recipe)
    by_rule = {entry.rule: entry.shape for entry in record if len(entry.shape) == 2}
    assert by_rule == {"no activation found: gain 1": (4, 5), "second": (5, 5)}
    kernel = array(model.layers[1].kernel)
    assert np.abs(kernel.T @ kernel - np.eye(5)).max() < 1e-5


def test_what_cannot_be_filled_is_named_and_nothing_is_written():
    class Strange(layers.Layer):
        def build(self, shape):
            self.wonder = self.add_weight(shape=(3,), name="wonder", initializer="zeros")

        def call(self, inputs):
            return inputs * self.wonder

    model = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="dense"), Strange(name="strange")])
    before = array(model.layers[0].kernel)
    error = refusal(initialize, model, fastinit.Recipe((Rule("Dense", "*", fastinit.Ones()),)))
    assert isinstance(error, UnmatchedParameter)
    assert "wonder" in str(error)
    recipe = fastinit.AUTO.with_rules(Rule("Strange", "wonder", fastinit.Orthogonal()))
    assert "wonder" in str(refusal(initialize, model, recipe))  # an orthogonal vector
    assert np.array_equal(array(model.layers[0].kernel), before)
    for wrong, kind in ((None, TypeError), (3, TypeError), (keras.Sequential(), ValueError)):
        assert type(refusal(initialize, wrong)) is kind, wrong
    assert type(refusal(initialize, model, "none")) is ValueError
    assert type(refusal(initialize, model, "auto", 1.5)) is TypeError


@pytest.mark.every_backend
def test_bfloat16_models():
    model = keras.Sequential([keras.Input((40,)), layers.Dense(30, name="dense", dtype="bfloat16")])
    record = initialize(model, "auto", digests=True)
    entry = next(entry for entry in record if entry.fans)
    assert entry.dtype == "bfloat16"
    raw = fastinit.fill(np.empty((40, 30), np.uint16), entry.initializer, entry.key, dtype="bfloat16")
    assert entry.digest == fastinit.digest(raw)


def test_activations_that_follow():
    def after(*rest):
        first = layers.Dense(4)
        keras.Sequential([keras.Input((4,)), first, *rest])
        return activation_after(first)

    assert after() is None
    assert after(layers.ReLU()) == ("relu", 0.0)
    assert after(layers.ReLU(6.0)) == ("relu6", 0.0)
    assert after(layers.ReLU(5.0)) is None
    assert after(layers.ReLU(negative_slope=0.1)) == ("leaky_relu", 0.1)
    assert after(layers.ELU(), layers.ReLU()) == ("elu", 0.0)
    assert after(layers.ELU(alpha=2.0)) is None
    assert after(layers.PReLU()) == ("prelu", 0.25)
    assert after(layers.BatchNormalization(), layers.Dropout(0.1), layers.Activation("gelu")) == ("gelu", 0.0)
    assert after(layers.Dense(3), layers.ReLU()) is None
    assert after(layers.Activation("linear"), layers.ReLU()) is None
    assert after(layers.Softmax()) is None
    assert activation_after(layers.Dense(4, activation="swish")) == ("silu", 0.0)
    assert activation_after(layers.Dense(4, activation="leaky_relu")) == ("leaky_relu", 0.2)
    assert activation_after(layers.Dense(4, activation="softmax")) is None
    assert activation_after(layers.Dense(4, activation=lambda x: x)) is None
    inputs, first = keras.Input((4,)), layers.Dense(4)
    x = first(inputs)
    keras.Model(inputs, layers.ReLU()(x) + layers.Activation("tanh")(x))  # two ways to go on
    assert activation_after(first) is None
    inputs, first = keras.Input((4,)), layers.Dense(4)
    keras.Model(inputs, keras.ops.relu(first(inputs)))
    assert activation_after(first) == ("relu", 0.0)
    inputs, first = keras.Input((4,)), layers.Dense(4)
    keras.Model(inputs, keras.ops.gelu(first(inputs)))
    assert activation_after(first) == ("gelu_tanh", 0.0)


def test_parts_of_models_keep_everything_else():
    def made():
        net = [keras.Input((6,)), layers.Dense(5, name="body"), layers.BatchNormalization(name="norm")]
        return keras.Sequential([*net, layers.Dense(3, name="head")], name="net")

    model, whole = made(), made()
    initialize(whole, seed=3)
    expected = {variable.path: array(variable) for variable in whole.variables}
    for variable in model.variables:
        variable.assign(keras.ops.ones(variable.shape) * 7)
    record = initialize(model, seed=3, only=["net/head/*", "*/kernel"], skip="*/bias")
    assert [entry.name for entry in record] == ["net/body/kernel", "net/head/kernel"]
    for variable in model.variables:
        meant = variable.path in ("body/kernel", "head/kernel", "net/body/kernel", "net/head/kernel")
        assert (array(variable) == (expected[variable.path] if meant else 7)).all(), variable.path
    with pytest.raises(ValueError, match=r"only='hed\*' matches no parameter"):
        initialize(model, only="hed*")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", ["own", "mean", "mean_covariance", fastinit.Normal(0.0, 0.02)], ids=str)
def test_new_rows_of_a_larger_vocabulary(way, dtype):
    def made(size):
        words = layers.Embedding(size, 6, name="words", dtype=dtype)
        return keras.Sequential([keras.Input((9,)), words, layers.Dense(3, name="head")], name="net")

    old, model, whole = made(20), made(27), made(27)
    initialize(old, seed=1)
    initialize(whole, seed=3)
    before = {variable.path: array(variable) for variable in model.variables}
    rows = array(old.get_layer("words").embeddings)
    words = model.get_layer("words").embeddings
    words.assign(np.concatenate([rows, np.full((7, 6), 7)]))
    expected = memory_of(words).copy()
    record = initialize(model, seed=3, rows={"*words/embeddings": fastinit.NewRows(20, way)})
    assert [entry.name for entry in record] == ["net/words/embeddings"]
    found = array(words)
    assert (found[:20] == rows).all()
    for variable in model.variables:
        if variable is not words:
            assert (array(variable) == before[variable.path]).all(), variable.path
    if way == "own":
        assert (found == np.concatenate([rows, array(whole.get_layer("words").embeddings)[20:]])).all()
    else:  # as the core gives them
        expected = expected.view({"float32": np.uint32, "bfloat16": np.uint16}[dtype]).reshape(27, 6)
        key = fastinit.Key(3).fold_in("net/words/embeddings")
        fastinit.fill_rows(expected, fastinit.NewRows(20, way), key, dtype=dtype)
        assert (memory_of(words) == expected.reshape(-1).view(np.uint8)).all()
    words.assign(np.full((27, 6), np.inf))
    with pytest.raises(ValueError, match=r"'net/words/embeddings': the mean of the 20 old rows is not finite"):
        initialize(model, rows={"*words/embeddings": fastinit.NewRows(20, "mean")})
