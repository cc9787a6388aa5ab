"""Rules: match parameters of a model and give their initializers.

An adapter describes each parameter (:class:`Parameter`). The first matching rule of a :class:`Recipe` gives its
initializer. This module is independent of any framework; the built-in recipes are in :mod:`fastinit.models.recipes`.

>>> import fastinit
>>> weight = Parameter("mlp.up.weight", (64, 16), types=("Linear", "Module"))
>>> recipe = Recipe([Rule("Linear", "mlp.*", fastinit.Orthogonal(column_axis=0)), Rule("*", "*", fastinit.Zeros())])
>>> recipe.match(weight)[1]
Orthogonal(gain=1.0, column_axis=0)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import translate
from functools import lru_cache
from typing import Any, Final, NamedTuple

from fastinit.checks import (
    at_least,
    checked_shape,
    finite_number,
    integer,
    integer_or_integers,
    sequence_of,
    shown,
    text,
)
from fastinit.initializers import Initializer
from fastinit.keys import canonical_name
from fastinit.layouts import Axes, Fans, fans
from fastinit.programs import Program

__all__ = ["GATES", "Chosen", "Parameter", "Recipe", "Rule", "UnmatchedParameter", "unmatched"]

NONE: Final = type(None)

GATES: Final = {
    "RNN": 1,
    "RNNCell": 1,
    "SimpleRNNCell": 1,
    "GRU": 3,
    "GRUCell": 3,
    "LSTM": 4,
    "LSTMCell": 4,
    "ConvLSTMCell": 4,
}
"""Gates of a recurrent layer, by its class in torch or in Keras: equal blocks packed along one axis."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """Description of a parameter for rules.

    Attributes
    ----------
    name : str
        Full name, such as ``"encoder.layers.0.weight"``. Components that wrappers add are removed.
    shape : tuple of int
        Shape of the whole (global) tensor.
    types : tuple of str
        Class names of the layer that owns it, the most derived first: ``("Conv2d", "_ConvNd", "Module")``.
    role : str
        Name within the layer, such as ``"weight"`` or ``"weight_hh_l0"``; by default the last component of `name`.
    layout, groups, transposed, stride, blocks
        Roles of the axes, see :func:`fastinit.fans`. A layout of None marks a tensor that is not a linear map. `blocks`
        also counts the equal blocks of a packed bias.
    weight_shape : tuple of int, optional
        Shape of the layer's main weight; torch scales biases by it.
    activation : str, optional
        Name of the activation after the layer, from :mod:`fastinit.advice.activations`; None if there is none or it is
        unknown.
    negative_slope : float
        Slope of that activation, if it is a leaky rectifier.
    zero_row : int, optional
        Index of an embedding's padding row.
    tied : bool
        Whether the tensor also serves under another name, such as an embedding shared with the output head.
    other_names : tuple of str
        Further canonical names of the same tensor in the model.
    layer : str
        The framework's class of the layer: ``"Linear"`` for every subclass of ``torch.nn.Linear``; empty if the layer
        is not a subclass of a framework's layer. The built-in recipes decide by this class, never by names.
    program : Program or None
        The author's own initialization; None if unknown.
    frozen : bool
        Whether the parameter is excluded from training.
    beside_tied : bool
        Whether it is an embedding as wide as one that is tied to the output head. The two may be added, so they share
        a scale. Set by :func:`fastinit.assigned`.
    sliced : bool
        Whether the author's code saw only a slice of the tensor or of its layer's weight, as in tensor-parallel layers.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the shape or a count is invalid.

    Examples
    --------
    >>> import fastinit
    >>> parameter = fastinit.Parameter("conv.weight", (64, 8, 3, 3), ("Conv2d",), groups=4)
    >>> parameter.role, parameter.layout
    ('weight', 'OI...')
    """

    name: str
    shape: tuple[int, ...]
    types: tuple[str, ...] = ()
    role: str = ""
    layout: str | Axes | None = "OI..."
    groups: int = 1
    transposed: bool = False
    stride: int | tuple[int, ...] = 1
    blocks: int = 1
    weight_shape: tuple[int, ...] | None = None
    activation: str | None = None
    negative_slope: float = 0.0
    zero_row: int | None = None
    tied: bool = False
    other_names: tuple[str, ...] = ()
    layer: str = ""
    program: Program | None = None
    frozen: bool = False
    beside_tied: bool = False
    sliced: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"the name of a parameter must be a non-empty str, got {shown(self.name)}")
        object.__setattr__(self, "name", canonical_name(self.name))
        object.__setattr__(self, "shape", checked_shape(self.shape))
        types = (self.types,) if isinstance(self.types, str) else self.types
        object.__setattr__(self, "types", sequence_of(str, "types of a parameter must be a sequence of str", types))
        names = sequence_of(str, "other_names of a parameter must be a sequence of str", self.other_names)
        object.__setattr__(self, "other_names", names)
        for what, kinds in _KINDS:
            value = getattr(self, what)
            if not isinstance(value, kinds):
                raise TypeError(f"{what} of a parameter has the wrong type: {shown(value)}")
            if type(value) is not str and isinstance(value, str):
                object.__setattr__(self, what, text(value))
        for what in ("transposed", "tied", "frozen", "beside_tied", "sliced"):
            if not isinstance(getattr(self, what), bool):
                raise TypeError(f"{what} of a parameter must be a bool, got {shown(getattr(self, what))}")
        object.__setattr__(self, "role", self.role or self.name.rpartition(".")[2])
        object.__setattr__(self, "groups", integer("groups", self.groups))
        object.__setattr__(self, "blocks", integer("blocks", self.blocks))
        object.__setattr__(self, "stride", integer_or_integers("stride", self.stride))
        object.__setattr__(self, "negative_slope", finite_number(self.negative_slope, "negative_slope"))
        if self.weight_shape is not None:
            object.__setattr__(self, "weight_shape", checked_shape(self.weight_shape, "weight_shape"))
        if self.zero_row is not None:
            object.__setattr__(self, "zero_row", at_least(0, "zero_row", self.zero_row))

    @property
    def geometry(self) -> dict[str, Any]:
        """layout, groups, transposed, stride and blocks, as arguments of fans() and of the scaled initializers."""
        return {
            "layout": self.layout,
            "groups": self.groups,
            "transposed": self.transposed,
            "stride": self.stride,
            "blocks": self.blocks,
        }

    @property
    def fans(self) -> Fans | None:
        """The true fans; None without a layout or with fewer than two axes.

        Raises ValueError if the shape does not fit the layout.
        """
        if self.layout is None or len(self.shape) < 2:
            return None
        return fans(self.shape, **self.geometry)


_KINDS: Final = (
    *(("role", str), ("layer", str), ("layout", (str, Axes, NONE))),
    *(("activation", (str, NONE)), ("program", (Program, NONE))),
)
"""Allowed types of some fields of a parameter, by name."""


class Chosen(NamedTuple):
    """A parameter's initializer, and its title in the record."""

    initializer: Initializer
    title: str


