"""Keys: values of 128 bits, derived by hashing an encoding in which no two seeds, names or paths meet."""

import copy
import hashlib
import itertools
import pickle
import sys

import numpy as np
import pytest

from fastinit import Key, canonical_name

SEEDS = [0, 1, -1, 127, 128, -128, -129, 255, 256, 2**31, 2**32 - 1, 2**63, 2**64 + 1, -(2**70), 10**40]


def blake(person, message):
    return hashlib.blake2b(message, digest_size=16, person=person).digest()


def words_of(digest):
    return tuple(int.from_bytes(digest[i : i + 4], "little") for i in (0, 4, 8, 12))


def encoded(payload):
    return len(payload).to_bytes(8, "little") + payload


def test_words_are_four_32_bit_integers():
    for key in (Key(0), Key("name").fold_in(3), *Key(1).split(3)):
        assert len(key.words) == 4
        assert all(isinstance(word, int) and 0 <= word < 2**32 for word in key.words)


@pytest.mark.parametrize(
    "seed, payload",
    [
        (0, b"i\x00"),
        (1, b"i\x01"),
        (-1, b"i\xff"),
        (127, b"i\x7f"),
        (128, b"i\x80\x00"),
        (-128, b"i\x80\xff"),  # a byte for every eight bits of the magnitude, and one more for the sign
        (256, b"i\x00\x01"),
        (2**64, b"i" + bytes(8) + b"\x01"),
        ("", b"s"),
        ("ü", b"s\xc3\xbc"),
        ("\udc80", b"s\xed\xb2\x80"),  # lone surrogates, as in undecodable file names
        (b"", b"b"),
        (b"\x00\xff", b"b\x00\xff"),
    ],
)
def test_the_encoding_written_out(seed, payload):
    root = blake(b"fastinit v1 seed", encoded(payload))
    assert Key(seed).words == words_of(root)
    parent = blake(b"fastinit v1 seed", encoded(b"i\x07"))
    folded = blake(b"fastinit v1 fold", parent + encoded(payload))
    assert Key(7).fold_in(seed).words == words_of(folded)


def test_split_written_out():
    parent = blake(b"fastinit v1 seed", encoded(b"i\x07"))
    for i, key in enumerate(Key(7).split(300)):
        assert key.words == words_of(blake(b"fastinit v1 part", parent + encoded(i.to_bytes(8, "little"))))


def test_types_and_derivations_never_meet():
    data = [*SEEDS, *map(str, SEEDS), *(str(seed).encode() for seed in SEEDS), "i\x00", b"i\x00", "", b""]
    roots = [Key(item) for item in data]
    folded = [Key(0).fold_in(item) for item in data]
    nested = [Key(0).fold_in(a).fold_in(b) for a, b in itertools.product(data[:6], repeat=2)]
    parts = Key(0).split(len(data))
    everything = [*roots, *folded, *nested, *parts]
    assert len({key.words for key in everything}) == len(everything)


def test_concatenated_names_do_not_meet():
    # the trap of hashing joined text: ("ab", "c") and ("a", "bc")
    assert Key(0).fold_in("ab").fold_in("c") != Key(0).fold_in("a").fold_in("bc")
    assert Key(0).fold_in("abc") != Key(0).fold_in("ab").fold_in("c")
    assert Key(0).fold_in(1).fold_in(2) != Key(0).fold_in(2).fold_in(1)


def test_neighbouring_seeds_are_not_neighbouring_streams():
    # Keras on torch: draw 2 of seed 5 is draw 1 of seed 6
    keys = [Key(seed) for seed in range(64)]
    parts = [part for key in keys for part in key.split(4)]
    assert len({key.words for key in keys + parts}) == 64 * 5
    different = [
        bin(a ^ b).count("1") for k, m in itertools.pairwise(keys) for a, b in zip(k.words, m.words, strict=True)
    ]
    assert 15 < np.mean(different) < 17  # half of 32 bits


@pytest.mark.parametrize("integer", [np.int8, np.uint64, np.int32])
def test_integers_of_any_kind_are_equal(integer):
    assert Key(integer(100)) == Key(100)
    assert Key(0).fold_in(integer(100)) == Key(0).fold_in(100)


def test_text_and_bytes_of_any_kind_are_equal():
    assert Key(np.str_("name")) == Key("name")
    assert Key(bytearray(b"name")) == Key(memoryview(b"name")) == Key(np.bytes_(b"name")) == Key(b"name")


@pytest.mark.parametrize(
    "name, canonical",
    [
        ("encoder.weight", "encoder.weight"),
        ("module.encoder.weight", "encoder.weight"),
        ("_orig_mod.encoder.weight", "encoder.weight"),
        ("module._orig_mod._fsdp_wrapped_module.a._checkpoint_wrapped_module.b", "a.b"),
        ("encoder.module.weight", "encoder.weight"),
        ("modules.weight", "modules.weight"),
        ("my_module.weight", "my_module.weight"),
        ("module", "module"),
        ("", ""),
        ("a..b", "a..b"),
    ],
)
def test_names_are_canonical(name, canonical):
    assert canonical_name(name) == canonical
    assert Key(0).fold_in(name) == Key(0).fold_in(canonical)
    if name != canonical:
        assert Key(name) != Key(canonical)  # a seed is no name
        assert Key(0).fold_in(name.encode()) != Key(0).fold_in(canonical.encode())  # nor are bytes


