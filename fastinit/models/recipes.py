"""Recipes: what gives every parameter of a model its initializer, free of any framework.

An adapter describes each parameter (:class:`Parameter`), a recipe's first rule that matches says how to fill it, and
its key is the seed's with the parameter's name folded in: adding, removing or reordering parameters changes no other.

Three recipes have one principle each. `OWN` is what the author's code did. `AUTO` improves what the author left at the
framework's default and keeps what the author chose. `FANS` puts true fans and gains wherever the author draws the
weight of a linear map. None of them looks at a name, of a parameter or of a class that is not the framework's.

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
    """The author's own."""
    program = parameter.program
    if program is None:
        return None
    if program.uninitialized:
        return Chosen(program.initializer, "memory that the author's code never wrote: zeros")
    calls = ", ".join(program.operators)
    return Chosen(program.initializer, f"the author's own: {calls}" if calls else "the author's own")


# Layers that are known by their class and are no framework's: what they do by themselves is an author's choice, too.
_OF_AUTHORS: Final = {("Conv1D", "weight"), ("Conv1D", "bias")}


def is_default(parameter: Parameter) -> bool:
    """Whether a parameter is as its layer makes it by itself.

    What the author's own code draws is the author's choice, though the layer would draw the same: T5 draws its words
    with a standard deviation of 1, as ``nn.Embedding`` does, and scales its logits for that.

    Parameters
    ----------
    parameter : Parameter
        With its program.

    >>> import fastinit
    >>> program = fastinit.Program(fastinit.Uniform(-0.25, 0.25))
    >>> is_default(fastinit.Parameter("up.weight", (64, 16), layer="Linear", program=program))
    True
    """
    if parameter.program is None or parameter.program.chosen or (parameter.layer, parameter.role) in _OF_AUTHORS:
        return False
    # a padding row may be another layer's that shares the tensor
    for one in (parameter, replace(parameter, zero_row=None)):
        default = default_of(one)
        if default is not None and same_distribution(parameter.program.initializer, default, parameter.shape):
            return True
    return False


def check_slice(parameter: Parameter) -> None:
    """Raises ValueError where a program that was made for a slice of a tensor says nothing of the whole.

    Draws and constants by elements do: they are those of the whole, with its fans where fans scale them.

    Parameters
    ----------
    parameter : Parameter
        With its program.

    Examples
    --------
    >>> import fastinit
    >>> program = fastinit.Program(fastinit.Orthogonal(), ("a draw",), shape=(16, 32))
    >>> check_slice(fastinit.Parameter("up.weight", (64, 32), program=program, sliced=True))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: the constructor's code made it for its slice of shape (16, 32), by Orthogonal(), ...
    """
    program = parameter.program
    if program is None or not parameter.sliced:
        return
    if program.shape != parameter.shape and not _is_by_elements(program.initializer):
        slice_ = "its slice" if program.shape is None else f"its slice of shape {program.shape}"
        raise ValueError(
            f"the constructor's code made it for {slice_}, by {brief(program.initializer)}, which says nothing of the "
            "whole: call init code that sees the whole inside keyed(), or give it a rule"
        )
    if program.is_drawn and not program.chosen and default_of(parameter) is not None and not is_default(parameter):
        raise ValueError(
            f"its layer drew it by {brief(program.initializer)}, with the fans of a slice of the weight, not of the "
            "whole: call init code that sees the whole inside keyed(), or give it a rule"
        )


def _is_by_elements(initializer: Initializer) -> bool:
    """Whether each value follows from its place alone, and not from the tensor's shape."""
    if isinstance(initializer, Painted) and not initializer.boxes:  # a draw with a key of its own
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
"""What the author's code did to each parameter. A parameter without a program has no answer."""

