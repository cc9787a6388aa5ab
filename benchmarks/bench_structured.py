"""Initializers of whole tensors, and other implementations of orthogonal matrices."""

from functools import partial

import numpy as np

import fastinit

from .bench_fill import ALL, KEY
from .counters import Warm, once, ratio, runs
from .side_by_side import optional, torch_on_as_many_threads


class Orthogonal(Warm):
    """Square, tall and wide matrices, by columns (Keras, JAX) or by rows (torch)."""

    shapes = ((64, 64), (256, 256), (512, 512), (1024, 1024), (2048, 2048), (4096, 512), (512, 4096))
    params = (list(shapes if ALL else shapes[1::2] + shapes[-1:]), ["float32", "float64"], [-1, 0])
    param_names = ("shape", "dtype", "column_axis")

    @once
    def setup(self, shape, dtype, column_axis):
        initializer = fastinit.Orthogonal(column_axis=column_axis)
        self.run = partial(fastinit.fill, np.zeros(shape, dtype), initializer, KEY)

    time_fill = runs


class OrthogonalThreads(Warm):
    """One thread and two."""

    params = ([256, 1024, 2048], [1, 2])
    param_names = ("n", "threads")

    @once
    def setup(self, n, threads):
        out = np.zeros((n, n), np.float32)
        self.run = partial(fastinit.fill, out, fastinit.Orthogonal(), KEY, num_threads=threads)

    time_fill = runs


class OrthogonalOverPeer:
    """The time over that of torch's orthogonal_, or of NumPy's QR of a Gaussian matrix with the signs corrected."""

    params = (["torch", "numpy"], [64, 256, 1024]) if ALL else (["torch"], [64, 1024])
    param_names = ("peer", "n")

    def setup(self, peer, n):
        out, generator = np.zeros((n, n), np.float32), np.random.default_rng(0)

        def by_qr():
            q, r = np.linalg.qr(generator.standard_normal((n, n), dtype=np.float32))
            return q * np.sign(np.diag(r))

        if peer == "torch":
            torch = torch_on_as_many_threads()
            self.peer = partial(torch.nn.init.orthogonal_, torch.zeros(n, n))
        else:
            self.peer = by_qr
        self.run = partial(fastinit.fill, out, fastinit.Orthogonal(), KEY)

    track_time_over_peer = ratio("the peer's")


STRUCTURED = {
    "Identity": (fastinit.Identity(), (2048, 2048)),
    "Dirac": (fastinit.Dirac(), (3, 3, 512, 512)),
    "DeltaOrthogonal": (fastinit.DeltaOrthogonal(), (3, 3, 512, 512)),
    "Sparse": (fastinit.Sparse(0.9), (1024, 1024)),
    "ICNR": (fastinit.ICNR(fastinit.he_normal()), (3, 3, 256, 1024)),
    "ZerO": (fastinit.ZerO(), (1024, 1024)),
}


class Structured(Warm):
    """The other structured initializers, in float32 and narrower dtypes."""

    params = (list(STRUCTURED), ["float32", "bfloat16"])
    param_names = ("initializer", "dtype")

    @once
    def setup(self, initializer, dtype):
        made, shape = STRUCTURED[initializer]
        out = np.zeros(shape, optional("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)
        self.run = partial(fastinit.fill, out, made, KEY)

    time_fill = runs
