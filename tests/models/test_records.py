"""Records: JSON there and back, other versions refused, digests that depend on the bytes alone."""

import copy
import hashlib
import json
import math
import pickle
import sys
import time
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pytest

import fastinit
from fastinit import (
    ICNR,
    Axes,
    Blocks,
    Box,
    Constant,
    DeltaOrthogonal,
    Dirac,
    Entry,
    Fans,
    Identity,
    Keep,
    Key,
    Normal,
    Orthogonal,
    Painted,
    Parameter,
    Record,
    Replayed,
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
from fastinit.checks import shown
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
    Painted(Normal(), (Box((0, 1), (2, 3), Uniform(), 1), Box((0, 0), (1, 4), Normal(), key=Key(5))), 2, Key(4)),
    Replayed('{"framework": "none", "shape": [3, 4], "operators": ["log"], "draws": 1}', (None, Key(7))),
    Keep(),
    fastinit.NewRows(2, "mean_covariance", 0.5),
    fastinit.NewRows(1, ZeroRow(Normal(), 0)),
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
    assert set(CLASSES) == kinds | {"Axes", "Fans", "Box"}
    assert kinds == {type(initializer).__name__ for initializer in INITIALIZERS}


def test_a_config_is_readable_and_may_leave_out_defaults():
    assert initializer_config(Normal(0, 0.02)) == {"class": "Normal", "mean": 0.0, "std": 0.02}
    assert initializer_config(Constant(-math.inf)) == {"class": "Constant", "value": {"float": "-inf"}}
    assert initializer_from_config({"class": "Orthogonal", "column_axis": 0}) == Orthogonal(column_axis=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"class": "Gaussian"}, "expected a class among .*Normal.*, got 'Gaussian'"),
        ({"class": "Normal", "stddev": 1.0}, "Normal has no field stddev"),
        ({"class": "Normal", "std": -1.0}, "std must be at least 0"),
        ({"class": "Normal", "std": "1"}, "expected the config of an initializer, got .*: std must be a number"),
        ({"class": "Constant"}, "expected the config of an initializer, got .*: .*missing"),
        ({"class": "Axes"}, "expected the config of an initializer"),
        ({"float": "inf"}, "expected the config of an initializer"),
        ({"float": "1e3"}, "expected a class, a key, a fraction, a float or an integer"),
        ({"fraction": [1, 0]}, "denominator of at least 1"),
        ({"mean": 0.0}, "expected a class"),
        ({}, "expected a class"),
        ({"class": ["Normal"]}, "expected the config of an initializer|expected a class among"),
        ({"class": "ZeroRow", "row": 1, "initializer": {"class": "Other"}}, "expected a class among .*, got 'Other'"),
    ],
)
def test_bad_configs(config, message):
    with pytest.raises(ValueError, match=message):
        initializer_from_config(config)


