"""propagate(): against autograd's answer, theory, closed forms, and the verdicts on networks whose fate is known."""

import itertools
import json
import math

import numpy as np
import pytest

import fastinit
from fastinit import Constant, Key, Normal, Orthogonal, Zeros, gain, propagate
from fastinit.advice.activations import ACTIVATIONS, derivative
from fastinit.advice.gains import second_moment
from fastinit.audits.propagation import judged

KEY = Key(0)
DEEP = [256] * 51


# The fate of networks

FATES = {
    "healthy": fastinit.he_normal(),
    "vanishing": fastinit.glorot_normal(),
    "exploding": Normal(),
    "symmetric": Zeros(),
}


@pytest.mark.parametrize("seeds", [range(5), pytest.param(range(5, 20), marks=pytest.mark.long)], ids=str)
@pytest.mark.parametrize("fate", FATES)
def test_the_fate_of_a_deep_rectifier_network_over_20_keys(fate, seeds):
    for seed in seeds:
        found = propagate(DEEP, "relu", FATES[fate], key=Key(seed), batch=16)
        assert found.verdict == fate, (seed, found.reason)


@pytest.mark.parametrize(
    ("activation", "initializer", "verdict"),
    [
        ("tanh", fastinit.glorot_uniform(), "healthy"),
        ("tanh", Normal(0.0, 0.5), "exploding"),  # chaos: the gradients explode, and no activation shows it
        ("tanh", Normal(0.0, 0.01), "vanishing"),
        ("sigmoid", fastinit.glorot_uniform(), "vanishing"),
        ("selu", fastinit.lecun_normal(), "healthy"),
        ("linear", Orthogonal(), "healthy"),
        ("relu", Constant(0.1), "symmetric"),
        ("tanh", Constant(0.01), "symmetric"),
    ],
)
def test_other_fates(activation, initializer, verdict):
    found = propagate(DEEP, activation, initializer, key=KEY, batch=64)
    assert found.verdict == verdict, found.reason
    assert verdict in str(found)


def test_one_layer_that_does_nothing_wrong():
    assert propagate([8, 8], "tanh", fastinit.glorot_uniform(), key=KEY).verdict == "healthy"
    assert propagate([8, 1], "tanh", Zeros(), key=KEY, batch=2).verdict == "vanishing"


# The numbers


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "selu", "softsign"])
def test_the_gradients_are_autograds(activation):
    torch = pytest.importorskip("torch")
    functions = {
        "tanh": torch.tanh,
        "relu": torch.relu,
        "gelu": torch.nn.functional.gelu,
        "selu": torch.selu,
        "softsign": torch.nn.functional.softsign,
    }
    widths, batch = [7, 11, 5, 9], 13
    found = propagate(widths, activation, fastinit.he_normal(), key=KEY, batch=batch)
    x = torch.from_numpy(fastinit.fill(np.empty((batch, 7)), Normal(), KEY.fold_in("inputs")))
    kept = []
    for number, shape in enumerate(itertools.pairwise(widths)):
        weight = fastinit.fill(np.empty(shape), fastinit.he_normal(), KEY.fold_in(number))
        kept.append((x @ torch.from_numpy(weight)).requires_grad_())
        kept[-1].retain_grad()
        x = functions[activation](kept[-1])
    noise = fastinit.fill(np.empty((batch, 9)), Normal(), KEY.fold_in("gradient"))
    (x * torch.from_numpy(noise)).sum().backward()
    for layer, own in zip(found, kept, strict=True):
        assert layer.pre_variance == pytest.approx(float(own.detach().var(unbiased=False)), rel=1e-9)
        assert layer.gradient_variance == pytest.approx(float(own.grad.var(unbiased=False)), rel=1e-6)
        assert layer.gradient_mean == pytest.approx(float(own.grad.mean()), abs=1e-6)


SCALED = {
    "tanh": fastinit.glorot_normal(),
    "relu": fastinit.he_normal(),
    "gelu": fastinit.VarianceScaling(gain("gelu") ** 2, "fan_in", "normal"),
}


