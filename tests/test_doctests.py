"""The examples in the docstrings of every public module run as they are written."""

import ast
import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
import textwrap
import types
from pathlib import Path

import pytest

import fastinit

ADAPTERS = ["numpy", "torch"] + [
    f"torch.{name}"
    for name in (
        "auditing", "devices", "drawing", "folders", "init", "inputs", "layers", "materializing", "measuring", "models",
        "patching", "schemes", "shards", "tensors", "tiny", "virtual",
    )
]  # fmt: skip
MODULES = [
    "fastinit",
    *(
        found.name
        for found in pkgutil.walk_packages(fastinit.__path__, "fastinit.")
        if not found.name.startswith(("fastinit._", "fastinit.adapters"))
    ),
    *(f"fastinit.adapters.{name}" for name in ADAPTERS),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    if name.startswith("fastinit.adapters.torch"):
        pytest.importorskip("torch", reason="torch is not installed")
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


# These load frameworks that do not go well with processes that fork, so each framework has a process of its own.
OTHERS = {
    "keras": (
        *("keras", "keras.initializers", "keras.auditing", "keras.explaining", "keras.models", "keras.programs"),
        "h5py",
    ),
    "jax": ("jax", "jax.arrays", "jax.checkpoints", "jax.folders", "jax.initializers"),
    "numba": ("numba", "numba.elements", "numba.filling"),
}
PROGRAM = """
import doctest, importlib, sys
sys.path.insert(0, sys.argv[1])
from test_doctests import unexplained
for name in sys.argv[2:]:
    module = importlib.import_module("fastinit.adapters." + name)
    result = doctest.testmod(module)
    if result.failed or not result.attempted:
        sys.exit(f"{name}: {result}")
    if name in ("keras", "keras.initializers", "jax", "numba") and (complaints := list(unexplained(module))):
        sys.exit("\\n".join(complaints))
"""


@pytest.mark.parametrize("framework", OTHERS)
def test_other_adapters(framework, run_python):
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"needs {framework}")
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "jax"}
    done = run_python(PROGRAM, str(Path(__file__).parent), *OTHERS[framework], timeout=240, **environment)
    assert done.returncode == 0, done.stdout + done.stderr


# What help() shows of a public name


def section(text, *titles):
    """Whether a docstring has a section of numpydoc."""
    return any(re.search(rf"^{title}\n-{{{len(title)}}}$", text, re.MULTILINE) for title in titles)


def raised(value):
    """The errors that the code of a function, or of a class where it is made and called, raises itself."""
    parts = [value]
    if isinstance(value, type):
        made = ("__init__", "__new__", "__post_init__", "__call__", "check")
        parts = [vars(value)[name] for name in made if name in vars(value)]
    for part in map(inspect.unwrap, parts):
        try:
            program = ast.parse(textwrap.dedent(inspect.getsource(part)))
        except (OSError, TypeError):  # made by code, as the __init__ of a dataclass is
            continue
        for node in ast.walk(program):
            error = node.exc.func if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) else None
            if isinstance(error, ast.Name) and error.id[0].isupper():
                yield error.id


def unexplained(module):
    """What the docstrings of a module's public names lack: an example, parameters, errors, what is returned."""
    for name in module.__all__:
        value = getattr(module, name)
        # a framework's own names and deprecated aliases are explained by the framework
        if not callable(value) or not str(getattr(value, "__module__", "")).startswith("fastinit"):
            continue
        text = inspect.cleandoc(value.__doc__ or "")
        if ">>> " not in text:
            yield f"{module.__name__}.{name} has no example"
        own = not (isinstance(value, type) and issubclass(value, BaseException))
        for parameter in inspect.signature(value).parameters.values() if own else ():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if not re.search(rf"\b{parameter.name}\b", text):
                yield f"{module.__name__}.{name} says nothing of {parameter.name}"
            elif not section(text, "Parameters", "Attributes"):
                yield f"{module.__name__}.{name} has no section for {parameter.name}"
        for error in sorted(set(raised(value))):
            if error not in text:
                yield f"{module.__name__}.{name} says nothing of {error}"
        # a summary such as "The gain of ..." says what is returned; one that begins with a verb does not
        returns = None if isinstance(value, type) else inspect.signature(value).return_annotation
        verb = re.match(r"[A-Z][a-z]+s\b(?<!Programs)", text)
        silent = not section(text, "Returns", "Yields") and not re.search(r"\breturn(s|ed)\b", text)
        if verb and silent and returns not in (None, "None", inspect.Signature.empty):
            yield f"{module.__name__}.{name} says nothing of what it returns"


@pytest.mark.parametrize(
    "name",
    [*MODULES[:1], "fastinit.extending", "fastinit.checkpoints", *(f"fastinit.adapters.{n}" for n in ADAPTERS[:2])],
)
def test_help_explains_every_public_name(name):
    if name.startswith("fastinit.adapters.torch"):
        pytest.importorskip("torch", reason="torch is not installed")
    complaints = list(unexplained(importlib.import_module(name)))
    assert not complaints, "\n".join(complaints)


def test_help_explains_the_functions_of_torch_init():
    pytest.importorskip("torch", reason="torch is not installed")
    module = importlib.import_module("fastinit.adapters.torch.init")
    assert not list(unexplained(module))


def test_every_example_of_a_public_name_is_run():
    # doctest finds a docstring by the module that defines its object
    for name in ("fastinit", "fastinit.extending", "fastinit.adapters.numpy"):
        module = importlib.import_module(name)
        for public in module.__all__:
            value = getattr(module, public)
            if callable(value) and str(value.__module__).startswith("fastinit"):
                defined = importlib.import_module(value.__module__)
                found = {test.name for test in doctest.DocTestFinder().find(defined) if test.examples}
                assert f"{defined.__name__}.{value.__name__}" in found, public
                assert defined.__name__ in MODULES, public


def test_the_check_of_explanations_can_fail():
    def silent(shape, gain) -> int:
        """Fills a `shape`."""
        raise ValueError(gain)

    silent.__module__ = "fastinit.silent"
    module = types.SimpleNamespace(__name__="fastinit.silent", __all__=["silent"], silent=silent)
    assert list(unexplained(module)) == [
        "fastinit.silent.silent has no example",
        "fastinit.silent.silent has no section for shape",
        "fastinit.silent.silent says nothing of gain",
        "fastinit.silent.silent says nothing of ValueError",
        "fastinit.silent.silent says nothing of what it returns",
    ]


def test_the_modules_were_found():
    assert {"fastinit.keys", "fastinit.layouts", "fastinit.filling", "fastinit.initializers"} <= set(MODULES)


@pytest.mark.parametrize("name", ["fastinit", "fastinit.keys", "fastinit.layouts", "fastinit.filling"])
def test_there_are_examples(name):
    finder = doctest.DocTestFinder()
    assert sum(len(test.examples) for test in finder.find(importlib.import_module(name)))
