"""What tensors of a part of a model, or of a wrapped model, are called in the definition: the whole model.

A pipeline stage numbers its layers anew, and a wrapper puts a prefix before all names. Values follow from names, so a
caller says which names are meant.

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
"""A function of a canonical name, or dotted prefixes and what stands in their place."""

# So many names an error shows.
SHOWN = 5


def renaming(rename: Rename | None) -> Callable[[str], str]:
    """A function from a model's own canonical names to those of the definition.

    Parameters
    ----------
    rename : callable, mapping of str to str, or None
        A function of a name; or prefixes, of whole components, and what replaces them: of several that match, the
        longest. ``""`` as a prefix matches every name, and in the place of a prefix takes it away.

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If a prefix begins or ends with a dot; when a name is asked for, if the function gives no name for it.

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
                raise ValueError(f"a prefix in rename has a dot at an end, or two in a row: {one!r}")

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
            raise ValueError(f"rename gives {shown(found)} for {name!r}: expected a name, a str that is not empty")
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
    """Every prefix of whole components, the longest first and the empty one last."""
    while name:
        yield name
        name = name.rpartition(".")[0]
    yield ""
