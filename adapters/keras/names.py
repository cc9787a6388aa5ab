"""Names of a model's variables that do not depend on other models of the process.

Keras names an unnamed layer, model or variable by its class and a number that counts through the whole process:
``dense``, ``dense_1``. A second model in one process therefore has other paths, and so would have other keys. This
module recounts the numbers within the parent of the layer or variable, and leaves out the model's own name.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from fastinit.adapters.keras.internals import VARIABLE, automatic_name

__all__ = ["canonical_names", "role_of"]

# Former parent models of layers: only their names remain, in the paths.
FOREIGN: Final = ("sequential", "functional", "model")


class Automatic(NamedTuple):
    """A name that Keras chose: a prefix, the class's name, and the number."""

    before: str
    kind: str
    number: int


def canonical_names(model: Any, layers: Iterable[Any], paths: Sequence[str]) -> list[str]:
    """The names of variables, from their paths. Names are equal only if paths are equal.

    A name counts as Keras's if Keras could have chosen it: ``dense`` or ``dense_3`` for a Dense. All others stay.

    Parameters
    ----------
    model : keras.Model or keras.Layer
        The model. Its own name is left out if Keras chose it.
    layers : iterable of keras.Layer
        The model and all layers within it.
    paths : sequence of str
        Paths of the variables.
    """
    kinds: dict[str, set[str]] = {}
    for layer in layers:
        kinds.setdefault(layer.name, set()).add(automatic_name(type(layer)))

    def read(path: str) -> list[Automatic | str]:
        *scopes, name = path.split("/")
        found = (_automatic(scope, kinds.get(scope, FOREIGN), kinds) or scope for scope in scopes)
        return [*found, _automatic(name, (VARIABLE,), kinds) or name]

    whole = [read(path) for path in paths]
    own = _automatic(model.name, (automatic_name(type(model)),), kinds)
    inner = [_without(own, parts) for parts in whole]
    names = _joined(inner)
    often = Counter(names)
    # the model's own layer may have the name of one that was built earlier, outside the model
    return [
        f"{own.kind}/{name}" if own and often[name] > 1 and len(parts) < len(before) else name
        for name, parts, before in zip(names, inner, whole, strict=True)
    ]


def role_of(variable: Any) -> str:
    """A variable's name within its layer, without Keras's number."""
    return VARIABLE if _automatic(variable.name, (VARIABLE,), ()) else str(variable.name)


def _automatic(name: str, kinds: Iterable[str], known: Collection[str]) -> Automatic | None:
    for kind in kinds:
        # Keras doubles the layer within a Bidirectional and adds a prefix to its name
        found = re.fullmatch(rf"(forward_|backward_|){re.escape(kind)}(?:_([1-9]\d*))?", name)
        if found and f"{kind}_0" not in known:  # Keras's numbers do not begin with 0
            return Automatic(found[1], kind, int(found[2] or 0))
    return None


def _without(own: Automatic | None, parts: list[Automatic | str]) -> list[Automatic | str]:
    if own is None or own not in parts[:-1]:
        return parts
    at = parts.index(own)
    return parts[:at] + parts[at + 1 :]


def _joined(paths: list[list[Automatic | str]]) -> list[str]:
    """Paths with numbers from 0 for each class in each scope, in the order of Keras's numbers."""
    held: dict[tuple[Automatic | str, ...], set[Automatic | str]] = {}
    for parts in paths:
        for at, part in enumerate(parts):
            held.setdefault(tuple(parts[:at]), set()).add(part)
    counted: dict[tuple[Any, ...], str] = {}
    for scope, parts_of_scope in held.items():
        numbers = sorted({(part.kind, part.number) for part in parts_of_scope if isinstance(part, Automatic)})
        for kind, same in itertools.groupby(numbers, key=operator.itemgetter(0)):
            free = (name for name in _numbered(kind) if name not in parts_of_scope)
            counted |= {(scope, *one): name for one, name in zip(same, free, strict=False)}

    def name_of(scope: tuple[Automatic | str, ...], part: Automatic | str) -> str:
        return part if isinstance(part, str) else part.before + counted[scope, part.kind, part.number]

    return ["/".join(name_of(tuple(parts[:at]), part) for at, part in enumerate(parts)) for parts in paths]


def _numbered(kind: str) -> Iterator[str]:
    """The names that Keras chooses for instances of a class, in order."""
    yield kind
    for number in itertools.count(1):
        yield f"{kind}_{number}"
