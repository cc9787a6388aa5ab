"""Arrays of a plan, of which each device computes its own piece, and their checkpoint by orbax."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Sharding

from fastinit.adapters.jax.folders import array_store, chunks
from fastinit.checkpoints import PLAN_FILE, Plan, Virtual
from fastinit.extending import in_stream_environment, shown

__all__ = ["arrays", "save"]

# Bytes of a chunk where one process saves everything.
_PIECE: Final = 2**26


@in_stream_environment
def arrays(
    plan: Plan | str | os.PathLike[str],
    shardings: Sharding | Mapping[str, Sharding] | None = None,
    *,
    advance: Callable[[int], object] | None = None,
) -> dict[str, jax.Array]:
    """The arrays of a plan. Each process computes the pieces of its own devices and holds nothing else.

    Parameters
    ----------
    plan : Plan or path
        The tensors.
    shardings : Sharding or mapping of str to Sharding, optional
        The sharding of every array, or of each by its name. By default arrays are whole on the default device, or on
        every device where there are several processes; so are those that the mapping lacks.
    advance : callable, optional
        Called with the number of bytes of each piece that was computed.

    Returns
    -------
    dict of str to jax.Array
        By the plan's names. Together the pieces have the bytes of :func:`fastinit.checkpoints.write`.

    Raises
    ------
    TypeError
        By name, for a dtype that JAX lacks, also float64 and int64 without ``jax_enable_x64``.
    ValueError
        For a sharding of a name that the plan lacks, for tensors without values, and JAX's own errors.

    Examples
    --------
    >>> import fastinit
    >>> from fastinit.adapters import jax as initializers
    >>> from fastinit.checkpoints import Filled, Plan, Tensor
    >>> entry = fastinit.Entry("w", (8, 4), "given", fastinit.Normal(), fastinit.Key(0), dtype="bfloat16")
    >>> initializers.arrays(Plan((Tensor("w", Filled(entry)),)))["w"].dtype
    dtype(bfloat16)
    """
    checkpoint = Virtual(plan)
    dtypes = _dtypes(checkpoint)
    narrowed = [name for name, dtype in dtypes.items() if _is_narrowed(dtype)]
    if narrowed:
        raise TypeError(
            f"{narrowed[0]!r} has the dtype {dtypes[narrowed[0]]}, which JAX narrows: set jax_enable_x64 "
            f"({len(narrowed)} of {len(dtypes)} tensors)"
        )
    return _arrays(checkpoint, _shardings(checkpoint, shardings), advance)


@in_stream_environment
def save(
    plan: Plan | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    shardings: Sharding | Mapping[str, Sharding] | None = None,
    *,
    advance: Callable[[int], object] | None = None,
) -> None:
    """Saves the arrays of a plan by orbax's ``StandardCheckpointer``: each process its own shards.

    Any mesh restores them, by ``StandardCheckpointer().restore(folder, target)``.

    Parameters
    ----------
    plan : Plan or path
        The tensors, by their names in a flat dictionary.
    folder : path
        Must not exist.
    shardings, advance
        As in :func:`arrays`. On several processes, all of them call the function.

    Raises
    ------
    TypeError
        By name, for a dtype that JAX lacks. float64 and int64 are saved also without ``jax_enable_x64``, as NumPy's
        arrays.
    ValueError
        As :func:`arrays`; by name, for a tensor without elements; and if the folder exists.
    ImportError
        If orbax-checkpoint is not installed.

    Notes
    -----
    With shardings, or on several processes, a process has all of its shards in memory at once, because orbax takes
    arrays, and copies of at most 1 GB or the largest array. Otherwise a chunk of 64 MiB is in memory; a tensor that is
    only made whole takes its own size and what its computation takes. Then the arrays are NumPy's: they are restored as
    such where no target says otherwise.

    Examples
    --------
    >>> import os, tempfile
    >>> import fastinit
    >>> import orbax.checkpoint as ocp
    >>> from fastinit.adapters import jax as initializers
    >>> from fastinit.checkpoints import Filled, Plan, Tensor
    >>> entry = fastinit.Entry("w", (8, 4), "given", fastinit.Normal(), fastinit.Key(0), dtype="float32")
    >>> plan = Plan((Tensor("w", Filled(entry)),))
    >>> folder = os.path.join(tempfile.mkdtemp(), "out")
    >>> initializers.save(plan, folder)
    >>> with ocp.StandardCheckpointer() as checkpointer:
    ...     restored = checkpointer.restore(folder, initializers.arrays(plan))
    >>> bool((restored["w"] == initializers.arrays(plan)["w"]).all())
    True
    """
    import orbax.checkpoint as ocp

    checkpoint, path = Virtual(plan), os.path.abspath(os.fsdecode(os.fspath(folder)))
    empty = [tensor.name for tensor in checkpoint.plan if not tensor.nbytes]
    if empty or not len(checkpoint):
        what = f"{empty[0]!r} has no elements, and" if empty else "the plan has no tensors, and"
        raise ValueError(f"{what} orbax does not save that: leave it out")
    if os.path.lexists(path):
        raise ValueError(f"{path} exists: orbax saves to a new folder")
    dtypes = _dtypes(checkpoint)
    if shardings is None and jax.process_count() == 1:
        _save_chunks(checkpoint, dtypes, path, advance)
        return
    wide = {name for name, dtype in dtypes.items() if _is_narrowed(dtype)}
    tree: dict[str, Any] = dict(_arrays(checkpoint, _shardings(checkpoint, shardings), advance, without=wide))
    for name in wide:
        tree[name] = np.asarray(checkpoint.get_tensor(name))
        if advance is not None:
            advance(tree[name].nbytes)
    largest = max((tensor.nbytes for tensor in checkpoint.plan), default=0)
    # without this, orbax copies all arrays at once
    with ocp.StandardCheckpointer(save_concurrent_gb=max(1, -(-largest // 10**9))) as checkpointer:
        checkpointer.save(path, tree)
    if jax.process_index() == 0:
        checkpoint.plan.without_values().save(os.path.join(path, PLAN_FILE))


class _Zeros(np.ndarray):
    """Zeros without memory, which orbax does not copy."""

    def __deepcopy__(self, memo: object) -> _Zeros:
        return self


def _save_chunks(
    checkpoint: Virtual, dtypes: Mapping[str, np.dtype[Any]], path: str, advance: Callable[[int], object] | None
) -> None:
    """Has orbax save arrays of zeros, which take no memory, and TensorStore write the chunks of which they consist."""
    import orbax.checkpoint as ocp

    tree = {
        tensor.name: np.broadcast_to(np.zeros((), dtypes[tensor.name]), tensor.shape).view(_Zeros)
        for tensor in checkpoint.plan
    }
    # a tensor that is only made whole is one chunk
    sizes = {
        tensor.name: ocp.SaveArgs(chunk_byte_size=_PIECE if tensor.source.granule == 1 else None)
        for tensor in checkpoint.plan
    }
    making = f"{path}.fastinit-tmp"  # zeros are never where the checkpoint is looked for
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(making, tree, save_args=sizes)
        for tensor in checkpoint.plan:
            part, store = checkpoint.get_slice(tensor.name), array_store(making, tensor.name, write=True)
            for box in chunks(store):
                values = np.asarray(part[box])
                store[box].write(values).result()
                if advance is not None:
                    advance(values.nbytes)
        checkpoint.plan.without_values().save(os.path.join(making, PLAN_FILE))
        os.rename(making, path)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise


def _dtypes(checkpoint: Virtual) -> dict[str, np.dtype[Any]]:
    """NumPy's dtype of each tensor, those of ml_dtypes included."""
    found = {}
    for tensor in checkpoint.plan:
        name = tensor.format.name
        known = None if tensor.format.bits % 8 else getattr(ml_dtypes, name, None) or getattr(np, name, None)
        if name == "bool":
            known = np.bool_
        if known is None:
            raise TypeError(f"{tensor.name!r} has the dtype {name}, which JAX lacks")
        found[tensor.name] = np.dtype(known)
    return found


