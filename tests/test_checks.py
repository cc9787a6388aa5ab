"""What a caller may give: integers, sequences of them, and values of any kind in what an error says."""

import array
import enum
import itertools
import math
import sys
from fractions import Fraction

import numpy as np
import pytest

import fastinit
from fastinit import Blocks, Key, Normal, Parameter, Recipe, Rule, ZeroRow
from fastinit.checks import any_number, checked_shape, integer, integer_or_integers, integers, sequence_of, shown

HUGE = 10**5000


class Mute:
    def __repr__(self):
        raise RuntimeError("no repr")


class Deaf:
    """Whose type has the name of another."""

    def __repr__(self):
        return "deaf"


Deaf.__name__ = "int"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (True, "True"),
        ("a", "'a'"),
        (2**70, "1180591620717411303424"),
        (HUGE, "an integer of 16610 bits"),
        (-HUGE, "an integer of 16610 bits"),
        ((1, HUGE), "(1, an integer of 16610 bits)"),
        ({"a": [HUGE]}, "{'a': [an integer of 16610 bits]}"),
        (Fraction(HUGE, 3), "<Fraction>"),
        (Mute(), "<Mute>"),
        ([Mute()], "<list>"),
        (Deaf(), "<int>"),
        (Normal(), "Normal(mean=0.0, std=1.0)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_value_can_be_shown(value, text):
    assert shown(value) == text


def test_what_is_shown_is_short():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10**6, b"x" * 10**6, list(range(10**6)), {i: i for i in range(10**5)}, np.zeros(10**6), deep):
        assert len(shown(value)) < 1000


def test_integers_of_any_kind():
    for value in (3, np.int8(3), np.uint64(3), np.array(3)):
        assert integer("n", value) == 3 and type(integer("n", value)) is int
        assert integers("n", value) == (3,) and integer_or_integers("n", value) == 3
    for value in (
        [3, 4],
        (3, 4),
        range(3, 5),
        iter([3, 4]),
        np.array([3, 4]),
        array.array("b", [3, 4]),
        {0: 3, 1: 4}.values(),
    ):
        assert integers("n", value) == (3, 4)
    assert integer_or_integers("n", [3]) == (3,)


