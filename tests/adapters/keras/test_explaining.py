"""explain: what each recipe would do to a model of Keras."""

import keras
import numpy as np
import pytest
from keras import layers

from fastinit import Keep
from fastinit.adapters.keras import explain, initialize


def build():
    chosen = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.02), "name": "chosen"}
    return keras.Sequential(
        [keras.Input((64,)), layers.Dense(32, activation="relu", name="left"), layers.Dense(8, **chosen)], name="net"
    )


def array(variable):
    return np.asarray(keras.ops.convert_to_numpy(variable.value))


def test_explain_says_what_filling_does():
    model = build()
    before = [array(variable) for variable in model.variables]
    found = explain(model)
    assert all(map(np.array_equal, before, map(array, model.variables)))
    assert [row.difference for row in found] == ["auto and fans: distribution", "same", "fans: scale", "same"]
    for recipe in ("own", "auto", "fans"):
        assert [entry.initializer for entry in initialize(model, recipe)] == [getattr(row, recipe) for row in found]
    assert found["net/chosen/kernel"].why == "the author's own: RandomNormal; fans: no activation found: gain 1"
    assert "net/left/kernel    (64, 32)  uniform 0.144  normal 0.177  normal 0.177" in str(found)


def test_what_is_frozen_stays():
    model = build()
    model.layers[0].trainable = False
    rows = list(explain(model))[:2]
    for row, entry in zip(rows, initialize(model, "auto"), strict=False):
        assert row.own == row.auto == row.fans == entry.initializer == Keep()
        assert (row.difference, row.why) == ("same", "frozen: kept")


class Given(layers.Layer):
    """Keras cannot build it again."""

    def __init__(self, start, **named):
        super().__init__(**named)
        self.scale = self.add_weight(shape=(4,), initializer=start, name="scale")


def test_explain_without_programs():
    (row,) = explain(Given(keras.initializers.RandomNormal(), name="given"))
    assert row.own is None and row.difference == "no program"


def test_what_is_refused():
    with pytest.raises(TypeError):
        explain(None)
    with pytest.raises(ValueError, match="no variables"):
        explain(keras.Sequential())
