"""Keys: 128 bits that name a stream. Keys are derived by hashing, so different names do not collide.

A key is four 32-bit words: Philox's key ``(k0, k1)`` and the upper half ``(c2, c3)`` of its counter. Keys are immutable
values without state.
"""

from __future__ import annotations

import hashlib
import operator
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Any, Final, SupportsIndex, overload

from fastinit.checks import any_integer, at_least, integer, shown, text

__all__ = ["Key", "Keys", "canonical_name", "checked_key"]

KeyData = SupportsIndex | str | bytes

WRAPPER_COMPONENTS: Final = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Components that wrappers add to parameter names; :func:`canonical_name` removes them."""


WORDS: Final = struct.Struct("<4I")


def canonical_name(name: str) -> str:
    """A parameter's name without the components that wrappers add.

    ``DataParallel`` and ``DistributedDataParallel`` add ``module``, ``torch.compile`` adds ``_orig_mod``, FSDP and
    activation checkpointing add their own. Removing them gives a model the same weights in every wrapper.

    Parameters
    ----------
    name : str
        The parameter's name in the wrapped model.

    Raises
    ------
    TypeError
        If the name is not a str.

    Examples
    --------
    >>> canonical_name("module.encoder._orig_mod.weight")
    'encoder.weight'
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a parameter must be a str, got {shown(name)}")
    if "mod" not in name:  # fast path: every wrapper component contains it
        return text(name)
    kept = [component for component in name.split(".") if component not in WRAPPER_COMPONENTS]
    return ".".join(kept) if kept else text(name)


def _encode(data: KeyData, what: str) -> bytes:
    """A one-letter type tag and the payload; the hash adds the length, so encodings are prefix-free."""
    if isinstance(data, str):
        return b"s" + data.encode("utf-8", "surrogatepass")
    if isinstance(data, (bytes, bytearray, memoryview)):
        return b"b" + bytes(data)
    try:
        number = any_integer(what, data)
    except TypeError:
        raise TypeError(f"{what} must be an int, a str or bytes, not {type(data).__name__} ({shown(data)})") from None
    # two's complement, little-endian, with room for the sign bit
    return b"i" + number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)


def _digest(person: bytes, parent: bytes, data: bytes) -> bytes:
    message = parent + len(data).to_bytes(8, "little") + data
    return hashlib.blake2b(message, digest_size=16, person=person).digest()


