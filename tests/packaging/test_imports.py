"""The arrows: who imports whom. Frameworks stay out, adapters see the public door, and C knows nothing of Python."""

import ast
import functools
import importlib
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import fastinit

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fastinit"
WINGS = ("advice", "models", "audits", "reports", "checkpoints")  # each stands on those before it
LIBRARY = sorted(PACKAGE.glob("*.py")) + sorted(path for wing in WINGS for path in (PACKAGE / wing).glob("*.py"))
ADAPTERS = sorted((ROOT / "adapters").rglob("*.py"))
KERNELS = sorted(path for path in (PACKAGE / "kernels").iterdir() if path.suffix in (".c", ".h"))
FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "numba", "scipy", "ml_dtypes", "rich", "matplotlib")

# Each floor imports from floors below it only; what stands side by side does not see each other.
HEART = [
    {"_core"},
    {"checks", "coefficients", "exact", "threads", "files", "installation", "notices", "progress"},
    {"truncation"},
    {"dtypes", "layouts", "keys"},
    {"buffers", "sampling"},
    {"targets", "shards", "initializers"},
    {"filling"},
    {"householder", "composites", "comparing"},
    {"structured", "programs", "rows"},
    {"folding"},
    {"presets"},
]
FLOORS = [
    *HEART,
    {"advice.activations"},
    {"advice.gains"},
    {"advice.recommending"},
    {"models.rules", "models.configs", "models.digests", "models.renaming"},
    {"models.records", "models.selecting"},
    {"models.distributions", "models.layers", "models.keying", "models.verifying"},
    {"models.recipes"},
    {"models.planning", "models.explaining"},
    {"audits.agreement", "audits.scales", "audits.propagation", "audits.measuring"},
    {"audits.values"},
    {"audits.judging"},
    {"reports.charts"},
    {"reports.pages"},
    {"reports.pictures"},
    {"__init__", "extending"},
    {"checkpoints.disks", "checkpoints.formats", "checkpoints.libraries"},
    {"checkpoints.headers", "checkpoints.sources"},
    {"checkpoints.quantizing"},
    {"checkpoints.plans"},
    {"checkpoints.contents", "checkpoints.layouts", "checkpoints.staging"},
    {"checkpoints.mapped", "checkpoints.virtual", "checkpoints.writing"},
    {"checkpoints.archives"},
    {"checkpoints.reading"},
    {"checkpoints.comparing", "checkpoints.verifying"},
    {"checkpoints.origins", "checkpoints.exporting"},
    {"checkpoints.commands"},
    {"cli"},
    {"__main__"},
]
# The executable specification: it reads the coefficients, and no module reads it.
SPECIFICATION = {"reference", "reference_orthogonal"}


