"""What layers make their variables with, as programs: found without a trace, and filled as a new layer's."""

import math
import random
from importlib.util import find_spec

import keras
import numpy as np
import pytest
from keras import layers
from keras.src.backend.common import global_state

import fastinit
from fastinit.adapters.keras import initialize, initializers, recorded, replay, versions
from fastinit.adapters.keras.layers import parameters, with_programs
from fastinit.models.rules import UnmatchedParameter

IMAGE, SEQUENCE, VECTOR, TOKENS, VIDEO = (16, 16, 8), (12, 8), (24,), (7,), (3, 9, 9, 4)


def array(tensor):
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float64")))


def filled(entry):
    return fastinit.fill(np.empty(entry.shape, np.float32), entry.initializer, entry.key)


def alone(layer, shape):
    """A model of one layer; a layer that takes several inputs gets the same one."""
    inputs = keras.Input(shape, dtype="int32" if shape == TOKENS else "float32")
    pair = isinstance(layer, (layers.Attention, layers.AdditiveAttention))
    two = isinstance(layer, (layers.MultiHeadAttention, layers.GroupQueryAttention))
    return keras.Model(inputs, layer([inputs, inputs]) if pair else layer(inputs, inputs) if two else layer(inputs))


EVERY = {
    "dense": (lambda: layers.Dense(40), VECTOR),
    "dense he": (lambda: layers.Dense(40, kernel_initializer="he_normal", bias_initializer="random_normal"), VECTOR),
    "dense fan_out": (
        lambda: layers.Dense(40, kernel_initializer=keras.initializers.VarianceScaling(0.3, "fan_out", "normal")),
        VECTOR,
    ),
    "dense orthogonal": (lambda: layers.Dense(40, kernel_initializer="orthogonal"), VECTOR),
    "dense identity": (lambda: layers.Dense(24, kernel_initializer="identity"), VECTOR),
    "dense constant": (lambda: layers.Dense(40, bias_initializer=keras.initializers.Constant(-2.5)), VECTOR),
    "dense fastinit": (lambda: layers.Dense(40, kernel_initializer=initializers.LecunUntruncatedNormal()), VECTOR),
    "einsum": (lambda: layers.EinsumDense("abc,cde->abde", (None, 5, 6), bias_axes="de"), SEQUENCE),
    "conv1d": (lambda: layers.Conv1D(16, 3), SEQUENCE),
    "conv2d grouped": (lambda: layers.Conv2D(16, 3, groups=4), IMAGE),
    "conv3d": (lambda: layers.Conv3D(8, 2), VIDEO),
    "conv1d transposed": (lambda: layers.Conv1DTranspose(16, 3, strides=2), SEQUENCE),
    "conv2d transposed": (lambda: layers.Conv2DTranspose(16, 3), IMAGE),
    "conv3d transposed": (lambda: layers.Conv3DTranspose(8, 2), VIDEO),
    "depthwise 1d": (lambda: layers.DepthwiseConv1D(3, depth_multiplier=8), SEQUENCE),
    "depthwise 2d": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=4), IMAGE),
    "separable 1d": (lambda: layers.SeparableConv1D(16, 3, depth_multiplier=4), SEQUENCE),
    "separable 2d": (lambda: layers.SeparableConv2D(16, 3, depth_multiplier=4), IMAGE),
    "embedding": (lambda: layers.Embedding(50, 12), TOKENS),
    "reversible embedding": (lambda: layers.ReversibleEmbedding(50, 12, tie_weights=False), TOKENS),
    "batch norm": (layers.BatchNormalization, IMAGE),
    "batch norm gamma": (lambda: layers.BatchNormalization(gamma_initializer="zeros"), IMAGE),
    "layer norm": (layers.LayerNormalization, SEQUENCE),
    "group norm": (lambda: layers.GroupNormalization(4), IMAGE),
    "rms norm": (layers.RMSNormalization, SEQUENCE),
    "spectral norm": (lambda: layers.SpectralNormalization(layers.Conv2D(16, 3)), IMAGE),
    "spectral norm of dense": (lambda: layers.SpectralNormalization(layers.Dense(40)), VECTOR),
    "prelu": (layers.PReLU, VECTOR),
    "prelu drawn": (lambda: layers.PReLU(alpha_initializer="random_uniform", shared_axes=[1]), IMAGE),
    "simple rnn": (lambda: layers.SimpleRNN(11), SEQUENCE),
    "gru": (lambda: layers.GRU(11), SEQUENCE),
    "gru before": (lambda: layers.GRU(11, reset_after=False), SEQUENCE),
    "lstm": (lambda: layers.LSTM(11), SEQUENCE),
    "lstm drawn": (lambda: layers.LSTM(60, bias_initializer="random_normal"), SEQUENCE),
    "lstm plain": (lambda: layers.LSTM(11, unit_forget_bias=False), SEQUENCE),
    "conv lstm 1d": (lambda: layers.ConvLSTM1D(6, 3), (3, 9, 4)),
    "conv lstm 2d": (lambda: layers.ConvLSTM2D(6, 3), VIDEO),
    "conv lstm 3d": (lambda: layers.ConvLSTM3D(4, 2), (3, 5, 5, 5, 2)),
    "stacked": (lambda: layers.RNN([layers.LSTMCell(5), layers.GRUCell(6)]), SEQUENCE),
    "bidirectional": (lambda: layers.Bidirectional(layers.LSTM(7)), SEQUENCE),
    "time distributed": (lambda: layers.TimeDistributed(layers.Dense(9)), SEQUENCE),
    "attention": (lambda: layers.MultiHeadAttention(2, 6), SEQUENCE),
    "grouped attention": (lambda: layers.GroupQueryAttention(6, 4, 2), SEQUENCE),
    "scaled attention": (lambda: layers.Attention(use_scale=True), SEQUENCE),
    "spectrogram": (lambda: layers.STFTSpectrogram("real", frame_length=16, frame_step=8, fft_length=16), (64, 1)),
    "additive attention": (layers.AdditiveAttention, SEQUENCE),
}
# Of later releases than the oldest that the adapter works with: skipped by name where Keras does not have them.
LATER = {"reversible embedding": "ReversibleEmbedding"}
LACKING = {name: f"needs a Keras that has {kind}" for name, kind in LATER.items() if not hasattr(layers, kind)}
OF_AN_EINSUM = dict.fromkeys(
    () if versions.AXES_OF_FANS else ("einsum", "attention", "grouped attention"),
    "Keras before 3.15 draws these kernels with the fans of their shape; ours are those of 3.15",
)
HERE = {name: example for name, example in EVERY.items() if name not in LACKING}


