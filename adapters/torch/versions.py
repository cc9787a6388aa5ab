"""The oldest supported torch: the import of the adapter checks it first, before it uses what an older one lacks."""

from __future__ import annotations

import re
from typing import Final

import torch

__all__ = ["OLDEST", "STRIDED_SHARDS_ARE_EVEN", "check_version"]

OLDEST: Final = (2, 9)
"""The oldest torch that the tests run with; the extra ``fastinit-weights[torch]`` requires the same."""


def _release(version: str) -> tuple[int, ...] | None:
    """The first two numbers of a version; None of a version of another form."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else None


def check_version(version: str) -> None:
    """Raises ImportError if a version of torch is older than the oldest that is supported.

    Development builds (``2.14.0a0+git1a2b3c``) and versions of another form pass.
    """
    found = _release(version)
    if found and found < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ImportError(f"fastinit.adapters.torch needs torch {oldest} or newer, and this is torch {version}")


check_version(torch.__version__)

STRIDED_SHARDS_ARE_EVEN: Final = (_release(torch.__version__) or (2, 13)) < (2, 13)
"""Whether torch splits a strided shard of a size that does not divide in another way than it does since 2.13."""
