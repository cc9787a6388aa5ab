"""What differs between releases of JAX; an older one than the oldest is refused here, before anything of it is used.

Releases are told apart by what they have, not by their numbers.
"""

from __future__ import annotations

from typing import Any

import jax

__all__ = ["OLDEST", "is_symbolic_dim", "mesh_of_devices"]

OLDEST = (0, 7, 2)  # as in pyproject.toml

if jax.__version_info__ < OLDEST:
    wanted = ".".join(map(str, OLDEST))
    raise ImportError(
        f"fastinit.adapters.jax needs JAX {wanted} or newer, found {jax.__version__}: pip install -U 'jax>={wanted}'"
    )

# isort: split
from jax.export import is_symbolic_dim  # noqa: E402 (JAX 0.7 has jax.export only once it is imported)


def mesh_of_devices(given: Any) -> Any:
    """The mesh that ``jax.set_mesh`` has entered; ValueError, about the sharding, where JAX does not tell."""
    if not hasattr(jax.sharding, "get_mesh"):
        raise ValueError(
            f"{given} needs a mesh, and JAX {jax.__version__} does not tell which one was entered: pass a "
            "NamedSharding, call it within jax.jit, or install a JAX that has jax.sharding.get_mesh"
        )
    return jax.sharding.get_mesh()
