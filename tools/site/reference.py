"""The reference's extension of griffe: docstrings as Markdown, and entries for generated functions.

griffe reads sources without importing them, so it needs no framework. The docstrings of presets and of the NumPy
adapter's functions come from tables, which need fastinit itself. JAX's need the texts of its adapter.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import griffe

from tools.site.numpydoc import markdown

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "reference"
# Modules with generated functions that do not import a framework.
MADE = ("fastinit.presets", "fastinit.adapters.numpy")


def entries() -> list[str]:
    """The names with an entry in the reference."""
    return re.findall(r"^::: (\S+)$", "\n".join(page.read_text("utf-8") for page in PAGES.glob("*.md")), re.MULTILINE)


class Docstrings(griffe.Extension):
    """Called by griffe after reading an object."""

    def __init__(self) -> None:
        self.entries = entries()

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        if pkg.path != "fastinit":
            return
        for name in MADE:
            make_functions(pkg[name.removeprefix("fastinit.")], importlib.import_module(name))
        make_jax(pkg["adapters.jax.initializers"], pkg["adapters.jax.docstrings"])
        self.rewrite(pkg)

    def rewrite(self, module: griffe.Object) -> None:
        for member in module.members.values():
            if member.is_alias:
                continue
            alias = other_name(member)
            if alias:
                member.docstring = griffe.Docstring(f"Another name of :obj:`{alias}`.", parent=member)
            if member.docstring:
                member.docstring.value = markdown(member.docstring.value, lambda name, at=member: self.link(name, at))
            self.rewrite(member)

    def link(self, target: str, at: griffe.Object) -> str:
        """A reference to a name in a docstring: a link if the name has an entry."""
        short = target.startswith("~")
        target = target.removeprefix("~")
        shown = target.rpartition(".")[2] if short else target
        room = ".".join(at.path.split(".")[:3]) if at.path.startswith("fastinit.adapters.") else "fastinit"
        last = target.rpartition(".")[2]
        for name in (target, f"{room}.{target}", f"{room}.{last}", f"{at.module.path}.{last}", f"fastinit.{last}"):
            if name in self.entries:
                return f"[`{shown}`][{name}]"
        return f"`{shown}`"


def other_name(member: griffe.Object) -> str:
    """The original of an assignment such as ``he_normal = HeNormal``."""
    if not isinstance(member, griffe.Attribute) or member.docstring or member.parent is None:
        return ""
    value = str(member.value or "")
    there = member.parent.members.get(value)
    return value if there is not None and not there.is_alias and (there.is_class or there.is_function) else ""


def function(name: str, signature: inspect.Signature, text: str, module: griffe.Module) -> griffe.Function:
    """An entry for a generated function."""
    parameters = [
        griffe.Parameter(
            one.name,
            kind=griffe.ParameterKind[one.kind.name.lower()],
            annotation=None if one.annotation is one.empty else annotation(one.annotation),
            default=None if one.default is one.empty else repr(one.default),
        )
        for one in signature.parameters.values()
    ]
    returns = None if signature.return_annotation is signature.empty else annotation(signature.return_annotation)
    made = griffe.Function(name, parameters=griffe.Parameters(*parameters), returns=returns, parent=module)
    made.docstring = griffe.Docstring(inspect.cleandoc(text), parent=made, parser="numpy")
    return made


def annotation(given: Any) -> str:
    return given if isinstance(given, str) else getattr(given, "__name__", str(given))


def make_functions(module: griffe.Module, real: Any) -> None:
    """Replaces a module's assignments with the generated functions."""
    for name in real.__all__:
        value = getattr(real, name)
        if inspect.isfunction(value) and isinstance(module.members.get(name), griffe.Attribute):
            module.set_member(name, function(name, inspect.signature(value), value.__doc__ or "", module))


def make_jax(module: griffe.Module, texts: griffe.Module) -> None:
    """The factories of the JAX adapter derived from fastinit's presets and classes."""
    found = importlib.util.spec_from_file_location("jax_docstrings", texts.filepath)
    assert found and found.loader
    docstrings = importlib.util.module_from_spec(found)
    found.loader.exec_module(docstrings)
    form = inspect.signature(docstrings.preset_form)
    for name, member in list(module.members.items()):
        value = str(member.value) if isinstance(member, griffe.Attribute) else ""
        made = re.fullmatch(r"_of_(preset|class)\('(\w+)', (?:fastinit\.|')(\w+)'?\)", value)
        if made is None:
            continue
        kind, of, what = made.groups()
        if kind == "preset":
            module.set_member(name, function(name, form, docstrings.of_preset(of, what), module))
        else:
            own = getattr(importlib.import_module("fastinit"), what)
            module.set_member(name, function(name, docstrings.class_form(own), docstrings.of_class(own), module))