Choice = Initializer | Callable[[Parameter], Initializer | Chosen | None]


def _alternatives(globs: str) -> frozenset[str]:
    return frozenset(glob.strip() for glob in globs.split("|"))


@lru_cache(maxsize=1024)
def _pattern(globs: str) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, sorted(_alternatives(globs)))))


@dataclass(frozen=True, slots=True)
class Rule:
    """Patterns that match parameters, and the initializer for them.

    Attributes
    ----------
    types : str
        Shell patterns for the class names of the parameter's layer, including base classes: ``"Linear"``, ``"Conv?d"``,
        ``"*Norm*"``, ``"LSTM|GRU"``, ``"*"`` for any layer. Case-sensitive.
    name : str
        Shell patterns for the parameter's full name or its role: ``"bias"``, ``"encoder.*.weight"``.
    initializer : initializer or callable
        The initializer, or a function of the :class:`Parameter` that returns an initializer or None. None passes the
        parameter on to the next matching rule. :class:`fastinit.Keep` leaves the parameter unchanged.
    title : str
        Title of the rule in records; by default its patterns.

    Raises
    ------
    TypeError
        If a pattern or the title is not a str, or `initializer` is neither an initializer nor callable.

    Examples
    --------
    >>> import fastinit
    >>> rule = fastinit.Rule("Linear", "*.head.weight", fastinit.Normal(0.0, 0.02), "the head")
    >>> recipe = fastinit.AUTO.with_rules(rule)
    >>> (entry,) = fastinit.assigned([fastinit.Parameter("gpt.head.weight", (50, 8), ("Linear",))], recipe, seed=0)
    >>> entry.rule, entry.initializer
    ('the head', Normal(mean=0.0, std=0.02))
    """

    types: str
    name: str
    initializer: Choice
    title: str = ""

    def __post_init__(self) -> None:
        for what in ("types", "name", "title"):
            if not isinstance(getattr(self, what), str):
                raise TypeError(f"{what} of a rule must be a str, got {shown(getattr(self, what))}")
            object.__setattr__(self, what, text(getattr(self, what)))
        if not isinstance(self.initializer, Initializer) and not callable(self.initializer):
            raise TypeError(
                f"the initializer of a rule must be an Initializer or a function of a Parameter, got "
                f"{shown(self.initializer)}"
            )
        object.__setattr__(self, "title", self.title or f"{self.types}: {self.name}")

    @property
    def selector(self) -> tuple[frozenset[str], frozenset[str]]:
        """The patterns in a form that compares equal for equivalent patterns."""
        return _alternatives(self.types), _alternatives(self.name)

    @property
    def is_final(self) -> bool:
        """Whether every matching parameter is filled. A function may instead pass it on to later rules."""
        return isinstance(self.initializer, Initializer)

    def matches(self, parameter: Parameter) -> bool:
        """Whether the patterns match a parameter."""
        if self.name != "*":
            name = _pattern(self.name)
            if not (name.match(parameter.name) or name.match(parameter.role)):
                return False
        return self.types == "*" or any(map(_pattern(self.types).match, parameter.types))

    def chosen(self, parameter: Parameter) -> Chosen | None:
        """The initializer of a matching parameter; None if the rule passes it on.

        Raises TypeError if the function returns neither an initializer nor None.
        """
        found = self.initializer if isinstance(self.initializer, Initializer) else self.initializer(parameter)
        if isinstance(found, Chosen) or found is None:
            return found
        if not isinstance(found, Initializer):
            raise TypeError(
                f"rule {self.title!r} must return an Initializer or None for {parameter.name!r}, got {shown(found)}"
            )
        return Chosen(found, self.title)


