"""Quantized tensors: decoders written from the formats' specifications give back the float32 values."""

import json
import math
import tracemalloc
from dataclasses import dataclass, replace

import numpy as np
import pytest

import fastinit
from fastinit import StructuredInitializer
from fastinit.checkpoints import Filled, Plan, Quantized, Tensor, Virtual, quantized, read_checkpoint, verify, write
from fastinit.checkpoints.quantizing import SCHEMES

KEY = fastinit.Key(7)
FLOAT4 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def entry(shape, initializer=fastinit.Normal(std=0.02), name="up.weight"):  # noqa: B008
    return fastinit.Entry(name, shape, "given", initializer, KEY, dtype="float32")


def floats(of):
    """The values of an entry's slice, from the whole tensor."""
    whole = fastinit.fill(np.empty(of.entry.shape, np.float32), of.entry.initializer, KEY)
    box = tuple(slice(first, first + size) for first, size in zip(of.offsets, of.extent, strict=True))
    return whole[box].transpose(of.axes).reshape(of.shape).astype(np.float64)


def written(source, *, cut=None, num_threads=1):
    """All bytes of a tensor; in two ranges where an element is given to cut at."""
    out = np.full(source.format.nbytes(source.shape), 0xA5, np.uint8)
    at = 0 if cut is None else cut * source.format.bits // 8
    if at:
        source.write(out[:at], 0, num_threads)
    source.write(out[at:], cut or 0, num_threads)
    return out


def arrays(of, scheme):
    """The parts of a quantized tensor: bytes, float32, in their shapes."""
    found = {}
    for source in quantized("w", of, scheme).values():
        bits = written(source)
        found[source.part] = (bits.view(np.float32) if source.format.name == "float32" else bits).reshape(source.shape)
    return found


def float8(bits):
    """float8_e4m3fn (OCP 8-bit floating point, revision 1.0): 4 bits of exponent with the bias 7, 3 of fraction."""
    bits = bits.astype(np.int64)
    exponent, fraction = bits >> 3 & 15, bits & 7
    assert not ((exponent == 15) & (fraction == 7)).any()  # NaN
    numbers = np.where(exponent > 0, (8 + fraction) * 2.0 ** (exponent - 10), fraction * 2.0**-9)
    return np.where(bits >> 7, -numbers, numbers)


def float4(packed):
    """float4_e2m1fn (OCP microscaling formats, revision 1.0), two in a byte, the first in its lower half."""
    codes = np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1)
    return np.where(codes >> 3, -FLOAT4[codes & 7], FLOAT4[codes & 7])


def decoded(of, scheme):
    """The numbers that the parts stand for, and the scale of each."""
    parts = arrays(of, scheme)
    if scheme.startswith("float8"):
        if scheme == "float8_tensor":
            scales = np.broadcast_to(parts["scale"].astype(np.float64), of.shape)
        else:
            *_, rows, columns = of.shape
            scales = parts["scales"].astype(np.float64).repeat(128, -2).repeat(128, -1)[..., :rows, :columns]
        return float8(parts["values"]) * scales, scales
    if scheme == "nvfp4":
        scales = float8(parts["scales"]) / np.float64(parts["scale"][0])
    else:
        assert not (parts["scales"] == 255).any()  # NaN
        scales = 2.0 ** (parts["scales"].astype(np.float64) - 127)
    numbers = float4(parts["values"])
    scales = scales.repeat(16 if scheme == "nvfp4" else 32, -1)
    return numbers.reshape(of.shape) * scales, scales


def half_ulp(numbers, scheme):
    fraction, least = (3, -6) if scheme.startswith("float8") else (1, 0)
    exponents = np.floor(np.log2(np.maximum(np.abs(numbers), 2.0**least)))
    return 2.0 ** (exponents - fraction - 1)


@dataclass(frozen=True)
class Ramp(StructuredInitializer):
    """Equal steps from -last to last: a tensor that is made whole, and whose reach nobody knows."""

    last: float

    def check_shape(self, shape):
        pass

    def reach(self, shape, dtype="float32"):
        return 0.0

    def write(self, out, key, num_threads, target):
        out[...] = np.linspace(-self.last, self.last, out.size).reshape(out.shape)


