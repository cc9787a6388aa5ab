"""Extra memory of a fill: the growth of the peak resident size, in a separate process.

``python growth.py THREADS BYTES`` prints one JSON object, bytes by "distribution dtype", for elementwise fills of a
buffer of BYTES bytes whose pages have all been touched before. The kernel counts resident pages per processor and adds
them up in batches, so a figure may be off by about 100 KiB.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np

import fastinit

STORAGE = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float8_e4m3fn": np.uint8,
    "float8_e5m2": np.uint8,
}
DISTRIBUTIONS = {
    "uniform": fastinit.Uniform(-0.1, 0.1),
    "normal": fastinit.Normal(0.0, 0.02),
    "truncated_normal": fastinit.TruncatedNormal(0.0, 0.02),
}


def _status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(field))


def give_back() -> None:
    """Returns freed memory to the operating system, if the C library supports it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def growth(work: Callable[[], object]) -> int:
    """Growth of this process's peak resident size during the work, in bytes.

    The result is at least one page, the unit of counting, so that ratios are defined.

    Raises
    ------
    NotImplementedError
        If /proc is not available.
    """
    try:
        before = _status("VmRSS")
    except OSError:
        raise NotImplementedError("peak memory is read from /proc, which this system lacks") from None
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # reset the peak
    except OSError:
        before = _status("VmHWM")
    work()
    return max(mmap.PAGESIZE, _status("VmHWM") - before)


def of_fills(threads: int, nbytes: int) -> dict[str, int]:
    """Extra bytes of each elementwise fill on `threads` threads, in this process."""
    memory = np.zeros(nbytes, np.uint8)
    memory.fill(1)
    key = fastinit.Key(0)
    found = {}
    for name, initializer in DISTRIBUTIONS.items():
        for dtype, storage in STORAGE.items():
            out = memory.view(storage)
            fastinit.fill(out[:64], initializer, key, dtype=dtype)  # tables and caches, once per process
            found[f"{name} {dtype}"] = growth(
                lambda out=out, initializer=initializer, dtype=dtype: fastinit.fill(
                    out, initializer, key, dtype=dtype, num_threads=threads
                )
            )
    return found


def measured(threads: int, nbytes: int) -> dict[str, int]:
    """The result of :func:`of_fills` in a fresh process, without reusable memory.

    Raises
    ------
    NotImplementedError
        If the process could not measure it.
    """
    command = [sys.executable, __file__, str(threads), str(nbytes)]
    # makes glibc return freed memory at once, so that one fill's freed memory does not hide the next one's need
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    if done.returncode:
        raise NotImplementedError((done.stderr.strip().splitlines() or ["the process that measures failed"])[-1])
    return json.loads(done.stdout)


if __name__ == "__main__":
    print(json.dumps(of_fills(int(sys.argv[1]), int(sys.argv[2]))))
