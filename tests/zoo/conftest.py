"""Models of other libraries: their warnings are theirs, and nothing is downloaded."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # zoos, comparing and survey, which are programs' modules, too


@pytest.fixture(autouse=True)
def quiet():
    """Warnings of other libraries are no errors of ours."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="session")
def own():
    """own(build, seed): a model, deferred and materialized."""
    import comparing

    return comparing.own
