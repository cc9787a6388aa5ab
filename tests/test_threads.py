"""The law of threads: the same bytes for every num_threads; and threads end, fork, fail and stop as they should."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import fastinit
from fastinit import Key, _core, targets
from fastinit.filling import ELEMENTS_PER_THREAD, LARGEST_PIECE
from fastinit.threads import for_each

KEY = Key("threads")
LARGEST = LARGEST_PIECE // 4  # elements of float32
EDGES = [n + d for n in (ELEMENTS_PER_THREAD, 2 * ELEMENTS_PER_THREAD, LARGEST) for d in (-1, 0, 1, 67)]


@pytest.fixture(scope="module")
def whole(filled):
    """The longest of the fills below, in pieces too small for a second thread."""
    drawn = [filled(2**17, fastinit.Normal(), KEY, start=first) for first in range(0, max(EDGES) + 2**17, 2**17)]
    return np.concatenate(drawn)


@pytest.mark.parametrize("size", EDGES)
def test_any_number_of_threads(whole, filled, size):
    for num_threads in (None, 1, 2, 3, 5, 8):
        out = filled(size, fastinit.Normal(), KEY, num_threads=num_threads)
        assert out.tobytes() == whole[:size].tobytes(), num_threads


def test_all_distributions_and_dtypes(distributions, filled, raw, dtype):
    shape = (613, 1103)
    for name, initializer in distributions.items():
        one = raw(filled(shape, initializer, KEY, dtype, num_threads=1))
        for num_threads in (2, 5):
            assert raw(filled(shape, initializer, KEY, dtype, num_threads=num_threads)).tobytes() == one.tobytes(), name


def test_many_pieces(filled):
    size = 10 * LARGEST + 12345
    one = filled(size, fastinit.Uniform(), KEY, "bfloat16", num_threads=1)
    for num_threads in range(2, 9):
        assert filled(size, fastinit.Uniform(), KEY, "bfloat16", num_threads=num_threads).tobytes() == one.tobytes()


def test_words_and_structured(filled):
    size = ELEMENTS_PER_THREAD * 2 + 3
    assert (
        fastinit.words(KEY, 5, size, num_threads=1).tobytes() == fastinit.words(KEY, 5, size, num_threads=4).tobytes()
    )
    for initializer in (fastinit.Orthogonal(), fastinit.Sparse(0.3, 0.1)):
        one = filled((600, 500), initializer, KEY, num_threads=1)
        for num_threads in (2, 3, 8):
            assert filled((600, 500), initializer, KEY, num_threads=num_threads).tobytes() == one.tobytes()


def test_strided_buffers(filled):
    whole = filled((1200, 701), fastinit.Normal(), KEY, num_threads=1)
    for num_threads in (1, 2, 7):
        out = np.zeros((1200, 701), np.float32, order="F")
        fastinit.fill(out, fastinit.Normal(), KEY, num_threads=num_threads)
        assert np.array_equal(out, whole)


def test_small_fills_start_no_thread(monkeypatch, filled):
    def refuse(*_):
        raise AssertionError("a thread was started")

    without_helpers()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    filled(ELEMENTS_PER_THREAD, fastinit.Normal(), KEY, num_threads=8)
    filled(4 * ELEMENTS_PER_THREAD, fastinit.Normal(), KEY, num_threads=1)
    with pytest.raises(AssertionError, match="a thread was started"):
        filled(ELEMENTS_PER_THREAD + 1, fastinit.Normal(), KEY, num_threads=8)


# Pieces of one fill


def shared(out, threads, largest):
    """A fill of consecutive float32 normals that nobody has begun."""
    sampling = fastinit.initializers.plan(fastinit.Normal(), out.shape, "float32")
    region = _core.Region(out.ctypes.data, 0, out.shape, (1,), (4,))
    work = _core.Fill(targets.current_index(), sampling, KEY.words, region)
    work.share(out.size, threads, largest)
    return work


@pytest.mark.parametrize("size", [1, 12287, 12288, 12289, 100_000])
@pytest.mark.parametrize("threads, largest", [(1, 1), (2, 2**20), (64, 20_000)])
def test_pieces_cover_a_fill_and_no_more(filled, size, threads, largest):
    memory = np.full(size + 1, 7, np.float32)
    work = shared(memory[:size], threads, largest)
    while work.take():
        pass
    assert not work.take()
    work.end()
    assert memory[:size].tobytes() == filled(size, fastinit.Normal(), KEY).tobytes()
    assert memory[size] == 7


def test_threads_that_come_and_go(filled):
    """However many take pieces, and whenever: each is taken once, and after the end nobody writes."""
    whole = filled(2**20, fastinit.Normal(), KEY)
    for _ in range(20):
        out = np.zeros(2**20, np.float32)
        work = shared(out, 3, 30_000)

        def come(work=work):
            while work.take():
                pass

        threads = [threading.Thread(target=come) for _ in range(6)]
        for thread in threads:
            thread.start()
        come()
        work.end()
        assert out.tobytes() == whole.tobytes()
        for thread in threads:
            thread.join()


def test_a_fill_that_is_ended_goes_no_further():
    out = np.zeros(2**20, np.float32)
    work = shared(out, 1, 1)
    assert work.take()
    work.end()
    before = out.copy()
    assert not work.take()
    assert out.tobytes() == before.tobytes() and not out[-1]


# for_each


@pytest.mark.parametrize("num_threads", [1, 2, 4, 20])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_every_piece_runs_once(num_threads, count):
    done = []
    for_each(count, done.append, num_threads)
    assert sorted(done) == list(range(count))


def test_threads_work_at_the_same_time():
    barrier = threading.Barrier(3)
    names = set()

    def task(_):
        names.add(threading.current_thread().name)
        barrier.wait(timeout=10)

    for_each(3, task, 3)
    assert threading.current_thread().name in names and "fastinit" in names


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("wrong", [0, 3, 49])
def test_exceptions_are_raised_here(num_threads, wrong):
    done = []

    def task(number):
        if number == wrong:
            raise LookupError(f"piece {number}")
        time.sleep(0.001)
        done.append(number)

    with pytest.raises(LookupError, match=f"piece {wrong}"):
        for_each(50, task, num_threads)
    written = len(done)
    time.sleep(0.01)
    assert len(done) == written  # nobody is at work any more
    assert len(done) < wrong + num_threads + 1  # what had begun was finished, nothing else


def helpers():
    return [thread for thread in threading.enumerate() if thread.name == "fastinit"]


def without_helpers():
    deadline = time.time() + 10
    while helpers() and time.time() < deadline:
        time.sleep(0.02)
    assert not helpers()


def test_threads_wait_for_the_next_call_and_end():
    without_helpers()
    barrier = threading.Barrier(3)
    for_each(3, lambda _: barrier.wait(timeout=10), 3)
    first = helpers()
    assert len(first) == 2
    for _ in range(3):
        time.sleep(0.01)  # for them to be waiting again
        for_each(3, lambda _: barrier.wait(timeout=10), 3)
        assert helpers() == first
    without_helpers()


def test_a_thread_that_cannot_start(monkeypatch):
    """The work is done by those that can."""
    without_helpers()
    real, started = threading.Thread.start, []

    def start(thread):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    done = []
    for_each(10, done.append, 4)
    assert sorted(done) == list(range(10))
    assert len(helpers()) == 1


def test_calls_within_calls_and_beside_each_other():
    """No call waits for a thread that is at work on another."""
    done = []

    def outer(number):
        for_each(5, lambda inner: done.append((number, inner)), 3)

    callers = [threading.Thread(target=for_each, args=(20, outer, 4)) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=30)
        assert not caller.is_alive()
    assert sorted(done) == sorted([(number, inner) for number in range(20) for inner in range(5)] * 8)


def test_nobody_writes_after_a_call():
    """Whatever ends a call, its buffer is the caller's again at once."""
    for _ in range(200):
        at_work = []

        def task(number, at_work=at_work):
            at_work.append(number)
            if number == 1:
                raise LookupError
            at_work.remove(number)

        with pytest.raises(LookupError):
            for_each(8, task, 4)
        assert at_work == [1]


