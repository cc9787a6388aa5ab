"""audit and lsuv of Keras models."""

import math

import keras
import numpy as np
import pytest
from keras import layers

import fastinit
from fastinit.adapters.keras import initialize, versions
from fastinit.adapters.keras.auditing import audit, lsuv
from fastinit.adapters.keras.models import replay


def array(tensor):
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float64")))


def inputs(*shape, number=0):
    return np.random.default_rng(number).standard_normal(shape).astype("float32")


def refusal(function, *arguments, **named):
    try:
        function(*arguments, **named)
    except Exception as error:
        return error
    raise AssertionError("it was not refused")


def kinds(found):
    """Without what a Sequential puts before the names of its variables."""
    return [(finding.name.removeprefix("perceptron/"), finding.kind) for finding in found.findings]


def opaque(kind):
    """A class of layers that do the same, and of which nobody can tell with what they make their variables."""

    class Opaque(kind):
        def build(self, input_shape):
            super().build(input_shape)

        def get_config(self):
            raise NotImplementedError

    return Opaque


def perceptron(depth=4, activation="relu", filled=True, dense=layers.Dense):
    hidden = [dense(64, activation=activation, name=f"layer{number}") for number in range(depth - 1)]
    model = keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(64, name="head")], name="perceptron")
    if filled:
        initialize(model, "auto")
    return model


def images():
    image = keras.Input((12, 12, 4), name="image")
    x = layers.Conv2D(32, 3, groups=2, activation="relu", name="grouped")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu", name="depthwise")(x)
    x = layers.SeparableConv2D(32, 3, activation="tanh", name="separable")(x)
    x = layers.BatchNormalization(name="another_norm")(x)  # Keras's fans of depthwise kernels are far too large
    x = layers.Conv2DTranspose(16, 3, strides=2, name="transposed")(x)
    return keras.Model(image, layers.Dense(8, name="head")(layers.GlobalAveragePooling2D()(x)), name="images")


def words():
    tokens = keras.Input((10,), dtype="int32", name="tokens")
    x = layers.Embedding(80, 32, name="embedding")(tokens)
    x = layers.LSTM(48, return_sequences=True, name="lstm")(x)
    x = layers.LayerNormalization(name="before")(x)
    x = x + layers.MultiHeadAttention(4, 12, name="attention")(x, x)
    x = layers.GRU(32, name="gru")(x)
    return keras.Model(tokens, layers.Dense(8, name="head")(layers.Dropout(0.1)(x)), name="words")


class Subclassed(keras.Model):
    """Calls its layers itself, and returns a dict."""

    def __init__(self):
        super().__init__(name="subclassed")
        self.first = layers.Dense(64, activation="gelu", name="first")
        self.second = layers.Dense(64, name="second")

    def call(self, inputs):
        hidden = self.first(inputs)
        return {"out": self.second(hidden), "hidden": hidden}


def subclassed():
    model = Subclassed()
    model(inputs(2, 64))
    return model


HEALTHY = (
    (perceptron, inputs(64, 64)),
    (lambda: perceptron(filled=False), inputs(64, 64)),
    (images, inputs(8, 12, 12, 4)),
    (words, np.arange(160).reshape(16, 10) % 80),
    (subclassed, inputs(64, 64)),
    (lambda: perceptron(3, "selu"), inputs(64, 64)),
)


def planted(change, dense=layers.Dense):
    model = perceptron(dense=dense)
    kernel = array(model.get_layer("layer1").kernel).astype("float32")
    model.get_layer("layer1").kernel.assign(change(kernel))
    return kinds(audit(model))