def deviation(values):
    return math.sqrt(float(np.mean((values - values.mean()) ** 2))) if values.size else 0.0


def check_own(fresh, model):
    """Own gives a constant where a new model has one, and the same spread where it draws."""
    before = [array(variable) for variable in fresh.trainable_variables]
    record = initialize(model, seed=3)
    assert record.recipe == "own"
    assert len(record) == len(before)
    for entry, values in zip(record, before, strict=True):
        mine = array(next(v for v in model.trainable_variables if v.path == entry_path(model, entry)))
        assert mine.shape == values.shape
        is_table = isinstance(entry.initializer, fastinit.Replayed) and not entry.initializer.draws
        if is_table or (np.unique(values).size < 3 and not isinstance(entry.initializer, fastinit.Orthogonal)):
            assert np.array_equal(mine, values), entry
            continue
        noise = 5 / math.sqrt(2 * values.size)
        low, high = (1 - noise) / (1 + noise), (1 + noise) / max(1 - noise, 1e-3)
        assert low < deviation(mine) / deviation(values) < high, entry
        assert abs(mine.mean() - values.mean()) < 8 * deviation(values) / math.sqrt(values.size), entry
        assert not np.array_equal(mine, values)
        if values.size > 200:  # of a bounded distribution the largest value is near its bound
            assert 0.7 < np.abs(mine).max() / np.abs(values).max() < 1.4, entry
    return record


def entry_path(model, entry):
    return next(place.variable.path for place in parameters(model) if place.parameter.name == entry.name)


# One by one on one backend, torch's where that is installed; on the others the record of all of them is compared.
CHOSEN = keras.config.backend() == "torch" or find_spec("torch") is None
ONE_BY_ONE = [
    pytest.param(name, marks=[pytest.mark.skip(reason=apart[name])] if name in apart else long)
    for long in [[] if CHOSEN else [pytest.mark.long]]
    for apart in [LACKING | OF_AN_EINSUM]
    for name in EVERY
]


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_own_is_what_the_layer_does(name):
    make, shape = EVERY[name]
    check_own(alone(make(), shape), alone(make(), shape))


