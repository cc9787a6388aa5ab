"""Base classes of fastinit's Keras initializers, which fill tensors instead of computing them with Keras's operations.

Each class precedes Keras's own in the bases, as in ``class RandomNormal(Random, keras.initializers.RandomNormal)``, so
arguments, attributes and configurations are Keras's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import keras

import fastinit
from fastinit import STREAM_VERSION, Key, Sampling
from fastinit.adapters.keras.tensors import distributed, drawn
from fastinit.adapters.keras.versions import AXES_OF_FANS
from fastinit.extending import DTYPES, Notices, checked_shape, shown

__all__ = ["NEEDS", "Filling", "Fixed", "Random", "Scaled", "notices"]

REFUSALS: Final = (TypeError, ValueError, ArithmeticError)

notices: Final = Notices("keras.")


@dataclass(frozen=True, slots=True)
class AsOfShape(fastinit.ElementwiseInitializer):
    """Another initializer's distribution for a tensor of another shape, which has Keras's fans."""

    initializer: fastinit.ElementwiseInitializer
    shape: tuple[int, ...]

    def sampling(self, shape: tuple[int, ...] | None = None) -> Sampling:
        return self.initializer.sampling(self.shape)


NEEDS: Final = {"needs": "import fastinit.adapters.keras", "stream_version": STREAM_VERSION}
"""An addition to Keras's configurations. Keras looks an unregistered class up by its bare name and would silently load
its own class, which draws other numbers. So this text is in the seed: Keras's class accepts it and refuses it when
called, with one line that shows it."""


class Filling:
    """Fills a tensor instead of computing it as Keras's class of the same name. Subclasses define the initializer."""

    seed: Any = 0

    def fastinit_initializer(self, shape: tuple[int, ...]) -> fastinit.Initializer:
        """The initializer for a tensor of this shape."""
        raise NotImplementedError

    def keras_call(self) -> Callable[..., Any] | None:
        """The call of Keras's own class of this name, for unsupported tensors; None if Keras has none."""
        return None

    def __call__(self, shape: Any, dtype: Any = None, layout: Any = None) -> Any:
        """A new tensor.

        Parameters
        ----------
        shape : sequence of int
        dtype : str, optional
            One of Keras's dtypes; ``keras.config.floatx()`` by default.
        layout : optional
            A layout of ``keras.distribution``. On JAX each device then fills its own piece.

        Raises
        ------
        TypeError, ValueError
            For an invalid shape, or one that does not fit the initializer; also while a function is traced.

        Warns
        -----
        UserWarning
            Once per kind, if Keras's own class computes the tensor because fastinit does not fill this dtype or lacks
            the distribution (a negative standard deviation, a value beyond the dtype's largest). It is an error if
            Keras's class also refuses, or if Keras has none.
        """
        shape, name = checked_shape(shape), keras.backend.standardize_dtype(dtype)
        try:
            if name not in DTYPES:
                raise ValueError(f"{type(self).__name__} draws {', '.join(DTYPES)}; got the dtype {name!r}")
            initializer = self.fastinit_initializer(shape)
            initializer.check(shape, name)
        except REFUSALS as problem:
            return self._by_keras(shape, name, layout, problem)
        return drawn(initializer, shape, name, self.seed, layout)

    def _by_keras(self, shape: tuple[int, ...], dtype: str, layout: Any, problem: Exception) -> Any:
        """The tensor of Keras's own class, or its error. Without such a class, an error with fastinit's reason."""
        call = self.keras_call()
        if call is None:
            raise ValueError(str(problem)) from None
        try:
            tensor = call(shape, dtype=dtype)
        except (TypeError, ValueError):
            raise
        except Exception as failure:  # the backend's errors, as raised by its operations
            raise ValueError(str(problem)) from failure
        self._say_keras_own(dtype, problem)
        return distributed(tensor, layout)

    def _say_keras_own(self, dtype: str, problem: Exception) -> None:
        if dtype in DTYPES:
            notices.say_once(type(self), f"these are Keras's own numbers, since fastinit has none: {problem}")
        else:
            notices.say_once(dtype, f"Keras's own numbers fill tensors of {dtype}")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """The initializer of a configuration.

        Raises
        ------
        TypeError
            If the configuration has unknown fields.
        ValueError
            If the configuration is of another version of the stream: it would give other values.
        """
        own = dict(config)
        said = own.get("seed")
        if isinstance(said, dict) and "stream_version" in said:
            del own["seed"]
            twice = sorted(set(own) & set(said))
            if twice:
                raise ValueError(f"a configuration says {', '.join(twice)} twice: {shown(config)}")
            own |= said
        own.pop("needs", None)
        version = own.pop("stream_version", STREAM_VERSION)
        if type(version) is not int or version != STREAM_VERSION:  # True and 1.0 are 1, too
            raise ValueError(
                f"a configuration of stream version {shown(version)} cannot be used here: version {STREAM_VERSION} has "
                "other bytes"
            )
        return super().from_config(own)  # type: ignore[misc]


class Fixed(Filling):
    """Draws nothing: Keras's own class makes the same values, in dtypes that fastinit does not write, too."""

    def keras_call(self) -> Callable[..., Any]:
        return super(Filling, self).__call__  # type: ignore[misc,no-any-return]

    def _say_keras_own(self, dtype: str, problem: Exception) -> None:
        if dtype in DTYPES:
            super()._say_keras_own(dtype, problem)


class Random(Filling):
    """Draws numbers: takes a Key for a seed, too."""

    def __init__(self, *args: Any, seed: Any = None, **kwargs: Any) -> None:
        key = _given_key(seed)
        super().__init__(*args, seed=seed if key is None else 0, **kwargs)  # type: ignore[call-arg]
        if key is not None:  # which Keras would refuse
            self.seed = key

    def keras_call(self) -> Callable[..., Any] | None:
        own = copy.copy(self)
        if isinstance(self.seed, Key):
            own.seed = self.seed.fold_in("keras").words[0] >> 1
        return super(Filling, own).__call__  # type: ignore[misc,no-any-return]

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]
        seed = {"key": list(self.seed.words)} if isinstance(self.seed, Key) else config["seed"]
        return {**config, "seed": {**NEEDS, "seed": seed}}


def _given_key(seed: Any) -> Key | None:
    """The key that a seed is, or that a configuration's seed describes."""
    if isinstance(seed, dict) and set(seed) == {"key"}:
        words = seed["key"]
        if not isinstance(words, (list, tuple)) or len(words) != 4:
            raise ValueError(f"the key of a seed must be its four words, got {shown(words)}")
        return Key.from_words(*words)
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
        axes = {} if AXES_OF_FANS else {name: kwargs.pop(name, None) for name in ("input_axes", "output_axes")}
        super().__init__(*args, **kwargs)
        vars(self).update(axes)  # Keras's own of a later release
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

    def keras_call(self) -> Callable[..., Any] | None:
        theirs = AXES_OF_FANS or (self.input_axes is None and self.output_axes is None)
        return super().keras_call() if theirs and not self._weight else None  # Keras has other fans

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        axes = {"input_axes": self.input_axes, "output_axes": self.output_axes}  # some releases of Keras have none
        return {**config, **axes, "seed": {**config["seed"], **self._weight}}