class UnmatchedParameter(LookupError):
    """A recipe has no rule for some parameters. The message names them all.

    Examples
    --------
    >>> import fastinit
    >>> try:
    ...     fastinit.assigned([fastinit.Parameter("scale", (3,), ("Block",))], "auto", seed=0)
    ... except fastinit.UnmatchedParameter as error:
    ...     print(str(error).partition(". ")[0])
    the recipe 'auto' has no rule for 1 parameter: 'scale' of shape (3,) (Block)
    """


def unmatched(recipe: str, parameters: Sequence[Parameter], kept: bool = True) -> UnmatchedParameter:
    """One error for all parameters that a recipe has no rule for.

    Parameters
    ----------
    recipe : str
        The recipe's name.
    parameters : sequence of Parameter
        The parameters; at least one.
    kept : bool
        Whether the parameters have values to keep.
    """
    count = "1 parameter" if len(parameters) == 1 else f"{len(parameters)} parameters"
    names = ", ".join(f"{one.name!r} of shape {one.shape} ({(*one.types, 'unknown layer')[0]})" for one in parameters)
    first = parameters[0]
    keep = 'leave them as they are with unmatched="keep", ' if kept else ""
    return UnmatchedParameter(
        f"the recipe {recipe!r} has no rule for {count}: {names}. Build the model inside deferred(), or in Keras "
        f"inside recorded(), which records how its own code initializes them, {keep}or add rules: "
        f"recipe.with_rules(Rule({(*first.types, '*')[0]!r}, {first.role!r}, ...))"
    )