def test_initializers_of_other_people_have_no_config():
    class Own(fastinit.ElementwiseInitializer):
        pass

    for initializer in (Own(), ZeroRow(Own(), 0)):
        with pytest.raises(TypeError, match="Own is not a class of fastinit"):
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
        Parameter("embed.weight", (30, 8), layer="Embedding", zero_row=2),
        Parameter("lstm.weight_hh_l0", (32, 8), layer="LSTM"),
        Parameter("lstm.bias_ih_l0", (32,), layer="LSTM"),
        Parameter("fc.weight", (8, 8), layer="Linear", activation="gelu"),
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


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.0, True])
def test_another_stream_version_is_refused(version):
    with pytest.raises(ValueError, match=f"stream version 1, got version {version!r}"):
        Record.from_json(changed(stream_version=version, unknown="fields of the future"))
    with pytest.raises(ValueError, match="stream version"):
        a_record(stream_version=version)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a record: Expecting value"),
        ("[]", "not a record: expected an object with a stream_version"),
        ("[" * 100_000, "not a record: its JSON is nested too deep"),
        ('{"a":' * 100_000, "not a record: its JSON is nested too deep"),
        ('{"stream_version": 1, "seed": 1, "seed": 2}', "expected distinct names in an object, got 'seed' twice"),
        ('{"stream_version": 1, "seed": {"a": 1, "a": 2}}', "expected distinct names in an object, got 'a' twice"),
        ('{"stream_version": NaN}', "NaN is not valid JSON"),
        ('{"stream_version": -Infinity}', "-Infinity is not valid JSON"),
        ("{}", "not a record: expected an object with a stream_version"),
        ('{"stream_version": 1}', "expected a record with the fields .*entries"),
        (changed(more=1), "expected a record with the fields .*more"),
        (changed(entries=[{"name": "a"}]), "expected an entry with the fields"),
        (changed(entries=[1]), "expected an entry with the fields .* got 1"),
        (changed(entries=3), "not a record"),
        (changed(entries={}), "entries of a record must be an array, got {}"),
        (changed(entries=""), "entries of a record must be an array"),
        (changed(entries=None), "entries of a record must be an array"),
        (changed(seed={"float": "inf"}), "seed: expected an integer, got inf"),
        (changed(seed={"integer": "0x10"}), "seed of a record has the wrong"),
        (changed(seed={"integer": "ff"}), "expected a class, a key, a fraction, a float or an integer"),
        (changed(seed=[1]), "seed: expected an integer"),
        (changed(seed=1.5), "seed: expected an integer, got 1.5"),
        (changed(seed=True), "seed: expected an integer"),
        (changed(recipe=None), "recipe of a record must be a str"),
        (changed(version=1), "version of a record must be a str"),
        (changed_entry(more=1), "expected an entry with the fields"),
        (changed_entry(initializer={"class": "Foo"}), "expected a class among .*, got 'Foo'"),
        (changed_entry(initializer={"class": "Normal", "foo": 1}), "Normal has no field foo"),
        (changed_entry(initializer={"class": "Axes"}), "initializer of an entry"),
        (changed_entry(key=[1, 2, 3, 4]), "key of an entry"),
        (changed_entry(key={"key": [1, 2, 3, 2**32]}), "must be in"),
        (changed_entry(key={"key": [1]}), "not a record: expected a class"),
        (changed_entry(shape=["3"]), "shape: expected an integer"),
        (changed_entry(name=3), "name of an entry"),
        (changed_entry(fans=[1, 2]), "fans of an entry"),
        (changed_entry(std="1"), "std of an entry"),
        (changed_entry(dtype=1), "dtype of an entry"),
        (changed_entry(digest=[1]), "digest of an entry"),
        (changed_entry(shape=[3.0, 4]), "shape: expected an integer, got 3.0"),
        (changed_entry(shape=[True, 4]), "shape: expected an integer, got True"),
        (changed_entry(shape=3), "shape of an entry has the wrong form"),
        (changed_entry(shape="34"), "shape must be a sequence of integers"),
        (changed_entry(shape={"key": [1, 2, 3, 4]}), "shape: expected an integer"),
        (changed_entry(std=True), "std of an entry has the wrong type"),
        (changed_entry(name=None), "name of an entry has the wrong type"),
        (changed_entry(other_names="ab"), "other_names must be a sequence of str"),
        (changed_entry(other_names=[1]), "other_names must be a sequence of str"),
        (changed_entry(key={"key": [1.0, 2, 3, 4]}), "k0: expected an integer, got 1.0"),
        (changed_entry(key={"key": [1, 2]}), "expected a class, a key"),
        (changed_entry(key={"key": [True, 2, 3, 4]}), "k0: expected an integer, got True"),
        (
            changed_entry(fans={"class": "Fans", "fan_in": "3", "fan_out": 4, "receptive_field_size": 1}),
            "fan_in must be",
        ),
        (changed_entry(fans={"class": "Fans", "fan_in": True, "fan_out": 4, "receptive_field_size": 1}), "fan_in"),
        (changed_entry(fans={"class": "Fans", "fan_in": -3, "fan_out": 4, "receptive_field_size": 1}), "at least 0"),
        (changed_entry(initializer={"class": "Normal", "mean": 0.0, "std": True}), "std of Normal has the wrong type"),
        (changed_entry(initializer={"class": "Normal", "mean": 0.0, "std": "1"}), "std must be a number"),
        (changed_entry(initializer={"class": "Orthogonal", "gain": 1.0, "column_axis": 0.0}), "expected an integer"),
        (changed_entry(initializer={"class": "TruncatedNormal", "correct_variance": 1}), "correct_variance"),
        (changed_entry(initializer={"class": "Sparse", "sparsity": {"fraction": [1, 0]}}), "denominator of at least 1"),
        (changed_entry(initializer={"class": "Sparse", "sparsity": {"fraction": [2, 6]}}), "wrong type"),
        (changed_entry(initializer={"class": "Constant", "value": {"float": "1.0"}}), "expected a class"),
        (changed(seed=1).replace('"seed": 1', '"seed": 1e999'), "seed: expected an integer, got inf"),
    ],
)
def test_bad_records(text, message):
    with pytest.raises(ValueError, match=message):
        Record.from_json(text)


def test_what_other_writers_of_json_do_with_numbers_is_understood():
    found = json.loads(a_record().to_json())
    for entry in found["entries"]:  # a writer that knows one kind of numbers
        own = entry["initializer"]
        entry["initializer"] = {
            name: int(v) if type(v) is float and str(v).endswith(".0") and v else v for name, v in own.items()
        }
    found = dict(sorted(found.items()))
    assert Record.from_json(json.dumps(found, separators=(",", ":"))) == a_record()
    assert Record.from_json(a_record().to_json().encode()) == a_record()


