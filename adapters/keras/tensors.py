"""Backend tensors from memory filled by fastinit, and keys from Keras's seeds.

A new tensor takes over the filled memory without a copy: TensorFlow through DLPack, torch and JAX through their own
adapters. In a traced function (``tf.function``, ``jax.jit``), the fill becomes a callback of the compiled function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import keras
import numpy as np

import fastinit
from fastinit import Initializer, Key, NewRows, fill_rows
from fastinit.adapters.keras.internals import layout_of
from fastinit.extending import DTYPES, buffer_of, check_rows, new_memory

__all__ = ["assign", "assign_rows", "check_new_rows", "distributed", "drawn", "key_of", "memory_of"]


def key_of(seed: Any) -> Any:
    """The key of a seed. For a SeedGenerator, its two words as a tensor; the generator advances.

    An int means ``Key(seed)``, as in every other adapter. The words of a SeedGenerator are its state,
    ``[seed, number of draws before]``: ``Key.from_words(seed, number)``.
    """
    if isinstance(seed, keras.random.SeedGenerator):
        return seed.next()
    return Key.of(int(seed) if isinstance(seed, bool) else seed)  # Keras treats a bool as an int


def drawn(initializer: Initializer, shape: tuple[int, ...], dtype: str, seed: Any, layout: Any = None) -> Any:
    """A new tensor of the backend with an initializer's values under the key of a seed.

    Parameters
    ----------
    initializer
        The distribution.
    shape, dtype
        Shape and dtype of the tensor; the dtype is one of fastinit's names.
    seed : int, SeedGenerator or Key
    layout : optional
        A ``keras.distribution.TensorLayout`` or a layout of the backend: each device fills its own piece (JAX).

    Raises
    ------
    ValueError
        As in :func:`fastinit.fill`, before anything is written. Also for a backend other than TensorFlow, JAX and
        torch.
    """
    make = _MAKERS.get(keras.config.backend())
    if make is None:
        raise ValueError(f"expected one of the backends {', '.join(_MAKERS)}, got {keras.config.backend()!r}")
    return make(initializer, shape, dtype, key_of(seed), layout)


def assign(variable: Any, initializer: Initializer, key: Key) -> None:
    """Fills a variable: in place on torch, on other backends through a new tensor that the variable takes over."""
    dtype = keras.backend.standardize_dtype(variable.dtype)
    if keras.config.backend() == "torch":
        from fastinit.adapters.torch import fill_

        fill_(variable.value, initializer, key)
    else:
        variable.assign(drawn(initializer, tuple(variable.shape), dtype, key, layout_of(variable)))


def check_new_rows(variable: Any, rows: NewRows) -> None:
    """Raises the errors of :func:`assign_rows`, before anything is written."""
    check_rows(buffer_of(*_on_host(variable)), rows)


def assign_rows(variable: Any, rows: NewRows, key: Key) -> None:
    """Fills the new rows of a variable. The old rows keep every bit."""
    memory, dtype = _on_host(variable)
    fill_rows(memory, rows, key, dtype=dtype)
    if keras.config.backend() == "torch":
        import torch

        made = torch.from_numpy(memory.view(np.uint8)).view(variable.value.dtype).reshape(tuple(variable.shape))
        with torch.no_grad():
            variable.value.copy_(made)
    else:
        kind = keras.ops.convert_to_numpy(variable.value).dtype
        variable.assign(distributed(keras.ops.convert_to_tensor(memory.view(kind)), layout_of(variable)))


def _on_host(variable: Any) -> tuple[np.ndarray, str]:
    """A copy of a variable's values as raw memory, and its dtype."""
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return memory_of(variable).copy().view(DTYPES[dtype].raw).reshape(tuple(variable.shape)), dtype


def memory_of(variable: Any) -> np.ndarray:
    """The bytes of a variable in row-major order."""
    if keras.config.backend() == "torch":
        import torch

        memory: np.ndarray = variable.value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return memory
    return np.ascontiguousarray(keras.ops.convert_to_numpy(variable.value)).reshape(-1).view(np.uint8)


def _key_from_words(words: Any) -> Key:
    """The key of a SeedGenerator's state. Some backends store the words as signed numbers."""
    low, high = (int(word) & 0xFFFFFFFF for word in np.asarray(words))
    return Key.from_words(low, high)


def _memory(initializer: Initializer, shape: tuple[int, ...], dtype: str, key: Key) -> np.ndarray:
    return fastinit.fill(new_memory(shape, DTYPES[dtype]), initializer, key, dtype=dtype)


def _concrete(key: Any) -> Key:
    return key if isinstance(key, Key) else _key_from_words(keras.ops.convert_to_numpy(key))


def _of_tensorflow(initializer: Initializer, shape: tuple[int, ...], dtype: str, key: Any, layout: Any) -> Any:
    import tensorflow as tf

    kind = tf.dtypes.as_dtype(dtype)
    if tf.executing_eagerly():
        return distributed(_eager_tensor(_memory(initializer, shape, dtype, _concrete(key)), kind), layout)
    fixed = key if isinstance(key, Key) else None
    words = (0, 0) if fixed is not None else key

    def fill(words: np.ndarray) -> np.ndarray:
        memory = _memory(initializer, shape, dtype, fixed or _key_from_words(words))
        return memory.view(kind.as_numpy_dtype)

    tensor = tf.numpy_function(fill, [words], kind)
    tensor.set_shape(shape)
    return tensor


def _eager_tensor(memory: np.ndarray, kind: Any) -> Any:
    import tensorflow as tf

    try:  # TensorFlow takes over memory described by DLPack, and copies other NumPy memory
        tensor = tf.experimental.dlpack.from_dlpack(memory.__dlpack__())
        return tensor if tensor.dtype == kind else tf.bitcast(tensor, kind)
    except tf.errors.InvalidArgumentError:  # it lacks a bitcast for float8
        return tf.convert_to_tensor(memory.view(kind.as_numpy_dtype))


def _of_torch(initializer: Initializer, shape: tuple[int, ...], dtype: str, key: Any, layout: Any) -> Any:
    import torch

    from fastinit.adapters.torch import fill_

    # to Keras's device, as Keras converts; the device is "meta" if only shapes are needed
    like = keras.ops.convert_to_tensor(torch.empty(0))
    tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
    return distributed(tensor if tensor.is_meta else fill_(tensor, initializer, _concrete(key)), layout)


def _of_jax(initializer: Initializer, shape: tuple[int, ...], dtype: str, key: Any, layout: Any) -> Any:
    from fastinit.adapters.jax import filled

    if isinstance(layout, keras.distribution.TensorLayout):
        layout = layout.backend_layout
    return filled(initializer, key, shape, dtype, layout)


def distributed(tensor: Any, layout: Any) -> Any:
    """A tensor in a layout of ``keras.distribution``, if one is given."""
    return tensor if layout is None else keras.distribution.distribute_tensor(tensor, layout)


_MAKERS: Final[dict[str, Callable[..., Any]]] = {
    "tensorflow": _of_tensorflow,
    "jax": _of_jax,
    "torch": _of_torch,
}
