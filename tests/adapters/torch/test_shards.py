"""Which indices a rank of a mesh holds: against torch's own splitting, exhaustively, without processes."""

import itertools
import math

import pytest

torch = pytest.importorskip("torch")

from torch.distributed.tensor import Partial, Replicate, Shard  # noqa: E402
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset  # noqa: E402
from torch.distributed.tensor.placement_types import _StridedShard  # noqa: E402

from fastinit.adapters.torch import shards  # noqa: E402
from fastinit.adapters.torch.shards import local_ranges, ranges_of  # noqa: E402

UNEVEN = not shards.STRIDED_SHARDS_ARE_EVEN
uneven_strided = pytest.mark.skipif(not UNEVEN, reason="needs strided shards of uneven sizes")

MESHES = [(1,), (2,), (4,), (6,), (2, 2), (2, 3), (3, 2), (4, 1), (2, 3, 2)]
SIZES = [*range(17), 23, 36, 48, 97]


def coordinates(mesh):
    return itertools.product(*map(range, mesh))


def indices(ranges):
    """The indices themselves."""
    return [list(itertools.chain(*axis)) for axis in ranges]


def chunked(values, chunks, number):
    """One of torch's chunks, of which there may be fewer than asked for."""
    parts = torch.chunk(values, chunks)
    return parts[number] if number < len(parts) else values[:0]


@pytest.mark.parametrize("mesh", MESHES)
def test_shards_of_one_axis_are_torchs_chunks_of_chunks(mesh):
    for size, coordinate in itertools.product(SIZES, coordinates(mesh)):
        expected = torch.arange(size)
        for ranks, rank in zip(mesh, coordinate, strict=True):
            expected = chunked(expected, ranks, rank)
        (held,) = ranges_of((size,), mesh, coordinate, [Shard(0)] * len(mesh))
        assert indices([held]) == [expected.tolist()]
        assert len(held) <= 1


@pytest.mark.parametrize("mesh", MESHES)
def test_every_placement_holds_each_element_once_for_every_replica(mesh):
    shape = (7, 1, 5)
    choices = [Replicate(), Shard(0), Shard(1), Shard(-1), *([_StridedShard(0, split_factor=2)] if UNEVEN else [])]
    for placements in itertools.product(choices, repeat=len(mesh)):
        counts = torch.zeros(shape, dtype=torch.int64)
        for coordinate in coordinates(mesh):
            held = indices(ranges_of(shape, mesh, coordinate, placements))
            assert all(axis == sorted(axis) for axis in held)
            counts[torch.meshgrid(*(torch.tensor(axis, dtype=torch.int64) for axis in held), indexing="ij")] += 1
        replicas = math.prod(n for n, placement in zip(mesh, placements, strict=True) if placement.is_replicate())
        assert (counts == replicas).all()


@pytest.mark.parametrize("mesh", [(2, 2), (2, 3), (3, 2)])
@pytest.mark.parametrize(
    "placements",
    [
        [Shard(0), Shard(1)],
        [Shard(1), Shard(0)],
        [Shard(0), Shard(0)],
        [Replicate(), Shard(1)],
        [Shard(1), Replicate()],
        pytest.param([_StridedShard(0, split_factor=3), Replicate()], marks=uneven_strided),
        pytest.param([Shard(0), _StridedShard(0, split_factor=3)], marks=uneven_strided),
    ],
    ids=str,
)
def test_local_shapes_and_first_indices_are_torchs(mesh, placements):
    for shape, coordinate in itertools.product([(7, 5), (12, 6), (1, 9), (13, 2)], coordinates(mesh)):
        ranges = ranges_of(shape, mesh, coordinate, placements)
        local, first = _compute_local_shape_and_global_offset(shape, mesh, coordinate, placements)
        held = indices(ranges)
        assert tuple(map(len, held)) == local
        if 0 not in local:
            assert tuple(axis[0] for axis in held) == first


