"""Comparison of the recipes own, auto and fans for every parameter of a model, with reasons.

>>> import fastinit
>>> program = fastinit.Program(fastinit.Normal(std=0.02))
>>> print(explained([fastinit.Parameter("up.weight", (8, 9), layer="Linear", activation="relu", program=program)]))
parameter  shape   own          auto         fans          difference   why
up.weight  (8, 9)  normal 0.02  normal 0.02  normal 0.471  fans: scale  the author's own; fans: scaled for relu
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fastinit.exact import in_stream_environment
from fastinit.initializers import Initializer
from fastinit.models.distributions import difference, short
from fastinit.models.recipes import AUTO, FANS, OWN, choice, related
from fastinit.models.rules import Parameter, Recipe

__all__ = ["Explanation", "Row", "explained"]

COLUMNS = ("parameter", "shape", "own", "auto", "fans", "difference", "why")
NONE = "-"


@dataclass(frozen=True, slots=True)
class Row:
    """The recipes' initializers for one parameter.

    Attributes
    ----------
    name, shape
        Name and shape of the parameter.
    own, auto, fans : Initializer or None
        Each recipe's initializer; None if no rule matches.
    difference : str
        How auto and fans differ from own: "same", or the kind of each difference, such as "scale", "distribution",
        "constant instead of drawn". "no program" if the parameter has no program to compare with.
    why : str
        The reason.

    Examples
    --------
    >>> import fastinit
    >>> (row,) = explained([fastinit.Parameter("norm.weight", (64,), layer="LayerNorm")])
    >>> row.own is None, row.auto, row.difference, row.why
    (True, Constant(value=1.0), 'no program', 'norm weight')
    """

    name: str
    shape: tuple[int, ...]
    own: Initializer | None
    auto: Initializer | None
    fans: Initializer | None
    difference: str
    why: str

    def cells(self) -> tuple[str, ...]:
        """The row as text, one cell per column of the table."""
        found = (NONE if one is None else short(one, self.shape) for one in (self.own, self.auto, self.fans))
        return (self.name, str(self.shape), *found, self.difference, self.why)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The recipes' initializers for a model. ``str()`` gives a table, ``explanation["name"]`` one row.

    Attributes
    ----------
    rows : tuple of Row
        One row per parameter, in the model's order.

    Examples
    --------
    >>> import fastinit
    >>> found = explained([fastinit.Parameter("norm.weight", (64,), layer="LayerNorm")])
    >>> len(found), found["norm.weight"].auto
    (1, Constant(value=1.0))
    """

    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def __str__(self) -> str:
        cells = [COLUMNS, *(row.cells() for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ("  ".join(map(str.ljust, line, widths)) for line in cells)
        return "\n".join(map(str.rstrip, lines))


@in_stream_environment
def explained(parameters: Iterable[Parameter]) -> Explanation:
    """The initializers of own, auto and fans for each parameter, with differences and reasons. Nothing is filled.

    Parameters
    ----------
    parameters : iterable of Parameter
        The parameters of one model, in order.

    Raises
    ------
    ValueError
        If an initializer does not support the shape of its parameter. The error names the parameter.

    Examples
    --------
    >>> import fastinit
    >>> program = fastinit.Program(fastinit.Zeros())
    >>> (row,) = explained([fastinit.Parameter("zero.weight", (64, 64), layer="Linear", program=program)])
    >>> row.difference, row.why
    ('same', "the author's own")
    """
    return Explanation(tuple(map(_row, related(list(parameters)))))


def _row(parameter: Parameter) -> Row:
    try:
        found = {recipe.name: _found(recipe, parameter) for recipe in (OWN, AUTO, FANS)}
        own, own_why = found["own"]
        if own is None:
            auto, why = found["auto"]
            kind, reason = "no program", why if auto is not None else "no program, and no layer of the framework"
        else:
            kinds, reasons = {}, {"": own_why}
            for name in ("auto", "fans"):
                other, why = found[name]
                if other is not None and other != own:
                    kinds[name] = difference(own, other, parameter.shape)
                    reasons[name] = why
            kind = _joined(kinds) or "same"
            reason = _joined(reasons)
        row = Row(parameter.name, parameter.shape, own, found["auto"][0], found["fans"][0], kind, reason)
        row.cells()  # raises ValueError if a shape does not fit
    except ValueError as problem:
        raise ValueError(f"{parameter.name!r} of shape {parameter.shape}: {problem}") from None
    return row


def _found(recipe: Recipe, parameter: Parameter) -> tuple[Initializer | None, str]:
    found = choice(parameter, recipe)
    return (None, "") if found is None else (found.initializer, found.title)


def _joined(words: dict[str, str]) -> str:
    """Joins the words of each recipe. Merges equal words of auto and fans."""
    if words.get("auto") == words.get("fans") is not None:
        words = {name: word for name, word in words.items() if not name} | {"auto and fans": words["auto"]}
    return "; ".join(f"{name}: {word}" if name else word for name, word in words.items())