def _is_narrowed(dtype: np.dtype[Any]) -> bool:
    return bool(jax.dtypes.canonicalize_dtype(dtype) != dtype)


def _shardings(checkpoint: Virtual, given: Sharding | Mapping[str, Sharding] | None) -> dict[str, Sharding]:
    """The sharding of each tensor."""
    here = _whole() if given is None or isinstance(given, Mapping) else given
    by_name = dict(given) if isinstance(given, Mapping) else {}
    if not all(isinstance(one, Sharding) for one in (here, *by_name.values())):
        raise TypeError(f"shardings must be a Sharding or map names to Shardings, got {shown(given)}")
    unknown = [name for name in by_name if name not in checkpoint]
    if unknown:
        raise ValueError(f"the plan has no tensor {unknown[0]!r}")
    return {name: by_name.get(name, here) for name in checkpoint}


def _whole() -> Sharding:
    """The sharding of an array that is in one piece: on several processes each has it, for arrays are those of all."""
    if jax.process_count() == 1:
        return jax.sharding.SingleDeviceSharding(jax.devices()[0])
    everywhere = jax.sharding.PartitionSpec()  # type: ignore[no-untyped-call]
    return jax.sharding.NamedSharding(jax.sharding.Mesh(jax.devices(), ("all",)), everywhere)


def _arrays(
    checkpoint: Virtual,
    shardings: Mapping[str, Sharding],
    advance: Callable[[int], object] | None,
    without: Collection[str] = (),
) -> dict[str, jax.Array]:
    return {
        tensor.name: jax.make_array_from_callback(
            tensor.shape, shardings[tensor.name], _pieces(checkpoint, tensor.name, advance)
        )
        for tensor in checkpoint.plan
        if tensor.name not in without
    }


def _pieces(
    checkpoint: Virtual, name: str, advance: Callable[[int], object] | None
) -> Callable[[tuple[slice, ...] | None], np.ndarray]:
    """The function that computes a piece of a tensor, once for all devices that hold it."""
    part = checkpoint.get_slice(name)
    known: dict[str, np.ndarray] = {}

    def piece(index: tuple[slice, ...] | None) -> np.ndarray:
        place = str(index)
        if place not in known:
            known[place] = np.asarray(part[index or ()])
            if advance is not None:
                advance(known[place].nbytes)
        return known[place]

    return piece
