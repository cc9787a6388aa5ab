"""The program of every variable of a built model: its layer's own initializer, as an initializer of fastinit.

Keras drops an initializer after calling it. So the model is built again from its configuration, separately and without
values; if Keras cannot do that, each layer is built again. The variables of such a twin hold their initializers and the
values that code assigned. A model built inside :func:`recorded` needs no twin, because its own variables hold them.

Keras's and fastinit's classes become initializers of fastinit, with Keras's fans. Other initializers are called twice
under different seeds. Equal results become a table of values. Different results are computed again by Keras, with a
seed from the key, if Keras can write the initializer to a configuration and read it. The same holds for values that a
layer computes from draws in its ``build``. Only initializers that Keras cannot write have no program.
"""

from __future__ import annotations

import base64
import copy
import json
import re
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple

import keras
import numpy as np

import fastinit
from fastinit import Blocks, Box, Constant, Initializer, Key, Ones, Painted, Program, Replayed
from fastinit.adapters.keras import initializers as ours
from fastinit.adapters.keras.bases import AsOfShape, Filling
from fastinit.adapters.keras.internals import (
    apart,
    bias_with_forget_gate,
    inner_layers,
    layers_of,
    made_with,
    noting,
    own_state,
    own_variables,
    seeded,
    twin_of,
)
from fastinit.adapters.keras.names import role_of
from fastinit.adapters.keras.versions import with_axes
from fastinit.extending import of_elements, runs_graphs

__all__ = ["programs_of", "recorded"]

SEEDS: Final = (1, 2)

Role = tuple[str, tuple[int, ...]]
"""A variable within its layer: its role and its shape."""


def recorded() -> AbstractContextManager[None]:
    """A context in which the variables of new layers keep their initializers.

    It is needed for layers that Keras cannot build again from their configuration, such as layers without
    ``get_config`` whose constructor takes a function. Values are drawn as usual.

    Examples
    --------
    >>> import keras
    >>> from fastinit.adapters.keras import initialize, recorded
    >>> class Scale(keras.layers.Layer):
    ...     def __init__(self, start):
    ...         super().__init__(name="scale")
    ...         self.factor = self.add_weight(shape=(2,), initializer=start, name="factor")
    >>> with recorded():
    ...     scale = Scale(keras.initializers.Constant(3.0))
    >>> initialize(scale, seed=0)["factor"].initializer
    Constant(value=3.0)
    """
    return noting()


class _Made(NamedTuple):
    """The origin of a variable: an initializer, a function or an array. Arrays come from two builds."""

    source: Any
    again: Any = None
    built: _Built | None = None


class _Built(NamedTuple):
    """Position of a variable in a built layer: the index of the inner layer, and the index within its role."""

    holder: Any
    layer: int
    role: Role
    place: int


def programs_of(model: Any, layers: Iterable[Any], names: dict[int, str]) -> dict[int, Program]:
    """The known programs of layers' variables, by the variable's identity.

    Parameters
    ----------
    model : keras.Layer
        A built model.
    layers : iterable of keras.Layer
        The layers within it that created the variables.
    names : dict of int to str
        The canonical name of each variable, by its identity, for the names of draws.
    """
    found = {}
    twins: _Twins = {}
    with seeded(SEEDS[0]):
        holders = _holders(model)
        for layer in layers:
            made = _made(layer, holders[id(layer)], twins)
            for variable in own_variables(layer):
                if id(variable) not in made or id(variable) not in names:
                    continue
                dtype = keras.backend.standardize_dtype(variable.dtype)
                one = made[id(variable)]
                one = one._replace(source=with_axes(one.source, layer, role_of(variable)))
                translated = _translated(one, tuple(variable.shape), dtype)
                if translated is not None:
                    draws = tuple(f"{names[id(variable)]}:{number}" for number in range(translated.draws))
                    found[id(variable)] = Program(translated.initializer, draws, operators=translated.operators)
    return found


# Origins of variables


class _Twin(NamedTuple):
    """The origins of the variables of each layer within a twin, in order; empty if it cannot be built."""

    sources: list[tuple[type, str, dict[Role, list[Any]]]]

    def of(self, layer: Any, number: int) -> dict[Role, list[Any]]:
        """The origins for the layer with this number, if it is this layer's twin."""
        if number >= len(self.sources):
            return {}
        kind, name, found = self.sources[number]
        named = number == 0 or name == _unnumbered(layer.name)  # a configuration may lack the name
        return found if kind is type(layer) and named else {}


