"""The law of versions: the bytes of stream v1 never change.

golden.txt holds a digest for each distribution and dtype, with the sampler and its parameters written out. Each is
computed here from reference.py, which needs nothing but that line, and from the core, which needs nothing but the
initializer.
Run as a script, this file writes the table from the reference: for additions only.
"""

import hashlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import fastinit
from fastinit import Key, reference, reference_orthogonal
from fastinit.dtypes import DTYPES

GOLDEN = Path(__file__).with_name("golden.txt")
SEED, FOLD = 2026, "golden"
START, COUNT = 2**34 - 1001, 2003  # the block number's low half wraps inside, for both widths' kinds
INF = math.inf

INITIALIZERS = {
    "constant": fastinit.Constant(-0.3),
    "uniform-symmetric": fastinit.Uniform(-0.3, 0.3),
    "uniform-0-1": fastinit.Uniform(0.0, 1.0),
    "uniform-1-3": fastinit.Uniform(1.0, 3.0),
    "uniform-odd": fastinit.Uniform(-0.2, 0.7),
    "normal": fastinit.Normal(),
    "normal-0.02": fastinit.Normal(0.0, 0.02),
    "normal-shifted": fastinit.Normal(0.25, 0.75),
    "normal-tiny": fastinit.Normal(0.0, 3e-5),
    "truncated-2": fastinit.TruncatedNormal(),
    "truncated-2-shifted": fastinit.TruncatedNormal(0.1, 0.05),
    "truncated-2-corrected": fastinit.TruncatedNormal(0.0, 0.02, correct_variance=True),
    "truncated-1-3": fastinit.TruncatedNormal(0.0, 1.0, -1.0, 3.0),
    "truncated-half": fastinit.TruncatedNormal(0.0, 0.5, 0.0, INF),
    "truncated-absolute": fastinit.TruncatedNormal(0.5, 0.25, 0.25, 1.0, "absolute"),
    "truncated-rare": fastinit.TruncatedNormal(0.0, 1.0, 3.0, 4.5),
    "truncated-tail": fastinit.TruncatedNormal(0.0, 1.0, 5.0, 7.0),
    "truncated-lower-tail": fastinit.TruncatedNormal(0.0, 1.0, -INF, -5.0),
    "truncated-narrow": fastinit.TruncatedNormal(0.0, 1.0, 1.0, 1.0 + 2.0**-29),
    "truncated-everywhere": fastinit.TruncatedNormal(0.1, 1.0, -INF, INF),
    "he-normal": fastinit.he_normal(),
    "glorot-uniform": fastinit.glorot_uniform(),
    "lecun-truncated-normal": fastinit.lecun_truncated_normal(),
}
SHAPE = (2**18, 2**18)  # of the tensor, for the fans
FIELDS = ("scale", "shift", "low", "high", "tail_low", "tail_share")
HEADER = f"""\
# Digests of stream v1, which never change.
#
# Elements [{START}, {START + COUNT}) of a tensor of shape {SHAPE}, drawn with Key({SEED}).fold_in({FOLD!r}):
# BLAKE2b-128 of their bytes in little-endian order. A line names the distribution and the dtype, then the sampler of
# docs/stream-v1.md and its parameters, floating-point numbers in hexadecimal. Written from fastinit/reference.py by
# `python tests/test_version.py --write`. Lines are added for new distributions and dtypes; a line is never changed.
"""


def digest(values):
    """BLAKE2b-128 of little-endian bytes."""
    return hashlib.blake2b(values.astype(values.dtype.newbyteorder("<")).tobytes(), digest_size=16).hexdigest()


def written(plan):
    """The parameters of a core's sampling in the form of the table."""
    kinds, p = list(reference.KINDS), plan.parameters
    kind = kinds[p["kind"]]
    if kind == "constant":
        return f"constant bits={p['bits']:#x}"
    parts = [kind, f"scale={p['scale'].hex()}", f"shift={p['shift'].hex()}"]
    if p["clamped"]:
        parts += [f"least={p['low'].hex()}", f"largest={p['high'].hex()}"]
    if kind in ("truncated", "truncated_64"):
        parts += [f"first={p['first']}", f"count={p['count']}"]
    if kind == "truncated_tail_64":
        parts += [f"low={p['tail_low'].hex()}", f"share={p['tail_share'].hex()}"]
    return " ".join(parts)