@pytest.mark.parametrize("init", [keras.initializers.GlorotUniform, initializers.GlorotUniform])
def test_the_kernels_of_einsums_have_the_fans_of_their_equations_in_every_release_of_keras(init):
    einsum = layers.EinsumDense("abc,cde->abde", (None, 5, 6), kernel_initializer=init(), name="einsum")
    attention = layers.MultiHeadAttention(2, 6, kernel_initializer=init(), name="attention")
    for layer, name, layout in [
        (einsum, "net/einsum/kernel", "IOO"),
        (attention, "net/attention/query/kernel", "IOO"),
        (attention, "net/attention/attention_output/kernel", "IIO"),
    ]:
        model = alone(layer, SEQUENCE)
        model.name = "net"
        record = initialize(model, seed=3)
        entry = next(entry for entry in record if name.endswith(entry.name.partition("/")[2]))
        wanted = fastinit.fill(np.empty(entry.shape, np.float32), fastinit.glorot_uniform(layout=layout), entry.key)
        assert np.array_equal(filled(entry), wanted), name
        place = next(place for place in parameters(model) if place.parameter.name == entry.name)
        assert np.array_equal(array(place.variable), wanted), name


@pytest.mark.skipif(not CHOSEN, reason="layers are the same on every backend")
def test_every_layer_of_keras_with_variables_is_in_the_list():
    abstract = {"Layer", "Wrapper", "InputLayer", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
    tested = set()
    for make, shape in HERE.values():
        model = alone(make(), shape)
        tested |= {type(layer).__name__ for layer in model._flatten_layers()}
    missing = []
    for name, kind in vars(layers).items():
        if not (isinstance(kind, type) and issubclass(kind, keras.Layer)) or name in abstract | tested:
            continue
        if kind.__name__ in tested:  # an alias
            continue
        try:
            layer = kind()
            layer.build((None, 8, 8, 4))
        except Exception:
            continue  # it needs arguments: those that have variables and do are in the list
        missing += [name] if layer._trainable_variables else []
    assert not missing


def test_an_own_initializer_is_found_wherever_it_was_given():
    model = alone(layers.LSTM(60, bias_initializer="random_normal"), SEQUENCE)
    places = with_programs(model, parameters(model))
    bias = next(place.parameter.program for place in places if place.parameter.role == "bias")
    assert bias.operators == ("RandomNormal", "unit_forget_bias")
    values = fastinit.fill(np.empty(240, np.float32), bias.initializer, fastinit.Key(0)).reshape(4, 60)
    assert (values[1] == 1).all()
    assert 0.03 < values[[0, 2, 3]].std() < 0.07
    assert not np.array_equal(values[0], values[2])


@keras.saving.register_keras_serializable(package="tests")
class Doubled(keras.initializers.Initializer):
    """Of an author's own: Keras can write it and read it."""

    def __init__(self, stddev=0.5, seed=None):
        self.stddev, self.seed = stddev, seed

    def __call__(self, shape, dtype=None):
        return 2 * keras.random.normal(shape, stddev=self.stddev, seed=self.seed, dtype=dtype)

    def get_config(self):
        return {"stddev": self.stddev, "seed": self.seed}


class Unknown(keras.initializers.Initializer):
    """The same, which Keras cannot read."""

    def __call__(self, shape, dtype=None):
        return keras.random.normal(shape, dtype=dtype)


class Counted(keras.initializers.Initializer):
    """Draws nothing, and Keras cannot read it."""

    def __call__(self, shape, dtype=None):
        return keras.ops.reshape(keras.ops.arange(math.prod(shape), dtype=dtype), shape)


class Custom(layers.Layer):
    """A layer of an author's: variables of all kinds, made in its own build."""

    def __init__(self, kind, **named):
        super().__init__(**named)
        self.kind = kind

    def build(self, shape):
        size = shape[-1]
        self.one = self.add_weight(shape=(size, 30), initializer=self.made(), name="one")

    def made(self):
        return {
            "registered": Doubled(),
            "registered with a seed": Doubled(seed=7),
            "unknown": Unknown(),
            "table": Counted(),
            "function": lambda shape, dtype=None: keras.ops.full(shape, 0.25, dtype=dtype),
            "default": None,
            "array": keras.initializers.Constant(np.arange(30.0)),
        }[self.kind]

    def call(self, inputs):
        return inputs @ self.one


def custom(kind, name="custom"):
    return keras.Sequential([keras.Input(VECTOR), Custom(kind, name=name), layers.Dense(3, name="head")], name="net")


def test_initializers_of_authors_are_run_again(tmp_path):
    for kind in ("registered", "registered with a seed"):
        model = custom(kind)
        record = initialize(model, seed=1)
        entry = record["net/custom/one"]
        assert isinstance(entry.initializer, fastinit.Replayed) and entry.initializer.draws == 1
        first = array(model.layers[0].one)
        assert 0.9 < first.std() < 1.1
        path = tmp_path / "custom.json"
        record.save(path)
        assert replay(path, custom(kind)) == record
        initialize(model, seed=2)
        assert not np.array_equal(array(model.layers[0].one), first)
        named = custom(kind, name="other")
        initialize(named, seed=1)
        assert not np.array_equal(array(named.layers[0].one), first)


def test_what_draws_nothing_is_a_table():
    for kind, wanted in {
        "table": np.arange(24 * 30).reshape(24, 30),
        "function": np.full((24, 30), 0.25),
        "array": np.broadcast_to(np.arange(30.0), (24, 30)),
    }.items():
        model = custom(kind)
        record = initialize(model, seed=1)
        assert np.array_equal(array(model.layers[0].one), wanted)
        assert replay(record.to_json(), custom(kind)) == record
        assert isinstance(record["net/custom/one"].initializer, fastinit.Constant) == (kind == "function")
    assert "GlorotUniform" in initialize(custom("default"))["net/custom/one"].rule


def refusal(function, *arguments, **named):
    with pytest.raises((UnmatchedParameter, ValueError)) as raised:
        function(*arguments, **named)
    return raised.value


def test_what_keras_cannot_write_is_named_and_may_stay():
    model = custom("unknown")
    before = [array(variable) for variable in model.variables]
    error = refusal(initialize, model)
    assert isinstance(error, UnmatchedParameter)
    assert "'net/custom/one' of shape (24, 30) (Custom)" in str(error) and "recorded()" in str(error)
    assert all(map(np.array_equal, before, map(array, model.variables)))
    record = initialize(model, unmatched="keep")
    assert isinstance(record["net/custom/one"].initializer, fastinit.Keep)
    assert np.array_equal(array(model.layers[0].one), before[0])
    assert not np.array_equal(array(model.layers[1].kernel), before[1])
    rules = fastinit.OWN.with_rules(fastinit.Rule("Custom", "one", fastinit.Normal()))
    assert initialize(model, rules)["net/custom/one"].initializer == fastinit.Normal()


class Given(layers.Layer):
    """Keras cannot build it again: its constructor takes a function, and it has no get_config."""

    def __init__(self, start, function, **named):
        super().__init__(**named)
        self.start, self.function = start, function

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], initializer=self.start, name="scale")

    def call(self, inputs):
        return self.function(inputs * self.scale)


