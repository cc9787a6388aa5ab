"""Recipes: give every parameter of a model its initializer, independent of any framework.

An adapter describes each parameter (:class:`Parameter`). The first matching rule of a recipe gives its initializer. Its
key is the seed's key with the parameter's name folded in, so adding, removing or reordering parameters changes no other
parameter.

Three recipes follow one principle each. `OWN` reproduces the author's code. `AUTO` improves parameters at the
framework's defaults and keeps the author's choices. `FANS` uses true fans and gains for every weight of a linear map
that the author draws. No recipe depends on names of parameters or of the author's classes.

>>> import fastinit
>>> weight = Parameter("mlp.up.weight", (64, 16), types=("Linear",), layer="Linear", activation="relu")
>>> rule, initializer = RECIPES["auto"].match(weight)
>>> initializer == fastinit.he_normal(layout="OI...")
True
>>> recipe = RECIPES["auto"].with_rules(Rule("Linear", "*.up.weight", fastinit.Orthogonal(column_axis=0)))
>>> recipe.match(weight)[1]
Orthogonal(gain=1.0, column_axis=0)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from fastinit import checks
from fastinit.checks import one_of, sequence_of, shown
from fastinit.exact import in_stream_environment
from fastinit.initializers import ElementwiseInitializer, Initializer, expected_std
from fastinit.keys import Key
from fastinit.models.configs import brief
from fastinit.models.distributions import is_drawn, same_distribution
from fastinit.models.keying import program_keys
from fastinit.models.layers import TORCH_LAYERS, default_of, is_linear_map, is_table, row_of, suited
from fastinit.models.records import Entry
from fastinit.models.rules import Chosen, Parameter, Recipe, Rule, UnmatchedParameter
from fastinit.models.rules import unmatched as unmatched_error
from fastinit.programs import Keep, Painted

__all__ = [
    "AUTO",
    "FANS",
    "OWN",
    "RECIPES",
    "TORCH",
    "Parameter",
    "Recipe",
    "Rule",
    "UnmatchedParameter",
    "assigned",
    "check_slice",
    "choice",
    "is_default",
    "recipe_for",
    "recipe_named",
    "related",
]

UNMATCHED: Final = ("error", "keep")


# The recipes


def _program(parameter: Parameter) -> Chosen | None:
    """The author's own initialization."""
    program = parameter.program
    if program is None:
        return None
    if program.uninitialized:
        return Chosen(program.initializer, "memory that the author's code never wrote: zeros")
    calls = ", ".join(program.operators)
    return Chosen(program.initializer, f"the author's own: {calls}" if calls else "the author's own")


# Known layers outside the frameworks: their defaults count as an author's choice.
_OF_AUTHORS: Final = {("Conv1D", "weight"), ("Conv1D", "bias")}


def is_default(parameter: Parameter) -> bool:
    """Whether a parameter's program is just the default of its layer.

    Draws by the author's own code count as the author's choice, even if the layer's default is the same: T5 draws its
    word embedding with a standard deviation of 1, as ``nn.Embedding`` does, and scales its logits for that.

    Parameters
    ----------
    parameter : Parameter
        The parameter, with its program.

    >>> import fastinit
    >>> program = fastinit.Program(fastinit.Uniform(-0.25, 0.25))
    >>> is_default(fastinit.Parameter("up.weight", (64, 16), layer="Linear", program=program))
    True
    """
    if parameter.program is None or parameter.program.chosen or (parameter.layer, parameter.role) in _OF_AUTHORS:
        return False
    # the padding row may belong to another layer that shares the tensor
    for one in (parameter, replace(parameter, zero_row=None)):
        default = default_of(one)
        if default is not None and same_distribution(parameter.program.initializer, default, parameter.shape):
            return True
    return False


def check_slice(parameter: Parameter) -> None:
    """Raises ValueError if a program made for a slice of a tensor does not define the whole tensor.

    Elementwise draws and constants do define it, with the whole tensor's fans if they depend on fans.

    Parameters
    ----------
    parameter : Parameter
        The parameter, with its program.

    Examples
    --------
    >>> import fastinit
    >>> program = fastinit.Program(fastinit.Orthogonal(), ("a draw",), shape=(16, 32))
    >>> check_slice(fastinit.Parameter("up.weight", (64, 32), program=program, sliced=True))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: expected a program for the whole tensor, got Orthogonal() for a slice of shape (16, 32): ...
    """
    program = parameter.program
    if program is None or not parameter.sliced:
        return
    if program.shape != parameter.shape and not _is_by_elements(program.initializer):
        slice_ = "a slice" if program.shape is None else f"a slice of shape {program.shape}"
        raise ValueError(
            f"expected a program for the whole tensor, got {brief(program.initializer)} for {slice_}: call init code "
            "that sees the whole tensor inside keyed(), or add a rule"
        )
    if program.is_drawn and not program.chosen and default_of(parameter) is not None and not is_default(parameter):
        raise ValueError(
            f"expected a program for the whole tensor, got {brief(program.initializer)} with the fans of a slice: call "
            "init code that sees the whole tensor inside keyed(), or add a rule"
        )