def from_reference(key, dtype, recipe):
    """The digest of what the reference makes of a line's recipe."""
    kind, *rest = recipe.split()
    p = dict(part.split("=") for part in rest)
    real = {
        name: float.fromhex(p[name]) for name in ("scale", "shift", "least", "largest", "low", "share") if name in p
    }
    own = {"bits": int(p["bits"], 16)} if kind == "constant" else {}
    if "first" in p:
        own["window"] = int(p["first"]), int(p["count"])
    if "share" in p:
        own["tail"] = real["low"], real["share"]
    clamp = (real["least"], real["largest"]) if "least" in p else None
    values = reference.fill(
        key.words, kind, START, COUNT, dtype, real.get("scale", 1.0), real.get("shift", 0.0), clamp, **own
    )
    return digest(values)


def plans():
    """Every line of the table: name, dtype, recipe. What a dtype cannot hold is left out."""
    for name, initializer in INITIALIZERS.items():
        for dtype in DTYPES:
            try:
                plan = fastinit.sampling.compiled(initializer.sampling(SHAPE), dtype)
            except ValueError:
                continue
            yield name, dtype, written(plan)


def table():
    """golden.txt as {(name, dtype): (digest, recipe)}."""
    lines = [line.split(maxsplit=3) for line in GOLDEN.read_text("utf-8").splitlines() if line and line[0] != "#"]
    return {(name, dtype): (found, recipe) for name, dtype, found, recipe in lines}


@pytest.fixture(scope="module")
def golden():
    return table()


@pytest.fixture(scope="module")
def key():
    return Key(SEED).fold_in(FOLD)


def test_the_table_is_complete(golden):
    assert set(golden) == {(name, dtype) for name, dtype, _ in plans()}


def test_the_parameters_are_those_of_the_table(golden):
    for name, dtype, recipe in plans():
        assert golden[name, dtype][1] == recipe, (name, dtype)


def test_the_reference_gives_the_digests(golden, key):
    wrong = [line for line, (found, recipe) in golden.items() if from_reference(key, line[1], recipe) != found]
    assert wrong == []


def test_the_core_gives_the_digests(golden, key, filled, raw, target):
    for (name, dtype), (found, _) in golden.items():
        values = raw(filled(COUNT, INITIALIZERS[name], key, dtype, start=START, global_shape=SHAPE, target=target))
        assert digest(values) == found, (name, dtype)


def test_digests_differ(golden):
    """Distinct lines draw distinct values, constants apart."""
    assert len({found for found, _ in golden.values()}) >= len(golden) - 12


def test_words(key):
    assert digest(fastinit.words(key, START, COUNT)) == digest(
        reference.words(key.words, np.arange(COUNT, dtype=np.uint64) + np.uint64(START))
    )
    assert digest(fastinit.words(key, START, COUNT)) == "17844cafc47da480a97dcd83ad8b8f2e"


# BLAKE2b-128 of little-endian float32 or float64 bytes
STRUCTURED = [
    (fastinit.Orthogonal(), (130, 97), "float32", "2d45a0813ec17fc258af70301cafe7c1"),
    (fastinit.Orthogonal(1.5, column_axis=0), (64, 3, 5), "float64", "ba8c819ac37137a0ed645688d2b7f256"),
    (fastinit.DeltaOrthogonal(), (3, 3, 16, 40), "float32", "c6a4a0a45d23170355fcae084a1285e5"),
    (fastinit.Sparse(0.3, 0.1), (60, 51), "float32", "39fc66486944d08dae8dbb131b21dfcc"),
    (fastinit.ICNR(fastinit.he_normal(), 2), (3, 3, 5, 16), "float32", "3db854aef7a1c2c311d905dd714247cd"),
    (
        fastinit.ICNR(fastinit.Normal(), 2, order="subpixel"),
        (3, 3, 5, 16),
        "float32",
        "657292225e7c81bafbe28d86b587afe3",
    ),
    (fastinit.Identity(0.3), (7, 9), "float32", "b33e5ac9b42f335b0c166908729af488"),
    (fastinit.Dirac(2), (3, 3, 4, 8), "float32", "17559bd2753b6ad245419f4dbb64401c"),
    (fastinit.ZerO(), (3, 3, 5, 12), "float32", "9b58edb90b14eb0be67af6c3d0daed69"),
]


@pytest.mark.parametrize("initializer, shape, dtype, found", STRUCTURED, ids=lambda x: type(x).__name__)
def test_structured(filled, key, target, initializer, shape, dtype, found):
    assert digest(filled(shape, initializer, key, dtype, target=target)) == found


