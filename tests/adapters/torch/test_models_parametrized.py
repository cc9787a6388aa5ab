"""Parametrized weights: made as the plain ones, and assigned through right_inverse."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch.layers import parameters  # noqa: E402
from fastinit.adapters.torch.materializing import materialize  # noqa: E402
from fastinit.adapters.torch.models import initialize_, replay  # noqa: E402
from fastinit.models.recipes import RECIPES, Rule, UnmatchedParameter  # noqa: E402


def plain(*shape):
    layer = nn.Linear(*shape)
    initialize_(layer)
    return layer.weight.detach()


def test_weight_norm_has_the_weight_of_the_plain_layer():
    layer = parametrizations.weight_norm(nn.Linear(6, 8))
    originals = list(layer.parameters())
    record = initialize_(layer, digests=True)
    assert [entry.name for entry in record] == ["bias", "weight"]
    torch.testing.assert_close(layer.weight, plain(6, 8))
    direction, size = layer.parametrizations.weight.original1, layer.parametrizations.weight.original0
    assert torch.equal(direction, plain(6, 8))
    torch.testing.assert_close(size, direction.norm(dim=1, keepdim=True))
    assert all(one is other for one, other in zip(layer.parameters(), originals, strict=True))
    assert record["weight"].digest == initialize_(nn.Linear(6, 8), digests=True)["weight"].digest


def test_spectral_norm_knows_the_largest_singular_value_at_once():
    layers = [parametrizations.spectral_norm(nn.Conv2d(4, 8, 3)) for _ in range(2)]
    layers[1](torch.ones(1, 4, 5, 5))  # has moved its estimates
    for layer in layers:
        layer.train(layer is layers[0])
        initialize_(layer)
        assert [module.training for module in layer.parametrizations.modules()] == [layer is layers[0]] * 3
        layer.eval()
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1.0, rel=0.1)
    first, second = (layer.state_dict() for layer in layers)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("orthogonal_map", ["householder", "matrix_exp", "cayley"])
@pytest.mark.parametrize("shape", [(6, 6), (4, 8), (8, 4)])
def test_orthogonal_draws_from_the_key(shape, orthogonal_map):
    weights = []
    for seed in (0, 99):
        torch.manual_seed(seed)
        layer = parametrizations.orthogonal(nn.Linear(*shape), orthogonal_map=orthogonal_map)
        state = torch.get_rng_state()
        initialize_(layer, RECIPES["auto"].with_rules(Rule("Linear", "weight", fastinit.Orthogonal(column_axis=0))))
        assert torch.equal(torch.get_rng_state(), state)
        weights.append(layer.weight.detach())
    assert torch.equal(*weights)
    expected = nn.Linear(*shape)
    initialize_(expected, RECIPES["auto"].with_rules(Rule("Linear", "weight", fastinit.Orthogonal(column_axis=0))))
    torch.testing.assert_close(weights[0], expected.weight, atol=1e-5, rtol=0)


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x

    def right_inverse(self, x):
        return x / 2


class Scaled(Doubled):
    """With a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))


class Exponential(nn.Module):
    def forward(self, x):
        return x.exp()

    def right_inverse(self, x):
        return x.log()


class OneWay(nn.Module):
    def forward(self, x):
        return x.abs()


def parametrized(*chain):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    for module in chain:
        parametrize.register_parametrization(model[0], "weight", module)
    return model


def test_chains_of_parametrizations():
    model = parametrized(Doubled(), Doubled())
    places = {place.parameter.name: place.parameter for place in parameters(model)}
    assert places["0.weight"].types == ("Linear", "Module") and places["0.weight"].activation == "relu"
    expected = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    one, other = initialize_(model, digests=True), initialize_(expected, digests=True)
    assert {entry.name: entry.digest for entry in one} == {entry.name: entry.digest for entry in other}
    assert torch.equal(model[0].weight, expected[0].weight) and torch.equal(model[2].weight, expected[2].weight)
    assert torch.equal(model[0].parametrizations.weight.original, expected[0].weight / 4)


def test_the_parameters_of_a_parametrization_need_rules_of_their_own():
    name = "0.parametrizations.weight.0.factor"
    with pytest.raises(UnmatchedParameter, match=name):
        initialize_(parametrized(Scaled()))
    model = parametrized(Scaled())
    record = initialize_(model, RECIPES["auto"].with_rules(Rule("Scaled", "factor", fastinit.Constant(3.0))))
    assert (record[name].std, model[0].parametrizations.weight[0].factor.item()) == (0, 3)


@pytest.mark.parametrize(
    ("chain", "match"),
    [
        ([OneWay()], r"'0\.weight' cannot be assigned.*OneWay does not implement right_inverse"),
        ([Doubled(), OneWay()], r"'0\.weight' cannot be assigned.*OneWay"),
        ([Exponential()], r"'0\.weight' lies outside the range"),  # a weight has negative elements
    ],
)
def test_what_cannot_be_assigned_is_refused_before_anything_is_written(chain, match):
    model = parametrized(*chain)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=match):
        initialize_(model)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)


def test_an_orthogonal_map_that_cannot_be_assigned_to():
    layer = parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="cayley", use_trivialization=False)
    with pytest.raises(ValueError, match=r"'weight' cannot be assigned.*use_trivialization"):
        initialize_(layer)


def build():
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 8)),
        nn.ReLU(),
        parametrizations.spectral_norm(nn.Conv1d(8, 8, 3)),
        parametrizations.orthogonal(nn.Linear(8, 4)),
    )


def test_parametrized_models_replay_and_materialize():
    model, other = build(), build()
    record = initialize_(model)
    assert replay(record.to_json(), other) == record
    with torch.device("meta"):
        third = nn.Sequential(*(nn.Linear(6, 8), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.Linear(8, 4)))
    third[0] = parametrizations.weight_norm(third[0])
    third[2] = parametrizations.spectral_norm(third[2])
    for name in ("0", "2"):
        assert third.get_submodule(name).parametrizations.weight[0] is not None
    materialize(third, RECIPES["auto"])
    for name, tensor in third.state_dict().items():
        if not name.startswith("3."):
            assert torch.equal(tensor, model.state_dict()[name]), name
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in other.state_dict().items())
