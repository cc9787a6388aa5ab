"""Names of variables: the same for every model that the same code makes, whatever the process made before."""

import keras
import numpy as np
import pytest
from keras import layers

import fastinit
from fastinit import Rule
from fastinit.adapters.keras import initialize, replay
from fastinit.adapters.keras.layers import parameters

BACKEND = keras.config.backend()


class Own(keras.Model):
    def __init__(self, name=None):
        super().__init__(name=name)
        self.first = layers.Dense(4)
        self.rest = [layers.Dense(4, name="named"), layers.Dense(4)]
        self.inner = keras.Sequential([layers.Dense(4), layers.LayerNormalization()])

    def call(self, inputs):
        for layer in (self.first, *self.rest, self.inner):
            inputs = layer(inputs)
        return inputs


class Unnamed(layers.Layer):
    """Its variables have no names."""

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:])
        self.frozen = self.add_weight(shape=shape[-1:], trainable=False)
        self.shift = self.add_weight(shape=shape[-1:])

    def call(self, inputs):
        return inputs * self.scale + self.shift


def sequential(*inner, name=None, shape=(4,)):
    return keras.Sequential([keras.Input(shape), *inner], name=name)


def lazy():
    model = keras.Sequential([layers.Dense(4), layers.Dense(2)])
    model(np.zeros((1, 4), "float32"))
    return model


def own():
    model = Own()
    model(np.zeros((1, 4), "float32"))
    return model


def functional():
    inputs = keras.Input((4,))
    inner = keras.Sequential([layers.Dense(4), layers.Dense(4, name="q")])
    return keras.Model(inputs, layers.Dense(2)(inner(layers.Dense(4)(inputs))))


def extractor():
    model = sequential(layers.Dense(4), layers.Dense(2))
    return keras.Model(model.inputs, model.layers[0].output)


def around_another():
    inputs = keras.Input((4,))
    inner = keras.Model(inputs, layers.Dense(4, name="x")(inputs))  # whose path is x, as it was built alone
    return sequential(inner, layers.Dense(4, name="x"))


def beside_a_name_like_keras_s():
    for _ in range(2):
        layers.Dense(1)
    return sequential(layers.Dense(3), Unnamed(name="dense_1"), layers.Dense(2))


def recurrent():
    return sequential(
        layers.Bidirectional(layers.GRU(2, return_sequences=True)),
        layers.Bidirectional(layers.LSTM(2, return_sequences=True, name="given"), name="both"),
        layers.TimeDistributed(layers.Dense(3)),
        shape=(5, 3),
    )


# How a model is made, and what its kernels are called.
MODELS = {
    "named layers": (lambda: sequential(layers.Dense(3, name="a"), layers.Dense(2, name="b")), ["a", "b"]),
    "named": (lambda: sequential(layers.Dense(3, name="a"), layers.Dense(2), name="m"), ["m/a", "m/dense"]),
    "no names": (lambda: sequential(layers.Dense(3), layers.Dense(2)), ["dense", "dense_1"]),
    "built by a call": (lazy, ["dense", "dense_1"]),
    "functional": (functional, ["dense_1", "sequential/dense", "sequential/q", "dense"]),  # the last was made first
    "subclassed": (own, ["dense", "named", "dense_1", "sequential/dense"]),
    "a part": (extractor, ["sequential/dense"]),
    "one name twice": (around_another, ["x", "sequential/x"]),
    "a name like Keras's on another class": (beside_a_name_like_keras_s, ["dense", "dense_2"]),
    "counted from 0 by hand": (
        lambda: sequential(layers.Dense(3, name="dense_0"), layers.Dense(3, name="dense_3")),
        ["dense_0", "dense_3"],
    ),
    "wrapped": (
        recurrent,
        [
            *(f"bidirectional/{way}_gru/gru_cell" for way in ("forward", "backward")),
            *(f"both/{way}_given/lstm_cell" for way in ("forward", "backward")),
            "time_distributed/dense",
        ],
    ),
}
RECIPE = fastinit.AUTO.with_rules(Rule("Unnamed", "variable", fastinit.Normal(), "unnamed"))


