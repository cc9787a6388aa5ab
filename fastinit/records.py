"""Records: how every tensor of a model was filled, so that it can be filled again and compared.

A record names, for each parameter, the rule, the initializer, the key and a digest of the bytes. It is JSON, and says
which version of the stream it vouches for; a record of another version is refused, since its bytes would differ.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Final, SupportsIndex

import numpy as np

from fastinit.composites import Blocks, ZeroRow
from fastinit.fans import Axes, Fans, integer, integers
from fastinit.initializers import (
    Constant,
    Initializer,
    Normal,
    StructuredInitializer,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
)
from fastinit.keys import Key
from fastinit.structured import ICNR, DeltaOrthogonal, Dirac, Identity, Orthogonal, Sparse, ZerO
from fastinit.threads import default_num_threads, for_each

__all__ = [
    "STREAM_VERSION",
    "Entry",
    "Record",
    "digest",
    "expected_std",
    "initializer_config",
    "initializer_from_config",
]

STREAM_VERSION: Final = 1
"""The version of the definition of the values. The bytes of a version never change."""


ANY, NONE = (Initializer, StructuredInitializer), type(None)


@dataclass(frozen=True, slots=True)
class Entry:
    """How one parameter was filled.

    Attributes
    ----------
    name, shape
        Of the parameter: its canonical name, its global shape.
    rule : str
        The title of the rule that matched.
    initializer : Initializer or StructuredInitializer
    key : Key
        That it was filled with.
    fans : Fans, optional
        The true fans of the weight; None of a tensor that has none.
    std : float, optional
        The standard deviation that its values are expected to have; None where no formula says.
    dtype : str, optional
        That it was filled in: ``"bfloat16"``.
    digest : str, optional
        Of its row-major bytes, see :func:`digest`.
    other_names : tuple of str
        The canonical names, after the first, under which the model has the same tensor.
    """

    name: str
    shape: tuple[int, ...]
    rule: str
    initializer: Initializer | StructuredInitializer
    key: Key
    fans: Fans | None = None
    std: float | None = None
    dtype: str | None = None
    digest: str | None = None
    other_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "other_names", tuple(self.other_names))
        for what, kinds in (
            *(("name", str), ("rule", str), ("initializer", ANY), ("key", Key), ("fans", (Fans, NONE))),
            *(("std", (float, int, NONE)), ("dtype", (str, NONE)), ("digest", (str, NONE))),
        ):
            value = getattr(self, what)
            if not isinstance(value, kinds):
                raise TypeError(f"{what} of an entry has the wrong type: {value!r}")
        object.__setattr__(self, "shape", integers("shape", self.shape))


@dataclass(frozen=True, slots=True)
class Record:
    """How a model was filled: an entry for each parameter, in the model's order.

    Iterating gives the entries, ``record["name"]`` one of them, ``str(record)`` a table.

    Attributes
    ----------
    entries : tuple of Entry
    seed : int or str
        That the keys were derived from.
    recipe : str
        The name of the recipe.
    version : str
        Of the library that filled the model.
    stream_version : int
        Of the definition of the values.

    Raises
    ------
    ValueError
        If two entries have the same name, or the stream is of another version than this library's.
    """

    entries: tuple[Entry, ...]
    seed: int | str
    recipe: str
    version: str
    stream_version: int = STREAM_VERSION

    def __post_init__(self) -> None:
        if self.stream_version != STREAM_VERSION:
            raise ValueError(_other_version(self.stream_version))
        for what in ("recipe", "version"):
            if not isinstance(getattr(self, what), str):
                raise TypeError(f"{what} of a record must be a str, got {getattr(self, what)!r}")
        object.__setattr__(self, "seed", checked_seed(self.seed))
        object.__setattr__(self, "entries", tuple(self.entries))
        names = [entry.name for entry in self.entries]
        if len(set(names)) < len(names):
            twice = next(name for number, name in enumerate(names) if name in names[:number])
            raise ValueError(f"two entries of a record have the same name {twice!r}")

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return any(entry.name == name for entry in self.entries)

    def __getitem__(self, name: str) -> Entry:
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(f"the record has no entry {name!r}")

    def to_json(self) -> str:
        """The record as JSON (RFC 8259), equal records as equal text."""
        import json  # not needed to fill a tensor

        head = {name: getattr(self, name) for name in ("stream_version", "version", "seed", "recipe")}
        entries = [{f.name: _encoded(getattr(entry, f.name)) for f in fields(Entry)} for entry in self.entries]
        return json.dumps({**head, "entries": entries}, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """The record that :meth:`to_json` wrote.

        Raises
        ------
        ValueError
            If the text is no such JSON, has unknown or missing fields, classes that the library does not know, or is
            of another stream version.
        """
        import json

        try:
            found = json.loads(text)
            if not isinstance(found, dict) or "stream_version" not in found:
                raise ValueError("expected an object with a stream_version")
            if found["stream_version"] == STREAM_VERSION:
                _expect(found, {field.name for field in fields(cls)}, "a record")
                for entry in found["entries"]:
                    _expect(entry, {field.name for field in fields(Entry)}, "an entry")
                read = ({name: _decoded(value) for name, value in entry.items()} for entry in found["entries"])
                return cls(**{**found, "entries": tuple(Entry(**own) for own in read)})
        except (TypeError, ValueError) as problem:
            raise ValueError(f"not a record: {problem}") from None
        raise ValueError(_other_version(found["stream_version"]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the JSON to a file."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Record:
        """The record of a file. Raises what :meth:`from_json` and `open` raise."""
        with open(path, encoding="utf-8") as file:
            return cls.from_json(file.read())

    def __str__(self) -> str:
        rows = [("parameter", "shape", "dtype", "rule", "initializer", "fan_in", "fan_out", "std")]
        for entry in self.entries:
            scale = "" if entry.std is None else f"{entry.std:.4g}"
            found = ("", "") if entry.fans is None else (str(entry.fans.fan_in), str(entry.fans.fan_out))
            shape = " x ".join(map(str, entry.shape)) or "scalar"
            rows.append((entry.name, shape, entry.dtype or "", entry.rule, brief(entry.initializer), *found, scale))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        head = (
            f"{len(self.entries)} parameters, recipe {self.recipe}, seed {self.seed!r}, stream v{self.stream_version}, "
            f"fastinit {self.version}"
        )
        return "\n".join((head, *lines))


def checked_seed(seed: SupportsIndex | str) -> int | str:
    """A seed that a record can hold: an int or a str. Raises TypeError for anything else."""
    return seed if isinstance(seed, str) else integer("seed", seed)


def _other_version(found: Any) -> str:
    return f"a record of stream version {found!r} cannot be used here: version {STREAM_VERSION} has other bytes"


# Configurations: what JSON holds of an initializer

CLASSES: Final[Mapping[str, Any]] = {
    kind.__name__: kind
    for kind in (
        *(Axes, Blocks, Constant, DeltaOrthogonal, Dirac, Fans, ICNR, Identity, Normal, Orthogonal, Sparse),
        *(TruncatedNormal, Uniform, VarianceScaling, ZerO, ZeroRow),
    )
}  # fmt: skip


def _encoded(value: Any) -> Any:
    """A field's value as JSON holds it. Objects are told apart by their one special key."""
    if CLASSES.get(type(value).__name__) is type(value):
        return {"class": type(value).__name__} | {f.name: _encoded(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Key):
        return {"key": list(value.words)}
    if isinstance(value, Fraction):
        return {"fraction": [value.numerator, value.denominator]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, tuple):
        return [_encoded(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} cannot be written to a record: {type(value).__name__} is no class of the library")


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decoded(one) for one in value)
    if not isinstance(value, dict):
        return value
    match value:
        case {"class": name, **own}:
            kind = CLASSES.get(name)
            if kind is None:
                raise ValueError(f"unknown class {name!r}; the library has {', '.join(CLASSES)}")
            unknown = sorted(set(own) - {field.name for field in fields(kind)})
            if unknown:
                raise ValueError(f"{name} has no field {', '.join(unknown)}")
            return kind(**{field: _decoded(one) for field, one in own.items()})
        case {"key": [*words], **others} if not others:
            return Key.from_words(*words)
        case {"fraction": [int(numerator), int(denominator)], **others} if not others and denominator:
            return Fraction(numerator, denominator)
        case {"float": ("inf" | "-inf" | "nan") as text, **others} if not others:
            return float(text)
    raise ValueError(f"expected a class, a key, a fraction or a float, got {value!r}")


def _expect(found: Any, names: set[str], what: str) -> None:
    if not isinstance(found, dict) or set(found) != names:
        came = sorted(found) if isinstance(found, dict) else repr(found)
        raise ValueError(f"{what} has the fields {sorted(names)}, got {came}")


def initializer_config(initializer: Initializer | StructuredInitializer) -> dict[str, Any]:
    """An initializer as a dict for JSON: ``{"class": "Normal", "mean": 0.0, "std": 0.02}``.

    Raises
    ------
    TypeError
        If it, or one within it, is no initializer of the library.
    """
    if not isinstance(initializer, ANY):
        raise TypeError(f"initializer must be an Initializer, not {initializer!r}")
    config: dict[str, Any] = _encoded(initializer)
    return config


def initializer_from_config(config: Mapping[str, Any]) -> Initializer | StructuredInitializer:
    """The initializer of an :func:`initializer_config`. Fields that are missing have their defaults.

    Raises
    ------
    ValueError
        If the class is unknown or no initializer, or a field is unknown, missing or out of range.
    """
    try:
        found = _decoded(dict(config))
    except TypeError as problem:
        raise ValueError(f"{config!r} describes no initializer: {problem}") from None
    if not isinstance(found, ANY):
        raise ValueError(f"{config!r} describes no initializer")
    return found


def brief(value: Any) -> str:
    """The repr of an initializer without the fields that have their defaults."""
    if CLASSES.get(type(value).__name__) is not type(value):
        return f"({', '.join(map(brief, value))})" if isinstance(value, tuple) else repr(value)
    given = [f"{f.name}={brief(getattr(value, f.name))}" for f in fields(value) if getattr(value, f.name) != f.default]
    return f"{type(value).__name__}({', '.join(given)})"


# Figures


def expected_std(initializer: Initializer | StructuredInitializer, shape: tuple[int, ...]) -> float | None:
    """The standard deviation that all values of a tensor together are expected to have; None where no formula says.

    Raises
    ------
    ValueError
        If a tensor of this shape cannot be initialized so.
    """
    if isinstance(initializer, StructuredInitializer):
        initializer.check(shape)
    found = _moments(initializer, shape)
    return None if found is None else math.sqrt(max(found[1] - found[0] ** 2, 0.0))


def _moments(initializer: Initializer | StructuredInitializer, shape: tuple[int, ...]) -> tuple[float, float] | None:
    """E[x] and E[x^2] over a tensor that has passed the check."""
    size = math.prod(shape)
    match initializer:
        case Initializer():
            sampling = initializer.sampling(shape)
            return sampling.expected_mean, sampling.expected_mean**2 + sampling.expected_std**2
        case Orthogonal() if size:  # unit vectors, as many as the shorter side has
            columns = shape[initializer.column_axis]
            return 0.0, initializer.gain**2 * min(columns, size // columns) / size
        case ZeroRow():
            found = _moments(initializer.initializer, shape)
            return None if found is None else (found[0] * (1 - 1 / shape[0]), found[1] * (1 - 1 / shape[0]))
        case Blocks():
            parts = [_moments(part.initializer, part.shape) for part in initializer.parts(shape)]
            if None not in parts:
                mean, square = (sum(one) / len(parts) for one in zip(*parts, strict=True))
                return mean, square
    return None


# Digests

CHUNK = 2**20


def digest(buffer: Any, *, num_threads: int | None = None) -> str:
    """A digest of a buffer's bytes: the SHA-256, in hexadecimal, of the SHA-256 of each mebibyte one after the other.

    Parameters
    ----------
    buffer : numpy.ndarray or buffer
        C-contiguous, of any dtype.
    num_threads : int, optional
        At most so many threads, by default :func:`fastinit.default_num_threads`. The digest does not depend on it.

    Raises
    ------
    TypeError, ValueError
        If it is no buffer or not C-contiguous, or num_threads is not at least 1.
    """
    # Chunks of 1 MiB of a buffer of 256 MiB, hashed by two threads of an idle AMD EPYC: SHA-256 3.7 GB/s (OpenSSL's, by
    # the processor's own instructions), BLAKE2b 2.6, SHA-512 2.2, BLAKE2s 1.5; on one thread half of that.
    threads = default_num_threads() if num_threads is None else integer("num_threads", num_threads)
    if threads < 1:
        raise ValueError(f"num_threads must be at least 1, got {threads}")
    array = buffer if isinstance(buffer, np.ndarray) else np.asarray(memoryview(buffer))
    if not array.flags.c_contiguous:
        raise ValueError(f"a digest needs C-contiguous memory, got shape {array.shape} and strides {array.strides}")
    data: Any = array.reshape(-1).view(np.uint8)  # bfloat16 has no buffer protocol
    leaves = [b""] * -(-data.size // CHUNK)

    def leaf(number: int) -> None:
        leaves[number] = hashlib.sha256(data[number * CHUNK : (number + 1) * CHUNK]).digest()

    for_each(len(leaves), leaf, threads)
    return hashlib.sha256(b"".join(leaves)).hexdigest()
