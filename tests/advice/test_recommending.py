"""recommend(): the table of the literature, its reasons, and what it refuses."""

import math

import numpy as np
import pytest

import fastinit
from fastinit import Normal, Orthogonal, VarianceScaling, gain, recommend
from fastinit.advice.activations import ACTIVATIONS, ALIASES
from fastinit.advice.recommending import LAYERS

TABLE = {
    "sigmoid": (fastinit.glorot_uniform(), "Glorot"),
    "tanh": (fastinit.glorot_uniform(), "Glorot"),
    "softsign": (fastinit.glorot_uniform(), "Glorot"),
    "relu": (fastinit.he_normal(), "He"),
    "relu6": (fastinit.he_normal(), "He"),
    "selu": (fastinit.lecun_normal(), "Klambauer"),
    "linear": (fastinit.lecun_normal(), "LeCun"),
    None: (fastinit.lecun_normal(), "LeCun"),
    "gelu": (VarianceScaling(gain("gelu") ** 2, "fan_in", "normal"), "He"),
    "swish": (VarianceScaling(gain("silu") ** 2, "fan_in", "normal"), "He"),
    "mish": (VarianceScaling(gain("mish") ** 2, "fan_in", "normal"), "He"),
}


@pytest.mark.parametrize("activation", TABLE)
def test_the_table(activation):
    initializer, author = TABLE[activation]
    advice = recommend(activation)
    assert advice.initializer == initializer
    assert author in advice.source
    assert len(advice.reason) > 20
    assert repr(initializer) in str(advice)


@pytest.mark.parametrize("activation", sorted({*ACTIVATIONS, *ALIASES}))
def test_every_activation_has_an_answer(activation):
    advice = recommend(activation)
    assert isinstance(advice.initializer, VarianceScaling)
    assert 0.3 < advice.gain < 10


def test_leaky_rectifiers():
    advice = recommend("leaky_relu", negative_slope=0.2)
    assert advice.initializer == fastinit.he_normal(negative_slope=0.2)
    assert advice.gain == pytest.approx(math.sqrt(2 / 1.04))
    assert "0.2" in advice.reason
    assert recommend("leaky_relu").gain == pytest.approx(gain("leaky_relu"))
    assert recommend("prelu").gain == pytest.approx(gain("prelu"))


def test_weights_are_described():
    weight = {"layout": "OI...", "groups": 2, "transposed": False, "stride": 1, "blocks": 1}
    assert recommend("relu", **weight).initializer == fastinit.he_normal(**weight)
    assert recommend("tanh", layout="VD").initializer.layout == "VD"
    assert recommend("relu", "recurrent", layout="OI").initializer == Orthogonal(column_axis=0)


def test_layers():
    assert recommend("tanh", "recurrent").initializer == Orthogonal()
    assert recommend(None, "embedding").initializer == Normal()
    deep = recommend("gelu", "residual", depth=24)
    assert deep.initializer.scale == pytest.approx(gain("gelu") ** 2 / 24)
    assert deep.gain == pytest.approx(gain("gelu") / math.sqrt(24))
    assert "24 branches" in deep.reason


def test_functions():
    advice = recommend(lambda z: np.maximum(z, 0.0))
    assert advice.initializer.scale == pytest.approx(2.0)  # by its own moment, whatever it is called
    assert recommend(math.tanh).initializer.scale == pytest.approx(gain("tanh") ** 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("rellu",), ValueError, "did you mean .*relu"),
        (("Gelu",), ValueError, "did you mean gelu"),
        ((3,), TypeError, "name or a function"),
        ((lambda z: z * math.nan,), ValueError, "not finite"),
        (("relu", "convolution"), ValueError, "dense, residual, recurrent, embedding"),
        (("relu", "residual"), ValueError, "depth"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        recommend(*arguments)


def test_bad_depths():
    for depth, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error):
            recommend("relu", "residual", depth=depth)
    for layer in set(LAYERS) - {"residual"}:
        with pytest.raises(ValueError, match="depth"):
            recommend("relu", layer, depth=3)
    with pytest.raises(TypeError):
        recommend("relu", kernel="OI")