@pytest.mark.parametrize("name", MODELS)
def test_models_of_one_process_have_the_same_names_and_values(name):
    make, kernels = MODELS[name]
    first = make()
    sequential(layers.Dense(3), layers.LSTM(2, return_sequences=True), layers.GRU(2), Unnamed(), shape=(5, 3))
    own()
    second = make()
    record = initialize(first, RECIPE, seed=3)
    assert [entry.name for entry in record if entry.name.endswith("/kernel")] == [f"{one}/kernel" for one in kernels]
    assert initialize(second, RECIPE, seed=3) == record
    assert replay(record, second) == record


def test_unnamed_variables_are_counted_within_their_layer():
    def names(*inner):
        return [place.parameter.name for place in parameters(sequential(*inner))]

    alone = names(Unnamed(name="a"))
    assert alone == ["a/variable", "a/variable_1"]
    assert names(Unnamed(name="before"), Unnamed(name="a"))[2:] == alone
    assert {place.parameter.role for place in parameters(sequential(Unnamed(), Unnamed()))} == {"variable"}


def test_layers_without_a_name_change_none_that_has_one():
    few = sequential(layers.Dense(4, name="a"), layers.Dense(4, name="b"))
    many = sequential(layers.Dense(4), layers.Dense(4, name="a"), own(), layers.Dense(4, name="b"), Unnamed())
    small, large = initialize(few, RECIPE, seed=1), initialize(many, RECIPE, seed=1)
    assert all(large[entry.name] == entry for entry in small)


def test_a_loaded_model_has_the_names_of_the_one_that_was_saved(tmp_path):
    sequential(layers.Dense(3), layers.Dense(3))
    model = sequential(layers.Dense(3), layers.Dense(3, name="a"), layers.LayerNormalization(), layers.Dense(2))
    record = initialize(model)
    model.save(tmp_path / "model.keras")
    keras.utils.clear_session()
    assert replay(record, keras.models.load_model(tmp_path / "model.keras")) == record


def test_models_within_a_model_whose_variables_have_one_path():
    def tower(name):
        inputs = keras.Input((4,))
        return keras.Model(inputs, layers.Dense(3, name="head")(layers.Dense(5)(inputs)), name=name)

    def towers(*names):
        inner = [tower(name) for name in names]
        inputs = [keras.Input((4,)) for _ in inner]
        return keras.Model(inputs, [each(one) for each, one in zip(inner, inputs, strict=True)])

    for _ in range(2):
        names = [place.parameter.name for place in parameters(towers("left", "right"))]
        heads = ["left/head/kernel", "left/head/bias", "right/head/kernel", "right/head/bias"]
        assert [name for name in names if "head" in name] == heads
        assert len(set(names)) == 8
    unnamed = [place.parameter.name for place in parameters(towers(None, None))]
    assert [name for name in unnamed if "head/kernel" in name] == ["functional/head/kernel", "functional_1/head/kernel"]


def test_a_layer_alone():
    layer = layers.Dense(3)
    layer.build((None, 4))
    assert [entry.name for entry in initialize(layer)] == ["kernel", "bias"]


def test_every_variable_has_its_name():
    model = sequential(*(layers.Dense(1, name=f"layer{number}") for number in range(100)))
    assert len({place.parameter.name for place in parameters(model)}) == 200


@pytest.mark.parametrize(
    "application",
    [
        "ConvNeXtTiny",
        "MobileNetV3Small",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in (
                *("ResNet50", "MobileNetV2", "EfficientNetB0", "EfficientNetV2B0", "DenseNet121", "InceptionV3"),
                *("Xception", "InceptionResNetV2", "VGG16"),
            )
        ),
    ],
)
def test_published_models_twice_in_one_process(application, request):
    make = getattr(keras.applications, application)
    full = request.node.get_closest_marker("long") is not None
    if BACKEND != "torch":
        pytest.skip("names are the same on every backend")
    first, second = make(weights=None), make(weights=None)
    names = [[place.parameter.name for place in parameters(model)] for model in (first, second)]
    assert names[0] == names[1]
    if full:
        record = initialize(first)
        assert initialize(second) == record
        assert replay(record, first) == record
