"""Records: JSON there and back, other versions refused, digests that depend on the bytes alone."""

import hashlib
import json
import math
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pytest

import fastinit
from fastinit import (
    ICNR,
    Axes,
    Blocks,
    Constant,
    DeltaOrthogonal,
    Dirac,
    Entry,
    Fans,
    Identity,
    Key,
    Normal,
    Orthogonal,
    Parameter,
    Record,
    Sparse,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    ZerO,
    ZeroRow,
    assigned,
    digest,
    expected_std,
    initializer_config,
    initializer_from_config,
)
from fastinit.models.configs import CLASSES
from fastinit.models.digests import CHUNK

INITIALIZERS = [
    Constant(-0.0),
    Constant(math.inf),
    Constant(math.nan),
    Uniform(-0.1, 0.3),
    Normal(0.1, 1e-300),
    TruncatedNormal(0, 0.02, -math.inf, 3, "absolute", True),
    VarianceScaling(0.1, "fan_geo_avg", "uniform", "IO...", 2, True, (2, 3), 4),
    VarianceScaling(layout=Axes(0, (1, 2), batch_axis=(-1,))),
    Identity(0.5),
    Dirac(2, 0.5, "OI..."),
    Orthogonal(1.5, 0),
    DeltaOrthogonal(2.0, "OI..."),
    Sparse(0.1, 0.02, 1),
    Sparse(Fraction(1, 3)),
    ICNR(VarianceScaling(layout="OI..."), 3, "OI...", "subpixel"),
    ZerO("OI"),
    Blocks(Orthogonal(column_axis=0), 4, -1),
    Blocks((Normal(), ZeroRow(Uniform(), 2))),
    ZeroRow(Blocks(Normal(), 2, 1), 0),
]


def an_entry(**own):
    given = {"name": "a.weight", "shape": (3, 4), "rule": "r", "initializer": Normal(), "key": Key(0)}
    return Entry(**given | own)


def a_record(**own):
    entries = [
        an_entry(name=f"p{number}", initializer=initializer, key=Key(number))
        for number, initializer in enumerate(INITIALIZERS)
    ]
    entries += [
        an_entry(name="conv.weight", fans=Fans(Fraction(27, 4), 36, 9), std=0.1, dtype="bfloat16", digest=digest(b"x")),
        an_entry(name="größe", shape=(), std=math.inf),
    ]
    return Record(**{"entries": entries, "seed": 2**70, "recipe": "auto", "version": "0.1.0"} | own)


# Configurations


@pytest.mark.parametrize("initializer", INITIALIZERS, ids=repr)
def test_a_config_gives_the_initializer_back(initializer):
    config = json.loads(json.dumps(initializer_config(initializer), allow_nan=False))
    again = initializer_from_config(config)
    assert again == initializer and hash(again) == hash(initializer) and repr(again) == repr(initializer)


def test_every_class_of_the_library_has_a_config():
    names = {name for name in fastinit.__all__ if isinstance(getattr(fastinit, name), type)}
    bases = {"Initializer", "ElementwiseInitializer", "StructuredInitializer", "Composite"}
    kinds = {name for name in names - bases if issubclass(getattr(fastinit, name), fastinit.Initializer)}
    assert set(CLASSES) == kinds | {"Axes", "Fans"}
    assert kinds == {type(initializer).__name__ for initializer in INITIALIZERS}


def test_a_config_is_readable_and_may_leave_out_defaults():
    assert initializer_config(Normal(0, 0.02)) == {"class": "Normal", "mean": 0.0, "std": 0.02}
    assert initializer_config(Constant(-math.inf)) == {"class": "Constant", "value": {"float": "-inf"}}
    assert initializer_from_config({"class": "Orthogonal", "column_axis": 0}) == Orthogonal(column_axis=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"class": "Gaussian"}, "unknown class 'Gaussian'; the library has .*Normal"),
        ({"class": "Normal", "stddev": 1.0}, "Normal has no field stddev"),
        ({"class": "Normal", "std": -1.0}, "std must be at least 0"),
        ({"class": "Normal", "std": "1"}, "describes no initializer: std must be a number"),
        ({"class": "Constant"}, "describes no initializer: .*missing"),
        ({"class": "Axes"}, "describes no initializer"),
        ({"float": "inf"}, "describes no initializer"),
        ({"float": "1e3"}, "expected a class, a key, a fraction, a float or an integer"),
        ({"fraction": [1, 0]}, "denominator of at least 1"),
        ({"mean": 0.0}, "expected a class"),
        ({}, "expected a class"),
        ({"class": ["Normal"]}, "describes no initializer|unknown class"),
        ({"class": "ZeroRow", "row": 1, "initializer": {"class": "Other"}}, "unknown class 'Other'"),
    ],
)
def test_bad_configs(config, message):
    with pytest.raises(ValueError, match=message):
        initializer_from_config(config)