class Key:
    """The name of one stream of random words.

    Parameters
    ----------
    seed : int, str or bytes
        Integers may have any size and sign. Equal seeds give equal keys on every machine. ``1``, ``"1"`` and ``b"1"``
        are three different seeds.

    Raises
    ------
    TypeError
        If the seed has another type, such as float or bool.

    Notes
    -----
    The words are the little-endian words of BLAKE2b-128 over the length-prefixed, personalised encoding that
    ``docs/stream-v1.md`` defines.

    Examples
    --------
    >>> Key(0).fold_in("encoder.weight") == Key(0).fold_in("encoder.weight")
    True
    >>> Key(0).fold_in("encoder.weight") == Key(0).fold_in("encoder.bias")
    False
    """

    __slots__ = ("_bytes", "words")

    _bytes: bytes
    words: tuple[int, int, int, int]
    """The four 32-bit words ``(k0, k1, c2, c3)``."""

    def __init__(self, seed: KeyData) -> None:
        self._set(_digest(b"fastinit v1 seed", b"", _encode(seed, "a seed")))

    def _set(self, raw: bytes) -> None:
        object.__setattr__(self, "_bytes", raw)
        object.__setattr__(self, "words", WORDS.unpack(raw))

    @classmethod
    def _of(cls, raw: bytes) -> Key:
        key = object.__new__(cls)
        key._set(raw)
        return key

    @classmethod
    def from_words(cls, k0: int, k1: int, c2: int = 0, c3: int = 0) -> Key:
        """The key with these 32-bit words: the raw stream of another library.

        With ``c2 = c3 = 0`` the stream equals that of cuRAND's Philox (subsequence 0) and of TensorFlow's Philox for
        the key ``(k0, k1)``.

        Raises
        ------
        TypeError, ValueError
            If a word is not an integer, or not in [0, 2**32).
        """
        words = []
        for name, value in (("k0", k0), ("k1", k1), ("c2", c2), ("c3", c3)):
            word = integer(name, value)
            if not 0 <= word < 2**32:
                raise ValueError(f"{name} must be in [0, 2**32), got {word}")
            words.append(word)
        return cls._of(WORDS.pack(*words))

    @classmethod
    def of(cls, value: Key | SupportsIndex) -> Key:
        """The value itself if it is a Key, or the key of an integer seed.

        Raises
        ------
        TypeError
            If `value` is neither a Key nor an integer.
        """
        if isinstance(value, Key):
            return value
        if isinstance(value, Integral) and not isinstance(value, bool):  # excludes tensors of one integer
            return cls(any_integer("key", value))
        raise TypeError(f"key must be a fastinit.Key or an int, not {type(value).__name__} ({shown(value)})")

    def fold_in(self, data: KeyData) -> Key:
        """Derives the key of a layer, parameter, expert or step named `data`.

        A str is a parameter's name and is made canonical first (see :func:`canonical_name`).

        Raises
        ------
        TypeError
            If `data` is not an int, str or bytes.
        """
        if isinstance(data, str):
            data = canonical_name(data)
        return Key._of(_digest(b"fastinit v1 fold", self._bytes, _encode(data, "data to fold in")))

    def split(self, n: int = 2) -> Keys:
        """`n` keys independent of each other and of all folded keys. The first m do not depend on `n`.

        The result is a lazy sequence: each key is computed on access, so `n` may be huge.

        Raises
        ------
        TypeError, ValueError
            If `n` is not an integer, or not in [0, 2**63).

        >>> first, second = Key(0).split()
        >>> Key(0).split(10**9)[1] == second
        True
        """
        count = at_least(0, "n", n)
        if count > sys.maxsize:
            raise ValueError(f"n must be below 2**63, got one of {count.bit_length()} bits")
        return Keys(self, range(count))

    def _part(self, number: int) -> Key:
        return Key._of(_digest(b"fastinit v1 part", self._bytes, number.to_bytes(8, "little")))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Key is a value and cannot change")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Key is a value and cannot change")

    def __eq__(self, other: object) -> bool:
        return self._bytes == other._bytes if isinstance(other, Key) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._bytes)

    def __reduce__(self) -> tuple[Callable[..., Key], tuple[int, int, int, int]]:
        return Key.from_words, self.words

    def __repr__(self) -> str:
        return "Key.from_words({:#010x}, {:#010x}, {:#010x}, {:#010x})".format(*self.words)


class Keys(Sequence[Key]):
    """Lazy sequence of the keys that :meth:`Key.split` returns."""

    __slots__ = ("_numbers", "_parent")

    def __init__(self, parent: Key, numbers: range) -> None:
        self._parent, self._numbers = parent, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: SupportsIndex) -> Key: ...
    @overload
    def __getitem__(self, place: slice) -> Keys: ...
    def __getitem__(self, place: SupportsIndex | slice) -> Key | Keys:
        found = self._numbers[place]
        return Keys(self._parent, found) if isinstance(found, range) else self._parent._part(found)

    def __iter__(self) -> Iterator[Key]:
        return map(self._parent._part, self._numbers)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Keys) and self._parent == other._parent:
            return self._numbers == other._numbers  # the parts of one key are all different
        if not isinstance(other, (Keys, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __add__(self, other: Keys | tuple[Any, ...]) -> tuple[Any, ...]:
        return (*self, *other) if isinstance(other, (Keys, tuple)) else NotImplemented

    def __radd__(self, other: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*other, *self) if isinstance(other, tuple) else NotImplemented

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"<{len(self)} keys: {shown}{', ...' if len(self) > 3 else ''}>"


def checked_key(key: Any) -> Key:
    """The key itself, after a type check.

    Parameters
    ----------
    key : object
        The caller's argument.

    Raises
    ------
    TypeError
        If `key` is not a Key. Integer seeds are not accepted.

    Examples
    --------
    >>> checked_key(Key(0)) == Key(0)
    True
    >>> checked_key(0)
    Traceback (most recent call last):
        ...
    TypeError: key must be a fastinit.Key, not int; Key(seed) makes one
    """
    if not isinstance(key, Key):
        raise TypeError(f"key must be a fastinit.Key, not {type(key).__name__}; Key(seed) makes one")
    return key
