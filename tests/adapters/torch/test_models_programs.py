"""Models that carry their authors' programs, here written by hand: own, auto, fans, and what stays as it is."""

import copy
import math

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
from torch import nn  # noqa: E402

import fastinit  # noqa: E402
from fastinit import Box, Constant, Keep, Normal, Ones, Painted, Program, TruncatedNormal, Uniform, Zeros  # noqa: E402
from fastinit.adapters.torch import deferred, materialize  # noqa: E402
from fastinit.adapters.torch.internals import PROGRAMS  # noqa: E402
from fastinit.adapters.torch.models import initialize_, replay  # noqa: E402
from fastinit.models.recipes import RECIPES, Rule, UnmatchedParameter  # noqa: E402

SMALL = TruncatedNormal(0.0, 0.02)


def given(module, **initializers):
    """The module with programs for its own parameters; those of torch's layers left at their defaults otherwise."""
    vars(module)[PROGRAMS] = {role: Program(one, operators=("by_hand",)) for role, one in initializers.items()}
    return module


def default(fan_in):
    return Uniform(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))


class Table(nn.Module):
    """A parameter of the author's own, under any name."""

    def __init__(self, *shape, name="weight", requires_grad=True):
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.full(shape, 9.0), requires_grad=requires_grad))


def filled(model, recipe, **options):
    """Values after initialize_, and the record's initializers."""
    record = initialize_(model, recipe, **options)
    return {name: tensor.detach() for name, tensor in model.named_parameters()}, record


# B1


def test_tables_that_are_added_have_one_scale():
    def bert(*, carries):
        model = nn.Module()
        for name, rows in (("words", 120), ("positions", 64), ("types", 2)):
            setattr(model, name, nn.Embedding(rows, 256))
            if carries:
                given(getattr(model, name), weight=Normal(0.0, 0.02))
        model.head = nn.Linear(256, 120, bias=False)
        model.head.weight = model.words.weight
        return model

    for recipe in ("own", "auto", "fans"):
        _, record = filled(bert(carries=True), recipe)
        assert [entry.std for entry in record] == [0.02] * 3
    _, record = filled(bert(carries=False), "auto")
    assert [entry.std for entry in record] == [1 / 16] * 3


# B2, frozen


@pytest.mark.parametrize("recipe", ["own", "auto", "fans", None])
def test_a_frozen_table_has_its_program(recipe):
    model = nn.Sequential(given(nn.Embedding(4, 6), weight=Painted(Zeros(), (Box((0, 0), (2, 6), Ones()),))))
    model[0].weight.requires_grad_(False)
    values, _ = filled(model, recipe)
    assert values["0.weight"].tolist() == [[1.0] * 6] * 2 + [[0.0] * 6] * 2


