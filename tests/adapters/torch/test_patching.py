"""patched(): where fastinit's functions are in force, where torch's are, and that nothing is left behind."""

import functools
import inspect
import math
import pickle
import sys
import types

import numpy as np
import pytest

import fastinit

torch = pytest.importorskip("torch", reason="needs torch")
from torch import nn  # noqa: E402
from torch.nn.init import normal_  # noqa: E402

from fastinit.adapters.torch import init, tensors  # noqa: E402
from fastinit.adapters.torch.patching import patched  # noqa: E402

PUBLIC = [name for name, value in vars(nn.init).items() if inspect.isfunction(value) and name[0] != "_"]
WRITING = [name for name in PUBLIC if name.endswith("_")]
PRIVATE = {
    "_no_grad_uniform_": (init.uniform_, (-2.0, 3.0)),
    "_no_grad_normal_": (init.normal_, (1.0, 2.0)),
    "_no_grad_trunc_normal_": (init.trunc_normal_, (0.0, 1.0, -1.5, 3.0)),
    "_no_grad_fill_": (init.constant_, (0.25,)),
    "_no_grad_zero_": (init.zeros_, ()),
}


def state():
    """Every name of torch.nn.init with all that can change about its value, and where else these values are bound."""
    own = {
        name: (value, value.__code__, value.__defaults__, value.__kwdefaults__, dict(vars(value)))
        if isinstance(value, types.FunctionType)
        else (value,)
        for name, value in vars(nn.init).items()
    }
    functions = {id(value[0]) for value in own.values() if isinstance(value[0], types.FunctionType)}
    bound = {
        (name, attribute): value
        for name, module in list(sys.modules.items())
        if isinstance(module, types.ModuleType)
        for attribute, value in list(vars(module).items())
        if id(value) in functions
    }
    return own, bound


