"""Types of the compiled binding. Addresses are not checked; the caller keeps the memory alive."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np

CONSTANT: Final[int]
WORDS: Final[int]
UNIFORM_SYMMETRIC: Final[int]
UNIFORM: Final[int]
NORMAL: Final[int]
TRUNCATED_2: Final[int]
TRUNCATED: Final[int]
UNIFORM_SYMMETRIC_64: Final[int]
UNIFORM_64: Final[int]
NORMAL_64: Final[int]
TRUNCATED_64: Final[int]
TRUNCATED_TAIL_64: Final[int]
UINT32: Final[int]
MAX_AXES: Final[int]

class Sampling:
    def __init__(
        self,
        *,
        kind: int,
        dtype: int,
        scale: float = 0.0,
        shift: float = 0.0,
        clamped: bool = False,
        low: float = 0.0,
        high: float = 0.0,
        first: int = 0,
        count: int = 0,
        tail_low: float = 0.0,
        tail_share: float = 0.0,
        bits: int = 0,
    ) -> None: ...
    @property
    def parameters(self) -> dict[str, int | float]: ...

class Region:
    def __init__(
        self,
        address: int,
        start: int,
        extents: tuple[int, ...],
        index_strides: tuple[int, ...],
        byte_strides: tuple[int, ...],
        streamed: bool = False,
    ) -> None: ...

class Recalled:
    def __init__(self, recall: Callable[..., Any], otherwise: Callable[..., Any]) -> None: ...
    def __call__(self, *values: Any) -> Any: ...

class Shortcut:
    def __init__(
        self,
        *,
        kinds: tuple[type, type],
        exchange: object,
        watching: tuple[Callable[[], Any], ...],
        odd: tuple[Callable[[Any], Any], ...],
        odd_kind: tuple[Callable[[Any], Any], ...],
        target: Callable[[], int],
        draw: Callable[..., Any],
        draw_arguments: tuple[Any, ...],
        drawn: int,
        written: Callable[[tuple[Any]], Any],
        most: int,
    ) -> None: ...
    def learn(self, tensor: Any, initializer: object, sampling: Sampling) -> None: ...
    def fill(self, tensor: Any, initializer: object) -> bool: ...

class Fill:
    def __init__(self, target: int, sampling: Sampling, key_words: tuple[int, ...], region: Region) -> None: ...
    def run(self, position: int, count: int) -> None: ...
    def share(self, size: int, threads: int, largest: int) -> None: ...
    def take(self) -> bool: ...
    def end(self) -> None: ...

def fill_run(
    target: int, sampling: Sampling, key_words: tuple[int, ...], address: int, start: int, count: int, itemsize: int
) -> None: ...
def compare_run(
    target: int,
    sampling: Sampling,
    key_words: tuple[int, ...],
    address: int,
    start: int,
    count: int,
    itemsize: int,
    block: int,
    scratch: int,
    marks: int,
) -> bool: ...
def call_in_environment(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...
def same(a: object, b: object) -> bool: ...
def targets() -> list[tuple[str, bool]]: ...
def address(array: np.ndarray) -> int: ...
def array_at(address: int, shape: tuple[int, ...], byte_strides: tuple[int, ...], type_number: int) -> np.ndarray: ...
def equal_memory(one: int, other: int, size: int) -> bool: ...
def advise_huge_pages(address: int, size: int) -> None: ...
def narrow(values: int, count: int, dtype: int, out: int) -> None: ...
def orthogonal_sizes(m: int, n: int) -> tuple[int, int, int]: ...
def orthogonal_reflectors(
    target: int, dtype: int, normals: int, m: int, n: int, piece: int, factors: int, scratch: int
) -> None: ...
def orthogonal_columns(
    target: int,
    dtype: int,
    factors: int,
    m: int,
    n: int,
    piece: int,
    gain: float,
    scratch: int,
    out: int,
    row_stride: int,
    column_stride: int,
) -> None: ...