def strays(activation, width, depth, keys):
    """By how much the mean over networks strays from the prediction, at most over all layers: forward, backward.

    A single network strays by more: of rectifiers the variance of log |x|^2 grows by 5 / width with every layer.
    """
    runs = [propagate([width] * (depth + 1), activation, SCALED[activation], key=Key(s), batch=8) for s in range(keys)]
    worst = [0.0, 0.0]
    for layers in zip(*runs, strict=True):
        for place, names in enumerate(
            (("pre_variance", "predicted_variance"), ("gradient_variance", "predicted_gradient_variance"))
        ):
            measured, predicted = (np.mean([getattr(layer, name) for layer in layers]) for name in names)
            worst[place] = max(worst[place], abs(measured / predicted - 1))
    return worst


@pytest.mark.parametrize("activation", SCALED)
def test_the_prediction_holds(activation):
    assert max(strays(activation, 256, 10, 60)) < 0.1


@pytest.mark.long
@pytest.mark.parametrize("activation", SCALED)
def test_the_prediction_holds_in_deep_networks(activation):
    assert max(strays(activation, 1024, 50, 120)) < 0.1


def test_the_factor_is_that_of_the_tutorials():
    found = propagate([100] * 11, "relu", fastinit.he_normal(), key=KEY)
    assert all(layer.factor == pytest.approx(1.0, rel=1e-3) for layer in found)
    found = propagate([100] * 11, "linear", Normal(0.0, 0.2), key=KEY)
    assert all(layer.factor == pytest.approx(4.0, rel=1e-6) for layer in found)


def test_a_linear_network_multiplies():
    inputs = np.random.default_rng(0).normal(size=(50, 20))
    found = propagate([20] * 10, "linear", fastinit.Identity(2.0), key=KEY, batch=inputs)
    assert found.layers[-1].variance == pytest.approx(inputs.var() * 2.0**18, rel=1e-9)
    assert found.verdict == "exploding"


def test_shares():
    found = propagate([64, 4096], "relu", fastinit.he_normal(), key=KEY, batch=1).layers[0]
    assert found.dead == pytest.approx(0.5, abs=0.03)  # for one example half of the units are off
    assert found.saturated == pytest.approx(0.5, abs=0.03)
    assert found.linear == pytest.approx(0.5, abs=0.03)
    small = propagate([64, 512], "sigmoid", Normal(0.0, 1e-4), key=KEY).layers[0]
    assert (small.linear, small.saturated, small.dead) == (1.0, 0.0, 0.0)
    large = propagate([64, 512], "sigmoid", Normal(0.0, 10.0), key=KEY).layers[0]
    assert large.saturated > 0.9
    nothing = propagate([64, 512], "relu", Normal(0.0, 1.0), key=KEY, batch=np.zeros((3, 64))).layers[0]
    assert nothing.dead == 1.0


def test_reproducible_and_of_any_width():
    first, second = (propagate([5, 9, 1, 7], "tanh", fastinit.glorot_uniform(), key=KEY, batch=3) for _ in range(2))
    assert first == second
    assert [layer.width for layer in first] == [9, 1, 7]
    assert not any(layer.identical for layer in first)  # one unit is like no other


def test_overflow_is_an_explosion():
    found = propagate([64] * 200, "linear", Normal(0.0, 1e6), key=KEY, batch=4)
    assert found.verdict == "exploding"
    text = json.dumps(found.as_dict(), allow_nan=False)
    assert json.loads(text)["verdict"] == "exploding"