def test_initializers_of_other_people_have_no_config():
    class Own(fastinit.Initializer):
        pass

    for initializer in (Own(), ZeroRow(Own(), 0)):
        with pytest.raises(TypeError, match="Own is no class of the library"):
            initializer_config(initializer)
    for other in (Axes(), None, "normal"):
        with pytest.raises(TypeError, match="must be an Initializer"):
            initializer_config(other)


# Records


def test_json_gives_the_record_back():
    record = a_record()
    text = record.to_json()
    assert Record.from_json(text) == record and Record.from_json(text).to_json() == text
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert Record.from_json(replace(record, seed="text").to_json()).seed == "text"


def test_files(tmp_path):
    path = tmp_path / "record.json"
    a_record().save(path)
    assert Record.load(path) == Record.load(str(path)) == a_record()
    with pytest.raises(FileNotFoundError):
        Record.load(tmp_path / "none.json")


def test_a_record_is_a_sequence_with_names():
    record = a_record()
    assert len(record) == len(list(record)) == len(INITIALIZERS) + 2
    assert record["p4"].initializer == INITIALIZERS[4] and "p4" in record and "p99" not in record
    with pytest.raises(KeyError, match="no entry 'p99'"):
        record["p99"]


def test_a_replayed_record_gives_the_same_bytes():
    parameters = [
        Parameter("embed.weight", (30, 8), types=("Embedding",), zero_row=2),
        Parameter("lstm.weight_hh_l0", (32, 8), types=("LSTM",)),
        Parameter("lstm.bias_ih_l0", (32,), types=("LSTM",)),
        Parameter("fc.weight", (8, 8), types=("Linear",), activation="gelu"),
    ]
    filled = [
        replace(entry, dtype="float32", digest=digest(fastinit.fill(np.empty(entry.shape, "f4"), *pair)))
        for entry in assigned(parameters, "auto", 3)
        for pair in [(entry.initializer, entry.key)]
    ]
    for entry in Record.from_json(Record(filled, 3, "auto", "0.1.0").to_json()):
        again = fastinit.fill(np.empty(entry.shape, entry.dtype), entry.initializer, entry.key)
        assert digest(again) == entry.digest


def test_the_table_names_everything():
    text = str(a_record())
    head, titles, *rows = text.splitlines()
    assert head == f"{len(INITIALIZERS) + 2} parameters, recipe auto, seed {2**70}, stream v1, fastinit 0.1.0"
    assert titles.split() == ["parameter", "shape", "dtype", "rule", "initializer", "fan_in", "fan_out", "std"]
    assert len(rows) == len(a_record()) and len({row.index(" r ") for row in rows}) == 1
    assert rows[-2].split() == ["conv.weight", "3", "x", "4", "bfloat16", "r", "Normal()", "27/4", "36", "0.1"]
    assert "Blocks(initializers=Orthogonal(column_axis=0), count=4, axis=-1)" in text
    assert "Blocks(initializers=(Normal(), ZeroRow(initializer=Uniform(), row=2)), count=2)" in text
    assert "scalar" in rows[-1]


def changed(**own):
    return json.dumps(json.loads(a_record().to_json()) | own)


def changed_entry(**own):
    found = json.loads(a_record().to_json())
    return json.dumps(found | {"entries": [found["entries"][0] | own]})


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_stream_version_is_refused(version):
    with pytest.raises(ValueError, match=f"stream version {version!r} cannot be used here: version 1"):
        Record.from_json(changed(stream_version=version, unknown="fields of the future"))
    with pytest.raises(ValueError, match="stream version"):
        a_record(stream_version=version)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a record: Expecting value"),
        ("[]", "not a record: expected an object with a stream_version"),
        ("{}", "not a record: expected an object with a stream_version"),
        ('{"stream_version": 1}', "a record has the fields .*entries"),
        (changed(more=1), "a record has the fields .*more"),
        (changed(entries=[{"name": "a"}]), "an entry has the fields"),
        (changed(entries=[1]), "an entry has the fields .* got 1"),
        (changed(entries=3), "not a record"),
        (changed(seed=1.5), "seed: expected an integer, got 1.5"),
        (changed(seed=True), "seed: expected an integer"),
        (changed(recipe=None), "recipe of a record must be a str"),
        (changed(version=1), "version of a record must be a str"),
        (changed_entry(more=1), "an entry has the fields"),
        (changed_entry(initializer={"class": "Foo"}), "unknown class 'Foo'"),
        (changed_entry(initializer={"class": "Normal", "foo": 1}), "Normal has no field foo"),
        (changed_entry(initializer={"class": "Axes"}), "initializer of an entry"),
        (changed_entry(key=[1, 2, 3, 4]), "key of an entry"),
        (changed_entry(key={"key": [1, 2, 3, 2**32]}), "must be in"),
        (changed_entry(key={"key": [1]}), "not a record"),
        (changed_entry(shape=["3"]), "shape: expected an integer"),
        (changed_entry(name=3), "name of an entry"),
        (changed_entry(fans=[1, 2]), "fans of an entry"),
        (changed_entry(std="1"), "std of an entry"),
        (changed_entry(dtype=1), "dtype of an entry"),
        (changed_entry(digest=[1]), "digest of an entry"),
    ],
)
def test_bad_records(text, message):
    with pytest.raises(ValueError, match=message):
        Record.from_json(text)


