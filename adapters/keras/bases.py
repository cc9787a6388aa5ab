"""What fastinit's Keras initializers share: they fill a tensor where Keras's class of the same name computes one.

Each is a class in front of Keras's own, in the order ``class RandomNormal(Random, keras.initializers.RandomNormal)``,
so arguments, attributes and configurations are Keras's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import keras

import fastinit
from fastinit import STREAM_VERSION, Key, Sampling
from fastinit.adapters.keras.tensors import drawn
from fastinit.extending import DTYPES, checked_shape

__all__ = ["Filling", "Fixed", "Random", "Scaled"]


@dataclass(frozen=True, slots=True)
class AsOfShape(fastinit.ElementwiseInitializer):
    """What another initializer draws for a tensor of another shape: one that has the fans that Keras says."""

    initializer: fastinit.ElementwiseInitializer
    shape: tuple[int, ...]

    def sampling(self, shape: tuple[int, ...] | None = None) -> Sampling:
        return self.initializer.sampling(self.shape)


class Filling:
    """Fills a tensor where Keras's class of the same name computes one. Subclasses say with what."""

    seed: Any = 0

    def fastinit_initializer(self, shape: tuple[int, ...]) -> fastinit.Initializer:
        """What fills a tensor of this shape."""
        raise NotImplementedError

    def __call__(self, shape: Any, dtype: Any = None, layout: Any = None) -> Any:
        """A new tensor.

        Parameters
        ----------
        shape : sequence of int
        dtype : str, optional
            A floating-point dtype; ``keras.config.floatx()`` by default.
        layout : optional
            A layout of ``keras.distribution``; on JAX each device then fills its own piece.

        Raises
        ------
        ValueError
            A dtype that is not floating-point, a shape that the initializer cannot take.
        """
        name = keras.backend.standardize_dtype(dtype)
        if name not in DTYPES:
            return self._in_other_dtype(shape, name)
        shape = checked_shape(shape)
        return drawn(self.fastinit_initializer(shape), shape, name, self.seed, layout)

    def _in_other_dtype(self, shape: Any, dtype: str) -> Any:
        raise ValueError(f"{type(self).__name__} draws {', '.join(DTYPES)}; got the dtype {dtype!r}")

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]
        return {**config, "stream_version": STREAM_VERSION}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """The initializer of a configuration.

        Raises
        ------
        ValueError
            If the configuration is of another version of the stream: it would give other values.
        """
        own = dict(config)
        version = own.pop("stream_version", STREAM_VERSION)
        if version != STREAM_VERSION:
            raise ValueError(
                f"a configuration of stream version {version!r} cannot be used here: version {STREAM_VERSION} has "
                "other bytes"
            )
        return super().from_config(own)  # type: ignore[misc]


class Fixed(Filling):
    """Draws nothing; in dtypes that fastinit does not write, Keras's own."""

    def _in_other_dtype(self, shape: Any, dtype: str) -> Any:
        return super(Filling, self).__call__(shape, dtype=dtype)  # type: ignore[misc]


class Random(Filling):
    """Draws numbers: takes a Key for a seed, too."""

    def __init__(self, *args: Any, seed: Any = None, **kwargs: Any) -> None:
        key = _given_key(seed)
        super().__init__(*args, seed=seed if key is None else 0, **kwargs)  # type: ignore[call-arg]
        if key is not None:  # which Keras would refuse
            self.seed = key

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**config, "seed": {"key": list(self.seed.words)}} if isinstance(self.seed, Key) else config


def _given_key(seed: Any) -> Key | None:
    """The key that a seed is, or that a configuration's seed describes."""
    if isinstance(seed, dict) and set(seed) == {"key"}:
        return Key.from_words(*seed["key"])
    return seed if isinstance(seed, Key) else None


WEIGHT: Final = {"kernel_layout": None, "groups": 1, "transposed": False, "stride": 1, "blocks": 1}


class Scaled(Random):
    """Scales the variance by the fans: Keras's, or the true ones of a kernel that is described."""

    scale: float
    mode: str
    distribution: str
    input_axes: Any
    output_axes: Any
    kernel_layout: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = {name: kwargs.pop(name) for name in WEIGHT if name in kwargs}
        super().__init__(*args, **kwargs)
        if given and not (self.input_axes is None and self.output_axes is None):
            raise ValueError(f"input_axes and output_axes say what the fans are; got {', '.join(given)} too")
        if isinstance(given.get("stride"), Iterable):
            given["stride"] = tuple(given["stride"])
        for name, default in WEIGHT.items():
            setattr(self, name, given.get(name, default))

    @property
    def _weight(self) -> dict[str, Any]:
        """What was said about the kernel."""
        return {name: getattr(self, name) for name, default in WEIGHT.items() if getattr(self, name) != default}

    def fastinit_initializer(self, shape: tuple[int, ...]) -> fastinit.Initializer:
        distribution = str(self.distribution).replace("untruncated_", "")
        if self._weight:
            weight = {name: getattr(self, name) for name in WEIGHT if name != "kernel_layout"}
            layout = self.kernel_layout or "...IO"
            return fastinit.VarianceScaling(self.scale, self.mode, distribution, layout=layout, **weight)
        plain = fastinit.VarianceScaling(self.scale, self.mode, distribution)
        if self.input_axes is not None and self.output_axes is not None:
            ins, outs = (math.prod(shape[axis] for axis in axes) for axes in (self.input_axes, self.output_axes))
            return AsOfShape(plain, (ins, outs))
        if len(shape) < 2:
            return AsOfShape(plain, (*shape, *shape) if shape else (1, 1))
        return plain

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._weight}