def test_tables():
    lines = str(propagate([32] * 101, "relu", fastinit.he_normal(), key=KEY, batch=4)).splitlines()
    assert len(lines) < 30
    assert lines[1].split()[0] == "1"
    assert lines[-2].split()[0] == "100"
    assert len(str(propagate([32] * 6, "relu", fastinit.he_normal(), key=KEY, batch=4)).splitlines()) == 7


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_slopes(name):
    function = ACTIVATIONS[name]
    z = np.linspace(-5.03, 4.97, 777)
    exact = (function(z + 1e-5) - function(z - 1e-5)) / 2e-5
    assert np.allclose(derivative(function)(z), exact, rtol=1e-5, atol=1e-6)
    assert np.allclose(derivative(name)(z), exact, rtol=1e-5, atol=1e-6)
    assert second_moment(function, 1.0) == pytest.approx(1 / gain(name) ** 2, rel=1e-3)


def test_the_slope_at_a_kink_is_that_from_the_left():
    assert derivative(ACTIVATIONS["relu"])(np.zeros(3)).tolist() == [0.0] * 3
    assert derivative(ACTIVATIONS["leaky_relu"])(np.zeros(1))[0] == pytest.approx(0.01)
    for name in ACTIVATIONS:
        assert derivative(name)(np.zeros(1))[0] == pytest.approx(
            derivative(ACTIVATIONS[name])(np.zeros(1))[0], abs=1e-5
        )


@pytest.mark.parametrize("activation", ["relu", lambda z: np.maximum(z, 0.0)])
def test_the_slopes_of_a_vanishing_signal_are_right(activation):
    last = propagate([64] * 101, activation, fastinit.glorot_normal(), key=KEY).layers[-1]
    assert last.pre_variance < 1e-25
    assert last.gradient_variance == pytest.approx(0.5, rel=0.3)
    assert last.linear == pytest.approx(0.5, abs=0.2)


# Verdicts


@pytest.mark.parametrize(
    ("forward", "backward", "verdict", "words"),
    [
        ([1, 2, 3], [3, 2, 1], "healthy", "factor of 3"),
        ([1, 0.1, 0.001], [1, 1, 1], "vanishing", "activations"),
        ([1, 1, 1], [0.001, 0.1, 1], "vanishing", "gradients"),
        ([1, 1, 1], [1000, 30, 1], "exploding", "gradients"),
        ([1, 1e200, math.inf], [1, 1, 1], "exploding", "overflow"),
        ([1, 1, math.nan], [1, 1, 1], "exploding", "overflow"),
        ([0, 0, 0], [1, 1, 1], "vanishing", "falls to 0"),
    ],
)
def test_verdicts(forward, backward, verdict, words):
    found, reason = judged(forward, backward, [False] * 3)
    assert found == verdict
    assert words in reason
    assert judged(forward, backward, [False, True, False]) == (
        "symmetric",
        "all units of layer 2 compute the same, and always learn the same",
    )


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([8], "relu"), {}, ValueError, "at least one layer"),
        (([], "relu"), {}, ValueError, "at least one layer"),
        (([8, 0], "relu"), {}, ValueError, "each at least 1"),
        (([8, 8.5], "relu"), {}, TypeError, "integer"),
        (([8, 8], "rellu"), {}, ValueError, "did you mean"),
        (([8, 8], lambda z: z[:, :1]), {}, ValueError, "changes the shape"),
        (([8, 8], lambda z: z * math.nan), {}, ValueError, "NaN"),
        (([8, 8], None), {}, TypeError, "name or a function"),
        (([8, 8], "relu"), {"batch": 0}, ValueError, "batch must be at least 1"),
        (([8, 8], "relu"), {"batch": 1.5}, TypeError, "batch"),
        (([8, 8], "relu"), {"batch": np.zeros((3, 7))}, ValueError, r"\(examples, 8\)"),
        (([8, 8], "relu"), {"batch": np.full((3, 8), math.nan)}, ValueError, "finite"),
        (([8, 8], "relu"), {"key": 0}, TypeError, "Key"),
        (([8, 8], "relu", "he"), {}, TypeError, "he"),
        (([8, 8], "relu", fastinit.Dirac()), {}, ValueError, "dirac"),
    ],
)
def test_bad_input(arguments, options, error, message):
    arguments = (*arguments, fastinit.he_normal())[:3]
    with pytest.raises(error, match=message):
        propagate(*arguments, **{"key": KEY, **options})