def module(path):
    """The module of a file of the library, without the package's name: "keys", "advice.gains", "advice.__init__"."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {module(path): path for path in LIBRARY}
DOORS = {f"{wing}.__init__" for wing in WINGS}


@functools.cache  # the tests that the checks can fail look at every file again and again
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
    first, *parts = name.split(".")
    if first != "fastinit":
        return None
    if parts[:1] == ["adapters"]:
        return "adapters"
    known = set(MODULES) | {"_core"}
    candidates = (".".join(parts[:2]), ".".join([*parts[:1], "__init__"]), *parts[:1], "__init__")
    return next(found for found in candidates if found in known)


def floor_violations(sources):
    floor_of = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    for here, source in sources.items():
        for target in filter(None, map(room, imports(source))):
            if here in SPECIFICATION:
                right = target == "coefficients"
            elif here in DOORS:
                right = target.partition(".")[0] == here.partition(".")[0]
            else:
                right = target in floor_of and floor_of[target] < floor_of[here]
            if not right:
                yield f"{here} imports {target}"


def opened_adapters(sources):
    """The modules of the library that open an adapter by its name while they run."""
    for here, source in sources.items():
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
        loads = [node for node in calls if ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")]
        if any("fastinit.adapters" in ast.unparse(argument) for node in loads for argument in node.args):
            yield here


# An adapter that needs another: Keras its backends and its weight files, and CUDA memory is filled by Numba's adapter.
STANDS_ON = {"keras": {"torch", "jax", "h5py"}, "torch": {"numba"}}


# Adapters whose modules import each other in one direction only, imports within functions included.
WITHOUT_CIRCLES = {"jax", "keras", "numba", "torch"}


def adapter_violations(sources):
    """Of adapters by their place in the folder, "numpy.py" or "torch/init.py": one package may import within itself.

    Beyond that there are the public names of fastinit and of fastinit.checkpoints, and fastinit.extending.
    """
    for path, source in sources.items():
        package = path.split("/")[0] if "/" in path else None
        below = {package} | STANDS_ON.get(package, set())
        # the door may be opened first, but what comes through it is imported by name
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "fastinit.extending":
                yield f"{path} uses {ast.unparse(node)}"
        for name in imports(source):
            first, *parts = name.split(".")
            if first not in ("", "fastinit"):
                continue
            public = not parts or (len(parts) == 1 and parts[0] in fastinit.__all__)
            if parts[:1] == ["adapters"]:
                right = len(parts) > 1 and parts[1] in below and not any(part.startswith("_") for part in parts)
            else:
                doors = ("extending", "checkpoints")
                right = first == "fastinit" and (public or (parts[0] in doors and len(parts) <= 2))
            if not right:
                yield f"{path} imports {name}"


def adapter_sources():
    return {path.relative_to(ROOT / "adapters").as_posix(): path.read_text() for path in ADAPTERS}


def sources():
    return {name: path.read_text() for name, path in MODULES.items()}


def test_the_library_imports_downwards_only():
    assert not list(floor_violations(sources()))


def test_every_module_has_its_floor():
    assert set().union(*FLOORS, SPECIFICATION, DOORS) == set(MODULES) | {"_core"}


def test_every_folder_of_the_package_is_a_wing():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    assert folders == {*WINGS, "adapters", "kernels"}  # the adapters by a link to the folder beside the package


def test_one_module_opens_adapters():
    assert set(opened_adapters(sources())) == {"checkpoints.libraries"}
    more = {"checkpoints.origins": "import importlib\nimportlib.import_module(f'fastinit.adapters.{name}')"}
    assert set(opened_adapters(more)) == set(more)


def test_every_adapter_that_checkpoints_name_is_there():
    from fastinit.checkpoints import libraries

    places = [place for one in libraries.LIBRARIES.values() for place in (one.saves, one.reads)]
    places += [libraries._PRETRAINED, *libraries._BUILT.values(), *libraries._OPERATORS.values()]
    for place in places:
        module, _, name = place.partition(":")
        tree = ast.parse((ROOT / "adapters" / f"{module.replace('.', '/')}.py").read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert not name or name in defined, place


def test_adapters_see_the_two_doors_only():
    assert ADAPTERS
    assert not list(adapter_violations(adapter_sources()))


def test_there_is_no_regular_package_called_adapters():
    assert not (ROOT / "adapters/__init__.py").exists()  # it would shadow an installed one of that name


def test_the_library_needs_numpy_and_the_standard_library_alone():
    allowed = sys.stdlib_module_names | {"numpy", "fastinit"}
    for path in LIBRARY:
        extra = {"matplotlib"} if path.stem == "pictures" else set()  # within functions: see the frameworks below
        outside = {name for name in imports(path.read_text()) if name.split(".")[0] not in allowed | extra}
        assert not outside, path


def test_the_checks_of_the_arrows_can_fail():
    good = sources()
    for here, line in [
        ("keys", "from fastinit import filling"),
        ("keys", "import fastinit.layouts"),  # side by side
        ("filling", "from fastinit.adapters import numpy"),
        ("structured", "import fastinit"),
        ("sampling", "def late():\n    from fastinit import reference"),
        ("reference", "from fastinit import _core"),
        ("filling", "from fastinit.advice.gains import gain"),
        ("advice.gains", "from fastinit.models import rules"),
        ("advice.gains", "import fastinit.audits"),
        ("advice.__init__", "from fastinit.filling import fill"),
        ("models.rules", "from fastinit.models.recipes import AUTO"),
        ("models.records", "from fastinit import models"),
        ("audits.values", "from fastinit.reports.charts import curves"),
    ]:
        assert list(floor_violations(good | {here: good[here] + "\n" + line})), line
    for line in [
        "from fastinit import _core",
        "import fastinit._core",
        "from . import other",
        "from fastinit.filling import _run",
        "from fastinit.filling import plan",
        "from fastinit import shards",
        "from fastinit.models import planned",
        "import fastinit.extending\nfastinit.extending.plan",
    ]:
        assert list(adapter_violations({"numpy.py": line})), line
        assert list(adapter_violations({"torch/init.py": line})), line
    assert not list(adapter_violations({"numpy.py": "import fastinit\nfrom fastinit.extending import plan"}))


def test_an_adapter_may_import_within_its_own_package_only():
    for line in [
        "from fastinit.adapters.torch import tensors",
        "from fastinit.adapters.torch.tensors import fill_",
        "import fastinit.adapters.torch.tensors",
    ]:
        assert not list(adapter_violations({"torch/init.py": line})), line
        for other in ("numpy.py", "torch.py", "jax/arrays.py", "numba/filling.py"):
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


def test_the_numba_adapter_serves_pytorch():
    assert not list(adapter_violations({"torch/tensors.py": "from fastinit.adapters.numba import fill"}))
    for path, line in [
        ("numba/samplers.py", "from fastinit import reference"),
        ("numba/samplers.py", "from fastinit.adapters import torch"),
        ("numba/samplers.py", "from fastinit.adapters.torch import fill_"),
        ("torch/tensors.py", "from fastinit.adapters.numba import _private"),
        ("numpy.py", "from fastinit.adapters.numba import fill"),
        ("keras/layers.py", "from fastinit.adapters.numba import fill"),
    ]:
        assert list(adapter_violations({path: line})), (path, line)


def circles(sources):
    """The modules of an adapter that import themselves by way of others, by their place in the folder."""
    modules = {f"fastinit.adapters.{path.removesuffix('.py').replace('/', '.')}": path for path in sources}
    below = {}
    for path, source in sources.items():
        names = {found for name in imports(source) for found in (name, name.rpartition(".")[0])}
        below[path] = {modules[name] for name in names & set(modules)}
    for path, first in below.items():
        reached, ahead = set(), list(first)
        while ahead:
            other = ahead.pop()
            if other not in reached:
                reached.add(other)
                ahead += below[other]
        if path in reached:
            yield path


def test_modules_of_an_adapter_import_in_one_direction():
    sources = {path: source for path, source in adapter_sources().items() if path.split("/")[0] in WITHOUT_CIRCLES}
    assert {path.split("/")[0] for path in sources} == WITHOUT_CIRCLES
    assert not list(circles(sources))
    back = "def late():\n    from fastinit.adapters.numba.filling import fill"
    turned = sources | {"numba/devices.py": f"{sources['numba/devices.py']}\n{back}"}
    assert set(circles(turned)) == {"numba/devices.py", "numba/filling.py"}


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
    packages, modules = loaded(
        run_python, "import fastinit, fastinit.adapters.numpy, fastinit.cli, fastinit.reports.pictures"
    )
    assert not packages & set(FRAMEWORKS)
    assert "fastinit._core" in modules
    assert not modules & {"fastinit.reference", "fastinit.reference_orthogonal"}
    alone = loaded(run_python, "import fastinit")[1]
    assert not alone & {"fastinit.adapters.numpy", "fastinit.extending", "fastinit.coefficients"}


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
    modules = {name.partition(".")[0] for name in MODULES} | {"adapters"}
    public = {name for name in vars(fastinit) if not name.startswith("_")}
    assert public - (modules - set(fastinit.__all__)) == set(fastinit.__all__)
    assert len(set(fastinit.__all__)) == len(fastinit.__all__)


def test_no_public_name_hides_a_module():
    for name in set(fastinit.__all__) & {name.partition(".")[0] for name in MODULES}:
        assert isinstance(getattr(fastinit, name), types.ModuleType), name


@pytest.mark.parametrize("name", MODULES)
def test_every_name_in_all_is_there_and_has_a_docstring(name):
    if name in SPECIFICATION | {"coefficients"}:
        pytest.skip("not for callers")
    found = importlib.import_module(f"fastinit.{name}".removesuffix(".__init__"))
    assert found.__doc__
    for public in getattr(found, "__all__", ()):
        value = getattr(found, public)
        if callable(value) and not isinstance(value, fastinit.Preset):
            assert value.__doc__, public


def test_one_version():
    declared = re.search(r"^\s*version: '([^']+)'", (ROOT / "meson.build").read_text(), re.MULTILINE)
    assert declared[1] == fastinit.__version__
    assert fastinit.STREAM_VERSION == 1


def test_every_file_is_installed():
    done = subprocess.run(
        [sys.executable, ROOT / "tools/list_sources.py"], capture_output=True, text=True, check=True, cwd="/"
    )
    wanted = {path.relative_to(ROOT).as_posix() for path in [*LIBRARY, *ADAPTERS, PACKAGE / "_core.pyi"]}
    assert set(done.stdout.split()) == wanted
    installed = Path(fastinit.__file__).parent
    if installed != PACKAGE:
        for name in wanted:
            assert (installed.parent / "fastinit" / name.removeprefix("fastinit/")).is_file(), name
