"""Spreads independent pieces of work over threads.

The pieces release the GIL; which thread takes which piece never shows in the values. Threads are started when the first
call needs them and wait a moment for the next call, since starting one takes as long as drawing 10^5 values; then they
end. A forked child starts its own.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from functools import lru_cache

__all__ = ["default_num_threads", "for_each"]


@lru_cache(maxsize=1)
def default_num_threads() -> int:
    """The number of threads that a fill uses unless it is told.

    ``FASTINIT_NUM_THREADS`` if it is set, else the processors that this process may run on, within the CPU quota of its
    control group. It is read once, at the first fill.

    Raises
    ------
    ValueError
        If ``FASTINIT_NUM_THREADS`` is no positive integer.
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


class _Call:
    """The pieces of one call, and who is at work on them."""

    def __init__(self, count: int, task: Callable[[int], None]) -> None:
        self.task = task
        self.remaining = iter(range(count))
        self.lock = threading.Lock()
        self.failures: list[BaseException] = []
        self.helpers = 0
        self.is_over = False
        self.left = threading.Semaphore(0)  # released when the last helper leaves a call that is over

    def work(self) -> None:
        """Takes pieces until there are none, or one has failed."""
        while not self.failures:
            with self.lock:
                number = next(self.remaining, None)
            if number is None:
                return
            self.task(number)

    def help(self) -> None:
        """:meth:`work` in a helper's thread, unless the call is over."""
        with self.lock:
            if self.is_over:
                return
            self.helpers += 1
        try:
            self.work()
        except BaseException as failure:  # raised in the caller's thread
            self.failures.append(failure)
        finally:
            with self.lock:
                self.helpers -= 1
                if self.is_over and not self.helpers:
                    self.left.release()

    def end(self) -> None:
        """Waits until no helper is at work: after that nobody writes any more."""
        with self.lock:
            self.is_over = True
            waits = self.helpers > 0
        while waits:
            try:
                self.left.acquire()
                waits = False
            except BaseException as failure:  # Ctrl-C while the last pieces end
                self.failures.append(failure)


class _Helpers:
    """Threads that help with calls. Which of them does, and whether one comes too late, changes nothing."""

    # Seconds that a thread waits for another call: longer than what lies between the tensors of a model.
    PATIENCE = 0.5

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begins anew: a forked child has none of its parent's threads."""
        self.lock = threading.Lock()
        self.calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self.waiting = 0  # threads that have no call, of those that are promised none

    def ask(self, call: _Call, count: int) -> None:
        """Has so many threads help with a call."""
        with self.lock:
            promised = min(count, self.waiting)
            self.waiting -= promised
            for _ in range(promised):
                self.calls.put(call)
        for _ in range(count - promised):
            try:
                threading.Thread(target=self._serve, args=(call,), name="fastinit", daemon=True).start()
            except RuntimeError:  # no thread to be had: at the interpreter's end, or at a limit
                return

    def _serve(self, call: _Call | None) -> None:
        while call is not None:
            call.help()
            call = None  # and with it goes the memory that it belongs to
            with self.lock:
                self.waiting += 1
            call = self._next()

    def _next(self) -> _Call | None:
        """The call that this thread is to help with, or None after nobody has asked for a while."""
        while True:
            try:
                return self.calls.get(timeout=self.PATIENCE)
            except queue.Empty:
                with self.lock:
                    if self.calls.empty():  # else somebody counts on this thread, or on another
                        self.waiting -= 1
                        return None


_helpers = _Helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.forget)


def for_each(count: int, task: Callable[[int], None], num_threads: int) -> None:
    """Calls task(0), ..., task(count - 1), on up to `num_threads` threads of which the caller's is one.

    An exception in any task, or Ctrl-C in the caller's thread, ends the work after the tasks that have begun, and is
    raised here.
    """
    call = _Call(count, task)
    try:
        _helpers.ask(call, max(min(num_threads, count) - 1, 0))
        call.work()
    except BaseException as failure:
        call.failures.append(failure)
        raise
    finally:
        call.end()
    if call.failures:
        raise call.failures[0]