@pytest.mark.parametrize(
    "value",
    [
        *(
            "34",
            b"34",
            bytearray(b"34"),
            memoryview(b"34"),
            {3: 4},
            {3, 4},
            frozenset({3}),
            {3: 4}.keys(),
            [3.0],
            [True],
        ),
        *(
            np.array([3.0]),
            np.array([True]),
            np.array([[3, 4]]),
            np.array(True),
            np.bool_(True),
            [None],
            None,
            3.0,
            "3",
        ),
        *([b"3"], object(), Mute(), [Mute()], 1j, Fraction(3), math.nan),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_integer_and_no_sequence_of_them(value):
    for read in (
        *(lambda value: integers("n", value), checked_shape, fastinit.fans),
        lambda value: fastinit.fans((3, 3, 4, 4), transposed=True, stride=value),
        fastinit.Axes,
        lambda value: fastinit.VarianceScaling(stride=value),
        lambda value: fastinit.propagate(value, "relu", Normal(), key=Key(0)),
        lambda value: Parameter("a", value),
        lambda value: fastinit.Entry("a", value, "r", Normal(), Key(0)),
        lambda value: fastinit.expected_std(Normal(), value),
    ):
        with pytest.raises(TypeError, match=r"expected an integer|must be a sequence of integers|iterable of integers"):
            read(value)


class Mode(enum.StrEnum):
    FAN_IN = "fan_in"


class Count(enum.IntEnum):
    TWO = 2


TEXTS = (Mode.FAN_IN, np.str_("fan_in"))


@pytest.mark.parametrize(
    ("make", "plain"),
    [
        (lambda text: fastinit.VarianceScaling(mode=text), "fan_in"),
        (lambda text: fastinit.VarianceScaling(layout=text), "IO"),
        (lambda text: fastinit.VarianceScaling(distribution=text), "normal"),
        (lambda text: fastinit.TruncatedNormal(bounds=text), "absolute"),
        (lambda text: fastinit.ICNR(Normal(), order=text), "subpixel"),
        (lambda text: fastinit.Dirac(layout=text), "OI..."),
        (lambda text: Parameter(text, (2,), types=(text,), role=text, layout=text, activation=text), "relu"),
        (lambda text: Rule(text, text, Normal(), text), "weight"),
        (lambda text: Recipe((), text), "own"),
        (
            lambda text: fastinit.Entry(
                text, (2,), text, fastinit.VarianceScaling(), Key(0), None, None, text, text, (text,)
            ),
            "a",
        ),
        (lambda text: fastinit.Record((), text, text, text), "a"),
    ],
)
def test_a_text_has_one_spelling(make, plain):
    member = enum.Enum("Text", {"ONE": plain}, type=str).ONE
    for text in (np.str_(plain), member):
        assert make(text) == make(plain) and repr(make(text)) == repr(make(plain))


def test_an_integer_has_one_spelling():
    for make in (
        lambda n: fastinit.VarianceScaling(groups=n, stride=(n, n), blocks=n),
        lambda n: ZeroRow(Normal(), n),
        lambda n: Blocks(Normal(), n, n),
        lambda n: fastinit.Record((), n, "r", "0"),
        lambda n: Parameter("a", (n, n), zero_row=n),
        fastinit.Axes,
    ):
        assert type(integer("n", Count.TWO)) is int
        assert make(Count.TWO) == make(2) and repr(make(Count.TWO)) == repr(make(2))


def test_a_record_of_such_values_is_read_as_it_was_written():
    for text in TEXTS:
        entry = fastinit.Entry(
            text, (Count.TWO,), text, fastinit.VarianceScaling(mode=text, groups=Count.TWO), Key(0), other_names=(text,)
        )
        record = fastinit.Record([entry], Count.TWO, text, "0")
        assert fastinit.Record.from_json(record.to_json()) == record


class Raising:
    """Raises what it likes, whatever it is asked."""

    def __getattr__(self, name):
        raise ZeroDivisionError(name)

    def __index__(self):
        raise ZeroDivisionError

    __float__ = __repr__ = __str__ = __bool__ = __eq__ = __hash__ = __index__


def test_values_that_raise_errors_of_their_own():
    for call in (
        lambda value: integer("n", value),
        lambda value: integers("n", value),
        lambda value: integer_or_integers("n", value),
        lambda value: any_number(value, "x"),
        checked_shape,
        Normal,
        Key.of,
        Key(0).fold_in,
        Key(0).split,
        Blocks,
        Recipe,
        fastinit.Orthogonal,
        fastinit.Dirac,
        lambda value: fastinit.he_normal(layout=value),
        fastinit.gain,
        fastinit.recipe_named,
        lambda value: fastinit.words(Key(0), value, 1),
        lambda value: fastinit.sample(Key(0), value, Normal()),
        lambda value: fastinit.sample(Key(0), 0, Normal(), dtype=value),
        lambda value: fastinit.fill(np.zeros(3), value, Key(0)),
        lambda value: fastinit.fill(np.zeros(3), Normal(), value),
        lambda value: fastinit.fill(value, Normal(), Key(0)),
        lambda value: fastinit.fill(np.zeros(3), Normal(), Key(0), dtype=value),
        lambda value: fastinit.fill(np.zeros(3), Normal(), Key(0), num_threads=value),
        lambda value: fastinit.fill(np.zeros(3), Normal(), Key(0), start=value),
        lambda value: fastinit.fill(np.zeros(3), Normal(), Key(0), global_shape=(9,), offsets=value),
        lambda value: fastinit.fill(np.zeros(3), Normal(), Key(0), global_shape=(9,), ranges=value),
    ):
        with pytest.raises(TypeError, match=r"must be|must have|expected|a recipe is made of"):
            call(Raising())
    for value in (Raising(), HUGE, np.array(["sigma", "absolute"]), ["fan_in"], None):
        for make in (
            lambda value: fastinit.VarianceScaling(mode=value),
            lambda value: fastinit.VarianceScaling(distribution=value),
            lambda value: fastinit.TruncatedNormal(bounds=value),
            lambda value: fastinit.ICNR(Normal(), order=value),
            lambda value: fastinit.recommend("relu", value),
        ):
            with pytest.raises(ValueError, match="must be one of") as caught:
                make(value)
            assert "4300" not in str(caught.value)


class Unknown(fastinit.ElementwiseInitializer):
    def sampling(self, shape=None):
        return fastinit.Sampling("gauss", std=1.0)


def test_a_distribution_of_a_callers_class_that_is_unknown():
    out = np.zeros(3)
    with pytest.raises(ValueError, match=r"distribution of a sampling must be one of .*; got 'gauss'"):
        fastinit.fill(out, Unknown(), Key(0))
    assert not out.any()


def test_numbers_beyond_what_can_be_written():
    with pytest.raises(ValueError, match="the square of negative_slope must be finite"):
        fastinit.he_normal(negative_slope=1e200)
    for make in (
        lambda: fastinit.Sparse(Fraction(HUGE, 3)),
        lambda: fastinit.Fans(HUGE, 1, 1),
        lambda: fastinit.Fans(Fraction(1, HUGE), 1, 1),
    ):
        with pytest.raises(ValueError, match=r"at most 8192 bits|in \[0, 1\], got <Fraction>"):
            make()


def test_ranges_in_errors():
    for ranges in ([HUGE], HUGE, [[range(HUGE)]], [[range(0, 3, HUGE), range(HUGE)]], [[Mute()]], [[range(-HUGE, 3)]]):
        with pytest.raises((TypeError, ValueError), match="range") as caught:
            fastinit.fill(np.zeros(3), Normal(), Key(0), global_shape=(9,), ranges=ranges)
        assert "4300" not in str(caught.value)


def test_sequences_without_an_end():
    for value in (itertools.count(), range(HUGE)):
        with pytest.raises(TypeError, match="a recipe is made of rules, got 0"):
            Recipe(value)
    with pytest.raises(ValueError, match="sequence of str, at most 1048576 of them, got more"):
        Parameter("a", (2,), other_names=itertools.repeat("b"))
    for value in (itertools.count(), itertools.repeat(2)):
        with pytest.raises(ValueError, match="must have at most 64 integers, got more"):
            checked_shape(value)
        with pytest.raises(ValueError, match="must have at most 1048576 integers, got more"):
            integers("widths", value)


@pytest.mark.parametrize(
    "call",
    [
        lambda n: fastinit.fans((n, 3)),
        lambda n: fastinit.fans((3, 4), groups=n),
        lambda n: fastinit.fans((3, 4), fastinit.Axes(n)),
        lambda n: Blocks(Normal(), n),
        lambda n: Blocks(Normal(), 2, n),
        lambda n: ZeroRow(Normal(), n),
        lambda n: fastinit.Orthogonal(column_axis=n),
        fastinit.Dirac,
        lambda n: fastinit.VarianceScaling(blocks=n),
        lambda n: fastinit.gain("leaky_relu", negative_slope=n),
        lambda n: fastinit.backward_gain("leaky_relu", negative_slope=n),
        lambda n: fastinit.recommend("leaky_relu", negative_slope=n),
        lambda n: fastinit.recommend("relu", "residual", depth=n),
        fastinit.Normal,
        fastinit.Constant,
        lambda n: fastinit.expected_std(fastinit.he_normal(), (n, 3)),
        lambda n: fastinit.expected_std(fastinit.he_normal(), (10**30,) * 20),
        lambda n: fastinit.expected_std(fastinit.VarianceScaling(mode="fan_geo_avg"), (10**30,) * 20),
        lambda n: fastinit.words(Key(0), n, 1),
        lambda n: Key.from_words(n, 0),
        lambda n: Key(0).split(n),
        lambda n: fastinit.digest(b"", num_threads=n),
        lambda n: Parameter("a", (2,), zero_row=n),
        lambda n: fastinit.propagate([4, n], "relu", Normal(), key=Key(0)),
    ],
)
def test_integers_that_are_too_large(call):
    for value in (HUGE, -HUGE):
        with pytest.raises(ValueError, match=r"of 16610 bits|within the range of float64") as caught:
            call(value)
        assert "4300" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (fastinit.backward_gain, "activation must be a name or a function, not"),
        (fastinit.gain, "activation must be a name or a function, not"),
        (fastinit.canonical_name, "the name of a parameter must be a str, got"),
        (Recipe, "a recipe is made of rules, got"),
        (lambda value: Recipe([value]), "a recipe is made of rules, got"),
        (lambda value: Rule(value, "a", Normal()), "types of a rule must be a str, got"),
        (lambda value: Rule("a", "a", value), "the initializer of a rule must be an Initializer or a function"),
        (lambda value: fastinit.assigned(value, "auto", 0), "parameters must be a sequence of Parameter, got"),
        (lambda value: fastinit.assigned([value], "auto", 0), "parameters must be a sequence of Parameter, got"),
        (lambda value: fastinit.assigned([], value, 0), "recipe must be a name or a Recipe, not"),
        (lambda value: Parameter("a", (2,), types=value), "types of a parameter must be a sequence of str, got"),
        (lambda value: Parameter("a", (2,), other_names=value), "other_names of a parameter must be a sequence of str"),
        (lambda value: fastinit.expected_std(value, (2,)), "initializer must be an Initializer"),
        (lambda value: fastinit.Record(value, 0, "r", "0"), "entries of a record must be a sequence of Entry, got"),
        (lambda value: fastinit.Record([value], 0, "r", "0"), "entries of a record must be a sequence of Entry, got"),
        (lambda value: fastinit.Record([], 0, value, "0"), "recipe of a record must be a str, got"),
        (fastinit.Record.from_json, "text must be the JSON of a record, not"),
        (fastinit.initializer_config, "initializer must be an Initializer, not"),
        (fastinit.initializer_from_config, r"config must be a dict from initializer_config\(\), not"),
        (
            lambda value: Key.of(value) if type(value) is not int else Key.of(None),
            "key must be a fastinit.Key or an int",
        ),
        (lambda value: fastinit.he_normal(layout=value), "layout must be a str or Axes, got"),
        (lambda value: fastinit.TruncatedNormal(correct_variance=value), "correct_variance must be a bool, got"),
    ],
)
def test_what_is_of_another_type(call, message):
    for value in (5, HUGE, Mute(), object()):
        with pytest.raises(TypeError, match=message) as caught:
            call(value)
        assert len(str(caught.value)) < 400


def test_an_error_of_an_iterator_is_its_own():
    def rules():
        yield Rule("a", "a", Normal())
        raise TypeError("of the caller")

    with pytest.raises(TypeError, match="of the caller"):
        Recipe(rules())
    assert sequence_of(int, "numbers", iter([1, 2])) == (1, 2)


def test_the_limit_of_python_may_be_lower():
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        with pytest.raises(ValueError, match="an integer of 2326 bits"):
            fastinit.fans((10**700, 3))
        record = fastinit.Record([], 10**700, "r", "0")
        assert fastinit.Record.from_json(record.to_json()) == record
    finally:
        sys.set_int_max_str_digits(before)
