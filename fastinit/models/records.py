"""Records: how every tensor of a model was filled, so that it can be filled again and compared.

A record names, for each parameter, the rule, the initializer, the key and a digest of the bytes. It is JSON, and says
which version of the stream it vouches for; a record of another version is refused, since its bytes would differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Final

from fastinit import checks
from fastinit.checks import integers
from fastinit.initializers import Initializer
from fastinit.keys import Key
from fastinit.layouts import Fans
from fastinit.models.configs import brief, decoded, encoded
from fastinit.sampling import STREAM_VERSION

__all__ = ["Entry", "Record"]

NONE: Final = type(None)


@dataclass(frozen=True, slots=True)
class Entry:
    """How one parameter was filled.

    Attributes
    ----------
    name, shape
        Of the parameter: its canonical name, its global shape.
    rule : str
        The title of the rule that matched.
    initializer : Initializer
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

    Examples
    --------
    >>> import fastinit
    >>> weight = fastinit.Parameter("up.weight", (64, 128), ("Linear",))
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
        object.__setattr__(self, "other_names", tuple(self.other_names))
        for what, kinds in (
            *(("name", str), ("rule", str), ("initializer", Initializer), ("key", Key), ("fans", (Fans, NONE))),
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

    Examples
    --------
    >>> import fastinit
    >>> entries = fastinit.assigned([fastinit.Parameter("up.weight", (64, 128), ("Linear",))], "auto", seed=0)
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
        if self.stream_version != STREAM_VERSION:
            raise ValueError(_other_version(self.stream_version))
        for what in ("recipe", "version"):
            if not isinstance(getattr(self, what), str):
                raise TypeError(f"{what} of a record must be a str, got {getattr(self, what)!r}")
        object.__setattr__(self, "seed", checks.seed(self.seed))
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
        entries = [{f.name: encoded(getattr(entry, f.name)) for f in fields(Entry)} for entry in self.entries]
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
                read = ({name: decoded(value) for name, value in entry.items()} for entry in found["entries"])
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


def _other_version(found: Any) -> str:
    return f"a record of stream version {found!r} cannot be used here: version {STREAM_VERSION} has other bytes"


def _expect(found: Any, names: set[str], what: str) -> None:
    if not isinstance(found, dict) or set(found) != names:
        came = sorted(found) if isinstance(found, dict) else repr(found)
        raise ValueError(f"{what} has the fields {sorted(names)}, got {came}")