def given():
    return keras.Sequential([keras.Input(VECTOR), Given("he_normal", abs, name="given")], name="net")


def test_recorded_models_know_what_no_configuration_says():
    assert "'net/given/scale'" in str(refusal(initialize, given()))
    with recorded():
        model = given()
    assert initialize(model)["net/given/scale"].rule == "the author's own: HeNormal"
    assert "'net/given/scale'" in str(refusal(initialize, given()))  # outside it is as before
    with recorded():
        plain = keras.Sequential([keras.Input(VECTOR), layers.Dense(9, name="dense")], name="net")
    unrecorded = keras.Sequential([keras.Input(VECTOR), layers.Dense(9, name="dense")], name="net")
    assert initialize(plain) == initialize(unrecorded)


class Gemma(layers.Layer):
    """A norm that multiplies by 1 + scale, in the way of KerasHub's; its name says nothing."""

    def build(self, shape):
        self.scale = self.add_weight(name="scale", trainable=True, shape=(shape[-1],), initializer="zeros")

    def call(self, x):
        return x * keras.ops.rsqrt(keras.ops.mean(keras.ops.square(x), -1, keepdims=True) + 1e-6) * (1 + self.scale)


class ShiftedNorm(layers.LayerNormalization):
    """The same of a norm of Keras's that its author made so."""

    def __init__(self, **named):
        super().__init__(gamma_initializer="zeros", **named)

    def call(self, x):
        return super().call(x) + x


@pytest.mark.parametrize("recipe", ["own", "auto", "fans"])
def test_norms_of_one_plus_a_weight_stay_at_zero(recipe):
    model = keras.Sequential([keras.Input(SEQUENCE), Gemma(name="one"), ShiftedNorm(name="two")], name="net")
    initialize(model, recipe)
    assert not array(model.layers[0].scale).any()
    assert not array(model.layers[1].gamma).any()


