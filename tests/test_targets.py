"""The law of targets: every compiled instruction set gives the bytes of reference.py, and writes nothing else."""

import hashlib
from functools import lru_cache

import numpy as np
import pytest

import fastinit
from fastinit import Key, _core, reference, structured, targets
from fastinit.dtypes import DTYPES

KEY = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
GUARD = 256  # bytes before and after, in which nothing may change
ITEMSIZE = {dtype.tag: dtype.itemsize for dtype in DTYPES.values()} | {_core.UINT32: 4}

# Around each width and batch of any target, and where long runs begin to follow the cache lines (16 batches).
WIDTHS = (64, 96, 128, 192, 384, 768, 1536, 3072)
LENGTHS = sorted({*range(401), *(width + d for width in WIDTHS for d in (-4, -3, -1, 0, 1, 2, 5, 63))})


class Guarded:
    """Memory at a byte offset from a cache line, between guards."""

    def __init__(self, itemsize, most):
        self.itemsize = itemsize
        size = most * itemsize + 2 * GUARD + 128
        owner = np.empty(size, np.uint8)
        first = -_core.address(owner) % 64
        self.memory = owner[first : first + size - 64]
        self.address = _core.address(self.memory)
        self.clean = np.resize(np.arange(1, 252, dtype=np.uint8), self.memory.size)

    def wrong(self, number, sampling, start, bits, offset, streamed=False):
        """Fills bits.size elements at the offset; says what differs from the expected bits and untouched guards."""
        used = GUARD + offset + bits.nbytes + GUARD
        self.memory[:used] = self.clean[:used]
        first = GUARD + offset
        region = _core.Region(self.address + first, start, (bits.size,), (1,), (self.itemsize,), streamed)
        _core.Fill(number, sampling, KEY, region).run(0, bits.size)
        wanted = self.clean[:used].copy()
        wanted[first : first + bits.nbytes] = bits.view(np.uint8)
        if self.memory[:used].tobytes() == wanted.tobytes():
            return None
        where = np.flatnonzero(self.memory[:used] != wanted)[[0, -1]] - first
        return f"start {start}, length {bits.size}, offset {offset}: bytes {where[0]} to {where[1]} differ"


@pytest.fixture(scope="session")
def bits_of(expected):
    """Reference bits of a range, computed once for all targets."""

    @lru_cache(maxsize=2)
    def whole(sampling, first, count):
        return expected(sampling, KEY, np.uint64(first) + np.arange(count, dtype=np.uint64))

    return whole


def check(sampler, number, bits_of, first, cases):
    most = max(start + length for start, length, _ in cases)
    bits = bits_of(sampler, first, most)
    guarded = Guarded(ITEMSIZE[sampler.parameters["dtype"]], max(length for _, length, _ in cases))
    for start, length, offset in cases:
        for streamed in (False, True):  # stores as in large regions, past the caches, too
            problem = guarded.wrong(number, sampler, first + start, bits[start : start + length], offset, streamed)
            assert problem is None, problem


@pytest.mark.parametrize("target", targets.supported())
def test_every_length_start_and_address(sampler, target, bits_of):
    number = targets.index_of(target)
    rng = np.random.default_rng(1)
    cases = [(int(rng.integers(0, 70)), length, int(rng.integers(0, 64))) for length in LENGTHS]
    # every start within two blocks' worth, every address within a cache line, aligned to the element or not
    cases += [(start, 131, 0) for start in range(20)]
    cases += [(4, 197, offset) for offset in range(64)]
    # the long runs, which peel a first batch to reach a cache line, or cannot
    cases += [(int(rng.integers(0, 2)) * 4, 3072 + int(rng.integers(0, 900)), offset) for offset in range(64)]
    cases += [(start, 3300, 4) for start in range(1, 8)]
    check(sampler, number, bits_of, 0, cases)


@pytest.mark.parametrize("target", targets.supported())
def test_far_starts(sampler, target, bits_of):
    """The low half of the block number wraps at 2**33 or 2**34 elements; indices go up to 2**63."""
    number = targets.index_of(target)
    rng = np.random.default_rng(2)
    for wrap in (2**33, 2**34, 2**40 + 2**34, 2**62):
        cases = [(int(rng.integers(0, 400)), int(rng.integers(0, 900)), int(rng.integers(0, 64))) for _ in range(40)]
        cases += [(400 - back, 3500, 12) for back in (0, 1, 3, 4, 64, 96, 191, 192, 399)]
        check(sampler, number, bits_of, wrap - 400, cases)
    check(sampler, number, bits_of, 2**40 + 12345, [(0, 500, 0), (3, 80, 7)])
    check(sampler, number, bits_of, 2**63 - 700, [(0, 700, 0), (699, 1, 1), (5, 695, 3), (636, 64, 8)])


