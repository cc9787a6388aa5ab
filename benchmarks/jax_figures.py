"""The figures of the JAX adapter, beside JAX's own initializers; JAX in a process of its own.

``python jax_figures.py`` prints its samples as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

if __package__:
    from . import growth, side_by_side
    from .lab import Lab, Result, Row, speed, under
    from .report import Bar
else:  # run as a script
    import growth
    import side_by_side
    from lab import Lab, Result, Row, speed, under
    from report import Bar

FACTORIES = ("he_normal", "glorot_uniform")
DTYPES = ("float32", "bfloat16")


# In JAX's process


def samples(quick: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The samples of every figure."""
    import jax

    from fastinit.adapters import jax as ours

    theirs, key, n = jax.nn.initializers, jax.random.key(0), 256 if quick else 8192
    before = None if quick else partial(side_by_side.settle_memory, 8 * n * n)
    for name in FACTORIES:
        for dtype in DTYPES:
            own = getattr(ours, name)()
            jitted = jax.jit(getattr(theirs, name)(), static_argnums=(1, 2))
            times = side_by_side.alternate(
                lambda own=own, dtype=dtype: own(key, (n, n), dtype).block_until_ready(),
                lambda jitted=jitted, dtype=dtype: jitted(key, (n, n), dtype).block_until_ready(),
                3 if quick else 7, 0.0, before,
            )  # fmt: skip
            nbytes = n * n * (4 if dtype == "float32" else 2)
            ratios = [peer / mine for mine, peer in zip(*times, strict=True)]
            note = f"{speed(times[0], nbytes)}; JAX {speed(times[1], nbytes)}"
            yield f"{name} {dtype}", {"samples": ratios, "note": note}
    growth.give_back()
    grown = growth.growth(lambda: ours.he_normal()(key, (n, n)).block_until_ready())
    yield "memory", {"samples": [grown / (4 * n * n)], "note": f"an array of {4 * n * n / 2**20:g} MiB"}


# In the process of the table


@cache
def measured(quick: bool) -> dict[str, dict[str, Any]]:
    side_by_side.installed("jax")
    return side_by_side.in_own_process(__file__, *(["--quick"] if quick else []))


def figure(lab: Lab, name: str) -> Result:
    return Result(**measured(lab.quick)[name])


ROWS = (
    Row("JAX adapter: he_normal 8192x8192 against JAX's own, jitted", Bar(15),
        partial(figure, name="he_normal float32")),
    Row("JAX adapter: he_normal 8192x8192 in bfloat16 against JAX's own, jitted", None,
        partial(figure, name="he_normal bfloat16")),
    Row("JAX adapter: glorot_uniform 8192x8192 against JAX's own, jitted", None,
        partial(figure, name="glorot_uniform float32")),
    Row("JAX adapter: peak memory of an initialization over the array", under(1.1), partial(figure, name="memory")),
)  # fmt: skip

if __name__ == "__main__":
    for found in samples("--quick" in sys.argv):
        print(json.dumps(found), flush=True)
