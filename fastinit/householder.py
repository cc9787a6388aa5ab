"""Random orthogonal matrices by Householder reflections, on several threads; see ``kernels/orthogonal.h``."""

from __future__ import annotations

import threading

import numpy as np

from fastinit import _core, targets
from fastinit.buffers import NATIVE
from fastinit.filling import fill
from fastinit.initializers import Normal
from fastinit.keys import Key
from fastinit.threads import default_num_threads, for_each

__all__ = ["write_orthogonal"]

# With at most this many pieces the work ends before a second thread has started.
FEW_PIECES = 3


def write_orthogonal(matrix: np.ndarray, gain: float, key: Key, num_threads: int | None, target: str | None) -> None:
    """Fills a matrix, row-major or transposed, with a Haar-distributed orthogonal matrix."""
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    m, n = matrix.shape
    pieces, factor_count, scratch_count = _core.orthogonal_sizes(m, n)
    threads = (num_threads or default_num_threads()) if pieces > FEW_PIECES else 1
    index = targets.current_index() if target is None else targets.index_of(target)
    tag = NATIVE[matrix.dtype].tag
    normals = fill(np.empty((m, n), matrix.dtype), Normal(), key, num_threads=num_threads, target=target)
    factors = np.empty(factor_count, matrix.dtype)
    local = threading.local()

    def scratch() -> int:
        if not hasattr(local, "memory"):
            local.memory = np.empty(scratch_count, matrix.dtype)
        return _core.address(local.memory)

    def reflectors(piece: int) -> None:
        _core.orthogonal_reflectors(index, tag, _core.address(normals), m, n, piece, _core.address(factors), scratch())

    def columns(number: int) -> None:
        row_stride, column_stride = (stride // matrix.itemsize for stride in matrix.strides)
        _core.orthogonal_columns(
            index,
            tag,
            _core.address(factors),
            m,
            n,
            pieces - 1 - number,
            gain,
            scratch(),
            _core.address(matrix),
            row_stride,
            column_stride,
        )

    # longest pieces first: these are the first ones in the first phase, the last ones in the second
    for_each(pieces, reflectors, threads)
    for_each(pieces, columns, threads)
