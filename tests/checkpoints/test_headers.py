"""Headers of safetensors files: what we write the library reads, and what is damaged is refused with its reason."""

import json
import os

import numpy as np
import pytest

from fastinit.checkpoints import read_checkpoint, read_header, write
from fastinit.checkpoints.formats import FORMATS, format_named
from fastinit.checkpoints.headers import LONGEST_HEADER, header_bytes

safetensors = pytest.importorskip("safetensors")
F32 = format_named("float32")


def file_of(path, header, size=0, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(size))
    return path


def test_the_library_reads_what_is_written(tmp_path):
    path = tmp_path / "a.safetensors"
    kinds = [format for format in FORMATS.values() if format.bits % 8 == 0]
    tensors = [(f"name {kind.name} é", kind, (3, 8)) for kind in sorted(kinds, key=lambda kind: -kind.bits)]
    data = bytes(sum(kind.nbytes(shape) for _, kind, shape in tensors))
    path.write_bytes(header_bytes(tensors, {"made": "here"}) + data)
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"made": "here"}
        assert list(file.keys()) == sorted(name for name, _, _ in tensors)
        for name, kind, shape in tensors:
            one = file.get_slice(name)
            assert (one.get_dtype(), one.get_shape()) == (kind.tag, list(shape))
    own = read_header(path)
    assert [(one.name, one.format, one.shape) for one in own.tensors.values()] == tensors
    assert all(one.offset % 8 == 0 for one in own.tensors.values())


def test_what_the_library_writes_is_read(tmp_path):
    numpy_files = pytest.importorskip("safetensors.numpy")
    values = {"a": np.ones((2, 3), np.float32), "b": np.zeros((), np.int64), "c": np.zeros((0, 4), np.float16)}
    numpy_files.save_file(values, tmp_path / "a.safetensors", {"x": "y"})
    found = read_header(tmp_path / "a.safetensors")
    assert {name: one.shape for name, one in found.tensors.items()} == {"a": (2, 3), "b": (), "c": (0, 4)}
    assert found.metadata == {"x": "y"}


def one(begin, end, dtype="F32", shape=(1,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "size", "said"),
    [
        (b"{", 0, "not a safetensors file"),
        (b"\xff\xfe", 0, "not a safetensors file"),
        (b"[" * 100_000, 0, "nested too deep|not a safetensors file"),
        ([1], 0, "expected an object"),
        ({"a": 1}, 0, "'a' must have a dtype"),
        ({"a": one(0, 4) | {"more": 1}}, 4, "'a' must have a dtype"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}', 4, "'a' twice"),
        ({"a": one(0, 4, "F31")}, 4, "unknown dtype 'F31'"),
        ({"a": one(0, 4, ["F32"])}, 4, "unknown dtype"),
        ({"a": one(0, 8)}, 8, "takes 4 bytes, its data_offsets"),
        ({"a": one(4, 0)}, 4, "takes 4 bytes"),
        ({"a": one(0, 4), "b": one(0, 4)}, 4, "overlaps"),
        ({"a": one(0, 4), "b": one(8, 12)}, 12, "leaves a gap"),
        ({"a": one(0, 4)}, 2, "end at byte"),
        ({"a": one(0, 4)}, 8, "end at byte"),
        ({"a": one(0, 4, shape=(-1,))}, 4, "must be a list of integers"),
        ({"a": one(0, 4, shape=(True,))}, 4, "must be a list of integers"),
        ({"a": one(0, 4, shape=(1.0,))}, 4, "must be a list of integers"),
        ({"a": one(0, 4, shape=(2**40, 2**40))}, 4, "takes"),
        ({"a": one(0, 4, shape=[1] * 65)}, 4, "at most 64 axes"),
        ({"__metadata__": {"a": 1}}, 0, "must hold texts"),
        (b'{"a": NaN}', 0, "NaN is not JSON"),
    ],
)
def test_damaged_headers(tmp_path, header, size, said):
    path = file_of(tmp_path / "a.safetensors", header, size)
    with pytest.raises(ValueError, match=said) as problem:
        read_header(path)
    assert str(path) in str(problem.value)


@pytest.mark.parametrize("length", [LONGEST_HEADER + 1, 2**63, 100, 2**64 - 1])
def test_headers_that_claim_to_be_long(tmp_path, length):
    with pytest.raises(ValueError, match="is longer than the file"):
        read_header(file_of(tmp_path / "a.safetensors", b"{}", 10, length))


def test_files_that_are_none(tmp_path):
    (tmp_path / "short").write_bytes(b"1234")
    with pytest.raises(ValueError, match="at least 8 bytes, got 4"):
        read_header(tmp_path / "short")
    with pytest.raises(OSError, match=r"folder|directory"):
        read_header(tmp_path)
    with pytest.raises(OSError, match="not a regular file"):
        read_header(os.devnull)


def test_a_header_that_is_too_long_is_not_written():
    with pytest.raises(ValueError, match="too long"):
        header_bytes([], {"a": "b" * LONGEST_HEADER})
    with pytest.raises(ValueError, match="two tensors called 'a'"):
        header_bytes([("a", F32, (1,)), ("a", F32, (1,))])
    with pytest.raises(ValueError, match="__metadata__"):
        header_bytes([("__metadata__", F32, (1,))])


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("[]", "expected a weight_map"),
        ('{"weight_map": {"a": 1}}', "expected a weight_map"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "lies in its folder"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "lies in its folder"),
        ('{"weight_map": {"a": ".."}}', "lies in its folder"),
        ('{"weight_map": {"a": "x", "a": "x"}}', "got 'a' twice"),
        ('{"weight_map"', "not an index"),
        ("[" * 100_000, "nested too deep|not an index"),
    ],
)
def test_damaged_indices(tmp_path, index, said):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(index)
    with pytest.raises(ValueError, match=said):
        read_checkpoint(tmp_path)


def test_an_index_and_its_files_must_agree(tmp_path, plan):
    write(plan, tmp_path / "out", shard_size=4000)
    path = tmp_path / "out" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    assert len(set(index["weight_map"].values())) > 1
    changed = {**index, "weight_map": {**index["weight_map"], "more": index["weight_map"]["mix"]}}
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="holds 'more', which it does not"):
        read_checkpoint(tmp_path / "out")
    del index["weight_map"]["mix"]
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match="does not say where 'mix' is"):
        read_checkpoint(tmp_path / "out")
