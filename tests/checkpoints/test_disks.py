"""Writing past the page cache: the same bytes as through it, whatever the parts, and where the disk refuses it."""

import errno
import itertools
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fastinit.checkpoints import disks
from fastinit.checkpoints.disks import SLACK, DirectFile, memory_for

pytestmark = pytest.mark.skipif(not hasattr(os, "pwrite"), reason="needs POSIX")
SIZE = 3_000_017


def contents():
    return np.random.default_rng(5).integers(0, 256, SIZE, np.uint8)


def parts(rng):
    """The file's bytes cut at random places, many of them no multiple of a block."""
    cuts = np.sort(rng.choice(SIZE, 40, replace=False))
    cuts[::4] -= cuts[::4] % 4096
    places = [0, *map(int, cuts), SIZE]
    return list(itertools.pairwise(places))


@pytest.fixture
def path(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    return str(tmp_path / "file")


@pytest.fixture(params=["directly", "cached", "refused"])
def way(request, monkeypatch):
    """Direct writes, a system without them, and a disk whose blocks are larger than ours."""
    monkeypatch.setattr(disks, "_LEAST", 4096)
    if request.param == "cached":
        monkeypatch.delattr(os, "O_DIRECT", raising=False)
    elif request.param == "refused":
        fcntl = pytest.importorskip("fcntl")
        if not hasattr(os, "O_DIRECT"):
            pytest.skip("needs direct writes")
        pwrite = os.pwrite

        def refusing(descriptor, data, offset):
            if not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
                return pwrite(descriptor, data[: 2**15], offset)
            if len(data) >= 2**16:
                raise OSError(errno.EINVAL, "Invalid argument")
            return pwrite(descriptor, data, offset)

        monkeypatch.setattr(os, "pwrite", refusing)
    return request.param


@pytest.mark.usefixtures("way")
def test_parts_in_any_order_by_several_threads(path):
    data, rng = contents(), np.random.default_rng(8)
    for _ in range(5):
        order = parts(rng)
        rng.shuffle(order)
        with open(path, "rb+") as file, DirectFile(path, file.fileno()) as out:
            file.truncate(0)

            def write(part, out=out):
                memory = memory_for(part[1] - part[0], part[0])
                memory[:] = data[part[0] : part[1]]
                out.write(memory, part[0])

            with ThreadPoolExecutor(4) as pool:
                list(pool.map(write, order))
        assert np.array_equal(np.fromfile(path, np.uint8), data)


def test_other_memory_is_written_as_well(path):
    data = contents()
    with open(path, "rb+") as file, DirectFile(path, file.fileno()) as out:
        out.write(data[1:], 1)
        out.write(data[:1].tobytes(), 0)
        out.write(b"", 100)
    assert np.array_equal(np.fromfile(path, np.uint8), data)


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="needs direct writes")
def test_whole_blocks_go_directly(path, monkeypatch):
    written, pwrite = {}, os.pwrite

    def counting(descriptor, data, offset):
        written.setdefault(descriptor, []).append((offset, len(data)))
        return pwrite(descriptor, data, offset)

    with open(path, "rb+") as file, DirectFile(path, file.fileno()) as out:
        monkeypatch.setattr(os, "pwrite", counting)
        out.write(memory_for(2**20 + 10_000, 100), 100)
        out.write(memory_for(1000, 2**21), 2**21)
        cached = written.pop(file.fileno())
        ((direct,),) = written.values()
    assert direct == (4096, 2**20 + 4096)
    assert cached == [(100, 3996), (2**20 + 8192, 1908), (2**21, 1000)]


@pytest.mark.parametrize(("offset", "itemsize"), [(0, 1), (5000, 4), (4095, 1), (6, 4), (2**40 + 8, 8)])
def test_memory_is_aligned_as_the_file_or_as_its_elements(offset, itemsize):
    room = np.empty(100 + SLACK, np.uint8)
    for memory in (memory_for(100, offset, itemsize), memory_for(100, offset, itemsize, room=room)):
        assert memory.size == 100
        assert memory.ctypes.data % 4096 == (0 if offset % itemsize else offset % 4096)
    assert np.shares_memory(memory, room)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a disk that is always full")
def test_a_full_disk_is_an_error():
    full = "/dev/full"
    with (
        open(full, "rb+", buffering=0) as file,
        DirectFile(full, file.fileno()) as out,
        pytest.raises(OSError, match="No space left"),
    ):
        out.write(memory_for(2**21), 0)
