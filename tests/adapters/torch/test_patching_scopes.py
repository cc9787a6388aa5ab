"""patched(): when it is in force: nested, overlapping, in threads, tasks and generators, and as a decorator."""

import asyncio
import contextlib
import copy
import functools
import gc
import inspect
import pickle
import random
import sys
import threading

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
from torch import nn  # noqa: E402

from fastinit.adapters.torch import init  # noqa: E402
from fastinit.adapters.torch.patching import patched  # noqa: E402


def numbers(fill):
    tensor = torch.zeros(40)
    fill(tensor, generator=torch.Generator().manual_seed(5))
    return tensor.tolist()


ANSWERS = {"torch": numbers(torch.Tensor.normal_), "fastinit": numbers(init.normal_)}


def source():
    """Whose numbers torch.nn.init gives here and now: "torch" or "fastinit"."""
    (name,) = [name for name, answer in ANSWERS.items() if numbers(nn.init.normal_) == answer]
    return name


@pytest.fixture(autouse=True)
def nothing_is_left():
    codes = {name: value.__code__ for name, value in vars(nn.init).items() if inspect.isfunction(value)}
    yield
    assert all(getattr(nn.init, name).__code__ is code for name, code in codes.items())
    assert source() == "torch"


def test_nested_and_one_object_again():
    one = patched()
    assert source() == "torch"
    for _ in range(2):
        with one:
            assert source() == "fastinit"
            with one, patched(), one:
                assert source() == "fastinit"
            assert source() == "fastinit"
        assert source() == "torch"
    with pytest.raises(RuntimeError, match="left as often as it was entered"):
        one.__exit__(None, None, None)


def by_pickle(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, by_pickle])
def test_copies_have_entries_of_their_own(copied):
    one = patched()
    one.__enter__()
    other = copied(one)
    with pytest.raises(RuntimeError, match="left as often as it was entered"):
        other.__exit__(None, None, None)
    with other:
        assert source() == "fastinit"
    assert source() == "fastinit"
    one.__exit__(None, None, None)


def test_entries_that_end_in_any_order():
    for order in ([0, 1, 2], [2, 0, 1], [1, 0, 2]):
        contexts = [patched() for _ in order]
        for context in contexts:
            context.__enter__()
        for number in order:
            assert source() == "fastinit"
            contexts[number].__exit__(None, None, None)
        assert source() == "torch"


def test_exceptions_pass():
    with pytest.raises(ZeroDivisionError), patched():
        assert source() == "fastinit"
        raise ZeroDivisionError
    assert source() == "torch"

    @patched
    def fails():
        nn.init.dirac_(torch.empty(3))

    with pytest.raises(ValueError, match="3, 4, or 5 dimensions"):
        fails()


# -- threads and tasks --


def in_threads(*bodies):
    """Runs each body in a thread of its own; the first exception is raised here."""
    errors = []

    def run(body):
        try:
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


@pytest.mark.parametrize("shared", [False, True])
def test_threads_that_overlap_and_leave_in_the_order_of_entry(shared):
    step = threading.Barrier(3, timeout=20)
    common = patched()

    def body(enters_at, leaves_at):
        context = common if shared else patched()
        for now in range(6):
            step.wait()
            if now == enters_at:
                context.__enter__()
            if now == leaves_at:
                context.__exit__(None, None, None)
            step.wait()
            assert source() == ("fastinit" if enters_at <= now < leaves_at else "torch")

    in_threads(lambda: body(0, 3), lambda: body(1, 4), lambda: body(2, 5))


def test_many_threads_at_random():
    def body(seed):
        chance = random.Random(seed)
        for _ in range(150):
            with contextlib.ExitStack() as stack:
                for _ in range(chance.randrange(3)):
                    assert source() in ("torch", "fastinit")
                    stack.enter_context(patched())
                    assert source() == "fastinit"
            assert source() == "torch"

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        in_threads(*(functools.partial(body, seed) for seed in range(6)))
    finally:
        sys.setswitchinterval(before)