AUTO: Final = Recipe((Rule("*", "*", _auto, "by its layer"),), "auto")
"""Improves what the author left at the framework's default, and keeps what the author chose.

Where a parameter's program is just what its layer does by itself, or is unknown, a weight gets the scale that keeps the
size of the signal, from its true fans and the activation that follows; any other program stays. X. Glorot and Y. Bengio
2010; K. He et al. 2015; G. Klambauer et al. 2017 (SELU); A. M. Saxe et al. 2013 (orthogonal recurrence); R. Jozefowicz
et al. 2015 (forget gate).
"""

FANS: Final = Recipe((Rule("*", "*", _fans, "by its layer"),), "fans")
"""True fans and gains for every weight of a linear map that the author draws; everything else as the author has it."""

TORCH: Final = Recipe((Rule("*", "*", _torch, "torch's layer"),), "torch")
"""What the constructors of torch.nn's layers do, with their fans: packed attention weights count as one matrix.

``nn.Transformer``, which draws the weights of the layers inside it once more, is treated layer by layer.
"""

RECIPES: Final = {recipe.name: recipe for recipe in (OWN, AUTO, FANS, TORCH)}
"""The recipes by name: "own", "auto", "fans", "torch"."""


def recipe_named(recipe: str | Recipe) -> Recipe:
    """A recipe by its name; a Recipe is itself.

    Parameters
    ----------
    recipe : str or Recipe
        "own", "auto", "fans" or "torch".

    Raises
    ------
    TypeError, ValueError
        If it is neither, or the name is not known.

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
    """A recipe by its name; of None "own" for a model that carries programs, and "auto" for any other.

    Parameters
    ----------
    recipe : str, Recipe or None
        What the caller said.
    parameters : iterable of Parameter
        Those of the model.

    Raises
    ------
    TypeError, ValueError
        As :func:`recipe_named`.

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
    """The parameters with what they say of each other: embeddings as wide as one that is tied to the output head.

    Words, positions and token types are added up, so they share a scale: where that of the tied one is the head's, it
    is that of the others too.

    Parameters
    ----------
    parameters : sequence of Parameter
        Those of one model.

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

    Nothing is filled. The key is ``Key(seed).fold_in(name)``, and of a copy in the author's code that of its source;
    `dtype` and `digest` of the entries are left open.

    Parameters
    ----------
    parameters : iterable of Parameter
        Those of one model, in its order.
    recipe : str, Recipe or None
        ``"own"``, ``"auto"``, ``"fans"``, ``"torch"``, or rules of your own; None for "own" if a parameter has a
        program, and for "auto" otherwise.
    seed : int or str
        Seed of all keys.
    unmatched : {"error", "keep"}
        What becomes of parameters that the recipe has no answer for.
    frozen : bool
        Whether frozen parameters without a program are initialized too; otherwise they keep their values.
    in_memory : bool
        Whether the parameters have values. Where they have none, to keep them is to have the program's.
    asked : sequence of bool, optional
        Which parameters are to be initialized, see :func:`fastinit.selected`; the others keep what they hold, and need
        no rule.

    Raises
    ------
    UnmatchedParameter, ValueError, TypeError
        If no rule matches some parameters (one error names them all), two have the same name, an initializer refuses
        the shape, the rules contradict each other, or values are to be kept that are not there.

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
            raise ValueError(f"two parameters have the same name {parameter.name!r}, without what wrappers add to it")
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
            f"on the meta device, without values that could be kept: {', '.join(map(repr, lost))}. Build the model "
            "inside deferred(), which records what its own code does to each of them; frozen ones are initialized like "
            "the others with frozen=True"
        )
    return list(entries.values())


def _kept(parameter: Parameter, key: Key) -> Entry:
    """Of a parameter that nobody asked for."""
    facts = parameter.name, parameter.shape, "not asked for: kept", Keep(), key.fold_in(parameter.name)
    return Entry(*facts, other_names=parameter.other_names)


def choice(parameter: Parameter, recipe: Recipe, frozen: bool = False) -> Chosen | None:
    """What a recipe does to a parameter, and why; None if it has no answer."""
    if parameter.frozen and parameter.program is None and not frozen:
        return Chosen(Keep(), "frozen: kept")
    return recipe.choice(parameter)