@pytest.mark.parametrize("seed", [10**5000, -(10**5000), 2**2048, 2**2048 - 1, -1, 0], ids=shown)
def test_seeds_of_any_size(seed, tmp_path):
    record = a_record(seed=seed)
    record.save(tmp_path / "record.json")
    assert Record.load(tmp_path / "record.json") == record
    assert Record.from_json(record.to_json()).seed == seed
    assert "4300" not in str(record)
    big = abs(seed) >= 2**2048
    assert json.loads(record.to_json())["seed"] == ({"integer": hex(seed)} if big else seed)
    share = Sparse(Fraction(1, 10**5000))
    assert initializer_from_config(json.loads(json.dumps(initializer_config(share)))) == share


def nested(depth, wrap=lambda inner: ZeroRow(inner, 0)):
    found = Normal()
    for _ in range(depth - 1):
        found = wrap(found)
    return found


WRAPS = {
    "ZeroRow": lambda inner: ZeroRow(inner, 0),
    "Blocks": lambda inner: Blocks(inner, 2),
    "tuple": lambda inner: Blocks((inner,)),
    "shared": lambda inner: Blocks((inner, inner)),
    "ICNR": lambda inner: ICNR(inner, 1),
}


@pytest.mark.parametrize("kind", WRAPS)
def test_initializers_are_nested_at_most_32_deep(kind):
    wrap = WRAPS[kind]
    deepest = nested(8 if kind == "shared" else 32, wrap)
    for again in (
        initializer_from_config(json.loads(json.dumps(initializer_config(deepest)))),
        pickle.loads(pickle.dumps(deepest)),
        copy.deepcopy(deepest),
    ):
        assert again == deepest and hash(again) == hash(deepest) and repr(again) == repr(deepest)
    if kind in ("ZeroRow", "tuple"):
        shape = (3, 4)
        deepest.check(shape)
        fastinit.fill(np.empty(shape, np.float32), deepest, Key(0))
    for depth in (33, 1000):
        with pytest.raises(ValueError, match="expected initializers nested at most 32 deep, got more"):
            nested(depth, wrap)


def test_configurations_nested_deeper_than_any_initializer():
    config, value = initializer_config(Normal()), 0
    for _ in range(sys.getrecursionlimit()):
        config = {"class": "ZeroRow", "initializer": config, "row": 0}
        value = [value]
    for bad in (config, {"class": "VarianceScaling", "stride": value}, {"class": "Axes", "in_axis": value}):
        with pytest.raises(ValueError, match="nested at most"):
            initializer_from_config(bad)
    text = '{"class":"ZeroRow","row":0,"initializer":' * 900 + '{"class":"Normal"}' + "}" * 900
    entry = json.dumps({f.name: None for f in fields(Entry)}).replace('"initializer": null', f'"initializer": {text}')
    head = '{"stream_version": 1, "version": "0", "seed": 0, "recipe": "r", "entries": ['
    with pytest.raises(ValueError, match=r"not a record: .*nested"):
        Record.from_json(f"{head}{entry}]}}")


def test_a_record_of_many_entries():
    """Twenty thousand names are checked, found and read in time that is linear in them."""
    entries = [an_entry(name=f"layers.{number}.weight") for number in range(20_000)]
    begin = time.process_time()
    record = Record(entries, 0, "auto", "0.1.0")
    assert all(record[entry.name] is entry and entry.name in record for entry in entries)
    assert "layers.20000.weight" not in record
    with pytest.raises(ValueError, match=r"same name 'layers\.19999\.weight'"):
        Record([*entries, entries[-1]], 0, "auto", "0.1.0")
    assert time.process_time() - begin < 3  # 20 s where each looks at all others


def test_the_index_of_a_record_is_no_part_of_it():
    record = a_record()
    again = [pickle.loads(pickle.dumps(record)), copy.copy(record), copy.deepcopy(record), replace(record)]
    for one in (*again, Record.from_json(record.to_json())):
        assert one == record and hash(one) == hash(record) and repr(one) == repr(record)
        assert one["p3"] == record["p3"] and "p99" not in one
        assert {field.name for field in fields(one)} == {"entries", "seed", "recipe", "version", "stream_version"}
    assert "_places" not in repr(record) and not hasattr(record, "__dict__")
    assert len(pickle.dumps(record)) == len(pickle.dumps(a_record()))
    shorter = replace(record, entries=record.entries[1:])
    assert "p0" not in shorter and shorter["p3"] == record["p3"]
    for other in (3, None, ["p0"], ("p0",)):
        assert other not in record
        with pytest.raises(KeyError):
            record[other]


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


def test_a_record_with_a_seed_of_any_size_shows_itself():
    for seed in (0, "a", -(10**5000), 2**2048, 10**5000):
        record = Record((), seed, "r", "0")
        assert eval(repr(record), {"Record": Record}) == record


def test_integers_of_too_many_digits_in_json():
    for digits in (618, 5000):
        with pytest.raises(
            ValueError, match=f"not a record: expected at most 617 digits of a decimal integer, got {digits}"
        ):
            Record.from_json("9" * digits)


def test_a_number_is_no_path(tmp_path):
    with open(tmp_path / "file", "w+") as file:
        with pytest.raises(TypeError, match="PathLike"):
            Record.load(file.fileno())
        file.write("still open")
