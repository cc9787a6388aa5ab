"""Files of a checkpoint: the tensors of each, and their places."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fastinit.checkpoints.headers import header_bytes
from fastinit.checkpoints.plans import Plan, Tensor
from fastinit.checks import at_least, shown

__all__ = ["SHARD_SIZE", "File", "npy_file", "npy_head", "safetensors_files", "safetensors_index"]

SHARD_SIZE: Final = 5 * 10**9
"""Default size of one file of a checkpoint in bytes, the usual one of published checkpoints."""


@dataclass(frozen=True, slots=True)
class File:
    """A file to write.

    Attributes
    ----------
    name : str
        Its name, without a folder.
    head : bytes
        The bytes before the first tensor.
    places : tuple of (int, Tensor)
        The tensors behind the head, each with its first byte in the file, in ascending order and without gaps.
    """

    name: str
    head: bytes
    places: tuple[tuple[int, Tensor], ...]

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self.places[-1][0] + self.places[-1][1].nbytes if self.places else len(self.head)


def safetensors_files(plan: Plan, shard_size: int = SHARD_SIZE, *, single: str | None = None) -> list[File]:
    """The safetensors files of a plan.

    Parameters
    ----------
    plan : Plan
        The tensors to distribute.
    shard_size : int, >= 1
        Most bytes of tensors in one file. A larger tensor has a file of its own.
    single : str, optional
        The name of the only file, whatever its size. By default ``model.safetensors``, or
        ``model-00001-of-00003.safetensors`` where there are several, with the plan's stem.

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
    names = [f"{plan.stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    if count == 1:
        names = [single or f"{plan.stem}.safetensors"]
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


def npy_head(tensor: Tensor) -> bytes:
    """The first bytes of a tensor as a ``.npy`` file, or as a member of an ``.npz`` archive.

    Parameters
    ----------
    tensor : Tensor

    Raises
    ------
    TypeError
        If NumPy does not have the tensor's dtype.

    Examples
    --------
    >>> from fastinit.checkpoints.plans import Tensor
    >>> from fastinit.checkpoints.sources import Values
    >>> npy_head(Tensor("step", Values("int64", (), bytes(8))))[:6]
    b'\x93NUMPY'
    """
    name = tensor.format.name
    try:
        dtype = np.dtype(name)
    except TypeError:
        dtype = None
    if dtype is None or dtype.isbuiltin != 1:  # 2 of a dtype that another package adds, which a file cannot name
        raise TypeError(f"NumPy has no {name}, the dtype of {shown(tensor.name)}: choose another dtype")
    head = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_2_0(head, {"descr": descr, "fortran_order": False, "shape": tensor.shape})
    return head.getvalue()


def npy_file(plan: Plan, name: str) -> File:
    """The ``.npy`` file of a plan's only tensor.

    Parameters
    ----------
    plan : Plan
        A plan of one tensor.
    name : str
        Name of the file.

    Raises
    ------
    ValueError
        If there is not one tensor.
    TypeError
        As :func:`npy_head`.
    """
    if len(plan) != 1:
        raise ValueError(f"a .npy file holds one tensor, got {len(plan)}: choose one, or write an .npz")
    head = npy_head(plan.tensors[0])
    return File(name, head, ((len(head), plan.tensors[0]),))


def safetensors_index(files: Sequence[File], stem: str) -> dict[str, str]:
    """The index of several files, by its file name; nothing for a single file.

    Parameters
    ----------
    files : sequence of File
        All files of a checkpoint.
    stem : str
        How the plan calls its files.

    Examples
    --------
    >>> safetensors_index([File("model.safetensors", b"", ())], "model")
    {}
    """
    if len(files) < 2:
        return {}
    total = sum(tensor.nbytes for file in files for _, tensor in file.places)
    where = {tensor.name: file.name for file in files for _, tensor in file.places}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    return {f"{stem}.safetensors.index.json": json.dumps(index, indent=2) + "\n"}
