"""The oldest JAX that this adapter works with: an older one is refused here, before anything of it is used."""

import jax

__all__ = ["OLDEST"]

OLDEST = (0, 10)  # as in pyproject.toml

if jax.__version_info__[:2] < OLDEST:
    wanted = ".".join(map(str, OLDEST))
    raise ImportError(
        f"fastinit.adapters.jax needs JAX {wanted} or newer, found {jax.__version__}: pip install -U 'jax>={wanted}'"
    )