def test_the_first_keys_of_a_split_do_not_depend_on_how_many():
    key = Key("root")
    many = key.split(50)
    assert key.split() == many[:2]
    for n in range(0, 50, 7):
        assert key.split(n) == many[:n]
    assert key.split(0) == ()


def test_parts_are_a_sequence_that_is_made_on_demand():
    key = Key("lazy")
    few, many = key.split(5), key.split(10**9)
    first, *_, last = few
    assert len(few) == 5 and len(many) == 10**9
    assert few == tuple(few) and tuple(few) == few and few == many[:5] and few != many[1:6] and few != key.split(4)
    assert (few[0], few[-1], many[4]) == (first, last, last)
    assert tuple(many[999_999_997::2]) == (many[999_999_997], many[-1])
    assert list(reversed(few)) == [*few][::-1] and first in few and few.index(last) == 4
    assert few + tuple(many[:1]) == (*few, first) and tuple(many[:1]) + few == (first, *few)
    assert few + few == (*few, *few)
    assert hash(few) == hash(tuple(few)) and {few: 1}[tuple(few)] == 1
    assert pickle.loads(pickle.dumps(many)) == many
    assert repr(many).startswith(f"<1000000000 keys: {first!r}, ") and repr(many).endswith(", ...>")
    assert many[-1] == Key("lazy").split(10**9 + 1)[-2] != many[0]
    with pytest.raises(IndexError):
        few[5]
    with pytest.raises(ValueError, match="at most 128 bits, got an integer of 16610 bits"):
        key.split(10**5000)


def test_from_words_and_back():
    assert Key.from_words(1, 2).words == (1, 2, 0, 0)
    assert Key.from_words(1, 2, 3, 4).words == (1, 2, 3, 4)
    assert Key.from_words(*Key("x").words) == Key("x")
    assert Key.from_words(*Key("x").words).fold_in("y") == Key("x").fold_in("y")
    assert Key.from_words(np.uint32(7), 2**32 - 1).words == (7, 2**32 - 1, 0, 0)


def test_a_key_is_a_value():
    key = Key(3)
    before = key.words
    key.fold_in("a"), key.split(3)
    assert key.words == before
    for change in (
        lambda: setattr(key, "words", (0, 0, 0, 0)),
        lambda: setattr(key, "other", 1),
        lambda: delattr(key, "words"),
    ):
        with pytest.raises(AttributeError, match="cannot change"):
            change()
    assert key.words == before
    assert not hasattr(key, "__dict__")


def test_equality_and_hash():
    assert Key(3) == Key(3) and hash(Key(3)) == hash(Key(3))
    assert Key(3) != Key(4) and Key(3) != 3 and Key(3) != Key(3).words
    assert {Key(3): "a"}[Key(3)] == "a"


def test_copies_pickles_and_repr_are_the_same_key():
    key = Key(3).fold_in("weight")
    copies = [copy.copy(key), copy.deepcopy(key), eval(repr(key), {"Key": Key})]
    copies += [pickle.loads(pickle.dumps(key, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    assert all(other == key and other.words == key.words and hash(other) == hash(key) for other in copies)
    assert copy.deepcopy({"key": key})["key"] == key


def test_keys_do_not_depend_on_the_hash_seed(run_python):
    program = "import fastinit; print(fastinit.Key('seed').fold_in('name').split(2)[1].words)"
    for seed in ("0", "1"):
        done = run_python(program, PYTHONHASHSEED=seed)
        assert done.stdout.strip() == str(Key("seed").fold_in("name").split(2)[1].words), done.stderr


@pytest.mark.parametrize("bad", [1.0, 1.5, True, np.True_, None, [1], (1, 2), {"a": 1}, 1j, np.ones(2), Key(0)])
def test_what_is_no_int_str_or_bytes_is_refused(bad):
    name = type(bad).__name__
    with pytest.raises(TypeError, match=f"a seed must be an int, a str or bytes, not {name}"):
        Key(bad)
    with pytest.raises(TypeError, match=f"data to fold in must be an int, a str or bytes, not {name}"):
        Key(0).fold_in(bad)


def test_other_bad_arguments():
    with pytest.raises(TypeError, match=r"n: expected an integer, got 2\.0"):
        Key(0).split(2.0)
    with pytest.raises(TypeError, match="n: expected an integer, got True"):
        Key(0).split(True)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        Key(0).split(-1)
    with pytest.raises(TypeError, match="c2: expected an integer, got '3'"):
        Key.from_words(1, 2, "3")
    for bad in (-1, 2**32):
        with pytest.raises(ValueError, match=rf"k1 must be in \[0, 2\*\*32\), got {bad}"):
            Key.from_words(0, bad)
    with pytest.raises(TypeError):
        Key()


def test_integers_beyond_the_limit_of_decimal_text():
    # int to str conversion stops at 4300 digits; keys do not convert
    huge = 10 ** (sys.get_int_max_str_digits() + 10)
    assert Key(huge) != Key(huge + 1)