@pytest.mark.parametrize("rounds", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_a_strided_shard_that_stands_for_no_order_is_torchs_own(rounds, ranks):
    placement = _StridedShard(0, split_factor=rounds)
    for size in SIZES if UNEVEN else range(0, 97, rounds * ranks):
        parts, _ = placement._split_tensor(torch.arange(size), ranks, with_padding=False)
        for rank in range(ranks):
            assert indices(ranges_of((size,), (ranks,), (rank,), [placement])) == [parts[rank].tolist()]


def test_before_torch_2_13_uneven_strided_shards_are_refused(monkeypatch):
    monkeypatch.setattr(shards, "STRIDED_SHARDS_ARE_EVEN", True)
    placements = [_StridedShard(0, split_factor=3)]
    assert indices(ranges_of((12,), (2,), (0,), placements)) == [[0, 1, 4, 5, 8, 9]]
    with pytest.raises(ValueError, match=r"shard of 13 elements in 6 uneven parts needs torch 2\.13"):
        ranges_of((13,), (2,), (0,), placements)
    assert indices(ranges_of((13,), (2, 3), (0, 0), [*placements, Shard(0)])) == [[0, 1, 2]]  # an order: as ever


@pytest.mark.parametrize("mesh", [(2, 2), (2, 3), (3, 2), (5, 5)])
def test_fully_shard_over_tensor_parallel_splits_the_inner_mesh_axis_first(mesh):
    outer, inner = mesh
    placements = [_StridedShard(0, split_factor=inner), Shard(0)]
    for size, (i, j) in itertools.product(SIZES, coordinates(mesh)):
        expected = chunked(chunked(torch.arange(size), inner, j), outer, i)
        assert indices(ranges_of((size,), mesh, (i, j), placements)) == [expected.tolist()]
    # where the sizes divide, reading the placements one by one gives the same
    size, (i, j) = 4 * outer * inner, (outer - 1, 0)
    parts, _ = placements[0]._split_tensor(torch.arange(size), outer, with_padding=False)
    expected = chunked(parts[i], inner, j)
    assert indices(ranges_of((size,), mesh, (i, j), placements)) == [expected.tolist()]


def test_an_order_of_three_mesh_axes():
    mesh = (4, 3, 2)
    strided = _StridedShard(0, split_factor=2)
    for size, (i, j, k) in itertools.product((7, 24, 50), coordinates(mesh)):
        whole = torch.arange(size)
        # first the last mesh axis, then the first, then the middle one
        expected = [chunked(chunked(chunked(whole, 2, k), 4, i), 3, j).tolist()]
        assert indices(ranges_of((size,), mesh, (i, j, k), [strided, strided, Shard(0)])) == expected
        order = [(0, (2, 0, 1))]
        assert indices(ranges_of((size,), mesh, (i, j, k), [Shard(0)] * 3, order)) == expected


def test_a_mesh_of_a_thousand_ranks_costs_nothing():
    shape, mesh = (16384, 53248), (128, 8)
    column = [_StridedShard(0, split_factor=8), Shard(0)]
    row = [Shard(0), Shard(1)]
    assert ranges_of(shape, mesh, (127, 7), column) == ((range(16368, 16384),), (range(53248),))
    assert ranges_of(shape, mesh, (1, 7), row) == ((range(128, 256),), (range(46592, 53248),))


def test_single_indices_at_equal_distances_are_one_range():
    (held,) = ranges_of((4096,), (2,), (1,), [_StridedShard(0, split_factor=2048)])
    assert held == (range(1, 4096, 2),)


def test_scalars_and_empty_tensors():
    assert ranges_of((), (2,), (1,), [Replicate()]) == ()
    assert ranges_of((0, 3), (2,), (1,), [Shard(0)]) == ((), (range(3),))
    assert ranges_of((1, 3), (2,), (1,), [Shard(0)]) == ((), (range(3),))


@pytest.mark.parametrize(
    ("shape", "mesh", "coordinate", "placements", "message"),
    [
        (
            (4,),
            (2,),
            (0,),
            [Partial()],
            r"expected Replicate\(\) or Shard\(axis\).*mesh axis 0: no rank holds the values of a partial tensor",
        ),
        ((4,), (2, 2), (0, 1), [Shard(0), Partial("max")], "mesh axis 1: no rank holds the values of a partial tensor"),
        ((4,), (2,), (0,), [object()], r"expected Replicate\(\) or Shard\(axis\)"),
        ((4,), (2,), (0,), [Shard(1)], r"names an axis that a tensor of shape \(4,\) does not have"),
        ((4,), (2,), (0,), [Shard(-2)], "names an axis"),
        ((), (2,), (0,), [Shard(0)], "names an axis"),
        ((4,), (2,), (2,), [Shard(0)], r"coordinate \(2,\) is outside a mesh of shape \(2,\)"),
        ((4,), (2,), (-1,), [Shard(0)], "outside"),
        ((4,), (2, 2), (0,), [Shard(0), Shard(0)], "expected one coordinate and one placement for each axis"),
        ((4,), (2,), (0,), [Shard(0), Shard(0)], "expected one coordinate and one placement for each axis"),
    ],
)
def test_bad_input(shape, mesh, coordinate, placements, message):
    with pytest.raises(ValueError, match=message):
        ranges_of(shape, mesh, coordinate, placements)


def test_only_dtensors_have_local_ranges():
    with pytest.raises(TypeError, match="expected a DTensor, got a Tensor"):
        local_ranges(torch.empty(3))