def test_a_call_frees_what_it_wrote_to():
    import weakref

    class Memory:
        pass

    memory = Memory()
    for_each(4, lambda _, memory=memory: time.sleep(0.001), 3)
    reference = weakref.ref(memory)
    del memory
    deadline = time.time() + 5
    while reference() is not None and time.time() < deadline:
        time.sleep(0.01)
    assert reference() is None


# The number of threads


def test_the_environment_variable(run_python):
    program = "import fastinit; print(fastinit.default_num_threads())"
    assert run_python(program, FASTINIT_NUM_THREADS="3").stdout.split() == ["3"]
    for wrong in ("0", "-1", "two", "1.5"):
        failed = run_python(program, FASTINIT_NUM_THREADS=wrong)
        assert f"FASTINIT_NUM_THREADS must be a positive integer, got '{wrong}'" in failed.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no processor affinity")
def test_the_affinity_is_respected(run_python):
    one = min(os.sched_getaffinity(0))
    program = f"import os; os.sched_setaffinity(0, {{{one}}}); import fastinit; print(fastinit.default_num_threads())"
    assert run_python(program).stdout.split() == ["1"]


def test_the_default_is_at_most_the_processors(run_python):
    done = run_python("import fastinit; print(fastinit.default_num_threads())")
    assert 1 <= int(done.stdout) <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    "files, quota",
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, float("inf")),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_the_quota_of_the_control_group(monkeypatch, tmp_path, files, quota):
    from fastinit import threads

    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    redirect = lambda path: open(path.replace("/sys/fs/cgroup", str(tmp_path)))  # noqa: E731, SIM115
    monkeypatch.setattr(threads, "open", redirect, raising=False)
    assert threads._cgroup_quota() == quota