class Assigned(layers.Layer):
    """Its build writes over what it made."""

    def __init__(self, drawn=False, **named):
        super().__init__(**named)
        self.drawn = drawn

    def build(self, shape):
        self.table = self.add_weight(shape=shape[-1:], initializer="zeros", name="table")
        values = np.random.rand(*shape[-1:]) if self.drawn else np.linspace(0, 1, shape[-1])
        self.table.assign(values.astype("float32"))
        self.made = keras.Variable(np.full(3, 2.0, "float32"), name="made")

    def call(self, inputs):
        return inputs * self.table


def test_what_a_build_assigns_counts():
    def make(drawn):
        return keras.Sequential([keras.Input(VECTOR), Assigned(drawn, name="assigned")], name="net")

    model = make(False)
    initialize(model)
    assert np.array_equal(array(model.layers[0].table), np.linspace(0, 1, 24).astype("float32").astype(float))
    assert (array(model.layers[0].made) == 2).all()
    error = refusal(initialize, make(True))
    assert "'net/assigned/table'" in str(error) and "'net/assigned/made'" not in str(error)


class Holder(layers.Layer):
    """Its build writes over what a layer within it made."""

    def build(self, shape):
        self.inner = layers.Dense(6, kernel_initializer="zeros", name="inner")
        self.inner.build(shape)
        self.inner.bias.assign(np.arange(6, dtype="float32"))

    def call(self, inputs):
        return self.inner(inputs)


def test_what_a_holder_assigns_to_a_layer_within_it_counts():
    def make():
        return keras.Sequential([keras.Input(VECTOR), Holder(name="holder")], name="net")

    with recorded():
        noted = make()
    for model in (make(), noted):
        bias = model.layers[0].inner.bias
        bias.assign(np.zeros(6, "float32"))
        initialize(model)
        assert np.array_equal(array(bias), np.arange(6))


@keras.saving.register_keras_serializable(package="tests")
class Interpolated(layers.Layer):
    """Its build computes a table from one that it draws, as DINOv2 computes its positions."""

    def build(self, shape):
        initializer = keras.initializers.RandomNormal(stddev=0.1)
        self.source = self.add_weight(shape=(60, 40), initializer=initializer, trainable=False, name="source")
        self.table = self.add_weight(shape=(60, 20), initializer="zeros", name="table")
        self.table.assign(self.source[:, ::2] + self.source[:, 1::2])

    def call(self, inputs):
        return inputs


def test_what_a_build_computes_from_draws_is_computed_again():
    def make(name="interpolated"):
        return keras.Sequential(
            [keras.Input(VECTOR), Interpolated(name=name), layers.Dense(3, name="head")], name="net"
        )

    model = make()
    source = array(model.layers[0].source)
    record = initialize(model, seed=1)
    first = array(model.layers[0].table)
    entry = record["net/interpolated/table"]
    assert entry.rule.startswith("the author's own: ") and entry.rule.endswith(".build")
    assert isinstance(entry.initializer, fastinit.Replayed) and entry.initializer.draws == 1
    assert 0.13 < first.std() < 0.153 and np.array_equal(array(model.layers[0].source), source)
    assert replay(record.to_json(), make()) == record
    initialize(model, seed=2)
    assert not np.array_equal(array(model.layers[0].table), first)


class Written(layers.Layer):
    """Keras cannot build it again, and its constructor writes over what it made."""

    def __init__(self, function, **named):
        super().__init__(**named)
        self.table = self.add_weight(shape=(4,), initializer="zeros", name="table")
        self.table.assign(function(np.arange(4, dtype="float32")))


def test_a_note_that_is_no_longer_true_is_none():
    with recorded():
        layer = Written(abs, name="written")
    assert "'table' of shape" in str(refusal(initialize, layer))


def test_frozen_variables_stay_unless_asked():
    model = keras.Sequential(
        [
            keras.Input(IMAGE),
            layers.Conv2D(4, 3, name="body"),
            layers.BatchNormalization(name="norm"),
            layers.BatchNormalization(scale=False, center=False, name="plain"),
            layers.Flatten(name="flat"),
            layers.Dense(2, name="head"),
        ],
        name="net",
    )
    for layer in model.layers[:3]:
        layer.trainable = False
    for norm in model.layers[1:3]:
        norm.moving_mean.assign(keras.ops.ones(4))
    before = [array(variable) for variable in model.variables]
    record = initialize(model)
    after = dict(zip([variable.path for variable in model.variables], map(array, model.variables), strict=True))
    changed = [path for path, old in zip(after, before, strict=True) if not np.array_equal(after[path], old)]
    assert changed == ["net/head/kernel"]
    assert record["net/body/kernel"].rule == "frozen: kept"
    assert initialize(model, frozen=True)["net/body/kernel"].rule == "the author's own: GlorotUniform"
    assert not array(model.layers[1].moving_mean).any()
    assert not np.array_equal(array(model.layers[0].kernel), before[0])


