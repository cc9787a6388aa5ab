"""Initializers of whole tensors, and what else makes orthogonal matrices."""

import numpy as np

import fastinit

from .bench_fill import ALL
from .counters import once, over
from .side_by_side import optional


class Orthogonal:
    """Square, tall and wide matrices, by columns (Keras, JAX) or by rows (torch)."""

    shapes = ((64, 64), (256, 256), (512, 512), (1024, 1024), (2048, 2048), (4096, 512), (512, 4096))
    params = (list(shapes if ALL else shapes[1::2] + shapes[-1:]), ["float32", "float64"], [-1, 0])
    param_names = ("shape", "dtype", "column_axis")
    warmup_time = 0.02
    rounds = 1

    @once
    def setup(self, shape, dtype, column_axis):
        self.out, self.key = np.zeros(shape, dtype), fastinit.Key(0)
        self.initializer = fastinit.Orthogonal(column_axis=column_axis)
        fastinit.fill(self.out, self.initializer, self.key)

    def time_fill(self, shape, dtype, column_axis):
        fastinit.fill(self.out, self.initializer, self.key)


class OrthogonalThreads:
    """One thread and two."""

    params = ([256, 1024, 2048], [1, 2])
    param_names = ("n", "threads")
    warmup_time = 0.02
    rounds = 1

    @once
    def setup(self, n, threads):
        self.out, self.key = np.zeros((n, n), np.float32), fastinit.Key(0)
        self.time_fill(n, threads)

    def time_fill(self, n, threads):
        fastinit.fill(self.out, fastinit.Orthogonal(), self.key, num_threads=threads)


class OrthogonalPeer:
    """torch's orthogonal_, and NumPy's QR of a Gaussian matrix with the signs corrected."""

    params = (["torch", "numpy"], [64, 256, 512, 1024, 2048] if ALL else [64, 512])
    param_names = ("peer", "n")
    warmup_time = 0.02
    rounds = 1

    @once
    def setup(self, peer, n):
        if peer == "torch":
            torch = optional("torch")
            torch.set_num_threads(fastinit.default_num_threads())
            tensor = torch.zeros(n, n)
            self.run = lambda: torch.nn.init.orthogonal_(tensor)
        else:
            generator = np.random.default_rng(0)

            def by_qr():
                q, r = np.linalg.qr(generator.standard_normal((n, n), dtype=np.float32))
                return q * np.sign(np.diag(r))

            self.run = by_qr
        self.run()

    def time_fill(self, peer, n):
        self.run()


class OrthogonalOverPeer:
    """The time of an orthogonal matrix over the peer's."""

    params = (["torch", "numpy"], [64, 256, 1024]) if ALL else (["torch"], [64, 1024])
    param_names = ("peer", "n")

    def setup(self, peer, n):
        self.peer, self.out, self.key = OrthogonalPeer(), np.zeros((n, n), np.float32), fastinit.Key(0)
        self.peer.setup(peer, n)

    def track_time_over_peer(self, peer, n):
        return over(lambda: fastinit.fill(self.out, fastinit.Orthogonal(), self.key), self.peer.run)

    track_time_over_peer.unit = "times the peer's"


STRUCTURED = {
    "Identity": (fastinit.Identity(), (2048, 2048)),
    "Dirac": (fastinit.Dirac(), (3, 3, 512, 512)),
    "DeltaOrthogonal": (fastinit.DeltaOrthogonal(), (3, 3, 512, 512)),
    "Sparse": (fastinit.Sparse(0.9), (1024, 1024)),
    "ICNR": (fastinit.ICNR(fastinit.he_normal()), (3, 3, 256, 1024)),
    "ZerO": (fastinit.ZerO(), (1024, 1024)),
}


class Structured:
    """The others, whole and narrowed."""

    params = (list(STRUCTURED), ["float32", "bfloat16"])
    param_names = ("initializer", "dtype")
    warmup_time = 0.02
    rounds = 1

    @once
    def setup(self, initializer, dtype):
        self.initializer, shape = STRUCTURED[initializer]
        self.dtype, self.key = dtype, fastinit.Key(0)
        if dtype == "bfloat16":
            dtype = optional("ml_dtypes").bfloat16
        self.out = np.zeros(shape, dtype)
        fastinit.fill(self.out, self.initializer, self.key)

    def time_fill(self, initializer, dtype):
        fastinit.fill(self.out, self.initializer, self.key)
