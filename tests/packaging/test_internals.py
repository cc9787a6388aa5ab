"""Each adapter's uses of its framework's internals stand in one file, so that a new release is read in one place.

A use is an attribute or a name in a string that begins with an underscore, of anything but the object itself; an
attribute that leads to what was not exported, such as ``__bases__``; and a module that the framework keeps to itself,
imported or reached by its dotted name.
"""

import ast
from pathlib import Path

import pytest

ADAPTERS = Path(__file__).parents[2] / "adapters"

# Where internals may be used, and which modules of the framework are internal, though their names do not say so.
ALLOWED = {
    "jax": "internals.py",
    "keras": "internals.py",
    "numba": "internals.py",
    "torch": "internals.py",
}
INTERNAL = {
    "jax": ("jax.core", "jax.interpreters", "jax.extend", "jaxlib"),
    "keras": ("keras.src", "jax.core", "tensorflow.python"),
    "numba": ("numba.core", "numba.np", "numba.typed", "numba.cuda.simulator", "numba.cuda.cudadrv", "numba.config"),
    "torch": ("torch._C", "torch._dynamo", "torch._subclasses", "torch.utils._device"),
}
# Exchanges the code of torch's functions, which is all that it does.
EXCHANGES = {"torch/patching.py"}
NAMED_TUPLE = {"_replace", "_asdict", "_fields", "_make"}  # which are public
REACHING = {"__bases__", "__subclasses__", "__globals__", "__closure__", "__wrapped__", "__code__", "__cuda_ndarray__"}
BY_NAME = {"getattr", "hasattr", "setattr", "delattr"}


def is_private(name):
    if name in REACHING or name in NAMED_TUPLE:
        return name in REACHING
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def dotted(node):
    """The name that a chain of attributes spells; None where it begins with anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return None if owner is None else f"{owner}.{node.attr}"
    return None


def is_own(node):
    """Whether it is the object of a method, its class, or what ``super()`` makes of it."""
    if isinstance(node, ast.Call):
        node = node.func
        return isinstance(node, ast.Name) and node.id == "super"
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def imported(node):
    """The dotted names that an import binds, and for ``from a import b`` both a.b and its parts."""
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom) and not node.level:
        return {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return {}


def is_within(name, modules):
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def internals(source, modules):
    """The line and the name of every use of internals in a program."""
    tree = ast.parse(source)
    full = {}  # what the names of this file stand for
    for node in ast.walk(tree):
        full |= imported(node)
    for node in ast.walk(tree):
        for name in {alias.name for alias in node.names} if isinstance(node, ast.Import) else imported(node).values():
            outside = not is_within(name, ("fastinit", "__future__"))
            if outside and (any(map(is_private, name.split("."))) or is_within(name, modules)):
                yield node.lineno, name
        if isinstance(node, ast.Attribute):
            if is_private(node.attr) and not is_own(node.value):
                yield node.lineno, f"{ast.unparse(node.value)}.{node.attr}"
            chain = dotted(node)
            if chain is not None:
                first, _, rest = chain.partition(".")
                if f"{full.get(first, first)}.{rest}" in modules:
                    yield node.lineno, chain
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BY_NAME:
            owner, name = (*node.args, None)[:2]
            if isinstance(name, ast.Constant) and is_private(str(name.value)) and not is_own(owner):
                yield node.lineno, f"{ast.unparse(owner)}, {name.value!r}"


def files(adapter):
    return sorted((ADAPTERS / adapter).glob("*.py"))


@pytest.mark.parametrize("adapter", ALLOWED)
def test_internals_are_used_in_one_file_only(adapter):
    uses = [
        f"{path.relative_to(ADAPTERS)}:{line}: {name}"
        for path in files(adapter)
        if path.name != ALLOWED[adapter] and path.relative_to(ADAPTERS).as_posix() not in EXCHANGES
        for line, name in internals(path.read_text(), INTERNAL[adapter])
    ]
    assert files(adapter)
    assert not uses, "\n".join(uses)


@pytest.mark.parametrize("adapter", ALLOWED)
def test_what_the_file_of_internals_offers_says_what_it_is(adapter):
    path = ADAPTERS / adapter / ALLOWED[adapter]
    assert list(internals(path.read_text(), INTERNAL[adapter]))
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            assert ast.get_docstring(node), node.name


def test_the_check_can_fail():
    modules = INTERNAL["numba"]
    for line in [
        "layer._flatten_layers()",
        "self.layer._flatten_layers()",
        "of(self)._inner",
        "getattr(variable, '_layout', None)",
        "hasattr(out, '__cuda_ndarray__')",
        "keras.initializers.RandomNormal.__bases__[0]",
        "import numba.core",
        "from numba import core",
        "from numba.core import types",
        "def late():\n    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray",
        "import numba\nnumba.core.types",
        "import numba as other\nother.core.types",
        "from numba import cuda\ncuda.simulator.api",
        "from numba import config",
        "import jax._src.core",
        "from jax import _src",
    ]:
        assert list(internals(line, modules)), line
    for line in [
        "self._inner()",
        "part._replace(address=0)",
        "cls._of(raw)",
        "super()._in_other_dtype(shape)",
        "value.__name__",
        "type(layer).__mro__",
        "out.__cuda_array_interface__",
        "getattr(function, '__name__', '')",
        "getattr(self, '_kept')",
        "from numba import cuda, njit\ncuda.jit(_own)",
        "from numba.extending import register_jitable",
        "from fastinit.adapters.numba.internals import core",
    ]:
        assert not list(internals(line, modules)), line
