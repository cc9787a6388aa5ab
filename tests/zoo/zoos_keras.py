"""Models of Keras that others wrote: keras.applications, and the backbones of KerasHub.

    zoo = {architecture.name: architecture for architecture in applications_zoo()}
    model = zoo["keras.applications/ResNet50"].build()

Nothing is downloaded. A backbone is constructed as its own documentation constructs it, and where that shows nothing,
with small numbers for the arguments that have no default.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from zoos import ASIDE, Architecture, NotByItself

# keras.applications

# Sides of images, the smallest that some architecture takes first.
SIDES = (32, 80, 160)


def applications_zoo() -> Iterator[Architecture]:
    """Every function of keras.applications that makes a model, at its own size."""
    for name, function in sorted(vars(keras.applications).items()):
        if callable(function) and "weights" in inspect.signature(function).parameters:
            yield Architecture(
                f"keras.applications/{name}",
                functools.partial(application, name),
                lambda name=name: functools.partial(application, name, SIDES),  # type: ignore[misc]
            )


def application(name: str, sides: Sequence[int] = ()) -> Any:
    """A model of keras.applications; with few classes and the first side of images that it takes, where some are given.

    Raises NotByItself where its author refuses, as some do on some backends.
    """
    function, problem = getattr(keras.applications, name), ""
    for options in [{"classes": 10, "input_shape": (side, side, 3)} for side in sides] or [{}]:
        try:
            return function(weights=None, **options)
        except ValueError as error:
            problem = str(error)
    raise NotByItself(problem)


# KerasHub


@functools.cache
def load_keras_hub() -> Any:
    """The module keras_hub.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed.
    """
    if importlib.util.find_spec("keras_hub") is None and ASIDE.is_dir():
        sys.path.append(str(ASIDE))
        importlib.invalidate_caches()
    return importlib.import_module("keras_hub")


def keras_hub_zoo() -> Iterator[Architecture]:
    """Every backbone of KerasHub, with few layers and rows."""
    models = load_keras_hub().models
    found = {one for one in vars(models).values() if isinstance(one, type) and issubclass(one, models.Backbone)}
    for backbone in sorted(found - {models.Backbone}, key=lambda one: one.__name__):
        yield Architecture(f"keras_hub/{backbone.__name__}", functools.partial(_backbone, backbone))


# Arguments of which there are fewer than in the documentation.
MOST = {
    "vocabulary_size": 500,
    "vocab_size": 500,
    "num_layers": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "depth": 2,
}
# Arguments without a default, where no example says what they may be.
SMALL = MOST | {
    "context_dim": 32,
    "embedding_dim": 64,
    "head_dim": 16,
    "hidden_dim": 64,
    "hidden_size": 64,
    "image_shape": (32, 32, 3),
    "image_size": 32,
    "intermediate_dim": 96,
    "max_sequence_length": 16,
    "mlp_dim": 96,
    "moe_intermediate_dim": 48,
    "num_experts": 4,
    "num_frames": 2,
    "num_heads": 4,
    "num_key_value_heads": 2,
    "num_layers_dec": 2,
    "num_layers_enc": 2,
    "num_query_heads": 4,
    "num_spatial_layers": 2,
    "num_temporal_layers": 2,
    "patch_size": 8,
    "shared_expert_intermediate_dim": 48,
    "top_k": 2,
}


def _backbone(backbone: Any) -> Any:
    problems = []
    for construct in (_as_documented, _by_small_arguments):
        try:
            return construct(backbone)
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
    raise NotByItself("; ".join(problems))


def _as_documented(backbone: Any) -> Any:
    """What the first call of a class in its own documentation gives, with smaller numbers."""
    examples = re.findall(r"```(?:python)?\n(.*?)```", inspect.getdoc(backbone) or "", re.DOTALL)
    for example in examples:
        hub = load_keras_hub()
        names = {"np": np, "numpy": np, "keras": keras, "keras_hub": hub} | vars(hub.models)
        try:
            statements = ast.parse(inspect.cleandoc(example)).body
        except SyntaxError:
            continue
        for statement in statements:
            if "from_preset" in ast.unparse(statement):  # which would be downloaded
                continue
            _reduce(statement)
            for call in ast.walk(statement):
                if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] == backbone.__name__:
                    return eval(compile(ast.Expression(call), "documentation", "eval"), names)
            if isinstance(statement, (ast.Assign, ast.Import, ast.ImportFrom)):
                with contextlib.suppress(Exception):  # what comes later may not need it
                    exec(compile(ast.Module([statement], []), "documentation", "exec"), names)
    raise LookupError("its documentation shows no construction")


def _reduce(tree: ast.AST) -> None:
    for argument in ast.walk(tree):
        if isinstance(argument, ast.keyword) and argument.arg in MOST and isinstance(argument.value, ast.Constant):
            argument.value.value = min(argument.value.value or 0, MOST[argument.arg])


def _by_small_arguments(backbone: Any) -> Any:
    needed = [
        name
        for name, parameter in inspect.signature(backbone).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return backbone(**{name: SMALL[name] for name in needed})
