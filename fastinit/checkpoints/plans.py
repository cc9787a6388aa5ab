"""Plans: descriptions of checkpoints, of some kilobytes for any number of parameters.

A plan lists every tensor of a checkpoint with the source of its bytes. It is a value and is stored as JSON. From it
files are written, slices are computed and checkpoints are verified.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import fastinit
from fastinit.checkpoints.formats import Format
from fastinit.checkpoints.libraries import run_operators
from fastinit.checkpoints.quantizing import Quantized
from fastinit.checkpoints.sources import Filled, Source, Values
from fastinit.checks import sequence_of, shown, text
from fastinit.exact import in_stream_environment
from fastinit.files import write_file
from fastinit.models.records import Entry, Record, parsed
from fastinit.programs import Replayed

__all__ = ["METADATA_KEY", "PLAN_FILE", "PLAN_VERSION", "Plan", "Tensor"]

PLAN_VERSION: Final = 1
METADATA_KEY: Final = "fastinit"
"""Where the metadata of a file keeps the plan of its tensors."""
PLAN_FILE: Final = "fastinit.json"
"""The file or the HDF5 dataset that holds the plan, in formats without such metadata."""
# Values of more bytes are kept beside a file's tensors by their digest: the file itself holds the bytes.
_LARGEST_VALUES: Final = 256
_MODEL: Final = "model"
_STEM: Final = re.compile(r"[\w-]+", re.ASCII)
_KINDS: Final[Mapping[str, type[Source]]] = {kind.KIND: kind for kind in (Filled, Quantized, Values)}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a checkpoint.

    Attributes
    ----------
    name : str
        The name in the checkpoint.
    source : Source
        The source of its bytes.

    Raises
    ------
    TypeError
        If they are of another type.

    Examples
    --------
    >>> tensor = Tensor("step", Values("int64", (), bytes(8)))
    >>> tensor.shape, tensor.format.name, tensor.nbytes
    ((), 'int64', 8)
    """

    name: str
    source: Source

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not isinstance(self.source, Source):
            raise TypeError(f"a tensor has a str and a source, got {shown(self.name)} and {shown(self.source)}")
        object.__setattr__(self, "name", text(self.name))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return self.source.shape

    @property
    def format(self) -> Format:
        """The format of its elements."""
        return self.source.format

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return self.format.nbytes(self.shape)


