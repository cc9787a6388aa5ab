"""The words are those of Philox4x32-10 as its authors publish it."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import fastinit
from fastinit import Key, _core, reference, targets

# The kat_vectors of Random123 (Salmon, Moraes, Dror and Shaw, SC11): counter, key, words
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
SAMPLING = _core.Sampling(kind=_core.WORDS, dtype=_core.UINT32)


def block(target, counter, key):
    """A block of the core: its counter is block number and stream. The lattice reaches blocks that no tensor has."""
    c0, c1, c2, c3 = counter
    out = np.zeros(4, np.uint32)
    number = c0 | c1 << 32
    region = _core.Region(_core.address(out), number * 4 % 2**64, (4,), (1,), (4,))
    _core.Fill(targets.index_of(target), SAMPLING, (*key, c2, c3), region).run(0, 4)
    return tuple(out.tolist())


@pytest.mark.parametrize("counter, key, words", KNOWN)
def test_known_answers_of_the_reference(counter, key, words):
    assert tuple(int(w) for w in reference.philox4x32(counter, key)) == words


@pytest.mark.parametrize("counter, key, words", KNOWN)
def test_known_answers_of_the_core(target, counter, key, words):
    """A tensor ends at element 2**63, block 2**61; the other two are compared through the reference below that."""
    if (counter[0] | counter[1] << 32) < 2**61:
        assert block(target, counter, key) == words
    near = (counter[0], counter[1] % 2**29, *counter[2:])
    assert block(target, near, key) == tuple(int(w) for w in reference.philox4x32(near, key))


def test_all_zeros_through_the_public_door():
    assert tuple(fastinit.words(Key.from_words(0, 0), 0, 4).tolist()) == KNOWN[0][2]


def test_natural_order():
    """Word i & 3 of block i >> 2, in the order that PyTorch, cuRAND and TensorFlow have for this key."""
    key = Key.from_words(5, 7, 11, 13)
    words = fastinit.words(key, 0, 4000)
    for i in (0, 1, 2, 3, 4, 5, 1023, 3999):
        assert words[i] == reference.philox4x32((i >> 2, 0, 11, 13), (5, 7))[i & 3]


PROGRAM = """
#include <stdio.h>
#include <Random123/philox.h>
int main(void) {
    philox4x32_ctr_t c; philox4x32_key_t k;
    while (scanf("%x %x %x %x %x %x", &c.v[0], &c.v[1], &c.v[2], &c.v[3], &k.v[0], &k.v[1]) == 6) {
        philox4x32_ctr_t w = philox4x32(c, k);
        printf("%u %u %u %u\\n", w.v[0], w.v[1], w.v[2], w.v[3]);
    }
    return 0;
}
"""


@pytest.mark.skipif(
    not Path("/usr/include/Random123/philox.h").exists(), reason="Random123 (librandom123-dev) is not installed"
)
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_against_random123(tmp_path):
    """The authors' own code, on random counters and keys."""
    (tmp_path / "words.c").write_text(PROGRAM)
    subprocess.run(["cc", "-O1", "-w", "-o", tmp_path / "words", tmp_path / "words.c"], check=True)
    inputs = np.random.default_rng(0).integers(0, 2**32, (2000, 6), dtype=np.uint64)
    inputs[:, 1] %= 2**29  # blocks that tensors have
    inputs[::7, :2] = [0xFFFFFFFF, 3]
    text = "\n".join(" ".join(f"{int(x):x}" for x in row) for row in inputs)
    done = subprocess.run([tmp_path / "words"], input=text, capture_output=True, text=True, check=True)
    theirs = np.array([line.split() for line in done.stdout.splitlines()], np.uint64)
    ours = np.stack(reference.philox4x32(inputs[:, :4].T, (0, 0)), 1)  # one key at a time below
    for row, (*counter, k0, k1) in enumerate(inputs.tolist()):
        ours[row] = reference.philox4x32(counter, (k0, k1))
    assert (ours == theirs).all()
    for (*counter, k0, k1), words in zip(inputs[:300].tolist(), theirs.tolist(), strict=False):
        assert block(targets.current(), counter, (k0, k1)) == tuple(words)