def test_planted_faults_of_a_kernel_are_found():
    name = "layer1/kernel"
    rng = np.random.default_rng(0)
    for dense in (layers.Dense, opaque(layers.Dense)):
        assert planted(lambda kernel: kernel, dense) == []
        assert planted(np.zeros_like, dense) == [(name, "scale" if dense is layers.Dense else "untouched")]
        assert planted(lambda kernel: kernel * 1e30, dense) == [(name, "untouched")]
        assert planted(lambda kernel: np.full_like(kernel, 0.1), dense) == [(name, "constant")]
        assert planted(lambda kernel: np.where(kernel > 0.5, np.nan, kernel), dense) == [(name, "not finite")]
        assert planted(lambda kernel: kernel * 2, dense) == [(name, "scale")]  # fan_in / 4, as of a shard
        assert planted(lambda kernel: rng.standard_normal(kernel.shape), dense) == [(name, "scale")]
        assert planted(np.abs, dense) == [(name, "scale")]
    # in moments that are the author's
    assert planted(lambda kernel: kernel[:, [*range(63), 5]], opaque(layers.Dense)) == [(name, "identical rows")]
    many = planted(lambda kernel: np.where(np.arange(64) < 2, 0.3, kernel), opaque(layers.Dense))
    assert many == [(name, "constant rows")]


@pytest.mark.every_backend
def test_copies_and_wrong_fans_are_found():
    model = perceptron()
    model.get_layer("layer2").kernel.assign(model.get_layer("layer1").kernel)
    assert kinds(audit(model)) == [("layer2/kernel", "identical tensors")]
    model.get_layer("layer1").trainable = False  # as a network that follows another one
    assert kinds(audit(model)) == []
    depthwise = layers.DepthwiseConv2D(3, depth_multiplier=16, activation="relu", name="depthwise")
    model = keras.Sequential([keras.Input((12, 12, 32)), depthwise], name="perceptron")
    assert kinds(audit(model)) == []  # Keras's default, though its fans are wrong as well
    depthwise.kernel.assign(keras.initializers.HeNormal(seed=1)((3, 3, 32, 16)))
    (finding,) = audit(model).findings
    assert (finding.kind, finding.message.partition(" by ")[2]) == ("scale", "the author's code")
    depthwise = opaque(layers.DepthwiseConv2D)(3, depth_multiplier=16, activation="relu", name="depthwise")
    model = keras.Sequential([keras.Input((12, 12, 32)), depthwise], name="perceptron")
    depthwise.kernel.assign(keras.initializers.HeNormal(seed=1)((3, 3, 32, 16)))
    (finding,) = audit(model).findings
    assert kinds(audit(model)) == [("depthwise/kernel", "scale")]
    assert "He's scheme" in finding.message or "the rule for its activation" in finding.message
    assert "wrong fans, read off the shape" in finding.message
    assert "'perceptron/depthwise/kernel', VarianceScaling(scale=2.0" in finding.remedy


class Scaled(layers.Layer):
    """A layer scale: it lets next to nothing of its branch pass at first."""

    def build(self, shape):
        self.gamma = self.add_weight(shape=shape[-1:], initializer=keras.initializers.Constant(1e-6), name="gamma")

    def call(self, inputs):
        return inputs * self.gamma


class RootMeanSquare(layers.Layer):
    """A norm of an author's own."""

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], initializer="zeros", name="scale")

    def call(self, inputs):
        return inputs / keras.ops.sqrt(keras.ops.mean(inputs**2, -1, keepdims=True) + 1e-6) * (1 + self.scale)


def closed(head="zeros"):
    """What authors set to zero or nearly: the last norm of a branch, its last map, its scale, and the head."""
    image = keras.Input((8, 8, 16), name="image")
    zero, convolution = {"gamma_initializer": "zeros"}, {"padding": "same", "use_bias": False}
    x = layers.Conv2D(32, 3, name="stem", **convolution)(image)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    branch = layers.BatchNormalization(name="last_norm", **zero)(layers.Conv2D(32, 3, name="one", **convolution)(x))
    x = layers.ReLU()(layers.Add()([x, branch]))
    branch = layers.Conv2D(32, 3, activation="relu", name="two", **convolution)(x)
    x = layers.Add()([x, layers.Conv2D(32, 1, kernel_initializer="zeros", name="last")(branch)])
    x = layers.Add()([x, Scaled(name="scale")(layers.Dense(32, name="three")(RootMeanSquare(name="own_norm")(x)))])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(8, kernel_initializer=head, name="head")(x), name="closed")


