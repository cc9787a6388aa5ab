"""Records: how every tensor of a model was filled, so that the fill can be repeated and verified.

For each parameter, a record stores the rule, the initializer, the key and a digest of the bytes. It is JSON and
includes the stream version. A record of another stream version is rejected, since its bytes would differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Final

from fastinit import checks
from fastinit.checks import any_number, checked_shape, distinct, sequence_of, shown, text
from fastinit.exact import in_stream_environment
from fastinit.files import write_file
from fastinit.initializers import Initializer
from fastinit.keys import Key
from fastinit.layouts import Fans
from fastinit.models.configs import DECIMAL_BITS, brief, decoded, encoded
from fastinit.sampling import STREAM_VERSION

__all__ = ["Entry", "Record", "parsed"]

NONE: Final = type(None)
DECIMAL_DIGITS: Final = len(str(2**DECIMAL_BITS))


@dataclass(frozen=True, slots=True)
class Entry:
    """How one parameter was filled.

    Attributes
    ----------
    name, shape
        Canonical name and global shape of the parameter.
    rule : str
        Title of the rule that matched.
    initializer : Initializer
        Initializer used.
    key : Key
        Key used.
    fans : Fans, optional
        The true fans of the weight; None for a tensor without fans.
    std : float, optional
        Expected standard deviation of the values; None if there is no formula.
    dtype : str, optional
        Dtype of the filled tensor, such as ``"bfloat16"``.
    digest : str, optional
        Digest of the row-major bytes, see :func:`digest`.
    other_names : tuple of str
        Further canonical names of the same tensor in the model.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, or the shape is invalid.

    Examples
    --------
    >>> import fastinit
    >>> weight = fastinit.Parameter("up.weight", (64, 128), layer="Linear")
    >>> (entry,) = fastinit.assigned([weight], "auto", seed=0)
    >>> entry.fans.fan_in, entry.key == fastinit.Key(0).fold_in("up.weight")
    (128, True)
    """

    name: str
    shape: tuple[int, ...]
    rule: str
    initializer: Initializer
    key: Key
    fans: Fans | None = None
    std: float | None = None
    dtype: str | None = None
    digest: str | None = None
    other_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "other_names", sequence_of(str, "other_names must be a sequence of str", self.other_names)
        )
        for what, kinds in _KINDS:
            value = getattr(self, what)
            if not isinstance(value, kinds) or value is True or value is False:
                raise TypeError(f"{what} of an entry has the wrong type: {shown(value)}")
            if type(value) is not str and isinstance(value, str):
                object.__setattr__(self, what, text(value))
        object.__setattr__(self, "shape", checked_shape(self.shape))
        if self.std is not None:
            object.__setattr__(self, "std", any_number(self.std, "std"))


_KINDS: Final = (
    *(("name", str), ("rule", str), ("initializer", Initializer), ("key", Key), ("fans", (Fans, NONE))),
    *(("std", (float, int, NONE)), ("dtype", (str, NONE)), ("digest", (str, NONE))),
)
"""Allowed types of an entry's fields, by name."""


class _Places:
    """Cache of a record's index. As a slot of a base class it is not a dataclass field, so equality ignores it."""

    __slots__ = ("_places",)

    _places: dict[str, int]