CASES = {
    "matrix": Filled(entry((200, 320))),
    "small": Filled(entry((3, 32))),
    "wide": Filled(entry((130, 1312))),
    "experts": Filled(entry((3, 130, 160))),
    "an expert, transposed": Filled(entry((4, 320, 150)), (2, 64, 0), (1, 192, 150), axes=(0, 2, 1), dropped=(0,)),
    "experts, transposed": Filled(entry((3, 96, 140)), axes=(0, 2, 1)),
    "of one size": Filled(entry((130, 160), fastinit.Constant(-0.3))),
    "made whole": Filled(entry((140, 160), Ramp(0.7))),
    "orthogonal": Filled(entry((4, 160, 160), fastinit.Orthogonal()), (1, 0, 0), (3, 130, 160)),
    "packed": Filled(entry((130, 160), fastinit.Blocks((fastinit.Normal(std=3.0), fastinit.Zeros()), axis=0))),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("of", CASES.values(), ids=CASES)
def test_decoded_values_are_within_half_a_step_of_the_floats(of, scheme):
    found, scales = decoded(of, scheme)
    expected = floats(of)
    assert found.shape == expected.shape and np.isfinite(scales).all() and (scales > 0).all()
    error = np.abs(found - expected) / scales
    assert (error <= half_ulp(expected / scales, scheme) * (1 + 1e-6)).all()
    # the scales are as small as they can be: some element of a block is near the largest number of the format
    if scheme in ("float8_block", "mxfp4"):
        largest = np.abs(found / scales).max()
        assert largest == (448 if scheme == "float8_block" else 6) or not largest or (scheme == "mxfp4" and largest > 3)


def test_an_element_is_the_sample_of_its_index():
    of = Filled(entry((200, 320)))
    found, scales = decoded(of, "float8_block")
    for row, column in ((0, 0), (127, 128), (199, 319)):
        exact = fastinit.sample(KEY, row * 320 + column, fastinit.Normal(std=0.02)) / scales[row, column]
        assert abs(found[row, column] / scales[row, column] - exact) <= half_ulp(exact, "float8_block") * (1 + 1e-6)


@dataclass(frozen=True)
class Given(StructuredInitializer):
    """The numbers that are given, over and over."""

    numbers: tuple[float, ...]

    def check_shape(self, shape):
        pass

    def reach(self, shape, dtype="float32"):
        return 0.0

    def write(self, out, key, num_threads, target):
        out[...] = np.resize(self.numbers, out.shape)


def test_ties_go_to_the_even_neighbour():
    ties = (6.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
    of = Filled(entry((2, 32), Given((*ties, *(-tie for tie in ties)))))
    numbers, scales = decoded(of, "mxfp4")
    assert (scales == 1).all()
    assert numbers[0, :8].tolist() == [6.0, 0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]
    assert numbers[0, 8:16].tolist() == [-6.0, 0.0, -1.0, -1.0, -2.0, -2.0, -4.0, -4.0]
    # of float8 the steps from 16 on are 2, and those from 256 on 32
    of = Filled(entry((2, 16), Given((448.0, 17.0, 19.0, -17.0, 272.0, 304.0, 2.0**-10, 3 * 2.0**-10))))
    numbers, scales = decoded(of, "float8_block")
    assert (scales == 1).all()
    assert numbers[0, :8].tolist() == [448.0, 16.0, 20.0, -16.0, 256.0, 320.0, 0.0, 2 * 2.0**-9]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("value", [0.0, 1e-45, -1e-38, 1e-20, 3e38])
def test_scales_are_finite_and_not_zero(scheme, value):
    found, scales = decoded(Filled(entry((2, 32), fastinit.Constant(value))), scheme)
    assert np.isfinite(scales).all() and (scales >= 2.0**-149).all()
    if value == 0.0:
        assert (scales == 1).all() and not found.any()
    elif abs(value) > 1e-30:
        assert np.abs(found / value - 1).max() < 0.2


@pytest.mark.parametrize("scheme", SCHEMES)
def test_zeros_within_a_tensor(scheme):
    halves = fastinit.Blocks((fastinit.Zeros(), fastinit.Normal(std=1e-3)), axis=0)
    found, scales = decoded(Filled(entry((256, 32), halves)), scheme)
    assert not found[:128].any() and found[128:].any() and np.isfinite(scales).all() and (scales > 0).all()


def test_far_smaller_blocks_of_nvfp4_have_a_scale():
    tiny = fastinit.Blocks((fastinit.Constant(1e-12), fastinit.Constant(1.0)), axis=0)
    of = Filled(entry((2, 32), tiny))
    assert (arrays(of, "nvfp4")["scales"][0] == 1).all()  # the least of float8


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("case", ["small", "experts", "experts, transposed", "made whole"])
def test_the_bytes_do_not_depend_on_the_pieces(scheme, case):
    for source in quantized("w", CASES[case], scheme).values():
        size, granule = math.prod(source.shape), source.granule
        expected = written(source)
        assert np.array_equal(written(source, num_threads=3), expected)
        cuts = range(granule, size, granule)
        for cut in cuts if len(cuts) < 200 else cuts[:: len(cuts) // 100]:
            assert np.array_equal(written(source, cut=cut, num_threads=2), expected), cut
        if case != "made whole":
            for begin in cuts[::7]:
                count = min(granule, size - begin)
                bits = source.format.bits
                out = np.empty(count * bits // 8, np.uint8)
                source.write(out, begin, 1)
                assert np.array_equal(out, expected[begin * bits // 8 :][: out.size])


def test_a_wide_tensor_has_several_tiles():
    of = Filled(entry((260, 3000)))
    scales = arrays(of, "float8_block")["scales"]
    expected = np.abs(floats(of)).astype(np.float32)
    for row in range(3):
        for column in range(24):
            block = expected[row * 128 : row * 128 + 128, column * 128 : column * 128 + 128]
            assert scales[row, column] == block.max() / np.float32(448)


def plan_of(scheme, shape=(200, 320)):
    tensors = [Tensor("norm", Filled(entry((16,), fastinit.Ones(), "norm")))]
    for name, source in quantized("up.weight", Filled(entry(shape)), scheme).items():
        tensors.append(Tensor(name, source))
    return Plan(tuple(tensors))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_plan_is_kept_as_json(scheme):
    plan = plan_of(scheme)
    assert Plan.from_json(plan.to_json()) == plan
    assert len(plan.record.entries) == 2
    plan.check()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_written_verified_and_computed_where_it_is_read(scheme, tmp_path):
    plan = plan_of(scheme)
    path = tmp_path / "model.safetensors"
    write(plan, path)
    assert str(verify(path)) == f"{len(plan)} tensors: {len(plan)} equal"
    stored = read_checkpoint(path)
    virtual = Virtual(stored.plan)
    assert virtual.keys() == [tensor.name for tensor in plan]
    data = path.read_bytes()
    for tensor in plan:
        found, bits = virtual.get_tensor(tensor.name), written(tensor.source).tobytes()
        assert found.shape == tensor.shape == stored[tensor.name].shape
        assert found.tobytes() == bits and bits in data
        if found.ndim > 1:
            part = virtual.get_slice(tensor.name)[1:3, 1:]
            assert part.tobytes() == found[1:3, 1:].tobytes()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_safetensors_reads_the_bytes(scheme, tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch")
    safetensors = pytest.importorskip("safetensors", reason="needs safetensors")
    plan = plan_of(scheme)
    write(plan, tmp_path / "model.safetensors")
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        for tensor in plan:
            found = file.get_tensor(tensor.name)
            assert str(found.dtype) == f"torch.{tensor.format.name}" and tuple(found.shape) == tensor.shape
            assert np.array_equal(found.reshape(-1).view(torch.uint8).numpy(), written(tensor.source))


def test_shares_of_processes_give_the_same_files(tmp_path):
    tensors = [
        Tensor(name, source)
        for scheme in ("float8_block", "nvfp4")
        for name, source in quantized(scheme, Filled(entry((300, 320), name=scheme)), scheme).items()
    ]
    plan = Plan(tuple(tensors))
    write(plan, tmp_path / "one", shard_size=50_000, num_threads=1)
    assert not write(plan, tmp_path / "two", shard_size=50_000, part=(1, 2), num_threads=3).is_complete
    assert write(plan, tmp_path / "two", shard_size=50_000, part=(0, 2), max_memory=2**40).is_complete
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) > 3
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(("scheme", "name"), [("float8_block", "up.weight"), ("nvfp4", "up.weight_packed")])
def test_what_was_changed_is_found(scheme, name, tmp_path):
    path = tmp_path / "model.safetensors"
    plan = plan_of(scheme)
    write(plan, path)
    (source,) = (tensor.source for tensor in plan if tensor.name == name)
    data = bytearray(path.read_bytes())
    data[data.index(written(source).tobytes()) + 1000] ^= 0x11
    path.write_bytes(data)
    found = {row.name: row.verdict for row in verify(path)}
    assert {other: verdict for other, verdict in found.items() if verdict != "equal"}.keys() == {name}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_memory_stays_below_what_was_said(scheme):
    for source in quantized("w", Filled(entry((2048, 4096))), scheme).values():
        out = np.empty(source.format.nbytes(source.shape), np.uint8)
        tracemalloc.start()
        source.write(out, 0, 1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < source.working_memory / fastinit.default_num_threads()


def test_memory_is_bounded_and_known_before():
    block = quantized("w", Filled(entry((128 * 64, 4096))), "float8_block")["w"]
    assert block.granule == 128 * 4096 and 2**20 < block.working_memory <= 2**21 * fastinit.default_num_threads()
    whole = quantized("w", Filled(entry((512, 512), fastinit.Orthogonal())), "mxfp4")["w_packed"]
    assert whole.granule == 512 * 256 and whole.working_memory > 3 * 4 * 512 * 512


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: quantized("w", Filled(entry((4, 32))), "fp8"), "scheme must be one of float8_block, .*; got 'fp8'"),
        (lambda: Quantized("nvfp4", "blocks", Filled(entry((4, 32)))), "part of nvfp4 must be one of values, scales"),
        (lambda: Quantized("mxfp4", "values", Filled(entry((4, 48)))), "multiples of the 32 elements of mxfp4"),
        (lambda: Quantized("mxfp4", "values", Filled(entry((32,)))), r"rows and columns, got the shape \(32,\)"),
        (lambda: Quantized("float8_block", "values", Filled(entry((0, 32)))), "rows and columns"),
        (
            lambda: Quantized("mxfp4", "values", Filled(replace(entry((4, 32)), dtype="bfloat16"))),
            "values to quantize are of float32, got 'bfloat16'",
        ),
        (lambda: Quantized("mxfp4", "values", Filled(entry((4, 32), fastinit.Constant(math.inf)))).check(), "finite"),
        (lambda: Quantized("mxfp4", "values", Filled(entry((4, 32), fastinit.Constant(math.nan)))).check(), "finite"),
    ],
)
def test_what_cannot_be_quantized_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_only_what_is_filled_is_quantized():
    with pytest.raises(TypeError, match="only what an initializer fills"):
        Quantized("mxfp4", "values", entry((4, 32)))


def test_nan_of_a_tensor_that_is_made_whole_is_said():
    of = Filled(entry((2, 32), Given((1.0, math.nan))))
    for source in quantized("w", of, "nvfp4").values():
        with pytest.raises(ValueError, match="got NaN or an infinity"):
            written(source)


@pytest.mark.parametrize("change", [{"scheme": "int3"}, {"part": 1}, {"axis": 3}, {"scheme": None}])
def test_a_damaged_plan_is_refused(change):
    found = json.loads(plan_of("nvfp4").to_json())
    found["tensors"][1]["quantized"] |= change
    with pytest.raises(ValueError, match="not a plan"):
        Plan.from_json(json.dumps(found))
