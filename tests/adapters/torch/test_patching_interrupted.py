"""patched(): exceptions from outside between any two of its steps leave nothing behind."""

import asyncio
import contextlib
import ctypes
import gc
import inspect
import itertools
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
from torch import nn  # noqa: E402

from fastinit.adapters.torch import init, patching  # noqa: E402
from fastinit.adapters.torch.patching import patched  # noqa: E402


class Interrupted(BaseException):
    """An exception from outside."""


def numbers(fill):
    tensor = torch.zeros(8)
    fill(tensor, generator=torch.Generator().manual_seed(5))
    return tensor.tolist()


ANSWERS = {"torch": numbers(torch.Tensor.normal_), "fastinit": numbers(init.normal_)}
CODES = {name: value.__code__ for name, value in vars(nn.init).items() if inspect.isfunction(value)}


def source():
    """Whose numbers torch.nn.init gives here and now: "torch" or "fastinit"."""
    (name,) = [name for name, answer in ANSWERS.items() if numbers(nn.init.normal_) == answer]
    return name


def is_torchs():
    return all(getattr(nn.init, name).__code__ is code for name, code in CODES.items())


def check_entering():
    with patched():
        assert source() == "fastinit"
        nn.Linear(2, 2)
    assert source() == "torch"


@pytest.fixture(scope="module")
def another_thread():
    with ThreadPoolExecutor(1) as pool:
        yield lambda function: pool.submit(function).result(20)


@pytest.fixture(autouse=True)
def gradients():
    """torch.no_grad() itself stays in force where it is interrupted."""
    yield
    torch.set_grad_enabled(True)


def check(another_thread):
    """Nothing is in force, nothing is locked, and entering works here and in another thread."""
    assert source() == "torch"  # a stand-in that was left over puts torch's code back when it is called
    assert is_torchs()
    check_entering()
    another_thread(check_entering)
    assert is_torchs()


# What is interrupted. All fill something, since a call has its own steps.

KEPT = patched()  # lives as long as this module


def fill():
    nn.init.zeros_(nn.init.uniform_(torch.empty(2)))


def once():
    with patched():
        fill()


def in_a_body_that_raises():
    with contextlib.suppress(KeyError), patched():
        raise KeyError


def nested():
    with patched():
        with patched():
            fill()
        fill()


def one_object_again():
    with KEPT, KEPT:
        fill()
    with KEPT:
        fill()


@patched
def decorated():
    fill()


@patched
def steps():
    try:
        fill()
        yield
        yield
    finally:
        fill()


def decorated_generator():
    generator = steps()
    next(generator)
    generator.send(None)
    generator.close()
    list(steps())


def held_by_a_generator():
    def holds():
        with patched():
            yield fill()

    list(holds())
    generator = holds()
    next(generator)
    del generator


@patched
async def waits():
    fill()
    with patched():
        await asyncio.sleep(0)
        fill()


def coroutine():
    driven = waits()
    with contextlib.suppress(StopIteration):
        while True:
            driven.send(None)


def stack():
    with contextlib.ExitStack() as entered:
        entered.enter_context(patched())
        entered.enter_context(patched())
        fill()


def by_hand():
    context = patched()
    context.__enter__()
    context.__enter__()
    fill()
    context.__exit__(None, None, None)
    context.__exit__(None, None, None)


STATEMENTS = [once, in_a_body_that_raises, nested, one_object_again, decorated, decorated_generator, coroutine]
STATEMENTS += [held_by_a_generator]
OBJECTS = [stack, by_hand]  # that end when the object does, which a traceback holds


def interrupted_at(number, scenario):
    """Raises at the bytecode of patching.py, or of a stand-in, that is executed as the `number`-th; None if none is."""
    count = itertools.count()

    def trace(frame, event, _):
        code = frame.f_code
        if code.co_filename != patching.__file__ and patching.__name__ not in code.co_names:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode" and next(count) == number:
            raise Interrupted
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        scenario()
    except Interrupted as error:
        return error
    finally:
        sys.settrace(before)
    return None


def interrupt_at_every(stride, scenario, another_thread):
    """How many bytecodes the scenario has, of which every `stride`-th raised."""
    for number in itertools.count(step=stride):
        error = interrupted_at(number, scenario)
        reached = error is not None
        if scenario in OBJECTS:
            error = None
            gc.collect(0)  # contextlib.ExitStack leaves a circle
        check(another_thread)
        if not reached:
            return number


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a generator that is closed
@pytest.mark.parametrize("scenario", STATEMENTS + OBJECTS, ids=lambda scenario: scenario.__name__)
def test_an_exception_at_any_bytecode(scenario, another_thread):
    stride = 1 if scenario in (once, in_a_body_that_raises, held_by_a_generator) else 7
    assert interrupt_at_every(stride, scenario, another_thread) > 200


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("scenario", STATEMENTS + OBJECTS, ids=lambda scenario: scenario.__name__)
def test_an_exception_at_every_bytecode(scenario, another_thread):
    assert interrupt_at_every(1, scenario, another_thread) > 200


# Exceptions that come when they come


SEEN = [scenario for scenario in STATEMENTS if scenario is not held_by_a_generator]  # Python ignores one in a __del__


def forever(scenarios):
    for scenario in itertools.cycle(scenarios):
        scenario()


def alarms(count, another_thread, seed):
    """Interrupts by a signal's handler, as Ctrl-C does."""
    chance = random.Random(seed)

    def handler(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(count):
            scenarios = chance.sample(SEEN, len(SEEN))
            with pytest.raises(Interrupted):
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 2e-3), 10)
                forever(scenarios)
            signal.setitimer(signal.ITIMER_REAL, 0)
            check(another_thread)
    finally:
        signal.signal(signal.SIGALRM, before)


def from_another_thread(count, seed):
    """Interrupts a thread, in which patched() is entered and left, from this one; each time it must be well after."""
    chance = random.Random(seed)
    ready, outcomes = threading.Semaphore(0), []

    def work():
        for _ in range(count):
            try:
                ready.release()
                forever(SEEN)
            except Interrupted:
                pass
            try:
                assert source() == "torch"
                check_entering()
            except AssertionError as error:
                outcomes.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(count):
        assert ready.acquire(timeout=60)
        time.sleep(chance.uniform(1e-5, 1e-3))
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Interrupted))
        check_entering()
    thread.join(60)
    assert not thread.is_alive() and not outcomes
    assert is_torchs()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signal.setitimer")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_alarms(another_thread):
    alarms(500, another_thread, seed=1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_exceptions_that_another_thread_sends():
    from_another_thread(300, seed=2)


@pytest.mark.long
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signal.setitimer")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_many_alarms(another_thread):
    alarms(20_000, another_thread, seed=3)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_many_exceptions_that_another_thread_sends():
    from_another_thread(20_000, seed=4)