def _is_by_elements(initializer: Initializer) -> bool:
    """Whether each value depends on its index only, not on the tensor's shape."""
    if isinstance(initializer, Painted) and not initializer.boxes:  # a draw with its own key
        return _is_by_elements(initializer.initializer)
    return isinstance(initializer, ElementwiseInitializer)


def _auto(parameter: Parameter) -> Chosen | None:
    if parameter.program is not None and not is_default(parameter):
        return _program(parameter)
    return suited(parameter) or _program(parameter)


def _fans(parameter: Parameter) -> Chosen | None:
    program = parameter.program
    if program is None:
        return suited(parameter)
    improved = is_linear_map(parameter) and not parameter.frozen and is_drawn(program.initializer, parameter.shape)
    return suited(parameter) if improved else _program(parameter)


def _torch(parameter: Parameter) -> Chosen | None:
    row = row_of(TORCH_LAYERS, parameter)
    return None if row is None else row.chosen(parameter)


OWN: Final = Recipe((Rule("*", "*", _program, "the author's own"),), "own")
"""The author's own initialization of each parameter. A parameter without a program is unmatched."""

AUTO: Final = Recipe((Rule("*", "*", _auto, "by its layer"),), "auto")
"""Improves parameters at the framework's defaults, and keeps the author's choices.

If a parameter's program is the default of its layer or is unknown, a weight gets the scale that keeps the size of the
signal, from its true fans and the following activation. Any other program stays. X. Glorot and Y. Bengio 2010; K. He et
al. 2015; G. Klambauer et al. 2017 (SELU); A. M. Saxe et al. 2013 (orthogonal recurrence); R. Jozefowicz et al. 2015
(forget gate).
"""

FANS: Final = Recipe((Rule("*", "*", _fans, "by its layer"),), "fans")
"""True fans and gains for every weight of a linear map that the author draws. Everything else stays the author's."""

TORCH: Final = Recipe((Rule("*", "*", _torch, "torch's layer"),), "torch")
"""Defaults of torch.nn's layers, with torch's fans: packed attention weights count as one matrix.

``nn.Transformer`` redraws the weights of the layers inside it; this recipe ignores that and treats it layer by layer.
"""

RECIPES: Final = {recipe.name: recipe for recipe in (OWN, AUTO, FANS, TORCH)}
"""The recipes by name: "own", "auto", "fans", "torch"."""


