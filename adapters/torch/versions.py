"""The oldest supported torch: the import of the adapter checks it first, before it uses what an older one lacks."""

from __future__ import annotations

import re
from typing import Final

import torch

__all__ = ["OLDEST", "check_version"]

OLDEST: Final = (2, 13)
"""The oldest torch that the tests run with; the extra ``fastinit-weights[torch]`` requires the same."""


def check_version(version: str) -> None:
    """Raises ImportError if a version of torch is older than the oldest that is supported.

    Development builds (``2.14.0a0+git1a2b3c``) and versions of another form pass.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and tuple(map(int, found.groups())) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ImportError(f"fastinit.adapters.torch needs torch {oldest} or newer, and this is torch {version}")


check_version(torch.__version__)
