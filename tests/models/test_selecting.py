"""Selections: by patterns, by functions, and what selects nothing is said."""

import pytest

from fastinit import Parameter, selected

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