def test_without_programs_frozen_parameters_stay():
    model = nn.Sequential(nn.Linear(4, 4), Table(3, 3, requires_grad=False), nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    model[2].requires_grad_(False)
    for norm in model[2:]:
        norm.running_mean.fill_(5.0)
    values, record = filled(model, "auto", digests=True)
    assert (values["1.weight"] == 9).all() and record["1.weight"].rule == "frozen: kept"
    assert record["1.weight"].initializer == Keep() and record["1.weight"].std is None
    assert record["1.weight"].digest == fastinit.digest(values["1.weight"].numpy())
    assert (model[2].running_mean == 5).all() and not model[3].running_mean.any()
    with pytest.raises(UnmatchedParameter, match=r"'1\.weight' of shape \(3, 3\) \(Table\)"):
        initialize_(model, "auto", frozen=True)


# B3


@pytest.mark.parametrize("recipe", ["auto", "fans", "torch"])
def test_a_layer_under_any_name_is_its_base(recipe):
    class NormedLinear(nn.Linear):
        pass

    class NormedEmbedding(nn.Embedding):
        pass

    class SpectralNormConv2d(nn.Conv2d):
        pass

    named = nn.Sequential(NormedLinear(6, 8), NormedEmbedding(6, 8), SpectralNormConv2d(6, 8, 3))
    plain = nn.Sequential(nn.Linear(6, 8), nn.Embedding(6, 8), nn.Conv2d(6, 8, 3))
    values, _ = filled(named, recipe)
    expected, _ = filled(plain, recipe)
    assert all(torch.equal(value, expected[name]) for name, value in values.items())
    assert all(values[name].std() > 0.05 for name in ("0.weight", "1.weight", "2.weight"))


# B4 to B9


@pytest.mark.parametrize("recipe", ["own", "auto", "fans"])
@pytest.mark.parametrize(
    ("make", "role", "program"),
    [
        (lambda: Table(8), "weight", Zeros()),  # a norm that multiplies by 1 + weight
        (lambda: nn.LayerNorm(8), "weight", Zeros()),
        (lambda: nn.Linear(8, 8), "weight", Zeros()),  # LoRA's B, adaLN-Zero
        (lambda: nn.Conv2d(8, 8, 1), "weight", Zeros()),
        (lambda: nn.Linear(8, 8), "bias", Constant(-4.6)),  # a focal prior
        (lambda: nn.Linear(8, 4), "bias", Painted(Zeros(), (Box((0,), (2,), Ones()),))),  # a grid
        (lambda: Table(8, name="gamma"), "gamma", Constant(0.3)),
        (lambda: Table(8, name="layer_scale"), "layer_scale", Constant(1e-6)),
        (lambda: nn.BatchNorm2d(8), "weight", Zeros()),
        (lambda: Table(1, name="logit_scale"), "logit_scale", Constant(math.log(10))),
        (lambda: Table(8, name="A_log"), "A_log", Constant(0.7)),
        (lambda: Table(1, 1, 8, name="cls_token_0"), "cls_token_0", SMALL),
        (lambda: Table(1, 9, 8, name="pos_embed"), "pos_embed", Normal(0.0, 1e-6)),
        (nn.PReLU, "weight", Constant(0.1)),
        (lambda: nn.LSTM(4, 4), "bias_hh_l0", Constant(2.0)),
    ],
)
def test_what_the_author_chose_stays(recipe, make, role, program):
    module = make()
    given(module, **{name: default(8) for name, _ in module.named_parameters()} | {role: program})
    values, record = filled(module, recipe)
    assert record[role].initializer == program and record[role].rule == "the author's own: by_hand"
    key = fastinit.Key(0).fold_in(role)
    assert values[role].tolist() == torch.from_numpy(fastinit.fill(values[role].numpy() * 0, program, key)).tolist()


def test_all_that_is_unknown_is_in_one_error():
    names = ("A_log", "dt_bias", "D", "sinks", "gamma1", "temperature", "cls_token_0", "weight_g", "bias")
    model = nn.Sequential(nn.Linear(2, 2), *(Table(3, name=name) for name in names))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnmatchedParameter) as raised:
        initialize_(model)
    assert all(f"'{place}.{name}' of shape (3,) (Table)" in str(raised.value) for place, name in enumerate(names, 1))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for recipe, options in (("auto", {"unmatched": "keep"}), (KEEPING, {})):
        values, record = filled(model, recipe, **options)
        assert all((values[f"{place}.{name}"] == 9).all() for place, name in enumerate(names, 1))
        assert sum(entry.initializer == Keep() for entry in record) == len(names)
        assert replay(record.to_json(), model) == record


KEEPING = RECIPES["auto"].with_rules(Rule("Table", "*", Keep(), "as it is"))


# What auto improves


