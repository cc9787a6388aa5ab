"""Names of the definition: functions, and prefixes of whole components."""

import pytest

import fastinit
from fastinit.extending import check_prefixes, program_keys, renamed_program, renaming


@pytest.mark.parametrize(
    "rename, name, expected",
    [
        (None, "layers.0.up", "layers.0.up"),
        ({"layers.0": "layers.8"}, "layers.0.up", "layers.8.up"),
        ({"layers.0": "layers.8"}, "layers.01.up", "layers.01.up"),  # whole components only
        ({"layers.0": "layers.8"}, "first.layers.0.up", "first.layers.0.up"),  # and from the beginning
        ({"layers.0": "layers.8", "layers": "blocks"}, "layers.0.up", "layers.8.up"),  # the longest
        ({"layers.0": "layers.8", "layers": "blocks"}, "layers.1.up", "blocks.1.up"),
        ({"a": "b", "b": "a"}, "a.up", "b.up"),  # once
        ({"layers.0.up": "first"}, "layers.0.up", "first"),  # a whole name
        ({"": "encoder"}, "up", "encoder.up"),
        ({"model": ""}, "model.up", "up"),
        ({"": "encoder", "head": "head"}, "head.up", "head.up"),
        ({"layers": "module.layers"}, "layers.up", "layers.up"),  # what wrappers add is taken away
        (str.upper, "layers.up", "LAYERS.UP"),
    ],
)
def test_names_of_the_definition(rename, name, expected):
    assert renaming(rename)(name) == expected


@pytest.mark.parametrize(
    "rename, error, said",
    [
        (7, TypeError, "a function of a name, or a mapping of prefixes; got 7"),
        ("layers", TypeError, "got 'layers'"),
        ({"layers": 8}, TypeError, "both str; got 8"),
        ({0: "layers"}, TypeError, "both str; got 0"),
        ({"layers.": "blocks."}, ValueError, "names joined by single dots, got 'layers.'"),
        ({"layers": "a..b"}, ValueError, "'a..b'"),
    ],
)
def test_what_is_no_renaming_is_refused(rename, error, said):
    with pytest.raises(error, match=said):
        renaming(rename)


@pytest.mark.parametrize(
    "rename, said",
    [
        (lambda name: None, "rename must return a non-empty str for 'up', got None"),
        (lambda name: "", "rename must return a non-empty str for 'up', got ''"),
        (lambda name: 7, "rename must return a non-empty str for .*, got 7"),
        ({"up": ""}, "rename must return a non-empty str for .*, got ''"),
    ],
)
def test_a_name_is_a_str_that_is_not_empty(rename, said):
    with pytest.raises(ValueError, match=said):
        renaming(rename)("up")


def test_a_prefix_that_matches_nothing_is_refused():
    names = [f"layers.{layer}.up" for layer in range(8)]
    check_prefixes({"": "encoder", "layers": "blocks", "layers.7": "blocks.0", "layers.3.up": "first"}, names)
    check_prefixes(str.upper, names)
    check_prefixes(None, [])
    for prefix in ("layer", "layers.8", "layers.0.u", "up", "layers.0.up.down"):
        with pytest.raises(ValueError, match=f"the prefix '{prefix}' matches no name; there are 8: layers.0.up, "):
            check_prefixes({"layers": "blocks", prefix: "other"}, names)


def copies():
    """A source and two copies, as deferred() leaves the programs of a model with three layers."""
    normal = fastinit.Program(fastinit.Normal(), ("a draw",))
    found = {"layers.0.up": normal}
    for layer in (1, 2):
        found[f"layers.{layer}.up"] = fastinit.Program(
            fastinit.Normal(), ("a draw",), origin=(f"layers.{layer}.up", "layers.0.up")
        )
    return found


@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_copies_keep_their_source_where_it_was_cut_off(prefix):
    """A stage whose layers are 1 and 2 of the whole model, numbered anew."""
    whole = copies()
    before = {"layers.0.up": whole["layers.1.up"], "layers.1.up": whole["layers.2.up"]}
    rename = renaming({"layers.0": f"{prefix}layers.1", "layers.1": f"{prefix}layers.2"})
    parameters = [
        fastinit.Parameter(rename(name), (3,), program=renamed_program(program, name, rename(name), rename))
        for name, program in before.items()
    ]
    keyed = program_keys(parameters, 0)
    assert list(keyed) == [f"{prefix}layers.1.up", f"{prefix}layers.2.up"]
    for one in keyed.values():
        assert one.key == fastinit.Key(0).fold_in(f"{prefix}layers.0.up") and one.copied == f"{prefix}layers.0.up"


@pytest.mark.parametrize("cut", [False, True])
def test_copies_of_a_stage_that_was_built_alone_follow_its_names(cut):
    """Its layers are 8, 9 and 10 of the definition, and copies of 8."""
    rename = renaming({f"layers.{layer}": f"layers.{layer + 8}" for layer in range(3)})
    parameters = [
        fastinit.Parameter(rename(name), (3,), program=renamed_program(program, name, rename(name), rename))
        for name, program in copies().items()
    ][cut:]
    keyed = program_keys(parameters, 0)
    for name, one in keyed.items():
        assert one.key == fastinit.Key(0).fold_in("layers.8.up")
        assert one.copied == (None if name == "layers.8.up" else "layers.8.up")
