"""The arrows: who imports whom. Frameworks stay out, adapters see the public door, and C knows nothing of Python."""

import ast
import re
from pathlib import Path

import pytest

import fastinit

ROOT = Path(__file__).parents[2]
LIBRARY = sorted((ROOT / "fastinit").glob("*.py"))
ADAPTERS = sorted((ROOT / "adapters").rglob("*.py"))
KERNELS = sorted(path for path in (ROOT / "fastinit/kernels").iterdir() if path.suffix in (".c", ".h"))
FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "numba", "scipy", "ml_dtypes", "rich", "matplotlib")

# Each floor imports from floors below it only; what stands side by side does not see each other.
FLOORS = [
    {"_core", "coefficients", "truncation", "dtypes", "fans", "keys", "threads", "activations", "charts"},
    {"buffers", "gains"},
    {"sampling", "targets", "shards"},
    {"initializers"},
    {"filling"},
    {"presets", "orthogonal", "composites", "rules"},
    {"structured"},
    {"records", "advice"},
    {"recipes"},
    {"models", "propagation", "scales"},
    {"pages", "values"},
    {"pictures", "audits"},
    {"__init__"},
    {"cli"},
]
# The executable specification: it reads the coefficients, and nobody reads it.
SPECIFICATION = {"reference", "reference_orthogonal"}


