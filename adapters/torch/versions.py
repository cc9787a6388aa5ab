"""Which torch this adapter needs: said when it is imported, before anything of torch that an older one lacks."""

from __future__ import annotations

import re
from typing import Final

import torch

__all__ = ["OLDEST", "check_version"]

OLDEST: Final = (2, 13)
"""The oldest torch that the tests run with; the extra ``fastinit-weights[torch]`` asks for the same."""


def check_version(version: str) -> None:
    """Raises ImportError if a version of torch is older than the oldest that is supported.

    Builds of a version that has not come out yet (``2.14.0a0+git1a2b3c``), and versions of another form, pass.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and tuple(map(int, found.groups())) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ImportError(f"fastinit.adapters.torch needs torch {oldest} or newer, and this is torch {version}")


check_version(torch.__version__)
