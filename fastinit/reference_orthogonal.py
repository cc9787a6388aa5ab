"""Executable specification of orthogonal matrices in plain NumPy; imported by tests only.

Stewart's Householder construction (1980) with Mezzadri's signs (2007), as in ``kernels/orthogonal.c``. The IEEE
operations and their order are the same, so the results are equal to the bit.
"""

import numpy as np

TILE = 96


def orthogonal(normals, gain=1.0):
    """Return ``gain * Q``, Haar-distributed with orthonormal columns, from independent standard normals.

    Parameters
    ----------
    normals : (m, n) array of float32 or float64, m >= n
        Column j is used from row j down.
    gain : float
        Factor, rounded to the dtype of normals.

    Returns
    -------
    (m, n) array of the same dtype
    """
    m, n = normals.shape
    dtype = normals.dtype.type
    factors = [_reflectors(normals[top:, top : top + TILE]) for top in range(0, n, TILE)]
    q = np.zeros((m, n), dtype)
    for piece, (_, _, sign) in enumerate(factors):
        first = piece * TILE
        panel = q[:, first : first + TILE]
        np.fill_diagonal(panel[first:], 1)
        for p in range(piece, -1, -1):
            v, t, _ = factors[p]
            rows = panel[p * TILE :]
            nonzero = slice(0, len(t)) if p == piece else slice(TILE, None)
            w = _product(v[nonzero].T, rows[nonzero])
            tw = _product(t, w)
            for top in range(0, len(rows), TILE):
                rows[top : top + TILE] += _product(v[top : top + TILE], tw)
        panel *= dtype(gain) * sign
    return q


def _product(a, b):
    """``a @ b`` in tiles of 96 terms. Each tile is summed from 0 in the order of k; tiles are added in order."""
    c = np.zeros((a.shape[0], b.shape[1]), a.dtype)
    for top in range(0, a.shape[1], TILE):
        tile = np.zeros_like(c)
        for k in range(top, min(top + TILE, a.shape[1])):
            tile += np.multiply.outer(a[:, k], b[k])
        c += tile
    return c


def _reflectors(x):
    """Return V, -T and the signs of R's diagonal, for up to 96 columns that start at their diagonal."""
    width = x.shape[1]
    wide = np.tril(x).astype(np.float64)
    squares = np.zeros(width)
    for top in range(0, len(x), TILE):
        tile = np.zeros(width)
        for row in wide[top : top + TILE]:
            tile += row * row
        squares += tile
    diagonal, norm = wide.diagonal(), np.sqrt(squares)
    beta = np.where(diagonal > 0, -norm, norm)
    v = (wide * (1 / (diagonal - beta))).astype(x.dtype)
    np.fill_diagonal(v, 1)
    tau = (beta - diagonal) / beta

    gram = _product(v.T.astype(np.float64), v.astype(np.float64))
    t = np.diag(-tau)
    for i in range(width - 2, -1, -1):
        total = np.zeros(width)
        for k in range(i + 1, width):
            total += gram[i, k] * t[k]
        t[i, i + 1 :] = -tau[i] * total[i + 1 :]
    return v, t.astype(x.dtype), np.where(diagonal > 0, -1, 1).astype(x.dtype)
