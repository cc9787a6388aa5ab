"""Progress of long work on stderr: the share done, the rate and the time left."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["progress_bar"]

_WIDTH: Final = 24
# Seconds between two pictures of the bar.
_PAUSE: Final = 0.1


@contextmanager
def progress_bar(size: int, title: str, wanted: bool | None = None) -> Iterator[Callable[[int], object]]:
    """A context that shows how many of `size` bytes are done; it gives the function that adds to them.

    tqdm draws the bar where it is installed.

    Parameters
    ----------
    size : int
        Bytes of the whole.
    title : str
        Title of the bar.
    wanted : bool, optional
        Whether to show it; by default if stderr is a terminal.

    Examples
    --------
    >>> with progress_bar(100, "write", False) as advance:
    ...     advance(50)
    """
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield lambda size: None
        return
    try:
        tqdm: Any = importlib.import_module("tqdm").tqdm
    except ModuleNotFoundError:
        with _bar(size, title) as advance:
            yield advance
    else:
        with tqdm(total=size, unit="B", unit_scale=True, unit_divisor=1024, desc=title) as bar:
            yield bar.update


@contextmanager
def _bar(size: int, title: str) -> Iterator[Callable[[int], object]]:
    """One line that is drawn anew."""
    begin, lock = time.perf_counter(), threading.Lock()
    done, drawn = 0, 0.0

    def draw() -> None:
        seconds = time.perf_counter() - begin
        share = done / size if size else 1.0
        rate = done / seconds if seconds else 0.0
        left = f"{(size - done) / rate:.0f} s left" if rate else "?"
        filled = int(_WIDTH * min(share, 1.0))
        bar = "#" * filled + "." * (_WIDTH - filled)
        sys.stderr.write(f"\r{title} [{bar}] {share:4.0%}  {rate / 2**20:,.0f} MiB/s  {left}  ")
        sys.stderr.flush()

    def advance(count: int) -> None:
        nonlocal done, drawn
        with lock:
            done += count
            if time.perf_counter() - drawn > _PAUSE:
                drawn = time.perf_counter()
                draw()

    try:
        yield advance
    finally:
        draw()
        sys.stderr.write("\n")