@dataclass(frozen=True, slots=True)
class Plan:
    """The description of a checkpoint.

    Attributes
    ----------
    tensors : tuple of Tensor
        In the model's order.
    seed : int or str
        Seed of the keys.
    recipe : str
        Name of the recipe that chose the initializers.
    metadata : mapping of str to str
        Further metadata of the files: ``{"format": "pt"}``.
    files : mapping of str to str
        Further text files of the checkpoint, by name: ``config.json``.
    stem : str
        How the files of tensors in a folder are called: ``model`` for ``model.safetensors``.

    Raises
    ------
    TypeError
        If an attribute is of another type.
    ValueError
        If two tensors have the same name, two entries of the same name differ, or the name of a file has a folder.

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.models.planning import planned
    >>> weight = fastinit.Parameter("up.weight", (64, 128), layer="Linear")
    >>> entries = planned([weight], ["bfloat16"], fastinit.AUTO, seed=0)
    >>> plan = Plan.of(fastinit.Record(tuple(entries), 0, "auto", fastinit.__version__))
    >>> [(tensor.name, tensor.nbytes) for tensor in plan]
    [('up.weight', 16384)]
    >>> Plan.from_json(plan.to_json()) == plan
    True
    """

    tensors: tuple[Tensor, ...]
    seed: int | str = 0
    recipe: str = "own"
    metadata: Mapping[str, str] = field(default_factory=lambda: {"format": "pt"})
    files: Mapping[str, str] = field(default_factory=dict)
    stem: str = _MODEL

    def __post_init__(self) -> None:
        tensors = sequence_of(Tensor, "tensors of a plan must be a sequence of Tensor", self.tensors)
        object.__setattr__(self, "tensors", tensors)
        names: set[str] = set()
        for tensor in tensors:
            if tensor.name in names:
                raise ValueError(f"two tensors of a plan have the same name {shown(tensor.name)}")
            names.add(tensor.name)
        self._entries()
        for what in ("metadata", "files"):
            given = getattr(self, what)
            texts = isinstance(given, Mapping) and all(isinstance(one, str) for pair in given.items() for one in pair)
            if not texts:
                raise TypeError(f"{what} of a plan must map str to str, got {shown(given)}")
            object.__setattr__(self, what, dict(given))
        if not isinstance(self.stem, str):
            raise TypeError(f"stem of a plan must be a str, got {shown(self.stem)}")
        if not _STEM.fullmatch(self.stem):
            raise ValueError(
                f"stem of a plan must be a name without a folder, of letters, digits, - and _, got {shown(self.stem)}"
            )
        for name in self.files:
            if name in ("", ".", "..") or set(name) & set("/\\\0"):
                raise ValueError(f"a file of a plan must have a name without a folder, got {shown(name)}")

    @classmethod
    def of(cls, record: Record, **others: Any) -> Plan:
        """The plan of a record's entries, each under its own name, with `others` as the other attributes."""
        tensors = tuple(Tensor(entry.name, Filled(entry)) for entry in record)
        return cls(tensors, record.seed, record.recipe, **others)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def _entries(self) -> dict[str, Entry]:
        """The entries of the tensors, by their names."""
        found: dict[str, Entry] = {}
        for tensor in self.tensors:
            entry = tensor.source.entry
            if entry is not None and found.setdefault(entry.name, entry) is not entry and found[entry.name] != entry:
                raise ValueError(f"two entries of a plan have the same name {shown(entry.name)} and differ")
        return found

    @property
    def record(self) -> Record:
        """How the parameters are filled; several tensors may be slices of one."""
        return Record(tuple(self._entries().values()), self.seed, self.recipe, fastinit.__version__)

    @property
    def frameworks(self) -> set[str]:
        """The frameworks whose operators are run to make some of the tensors."""
        found = (entry.initializer for entry in self._entries().values())
        return {one.framework for one in found if isinstance(one, Replayed)}

    def check(self) -> None:
        """Checks that all bytes can be made, and imports the adapters whose operators make some of them.

        Raises
        ------
        TypeError, ValueError
            With the tensor's name.
        ModuleNotFoundError
            If a framework is not installed whose operators are needed.
        """
        run_operators(self.frameworks)
        for tensor in self.tensors:
            try:
                tensor.source.check()
            except (TypeError, ValueError) as problem:
                raise type(problem)(f"{shown(tensor.name)}: {problem}") from None

    def only(self, names: Iterable[str]) -> Plan:
        """The plan of some of the tensors, in the plan's order."""
        wanted = set(names)
        return replace(self, tensors=tuple(tensor for tensor in self.tensors if tensor.name in wanted))

    def without_values(self) -> Plan:
        """The same plan with the digests of large values alone: what the files carry, which hold the values."""
        small = [
            replace(tensor, source=tensor.source.without_data())
            if isinstance(tensor.source, Values) and tensor.nbytes > _LARGEST_VALUES
            else tensor
            for tensor in self.tensors
        ]
        return replace(self, tensors=tuple(small))

    def described(self, tensors: Sequence[Tensor]) -> dict[str, str]:
        """The metadata of a file that holds some of the tensors: from it the file can be verified.

        It does not depend on the version of the library.
        """
        own = replace(self, tensors=tuple(tensors), metadata={}, files={}).without_values()
        return {**self.metadata, METADATA_KEY: own.to_json()}

    @property
    def digest(self) -> str:
        """A SHA-256, in hexadecimal, of all that the checkpoint depends on."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @in_stream_environment
    def to_json(self) -> str:
        """The plan as JSON (RFC 8259), equal plans as equal text.

        Raises
        ------
        TypeError
            If an initializer is not one of the library's.
        """
        found = self.record.to_config()
        del found["version"]
        tensors = []
        for tensor in self.tensors:
            tensors.append({"name": tensor.name, tensor.source.KIND: tensor.source.config(tensor.name)})
        whole = {"plan_version": PLAN_VERSION, **found, "tensors": tensors}
        whole |= {name: dict(getattr(self, name)) for name in ("metadata", "files") if getattr(self, name)}
        whole |= {"stem": self.stem} if self.stem != _MODEL else {}
        return json.dumps(whole, separators=(",", ":"), allow_nan=False, ensure_ascii=False)

    @classmethod
    @in_stream_environment
    def from_json(cls, text: str) -> Plan:
        """The plan that :meth:`to_json` wrote.

        Raises
        ------
        ValueError
            If the text is not a plan, or one of another version of plans or of the stream.
        """
        found = parsed(text, "a plan")
        try:
            version = found.pop("plan_version", None)
            if version != PLAN_VERSION or type(version) is not int:
                raise ValueError(f"expected a plan of version {PLAN_VERSION}, got {shown(version)}")
            tensors, metadata, files = (found.pop(name, {}) for name in ("tensors", "metadata", "files"))
            stem = found.pop("stem", _MODEL)
            record = Record.from_config({"version": "", **found})
            if not isinstance(tensors, list):
                raise ValueError(f"tensors of a plan must be an array, got {shown(tensors)}")
            made = tuple(_tensor(own, record) for own in tensors)
            return cls(made, record.seed, record.recipe, metadata, files, stem)
        except RecursionError:
            raise ValueError("not a plan: its JSON is nested too deep") from None
        except (KeyError, TypeError, ValueError) as problem:
            raise ValueError(f"not a plan: {problem}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the JSON to a file, whole or not at all. Raises OSError with the path."""
        write_file(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """The plan of a file. Raises what :meth:`from_json` and `open` raise."""
        with open(os.fspath(path), encoding="utf-8") as file:
            return cls.from_json(file.read())


def _tensor(own: Any, record: Record) -> Tensor:
    """A tensor as JSON holds it: its name, and one source under the name of its kind."""
    if not isinstance(own, dict) or len(own) != 2 or not isinstance(own.get("name"), str):
        raise ValueError(f"a tensor of a plan has a name and a source, got {shown(own)}")
    name = own["name"]
    (kind,) = set(own) - {"name"}
    if kind not in _KINDS or not isinstance(own[kind], dict):
        raise ValueError(f"the source of {shown(name)} must be one of {', '.join(_KINDS)}, got {shown(kind)}")
    return Tensor(name, _KINDS[kind].from_config(own[kind], name, record))