def same(before, after):
    return before.keys() <= after.keys() and all(after[key] is value for key, value in before.items())


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Whatever a test does, torch is as it was after it, and fastinit in force nowhere."""
    own, bound = state()
    yield
    own_after, bound_after = state()
    assert own_after.keys() == own.keys()
    for name, (value, *details) in own.items():
        assert own_after[name][0] is value, name
        assert [*own_after[name][1:]] == details, name
        if details:
            assert own_after[name][1] is details[0], name
    assert same(bound, bound_after)
    assert source() == "torch"


def numbers(fill, seed=5):
    """What `fill` writes into a small tensor, given a generator of this seed."""
    tensor = torch.zeros(40)
    fill(tensor, generator=torch.Generator().manual_seed(seed))
    return tensor.tolist()


ANSWERS = {"torch": numbers(torch.Tensor.normal_), "fastinit": numbers(init.normal_)}


def source(fill=lambda tensor, generator: nn.init.normal_(tensor, generator=generator)):
    """Whose numbers `fill` writes: "torch" or "fastinit"."""
    (name,) = [name for name, answer in ANSWERS.items() if numbers(fill) == answer]
    return name


def test_the_numbers_are_those_of_the_key_that_the_generator_gives():
    assert ANSWERS["torch"] != ANSWERS["fastinit"]
    key = tensors.drawn_key(torch.empty(40), torch.Generator().manual_seed(5))
    assert ANSWERS["fastinit"] == fastinit.fill(np.empty(40, np.float32), fastinit.Normal(0, 1), key).tolist()


def test_manual_seed_and_threads():
    def weight(threads):
        torch.set_num_threads(threads)
        torch.manual_seed(7)
        return nn.Linear(300, 500).weight

    before = torch.get_num_threads()
    try:
        with patched():
            one, two = weight(1), weight(2)
            following = nn.Linear(300, 500).weight
        assert torch.equal(one, two)
        assert not torch.equal(one, following)
    finally:
        torch.set_num_threads(before)
    torch.manual_seed(7)
    key = tensors.drawn_key(one)
    bound = math.sqrt(3.0) * (nn.init.calculate_gain("leaky_relu", math.sqrt(5)) / math.sqrt(300))
    expected = fastinit.fill(np.empty((500, 300), np.float32), fastinit.Uniform(-bound, bound), key)
    assert np.array_equal(one.detach().numpy(), expected)


class Holder:
    fill = staticmethod(nn.init.normal_)


def by_default(tensor, generator, fill=nn.init.normal_):
    return fill(tensor, generator=generator)


def enclosed(fill):
    return lambda tensor, generator: fill(tensor, generator=generator)


@pytest.mark.parametrize(
    "fill",
    {
        "attribute": lambda tensor, generator: torch.nn.init.normal_(tensor, generator=generator),
        "keywords": lambda tensor, generator: nn.init.normal_(generator=generator, std=1, mean=0, tensor=tensor),
        "positions": lambda tensor, generator: normal_(tensor, 0.0, 1.0, generator),
        "partial": functools.partial(nn.init.normal_, std=1.0),
        "default argument": by_default,
        "class attribute": Holder.fill,
        "element": {"table": [nn.init.normal_]}["table"][0],
        "closure": enclosed(nn.init.normal_),
    }.items(),
    ids=lambda case: case[0],
)
def test_wherever_the_function_is_bound(fill):
    _, fill = fill
    assert source(fill) == "torch"
    with patched():
        assert source(fill) == "fastinit"
    assert source(fill) == "torch"


def test_every_function_that_writes_is_exchanged():
    """But those that fastinit has from torch, and those that somebody put there."""
    assert len(WRITING) == 14 and PRIVATE.keys() == {name for name in vars(nn.init) if name.startswith("_no_grad_")}
    differ = {name for name in (*WRITING, *PRIVATE) if getattr(nn.init, name) is not getattr(init, name)}
    assert differ >= {name for name in (*WRITING, *PRIVATE) if "generator" in inspect.getsource(getattr(nn.init, name))}
    codes = {name: value.__code__ for name, value in vars(nn.init).items() if isinstance(value, types.FunctionType)}
    with patched():
        exchanged = {name for name, code in codes.items() if getattr(nn.init, name).__code__ is not code}
        assert exchanged == differ


@pytest.mark.parametrize("name", PRIVATE)
def test_private_functions_that_others_import(name):
    ours, arguments = PRIVATE[name]
    inside, expected = torch.full((50,), 9.0), torch.full((50,), 9.0)
    torch.manual_seed(3)
    with patched():
        assert getattr(nn.init, name)(inside, *arguments) is inside
    torch.manual_seed(3)
    assert torch.equal(inside, ours(expected, *arguments))


@pytest.mark.parametrize("name", [name for name in PUBLIC if name + "_" in PUBLIC])
def test_deprecated_aliases(name):
    arguments = {"constant": (0.5,), "sparse": (0.25,)}.get(name, ())
    inside, expected = (torch.full((6, 6, 3) if name == "dirac" else (6, 6), 9.0) for _ in range(2))
    torch.manual_seed(3)
    with patched(), pytest.warns(FutureWarning, match=f"`nn.init.{name}` is now deprecated") as warned:
        getattr(nn.init, name)(inside, *arguments)
    assert warned[0].filename == __file__
    torch.manual_seed(3)
    assert torch.equal(inside, getattr(init, name + "_")(expected, *arguments))


def test_a_module_imported_inside():
    module = types.ModuleType("imported_inside")
    with patched():
        exec("from torch.nn.init import *\nfill = normal_", vars(module))
        assert source(module.fill) == "fastinit"
    assert source(module.fill) == "torch"
    assert module.fill is nn.init.normal_


def test_what_somebody_else_put_there_stays(monkeypatch):
    monkeypatch.setattr(nn.init, "kaiming_uniform_", lambda tensor, **_: tensor.detach().fill_(2.5))
    monkeypatch.setattr(nn.init, "orthogonal_", nn.init.normal_)
    with patched():
        layer = nn.Linear(4, 4)
        assert source() == source(nn.init.orthogonal_) == "fastinit"
    assert layer.weight.eq(2.5).all()
    assert source(nn.init.orthogonal_) == "torch"


def test_functions_look_and_raise_as_before():
    signatures = {name: inspect.signature(getattr(nn.init, name)) for name in WRITING}
    sources = {name: inspect.getsource(getattr(nn.init, name)) for name in WRITING}
    with patched():
        assert signatures == {name: inspect.signature(getattr(nn.init, name)) for name in WRITING}
        assert sources == {name: inspect.getsource(getattr(nn.init, name)) for name in WRITING}
        assert pickle.loads(pickle.dumps(nn.init.normal_)) is normal_
        with pytest.raises(ValueError, match="fewer than 2 dimensions"):
            nn.init.xavier_uniform_(torch.empty(3))
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'val'"):
            nn.init.constant_(torch.empty(3))
        with pytest.raises(TypeError, match="unexpected keyword argument 'key'"):
            nn.init.normal_(torch.empty(3), key=3)


class Seen(torch.Tensor):
    """A tensor that notes which functions it was given to, as those do that replace some by their own."""

    functions: list

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.functions.append(function)
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.filterwarnings("ignore::UserWarning")  # that torch's functions fill these tensors
@pytest.mark.parametrize("name", ["uniform_", "xavier_uniform_", "kaiming_uniform_", "trunc_normal_", "orthogonal_"])
def test_what_fastinit_leaves_to_torch_does_not_come_back(name):
    """torch's functions call each other by names that are exchanged, too."""
    Seen.functions = []
    subclassed, numbers = torch.full((5, 6), 9.0).as_subclass(Seen), torch.zeros(5, 6, dtype=torch.complex64)
    with patched():
        getattr(nn.init, name)(subclassed)
        if name == "xavier_uniform_":  # the others refuse complex numbers
            getattr(nn.init, name)(numbers)
            assert source() == "fastinit"
    assert subclassed.as_subclass(torch.Tensor).abs().max() < 4.5
    if name in ("uniform_", "kaiming_uniform_"):
        assert getattr(nn.init, name) in Seen.functions  # itself, under which others keep their own


def test_compiled_code_keeps_torchs_functions():
    def fill(tensor):
        return nn.init.normal_(tensor) + 1

    tensor = torch.zeros(40)
    with patched():
        torch.manual_seed(5)
        compiled = torch.compile(fill, backend="eager", fullgraph=True)(tensor)
    torch.manual_seed(5)
    assert torch.equal(compiled, torch.zeros(40).normal_() + 1)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_scripted_code_keeps_torchs_functions():
    def fill(tensor):
        return torch.nn.init.xavier_normal_(tensor)

    with patched():
        scripted = torch.jit.script(fill)
        assert "nn.init.xavier_normal_" in scripted.code
        torch.manual_seed(5)
        filled = scripted(torch.zeros(3, 4))
    torch.manual_seed(5)
    assert torch.equal(filled, nn.init.xavier_normal_(torch.zeros(3, 4)))
