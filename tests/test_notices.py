"""fastinit.notices: warnings that are given once, in the caller's line."""

import sys
import types
import warnings

import pytest

from fastinit.extending import Notices


def module_of(name, source, **given):
    """A module whose functions have a name of their own in the stack."""
    module = types.ModuleType(name)
    vars(module).update(given)
    exec(compile(source, f"{name}.py", "exec"), vars(module))
    return module


@pytest.fixture
def adapter():
    notices = Notices("framework.", "other.init")
    inner = module_of(
        "fastinit.adapters.thing.inner", "def fill(reason):\n    say(reason, 'a message')", say=notices.say_once
    )
    return notices, inner.fill


def through(fill, *names):
    """The same call by way of a function of each module, innermost first."""
    for name in names:
        fill = module_of(name, "def fill(reason):\n    call(reason)", call=fill).fill
    return fill


def given_by(fill, *reasons):
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        for reason in reasons:
            fill(reason)
    return given


def test_once_for_each_reason(adapter):
    notices, fill = adapter
    given = given_by(fill, "a", "b", "a", ("a",), "b")
    assert [str(warning.message) for warning in given] == ["fastinit: a message (shown once)"] * 3
    assert {warning.category for warning in given} == {UserWarning}
    assert notices.said == {"a", "b", ("a",)}
    assert Notices("framework.").said == set()


def test_in_the_callers_line(adapter):
    _, fill = adapter
    inside = ("fastinit.exact", "framework.layers", "other.init", "fastinit.adapters.thing")
    (warning,) = given_by(through(fill, *inside), 1)
    assert (warning.filename, warning.lineno) == (__file__, given_by.__code__.co_firstlineno + 4)
    # these only look alike
    for name in ("frameworks.layers", "framework", "other.init.more", "my.fastinit.x", "fastinits"):
        (warning,) = given_by(through(fill, "framework.layers", name, "framework.models"), name)
        assert (warning.filename, warning.lineno) == (f"{name}.py", 2), name


def test_the_level_of_a_warning_of_its_own(adapter):
    notices, _ = adapter
    warn = module_of(
        "framework.warner",
        "def fill(reason):\n    warnings.warn(reason, stacklevel=caller())",
        warnings=warnings,
        caller=notices.caller,
    ).fill
    (warning,) = given_by(through(warn, "other.init"), "mine")
    assert (str(warning.message), warning.filename) == ("mine", __file__)


def test_where_all_frames_are_inside():
    """The outermost line is named; there is no other."""
    names = set()
    frame = sys._getframe()
    while frame is not None:
        names.add(frame.f_globals["__name__"])
        frame = frame.f_back
    everything = Notices(*names)
    with pytest.warns(UserWarning, match="a message"):
        everything.say_once(1, "a message")
