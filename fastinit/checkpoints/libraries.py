"""What the adapters offer to checkpoints, by name: the only module of the library that opens an adapter.

An adapter is imported when it is needed for the first time. What it needs beside its framework is imported with it, so
that one error says which package is missing.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

__all__ = [
    "LIBRARIES",
    "SAFETENSORS",
    "Library",
    "built_plan",
    "foreign_marks",
    "opened",
    "pretrained_plan",
    "run_operators",
    "saving",
]


class Library(NamedTuple):
    """A format of checkpoints that a library of its own writes and reads.

    Examples
    --------
    >>> LIBRARIES["keras"].suffix, LIBRARIES["dcp"].marks
    ('.weights.h5', ('.metadata',))
    """

    saves: str
    """The adapter's function ``save(plan, path, advance=...)``."""
    reads: str
    """The adapter's class, a :class:`fastinit.checkpoints.Checkpoint` that takes the path."""
    package: str
    """What the adapter imports later, when it saves or reads."""
    suffix: str | None = None
    """The end of a file's name; None for a folder."""
    marks: tuple[str, ...] = ()
    """Names in a folder that tell that it is such a checkpoint."""
    names: str | None = None
    """What the names in such a folder match."""


LIBRARIES: Final[Mapping[str, Library]] = {
    "dcp": Library(
        *("torch.virtual:save", "torch.folders:Folder", "torch.distributed.checkpoint"),
        marks=(".metadata",),
        names=r"\.metadata|__\d+_\d+\.distcp|fastinit\.json",
    ),
    "orbax": Library(
        *("jax.checkpoints:save", "jax.folders:Folder", "orbax.checkpoint"),
        marks=("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt"),
        names=r"_CHECKPOINT_METADATA|_METADATA|_sharding|array_metadatas|commit_success\.txt|d|manifest\.ocdbt"
        r"|ocdbt\.process_\d+|fastinit\.json",
    ),
    "keras": Library("h5py:save", "h5py:File", "h5py", suffix=".weights.h5"),
}
"""The formats, by their names."""
SAFETENSORS: Final = tuple(
    f"{stem}.safetensors{end}" for stem in ("model", "diffusion_pytorch_model") for end in ("", ".index.json")
)
"""Names in a folder that tell that it is a checkpoint of safetensors, which needs no library."""
# The functions of a plan of `config.json`, and of the models that functions build.
_PRETRAINED: Final = "torch.origins:pretrained_plan"
_BUILT: Final = {"keras": "keras.plans:built_plan", "torch": "torch.origins:built_plan"}
# The modules that run operators of graphs.
_OPERATORS: Final = {"torch": "torch.replaying", "keras": "keras.programs"}
# Packages that are called otherwise than what is imported.
_PACKAGES: Final = {"orbax": "orbax-checkpoint", "ml_dtypes": "ml-dtypes"}


@contextmanager
def _installed(what: str) -> Iterator[None]:
    """Says of a package that is missing what needs it, and how it is installed."""
    try:
        yield
    except ModuleNotFoundError as problem:
        missing = str(problem.name).partition(".")[0]
        install = _PACKAGES.get(missing, missing)
        raise ModuleNotFoundError(f"{what} needs {missing}: pip install {install}", name=problem.name) from None


def _loaded(place: str, what: str, package: str | None = None) -> Any:
    """A module of an adapter, ``"torch.replaying"``, or what it holds, ``"torch.origins:built_plan"``."""
    module, _, name = place.partition(":")
    with _installed(what):
        if package is not None:
            importlib.import_module(package)
        found = importlib.import_module(f"fastinit.adapters.{module}")
    return getattr(found, name) if name else found


def foreign_marks(format: str) -> set[str]:
    """Names in a folder that tell that it is a checkpoint of another format than this one.

    Parameters
    ----------
    format : str
        A name of ``LIBRARIES``, or ``"safetensors"``.

    Examples
    --------
    >>> sorted(foreign_marks("orbax"))[:3]
    ['.metadata', 'diffusion_pytorch_model.safetensors', 'diffusion_pytorch_model.safetensors.index.json']
    """
    marks = {name: library.marks for name, library in LIBRARIES.items()} | {"safetensors": SAFETENSORS}
    return {mark for name, own in marks.items() if name != format for mark in own}


def saving(format: str) -> Any:
    """The function that saves a plan in a format.

    Parameters
    ----------
    format : str
        A name of ``LIBRARIES``.

    Raises
    ------
    ModuleNotFoundError
        If a package that it needs is not installed.
    """
    return _loaded(LIBRARIES[format].saves, f"the format {format}", LIBRARIES[format].package)


def opened(format: str, path: str) -> Any:
    """The checkpoint of a path, read by the library of its format.

    Parameters
    ----------
    format : str
        A name of ``LIBRARIES``.
    path : str
        The file or the folder.

    Raises
    ------
    ModuleNotFoundError
        If a package that it needs is not installed.
    OSError, ValueError
        With the path, if it cannot be read or is damaged.
    """
    return _loaded(LIBRARIES[format].reads, f"{path} is a checkpoint of {format} and", LIBRARIES[format].package)(path)


def pretrained_plan(path: str, origin: Any) -> Any:
    """The plan of the model of a ``config.json``.

    Parameters
    ----------
    path : str
        The file.
    origin : Origin
        The choices.

    Raises
    ------
    ModuleNotFoundError
        If a package that it needs is not installed: that of the configuration's library among them.
    """
    plan = _loaded(_PRETRAINED, "this source")
    with _installed("this source"):
        return plan(path, origin)


def built_plan(framework: str) -> Any:
    """The function that gives the plan of the model that a function builds.

    Parameters
    ----------
    framework : {"keras", "torch"}
        The framework of the model.

    Raises
    ------
    ModuleNotFoundError
        If a package that it needs is not installed.
    """
    return _loaded(_BUILT[framework], "this source")


def run_operators(frameworks: Iterable[str]) -> None:
    """Makes graphs of some frameworks' operators run, as far as an adapter knows the framework.

    Parameters
    ----------
    frameworks : iterable of str
        As of :attr:`fastinit.checkpoints.Plan.frameworks`.

    Raises
    ------
    ModuleNotFoundError
        If a package that it needs is not installed.
    """
    for framework in sorted(set(frameworks) & set(_OPERATORS)):
        _loaded(_OPERATORS[framework], f"a tensor is made by operators of {framework}: this")
