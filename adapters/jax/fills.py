"""Fills in traced functions: the host computes each device's piece when the compiled function runs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import fastinit
from fastinit import Key
from fastinit.adapters.jax.internals import primitive, without_mesh
from fastinit.adapters.jax.own import EXPORTED, say_once
from fastinit.extending import DTYPES, new_memory, shown

__all__ = ["EVERYWHERE", "Fill", "fill", "mesh_size", "place_of_device"]

EVERYWHERE = PartitionSpec()  # type: ignore[no-untyped-call]
DEVICES = "devices"


@dataclass(frozen=True, eq=False)
class Fill:
    """The values of an array, for any key.

    `shape` is the whole array's shape. `pieces`, if given, counts the equal pieces along each axis. A fill then
    computes the piece named by the operand `place`.
    """

    initializer: fastinit.Initializer
    shape: tuple[int, ...]
    dtype: Any
    pieces: tuple[int, ...] | None = None
    # JAX's own initializer from a key's words, for programs that run without this process
    own: Callable[[Any], jax.Array] | None = None

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Fill)
            and self.kind == other.kind
            and self.initializer == other.initializer
            and self.own == other.own  # the same object: JAX's may differ for equal ones of fastinit
        )

    def __hash__(self) -> int:  # JAX compiles equal ones once
        return hash(self.kind)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Everything except the initializer's parameters, which may be unhashable."""
        return type(self.initializer), self.shape, self.dtype, self.pieces

    def memory(self, words: Any, place: Any = None) -> np.ndarray:
        """Filled host memory: one array per key, whose words are the last axis of `words`."""
        local, part = self.shape, dict[str, Any]()
        if place is not None:
            numbers, pieces = np.asarray(place).tolist()
            local = _divided(self.shape, pieces)
            offsets = [number * size for number, size in zip(numbers, local, strict=True)]
            part = {"global_shape": self.shape, "offsets": offsets}
        words = np.asarray(words)
        keys = words.reshape(-1, words.shape[-1]).tolist()
        memory = new_memory((*words.shape[:-1], *local), DTYPES[self.dtype.name])
        arrays = memory.reshape(len(keys), *local)
        for index, own in enumerate(keys):
            key = Key.from_words(*own)
            fastinit.fill(arrays[index, ...], self.initializer, key, dtype=self.dtype.name, **part)
        return memory.view(self.dtype)


