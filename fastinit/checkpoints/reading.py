"""Checkpoints on disk: the file and the place of every tensor, checked without reading a tensor."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fastinit.checkpoints.headers import LONGEST_HEADER, Header, Stored, distinct, read_header
from fastinit.checkpoints.plans import METADATA_KEY, Plan
from fastinit.checks import shown

__all__ = ["Checkpoint", "Mapped", "read_checkpoint"]

_SINGLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The contents of a checkpoint on disk.

    Attributes
    ----------
    path : str
        The file or the folder.
    files : mapping of str to Header
        The header of each file, by its path.
    places : mapping of str to str
        The path of the file that holds each tensor, in the order of the files.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastinit.checkpoints import Plan, Tensor, Values, read_checkpoint, write
    >>> out = os.path.join(tempfile.mkdtemp(), "tiny.safetensors")
    >>> written = write(Plan((Tensor("step", Values("int64", (), bytes(8))),)), out)
    >>> found = read_checkpoint(out)
    >>> "step" in found, found["step"].nbytes, found.plan.seed
    (True, 8, 0)
    """

    path: str
    files: Mapping[str, Header]
    places: Mapping[str, str]

    def __iter__(self) -> Iterator[Stored]:
        for header in self.files.values():
            yield from header.tensors.values()

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __getitem__(self, name: str) -> Stored:
        if name not in self.places:
            raise KeyError(f"{self.path} has no tensor {shown(name)}")
        return self.files[self.places[name]].tensors[name]

    @property
    def plan(self) -> Plan | None:
        """The plan that the files carry; None where one of them carries none.

        Raises
        ------
        ValueError
            With the path, if what a file carries is not a plan, or not one of this library's stream version.
        """
        plans = []
        for path, header in self.files.items():
            if METADATA_KEY not in header.metadata:
                return None
            try:
                plans.append(Plan.from_json(header.metadata[METADATA_KEY]))
            except ValueError as problem:
                raise ValueError(f"{path}: {problem}") from None
        if not plans:
            return None
        return Plan(tuple(tensor for plan in plans for tensor in plan), plans[0].seed, plans[0].recipe)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """The contents of a safetensors file, an index, or the folder of either. No tensor is read.

    Parameters
    ----------
    path : path
        ``model.safetensors``, ``model.safetensors.index.json``, or a folder with one of them.

    Raises
    ------
    OSError
        If a file cannot be read; FileNotFoundError if it does not exist.
    ValueError
        With the path, for a header or an index that is not sound: see :func:`fastinit.checkpoints.read_header`; an
        index that names files outside its folder, tensors that its files lack, or files with others.

    Examples
    --------
    >>> import os, tempfile
    >>> from fastinit.checkpoints import Plan, Tensor, Values, write
    >>> out = os.path.join(tempfile.mkdtemp(), "tiny")
    >>> written = write(Plan((Tensor("step", Values("int64", (), bytes(8))),)), out)
    >>> [(stored.name, stored.shape) for stored in read_checkpoint(out)]
    [('step', ())]
    """
    where = os.fsdecode(os.fspath(path))
    if os.path.isdir(where):
        names = [os.path.join(where, name) for name in (_SINGLE, _INDEX)]
        found = [name for name in names if os.path.exists(name)]
        if not found:
            raise FileNotFoundError(f"{where} has neither {_SINGLE} nor {_INDEX}")
        if len(found) > 1:
            raise ValueError(f"{where} has both {_SINGLE} and {_INDEX}: name one of them")
        (where,) = found
    if not where.endswith(".json"):
        header = read_header(where)
        return Checkpoint(where, {where: header}, dict.fromkeys(header.tensors, where))
    return _of_index(where)


def _of_index(path: str) -> Checkpoint:
    folder = os.path.dirname(path)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(LONGEST_HEADER + 1)
        if len(text) > LONGEST_HEADER:
            raise ValueError(f"it is longer than {LONGEST_HEADER:,} characters")
        index = json.loads(text, object_pairs_hook=distinct)
        places = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise ValueError("expected a weight_map of names to files")
        for name in places.values():
            if os.path.basename(name) != name or name in ("", ".", ".."):
                raise ValueError(f"a file of an index lies in its folder, got {shown(name)}")
    except RecursionError:
        raise ValueError(f"{path} is not an index: it is nested too deep") from None
    except ValueError as problem:
        raise ValueError(f"{path} is not an index: {problem}") from None
    files = {os.path.join(folder, name): None for name in sorted(set(places.values()))}
    headers = {name: read_header(name) for name in files}
    held = {name: file for file, header in headers.items() for name in header.tensors}
    for name, file in places.items():
        if name not in headers[os.path.join(folder, file)].tensors:
            raise ValueError(f"{path} says that {file} holds {shown(name)}, which it does not")
    extra = sorted(set(held) - set(places))
    if extra or sum(len(header.tensors) for header in headers.values()) > len(held):
        raise ValueError(f"{path} does not say where {shown(extra[0]) if extra else 'one of two equal names'} is")
    return Checkpoint(path, headers, held)


class Mapped:
    """Files mapped into memory and read in pieces, whose memory can be given back.

    Parameters
    ----------
    checkpoint : Checkpoint
        The checkpoint. Its files are opened when they are needed.

    Examples
    --------
    >>> with Mapped(checkpoint) as files:  # doctest: +SKIP
    ...     files.read("up.weight", 0, 100)
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._maps: dict[str, Any] = {}

    def __enter__(self) -> Mapped:
        return self

    def __exit__(self, *problem: object) -> None:
        self._maps.clear()

    def bytes_of(self, name: str) -> np.ndarray:
        """All bytes of a tensor, which are read where they are looked at."""
        path, stored = self._checkpoint.places[name], self._checkpoint[name]
        if path not in self._maps:
            self._maps[path] = np.memmap(path, np.uint8, "r")
        found: np.ndarray = self._maps[path][stored.offset : stored.offset + stored.nbytes]
        return found

    def forget(self) -> None:
        """Gives back the memory of what was read."""
        for mapped in self._maps.values():
            _forget(mapped)


def _forget(mapped: np.memmap[Any, Any]) -> None:
    import mmap

    own = getattr(mapped, "_mmap", None)
    if own is not None and hasattr(mmap, "MADV_DONTNEED"):
        own.madvise(mmap.MADV_DONTNEED)