def test_what_an_author_sets_to_zero_is_no_fault():
    keras.utils.set_random_seed(2)
    model, batch = closed(), inputs(16, 8, 8, 16)
    found = audit(model, batch)
    assert found.ok and found.verdict == "healthy", str(found)
    by_name = {layer.name: layer for layer in found.layers}
    assert {name for name, layer in by_name.items() if layer.closed} == {"last_norm", "last", "scale", "head"}
    assert {name for name, layer in by_name.items() if layer.norm} == {"norm", "last_norm", "own_norm"}
    assert {name for name, layer in by_name.items() if layer.starts} == {"stem"}
    assert by_name["stem"].response > 0  # past a head of zeros
    initialize(model, seed=1)
    assert audit(model).ok
    model.get_layer("two").kernel.assign(np.zeros((3, 3, 32, 32)))
    model.get_layer("last").kernel.assign(inputs(1, 1, 32, 32))
    assert kinds(audit(model)) == [("two/kernel", "scale"), ("last/kernel", "not as written")]


def test_a_network_that_is_cut_is_found():
    def cut(value):
        hidden = [layers.Dense(64, name=f"layer{number}") for number in range(6)]
        stack = [each for layer in hidden for each in (layer, layers.BatchNormalization(), layers.ReLU())]
        model = keras.Sequential([keras.Input((64,)), *stack], name="perceptron")
        model.get_layer("layer3").kernel.assign(np.full((64, 64), value))
        return audit(model, inputs(32, 64)).verdict

    assert (cut(0.0), cut(0.1)) == ("vanishing", "symmetric")


def test_healthy_models_are_silent_by_keras_and_by_fastinit():
    jax = keras.config.backend() == "jax"  # which compiles for every run anew
    for number, (build, batch) in enumerate(HEALTHY[:2] if jax else HEALTHY):
        keras.utils.set_random_seed(number)
        model = build()
        for ours in (False, True):
            if ours:
                initialize(model, "auto")
            found = audit(model, batch if ours or not jax else None)
            by_keras = (
                not ours and not versions.AXES_OF_FANS
            )  # before 3.15 its attention has wrong fans, and audit says so
            told = [each for each in found.findings if not (by_keras and each.name.startswith("attention/"))]
            assert not told, f"{model.name}\n{found}"
            assert found.verdict == ("healthy" if found.layers else "not run")
            assert all(layer.response is not None for layer in found.layers if layer.weight), str(found)
        assert len(found.layers) > 1


@pytest.mark.every_backend
def test_layers_are_measured_in_the_order_of_execution():
    batch = inputs(256, 64)
    model = perceptron()
    found = audit(model, batch)
    assert [layer.weight.name.partition("/")[2] for layer in found.layers] == [f"layer{n}/kernel" for n in range(3)] + [
        "head/kernel"
    ]
    hidden = np.maximum(batch.astype("float64") @ array(model.get_layer("layer0").kernel), 0.0)
    assert math.isclose(found.layers[0].variance, hidden.var(), rel_tol=1e-4)
    assert found.layers[0].width == 64
    noise = fastinit.fill(np.empty((256, 64), "float32"), fastinit.Normal(), fastinit.Key("fastinit.audit").fold_in(0))
    assert math.isclose(found.layers[-1].gradient_variance, noise.var(), rel_tol=1e-4)
    before_head = noise.astype("float64") @ array(model.get_layer("head").kernel).T
    assert math.isclose(found.layers[-2].gradient_variance, before_head.var(), rel_tol=1e-3)


@pytest.mark.every_backend
def test_verdicts():
    model = perceptron(8)
    kernel = model.get_layer("layer3").kernel
    kernel.assign(kernel * 1e-3)
    found = audit(model, inputs(64, 64))
    assert found.verdict == "vanishing"
    assert kinds(found) == [("layer3/kernel", "scale"), ("layer3", "vanishing")]
    model = perceptron()
    model.get_layer("layer1").bias.assign(np.full(64, -50.0))
    assert "dead" in {finding.kind for finding in audit(model, inputs(64, 64)).findings}