def test_two_entries_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"two entries of a record have the same name 'a\.weight'"):
        Record([an_entry(), an_entry(shape=(1,))], 0, "auto", "0.1.0")
    entries = json.loads(a_record().to_json())["entries"]
    with pytest.raises(ValueError, match="same name 'p0'"):
        Record.from_json(changed(entries=entries[:1] * 2))


def test_every_field_is_written():
    found = json.loads(a_record().to_json())
    assert set(found) == {field.name for field in fields(Record)}
    assert all(set(entry) == {field.name for field in fields(Entry)} for entry in found["entries"])


# Expected standard deviations


@pytest.mark.parametrize(
    ("initializer", "shape"),
    [
        (Constant(3.0), (50, 50)),
        (Uniform(-0.25, 0.5), (300, 300)),
        (Normal(1.0, 0.25), (300, 300)),
        (TruncatedNormal(0, 0.5, -1, 2), (300, 300)),
        (VarianceScaling(2.0, "fan_out", "uniform"), (300, 250)),
        (Orthogonal(1.5), (400, 100)),
        (Orthogonal(1.5, 0), (400, 100)),
        (Orthogonal(column_axis=1), (20, 100, 20)),
        (ZeroRow(Normal(0.5, 1), 1), (4, 30000)),
        (Blocks((Normal(1.0, 0.5), Constant(-1.0), Uniform(0, 4))), (300, 300)),
        (Blocks(Orthogonal(column_axis=0), 4), (400, 100)),
        (ZeroRow(Blocks(VarianceScaling(), 2, 1), 3), (5, 40000)),
    ],
)
def test_the_expected_std_is_that_of_the_values(initializer, shape):
    values = fastinit.fill(np.empty(shape), initializer, Key("std"))
    assert expected_std(initializer, shape) == pytest.approx(values.std(), rel=0.01, abs=1e-15)


def test_no_std_where_no_formula_says():
    assert expected_std(Identity(), (3, 3)) is None
    assert expected_std(ZeroRow(Sparse(0.5), 0), (3, 3)) is None
    assert expected_std(Blocks((Normal(), Identity())), (6, 3)) is None
    assert expected_std(Orthogonal(), (0, 3)) is None
    with pytest.raises(ValueError, match="2 axes"):
        expected_std(Identity(), (3,))


# Digests


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_a_digest_is_what_its_docstring_says(size):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    leaves = [hashlib.sha256(data[i : i + 2**20]).digest() for i in range(0, size, 2**20)]
    expected = hashlib.sha256(b"".join(leaves)).hexdigest()
    assert {digest(data, num_threads=threads) for threads in (None, 1, 2, 3, 50)} == {expected}
    assert digest(bytearray(data)) == digest(np.frombuffer(data, np.uint8)) == expected


def test_a_digest_is_of_the_bytes_alone():
    array = np.arange(24, dtype=np.float32)
    assert digest(array) == digest(array.reshape(2, 3, 4)) == digest(array.view(np.uint16)) == digest(array.tobytes())
    assert digest(array) != digest(array[::-1].copy()) and digest(array) != digest(array[:-1])
    assert digest(np.float32(7).reshape(())) == digest(np.full(1, 7, np.float32))
    assert digest(np.empty((0, 3))) == digest(b"")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    narrow = np.arange(5, dtype=ml_dtypes.bfloat16)
    assert digest(narrow) == digest(narrow.view(np.uint16))


def test_what_has_no_digest():
    array = np.zeros((4, 6))
    for view in (array.T, array[:, ::2], memoryview(array)[::2]):
        with pytest.raises(ValueError, match="needs C-contiguous memory"):
            digest(view)
    for other in (3, "text", None, [1, 2]):
        with pytest.raises(TypeError):
            digest(other)
    with pytest.raises(ValueError, match="num_threads must be at least 1"):
        digest(array, num_threads=0)
