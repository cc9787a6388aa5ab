"""JAX's internals, used here alone; read in JAX 0.10.

``tests/adapters/jax/test_internals.py`` names the one that a new release has changed.
"""

from __future__ import annotations

from typing import Any

import jax

__all__ = ["is_traced"]


def is_traced(value: Any) -> bool:
    """Whether a value stands for one that a compiled function will have when it runs.

    ``jax.core.Tracer``, of a module that is not documented as public as a whole. Without it a fill within ``jit``,
    ``vmap`` or ``eval_shape`` could not be told from an eager one, and would ask for numbers that are not there.
    """
    return isinstance(value, jax.core.Tracer)
