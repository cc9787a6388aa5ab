"""verify: what became of each variable since the record was written."""

import keras
import numpy as np
import pytest
from keras import layers

import fastinit
from fastinit import Rule
from fastinit.adapters.keras import initialize, initializers, verify


def network(dtype="float32"):
    """An embedding, orthogonal gates, dense and convolutional kernels, a norm."""
    tokens = keras.Input((6,), name="tokens", dtype="int32")
    x = layers.Embedding(50, 12, name="embedding", dtype=dtype)(tokens)
    recurrent = initializers.Orthogonal()  # Keras's own knows no bfloat16
    x = layers.LSTM(7, return_sequences=True, recurrent_initializer=recurrent, name="lstm", dtype=dtype)(x)
    x = layers.Conv1D(8, 3, name="convolution", dtype=dtype)(x)
    x = layers.LayerNormalization(name="norm", dtype=dtype)(x)
    return keras.Model(tokens, layers.Dense(30, name="head", dtype=dtype)(x), name="network")


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.every_backend)])
@pytest.mark.parametrize("recipe", ["own", "auto"])
def test_what_was_filled_is_equal(recipe, dtype):
    model = network(dtype)
    record = initialize(model, recipe, seed=3)
    before = [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in model.variables]
    found = verify(record, model)
    assert found.is_sound and {row.verdict for row in found} == {"equal"} and len(found) == len(record)
    assert all(row.comparison.size == np.prod(record[row.name].shape) for row in found)
    assert verify(record.to_json(), model).is_sound
    after = [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in model.variables]
    assert all(one.tobytes() == other.tobytes() for one, other in zip(before, after, strict=True))


def test_another_dtype_is_rounded():
    wide, narrow = network(), network("bfloat16")
    record = initialize(wide, seed=3)
    for variable, other in zip(narrow.variables, wide.variables, strict=True):
        variable.assign(keras.ops.cast(other, variable.dtype))
    found = verify(record, narrow)
    assert found.is_sound and {row.verdict for row in found} == {"rounded"}
    assert found["head/kernel"].detail == "in bfloat16"


def test_what_was_trained_damaged_or_exchanged_is_said():
    model = network()
    record = initialize(model, "auto", seed=3)
    head, table = model.get_layer("head"), model.get_layer("embedding").embeddings
    model.get_layer("convolution").kernel.assign(model.get_layer("convolution").kernel * 1.1)
    changed = np.array(keras.ops.convert_to_numpy(head.kernel))
    changed.reshape(-1)[100:140] = 7
    head.kernel.assign(changed)
    values = np.array(keras.ops.convert_to_numpy(table))
    values[7, 3] = np.nan
    table.assign(values)
    found = verify(record, model)
    verdicts = {row.name: row.verdict for row in found if not row.is_sound}
    assert verdicts == {
        "convolution/kernel": "trained",
        "head/kernel": "damaged",
        "embedding/embeddings": "damaged",
    }
    assert found["convolution/kernel"].detail == "by 0.1 of their size"
    assert found["head/kernel"].detail.endswith("from 100 to 139")
    longer = layers.Dense(4, name="more")(model.output)
    found = verify(record, keras.Model(model.input, longer, name="network"))
    assert [row.name for row in found if row.verdict == "unknown"] == ["more/kernel", "more/bias"]
    shorter = keras.Model(model.input, model.get_layer("norm").output, name="network")
    found = verify(record, shorter)
    assert [row.name for row in found if row.verdict == "missing"] == ["head/kernel", "head/bias"]


def test_kept_variables_are_known_by_their_digests_only():
    model = network()
    recipe = fastinit.OWN.with_rules(Rule("Dense", "head/bias", fastinit.Keep()))
    assert verify(initialize(model, recipe), model)["head/bias"].verdict == "kept"
    record = initialize(model, recipe, digests=True)
    assert verify(record, model)["head/bias"].verdict == "equal"
    model.get_layer("head").bias.assign(np.ones(30, "float32"))
    row = verify(record, model)["head/bias"]
    assert (row.verdict, row.detail) == ("trained", "other bytes than those that were kept")