def _divided(shape: Sequence[int], pieces: Sequence[int]) -> tuple[int, ...]:
    return tuple(size // count for size, count in zip(shape, pieces, strict=True))


def place_of_device(axes: Sequence[Any], pieces: Sequence[int]) -> jax.Array:
    """This device's piece: its number along each axis, and the number of pieces.

    `axes` has, for each axis of the array, the names of the mesh axes that split it, or None.
    """
    numbers = [0 if names is None else jax.lax.axis_index(names) for names in axes]
    return jnp.array([numbers, [*pieces]], jnp.int32)


def _shape(words: tuple[int, ...], *_: Any, work: Fill) -> tuple[int, ...]:
    return (*words[:-1], *(work.shape if work.pieces is None else _divided(work.shape, work.pieces)))


def _eager(words: Any, *place: Any, work: Fill) -> Any:
    # compiled even under jax.disable_jit, to avoid a second call; and once for all equal draws
    with jax.disable_jit(False):
        return _compiled(words, *place, work=replace(work, own=None))


@functools.partial(jax.jit, static_argnames="work")
def _compiled(*operands: Any, work: Fill) -> Any:
    return fill(*operands, work=work)


def _batched(operands: Sequence[Any], axes: Sequence[Any], *, work: Fill) -> tuple[Any, int]:
    words, *place = operands
    axis, *others = axes
    if others not in ([], [None]):
        raise NotImplementedError("a fill of one piece of an array for each element of a batch")
    return fill(jnp.moveaxis(words, axis, 0), *place, work=work), 0


def _host(work: Fill) -> Callable[..., Any]:
    return lambda *operands: (work.memory(*operands),)


def _elsewhere(work: Fill) -> Callable[..., Any]:
    def called(words: Any, *place: Any) -> Any:
        result = jax.ShapeDtypeStruct(_shape(words.shape, work=work), work.dtype)  # type: ignore[no-untyped-call]
        array = jax.pure_callback(work.memory, result, words, *place)
        # with several devices, the host's result is on one of them; JAX can return it only after the barrier spreads it
        return jax.lax.optimization_barrier(array)  # type: ignore[no-untyped-call]

    return called


def _exported(work: Fill) -> Callable[..., Any]:
    if work.own is None:
        raise ValueError(
            f"{shown(work.initializer)} cannot be exported: this process computes its values at run time. Pass "
            "the initialized array to the function, or use an initializer of jax.nn.initializers"
        )
    say_once(*EXPORTED)

    def own(words: Any, *place: Any) -> Any:
        assert work.own is not None
        whole = work.own
        for _ in words.shape[:-1]:
            whole = jax.vmap(whole)
        array = whole(words)
        if not place:
            return array
        local, lead = _shape(words.shape, work=work), words.ndim - 1
        starts = [0] * lead + [place[0][0, axis] * size for axis, size in enumerate(local[lead:])]
        return jax.lax.dynamic_slice(array, starts, local)

    return own


def _program(work: Fill, call: Callable[..., Any], devices: Sequence[Any]) -> Callable[..., Any]:
    """The host callback for the whole array, or for every device's piece once JAX has split it."""

    def called(words: Any, *place: Any) -> Any:
        return call(words, *place, shape=_shape(words.shape, work=work), dtype=work.dtype)

    def partition(mesh: Any, operands: Any, result: Any) -> Any:
        sharding, places, pieces = _cut(result.sharding, result.shape, devices)
        lead = len(result.shape) - len(work.shape)

        @without_mesh
        def piece(words: Any) -> Any:
            place = jax.lax.dynamic_index_in_dim(places, jax.lax.axis_index(DEVICES), keepdims=False)
            for axis, count in enumerate(pieces[:lead]):  # the keys of this part of a batch
                size = words.shape[axis] // count
                words = jax.lax.dynamic_slice_in_dim(words, place[0, axis] * size, size, axis)
            return call(words, place[:, lead:], shape=_divided(result.shape, pieces), dtype=work.dtype)

        everywhere = _everywhere(devices)
        return everywhere.mesh, piece, sharding, (everywhere,)

    def whole_everywhere(mesh: Any, operands: Any, result: Any) -> Any:
        return _everywhere(devices)

    split: Any = custom_partitioning(called)  # type: ignore[no-untyped-call]

    def program(words: Any, *place: Any) -> Any:
        if place or not devices:
            return called(words, *place)
        batch = [f"b{axis}" for axis in range(words.ndim - 1)]
        axes = [f"a{axis}" for axis in range(len(work.shape))]
        split.def_partition(
            partition,
            infer_sharding_from_operands=whole_everywhere,
            propagate_user_sharding=lambda mesh, user: user.sharding,
            decode_shardings=False,  # into names of one mesh, because a program may have several, or none
            sharding_rule=f"{' '.join([*batch, 'words'])} -> {' '.join([*batch, *axes])}",
            need_replication_factors=("words",),
        )
        return split(words)

    return program


def mesh_size(mesh: Any, names: Any) -> int:
    """The number of pieces of an array axis that is split over these mesh axes."""
    if names is None:
        return 1
    return math.prod(mesh.shape[name] for name in ([names] if isinstance(names, str) else names))


def _everywhere(devices: Sequence[Any]) -> NamedSharding:
    return NamedSharding(Mesh(np.array(devices), (DEVICES,)), EVERYWHERE)


def _cut(sharding: Any, shape: tuple[int, ...], devices: Sequence[Any]) -> tuple[Any, np.ndarray, list[int]]:
    """A sharding, the place of each device's piece (:func:`place_of_device`), and the number of pieces along each axis.

    If the pieces would not be equal, the sharding places the whole array on every device.
    """
    try:
        local = sharding.shard_shape(shape)
    except ValueError:
        sharding, local = _everywhere(devices), shape
    indices = sharding.devices_indices_map(shape)
    numbers = [
        [(part.start or 0) // size if size else 0 for part, size in zip(indices[device], local, strict=True)]
        for device in devices
    ]
    pieces = [whole // size if size else 1 for whole, size in zip(shape, local, strict=True)]
    return sharding, np.array([[own, pieces] for own in numbers], np.int32), pieces  # NumPy's: of no mesh


fill = primitive(
    "fastinit_fill",
    shape=_shape,
    eager=_eager,
    batched=_batched,
    host=_host,
    program=_program,
    elsewhere=_elsewhere,
    exported=_exported,
)
