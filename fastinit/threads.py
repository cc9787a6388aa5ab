"""Spreads independent pieces of work over threads.

The pieces release the GIL; which thread takes which piece never shows in the values. Those of a fill are dealt out by
the core (``kernels/pieces.c``), those of everything else are calls of a function of Python. Threads are started when
the first call needs them and wait a moment for the next call, since starting one takes as long as drawing 10^5 values;
then they end. A forked child starts its own. While the interpreter ends, when no other thread gets to run, the calling
thread does all of it.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

__all__ = ["Work", "default_num_threads", "for_each", "together"]


@lru_cache(maxsize=1)
def default_num_threads() -> int:
    """The number of threads that a fill uses unless it is told.

    ``FASTINIT_NUM_THREADS`` if it is set, else the processors that this process may run on, within the CPU quota of its
    control group. It is read once, at the first fill.

    Raises
    ------
    ValueError
        If ``FASTINIT_NUM_THREADS`` is no positive integer.

    Examples
    --------
    >>> import fastinit
    >>> fastinit.default_num_threads() >= 1
    True
    """
    text = os.environ.get("FASTINIT_NUM_THREADS")
    if text:
        try:
            number = int(text)
        except ValueError:
            number = 0
        if number < 1:
            raise ValueError(f"FASTINIT_NUM_THREADS must be a positive integer, got {text!r}")
        return number
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        processors = os.cpu_count() or 1
    return max(1, int(min(processors, _cgroup_quota())))


def _cgroup_quota() -> float:
    """CPUs that the control group grants: version 2, then version 1; infinity without a limit."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        return float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        folder = "/sys/fs/cgroup/cpu/cpu.cfs_"
        with open(folder + "quota_us") as quota_file, open(folder + "period_us") as period_file:
            microseconds = float(quota_file.read())
            return microseconds / float(period_file.read()) if microseconds > 0 else float("inf")
    except (OSError, ValueError, ZeroDivisionError):
        return float("inf")


class Work(Protocol):
    """What several threads can do together."""

    def take(self) -> bool:
        """Does some of it, in any thread; returns whether there may be more. Nothing but Ctrl-C ends it early."""

    def end(self) -> None:
        """Lets nothing begin any more; when it returns, no thread is at work."""


class _Tasks:
    """Calls of task(0), ..., task(count - 1)."""

    def __init__(self, count: int, task: Callable[[int], None]) -> None:
        self.task = task
        self.remaining = iter(range(count))
        self.lock = threading.Lock()
        self.failures: list[BaseException] = []
        self.at_work: set[int] = set()  # threads
        self.is_over = False
        self.left = threading.Semaphore(0)  # released when the last task ends of those that had begun at the end

    def take(self) -> bool:
        this = threading.get_ident()
        try:
            with self.lock:
                number = None if self.is_over or self.failures else next(self.remaining, None)
                if number is None:
                    return False
                self.at_work.add(this)
            self.task(number)
        except BaseException as failure:  # raised in the caller's thread
            self.failures.append(failure)
        finally:
            with self.lock:
                self.at_work.discard(this)
                if self.is_over and not self.at_work:
                    self.left.release()
        return True

    def end(self) -> None:
        with self.lock:
            self.is_over = True
            self.at_work.discard(threading.get_ident())  # Ctrl-C may have ended take() anywhere
            waits = bool(self.at_work)
        while waits:
            try:
                self.left.acquire()
                waits = False
            except BaseException as failure:  # Ctrl-C while the last tasks end
                self.failures.append(failure)


class _Helpers:
    """Threads that help with work. Which of them does, and whether one comes too late, changes nothing."""

    # Seconds that a thread waits for more: longer than what lies between the tensors of a model.
    PATIENCE = 0.5

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begins anew: a forked child has none of its parent's threads."""
        # one that its holder may take again: a signal handler, or a __del__ that the collector runs, may fill too
        self.lock = threading.RLock()
        self.works: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self.waiting = 0  # threads that have nothing to do, of those that are promised nothing

    def ask(self, work: Work, count: int) -> None:
        """Has so many threads help with it."""
        with self.lock:
            promised = min(count, self.waiting)
            self.waiting -= promised
            for _ in range(promised):
                self.works.put(work)
        for _ in range(count - promised):
            try:
                threading.Thread(target=self._serve, args=(work,), name="fastinit", daemon=True).start()
            except RuntimeError:  # no thread to be had
                return

    def _serve(self, work: Work | None) -> None:
        while work is not None:
            while work.take():
                pass
            work = None  # and with it goes the memory that it belongs to
            with self.lock:
                self.waiting += 1
            work = self._next()

    def _next(self) -> Work | None:
        """What this thread is to help with, or None after a while without requests."""
        while True:
            try:
                return self.works.get(timeout=self.PATIENCE)
            except queue.Empty:
                with self.lock:
                    if self.works.empty():  # else a caller counts on this thread, or on another
                        self.waiting -= 1
                        return None


_helpers = _Helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.forget)


def together(work: Work, num_threads: int) -> None:
    """Does it on up to `num_threads` threads, of which the caller's is one; when this ends, no thread is at work."""
    try:
        # in the end a new thread would never say that it has started, and an old one may have died with the lock
        if num_threads > 1 and not sys.is_finalizing():
            _helpers.ask(work, num_threads - 1)
        while work.take():
            pass
    finally:
        work.end()


def for_each(count: int, task: Callable[[int], None], num_threads: int) -> None:
    """Calls task(0), ..., task(count - 1), on up to `num_threads` threads of which the caller's is one.

    An exception in any task, or Ctrl-C in the caller's thread, ends the work after the tasks that have begun, and is
    raised here.

    Parameters
    ----------
    count : int
        How many tasks there are.
    task : callable
        Called with each number, in any order.
    num_threads : int, >= 1
        At most this many threads.

    Examples
    --------
    >>> squares = [0] * 5
    >>> def square(number):
    ...     squares[number] = number * number
    >>> for_each(5, square, num_threads=2)
    >>> squares
    [0, 1, 4, 9, 16]
    """
    tasks = _Tasks(count, task)
    together(tasks, max(min(num_threads, count), 1))
    if tasks.failures:
        raise tasks.failures[0]
