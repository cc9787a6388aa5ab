"""The long battery: Philox's words, a billion normals, and every float32 word there is. `make test-long` runs it.

Keys are fixed. The limits are so wide that a good generator fails none of the few thousand statistics by chance.
"""

import math
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import fastinit
from fastinit import Key, targets

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "fastinit" / "kernels"
KEYS = [Key("battery"), Key.from_words(0, 0), Key.from_words(1, 0), Key.from_words(0, 0, 1, 0)]
LIMIT = 6.0  # standard errors
TINY = 1e-9  # probability

pytestmark = pytest.mark.long


def probability(counts, expected):
    """Of a chi-square at least as large, and at most as large: the smaller one."""
    square = float(((counts - expected) ** 2 / expected).sum())
    freedom = counts.size - 1
    return min(stats.chi2.sf(square, freedom), stats.chi2.cdf(square, freedom))


@pytest.fixture(scope="module", params=range(len(KEYS)))
def words(request):
    return fastinit.words(KEYS[request.param], 0, 2**25)


def test_bits(words):
    """Each of the 32 bits, in each of the four words of a block."""
    for lane in range(4):
        of_lane = words[lane::4]
        for bit in range(32):
            ones = np.count_nonzero(of_lane >> np.uint32(bit) & np.uint32(1))
            assert abs(ones - of_lane.size / 2) < LIMIT * math.sqrt(of_lane.size) / 2, (lane, bit)


def test_pairs_of_bits(words):
    """Bits i and j of one word agree half the time."""
    few = words[: 2**22]
    bits = (few[:, None] >> np.arange(32, dtype=np.uint32) & np.uint32(1)).astype(np.float32) * 2 - 1
    correlation = bits.T @ bits / len(few)
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < LIMIT / math.sqrt(len(few))


def test_bytes(words):
    for byte in range(4):
        counts = np.bincount(words >> np.uint32(8 * byte) & np.uint32(255), minlength=256)
        assert probability(counts, words.size / 256) > TINY, byte


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 8, 64, 192, 4096])
def test_serial_pairs(words, distance):
    """The bytes of words at a distance: of one block, of neighbouring counters, of neighbouring batches."""
    first, second = words[:-distance], words[distance:]
    for one, other in ((24, 24), (0, 0), (24, 0)):
        cell = (first >> np.uint32(one) & np.uint32(255)) << np.uint32(8) | second >> np.uint32(other) & np.uint32(255)
        assert probability(np.bincount(cell, minlength=65536), first.size / 65536) > TINY


