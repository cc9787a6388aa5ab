"""Files of a checkpoint: which tensors each holds, and at which byte."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fastinit.checkpoints.headers import header_bytes
from fastinit.checkpoints.plans import Plan, Tensor
from fastinit.checks import at_least

__all__ = ["SHARD_SIZE", "File", "safetensors_files", "safetensors_index"]

SHARD_SIZE: Final = 5 * 10**9
"""The default bytes of one file of a checkpoint, as of most published ones."""


@dataclass(frozen=True, slots=True)
class File:
    """A file that is to be written.

    Attributes
    ----------
    name : str
        Its name, without a folder.
    head : bytes
        What it begins with.
    places : tuple of (int, Tensor)
        The tensors behind the head, each with its first byte in the file, in ascending order and without gaps.
    """

    name: str
    head: bytes
    places: tuple[tuple[int, Tensor], ...]

    @property
    def size(self) -> int:
        """How many bytes."""
        return self.places[-1][0] + self.places[-1][1].nbytes if self.places else len(self.head)


def safetensors_files(plan: Plan, shard_size: int = SHARD_SIZE, *, single: str | None = None) -> list[File]:
    """The safetensors files of a plan.

    Parameters
    ----------
    plan : Plan
        What they hold.
    shard_size : int, >= 1
        At most so many bytes of tensors in one file; a larger tensor has a file of its own.
    single : str, optional
        The name of the only file, whatever its size. By default ``model.safetensors``, or
        ``model-00001-of-00003.safetensors`` where there are several.

    Examples
    --------
    >>> from fastinit.checkpoints.plans import Plan, Tensor
    >>> from fastinit.checkpoints.sources import Values
    >>> plan = Plan(tuple(Tensor(name, Values("int64", (4,), bytes(32))) for name in "abc"))
    >>> [(file.name, len(file.places)) for file in safetensors_files(plan, 64)]
    [('model-00001-of-00002.safetensors', 2), ('model-00002-of-00002.safetensors', 1)]
    """
    at_least(1, "shard_size", shard_size)
    groups: list[list[Tensor]] = [[]]
    size = 0
    for tensor in plan:
        if single is None and groups[-1] and size + tensor.nbytes > shard_size:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.nbytes
    count = len(groups)
    names = [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    if count == 1:
        names = [single or "model.safetensors"]
    return [_file(name, group, plan) for name, group in zip(names, groups, strict=True)]


def _file(name: str, tensors: Sequence[Tensor], plan: Plan) -> File:
    # the widest elements first, so that each tensor begins at a multiple of its element
    ordered = sorted(tensors, key=lambda tensor: -tensor.format.bits)
    head = header_bytes([(one.name, one.format, one.shape) for one in ordered], plan.described(tensors))
    places, offset = [], len(head)
    for tensor in ordered:
        places.append((offset, tensor))
        offset += tensor.nbytes
    return File(name, head, tuple(places))


def safetensors_index(files: Sequence[File]) -> dict[str, str]:
    """The index of several files, by its file name; nothing for a single file.

    Parameters
    ----------
    files : sequence of File
        All files of a checkpoint.

    Examples
    --------
    >>> safetensors_index([File("model.safetensors", b"", ())])
    {}
    """
    if len(files) < 2:
        return {}
    total = sum(tensor.nbytes for file in files for _, tensor in file.places)
    where = {tensor.name: file.name for file in files for _, tensor in file.places}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    return {"model.safetensors.index.json": json.dumps(index, indent=2) + "\n"}
