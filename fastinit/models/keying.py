"""Which key each draw of each program has: by the name of the parameter that draws first.

A draw that several parameters share is one draw, as in a deep copy. Its key follows from the name of the parameter that
it belongs to: the first of the model, but the first that is nothing else than this draw, if there is such a one. A copy
whose source was cut off (a pipeline stage has only some of the layers) knows its name.

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
    """What fills a parameter as its program says.

    Attributes
    ----------
    key : Key
        Its key, or that of the parameter that it is a copy of.
    initializer : Initializer
        With the keys of other parameters' draws in it.
    copied : str or None
        The name of the parameter that it is a copy of.

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
    """The keys and the initializers of all parameters with a program, by name.

    Parameters
    ----------
    parameters : iterable of Parameter
        Those of one model, in its order.
    seed : int or str
        Seed of all keys.

    Raises
    ------
    ValueError
        If a program is of another version of the stream.

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
                f"the program of {name!r} is of stream version {shown(program.stream_version)}, and this is version "
                f"{STREAM_VERSION}, which has other bytes: build the model again"
            )
    owners = _owners(found)
    keyed: dict[str, Keyed] = {}
    for name, program in found.items():
        own = root.fold_in(name)
        if all(owners[draw] == (name, number) for number, draw in enumerate(program.draws)):  # as mostly
            keyed[name] = Keyed(own, program.initializer, None)
            continue
        keys: list[Key | None] = []
        sources: list[tuple[str, int]] = []
        for number, draw in enumerate(program.draws):
            owner, place = owners[draw]
            if owner == name and place != number:  # one draw twice
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
    """Programs that know what their source is called, where they are copies: so they keep its key where it is cut off.

    Parameters
    ----------
    programs : mapping of str to Program
        Of all parameters of a model, by their names.

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
    """The program of a tensor that has another name in the definition, where its source may have another, too.

    A copy knows its source by a name of the model that the code made. That is the definition, of which this model is a
    part; or where the copy is called otherwise there, it is this model.

    Parameters
    ----------
    program : Program or None
        The tensor's.
    before, after : str
        Its name in the model, and in the definition.
    rename : callable
        From the former to the latter, see :func:`fastinit.extending.renaming`.

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
    """The parameter that each draw belongs to, and which of its draws it is."""
    owners: dict[str, tuple[str, int]] = {}
    # a parameter that is computed from others' draws comes after those
    ordered = sorted(programs.items(), key=lambda item: isinstance(item[1].initializer, Replayed))
    for name, program in ordered:
        for number, draw in enumerate(program.draws):
            if draw not in owners:
                owners[draw] = (_source(name, program) or name, number)
    return owners


def _source(name: str, program: Program) -> str | None:
    """The name by which a copy draws, that of its source, which may have been cut off; None of what is no copy."""
    if program.origin is None:
        return None
    own, source = program.origin
    if f".{name}".endswith(f".{own}"):  # as it was, or within a larger model
        return name.removesuffix(own) + source
    outside = own.removesuffix(name)  # or a part of it was taken out, with the source or without it
    if f".{own}".endswith(f".{name}") and source.startswith(outside):
        return source.removeprefix(outside)
    return None