def test_birthday_spacings():
    """Marsaglia (1985): equal gaps between n = 2**12 birthdays in d = 2**32 days are Poisson, mean n**3 / 4 d = 4."""
    total, years = 0, 4000
    for key in range(4):
        days = np.sort(fastinit.words(Key(key), 0, years * 2**12 // 4).reshape(-1, 2**12).astype(np.int64), axis=1)
        gaps = np.sort(np.diff(days, axis=1), axis=1)
        total += int((np.diff(gaps, axis=1) == 0).sum())
    mean = 4.0 * years
    assert abs(total - mean) < LIMIT * math.sqrt(mean)


def test_words_collide_as_often_as_chance():
    """2**23 words hold n**2 / 2**33 = 8192 equal pairs."""
    for key in KEYS:
        drawn = np.sort(fastinit.words(key, 0, 2**23))
        expected = 2**23 * (2**23 - 1) / 2**33
        assert abs(np.count_nonzero(drawn[1:] == drawn[:-1]) - expected) < LIMIT * math.sqrt(expected) + 10


def test_avalanche():
    """One bit of the counter, the key or the stream changes each of the 128 bits of a block half the time."""
    rng = np.random.default_rng(0)
    samples = 1500
    changed = np.zeros((192, 128))
    places = np.arange(32, dtype=np.uint32)
    for _ in range(samples):
        *state, low, high = (int(x) for x in rng.integers(0, 2**32, 6))
        number = (low | high << 32) % 2**61
        block = fastinit.words(Key.from_words(*state), 4 * number, 4)
        for bit in range(192):
            if bit < 61:
                other = fastinit.words(Key.from_words(*state), 4 * (number ^ 1 << bit), 4)
            elif bit < 64:
                continue  # a tensor has no such block
            else:
                flipped = list(state)
                flipped[(bit - 64) // 32] ^= 1 << bit % 32
                other = fastinit.words(Key.from_words(*flipped), 4 * number, 4)
            changed[bit] += ((block ^ other)[:, None] >> places & np.uint32(1)).reshape(-1)
    used = [bit for bit in range(192) if not 61 <= bit < 64]
    z = (changed[used] - samples / 2) / (math.sqrt(samples) / 2)
    assert np.abs(z).max() < LIMIT
    assert abs(float((z**2).mean()) - 1) < LIMIT * math.sqrt(2 / z.size) * 1.1


def test_adjacent_keys_and_streams():
    """Keys that differ by one, in each of the four words, and names as models have them."""
    count = 2**20
    keys = [Key.from_words(*(int(j == i) * n for j in range(4))) for i in range(4) for n in range(1, 12)]
    keys += [Key(0).fold_in(f"layer.{n}.weight") for n in range(24)]
    x = np.stack([fastinit.fill(np.empty(count, np.float32), fastinit.Normal(), key) for key in keys])
    for f in (lambda t: t, np.abs):
        correlation = np.corrcoef(f(x))
        np.fill_diagonal(correlation, 0)
        assert np.abs(correlation).max() < LIMIT / math.sqrt(count)
    shifted = np.corrcoef(np.concatenate([x[:, 1:], x[:, :-1]]))[: len(keys), len(keys) :]
    assert np.abs(shifted).max() < LIMIT / math.sqrt(count)
    xor = np.array([[np.count_nonzero(a.view(np.uint32) == b.view(np.uint32)) for a in x[::7]] for b in x[1::7]])
    assert xor.max() < 20  # 2**20 pairs share about one of the 2**31 values


def test_a_billion_normals():
    """Moments to the sixth, tails to 5.5 deviations and the correlation of pairs."""
    chunk, chunks = 2**23, 128
    powers, tails, pairs = np.zeros(6), Counter(), np.zeros(3)
    limits = (1.0, 2.0, 3.0, 4.0, 4.5, 5.0, 5.5)
    out, largest = np.empty(chunk, np.float32), 0.0
    for number in range(chunks):
        fastinit.fill(out, fastinit.Normal(), KEYS[0], start=number * chunk)
        z = out.astype(np.float64)
        power = np.ones_like(z)
        for n in range(6):
            power *= z
            powers[n] += power.sum()
        size = np.abs(out)
        for limit in limits:
            tails[limit] += np.count_nonzero(size > limit)
        even, odd = z[0::2], z[1::2]
        pairs += [(even * odd).sum(), ((even**2 - 1) * (odd**2 - 1)).sum(), (np.abs(even) * odd).sum()]
        largest = max(largest, float(size.max()))
    total = chunk * chunks
    exact, square = np.array([0, 1, 0, 3, 0, 15]), np.array([1, 3, 15, 105, 945, 10395])
    assert (np.abs(powers / total - exact) < LIMIT * np.sqrt((square - exact**2) / total)).all()
    for limit in limits:
        p = 2 * stats.norm.sf(limit)
        assert abs(tails[limit] - total * p) < LIMIT * math.sqrt(total * p), limit
    assert (np.abs(pairs) < LIMIT * np.sqrt(total / 2 * np.array([1.0, 4.0, 1.0]))).all()
    assert 5.7 < largest <= 6.7638


@pytest.mark.parametrize(
    "initializer, law",
    [
        (fastinit.Uniform(-1.0, 1.0), stats.uniform(-1, 2)),
        (fastinit.TruncatedNormal(), stats.truncnorm(-2, 2)),
        (fastinit.TruncatedNormal(0.0, 1.0, -1.0, 3.0), stats.truncnorm(-1, 3)),
        (fastinit.Normal(), stats.norm()),
    ],
)
def test_equally_likely_cells(initializer, law):
    """2**26 draws in 4096 cells."""
    edges = law.ppf(np.arange(1, 4096) / 4096)
    counts, out = np.zeros(4096, np.int64), np.empty(2**22, np.float32)
    for number in range(16):
        fastinit.fill(out, initializer, KEYS[0], start=number * out.size)
        counts += np.bincount(np.searchsorted(edges, out.astype(np.float64)), minlength=4096)
    assert probability(counts, counts.sum() / 4096) > TINY


def test_every_word(tmp_path):
    """The float32 samplers of the kernels over all 2**32 words."""
    compiler = shutil.which("cc")
    if compiler is None or not KERNELS.exists():
        pytest.skip("needs a C compiler and the kernels' sources")
    best = {
        "x86_v4_intel": ["-march=x86-64-v4", "-DFASTINIT_X86_V4_INTEL"],
        "x86_v4": ["-march=x86-64-v4", "-DFASTINIT_X86_V4"],
        "x86_v3": ["-march=x86-64-v3", "-mno-fma", "-DFASTINIT_X86_V3"],
    }
    flags = best.get(targets.supported()[0], ["-DFASTINIT_GENERIC"])
    program = tmp_path / "exhaustive"
    source = Path(__file__).with_name("exhaustive.c")
    exact = ["-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", f"-I{KERNELS}"]
    subprocess.run([compiler, *exact, *flags, "-o", program, source, "-lm"], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout
    assert len(done.stdout.splitlines()) == 4


def test_dieharder():
    """A few of Marsaglia's and Brown's tests on the raw words."""
    program = shutil.which("dieharder")
    if program is None:
        pytest.skip("dieharder is not installed")
    for test in ("0", "1", "2", "5", "8", "15"):
        command = [program, "-g", "200", "-d", test, "-D", "test_name", "-D", "pvalues"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=False) as process:
            try:
                for start in range(0, 2**30, 2**22):
                    process.stdin.write(fastinit.words(KEYS[0], start, 2**22).tobytes())
                process.stdin.close()
            except BrokenPipeError:
                pass
            table = process.stdout.read().decode()
        found = [
            float(cell) for line in table.splitlines() for cell in line.split("|")[1:2] if cell.strip()[:1].isdigit()
        ]
        assert found and all(TINY < p < 1 - TINY for p in found), table