def test_three_recipes():
    class Mine(layers.Dense):  # a layer of Keras's under another name
        pass

    model = keras.Sequential(
        [
            keras.Input(VECTOR),
            Mine(30, activation="relu", name="left"),
            layers.Dense(30, activation="relu", kernel_initializer="truncated_normal", name="chosen"),
            layers.Dense(30, kernel_initializer="zeros", name="zero"),
        ],
        name="net",
    )
    found = {
        recipe: [initialize(model, recipe)[f"net/{name}/kernel"].std for name in ("left", "chosen", "zero")]
        for recipe in ("own", "auto", "fans")
    }
    small = fastinit.TruncatedNormal(std=0.05).moments((3,)).std
    assert np.allclose(found["own"], [math.sqrt(2 / 54), small, 0])
    assert np.allclose(found["auto"], [math.sqrt(2 / 24), small, 0])
    assert np.allclose(found["fans"], [math.sqrt(2 / 24), math.sqrt(2 / 30), 0])
    attention = alone(layers.MultiHeadAttention(2, 6, name="attention"), SEQUENCE)
    titles = {entry.rule for entry in initialize(attention, "auto") if entry.fans}
    assert titles == {"no activation found: gain 1"}  # the default of an einsum has fans of its equation


def begin_again(seed):
    """All generators, Keras's global one too, which ``set_random_seed`` leaves in some releases."""
    global_state.set_global_attribute("global_seed_generator", None)
    keras.utils.set_random_seed(seed)


def test_nothing_of_the_process_changes():
    model = keras.Sequential([keras.Input(VECTOR), layers.Dense(9), Custom("registered"), layers.Dropout(0.1)])
    layers.Dense(1)
    begin_again(5)
    wanted = layers.Dense(1).name, random.random(), np.random.rand(), array(keras.random.normal((3,)))
    begin_again(5)
    before = layers.Dense(1).name
    initialize(model)
    found = random.random(), np.random.rand(), array(keras.random.normal((3,)))
    assert found[:2] == wanted[1:3]
    assert np.array_equal(found[2], wanted[3])
    numbers = [int(name.rpartition("_")[2]) for name in (wanted[0], before, layers.Dense(1).name)]
    assert numbers[2] == numbers[1] + 1 == numbers[0] + 2
    assert keras.Variable.__init__.__qualname__.startswith(("Variable", "JaxVariable", "NnxVariable"))


@pytest.mark.every_backend
@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.long)])  # every fourth layer, and all of them
def test_a_record_of_own_for_every_backend(step, tmp_path):
    record = initialize(alone(layers.LSTM(11, name="layer"), SEQUENCE), seed=6)
    entries = list(record)
    for name, (make, shape) in list(HERE.items())[::step]:
        if name == "spectrogram":  # cosines are the backend's own
            continue
        entries += initialize(keras.Model(*ends(make(), shape), name=f"net of {name}"), seed=6)
    (tmp_path / "own.json").write_text(
        fastinit.Record(tuple({entry.name: entry for entry in entries}.values()), 6, "own", "0").to_json()
    )


def test_lora_starts_as_the_layer_without_it():
    model = alone(layers.Dense(40, lora_rank=3, name="layer"), VECTOR)
    record = initialize(model)
    rules = {entry.name: entry.rule for entry in record}
    assert rules["layer/lora_kernel_a"] == "the author's own: HeUniform"
    assert rules["layer/lora_kernel_b"] == "the author's own: Zeros"
    assert rules["layer/kernel"] == "frozen: kept"
    assert initialize(model, frozen=True)["layer/kernel"].rule == "the author's own: GlorotUniform"


def ends(layer, shape):
    model = alone(layer, shape)
    return model.inputs, model.outputs


@pytest.mark.long
@pytest.mark.skipif(not CHOSEN, reason="layers are the same on every backend")
@pytest.mark.parametrize("name", ["MobileNetV3Small", "EfficientNetB0"])
def test_applications(name):
    def make():
        return getattr(keras.applications, name)(input_shape=(32, 32, 3), weights=None, classes=7)

    record = check_own(make(), make())
    assert not any(isinstance(entry.initializer, fastinit.Replayed) for entry in record)