def test_auto_improves_what_was_left_alone():
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64), nn.Linear(64, 8))
    given(model[0], weight=default(64), bias=default(64))
    given(model[2], weight=fastinit.torch_default_uniform(layout="OI..."), bias=Constant(0.5))
    given(model[3], weight=Normal(0.0, 0.02), bias=Zeros())
    _, own = filled(model, None)
    assert [entry.std for entry in own][::2] == pytest.approx([8**-1 / 3**0.5, 96**-0.5, 0.02])
    _, auto = filled(model, "auto")
    assert [entry.rule for entry in auto] == [
        *("scaled for relu", "bias", "no activation found: gain 1"),
        *["the author's own: by_hand"] * 3,
    ]
    assert [entry.std for entry in auto][::2] == pytest.approx([32**-0.5, 32**-0.5, 0.02])
    _, fans = filled(model, "fans")
    assert [entry.std for entry in fans][::2] == pytest.approx([32**-0.5, 32**-0.5, 8**-1])
    assert fans["2.bias"].initializer == Constant(0.5)


def test_gates_and_packed_weights_left_alone():
    model = nn.Sequential(nn.LSTM(6, 8, proj_size=3), nn.MultiheadAttention(8, 2), nn.Bilinear(3, 4, 5))
    within = default(8)
    given(model[0], **{role: within for role, _ in model[0].named_parameters()})
    given(model[1], in_proj_weight=fastinit.xavier_uniform(layout="OI..."), in_proj_bias=Zeros())
    given(model[1].out_proj, weight=default(8), bias=Zeros())
    given(model[2], weight=default(3), bias=default(3))
    _, record = filled(model, "auto")
    plain = nn.Sequential(nn.LSTM(6, 8, proj_size=3), nn.MultiheadAttention(8, 2), nn.Bilinear(3, 4, 5))
    assert record == initialize_(plain, "auto")


def test_what_a_transformer_draws_again_is_its_authors_choice():
    model = nn.TransformerEncoderLayer(8, 2, 16)
    again = fastinit.xavier_uniform(layout="OI...")
    given(model.linear1, weight=again, bias=default(8))
    entries = {entry.name: entry for entry in initialize_(model.linear1, "auto")}
    assert entries["weight"].initializer == again and entries["bias"].initializer == Zeros()


# B12


@pytest.mark.parametrize("carries", [False, True])
def test_a_padding_row_of_a_later_layer_is_zero(carries):
    model = nn.Module()
    model.first, model.second = nn.Embedding(9, 4), nn.Embedding(9, 4, padding_idx=0)
    model.second.weight = model.first.weight
    if carries:
        given(model.first, weight=Normal())
    values, _ = filled(model, "auto")
    assert not values["first.weight"][0].any() and values["first.weight"][1:].any(1).all()


# From the meta device


def build():
    with deferred():
        model = nn.Sequential(nn.Linear(4, 4), Table(3, name="token"), Table(2, requires_grad=False))
    given(model[0], weight=Normal(0.0, 0.02), bias=Zeros())
    given(model[1], token=SMALL)
    given(model[2], weight=Constant(3.0))
    return model


def test_a_model_with_programs_is_materialized_as_its_author_wrote_it():
    model = build()
    record = materialize(model)
    assert record.recipe == "own" and record["0.weight"].std == 0.02
    assert (model[2].weight == 3).all() and model[1].token.abs().max() <= 0.04
    again = build()
    assert materialize(again, "torch", unmatched="keep")["1.token"].initializer == SMALL  # where torch has no answer
    assert (again[2].weight == 3).all()


def test_without_programs_there_is_nothing_to_keep_on_the_meta_device():
    model = build()
    for module in model:
        vars(module).pop(PROGRAMS)
    with pytest.raises(UnmatchedParameter, match=r"2 parameters|1 parameter: '1\.token'"):
        materialize(model, unmatched="keep")
    del model[1]
    with pytest.raises(ValueError, match=r"cannot keep values of parameters on the meta device: '1\.weight'"):
        materialize(model)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_own_needs_programs():
    with pytest.raises(UnmatchedParameter, match=r"'own' has no rule for 2 parameters: 'weight'.*'bias'.*deferred\(\)"):
        initialize_(nn.Linear(2, 2), "own")