@dataclass(frozen=True, slots=True)
class Recipe:
    """An ordered list of rules. The first matching rule gives a parameter's initializer.

    Parameters
    ----------
    rules : tuple of Rule
        The rules, in order.
    name : str
        Name of the recipe in records.

    Raises
    ------
    TypeError
        If an item of `rules` is not a Rule, or `name` is not a str.
    ValueError
        If two rules have the same patterns and different initializers, so that the second would never apply.

    Examples
    --------
    >>> import fastinit
    >>> recipe = fastinit.Recipe((fastinit.Rule("*", "bias", fastinit.Zeros()),), "biases")
    >>> recipe.with_rules(fastinit.Rule("Linear", "weight", fastinit.he_normal(layout="OI"))).rules[0].types
    'Linear'
    """

    rules: tuple[Rule, ...]
    name: str = "custom"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", sequence_of(Rule, "a recipe is made of rules", self.rules))
        if not isinstance(self.name, str):
            raise TypeError(f"the name of a recipe must be a str, got {shown(self.name)}")
        object.__setattr__(self, "name", text(self.name))
        first: dict[Any, Rule] = {}
        for rule in self.rules:
            before = first.setdefault(rule.selector, rule)
            if before.is_final and before.initializer != rule.initializer:
                raise ValueError(
                    f"two rules for types {rule.types!r} and name {rule.name!r} contradict each other: "
                    f"{shown(before.initializer)} and {shown(rule.initializer)}"
                )

    def with_rules(self, *rules: Rule, name: str = "custom") -> Recipe:
        """A recipe that tries these rules first. They replace rules with the same patterns."""
        own = Recipe(rules, name)
        replaced = {rule.selector for rule in own.rules if rule.is_final}
        return Recipe((*own.rules, *(rule for rule in self.rules if rule.selector not in replaced)), name)

    def match(self, parameter: Parameter) -> tuple[Rule, Initializer]:
        """The first matching rule, with the title of its choice, and the parameter's initializer.

        Raises
        ------
        UnmatchedParameter
            If no rule matches.
        ValueError
            If a later rule names exactly this parameter and gives it another initializer.
        """
        found = self.find(parameter)
        if found is None:
            raise unmatched(self.name, [parameter])
        return found

    def find(self, parameter: Parameter) -> tuple[Rule, Initializer] | None:
        """As :meth:`match`, but None if no rule matches."""
        for rule, chosen in self._found(parameter):
            return (rule if chosen.title == rule.title else replace(rule, title=chosen.title)), chosen.initializer
        return None

    def choice(self, parameter: Parameter) -> Chosen | None:
        """A parameter's initializer and title; None if no rule matches.

        Raises the ValueError of :meth:`match`.
        """
        return next((chosen for _, chosen in self._found(parameter)), None)

    def _found(self, parameter: Parameter) -> Iterator[tuple[Rule, Chosen]]:
        for position, rule in enumerate(self.rules):
            if rule.matches(parameter):
                chosen = rule.chosen(parameter)
                if chosen is not None:
                    self._check_exact(parameter, rule, chosen.initializer, self.rules[position + 1 :])
                    yield rule, chosen

    @staticmethod
    def _check_exact(parameter: Parameter, rule: Rule, initializer: Initializer, later: tuple[Rule, ...]) -> None:
        """Raises ValueError if a later rule names the parameter in full but an earlier one shadows it.

        Names without dots are excluded: they are roles as well.
        """
        if parameter.name == parameter.role:
            return
        for exact in later:
            if exact.name == parameter.name and exact.matches(parameter):
                found = exact.chosen(parameter)
                if found is not None and found.initializer != initializer:
                    raise ValueError(
                        f"the rule for exactly {exact.name!r} comes after {rule.title!r}, which gives it "
                        f"{shown(initializer)}, not {shown(found.initializer)}: put the exact rule first"
                    )
