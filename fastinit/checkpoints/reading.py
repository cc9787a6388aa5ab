"""Reading checkpoints: which format a file or a folder has, by what is in it."""

from __future__ import annotations

import os
from typing import Final

from fastinit.checkpoints.archives import npy_of, npz_of
from fastinit.checkpoints.contents import Checkpoint
from fastinit.checkpoints.libraries import LIBRARIES, SAFETENSORS, opened
from fastinit.checkpoints.mapped import safetensors_of, safetensors_of_index

__all__ = ["read_checkpoint"]

_HDF5: Final = b"\x89HDF\r\n\x1a\n"
# A file of HDF5 may begin with a block of any power of two bytes, from this one on.
_USER_BLOCK: Final = 512


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """The contents of a checkpoint. No tensor is read before it is asked for.

    Parameters
    ----------
    path : path
        A safetensors file, an index, a ``.npz`` or ``.npy`` file, a weight file of Keras; or a folder with one
        safetensors file or one index, or of ``torch.distributed.checkpoint`` or orbax's ``StandardCheckpointer``. What
        is in it tells its format, not the name. Of several safetensors files, ``model.safetensors`` counts.

    Returns
    -------
    Checkpoint

    Raises
    ------
    OSError
        If a file cannot be read; FileNotFoundError if it does not exist.
    ValueError
        With the path, for files that are damaged or hold anything but numbers: see
        :func:`fastinit.checkpoints.read_header`; an index that names files outside its folder, tensors that its files
        lack, or files with others; a folder that holds several checkpoints.
    ModuleNotFoundError
        If the library that reads the format is not installed.

    Notes
    -----
    Nothing in the files is run: pickles are read by a reader that knows the classes of checkpoints alone, and arrays
    of objects and links to other files are refused.

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
    return _of_folder(where) if os.path.isdir(where) else _of_file(where)


def _of_folder(path: str) -> Checkpoint:
    names = set(os.listdir(path))
    safetensors = [name for name in SAFETENSORS if name in names]
    found = [format for format, library in LIBRARIES.items() if names & set(library.marks)]
    if len(safetensors) + len(found) > 1:
        both = [*safetensors, *(f"a checkpoint of {format}" for format in found)]
        raise ValueError(f"{path} has both {both[0]} and {both[1]}: name the file, or give each a folder of its own")
    if safetensors:
        return _of_file(os.path.join(path, safetensors[0]))
    if found:
        return _opened(found[0], path)
    for end in (".safetensors.index.json", ".safetensors"):
        only = [name for name in names if name.endswith(end)]
        if len(only) == 1:
            return _of_file(os.path.join(path, only[0]))
    marks = [*SAFETENSORS, *(library.marks[0] for library in LIBRARIES.values() if library.marks)]
    raise FileNotFoundError(f"{path} is no checkpoint: it has neither {' nor '.join(marks)}")


def _of_file(path: str) -> Checkpoint:
    with open(path, "rb") as file:
        start = file.read(8)
        if start.startswith(b"\x93NUMPY"):
            return npy_of(path)
        if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return npz_of(path)
        place, end = 0, file.seek(0, os.SEEK_END)
        while place < end:
            file.seek(place)
            if file.read(8) == _HDF5:
                return _opened("keras", path)
            place = 2 * place or _USER_BLOCK
    # the length at the beginning of a safetensors file is below 2**32, so it has zeros, which no text has
    is_text = start.lstrip()[:1] == b"{" and 0 not in start
    return safetensors_of_index(path) if is_text or path.endswith(".json") else safetensors_of(path)


def _opened(format: str, path: str) -> Checkpoint:
    found = opened(format, path)
    assert isinstance(found, Checkpoint)
    return found
