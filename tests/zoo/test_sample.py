"""Forty architectures of both zoos, deferred and materialized: each is what its author's constructor makes.

The sample is seeded, so it stays the same while the libraries stay the same. `make test` looks at the first of them,
`make test-long` at the others, and `make test-zoo` at all that there are.
"""

import functools

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
import zoos  # noqa: E402
from comparing import compared  # noqa: E402

COUNT = 20
QUICK = 4
SEED = 17
MOST = 4_000_000  # parameters


@functools.cache
def order(library):
    """The architectures of a library, shuffled, with as many lines as there are tests."""
    try:
        zoo = zoos.timm_zoo() if library == "timm" else zoos.transformers_zoo()
        return zoos.shuffled(zoo, SEED)
    except ModuleNotFoundError as missing:
        pytest.skip(str(missing))


def buildable(library, number):
    """An architecture of every COUNT-th that builds by its configuration alone and is small enough."""
    for architecture in order(library)[number::COUNT]:
        build = architecture.smaller()
        if build is not None and zoos.size_on_meta(build) <= MOST:
            return architecture.name, build
    raise AssertionError("none builds")


@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=[pytest.mark.long] * (number >= QUICK)) for number in range(COUNT)]
)
@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_model_is_its_authors(library, number, record_property):
    name, build = buildable(library, number)
    record_property("architecture", name)
    differences = compared(build)
    assert not differences, (name, [str(one) for one in differences[:5]])