# By the seed and the identity of the original layer.
_Twins = dict[tuple[int, int], _Twin]


def _unnumbered(name: str) -> str:
    """A name without a number that Keras may have added."""
    return re.sub(r"_\d+$", "", name)


def _made(layer: Any, holders: Sequence[Any], twins: _Twins) -> dict[int, _Made]:
    """The origins of a layer's variables, by their identity.

    The sources are, in this order: the variables themselves; a twin of the layer or of a parent, outermost first,
    because a parent may have assigned other values; and the layer's attributes, if Keras's own code builds the layer.
    """
    mine = own_variables(layer)
    found = {id(one): _Made(made_with(one)) for one in mine if made_with(one) is not None}
    for holder in (*holders, layer):
        if len(found) == len(mine):
            break
        found = _by_a_twin(layer, holder, twins) | found
    return _by_attributes(layer) | found


def _holders(model: Any) -> dict[int, list[Any]]:
    """The parents of each layer within a model, outermost first, by the layer's identity."""
    found: dict[int, list[Any]] = defaultdict(list)
    for holder in layers_of(model):
        for inner in inner_layers(holder):
            found[id(inner)].append(holder)
    return found


def _by_a_twin(layer: Any, holder: Any, twins: _Twins) -> dict[int, _Made]:
    number = next(n for n, one in enumerate(layers_of(holder)) if one is layer)
    first = _twin(holder, SEEDS[0], twins).of(layer, number)
    arrays = any(_is_array(source) for listed in first.values() for source in listed)
    second = _twin(holder, SEEDS[1], twins).of(layer, number) if arrays else first
    found: dict[int, _Made] = {}
    for role, variables in _by_role([*own_variables(layer), *own_state(layer)]).items():
        one, two = first.get(role, []), second.get(role, [])
        if len(one) == len(two) == len(variables):
            for place, (variable, source, again) in enumerate(zip(variables, one, two, strict=True)):
                found[id(variable)] = _Made(source, again, _Built(holder, number, role, place))
    return found


def _twin(holder: Any, seed: int, twins: _Twins) -> _Twin:
    if (id(holder), seed) not in twins:
        twins[id(holder), seed] = _Twin(_sources(lambda: twin_of(holder), seed))
    return twins[id(holder), seed]


