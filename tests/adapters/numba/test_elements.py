"""Single elements of a stream in Python and in compiled code: what fastinit.sample gives, bit for bit."""

import re
from pathlib import Path

import numpy as np
import pytest

numba = pytest.importorskip("numba", reason="numba is not installed")

import fastinit  # noqa: E402
import fastinit.adapters.numba as adapter  # noqa: E402
from fastinit import Key  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
KEY = Key(0).fold_in("elements")
INDICES = [*range(9), 1000003, *range(2**32 - 2, 2**32 + 3), 2**34 - 1, 2**34, 2**62 - 1, 2**62 + 2]
INTERVALS = [
    (0.0, 1.0),
    (-0.2, 0.5),
    (-0.3, 0.3),
    (0.1, 0.3),  # no float32 values
    (-0.0, 1.0),
    (-1.0, -0.5),
    (1.0, 1.0 + 2.0**-20),  # few values
    (1e-40, 2e-40),  # subnormal
    (-1e-38, 1e-38),  # subnormal steps
    (0.0, 1e-37),
    (-1e-300, 1e-30),  # an end that float32 rounds to -0.0
    (1e30, 2e30),
    (-1, 2),  # integers
]
NORMALS = [
    (0.0, 1.0),
    (0.0, 0.02),
    (0.25, 0.75),
    (-0.0, 1.0),
    (1e-50, 1.0),  # a mean that float32 rounds to 0
    (0.5, 0.0),
    (-0.0, 0.0),
    (0.0, 1e-42),  # subnormal
    (1e-42, 1e-42),
    (-3, 1),
]
# name: initializer, dtype, parameters
FUNCTIONS = {
    "uniform": (fastinit.Uniform, "float32", INTERVALS),
    "uniform_float64": (fastinit.Uniform, "float64", INTERVALS),
    "normal": (fastinit.Normal, "float32", NORMALS),
    "normal_float64": (fastinit.Normal, "float64", NORMALS),
    "truncated_normal": (fastinit.TruncatedNormal, "float32", NORMALS),
    "truncated_normal_float64": (fastinit.TruncatedNormal, "float64", NORMALS),
}


def bits(numbers):
    return np.asarray(numbers, np.float64).view(np.uint64).tolist()


@pytest.fixture(scope="module", params=FUNCTIONS)
def function(request):
    return request.param


@pytest.fixture(scope="module")
def compiled(function):
    """The function within compiled code, once with each option that could change the arithmetic."""
    element = getattr(adapter, function)

    def call(key, index, a, b):
        return element(key, index, a, b)

    return [numba.njit(call), numba.njit(fastmath=True, error_model="numpy")(call)]


def test_elements_are_those_of_sample(function, compiled):
    initializer, dtype, choices = FUNCTIONS[function]
    for a, b in choices:
        wanted = bits([fastinit.sample(KEY, index, initializer(a, b), dtype=dtype) for index in INDICES])
        for one in (getattr(adapter, function), *compiled):
            found = [one(KEY.words, index, a, b) for index in INDICES]
            assert bits(found) == wanted, (a, b)
        assert all(
            type(number) is getattr(np, dtype)
            for number in map(
                getattr(adapter, function), *zip(*[(KEY.words, index, a, b) for index in INDICES[:3]], strict=True)
            )
        )


def test_words_are_the_core_s():
    compiled = numba.njit(adapter.words)
    for index in INDICES:
        wanted = fastinit.words(KEY, index, 1)[0]
        assert adapter.words(KEY.words, index) == compiled(KEY.words, index) == wanted
    assert type(adapter.words(KEY.words, 0)) is np.uint32


def test_defaults_and_keywords_are_those_of_the_initializers():
    @numba.njit
    def all_of_them(key, index):
        return (
            adapter.uniform(key, index),
            adapter.uniform(key, index, high=2.0),
            adapter.normal(key, index),
            adapter.normal(key, index, std=0.5),
            adapter.truncated_normal(key, index),
            adapter.truncated_normal(key, index, mean=1.0),
        )

    wanted = [
        fastinit.sample(KEY, 5, initializer)
        for initializer in (
            fastinit.Uniform(),
            fastinit.Uniform(0.0, 2.0),
            fastinit.Normal(),
            fastinit.Normal(0.0, 0.5),
            fastinit.TruncatedNormal(),
            fastinit.TruncatedNormal(1.0),
        )
    ]
    assert bits(all_of_them(KEY.words, 5)) == bits(all_of_them.py_func(KEY.words, 5)) == bits(wanted)


@pytest.mark.parametrize("integer", [np.int64, np.uint32, np.uint64], ids=lambda integer: integer.__name__)
def test_keys_and_indices_of_any_integer_type(integer):
    compiled = numba.njit(lambda key, index: adapter.normal(key, index, 0.25, np.float32(0.5)))
    key = tuple(map(integer, KEY.words))
    for index in (0, 5, 2**32 - 1):
        wanted = fastinit.sample(KEY, index, fastinit.Normal(0.25, 0.5))
        assert compiled(key, integer(index)) == compiled.py_func(key, integer(index)) == wanted


def test_loops_of_one_s_own_in_parallel_too():
    def rows(out, key):
        for i in numba.prange(out.shape[0]):
            for j in range(out.shape[1]):
                out[i, j] = adapter.truncated_normal(key, i * out.shape[1] + j, 0.0, 0.02)

    wanted = fastinit.fill(np.empty((123, 45), np.float32), fastinit.TruncatedNormal(0.0, 0.02), KEY)
    for options in ({}, {"parallel": True}, {"parallel": True, "fastmath": True}):
        out = np.zeros((123, 45), np.float32)
        numba.njit(**options)(rows)(out, KEY.words)
        assert (out == wanted).all(), options


def test_a_key_that_is_no_tuple_of_integers_is_refused():
    compiled = numba.njit(adapter.words)
    with pytest.raises(numba.core.errors.TypingError, match="Key"):
        compiled(KEY, 0)
    with pytest.raises(TypeError):
        adapter.words(KEY, 0)


def test_the_documented_loop_takes_arrays_of_any_shape_and_layout():
    page = ROOT / "docs/numba.md"
    (code,) = re.findall(r"@numba\.njit\ndef perturbed.*?(?=\n\n|\n```)", page.read_text(), re.DOTALL)
    names = {"numba": numba, "normal": adapter.normal}
    exec(code, names)
    for array in (
        np.zeros(5, np.float32),
        np.zeros((6, 8), np.float32),
        np.zeros((6, 8), np.float32).T,
        np.zeros((4, 6, 8), np.float32)[::2, :, ::-2],
        np.zeros((), np.float32),
        np.zeros((0, 3), np.float32),
    ):
        names["perturbed"](array, KEY.words, 0.01)
        assert (array == fastinit.fill(np.empty(array.shape, np.float32), fastinit.Normal(0.0, 0.01), KEY)).all()