@dataclass(frozen=True, slots=True)
class Record(_Places):
    """How a model was filled: one entry per parameter, in the model's order.

    Iteration yields the entries, ``record["name"]`` is one entry, and ``str(record)`` is a table.

    Attributes
    ----------
    entries : tuple of Entry
        The entries.
    seed : int or str
        Seed of all keys.
    recipe : str
        Name of the recipe.
    version : str
        Version of the library that filled the model.
    stream_version : int
        Version of the stream.

    Raises
    ------
    TypeError
        If an attribute has the wrong type.
    ValueError
        If two entries have the same name, or the stream version differs from this library's.

    Examples
    --------
    >>> import fastinit
    >>> entries = fastinit.assigned([fastinit.Parameter("up.weight", (64, 128), layer="Linear")], "auto", seed=0)
    >>> record = fastinit.Record(tuple(entries), 0, "auto", fastinit.__version__)
    >>> record["up.weight"].shape
    (64, 128)
    >>> fastinit.Record.from_json(record.to_json()) == record
    True
    """

    entries: tuple[Entry, ...]
    seed: int | str
    recipe: str
    version: str
    stream_version: int = STREAM_VERSION

    def __post_init__(self) -> None:
        if type(self.stream_version) is not int or self.stream_version != STREAM_VERSION:
            raise ValueError(_other_version(self.stream_version, "a record"))
        for what in ("recipe", "version"):
            if not isinstance(getattr(self, what), str):
                raise TypeError(f"{what} of a record must be a str, got {shown(getattr(self, what))}")
            object.__setattr__(self, what, text(getattr(self, what)))
        object.__setattr__(self, "seed", checks.seed(self.seed))
        entries = sequence_of(Entry, "entries of a record must be a sequence of Entry", self.entries)
        object.__setattr__(self, "entries", entries)
        self._index()

    def _index(self) -> dict[str, int]:
        """Position of each name. Cached; built again for a copied or unpickled record."""
        try:
            return self._places
        except AttributeError:
            places: dict[str, int] = {}
        for number, entry in enumerate(self.entries):
            if places.setdefault(entry.name, number) != number:
                raise ValueError(f"two entries of a record have the same name {shown(entry.name)}")
        object.__setattr__(self, "_places", places)
        return places

    def __repr__(self) -> str:
        given = {field.name: repr(getattr(self, field.name)) for field in fields(self) if field.name != "seed"}
        # Python refuses to print an integer of thousands of digits in decimal
        is_long = isinstance(self.seed, int) and self.seed.bit_length() > DECIMAL_BITS
        given["seed"] = f"{self.seed:#x}" if is_long else repr(self.seed)
        return f"Record({', '.join(f'{field.name}={given[field.name]}' for field in fields(self))})"

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._index()

    def __getitem__(self, name: str) -> Entry:
        if name not in self:
            raise KeyError(f"the record has no entry {shown(name)}")
        return self.entries[self._index()[name]]

    @in_stream_environment
    def to_json(self) -> str:
        """The record as JSON (RFC 8259). Equal records give equal text.

        A seed of more than 2048 bits is written in hexadecimal: ``{"integer": "0x..."}``.

        Raises
        ------
        TypeError
            If an entry's initializer is not from the library.
        """
        import json  # not needed to fill a tensor

        head = {name: encoded(getattr(self, name)) for name in ("stream_version", "version", "seed", "recipe")}
        entries = [{f.name: encoded(getattr(entry, f.name)) for f in fields(Entry)} for entry in self.entries]
        return json.dumps({**head, "entries": entries}, indent=1, allow_nan=False)

    def to_config(self) -> dict[str, Any]:
        """What JSON holds of the record; fields of entries that say nothing are left out."""
        head = {name: encoded(getattr(self, name)) for name in ("stream_version", "version", "seed", "recipe")}
        entries = []
        for entry in self.entries:
            values = {f.name: encoded(getattr(entry, f.name)) for f in fields(Entry)}
            entries.append({name: value for name, value in values.items() if value not in (None, [])})
        return {**head, "entries": entries}

    @classmethod
    @in_stream_environment
    def from_json(cls, text: str) -> Record:
        """Parses the JSON of :meth:`to_json` and returns the record.

        Raises
        ------
        ValueError
            If the text is not the JSON of a record: a duplicate name in an object, unknown or missing fields, a value
            of another type than to_json writes (1.0 or true for an integer), numbers that are not finite, unknown
            classes, nesting that is too deep, or another stream version.
        """
        found = parsed(text, "a record")
        try:
            return cls._read(found)
        except RecursionError:
            raise ValueError("not a record: its JSON is nested too deep") from None
        except (TypeError, ValueError) as problem:
            raise ValueError(f"not a record: {problem}") from None

    @classmethod
    @in_stream_environment
    def from_config(cls, found: dict[str, Any]) -> Record:
        """The record that :meth:`to_config` described. Raises TypeError or ValueError for anything else."""
        entries = found.get("entries")
        if isinstance(entries, list):
            empty: dict[str, Any] = {f.name: [] if f.name in ("shape", "other_names") else None for f in fields(Entry)}
            found = {**found, "entries": [{**empty, **own} if isinstance(own, dict) else own for own in entries]}
        return cls._read(found)

    @classmethod
    def _read(cls, found: dict[str, Any]) -> Record:
        """The record of parsed JSON. Raises TypeError or ValueError if to_json would not have written it."""
        _expect(found, {field.name for field in fields(cls)}, "a record")
        if not isinstance(found["entries"], list):
            raise TypeError(f"entries of a record must be an array, got {shown(found['entries'])}")
        entries = []
        for own in found["entries"]:
            _expect(own, {field.name for field in fields(Entry)}, "an entry")
            entry = Entry(**{name: decoded(value) for name, value in own.items()})
            for field in fields(Entry):
                _same(own[field.name], encoded(getattr(entry, field.name)), f"{field.name} of an entry")
            entries.append(entry)
        read = cls(**{**found, "seed": decoded(found["seed"]), "entries": tuple(entries)})
        _same(found["seed"], encoded(read.seed), "seed of a record")
        return read

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the JSON to a file atomically; see :mod:`fastinit.files`.

        Raises
        ------
        TypeError
            If an entry's initializer is not from the library.
        OSError
            If the file cannot be written; the error has the path.
        """
        write_file(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Record:
        """Reads a record from a file. Raises the errors of :meth:`from_json` and `open`."""
        # fspath rejects integers, which open() would take as one of the caller's file descriptors
        with open(os.fspath(path), encoding="utf-8") as file:
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
            f"{len(self.entries)} parameters, recipe {self.recipe}, seed {shown(self.seed)}, "
            f"stream v{self.stream_version}, fastinit {self.version}"
        )
        return "\n".join((head, *lines))


def parsed(text: str, what: str) -> dict[str, Any]:
    """The object that JSON of the library holds: `what`, which has a stream version.

    Raises
    ------
    TypeError
        If `text` is not a text.
    ValueError
        If it is not such JSON, with names that are distinct and numbers that are finite, or is of another stream
        version.

    Examples
    --------
    >>> parsed('{"stream_version": 1}', "a record")
    {'stream_version': 1}
    """
    import json  # not needed to fill a tensor

    if not isinstance(text, (str, bytes, bytearray)):
        raise TypeError(f"text must be the JSON of {what}, not {shown(text)}")
    try:
        found = json.loads(text, object_pairs_hook=distinct, parse_constant=_no_constant, parse_int=_integer)
    except RecursionError:
        raise ValueError(f"not {what}: its JSON is nested too deep") from None
    except ValueError as problem:
        raise ValueError(f"not {what}: {problem}") from None
    if not isinstance(found, dict) or "stream_version" not in found:
        raise ValueError(f"not {what}: expected an object with a stream_version")
    if type(found["stream_version"]) is not int or found["stream_version"] != STREAM_VERSION:
        raise ValueError(_other_version(found["stream_version"], what))
    return found


def _other_version(found: Any, what: str) -> str:
    return f"expected {what} of stream version {STREAM_VERSION}, got version {shown(found)}, whose bytes differ"


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > DECIMAL_DIGITS:  # otherwise Python's error would name another limit
        raise ValueError(f"expected at most {DECIMAL_DIGITS} digits of a decimal integer, got {len(digits)}")
    return int(digits)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not valid JSON")


def _same(given: Any, written: Any, what: str) -> None:
    """Raises ValueError if a value differs from its canonical encoding. 1 is accepted for 1.0."""
    if isinstance(written, dict) and isinstance(given, dict) and set(given) <= set(written):
        for name in given:  # a missing field, added by a later version, has its default
            _same(given[name], written[name], what)
    elif isinstance(written, list) and isinstance(given, list) and len(given) == len(written):
        for one, other in zip(given, written, strict=True):
            _same(one, other, what)
    elif isinstance(written, dict | list):
        raise ValueError(f"{what} has the wrong form: expected {shown(written)}, got {shown(given)}")
    else:
        alike = type(given) is type(written) or (type(given) is int and type(written) is float)
        if not alike or given != written:
            raise ValueError(f"{what} has the wrong type: expected {shown(written)}, got {shown(given)}")


def _expect(found: Any, names: set[str], what: str) -> None:
    if not isinstance(found, dict) or set(found) != names:
        came = shown(sorted(found) if isinstance(found, dict) else found)
        raise ValueError(f"expected {what} with the fields {sorted(names)}, got {came}")
