"""Renaming: translates the parameter names of a part of a model, or of a wrapped model, to those of the whole model.

A pipeline stage renumbers its layers, and a wrapper adds a prefix to all names. Values depend on names, so the caller
gives the names in the whole model, called the definition.

>>> stage = renaming({"layers": "decoder.layers", "layers.0": "decoder.layers.8"})
>>> stage("layers.0.up.weight"), stage("layers.norm.weight"), stage("head.weight")
('decoder.layers.8.up.weight', 'decoder.layers.norm.weight', 'head.weight')
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from fastinit.checks import shown
from fastinit.keys import canonical_name

__all__ = ["Rename", "check_prefixes", "renaming"]

Rename = Callable[[str], str] | Mapping[str, str]
"""A function of a canonical name, or a mapping from dotted prefixes to their replacements."""

# Names shown in an error message.
SHOWN = 5


def renaming(rename: Rename | None) -> Callable[[str], str]:
    """A function that translates a model's canonical names to those of the definition.

    Parameters
    ----------
    rename : callable, mapping of str to str, or None
        A function of a name; or a mapping from prefixes of whole components to their replacements. The longest matching
        prefix applies. The prefix ``""`` matches every name; the replacement ``""`` removes the prefix.

    Raises
    ------
    TypeError
        If `rename` has another type.
    ValueError
        If a prefix begins or ends with a dot. When called, if the caller's function returns no name.

    Examples
    --------
    >>> renaming({"": "encoder"})("up.weight"), renaming({"model": ""})("model.up.weight")
    ('encoder.up.weight', 'up.weight')
    """
    change: Callable[[str], str]
    if rename is None:
        return str
    if isinstance(rename, Mapping):
        table = dict(rename)
        for one in (*table, *table.values()):
            if not isinstance(one, str):
                raise TypeError(f"rename must map prefixes of names to prefixes, both str; got {shown(one)}")
            if one and not all(one.split(".")):
                raise ValueError(f"prefixes in rename must be names joined by single dots, got {one!r}")

        def replaced(name: str) -> str:
            prefix = next((one for one in _prefixes(name) if one in table), None)
            if prefix is None:
                return name
            return ".".join(part for part in (table[prefix], name[len(prefix) :].removeprefix(".")) if part)

        change = replaced
    elif callable(rename):
        change = rename
    else:
        raise TypeError(f"rename must be a function of a name, or a mapping of prefixes; got {shown(rename)}")

    def renamed(name: str) -> str:
        found = change(name)
        if not isinstance(found, str) or not found:
            raise ValueError(f"rename must return a non-empty str for {name!r}, got {shown(found)}")
        return canonical_name(found)

    return renamed


def check_prefixes(rename: Rename | None, names: Iterable[str]) -> None:
    """Checks that each prefix of a mapping matches one of a model's canonical names.

    Parameters
    ----------
    rename : callable, mapping of str to str, or None
        As in :func:`renaming`; functions and None are not checked.
    names : iterable of str
        The model's canonical names.

    Raises
    ------
    ValueError
        If a prefix matches no name.

    Examples
    --------
    >>> check_prefixes({"layers.0": "layers.8"}, ["layers.0.up.weight", "layers.1.up.weight"])
    >>> check_prefixes({"layer": "layers"}, ["layers.0.up.weight"])
    Traceback (most recent call last):
        ...
    ValueError: rename: the prefix 'layer' matches no name; there are 1: layers.0.up.weight
    """
    if not isinstance(rename, Mapping):
        return
    own = list(names)
    known = {prefix for name in own for prefix in _prefixes(name)}
    for prefix in rename:
        if prefix not in known:
            examples = ", ".join(own[:SHOWN]) + ("..." if len(own) > SHOWN else "")
            raise ValueError(f"rename: the prefix {prefix!r} matches no name; there are {len(own)}: {examples}")


def _prefixes(name: str) -> Iterable[str]:
    """Yields every prefix of whole components, from the longest to the empty one."""
    while name:
        yield name
        name = name.rpartition(".")[0]
    yield ""
