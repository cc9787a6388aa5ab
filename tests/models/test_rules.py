"""Rules and recipes as such: what matches, in which order, and what is refused."""

import pickle

import pytest

from fastinit import (
    RECIPES,
    Axes,
    Constant,
    Fans,
    Normal,
    Ones,
    Parameter,
    Recipe,
    Rule,
    Uniform,
    UnmatchedParameter,
    Zeros,
    he_normal,
    recipe_named,
)

CONV = Parameter("features.0.weight", (64, 4, 3, 3), types=("MyConv", "Conv2d", "_ConvNd", "Module"), groups=2)


def test_a_parameter_has_its_role_fans_and_geometry():
    assert CONV.role == "weight"
    assert CONV.fans == Fans(36, 288, 9)
    assert he_normal(**CONV.geometry).fans(CONV.shape) == CONV.fans
    assert Parameter("module.a._orig_mod.bias", [8]).name == "a.bias"
    assert Parameter("a.bias", (8,)).fans is None
    assert Parameter("scale", ()).fans is None
    assert Parameter("cls_token", (1, 1, 8), layout=None).fans is None
    assert Parameter("w", (4, 5), layout=Axes(0, 1)).fans == Fans(4, 5, 1)
    assert Parameter("w", (4, 5), types="Linear").types == ("Linear",)
    assert Parameter("a.b", (1,), role="weight").role == "weight"
    plain = Parameter("a.b", (1,))
    assert (plain.layer, plain.program, plain.frozen) == ("", None, False)
    assert Parameter("a.b", (1,), layer="Linear", frozen=True).layer == "Linear"
    with pytest.raises(TypeError, match="layer of a parameter"):
        Parameter("a.b", (1,), layer=None)
    with pytest.raises(TypeError, match="frozen of a parameter must be a bool"):
        Parameter("a.b", (1,), frozen=1)
    with pytest.raises(ValueError, match="axes"):
        _ = Parameter("w", (4, 5, 6), layout="OI").fans
    with pytest.raises(TypeError, match="name of a parameter"):
        Parameter("", (1,))
    with pytest.raises(TypeError, match="shape: expected an integer"):
        Parameter("w", (1.5,))


@pytest.mark.parametrize(
    ("types", "name", "matches"),
    [
        ("*", "*", True),
        ("Conv2d", "weight", True),
        ("MyConv", "weight", True),
        ("_ConvNd", "features.*", True),
        ("Conv?d", "features.0.weight", True),
        ("Conv[13]d", "weight", False),
        ("Linear | Conv2d", "bias|weight", True),
        ("Linear|Dense", "weight", False),
        ("conv2d", "weight", False),
        ("Conv2d", "Weight", False),
        ("Conv2d", "weigh", False),
        ("Conv", "weight", False),
        ("Conv2d", "features.1.*", False),
        ("*", "*.weight", True),
    ],
)
def test_patterns(types, name, matches):
    assert Rule(types, name, Zeros()).matches(CONV) is matches


def test_layers_without_types_match_the_star_only():
    bare = Parameter("weight", (3, 4))
    assert Rule("*", "weight", Zeros()).matches(bare)
    assert not Rule("?*", "weight", Zeros()).matches(bare)


def test_the_first_rule_that_matches_wins_and_a_function_may_pass():
    asked = []

    def only_biases(parameter):
        asked.append(parameter.name)
        return Ones() if parameter.role == "bias" else None

    recipe = Recipe([Rule("*", "*", only_biases), Rule("Linear", "*", Normal(), "mine"), Rule("*", "w*", Uniform())])
    rule, initializer = recipe.match(Parameter("a.weight", (2, 2), types=("Linear",)))
    assert (rule.title, initializer) == ("mine", Normal())
    assert recipe.match(Parameter("a.bias", (2,), types=("Linear",)))[1] == Ones()
    assert recipe.match(Parameter("a.w", (2, 2)))[1] == Uniform()
    assert asked == ["a.weight", "a.bias", "a.w"]
    assert Rule("Linear", "b*", Zeros()).title == "Linear: b*"


