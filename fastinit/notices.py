"""Warnings that an adapter gives once for each reason, in the line that called it."""

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
        Modules whose lines are not the caller's, beside those of fastinit: a name (``"torch.nn.init"``), or a package
        with a final dot (``"keras."``).

    Attributes
    ----------
    said : set
        The reasons that a warning has been given for.

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
    (2, "fastinit: the framework's own numbers fill tensors of complex64 (said once)")
    """

    def __init__(self, *inside: str) -> None:
        names = ("fastinit.", *inside)
        self._packages: Final = tuple(name for name in names if name.endswith("."))
        self._modules: Final = {name for name in names if not name.endswith(".")}
        self.said: Final[set[object]] = set()

    def say_once(self, reason: object, message: str) -> None:
        """Warns, in the caller's line, unless a warning has been given for this reason.

        Parameters
        ----------
        reason : hashable
            What the warning is about.
        message : str
            Stands between ``fastinit:`` and ``(said once)``.
        """
        if reason not in self.said:
            self.said.add(reason)
            warnings.warn(f"fastinit: {message} (said once)", stacklevel=self.caller())

    def caller(self) -> int:
        """The `stacklevel` at which ``warnings.warn``, called by the function that asks, names the caller's line."""
        level, frame = 1, inspect.currentframe()
        frame = frame and frame.f_back
        while frame is not None and frame.f_back is not None and self._is_inside(frame.f_globals.get("__name__")):
            level, frame = level + 1, frame.f_back
        return level

    def _is_inside(self, module: object) -> bool:
        return module in self._modules or str(module).startswith(self._packages)