def test_the_check_sees_a_wrong_byte(all_samplers, bits_of):
    sampling = all_samplers["normal-float32"]
    bits = bits_of(sampling, 0, 100).copy()
    guarded, number = Guarded(4, 100), targets.current_index()
    assert guarded.wrong(number, sampling, 0, bits, 0) is None
    bits[77] ^= 1
    assert "bytes 308 to 308 differ" in guarded.wrong(number, sampling, 0, bits, 0)
    assert guarded.wrong(number, sampling, 1, bits_of(sampling, 0, 100), 0)


def test_a_write_past_the_end_is_seen(all_samplers, bits_of, monkeypatch):
    sampling = all_samplers["normal-float32"]
    bits = bits_of(sampling, 0, 101)

    class TooFar(_core.Fill):
        def __init__(self, number, sampling, key, region):
            super().__init__(number, sampling, key, _core.Region(Guarded.last + GUARD, 0, (101,), (1,), (4,)))

        def run(self, position, count):
            super().run(position, count + 1)

    monkeypatch.setattr(_core, "Fill", TooFar)
    guarded = Guarded(4, 101)
    monkeypatch.setattr(Guarded, "last", guarded.address, raising=False)
    assert "bytes 400 to 403 differ" in guarded.wrong(targets.current_index(), sampling, 0, bits[:100], 0)


@pytest.mark.parametrize("index_strides", [(1000, 50, 1), (1000, 37, 1)], ids=["apart", "continued"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1)], ids=str)
@pytest.mark.parametrize("target", targets.supported())
def test_parts_of_a_region(target, order, index_strides, all_samplers, expected):
    """Any [position, position + count) of a lattice, as the threads cut it, in memory of any order of the axes."""
    sampling, shape = all_samplers["normal-float32"], (3, 5, 37)
    out = np.zeros([(3, 5, 40)[axis] for axis in order], np.float32).transpose(np.argsort(order))
    region = _core.Region(_core.address(out), 11, shape, index_strides, out.strides)
    coordinates = np.indices(shape, np.int64)
    index = 11 + sum(axis * stride for axis, stride in zip(coordinates, index_strides, strict=True))
    bits = expected(sampling, KEY, index)
    rng = np.random.default_rng(3)
    for _ in range(200):
        position, end = sorted(int(x) for x in rng.integers(0, index.size + 1, 2))
        out[...] = 7.0
        _core.Fill(targets.index_of(target), sampling, KEY, region).run(position, end - position)
        wanted = np.full((3, 5, 40), 7.0, np.float32)
        inner = wanted[:, :, :37].reshape(-1)
        inner[position:end] = bits.reshape(-1)[position:end].view(np.float32)
        wanted[:, :, :37] = inner.reshape(shape)
        assert out.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (97, 96), (130, 40), (193, 193), (300, 191)])
@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_orthogonal_matches_its_reference(target, shape, real):
    from fastinit import reference_orthogonal

    key = Key("orthogonal")
    out = fastinit.fill(np.empty(shape, real), structured.Orthogonal(gain=1.5), key, target=target)
    kind = "normal_64" if real is np.float64 else "normal"
    normals = reference.fill(key.words, kind, 0, shape[0] * shape[1], np.dtype(real).name).reshape(shape)
    assert out.tobytes() == reference_orthogonal.orthogonal(normals, 1.5).tobytes()


# The floating-point environment of the caller


TINY = [(_core.NORMAL, 0, 1e-39), (_core.NORMAL_64, 1, 1e-309), (_core.NORMAL, 3, 1e-39), (_core.NORMAL, 2, 1e-6)]


def tiny(all_samplers):
    """Samplers whose values are subnormal in float32 as well as some whose rounding shows."""
    subnormal = [_core.Sampling(kind=kind, dtype=dtype, scale=scale) for kind, dtype, scale in TINY]
    return [*subnormal, *all_samplers.values()]


