"""Verifying checkpoints: every kind of damage is told from training and from rounding, with the tensor's name."""

import itertools
import math

import numpy as np
import pytest
from checkpoint_plans import entry, small_plan

import fastinit
from fastinit.checkpoints import (
    Filled,
    Plan,
    Tensor,
    diff,
    mapped,
    read_checkpoint,
    read_header,
    statistics,
    verify,
    write,
)
from fastinit.checkpoints.quantizing import quantized


@pytest.fixture
def written(tmp_path, plan):
    write(plan, tmp_path / "a", shard_size=4000)
    return tmp_path / "a"


def change(folder, name, begin, data):
    """Writes bytes into a tensor of a checkpoint."""
    found = read_checkpoint(folder)
    with open(found.places[name], "r+b") as file:
        file.seek(found[name].offset + begin)
        file.write(data)


def test_what_was_written_is_equal(written):
    found = verify(written)
    assert found.is_sound
    assert {row.verdict for row in found} == {"equal"}
    assert len(found) == len(small_plan())


@pytest.mark.parametrize("piece", [7, 100])
def test_pieces_never_show(written, monkeypatch, piece):
    monkeypatch.setattr(mapped.Safetensors, "PIECE", piece)
    assert verify(written).is_sound
    change(written, "up.weight", 400, bytes(80))
    (row,) = [row for row in verify(written) if not row.is_sound]
    assert (row.name, row.verdict) == ("up.weight", "damaged")
    assert "20 of 1,961 elements differ, from 100 to 119" in row.detail


@pytest.mark.parametrize("piece", [7, 100, 2**27])
@pytest.mark.parametrize("scheme", ["mxfp4", "float8_block"])
def test_pieces_of_packed_elements_never_show(tmp_path, monkeypatch, piece, scheme):
    of = Filled(entry("w", (150, 192), fastinit.Normal(std=0.02)))
    write(Plan(tuple(Tensor(*one) for one in quantized("w", of, scheme).items())), tmp_path / "a.safetensors")
    monkeypatch.setattr(mapped.Safetensors, "PIECE", piece)
    found = verify(tmp_path / "a.safetensors")
    assert found.is_sound and len(found) == 2
    first = next(iter(quantized("w", of, scheme)))
    change(tmp_path / "a.safetensors", first, 10_000, bytes(40))
    (row,) = [row for row in verify(tmp_path / "a.safetensors") if not row.is_sound]
    assert (row.name, row.verdict) == (first, "damaged" if scheme == "mxfp4" else row.verdict)
    assert "10,0" in row.detail


def test_files_are_read_ahead_and_in_any_order(tmp_path, monkeypatch):
    asked, will_need = [], mapped.will_need

    def watched(file, begin, end):
        asked.append((begin, end))
        will_need(file, begin, end)

    plan = Plan(tuple(Tensor(f"w{n}", Filled(entry(f"w{n}", (5000,), fastinit.Normal()))) for n in range(10)))
    write(plan, tmp_path / "a.safetensors")
    monkeypatch.setattr(mapped.Safetensors, "PIECE", 100_000)
    monkeypatch.setattr(mapped, "will_need", watched)
    assert verify(tmp_path / "a.safetensors").is_sound
    assert len(asked) < 10  # not for every tensor
    assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(asked))  # and each byte once
    asked.clear()
    assert verify(tmp_path / "a.safetensors", Plan(plan.tensors[::-1])).is_sound
    assert len(asked) == 1


@pytest.mark.parametrize("name", [tensor.name for tensor in small_plan() if tensor.nbytes])
def test_a_bit_in_any_tensor_is_seen(written, name):
    found = read_checkpoint(written)
    with open(found.places[name], "rb") as file:
        file.seek(found[name].offset)
        byte = file.read(1)[0]
    change(written, name, 0, bytes([byte ^ 1]))
    assert [row.name for row in verify(written) if not row.is_sound] == [name]


def test_trained_values_say_how_far(written):
    values = fastinit.fill(
        np.empty((37, 53), np.float32), fastinit.he_normal(layout="OI"), fastinit.Key(0).fold_in("up.weight")
    )
    change(written, "up.weight", 0, (values * np.float32(1.25)).tobytes())
    row = verify(written)["up.weight"]
    assert (row.verdict, row.detail) == ("trained", "by 0.25 of their size")