def _sources(build: Callable[[], Any], seed: int) -> list[tuple[type, str, dict[Role, list[Any]]]]:
    """The origins of the variables of each layer within a new one. Values assigned later by code are arrays."""
    listed: list[tuple[type, str, dict[Role, list[Any]]]] = []
    with seeded(seed), apart() as scope, noting(arrays_too=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            layers = list(layers_of(build()))
        except Exception:  # the author's code may raise anything; then the origins are unknown
            return listed
        for twin in layers:
            found: dict[Role, list[Any]] = defaultdict(list)
            for role, variables in _by_role([*own_variables(twin), *own_state(twin)]).items():
                for variable in variables:
                    assigned = scope.get_current_value(variable)
                    found[role].append(made_with(variable) if assigned is None else _array(assigned))
            listed.append((type(twin), _unnumbered(twin.name), found))
    return listed


def _by_role(variables: Iterable[Any]) -> dict[Role, list[Any]]:
    found: dict[Role, list[Any]] = defaultdict(list)
    for variable in variables:
        found[role_of(variable), tuple(variable.shape)].append(variable)
    return found


def _by_attributes(layer: Any) -> dict[int, _Made]:
    """The initializer attributes of a layer built by Keras's own method, such as ``gamma_initializer`` for gamma."""
    builder = next((cls for cls in type(layer).__mro__ if "build" in vars(cls)), None)
    if builder is None or builder.__module__.partition(".")[0] != "keras" or hasattr(layer, "unit_forget_bias"):
        return {}
    found = {}
    for variable in own_variables(layer):
        role = role_of(variable)
        for name in (role, role.removesuffix("_kernel")):
            initializer = getattr(layer, f"{name}_initializer", None)
            if callable(initializer):
                found[id(variable)] = _Made(initializer)
    return found


def _is_array(source: Any) -> bool:
    return not callable(source)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _array(tensor: Any) -> np.ndarray:
    """The values in the widest dtype that they need."""
    if not keras.ops.is_tensor(tensor):
        return np.asarray(tensor)
    if keras.backend.standardize_dtype(tensor.dtype) in ("bfloat16", "float16"):
        tensor = keras.ops.cast(tensor, "float32")
    return np.asarray(keras.ops.convert_to_numpy(tensor))


# Conversion to initializers of fastinit


class _Translated(NamedTuple):
    initializer: Initializer
    draws: int
    operators: tuple[str, ...]


def _translated(made: _Made, shape: tuple[int, ...], dtype: str) -> _Translated | None:
    """The initializer that fills a variable as its author's code does; None if unknown."""
    if _is_array(made.source):
        values, again = _array(made.source), _array(made.source if made.again is None else made.again)
        if _same(values, again):
            return _table(values, shape, "array")
        return None if made.built is None else _rebuilt(made.built, values, shape)
    return _plain(made.source, shape) or _forgetting(made.source, shape, dtype) or _called(made.source, shape, dtype)


def _name(source: Any) -> str:
    return str(getattr(source, "__name__", type(source).__name__))


def _table(values: np.ndarray, shape: tuple[int, ...], name: str) -> _Translated | None:
    """Given values: a constant if all are equal, otherwise a table."""
    wide = np.ascontiguousarray(
        np.broadcast_to(values, shape), np.float64 if values.dtype == np.float64 else np.float32
    )
    if wide.size and (wide == wide.flat[0]).all():
        return _Translated(Constant(float(wide.flat[0])), 0, (name,))
    data = base64.b64encode(zlib.compress(wide.astype(wide.dtype.newbyteorder("<")).tobytes())).decode()
    return _replayed(shape, name, 0, dtype=str(wide.dtype), data=data)


def _replayed(shape: tuple[int, ...], name: str, draws: int, **own: Any) -> _Translated:
    graph = {"framework": "keras", "shape": list(shape), "operators": [name], "draws": draws, **own}
    return _Translated(Replayed(json.dumps(graph, sort_keys=True)), draws, (name,))


# The distributions of Keras's classes, from fastinit's class of the same name, by the class that defines the call.
_ARGUMENTS: Final[dict[Any, tuple[str, ...]]] = {
    keras.initializers.Zeros: (),
    keras.initializers.Ones: (),
    keras.initializers.Constant: ("value",),
    keras.initializers.Identity: ("gain",),
    keras.initializers.RandomNormal: ("mean", "stddev"),
    keras.initializers.TruncatedNormal: ("mean", "stddev"),
    keras.initializers.RandomUniform: ("minval", "maxval"),
    keras.initializers.VarianceScaling: ("scale", "mode", "distribution"),
    keras.initializers.Orthogonal: ("gain",),
}


def _plain(source: Any, shape: tuple[int, ...]) -> _Translated | None:
    """The distribution of one of Keras's or fastinit's own classes; None for others, or without a counterpart."""
    owner = next((cls for cls in type(source).__mro__ if "__call__" in vars(cls)), None)
    if owner is not None and owner in _ARGUMENTS:
        if owner is keras.initializers.Constant and not isinstance(source.value, (int, float)):
            return _table(_array(source.value), shape, _name(source))
        given = {name: getattr(source, name) for name in _ARGUMENTS[owner]}
        if owner is keras.initializers.VarianceScaling:  # whose axes some releases of Keras do not have
            given |= {name: getattr(source, name, None) for name in ("input_axes", "output_axes")}
        filling = getattr(ours, owner.__name__)(**given)
    elif isinstance(source, Filling) and owner in (Filling, ours.Constant):
        filling = source
    else:
        return None
    try:
        found = filling.fastinit_initializer(shape)
        found.check(shape, "float32")
    except (TypeError, ValueError, ArithmeticError):
        return None
    if isinstance(found, AsOfShape):  # with fans that match no layout
        found = of_elements(found, shape) or found
    return _Translated(found, int(_draws(found, shape)), (_name(source),))


def _draws(initializer: Initializer, shape: tuple[int, ...]) -> bool:
    elements = of_elements(initializer, shape)
    fixed = (fastinit.Identity, fastinit.ZerO, fastinit.Dirac)
    return not isinstance(initializer, fixed) if elements is None else not isinstance(elements, Constant)


def _forgetting(source: Any, shape: tuple[int, ...], dtype: str) -> _Translated | None:
    """The bias of an LSTM, with 1 for the forget gate; None for anything else."""
    others = bias_with_forget_gate(source)
    if others is None:
        return None
    units = shape[0] // 4
    before, after = (_translated(_Made(others), (count,), dtype) for count in (units, 2 * units))
    if before is None or after is None:
        return None
    operators = (*before.operators, "unit_forget_bias")
    if isinstance(before.initializer, fastinit.ElementwiseInitializer) and not before.draws:
        gate = before.initializer
        return _Translated(Blocks((gate, Ones(), gate, gate)), 0, operators)
    boxes = (Box((0,), (units,), before.initializer, 0), Box((2 * units,), (2 * units,), after.initializer, 1))
    return _Translated(Painted(Ones(), boxes), 2, operators)


# Replay by Keras


def _called(source: Any, shape: tuple[int, ...], dtype: str) -> _Translated | None:
    """Other callables: a table if deterministic, a graph if Keras can write it, otherwise None."""
    config = _config(source)
    call = _call if config is None else _call_of_config
    try:
        first, other = (call(source if config is None else config, shape, dtype, seed) for seed in SEEDS)
        if first.shape != shape:
            return None
        if _same(first, other):
            if config is None:
                return _table(first, shape, _name(source))
            return _replayed(shape, _name(source), 0, dtype=dtype, config=config)
        # an unseeded generator, such as TensorFlow's own, gives other numbers each time
        if config is None or not np.array_equal(first, call(config, shape, dtype, SEEDS[0])):
            return None
    except Exception:
        return None
    return _replayed(shape, _name(source), 1, dtype=dtype, config=config)


def _rebuilt(built: _Built, values: np.ndarray, shape: tuple[int, ...]) -> _Translated | None:
    """Values computed from draws and assigned: builds the layer again. None if Keras cannot write the layer."""
    config, shapes = _config(built.holder), built.holder.get_build_config()
    try:
        layer = json.loads(json.dumps({"twin": config, "shapes": shapes, "layer": built.layer, "place": built.place}))
    except TypeError:
        return None
    name, own_shape = built.role
    layer |= {"role": [name, list(own_shape)]}
    if config is None or not _same(values, _value_of(layer, SEEDS[0])):
        return None
    return _replayed(shape, f"{type(built.holder).__name__}.build", 1, **layer)


def _value_of(graph: Any, seed: int) -> np.ndarray:
    """The value of a variable in a layer built from its configuration under a seed."""

    def build() -> Any:
        layer = keras.saving.deserialize_keras_object(_with_seed(graph["twin"], seed))
        if not layer.built and graph["shapes"]:
            layer.build_from_config(graph["shapes"])
        return layer

    listed = _sources(build, seed)
    name, shape = graph["role"]
    return _array(listed[graph["layer"]][2][name, tuple(shape)][graph["place"]])


def _config(source: Any) -> Any:
    """A JSON configuration from which Keras builds the same initializer; None if there is none."""
    try:
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(source)))
        made = keras.saving.deserialize_keras_object(config)
    except Exception:
        return None
    return config if callable(made) and not isinstance(made, type) else None