def test_nothing_changes():
    model = images()
    initialize(model, "auto")
    dropped = keras.Sequential([keras.Input((12, 12, 4)), layers.Dropout(0.5), model])
    before = [array(variable) for variable in dropped.variables]
    methods = [layer.call for layer in model.layers]
    first, second = (audit(dropped, inputs(8, 12, 12, 4)) for _ in range(2))
    assert first.as_dict() == second.as_dict()
    assert all(map(np.array_equal, before, map(array, dropped.variables)))
    assert [layer.call for layer in model.layers] == methods
    assert not any("call" in vars(layer) for layer in model.layers)
    assert type(refusal(audit, dropped, inputs(2, 5))) is ValueError
    assert not any("call" in vars(layer) for layer in model.layers)


def test_a_record_is_compared():
    model = perceptron()
    record = initialize(model, "auto", seed=3)
    assert audit(model, record=record).ok
    model.get_layer("head").kernel.assign(-model.get_layer("head").kernel)
    assert kinds(audit(model, record=record)) == [("head/kernel", "not as recorded")]
    replay(record, model)
    assert audit(model, record=record.to_json()).ok


def test_bad_input():
    model = perceptron()
    assert type(refusal(audit, None)) is TypeError
    assert "no variables" in str(refusal(audit, keras.Sequential()))
    assert "the batch does not fit perceptron" in str(refusal(audit, model, inputs(8, 3)))
    assert "expected a finite batch" in str(refusal(audit, model, np.full((8, 64), np.nan, "float32")))
    assert "does not fit" in str(refusal(lsuv, model, inputs(8, 3)))
    assert "tolerance" in str(refusal(lsuv, model, inputs(8, 64), tolerance=0.0))
    assert "rounds" in str(refusal(lsuv, model, inputs(8, 64), rounds=0))


@pytest.mark.every_backend
def test_lsuv_makes_a_badly_scaled_network_healthy():
    model, batch = perceptron(12), inputs(128, 64)
    for layer in model.layers:
        layer.kernel.assign(layer.kernel * 0.05)
    assert audit(model, batch).verdict == "vanishing"
    factors = lsuv(model, batch)
    assert [name.partition("/")[2] for name in factors] == [f"layer{number}/kernel" for number in range(11)] + [
        "head/kernel"
    ]
    assert all(factor > 5 for factor in factors.values())
    assert audit(model, batch).verdict == "healthy"
    signal = batch.astype("float64")
    for layer in model.layers:
        signal = signal @ array(layer.kernel)
        assert abs(signal.var() - 1) < 0.021
        signal = np.maximum(signal, 0.0)
    assert all(abs(factor - 1) < 0.02 for factor in lsuv(model, batch).values())


def test_lsuv_of_convolutions_and_what_it_refuses():
    model = images()
    initialize(model, "auto")
    norm = model.get_layer("norm")
    before = [array(variable) for variable in norm.variables]
    factors = lsuv(model, inputs(8, 12, 12, 4))
    assert set(factors) == {
        "grouped/kernel",
        "depthwise/kernel",
        "separable/pointwise_kernel",
        "transposed/kernel",
        "head/kernel",
    }
    assert all(map(np.array_equal, before, map(array, norm.variables)))
    model = perceptron()
    model.get_layer("layer2").bias.assign(10 * inputs(64))
    kernels = [array(layer.kernel) for layer in model.layers]
    assert "layer2/kernel' cannot be scaled" in str(refusal(lsuv, model, inputs(64, 64)))
    assert all(np.array_equal(one, array(layer.kernel)) for one, layer in zip(kernels, model.layers, strict=True))


@pytest.mark.every_backend
def test_a_model_that_fails_is_left_as_it_was():
    class Failing(layers.Layer):
        def call(self, inputs):
            raise RuntimeError("on purpose")

    model = keras.Sequential([layers.Dense(3, activation="relu", name="first"), layers.Dense(3), Failing()])
    for layer in model.layers[:2]:
        layer.build((None, 3))
    batch = np.ones((4, 3), "float32")
    before = [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in model.layers[0].variables]
    for function in (audit, lsuv):
        with pytest.raises(Exception, match="on purpose"):
            function(model, batch)
        assert not any("call" in vars(layer) for layer in model.layers)
        assert model.layers[0].activation is keras.activations.relu
        after = [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in model.layers[0].variables]
        assert all(map(np.array_equal, before, after))
