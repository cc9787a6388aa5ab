"""The reference has an entry for every public name, and for nothing else; `test_doctests.py` judges the docstrings."""

import ast
import importlib
import itertools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "reference"
# Each public module, and where it says its names.
MODULES = {
    "fastinit": "fastinit/__init__.py",
    "fastinit.checkpoints": "fastinit/checkpoints/__init__.py",
    "fastinit.extending": "fastinit/extending.py",
    "fastinit.adapters.numpy": None,  # its __all__ is computed
    "fastinit.adapters.torch": "adapters/torch/__init__.py",
    "fastinit.adapters.torch.init": "adapters/torch/init.py",
    "fastinit.adapters.keras": "adapters/keras/__init__.py",
    "fastinit.adapters.keras.initializers": "adapters/keras/initializers.py",
    "fastinit.adapters.jax": "adapters/jax/__init__.py",
    "fastinit.adapters.numba": "adapters/numba/__init__.py",
}
# Those that also offer names that are their framework's.
BESIDE = ("fastinit.adapters.torch.init", "fastinit.adapters.keras.initializers", "fastinit.adapters.jax")
TEXT = {page.name: page.read_text("utf-8") for page in sorted(PAGES.glob("*.md"))}
ENTRIES = [name for text in TEXT.values() for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]


def public(module):
    """The names of a module's ``__all__``, without importing a framework."""
    if MODULES[module] is None:
        return list(importlib.import_module(module).__all__)
    for node in ast.parse((ROOT / MODULES[module]).read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{module} has no __all__")


def defined(module):
    """The functions and classes that stand in a module's own file."""
    body = ast.parse((ROOT / MODULES[module]).read_text("utf-8")).body if MODULES[module] else ()
    return {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def without_entry(module):
    """Public names that have no entry, and that the module's page does not explain in a word."""
    entries = {name.rpartition(".")[2] for name in ENTRIES if name.rpartition(".")[0] == module}
    pages = [text for text in TEXT.values() if f"::: {module}." in text and module in BESIDE]
    # a framework's own functions, and second names of what has an entry, are named in the page's first words
    named = {name for text in pages for name in re.findall(r"`(\w+)`", text)} - defined(module)
    modules = {name.rpartition(".")[2] for name in MODULES if name.rpartition(".")[0] == module}
    return [name for name in public(module) if name not in entries | named | modules]


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_an_entry(module):
    assert not without_entry(module)


def unexplained_constants(module):
    """Public constants whose assignment is not followed by a string that explains them."""
    body = ast.parse((ROOT / MODULES[module]).read_text("utf-8")).body
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    places = {alias.asname or alias.name: node.module for node in imports for alias in node.names}
    for name in filter(lambda name: name[0].isupper(), public(module)):  # lower case: functions that code makes
        path = ROOT / f"{places.get(name, module).replace('.', '/')}.py"
        body = ast.parse(path.read_text("utf-8")).body if path.exists() else []
        for node, after in itertools.pairwise([*body, ast.Pass()]):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            is_it = name in [getattr(target, "id", None) for target in targets]
            if is_it and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
                yield name


@pytest.mark.parametrize("module", ["fastinit", "fastinit.extending"])
def test_every_constant_is_explained(module):
    assert not list(unexplained_constants(module))


def test_every_entry_is_a_public_name():
    names = {f"{module}.{name}" for module in MODULES for name in public(module)}
    assert not set(ENTRIES) - names
    assert len(set(ENTRIES)) == len(ENTRIES) > 250


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "tools/site/mkdocs.yml").read_text("utf-8")
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert pages <= set(re.findall(r"[\w/-]+\.md", navigation))


def test_the_check_of_entries_can_fail(monkeypatch):
    monkeypatch.setitem(globals(), "ENTRIES", [name for name in ENTRIES if name != "fastinit.fill"])
    assert without_entry("fastinit") == ["fill"]