def test_the_environment_of_the_caller_does_not_matter(foreign, target, all_samplers, expected):
    environment, bits = foreign
    number = targets.index_of(target)
    samplings = tiny(all_samplers)
    outs = [np.zeros(300, f"u{ITEMSIZE[s.parameters['dtype']]}") for s in samplings]
    regions = [_core.Region(_core.address(out), 5, (300,), (1,), (out.itemsize,)) for out in outs]
    environment.change(bits)
    for sampling, region in zip(samplings, regions, strict=True):
        _core.Fill(number, sampling, KEY, region).run(0, 300)
    after = environment.control()
    environment.restore()
    assert after == bits, "the caller's environment was not restored"
    for sampling, out in zip(samplings, outs, strict=True):
        assert out.tobytes() == expected(sampling, KEY, np.arange(5, 305)).tobytes(), sampling.parameters
    assert any(np.any((out.view(np.float32) != 0) & (np.abs(out.view(np.float32)) < 2**-126)) for out in outs[:1])


def test_fill_in_a_foreign_environment(foreign, distributions, filled, raw):
    """The whole road: parameters that are first computed there, and threads that inherit it."""
    environment, bits = foreign
    from fastinit.initializers import plan

    key, shape = Key("environment"), (700, 800)
    cases = [(initializer, dtype) for initializer in distributions.values() for dtype in DTYPES]
    cases.append((fastinit.Orthogonal(gain=0.1), "float32"))
    before = [raw(filled((60, 7), initializer, key, dtype)) for initializer, dtype in cases]
    threaded = filled(shape, fastinit.Normal(0.0, 1e-39), key, num_threads=3)
    plan.cache_clear()
    different = []
    environment.change(bits)
    try:
        for (initializer, dtype), wanted in zip(cases, before, strict=True):
            try:
                if raw(filled((60, 7), initializer, key, dtype)).tobytes() != wanted.tobytes():
                    different.append((initializer, dtype))
            except ArithmeticError as error:
                different.append((initializer, dtype, error))
        again = filled(shape, fastinit.Normal(0.0, 1e-39), key, num_threads=3)
    finally:
        environment.restore()
        plan.cache_clear()
    assert again.tobytes() == threaded.tobytes()
    assert different == []


# The choice of a target


def test_the_digests_of_the_self_check_come_from_the_reference():
    for sampler, digest in targets.DIGESTS.items():
        double = sampler.endswith("_64")
        own = (
            {"window": (2**62, 3 * 2**61) if double else (2**30, 3 * 2**29)} if sampler.startswith("TRUNCATED") else {}
        )
        if sampler == "TRUNCATED_2":
            own = {}
        dtype = "float64" if double else "uint32" if sampler == "WORDS" else "float32"
        values = reference.fill(
            targets.VERIFIED_WORDS, sampler.lower(), targets.VERIFIED_START, targets.VERIFIED, dtype, 0.75, 0.25, **own
        )
        little_endian = values.astype(values.dtype.newbyteorder("<"))
        assert hashlib.blake2b(little_endian.tobytes(), digest_size=8).hexdigest() == digest, sampler


def test_every_supported_target_passes_the_self_check(target):
    assert targets.verified(target)


def test_a_wrong_target_is_not_used(monkeypatch):
    monkeypatch.setitem(targets.DIGESTS, "NORMAL", "0" * 16)
    targets.verified.cache_clear()
    try:
        assert not targets.verified("generic")
    finally:
        monkeypatch.undo()
        targets.verified.cache_clear()


def test_generic_is_always_there():
    assert targets.compiled()[-1] == "generic"
    assert set(targets.supported()) <= set(targets.compiled())


@pytest.mark.parametrize("name", targets.supported())
def test_the_environment_variable_names_the_target(run_python, name):
    done = run_python("import fastinit; print(fastinit.targets.current())", FASTINIT_TARGET=name)
    assert done.stdout.split() == [name], done.stderr


def test_a_wrong_environment_variable_is_an_error(run_python):
    program = (
        "import numpy, fastinit\n"
        "try: fastinit.fill(numpy.empty(3, 'f'), fastinit.Normal(), fastinit.Key(0))\n"
        "except ValueError as error: print(error)"
    )
    done = run_python(program, FASTINIT_TARGET="avx9")
    assert done.stdout.startswith("FASTINIT_TARGET") and "'avx9'" in done.stdout and "generic" in done.stdout, (
        done.stderr
    )


def test_a_wrong_target_argument_is_an_error():
    with pytest.raises(ValueError, match=r"target must be one of .*generic.*got 'fast'"):
        fastinit.fill(np.empty(3, np.float32), fastinit.Normal(), Key(0), target="fast")


def test_the_targets_agree_through_fill(target, distributions, filled, raw, reference_fill):
    key = Key("through fill")
    for initializer in distributions.values():
        for dtype in DTYPES:
            bits = raw(filled((11, 13), initializer, key, dtype, target=target))
            assert bits.tobytes() == reference_fill(initializer, key, np.arange(143), dtype, (11, 13)).tobytes()