def test_an_unmatched_parameter_is_named():
    with pytest.raises(UnmatchedParameter) as raised:
        Recipe([Rule("Linear", "*", Normal())], "small").match(CONV)
    text = str(raised.value)
    for part in ("'small'", "'features.0.weight'", "(64, 4, 3, 3)", "(MyConv)", "with_rules", "deferred()", '"keep"'):
        assert part in text
    assert isinstance(raised.value, LookupError)
    with pytest.raises(UnmatchedParameter, match="unknown layer"):
        Recipe([]).match(Parameter("a", (1,)))


def test_contradictory_rules_are_refused():
    with pytest.raises(ValueError, match=r"types 'A \| B' and name 'w' contradict"):
        Recipe([Rule("B|A", "w", Zeros()), Rule("A | B", "w", Ones())])
    Recipe([Rule("A", "w", Zeros()), Rule("A", "w", Constant(0))])  # twice the same is none
    Recipe([Rule("A", "w", lambda parameter: None), Rule("A", "w", Ones())])  # a function may pass
    with pytest.raises(ValueError, match="contradict"):
        Recipe([Rule("A", "w", Zeros()), Rule("A", "w", lambda parameter: None)])


def test_an_exact_rule_that_comes_too_late_is_refused():
    parameter = Parameter("head.weight", (2, 2), types=("Linear",))
    general, exact = Rule("Linear", "weight", Normal()), Rule("*", "head.weight", Zeros())
    with pytest.raises(ValueError, match=r"exactly 'head.weight' comes after 'Linear: weight'.*put the exact"):
        Recipe([general, exact]).match(parameter)
    assert Recipe([exact, general]).match(parameter) == (exact, Zeros())
    assert Recipe([general, Rule("*", "head.weight", Normal())]).match(parameter)[0] == general  # they agree
    assert Recipe([general, Rule("*", "head.weight", lambda p: None)]).match(parameter)[0] == general
    assert Recipe([general, Rule("Conv2d", "head.weight", Zeros())]).match(parameter)[0] == general
    assert Recipe([general, exact]).match(Parameter("tail.weight", (2, 2), types=("Linear",)))[0] == general
    # a parameter of the top layer has no name but its role
    top = Parameter("weight", (2, 2), types=("Linear",))
    assert Recipe([general, Rule("*", "weight", Zeros())]).match(top)[0] == general


def test_own_rules_come_first_and_replace():
    base = Recipe([Rule("A", "w", Zeros()), Rule("*", "*", Normal())], "base")
    own = base.with_rules(Rule("A", "w", Ones()))
    assert own.match(Parameter("x.w", (1,), types=("A",)))[1] == Ones()
    assert len(own.rules) == 2 and own.name == "custom" and base.with_rules(name="named").name == "named"
    passing = base.with_rules(Rule("A", "w", lambda parameter: None))
    assert passing.match(Parameter("x.w", (1,), types=("A",)))[1] == Zeros()
    assert base.match(Parameter("x.w", (1,), types=("A",)))[1] == Zeros()  # as it was
    with pytest.raises(ValueError, match="contradict"):
        base.with_rules(Rule("A", "w", Ones()), Rule("A", "w", Zeros()))


def test_recipes_by_name():
    custom = Recipe([Rule("*", "*", Zeros())])
    assert recipe_named(custom) is custom
    assert all(recipe_named(name) is recipe and recipe.name == name for name, recipe in RECIPES.items())
    with pytest.raises(ValueError, match="recipe must be one of own, auto, fans, torch, or a Recipe; got 'keras'"):
        recipe_named("keras")
    with pytest.raises(TypeError, match="a name or a Recipe, not None"):
        recipe_named(None)


def test_recipes_are_values():
    recipe = Recipe([Rule("*", "*", Zeros())])
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert isinstance(recipe.rules, tuple)
    assert pickle.loads(pickle.dumps(RECIPES)) == RECIPES  # built-in functions are found by name
    assert pickle.loads(pickle.dumps(CONV)) == CONV


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rule("*", "*", "zeros"), "must be an Initializer or a function"),
        (lambda: Rule("*", "*", None), "must be an Initializer or a function"),
        (lambda: Rule(("Linear",), "*", Zeros()), "types of a rule must be a str"),
        (lambda: Rule("*", None, Zeros()), "name of a rule must be a str"),
        (lambda: Recipe([Zeros()]), "a recipe is made of rules"),
        (
            lambda: Recipe([Rule("*", "*", lambda p: 0.5)]).match(CONV),
            "must return an Initializer or None for 'features",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(TypeError, match=message):
        make()
