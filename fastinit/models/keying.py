"""Keys of the draws in programs. A shared draw gets the key of the parameter that owns it.

Parameters share a draw after a deep copy, for example. The owner is the first parameter in the model with that draw;
parameters that are computed from draws (replayed) own one only if no other parameter has it. A copy remembers the name
of its source, which may be missing: a pipeline stage has only some of the layers.

>>> import fastinit
>>> program = fastinit.Program(fastinit.Normal(), ("a draw",))
>>> one, two = (fastinit.Parameter(name, (3,), program=program) for name in ("one", "two"))
>>> keyed = program_keys([one, two], seed=0)
>>> keyed["two"].key == fastinit.Key(0).fold_in("one"), keyed["two"].copied
(True, 'one')
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from fastinit.checks import shown
from fastinit.initializers import Initializer
from fastinit.keys import Key
from fastinit.models.rules import Parameter
from fastinit.programs import Program, Replayed, draw_key, rekeyed
from fastinit.sampling import STREAM_VERSION

__all__ = ["Keyed", "program_keys", "renamed_program", "with_origins"]


class Keyed(NamedTuple):
    """The key and initializer of a parameter with a program.

    Attributes
    ----------
    key : Key
        The parameter's key; for a copy, its source's key.
    initializer : Initializer
        The initializer, with the keys of other parameters' draws.
    copied : str or None
        Name of the source, for a copy.

    Examples
    --------
    >>> import fastinit
    >>> Keyed(fastinit.Key(0), fastinit.Normal(), None).copied is None
    True
    """

    key: Key
    initializer: Initializer
    copied: str | None


def program_keys(parameters: Iterable[Parameter], seed: int | str) -> dict[str, Keyed]:
    """The keys and initializers of all parameters with a program, by name.

    Parameters
    ----------
    parameters : iterable of Parameter
        The parameters of one model, in order.
    seed : int or str
        Seed of all keys.

    Raises
    ------
    ValueError
        If a program has another stream version.

    Examples
    --------
    >>> import fastinit
    >>> weight = fastinit.Parameter("up.weight", (3,), program=fastinit.Program(fastinit.Normal(), ("a draw",)))
    >>> program_keys([weight], 0)["up.weight"].key == fastinit.Key(0).fold_in("up.weight")
    True
    """
    root = Key(seed)
    found = {one.name: one.program for one in parameters if one.program is not None}
    for name, program in found.items():
        if program.stream_version != STREAM_VERSION:
            raise ValueError(
                f"the program of {name!r} needs stream version {STREAM_VERSION}, got {shown(program.stream_version)}, "
                "whose bytes differ: build the model again"
            )
    owners = _owners(found)
    keyed: dict[str, Keyed] = {}
    for name, program in found.items():
        own = root.fold_in(name)
        if all(owners[draw] == (name, number) for number, draw in enumerate(program.draws)):  # the usual case
            keyed[name] = Keyed(own, program.initializer, None)
            continue
        keys: list[Key | None] = []
        sources: list[tuple[str, int]] = []
        for number, draw in enumerate(program.draws):
            owner, place = owners[draw]
            if owner == name and place != number:  # the same draw twice in one parameter
                keys.append(draw_key(own, place))
            elif owner == name:
                keys.append(None)
            else:
                keys.append(draw_key(root.fold_in(owner), place))
            sources.append((owner, place))
        others = {owner for owner, _ in sources if owner != name}
        if len(others) == 1 and [place for _, place in sources] == list(range(len(sources))) and None not in keys:
            (other,) = others
            is_same = other not in found or found[other].initializer == program.initializer
            keyed[name] = Keyed(root.fold_in(other), program.initializer, other if is_same else None)
        elif len(keys) == 1 and keys[0] is not None:
            keyed[name] = Keyed(keys[0], program.initializer, None)
        else:
            keyed[name] = Keyed(own, rekeyed(program.initializer, keys), None)
    return keyed


def with_origins(programs: Mapping[str, Program]) -> dict[str, Program]:
    """The programs, with the source's name stored in copies, so that copies keep its key if the source is removed.

    Parameters
    ----------
    programs : mapping of str to Program
        Programs of all parameters of a model, by name.

    Examples
    --------
    >>> import fastinit
    >>> program = fastinit.Program(fastinit.Normal(), ("a draw",))
    >>> with_origins({"one": program, "two": program})["two"].origin
    ('two', 'one')
    """
    owners = _owners(programs)
    found = {}
    for name, program in programs.items():
        source = next((owners[draw][0] for draw in program.draws if owners[draw][0] != name), None)
        is_copy = source is not None and all(owners[draw][0] != name for draw in program.draws)
        found[name] = replace(program, origin=(name, source)) if is_copy and source is not None else program
    return found


def renamed_program(program: Program | None, before: str, after: str, rename: Callable[[str], str]) -> Program | None:
    """The program of a renamed tensor, with its source renamed too if necessary.

    A copy stores its source's name in the model that the code built. If that model is the definition (the whole model),
    the name stays. If it is the present model, the source's name is translated.

    Parameters
    ----------
    program : Program or None
        The tensor's program.
    before, after : str
        The tensor's name in the model, and in the definition.
    rename : callable
        Translates the model's names to the definition's; see :func:`fastinit.extending.renaming`.

    Examples
    --------
    >>> import fastinit
    >>> program = fastinit.Program(fastinit.Normal(), ("a draw",), origin=("layers.9.up", "layers.0.up"))
    >>> renamed_program(program, "layers.1.up", "layers.9.up", str.upper).origin
    ('layers.9.up', 'layers.0.up')
    >>> renamed_program(program, "layers.9.up", "blocks.9.up", lambda name: name.replace("layers", "blocks")).origin
    ('blocks.9.up', 'blocks.0.up')
    """
    if program is None or program.origin is None or _source(after, program) is not None:
        return program
    source = _source(before, program)
    return program if source is None else replace(program, origin=(after, rename(source)))


def _owners(programs: Mapping[str, Program]) -> dict[str, tuple[str, int]]:
    """Owner of each draw, and the draw's number in the owner."""
    owners: dict[str, tuple[str, int]] = {}
    # replayed parameters last: they may be computed from draws of others
    ordered = sorted(programs.items(), key=lambda item: isinstance(item[1].initializer, Replayed))
    for name, program in ordered:
        for number, draw in enumerate(program.draws):
            if draw not in owners:
                owners[draw] = (_source(name, program) or name, number)
    return owners


def _source(name: str, program: Program) -> str | None:
    """Name of a copy's source, which may be missing from the model; None if the program is not a copy."""
    if program.origin is None:
        return None
    own, source = program.origin
    if f".{name}".endswith(f".{own}"):  # unchanged, or inside a larger model
        return name.removesuffix(own) + source
    outside = own.removesuffix(name)  # or in a part that was taken out, with or without the source
    if f".{own}".endswith(f".{name}") and source.startswith(outside):
        return source.removeprefix(outside)
    return None