# Processes, signals, other threads


INTERRUPTED = """
import signal, sys, time
import numpy as np, fastinit
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
out = np.empty(3 * 2**30, np.uint8)
options = {"dtype": "float8_e5m2", "target": "generic", "num_threads": int(sys.argv[1])}
fastinit.fill(out[:2**20], fastinit.Normal(), fastinit.Key(0), **options)
print("ready", flush=True)
try:
    fastinit.fill(out, fastinit.Normal(), fastinit.Key(0), **options)
except KeyboardInterrupt:
    print("interrupted", time.time(), bool(out[-1]), flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
@pytest.mark.parametrize("num_threads", [1, 2])
def test_ctrl_c_is_answered(num_threads):
    """3 GiB of normals on the slowest target take seconds; the fill ends within one."""
    program = [sys.executable, "-c", INTERRUPTED, str(num_threads)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(0.4)
        assert process.poll() is None, "the fill was over too soon"
        sent = time.time()
        process.send_signal(signal.SIGINT)
        answer = process.stdout.read().split()
    assert answer[:1] == ["interrupted"], answer
    assert float(answer[1]) - sent < 1.0
    assert answer[2] == "False"  # the end of the buffer was not reached


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_fork_after_a_threaded_fill(run_python):
    program = """
import os, sys, warnings
import numpy as np, fastinit
def filled():
    return fastinit.fill(np.empty(2**20 + 5, np.float32), fastinit.Normal(), fastinit.Key(0), num_threads=4).tobytes()
here = filled()
child = os.fork()  # while helpers wait, which the child has not
if child == 0:
    os._exit(0 if filled() == here and filled() == here else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python(program).returncode == 0


def test_fills_of_many_python_threads(filled):
    """Disjoint parts of one buffer, each by its own thread, and each of these with threads of its own."""
    shape, parts = (16, 2**17), 16
    whole = filled(shape, fastinit.TruncatedNormal(), KEY, num_threads=1)
    out = np.zeros(shape, np.float32)
    failures = []

    def work(part):
        try:
            for _ in range(3):
                fastinit.fill(out[part], fastinit.TruncatedNormal(), KEY, start=part * shape[1])
                half = out[:, part * 8192 : (part + 1) * 8192]
                fastinit.fill(
                    half, fastinit.TruncatedNormal(), KEY, global_shape=shape, offsets=(0, part * 8192), num_threads=2
                )
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert out.tobytes() == whole.tobytes()


def test_the_gil_is_released():
    """Another Python thread keeps counting during one long piece of work."""
    out = np.empty(2**24, np.float64)
    count, running = 0, True

    def fill():
        nonlocal running
        fastinit.fill(out, fastinit.Normal(), KEY, num_threads=1, target="generic")
        running = False

    thread = threading.Thread(target=fill)
    thread.start()
    while running:
        count += 1
        time.sleep(0)
    thread.join()
    assert count > 100


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("initializer", ["Normal()", "Orthogonal()", "Sparse(0.1)", "ZeroRow(fastinit.he_normal(), 1)"])
def test_fills_while_the_interpreter_ends(run_python, initializer, warm):
    """From a __del__ on, when no other thread gets to run: threads that wait, and those that are to be started."""
    program = f"""
import os, sys
import numpy as np, fastinit

class Late:
    def __init__(self):
        self.initializer, self.key = fastinit.{initializer}, fastinit.Key(0)
        self.out = np.empty((1024, 600), np.float32)
        self.expected = fastinit.fill(self.out.copy(), self.initializer, self.key, num_threads=1).tobytes()
        self.fill, self.write, self.finalizing = fastinit.fill, os.write, sys.is_finalizing

    def __del__(self):
        self.fill(self.out, self.initializer, self.key, num_threads=4)
        same = self.out.tobytes() == self.expected
        self.write(1, f"{{self.finalizing()}} {{same}}".encode())

late = Late()
late.circle = late
if {warm}:
    fastinit.fill(late.out.copy(), fastinit.Normal(), late.key, num_threads=4)
"""
    done = run_python(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True True", "")


def test_a_fill_within_the_lock_of_the_threads(filled):
    """A signal handler or a collected object may fill while its thread asks for others."""
    from fastinit.threads import _helpers

    with _helpers.lock:
        out = filled(2**20, fastinit.Normal(), KEY, num_threads=2)
    assert out.tobytes() == filled(2**20, fastinit.Normal(), KEY, num_threads=1).tobytes()