def test_other_dtypes_shapes_and_names(tmp_path):
    narrow = entry("a", (50, 40), fastinit.Normal(), "bfloat16")
    wide = entry("a", (50, 40), fastinit.Normal(), "float32")
    write(Plan((Tensor("a", Filled(narrow)),)), tmp_path / "a.safetensors")
    found = verify(tmp_path / "a.safetensors", Plan((Tensor("a", Filled(wide)),)))
    assert found.is_sound
    assert found["a"].verdict == "rounded"
    other = Plan((Tensor("a", Filled(entry("a", (40, 50), fastinit.Normal(), "bfloat16"))),))
    assert verify(tmp_path / "a.safetensors", other)["a"].verdict == "missing"
    other = Plan((Tensor("b", Filled(entry("b", (40, 50), fastinit.Normal(), "bfloat16"))),))
    assert [(row.name, row.verdict) for row in verify(tmp_path / "a.safetensors", other)] == [
        ("b", "missing"),
        ("a", "unknown"),
    ]
    record = fastinit.Record((narrow,), 0, "own", fastinit.__version__)
    assert verify(tmp_path / "a.safetensors", record).is_sound
    record.save(tmp_path / "record.json")
    assert verify(tmp_path / "a.safetensors", tmp_path / "record.json").is_sound
    Plan.of(record).save(tmp_path / "plan.json")
    assert verify(tmp_path / "a.safetensors", tmp_path / "plan.json").is_sound


def test_a_plan_is_told_from_a_record_by_its_keys(tmp_path):
    plan = Plan((Tensor("plan_version", Filled(entry("plan_version", (50, 40), fastinit.Normal()))),))
    write(plan, tmp_path / "a.safetensors")
    plan.record.save(tmp_path / "record.json")
    assert verify(tmp_path / "a.safetensors", tmp_path / "record.json").is_sound
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(ValueError, match="not a plan or a record"):
        verify(tmp_path / "a.safetensors", tmp_path / "none.json")


@pytest.mark.parametrize(("threads", "kind"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError)])
def test_the_number_of_threads_is_checked(written, threads, kind):
    with pytest.raises(kind, match="num_threads"):
        verify(written, num_threads=threads)
    assert verify(written, num_threads=np.int64(1)).is_sound


def test_a_checkpoint_of_another_program(tmp_path):
    files = pytest.importorskip("safetensors.numpy")
    files.save_file({"a": np.zeros((3, 4), np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="carries no plan of fastinit"):
        verify(tmp_path / "a.safetensors")
    files.save_file({"a": np.zeros((3, 4), np.float32)}, tmp_path / "b.safetensors", {"fastinit": "{}"})
    with pytest.raises(ValueError, match=r"b.safetensors: not a plan"):
        verify(tmp_path / "b.safetensors")
    with pytest.raises(FileNotFoundError, match="has neither"):
        verify(tmp_path)


# Differences


def test_differences_of_two_checkpoints(tmp_path, written, plan):
    write(plan, tmp_path / "b.safetensors")
    assert {row.verdict for row in diff(written, tmp_path / "b.safetensors")} == {"equal"}
    change(written, "embed", 0, bytes(20))
    (row,) = [row for row in diff(written, tmp_path / "b.safetensors") if row.verdict != "equal"]
    assert (row.name, row.verdict) == ("embed", "differs")
    assert row.detail.startswith("10 of 960 elements, from 0 to 9, by ")
    write(plan.only(["embed", "mix"]), tmp_path / "c.safetensors")
    found = {row.name: row.verdict for row in diff(tmp_path / "c.safetensors", written)}
    assert found.pop("mix") == "equal"
    assert found.pop("embed") == "differs"
    assert set(found.values()) == {"only in the second"}
    first = diff(written, tmp_path / "c.safetensors")
    assert {row.verdict for row in first} == {"equal", "differs", "only in the first"}


# Statistics


def test_statistics_are_numpys(tmp_path, written, plan):
    for found in statistics(written):
        (tensor,) = [one for one in plan if one.name == found.stored.name]
        if tensor.format.name in ("float32", "float16", "int64") and tensor.nbytes:
            memory = np.empty(tensor.nbytes, np.uint8)
            tensor.source.write(memory, 0)
            values = memory.view(tensor.format.name).astype(np.float64)
            assert (found.low, found.high) == (values.min(), values.max())
            assert math.isclose(found.mean, values.mean(), abs_tol=1e-12)
            assert math.isclose(found.std, values.std(), rel_tol=1e-9)
    by_name = {found.stored.name: found for found in statistics(written)}
    assert by_name["up.weight"].expected_std == pytest.approx(math.sqrt(2 / 53))
    assert math.isnan(by_name["none"].std)
    assert by_name["table"].expected_std is None


def test_values_that_are_not_finite_are_counted(written):
    change(written, "up.weight", 0, np.array([np.nan, np.inf], np.float32).tobytes())
    (found,) = [one for one in statistics(written) if one.stored.name == "up.weight"]
    assert found.not_finite == 2
    assert math.isfinite(found.std)


def test_the_file_has_nothing_of_the_librarys_version(written):
    header = read_header(next(path for path in written.iterdir() if path.suffix == ".safetensors"))
    assert fastinit.__version__ not in header.metadata["fastinit"]
