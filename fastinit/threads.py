"""Spreads independent pieces of work over threads that live for one call.

There is no pool, so there is nothing to fork, to lock or to shut down. The pieces release the GIL; which thread takes
which piece never shows in the values.
"""

from __future__ import annotations

import os
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


def for_each(count: int, task: Callable[[int], None], num_threads: int) -> None:
    """Calls task(0), ..., task(count - 1), on up to `num_threads` threads of which the caller's is one.

    An exception in any task, or Ctrl-C in the caller's thread, ends the work after the tasks that have begun, and is
    raised here.
    """
    lock = threading.Lock()
    remaining = iter(range(count))
    failures: list[BaseException] = []

    def work() -> None:
        while not failures:
            with lock:
                number = next(remaining, None)
            if number is None:
                return
            task(number)

    def worker() -> None:
        try:
            work()
        except BaseException as failure:  # raised in the caller's thread below
            failures.append(failure)

    workers = [
        threading.Thread(target=worker, name="fastinit", daemon=True) for _ in range(min(num_threads, count) - 1)
    ]
    started: list[threading.Thread] = []
    try:
        for thread in workers:
            thread.start()
            started.append(thread)
        work()
    except BaseException as failure:
        failures.append(failure)
        raise
    finally:
        for thread in started:
            thread.join()
    if failures:
        raise failures[0]