def imports(source):
    """The modules that a program imports, at any place of it; ``from a import b`` counts as a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
    return found


def room(name):
    """The module of the library that an imported name is, or is in; None for names of other packages."""
    parts = name.split(".")
    if parts[0] != "fastinit":
        return None
    known = {path.stem for path in LIBRARY} | {"_core", "adapters"}
    return parts[1] if len(parts) > 1 and parts[1] in known else "__init__"


def floor_violations(sources):
    floor_of = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    for module, source in sources.items():
        for target in filter(None, map(room, imports(source))):
            if module in SPECIFICATION:
                if target != "coefficients":
                    yield f"{module} imports {target}"
            elif target not in floor_of or floor_of[target] >= floor_of[module]:
                yield f"{module} imports {target}"


# An adapter whose framework's tensors are another's: Keras's backends, and CUDA memory, which Numba's adapter fills.
STANDS_ON = {"keras": {"torch", "jax"}, "torch": {"numba"}}


def adapter_violations(sources):
    """Of adapters by their place in the folder, "numpy.py" or "torch/init.py": one package may import within itself.

    The Numba adapter alone reads the coefficients: compilers need the samplers as source, so their text exists there
    once more.
    """
    for path, source in sources.items():
        package = path.split("/")[0] if "/" in path else None
        below = {package} | STANDS_ON.get(package, set())
        closed = SPECIFICATION | ({"coefficients"} if package != "numba" else set())
        for name in imports(source):
            other = name == "fastinit.adapters" or (room(name) == "adapters" and name.split(".")[2] not in below)
            if (
                name.startswith(".")
                or (name.split(".")[0] == "fastinit" and any(part.startswith("_") for part in name.split(".")))
                or other
                or room(name) in closed
            ):
                yield f"{path} imports {name}"


def sources(paths):
    return {path.stem: path.read_text() for path in paths}


def adapter_sources():
    return {path.relative_to(ROOT / "adapters").as_posix(): path.read_text() for path in ADAPTERS}


def test_the_library_imports_downwards_only():
    assert not list(floor_violations(sources(LIBRARY)))


def test_every_module_has_its_floor():
    stems = {path.stem for path in LIBRARY}
    assert set().union(*FLOORS, SPECIFICATION) == stems | {"_core"}


def test_adapters_see_public_modules_only():
    assert ADAPTERS
    assert not list(adapter_violations(adapter_sources()))


def test_there_is_no_regular_package_called_adapters():
    assert not (ROOT / "adapters/__init__.py").exists()  # it would shadow an installed one of that name


def test_the_library_needs_numpy_and_the_standard_library_alone():
    import sys

    allowed = sys.stdlib_module_names | {"numpy", "fastinit"}
    for path in LIBRARY:
        extra = {"matplotlib"} if path.stem == "pictures" else set()  # within functions: see the frameworks below
        outside = {name for name in imports(path.read_text()) if name.split(".")[0] not in allowed | extra}
        assert not outside, path


def test_the_checks_of_the_arrows_can_fail():
    good = sources(LIBRARY)
    for module, line in [
        ("keys", "from fastinit import filling"),
        ("keys", "import fastinit.fans"),  # side by side
        ("filling", "from fastinit.adapters import numpy"),
        ("structured", "import fastinit"),
        ("sampling", "def late():\n    from fastinit import reference"),
        ("reference", "from fastinit import _core"),
        ("rules", "from fastinit.recipes import AUTO"),
        ("records", "from fastinit import rules, recipes"),
    ]:
        assert list(floor_violations(good | {module: good[module] + "\n" + line})), line
    for line in [
        "from fastinit import _core",
        "import fastinit._core",
        "from . import other",
        "from fastinit.filling import _run",
    ]:
        assert list(adapter_violations({"numpy.py": line})), line
        assert list(adapter_violations({"torch/init.py": line})), line


def test_an_adapter_may_import_within_its_own_package_only():
    for line in [
        "from fastinit.adapters.torch import tensors",
        "from fastinit.adapters.torch.tensors import fill_",
        "import fastinit.adapters.torch.tensors",
    ]:
        assert not list(adapter_violations({"torch/init.py": line})), line
        for other in ("numpy.py", "torch.py", "jax.py", "numba/filling.py"):
            assert list(adapter_violations({other: line})), (other, line)
        assert not list(adapter_violations({"keras/tensors.py": line})), line  # its tensors may be torch's
    for line in [
        "from fastinit.adapters import numpy",
        "from fastinit.adapters.numpy import normal",
        "from fastinit.adapters import torch, numpy",
        "import fastinit.adapters",
        "from fastinit.adapters.torch import _private",
        "from fastinit.adapters.torch.tensors import _private",
        "from fastinit.adapters.torch._private import fill_",
        "from .tensors import fill_",
    ]:
        assert list(adapter_violations({"torch/init.py": line})), line


def test_the_numba_adapter_reads_the_coefficients_and_serves_pytorch():
    coefficients, kernels = "from fastinit import coefficients", "from fastinit.adapters.numba import fill"
    assert not list(adapter_violations({"numba/samplers.py": coefficients, "torch/tensors.py": kernels}))
    for path, line in [
        ("numba/samplers.py", "from fastinit import reference"),
        ("numba/samplers.py", "from fastinit.adapters import torch"),
        ("numba/samplers.py", "from fastinit.adapters.torch import fill_"),
        ("torch/tensors.py", coefficients),
        ("torch/tensors.py", "from fastinit.adapters.numba import _private"),
        ("numpy.py", coefficients),
        ("numpy.py", kernels),
        ("keras/layers.py", kernels),
    ]:
        assert list(adapter_violations({path: line})), (path, line)


def test_sampling_and_targets_do_not_see_each_other():
    assert "fastinit.targets" not in imports((ROOT / "fastinit/sampling.py").read_text())


# At run time

LOADED = """
import sys
{statement}
print(*sorted({{name.split('.')[0] for name in sys.modules}}))
print(*sorted(name for name in sys.modules if name.startswith('fastinit.')))
"""


def loaded(run_python, statement):
    done = run_python(LOADED.format(statement=statement))
    assert done.returncode == 0, done.stderr
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_import_fastinit_leaves_frameworks_out(run_python):
    packages, modules = loaded(run_python, "import fastinit, fastinit.adapters.numpy, fastinit.cli, fastinit.pictures")
    assert not packages & set(FRAMEWORKS)
    assert "fastinit._core" in modules
    assert not modules & {"fastinit.reference", "fastinit.reference_orthogonal", "fastinit.coefficients"}
    assert "fastinit.adapters.numpy" not in loaded(run_python, "import fastinit")[1]


def test_a_fill_leaves_frameworks_out(run_python):
    statement = "import fastinit, numpy; fastinit.fill(numpy.empty((9, 9)), fastinit.Orthogonal(), fastinit.Key(0))"
    assert not loaded(run_python, statement)[0] & set(FRAMEWORKS)


def test_the_check_of_frameworks_can_fail(run_python):
    pytest.importorskip("ml_dtypes")
    assert "ml_dtypes" in loaded(run_python, "import fastinit, ml_dtypes")[0]


# The kernels

FORBIDDEN = (
    r"Python\.h|numpy/|\bmath\.h|\bomp\.h|#\s*pragma\s+omp|\b(?:m|c|re)alloc\s*\(|\bfree\s*\("
    r"|\bstdio\.h|\bpthread|\berrno\b"
)


def without_comments(text):
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.name)
def test_kernels_know_no_python_no_memory_and_no_libm(path):
    assert not re.findall(FORBIDDEN, without_comments(path.read_text()))


def test_the_check_of_kernels_can_fail():
    assert KERNELS
    for line in ["#include <Python.h>", "#include <math.h>", "p = malloc (8);", "#pragma omp parallel", "free(p);"]:
        assert re.findall(FORBIDDEN, without_comments("/* text */ " + line)), line
    assert not re.findall(FORBIDDEN, without_comments("/* no malloc() here,\n nor math.h */ x = 1;"))


# The door


def test_all_is_what_is_public():
    modules = {path.stem for path in LIBRARY} | {"adapters"}
    public = {name for name in vars(fastinit) if not name.startswith("_")}
    assert public - (modules - set(fastinit.__all__)) == set(fastinit.__all__)
    assert len(set(fastinit.__all__)) == len(fastinit.__all__)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_every_name_in_all_is_there_and_has_a_docstring(path):
    if path.stem in SPECIFICATION | {"coefficients"}:
        pytest.skip("not for callers")
    module = fastinit if path.stem == "__init__" else __import__(f"fastinit.{path.stem}", fromlist=["_"])
    assert module.__doc__
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if callable(value) and not isinstance(value, fastinit.Preset):
            assert value.__doc__, name


def test_one_version():
    declared = re.search(r"^\s*version: '([^']+)'", (ROOT / "meson.build").read_text(), re.MULTILINE)
    assert declared[1] == fastinit.__version__
    assert fastinit.STREAM_VERSION == 1


def test_every_file_is_installed():
    build = (ROOT / "meson.build").read_text()
    for path in [*LIBRARY, *ADAPTERS, ROOT / "fastinit/_core.pyi", ROOT / "fastinit/py.typed"]:
        assert f"'{path.relative_to(ROOT)}'" in build, path
