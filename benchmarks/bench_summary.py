"""A few representative benchmarks, for a page or a bisection.

``asv run --bench '^bench_summary[.]'`` takes about a minute. Each is a benchmark of another file with fewer parameters.
Their definitions change only for a reason, because the page shows their history.
"""

from . import (
    bench_fill,
    bench_import,
    bench_jax,
    bench_keras,
    bench_memory,
    bench_models,
    bench_numba,
    bench_shards,
    bench_small,
    bench_structured,
    bench_torch,
)

#: The value of `--bench` for these.
QUICK = r"^bench_summary[.]"


class Fill(bench_fill.Fill):
    """2^24 elements on each target."""

    params = (bench_fill.COMMON, ["float32"], bench_fill.TARGETS, [2**24], ["all"])


class OverMemset(bench_fill.OverMemset):
    """A fill's time over that of a memset."""

    params = (bench_fill.COMMON, ["float32"], ["default"], [2**24], ["all"])


class Small(bench_small.Adapter):
    """A thousand 16x16 fills."""

    params = (["xavier_uniform", "he_normal"], [(16, 16)])


class Shards(bench_shards.Shards):
    """All shards of 4096 x 4096, and the whole."""

    params = (["whole", "8 row shards", "8 column shards", "4 x 4 blocks", "uneven blocks"], ["normal"], ["float32"])


class Orthogonal(bench_structured.Orthogonal):
    """1024 x 1024."""

    params = ([(1024, 1024)], ["float32"], [-1])


class Import(bench_import.Import):
    """A fresh interpreter."""


class Extra(bench_memory.Extra):
    """Memory beyond the tensor's, per thread."""


class Model(bench_models.Model):
    """GPT-2."""

    params = (["float32"],)


class OverTorch(bench_torch.OverTorch):
    """The time of a drop-in function over torch's."""

    params = (["kaiming_normal_"], [1024])


class OverKeras(bench_keras.OverKeras):
    """The time of an initializer over Keras's, on each backend."""

    params = (bench_keras.BACKENDS, ["HeNormal"], [1024])


class OverJax(bench_jax.OverJax):
    """The time of an initializer over JAX's, compiled."""

    params = (["he_normal"], ["float32"], [2048])


class OverNumba(bench_numba.OverNumba):
    """The time of a fill over that of a compiled loop with Numba's generator."""

    params = (["fill normal"], [2**22])
