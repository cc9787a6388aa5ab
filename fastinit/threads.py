"""Distributes independent pieces of work over threads.

The pieces release the GIL. The assignment of pieces to threads does not affect the values. The core distributes the
pieces of a fill (``kernels/pieces.c``); other pieces are calls of a Python function. Threads start when the first call
needs them. They wait briefly for the next call, since starting a thread takes as long as drawing 10^5 values, and then
end. A forked child starts its own threads. At interpreter shutdown other threads cannot run, so the calling thread does
all the work.
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
    """The default number of threads of a fill.

    It is ``FASTINIT_NUM_THREADS`` if set, otherwise the number of processors available to this process, limited by the
    CPU quota of its control group. It is determined once, at the first fill.

    Raises
    ------
    ValueError
        If ``FASTINIT_NUM_THREADS`` is not a positive integer.

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
    """CPU quota of the control group (version 2, then version 1); infinity without a limit."""
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
    """Work that several threads can share."""

    def take(self) -> bool:
        """Does a part of the work, in any thread. Returns whether there may be more. Only Ctrl-C ends it early."""

    def end(self) -> None:
        """Prevents new parts from starting. When it returns, no thread is at work."""


class _Tasks:
    """Calls of task(0), ..., task(count - 1)."""

    def __init__(self, count: int, task: Callable[[int], None]) -> None:
        self.task = task
        self.remaining = iter(range(count))
        self.lock = threading.Lock()
        self.failures: list[BaseException] = []
        self.at_work: set[int] = set()  # thread identifiers
        self.is_over = False
        self.left = threading.Semaphore(0)  # released when the last running task finishes

    def take(self) -> bool:
        this = threading.get_ident()
        try:
            with self.lock:
                number = None if self.is_over or self.failures else next(self.remaining, None)
                if number is None:
                    return False
                self.at_work.add(this)
            self.task(number)
        except BaseException as failure:  # raised later in the caller's thread
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
            self.at_work.discard(threading.get_ident())  # Ctrl-C may have interrupted take() anywhere
            waits = bool(self.at_work)
        while waits:
            try:
                self.left.acquire()
                waits = False
            except BaseException as failure:  # Ctrl-C while the last tasks finish
                self.failures.append(failure)


class _Helpers:
    """Helper threads. The results do not depend on which helper works, or on whether one comes too late."""

    # Seconds that an idle thread waits for work: longer than the time between two tensors of a model.
    PATIENCE = 0.5

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Resets the state: a forked child has none of its parent's threads."""
        # reentrant: a signal handler or a __del__ run by the garbage collector may fill too
        self.lock = threading.RLock()
        self.works: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self.waiting = 0  # idle threads not yet reserved for queued work

    def ask(self, work: Work, count: int) -> None:
        """Asks `count` threads to help with the work."""
        with self.lock:
            promised = min(count, self.waiting)
            self.waiting -= promised
            for _ in range(promised):
                self.works.put(work)
        for _ in range(count - promised):
            try:
                threading.Thread(target=self._serve, args=(work,), name="fastinit", daemon=True).start()
            except RuntimeError:  # the system cannot start a thread
                return

    def _serve(self, work: Work | None) -> None:
        while work is not None:
            while work.take():
                pass
            work = None  # drop the reference, which keeps the tensor's memory alive
            with self.lock:
                self.waiting += 1
            work = self._next()

    def _next(self) -> Work | None:
        """The next work for this thread; None after PATIENCE seconds without requests."""
        while True:
            try:
                return self.works.get(timeout=self.PATIENCE)
            except queue.Empty:
                with self.lock:
                    if self.works.empty():  # otherwise the queued work needs a waiting thread
                        self.waiting -= 1
                        return None


_helpers = _Helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.forget)


def together(work: Work, num_threads: int) -> None:
    """Does the work on up to `num_threads` threads, including the caller's. No thread is at work afterwards."""
    try:
        # at shutdown a new thread never starts, and an old one may have died holding the lock
        if num_threads > 1 and not sys.is_finalizing():
            _helpers.ask(work, num_threads - 1)
        while work.take():
            pass
    finally:
        work.end()


def for_each(count: int, task: Callable[[int], None], num_threads: int) -> None:
    """Calls task(0), ..., task(count - 1), on up to `num_threads` threads including the caller's.

    After an exception in a task, or Ctrl-C in the caller's thread, running tasks finish, no further ones start, and the
    exception is raised here.

    Parameters
    ----------
    count : int
        Number of tasks.
    task : callable
        Function of the task's number. Called in any order.
    num_threads : int, >= 1
        Maximum number of threads.

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