def recipe_named(recipe: str | Recipe) -> Recipe:
    """A recipe by its name. A Recipe is returned unchanged.

    Parameters
    ----------
    recipe : str or Recipe
        "own", "auto", "fans" or "torch", or a Recipe.

    Raises
    ------
    TypeError, ValueError
        If `recipe` has another type, or the name is unknown.

    Examples
    --------
    >>> import fastinit
    >>> fastinit.recipe_named("auto") is fastinit.AUTO
    True
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str):
        raise TypeError(f"recipe must be a name or a Recipe, not {shown(recipe)}")
    if recipe not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, or a Recipe; got {shown(recipe)}")
    return RECIPES[recipe]


def recipe_for(recipe: str | Recipe | None, parameters: Iterable[Parameter]) -> Recipe:
    """A recipe by its name. None selects "own" for a model with programs, and "auto" otherwise.

    Parameters
    ----------
    recipe : str, Recipe or None
        The caller's argument.
    parameters : iterable of Parameter
        The model's parameters.

    Raises
    ------
    TypeError, ValueError
        As in :func:`recipe_named`.

    Examples
    --------
    >>> import fastinit
    >>> recipe_for(None, [fastinit.Parameter("up.weight", (64, 128), layer="Linear")]).name
    'auto'
    """
    if recipe is not None:
        return recipe_named(recipe)
    return OWN if any(parameter.program is not None for parameter in parameters) else AUTO


def related(parameters: Sequence[Parameter]) -> list[Parameter]:
    """The parameters, with `beside_tied` set for embeddings as wide as one that is tied to the output head.

    Embeddings of words, positions and token types are added, so they need one scale. If the tied embedding has the
    head's scale, the others get it too.

    Parameters
    ----------
    parameters : sequence of Parameter
        The parameters of one model.

    Examples
    --------
    >>> import fastinit
    >>> words = fastinit.Parameter("words.weight", (90, 16), layer="Embedding", tied=True)
    >>> places = fastinit.Parameter("places.weight", (30, 16), layer="Embedding")
    >>> [one.beside_tied for one in related([words, places])]
    [False, True]
    """
    tables = [one for one in parameters if is_table(one)]
    widths = {one.shape[-1] for one in tables if one.tied and (one.program is None or is_default(one))}
    beside = {one.name for one in tables if not one.tied and one.shape[-1] in widths}
    return [replace(one, beside_tied=True) if one.name in beside else one for one in parameters]


@in_stream_environment
def assigned(
    parameters: Iterable[Parameter],
    recipe: str | Recipe | None,
    seed: int | str,
    unmatched: str = "error",
    *,
    frozen: bool = False,
    in_memory: bool = True,
    asked: Sequence[bool] | None = None,
) -> list[Entry]:
    """An entry for each parameter: its rule, initializer, fans, expected standard deviation and key.

    Nothing is filled. The key is ``Key(seed).fold_in(name)``; a copy in the author's code has its source's key. `dtype`
    and `digest` of the entries are None.

    Parameters
    ----------
    parameters : iterable of Parameter
        The parameters of one model, in order.
    recipe : str, Recipe or None
        ``"own"``, ``"auto"``, ``"fans"``, ``"torch"``, or a Recipe. None selects "own" if a parameter has a program,
        and "auto" otherwise.
    seed : int or str
        Seed of all keys.
    unmatched : {"error", "keep"}
        Treatment of parameters that no rule matches: raise an error, or keep their values.
    frozen : bool
        Whether to initialize frozen parameters without a program. By default they keep their values.
    in_memory : bool
        Whether the parameters have values. If not, kept parameters get their program's initializer.
    asked : sequence of bool, optional
        Which parameters to initialize, see :func:`fastinit.selected`. The others keep their values and need no rule.

    Raises
    ------
    UnmatchedParameter, ValueError, TypeError
        If no rule matches some parameters (one error names them all), two parameters have the same name, an initializer
        does not support the shape, rules contradict each other, or parameters without values are to be kept.

    Examples
    --------
    >>> import fastinit
    >>> weight = fastinit.Parameter("up.weight", (64, 128), layer="Linear")
    >>> for entry in fastinit.assigned([weight], "torch", seed=0):
    ...     print(entry.name, f"{entry.std:.4f}")  # 1 / sqrt(3 * 128)
    up.weight 0.0510
    """
    unmatched = one_of("unmatched", unmatched, UNMATCHED)
    given = related(sequence_of(Parameter, "parameters must be a sequence of Parameter", parameters))
    chosen, key = recipe_for(recipe, given), Key(checks.seed(seed))
    programs = program_keys(given, checks.seed(seed))
    entries: dict[str, Entry] = {}
    unanswered: list[Parameter] = []
    lost: list[str] = []
    for parameter, is_asked in zip(given, [True] * len(given) if asked is None else asked, strict=True):
        if parameter.name in entries:
            raise ValueError(f"two parameters have the same canonical name {parameter.name!r}")
        if not is_asked:
            entries[parameter.name] = _kept(parameter, key)
            continue
        try:
            found = choice(parameter, chosen, frozen)
            if found is None:
                unanswered.append(parameter)
                found = Chosen(Keep(), "no rule: kept")
            elif not in_memory and isinstance(found.initializer, Keep) and parameter.program is None:
                lost.append(parameter.name)
            if not in_memory and isinstance(found.initializer, Keep):
                found = _program(parameter) or found
            if parameter.program is not None and found.initializer is parameter.program.initializer:
                check_slice(parameter)
                own_key, filled, copied = programs[parameter.name]
                found = Chosen(filled, found.title if copied is None else f"the author's own: a copy of {copied}")
            else:
                own_key = key.fold_in(parameter.name)
            std, fans = expected_std(found.initializer, parameter.shape), parameter.fans
        except ValueError as problem:
            raise ValueError(f"{parameter.name!r} of shape {parameter.shape}: {problem}") from None
        entries[parameter.name] = Entry(
            parameter.name,
            parameter.shape,
            found.title,
            found.initializer,
            own_key,
            fans,
            std,
            other_names=parameter.other_names,
        )
    if unmatched == "keep":
        unanswered = [] if in_memory else [parameter for parameter in unanswered if parameter.program is None]
    if unanswered:
        raise unmatched_error(chosen.name, unanswered, in_memory)
    if lost:
        raise ValueError(
            f"cannot keep values of parameters on the meta device: {', '.join(map(repr, lost))}. Build the model "
            "inside deferred(), which records how its own code initializes them; frozen=True initializes frozen "
            "parameters like the others"
        )
    return list(entries.values())


def _kept(parameter: Parameter, key: Key) -> Entry:
    """Entry of a parameter that is not selected."""
    facts = parameter.name, parameter.shape, "not asked for: kept", Keep(), key.fold_in(parameter.name)
    return Entry(*facts, other_names=parameter.other_names)


def choice(parameter: Parameter, recipe: Recipe, frozen: bool = False) -> Chosen | None:
    """A recipe's initializer for a parameter, and the reason; None if no rule matches."""
    if parameter.frozen and parameter.program is None and not frozen:
        return Chosen(Keep(), "frozen: kept")
    return recipe.choice(parameter)