def _with_seed(config: Any, seed: int) -> Any:
    """A configuration with all its seeds replaced by this one."""
    if isinstance(config, list):
        return [_with_seed(one, seed) for one in config]
    if isinstance(config, dict):
        return {name: seed if name == "seed" else _with_seed(one, seed) for name, one in config.items()}
    return config


def _call_of_config(config: Any, shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    return _call(keras.saving.deserialize_keras_object(_with_seed(config, seed)), shape, dtype, seed)


def _call(source: Any, shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    if hasattr(source, "seed"):  # an author's object with a seed, as in Keras's classes
        source = copy.copy(source)
        source.seed = seed
    with seeded(seed):
        return _array(source(shape, dtype=dtype))


@runs_graphs("keras")
def run(graph: Any, keys: Sequence[Key], num_threads: int | None, target: str | None) -> np.ndarray:
    """The values of a graph: a table, or those of Keras's initializer with a seed from the key."""
    shape = tuple(graph["shape"])
    if "data" in graph:
        values = np.frombuffer(
            zlib.decompress(base64.b64decode(graph["data"])), np.dtype(graph["dtype"]).newbyteorder("<")
        )
        return values.reshape(shape)
    seed = keys[0].words[0] >> 1 if keys else SEEDS[0]
    if "twin" in graph:
        return _value_of(graph, seed)
    return _call_of_config(graph["config"], shape, graph["dtype"], seed)
