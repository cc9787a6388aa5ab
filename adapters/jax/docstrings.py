"""Docstrings and signatures of the factories derived from fastinit's presets and classes.

This file does not import JAX, so that the reference can be built without it.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import fastinit

__all__ = ["class_form", "of_class", "of_preset", "preset_form"]


def of_preset(name: str, preset: str) -> str:
    """The docstring of the factory `name` for a row of fastinit's presets."""
    row = fastinit.PRESETS[preset]
    fan = {"fan_in": 512, "fan_avg": 384}[row.mode]
    return f"""Var(W) = {row.scale:g} / {row.mode}, distribution {row.distribution}. {row.source}.

    Parameters
    ----------
    in_axis, out_axis, batch_axis, dtype, groups, transposed, stride, blocks
        As in :func:`variance_scaling`.

    Returns
    -------
    jax.nn.initializers.Initializer
        ``init(key, shape, dtype, out_sharding)``.

    Raises
    ------
    TypeError, ValueError
        As :func:`variance_scaling`.

    Examples
    --------
    >>> import jax
    >>> from fastinit.adapters import jax as initializers
    >>> kernel = initializers.{name}()(jax.random.key(0), (512, 256))
    >>> print(f"{{kernel.std():.2f}}")
    {math.sqrt(row.scale / fan):.2f}
    """


def preset_form(
    in_axis: int | Sequence[int] = -2,
    out_axis: int | Sequence[int] = -1,
    batch_axis: int | Sequence[int] = (),
    dtype: Any = None,
    *,
    groups: int = 1,
    transposed: bool = False,
    stride: int | Sequence[int] = 1,
    blocks: int = 1,
) -> Initializer:  # type: ignore[name-defined]  # noqa: F821
    """The signature of the factory of a preset."""


def of_class(own: Callable[..., Any]) -> str:
    """The docstring of the factory for a class of fastinit."""
    first, *sections = re.split(r"^(?=\w+\n-{4,}\n)", (inspect.getdoc(own) or "") + "\n", flags=re.MULTILINE)
    parameters = "Parameters\n----------\n"
    if sections and sections[0].startswith(parameters):
        parameters = sections.pop(0).rstrip() + "\n"
    dtype = "dtype : dtype, optional\n    Default dtype of the arrays; JAX's own if None.\n"
    returns = "Returns\n-------\njax.nn.initializers.Initializer\n    ``init(key, shape, dtype, out_sharding)``.\n"
    return "\n".join([first.rstrip() + "\n", parameters + dtype, returns, "".join(sections)]).rstrip()


def class_form(own: Callable[..., Any]) -> inspect.Signature:
    """The signature of the factory for a class of fastinit."""
    dtype = inspect.Parameter("dtype", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="Any")
    return inspect.Signature([*inspect.signature(own).parameters.values(), dtype], return_annotation="Initializer")