def test_tasks_of_one_thread():
    async def builder(entered, checked):
        with patched():
            entered.set()
            await checked.wait()
            assert source() == "fastinit"

    async def bystander(entered, checked):
        await entered.wait()
        assert source() == "torch"
        checked.set()

    async def outlives(left):
        assert source() == "fastinit"
        await left.wait()
        return source()

    async def main():
        entered, checked, left = asyncio.Event(), asyncio.Event(), asyncio.Event()
        await asyncio.gather(builder(entered, checked), bystander(entered, checked))
        with patched():
            task = asyncio.create_task(outlives(left))
            await asyncio.sleep(0)
        left.set()
        assert await task == "torch"

    asyncio.run(main())


def test_fork_while_another_thread_enters_and_leaves(run_python):
    program = """
import os, threading, torch
from fastinit.adapters.torch.patching import patched
own = torch.nn.init.uniform_.__code__
stop = threading.Event()
def churn():
    while not stop.is_set():
        with patched():
            pass
thread = threading.Thread(target=churn)
thread.start()
for _ in range(15):
    child = os.fork()
    if child == 0:
        with patched():
            torch.nn.init.uniform_(torch.empty(4))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
assert torch.nn.init.uniform_.__code__ is own
"""
    result = run_python(program)
    assert result.returncode == 0, result.stderr


# -- decorators and generators --


def test_decorated_functions():
    @patched
    def bare(number, *, power=1):
        """The docstring."""
        return source(), number**power

    @patched()
    def called():
        return source(), bare(2)

    assert bare(3, power=2) == ("fastinit", 9) and bare.__doc__ == "The docstring." and bare.__name__ == "bare"
    assert called() == ("fastinit", ("fastinit", 2))
    assert inspect.signature(bare) == inspect.signature(bare.__wrapped__)
    assert source() == "torch"


def test_decorated_methods_and_recursion():
    class Net(nn.Module):
        @patched()
        def __init__(self, depth):
            super().__init__()
            self.source = source()
            self.inner = Net(depth - 1) if depth else None

    assert [module.source for module in Net(3).modules()] == ["fastinit"] * 4


def test_decorated_coroutines():
    @patched
    async def build():
        await asyncio.sleep(0)
        return source()

    assert inspect.iscoroutinefunction(build)
    assert asyncio.run(build()) == "fastinit"


def test_decorated_generators_leave_their_caller_alone():
    @patched
    def steps(first):
        given = yield first, source()
        try:
            yield given, source()
        except KeyError as error:
            yield error.args, source()
        return source()

    def drive():
        return (yield from steps(1))

    generator = drive()
    assert next(generator) == (1, "fastinit") and source() == "torch"
    assert generator.send(2) == (2, "fastinit") and source() == "torch"
    assert generator.throw(KeyError("k")) == (("k",), "fastinit") and source() == "torch"
    with pytest.raises(StopIteration) as end:
        next(generator)
    assert end.value.value == "fastinit"
    assert inspect.isgeneratorfunction(steps)


def test_decorated_generators_are_closed():
    seen = []

    @patched
    def steps():
        try:
            yield
        finally:
            seen.append(source())

    generator = steps()
    next(generator)
    generator.close()
    assert seen == ["fastinit"]


def test_generators_that_hold_it_across_their_steps():
    def holds():
        with patched():
            yield source()

    first, second = holds(), holds()
    assert next(first) == next(second) == "fastinit"
    first.close()
    assert source() == "fastinit"
    del second
    gc.collect()
    assert source() == "torch"

    abandoned = holds()
    in_threads(lambda: next(abandoned))
    assert source() == "torch"
    abandoned.close()  # in another context than that it was started in


def test_what_cannot_be_decorated():
    async def stream():
        yield 1

    with pytest.raises(TypeError, match=r"got the class Linear; decorate its __init__"):
        patched(nn.Linear)
    with pytest.raises(TypeError, match="decorates functions, got int"):
        patched(5)
    with pytest.raises(TypeError, match=r"cannot decorate an async generator, got <function .*stream"):
        patched()(stream)
