"""Warnings of an adapter, given once per reason, at the caller's line."""

from __future__ import annotations

import inspect
import warnings
from typing import Final

__all__ = ["Notices"]


class Notices:
    """The warnings of an adapter, each given once.

    Parameters
    ----------
    *inside : str
        Modules besides fastinit's to skip when searching for the caller's line: a module's name (``"torch.nn.init"``),
        or a package with a final dot (``"keras."``).

    Attributes
    ----------
    said : set
        Reasons of the warnings given so far.

    Examples
    --------
    >>> import warnings
    >>> from fastinit.extending import Notices
    >>> notices = Notices("framework.")
    >>> with warnings.catch_warnings(record=True) as given:
    ...     warnings.simplefilter("always")
    ...     for dtype in ("complex64", "complex64", "int8"):
    ...         notices.say_once(dtype, f"the framework's own numbers fill tensors of {dtype}")
    >>> len(given), str(given[0].message)
    (2, "fastinit: the framework's own numbers fill tensors of complex64 (shown once)")
    """

    def __init__(self, *inside: str) -> None:
        names = ("fastinit.", *inside)
        self._packages: Final = tuple(name for name in names if name.endswith("."))
        self._modules: Final = {name for name in names if not name.endswith(".")}
        self.said: Final[set[object]] = set()

    def say_once(self, reason: object, message: str) -> None:
        """Warns at the caller's line, unless a warning was given for this reason before.

        Parameters
        ----------
        reason : hashable
            Identifies the reason.
        message : str
            Text between ``fastinit:`` and ``(shown once)``.
        """
        if reason not in self.said:
            self.said.add(reason)
            warnings.warn(f"fastinit: {message} (shown once)", stacklevel=self.caller())

    def caller(self) -> int:
        """The `stacklevel` with which ``warnings.warn``, called by the calling function, reports the caller's line."""
        level, frame = 1, inspect.currentframe()
        frame = frame and frame.f_back
        while frame is not None and frame.f_back is not None and self._is_inside(frame.f_globals.get("__name__")):
            level, frame = level + 1, frame.f_back
        return level

    def _is_inside(self, module: object) -> bool:
        return module in self._modules or str(module).startswith(self._packages)
