"""Explains a broken installation in one line. Uses the standard library only and runs on any Python 3.

Three problems are recognized: the compiled core is not built for this Python; NumPy is missing; or the unrelated
distribution ``fastinit`` was installed into the folder of this package, where it overwrites files of the same names.
"""

import importlib.machinery
import importlib.util
import os
import sys
import warnings

__all__ = ["explained", "unrelated", "warn_of_unrelated"]

FOLDER = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(FOLDER)
OLDEST = (3, 11)


def explained(error: ImportError) -> ImportError:
    """An error that explains a failed import of the compiled core; `error` itself if the cause is unknown.

    Parameters
    ----------
    error : ImportError
        The error of ``from fastinit import _core``.

    Examples
    --------
    >>> print(explained(ModuleNotFoundError("No module named 'numpy'", name="numpy")))  # doctest: +ELLIPSIS
    fastinit needs NumPy, which ... does not have: ...
    """
    version, python = "{}.{}".format(*sys.version_info), sys.executable
    if sys.version_info < OLDEST:
        return ImportError(f"fastinit needs Python {'.'.join(map(str, OLDEST))} or newer; {python} is Python {version}")
    if error.name == "numpy":
        return ImportError(f"fastinit needs NumPy, which {python} does not have: {_remedy()}")
    if importlib.util.find_spec("fastinit._core") is not None:  # it exists: its own error is better
        return error
    return ImportError(f"fastinit's compiled core is not built for Python {version} ({python}): {_remedy()}")


def _remedy() -> str:
    if not os.path.exists(os.path.join(FOLDER, "_core.pyx")):
        return "install the package with this Python's pip"
    remedy = f"run `make demo` in {ROOT}, then use its .venv/bin/python"
    # a Python started in the checkout finds the sources first
    others = [os.path.join(place, "fastinit") for place in sys.path if os.path.abspath(place) != ROOT]
    found = importlib.machinery.PathFinder.find_spec("fastinit._core", others)
    if found is not None and found.origin is not None:
        installed = os.path.dirname(found.origin)
        remedy += f", or start Python outside of {ROOT} to use the package installed in {installed}"
    return remedy


def unrelated() -> "str | None":
    """Name and version of the unrelated distribution if it is installed in the same place; None otherwise.

    Examples
    --------
    >>> unrelated() is None
    True
    """
    try:
        names = os.listdir(ROOT)
    except OSError:  # the package is inside an archive
        return None
    for name in names:
        # require a version after the name: an older spelling of fastinit-weights has the same prefix
        if name.startswith("fastinit-") and name[9:10].isdigit() and name.endswith((".dist-info", ".egg-info")):
            return name.rpartition(".")[0].replace("-", " ", 1)
    return None


_WHAT_TO_DO = (
    "files of one replace files of the other. Uninstall both (`pip uninstall fastinit fastinit-weights`), then install "
    "fastinit-weights again"
)


def warn_of_unrelated() -> None:
    """Warns if the unrelated distribution shares the folder of this one."""
    name = unrelated()
    if name is not None:
        text = f"the unrelated distribution {name} shares the folder {FOLDER} with fastinit-weights: {_WHAT_TO_DO}"
        warnings.warn(text, RuntimeWarning, stacklevel=3)


# This module is ours, but __init__.py belongs to another package, or was removed by its uninstallation.
if getattr(sys.modules["fastinit"], "__distribution__", None) != "fastinit-weights":
    raise ImportError(
        f"the package in {FOLDER} is not fastinit-weights alone: the unrelated distribution `fastinit` is, or was, "
        f"installed over it, and {_WHAT_TO_DO}"
    )
