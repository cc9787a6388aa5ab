"""Sources: any range and any box of a tensor has the bytes of the whole, wherever it is cut."""

import math

import numpy as np
import pytest
from checkpoint_plans import entry, small_plan

import fastinit
from fastinit.checkpoints import Filled, Values, Virtual
from fastinit.dtypes import DTYPES

TENSORS = {tensor.name: tensor for tensor in small_plan()}


def whole(source):
    out = np.empty(source.format.nbytes(source.shape), np.uint8)
    source.write(out, 0)
    return out


@pytest.mark.parametrize("name", TENSORS)
def test_ranges_join_to_the_whole(name):
    source = TENSORS[name].source
    expected, size = whole(source), math.prod(source.shape)
    itemsize = source.format.bits // 8
    for step in {source.granule * factor for factor in (1, 7, 50)} if size else ():
        for begin in range(0, size, step):
            out = np.empty(min(step, size - begin) * itemsize, np.uint8)
            source.write(out, begin, 2)
            assert (out == expected[begin * itemsize : begin * itemsize + out.size]).all()


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("initializer", [fastinit.Normal(), fastinit.Orthogonal(), fastinit.Zeros()])
def test_slices_are_those_of_the_filled_tensor(axes, initializer):
    own = entry("w", (4, 6, 5), initializer)
    values = fastinit.fill(np.empty((4, 6, 5), np.float32), initializer, own.key)
    source = Filled(own, (1, 2, 0), (3, 4, 5), axes)
    expected = values[1:, 2:].transpose(axes)
    assert source.shape == expected.shape
    assert (whole(source).view(np.float32).reshape(source.shape) == expected).all()


@pytest.mark.parametrize(
    ("offsets", "extent"),
    [
        *(((2, 0, 0), (1, 6, 5)), ((2, 3, 0), (1, 2, 5)), ((1, 0, 0), (3, 6, 5)), ((2, 3, 1), (1, 1, 3))),
        *(((2, 3, 4), (1, 1, 1)), ((1, 2, 0), (2, 3, 5)), ((0, 2, 0), (4, 1, 5)), ((3, 1, 2), (1, 4, 2))),
    ],
)
def test_slices_in_order_whether_consecutive_or_not(offsets, extent):
    own = entry("w", (4, 6, 5), fastinit.Normal())
    values = fastinit.fill(np.empty((4, 6, 5), np.float32), own.initializer, own.key)
    box = tuple(slice(first, first + size) for first, size in zip(offsets, extent, strict=True))
    source = Filled(own, offsets, extent)
    assert (whole(source).view(np.float32).reshape(extent) == values[box]).all()
    assert (source.box((0, 0, 0), extent) == values[box]).all()
    assert (Filled(own).box(offsets, extent) == values[box]).all()
    last = tuple(size - 1 for size in extent)
    assert source.box(last, (1, 1, 1)).item() == values[box][last]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_filled_tensor_has_the_bytes_of_fill(dtype):
    own = entry("w", (33, 17), fastinit.TruncatedNormal(std=0.1), dtype)
    raw = np.empty((33, 17), DTYPES[dtype].raw)
    fastinit.fill(raw, own.initializer, own.key, dtype=dtype)
    assert whole(Filled(own)).tobytes() == raw.tobytes()


def test_slices_out_of_the_tensor():
    own = entry("w", (4, 6), fastinit.Normal())
    for wrong in ({"offsets": (1, 0), "extent": (4, 6)}, {"offsets": (0,)}, {"axes": (0, 0)}, {"axes": (0,)}):
        with pytest.raises(ValueError, match=r"slice|axes|shape"):
            Filled(own, **wrong)
    with pytest.raises(ValueError, match="only axes of extent 1"):
        Filled(own, dropped=(0,))


def test_what_cannot_be_made_is_said():
    with pytest.raises(ValueError, match="keeps what a tensor held"):
        Filled(entry("w", (4,), fastinit.Keep())).check()
    with pytest.raises(TypeError, match="has the dtype 'int8'"):
        Filled(entry("w", (4,), fastinit.Zeros(), "int8")).check()
    with pytest.raises(ValueError, match="only the digest"):
        Values("int8", (4,), b"1234").without_data().check()
    with pytest.raises(ValueError, match="take 4 bytes, got 3"):
        Values("int8", (4,), b"123")
    with pytest.raises(ValueError, match="unknown dtype"):
        Values("int7", (4,), b"1234")


# Virtual checkpoints


@pytest.mark.parametrize("name", TENSORS)
def test_every_slice_of_a_virtual_tensor(name):
    checkpoint = Virtual(small_plan())
    tensor = checkpoint.get_tensor(name)
    part = checkpoint.get_slice(name)
    assert tuple(part.get_shape()) == tensor.shape == part.shape
    indices = [..., slice(None)]
    if tensor.ndim == 2 and tensor.size:
        indices += [0, -1, (1, 2), (slice(1, 4), 2), (..., 0), (slice(None, None, 2), slice(1, None, 3))]
        indices += [(slice(3, 3),), (slice(-3, None), ...), np.int64(2)]
    for index in indices if tensor.ndim else [..., ()]:
        found = part[index]
        assert found.shape == tensor[index].shape
        assert found.tobytes() == tensor[index].tobytes()


def test_wrong_indices():
    part = Virtual(small_plan()).get_slice("embed")
    for index, error in ((40, IndexError), ((0, 0, 0), IndexError), ("a", TypeError), (1.0, TypeError)):
        with pytest.raises(error):
            part[index]
    with pytest.raises(IndexError, match="at most one ellipsis"):
        part[..., ...]
    with pytest.raises(IndexError, match="step"):
        part[::-1]
    with pytest.raises(KeyError, match="no tensor 'x'"):
        Virtual(small_plan()).get_tensor("x")


def test_a_large_tensor_costs_its_slice_alone():
    own = entry("w", (2**20, 2**20), fastinit.Normal())
    part = Virtual(fastinit.checkpoints.Plan((fastinit.checkpoints.Tensor("w", Filled(own)),))).get_slice("w")
    index = 123_456 * 2**20 + 654_321
    assert part[123_456, 654_321] == fastinit.sample(own.key, index, own.initializer)