def test_structured_by_hand(key):
    """The same digests from the reference and a few lines of NumPy; tests of other laws hold the rest."""
    found = {type(initializer).__name__: (shape, digest_) for initializer, shape, _, digest_ in STRUCTURED[::-1]}

    (m, n), wanted = found["Orthogonal"]
    normals = reference.fill(key.words, "normal", 0, m * n).reshape(m, n)
    assert digest(reference_orthogonal.orthogonal(normals)) == wanted

    (m, n), wanted = found["Sparse"]
    sparse = reference.fill(key.words, "normal", 0, m * n, scale=0.1).reshape(m, n)
    words = reference.words(key.fold_in("zeros").words, np.arange(m * n)).reshape(m, n)
    for column in range(n):
        sparse[np.argsort(words[:, column], kind="stable")[: math.ceil(0.3 * m)], column] = 0.0
    assert digest(sparse) == wanted

    wanted = found["ICNR"][1]
    std = math.sqrt(2 / (3 * 3 * 5))
    kernel = reference.fill(key.words, "normal", 0, 3 * 3 * 5 * 4, scale=std).reshape(3, 3, 5, 4)
    assert digest(kernel[..., np.arange(16) // 4]) == wanted


# Keys, by an encoding written a second time


def hashed(person, parent, data):
    return hashlib.blake2b(parent + len(data).to_bytes(8, "little") + data, digest_size=16, person=person).digest()


def encoded(data):
    if isinstance(data, str):
        return b"s" + b"".join(utf8(ord(c)) for c in data)
    if isinstance(data, bytes):
        return b"b" + data
    size = 1
    while not -(1 << 8 * size - 1) < data < 1 << 8 * size - 1:
        size += 1
    return b"i" + bytes(data >> 8 * i & 0xFF for i in range(size))


def utf8(point):
    """UTF-8 of any code point, lone surrogates included."""
    size = 1 + sum(point >= least for least in (0x80, 0x800, 0x10000))
    if size == 1:
        return bytes([point])
    tail = [0x80 | point >> 6 * i & 0x3F for i in range(size - 1)][::-1]
    return bytes([0xF00 >> size & 0xFF | point >> 6 * (size - 1), *tail])


def words_of(raw):
    return tuple(int.from_bytes(raw[4 * i : 4 * i + 4], "little") for i in range(4))


SEEDS = [0, 1, -1, 127, 128, -127, -128, -129, 255, 256, 2**31, 2**32 - 1, 2**63, -(2**63), 2**64, 10**40, "", "0",
         "encoder.weight", "größe.重み.🙂", "\ud800", b"", b"0", bytes(range(256))]  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS, ids=ascii)
def test_keys(seed):
    root = hashed(b"fastinit v1 seed", b"", encoded(seed))
    key = Key(seed)
    assert key.words == words_of(root)
    for data in SEEDS:
        assert key.fold_in(data).words == words_of(hashed(b"fastinit v1 fold", root, encoded(data)))
    for j, part in enumerate(key.split(5)):
        assert part.words == words_of(hashed(b"fastinit v1 part", root, j.to_bytes(8, "little")))


def test_keys_never_change():
    """As docs/stream-v1.md lists them."""
    assert Key(0).words == (0xF0DF5698, 0x9747370C, 0xF04FA215, 0x389677F4)
    assert Key("0").words == (0x0568DEF8, 0x94A65E33, 0x482EB7B7, 0xA5610697)
    assert Key(0).fold_in("encoder.weight").words == (0x6141D57B, 0x9128D8D2, 0xB7BA4264, 0xB46D33A0)
    assert Key(0).split(2)[1].words == (0x18834522, 0xCBA00E64, 0xB1034FFE, 0x4F6A90AA)


def test_all_these_keys_differ():
    keys = [Key(seed) for seed in SEEDS]
    keys += [key.fold_in(data) for key in keys for data in SEEDS] + [part for key in keys for part in key.split(5)]
    assert len(set(keys)) == len(keys)


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    stream = Key(SEED).fold_in(FOLD)
    kept = table() if GOLDEN.exists() else {}
    rows = [(n, d, kept[n, d] if (n, d) in kept else (from_reference(stream, d, r), r)) for n, d, r in plans()]
    GOLDEN.write_text(HEADER + "".join(f"{n} {d} {f} {r}\n" for n, d, (f, r) in rows), encoding="utf-8")
