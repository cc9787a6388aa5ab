"""Selections: by patterns, by functions, and what selects nothing is said."""

import pytest

from fastinit import NewRows, Parameter, selected
from fastinit.models.selecting import meant

NAMES = ("encoder.0.weight", "encoder.0.bias", "encoder.1.weight", "head.weight")
PARAMETERS = [Parameter(name, (3,), other_names=("words.weight",) * (name == "head.weight")) for name in NAMES]


@pytest.mark.parametrize(
    ("only", "skip", "expected"),
    [
        (None, None, [1, 1, 1, 1]),
        ("encoder.*", None, [1, 1, 1, 0]),
        ("*.weight", None, [1, 0, 1, 1]),
        (("*.bias", "head.*"), None, [0, 1, 0, 1]),
        ("words.weight", None, [0, 0, 0, 1]),  # by its other name
        (None, "*.bias", [1, 0, 1, 1]),
        ("encoder.*", ["*.1.*"], [1, 1, 0, 0]),
        ("encoder.[!0].*", None, [0, 0, 1, 0]),
        (lambda parameter: parameter.name > "encoder.1", None, [0, 0, 1, 1]),
        (lambda parameter: True, lambda parameter: parameter.name == "head.weight", [1, 1, 1, 0]),
    ],
)
def test_what_is_meant(only, skip, expected):
    assert selected(PARAMETERS, only, skip) == list(map(bool, expected))


@pytest.mark.parametrize(
    ("only", "skip", "error", "match"),
    [
        ("encodr.*", None, ValueError, r"only='encodr.\*' matches no parameter; there are 4: encoder.0.weight, "),
        ("*", "nothing", ValueError, "skip='nothing' matches no parameter"),
        (("*", "Head.*"), None, ValueError, "'Head"),
        ("*.bias", "*.bias", ValueError, "leave none of 4"),
        (lambda parameter: False, None, ValueError, "leave none"),
        ((), None, ValueError, "leave none"),
        (3, None, TypeError, "patterns of names, or a function of a Parameter; got 3"),
        ([3], None, TypeError, "patterns of names"),
        (None, b"head", TypeError, "patterns of names"),
    ],
)
def test_what_means_nothing(only, skip, error, match):
    with pytest.raises(error, match=match):
        selected(PARAMETERS, only, skip)


@pytest.mark.parametrize(
    ("only", "skip", "rows", "expected"),
    [
        (None, None, {"head.weight": 2}, [0, 0, 0, 2]),
        (None, None, {"encoder.*": 2, "words.*": 1}, [2, 2, 2, 1]),
        (None, None, {"encoder.*": 2, "*.1.*": NewRows(2)}, [2, 2, 2, 0]),  # the same twice
        ("*.bias", None, {"head.weight": 2}, [0, True, 0, 2]),
        ("head.*", None, {"head.weight": 2}, [0, 0, 0, 2]),
        ("*", "*.bias", {"encoder.0.*": 2}, [2, 0, True, True]),
        (None, "head.*", {"*.weight": 2}, [2, 0, 2, 0]),
    ],
)
def test_new_rows_are_meant_beside_what_only_names(only, skip, rows, expected):
    asked, new = meant(PARAMETERS, only, skip, rows)
    assert asked == list(map(bool, expected))
    assert new == [None if one is True or not one else NewRows(one) for one in expected]


@pytest.mark.parametrize(
    ("skip", "rows", "error", "match"),
    [
        (None, {"hed.*": 2}, ValueError, r"rows='hed.\*' matches no parameter"),
        (None, {"*": 2, "head.*": 1}, ValueError, "rows must agree about 'head.weight'"),
        (None, {"*": 2, "head.*": NewRows(2, "mean")}, ValueError, "rows must agree about 'head.weight'"),
        ("head.*", {"head.*": 2}, ValueError, r"rows=\{'head.\*': 2\} and skip='head.\*' leave none of 4"),
        (None, {}, ValueError, "leave none"),
        (None, [("head.*", 2)], TypeError, "rows must be a mapping"),
        (None, {b"head.*": 2}, TypeError, "patterns in rows must be str, got b'head"),
        (None, {"head.*": "mean"}, TypeError, "first: expected an integer, got 'mean'"),
        (None, {"head.*": 0}, ValueError, "first must be at least 1"),
    ],
)
def test_rows_that_mean_nothing(skip, rows, error, match):
    with pytest.raises(error, match=match):
        meant(PARAMETERS, None, skip, rows)
