"""Gains against mpmath's quadrature, closed forms, and what the errors say."""

import math
import random
import time

import mpmath
import numpy as np
import pytest

from fastinit import backward_gain, gain
from fastinit.advice.activations import ACTIVATIONS, ALIASES
from fastinit.advice.gains import GAINS

# The figures that issue trackers and papers quote, to their five decimals.
KNOWN = {
    "relu": 1.41421, "gelu": 1.53353, "gelu_tanh": 1.53358, "silu": 1.67653, "quick_gelu": 1.53946, "mish": 1.48685,
    "elu": 1.24520, "selu": 1.0, "softplus": 1.04187, "tanh": 1.59254, "sigmoid": 1.84623, "hardswish": 1.73666,
    "hardtanh": 1.39204, "softsign": 2.33753, "relu_squared": 0.81650, "sin": 1.52087,
}  # fmt: skip

mp = mpmath.mp


def sigma(z):
    return 1 / (1 + mp.exp(-z))


def clip(z, low, high):
    return min(max(z, low), high)


def elu(z, alpha=1):
    return z if z > 0 else alpha * mp.expm1(z)


# Written from the definitions, and by another route than the library's where there is one.
DEFINITIONS = {
    "celu": elu,
    "elu": elu,
    "gelu": lambda z: z * mp.ncdf(z),
    "gelu_tanh": lambda z: z * sigma(2 * mp.sqrt(2 / mp.pi) * (z + mp.mpf("0.044715") * z**3)),
    "hardshrink": lambda z: z if abs(z) > 0.5 else mp.mpf(0),
    "hardsigmoid": lambda z: clip(z + 3, 0, 6) / 6,
    "hardswish": lambda z: z * clip(z + 3, 0, 6) / 6,
    "hardtanh": lambda z: clip(z, -1, 1),
    "identity": lambda z: z,
    "leaky_relu": lambda z: z if z > 0 else mp.mpf("0.01") * z,
    "logsigmoid": lambda z: -mp.log1p(mp.exp(-z)),
    "mish": lambda z: z * mp.tanh(mp.log1p(mp.exp(z))),
    "prelu": lambda z: z if z > 0 else z / 4,
    "quick_gelu": lambda z: z * sigma(mp.mpf("1.702") * z),
    "relu": lambda z: max(z, 0),
    "relu6": lambda z: clip(z, 0, 6),
    "relu_squared": lambda z: max(z, 0) ** 2,
    "selu": lambda z: mp.mpf("1.0507009873554804934") * elu(z, mp.mpf("1.6732632423543772848")),
    "sigmoid": sigma,
    "silu": lambda z: z * sigma(z),
    "sin": mp.sin,
    "softplus": lambda z: mp.log1p(mp.exp(z)),
    "softshrink": lambda z: mp.sign(z) * max(abs(z) - 0.5, 0),
    "softsign": lambda z: z / (1 + abs(z)),
    "tanh": mp.tanh,
    "tanhshrink": lambda z: z - mp.tanh(z),
}


def by_mpmath(function):
    edges = [-20, -6, -3, -1, -0.5, 0, 0.5, 1, 3, 6, 20]
    return 1 / mp.sqrt(mp.quad(lambda z: function(z) ** 2 * mp.npdf(z), edges))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_table_of_gains_is_exact_to_the_last_bit(name):
    with mp.workdps(22):
        assert gain(name) == float(by_mpmath(DEFINITIONS[name]))


def test_the_table_of_gains_agrees_with_the_quadrature():
    assert list(GAINS) == list(ACTIVATIONS)
    for name, function in ACTIVATIONS.items():
        assert gain(function) == pytest.approx(GAINS[name], rel=1e-13)


@pytest.mark.parametrize("name", KNOWN)
def test_the_figures_that_people_quote(name):
    assert round(gain(name), 5) == KNOWN[name]


def test_closed_forms():
    for slope in (0.0, 0.01, 0.2, 1.0, -0.5):
        exact = math.sqrt(2 / (1 + slope**2))
        assert gain("leaky_relu", negative_slope=slope) == pytest.approx(exact, rel=1e-13)
        assert gain("prelu", negative_slope=slope) == pytest.approx(exact, rel=1e-13)
    assert gain("identity") == pytest.approx(1, rel=1e-14)
    assert gain(np.exp) == pytest.approx(math.exp(-1), rel=1e-13)
    assert gain(lambda z: z**3) == pytest.approx(15**-0.5, rel=1e-13)
    assert gain("sin") == pytest.approx(math.sqrt(2 / (1 - math.exp(-2))), rel=1e-13)


@pytest.mark.parametrize(("name", "parameter"), [("elu", "alpha"), ("celu", "alpha"), ("softplus", "beta")])
def test_parameters_reach_the_activation(name, parameter):
    assert gain(name, **{parameter: 1.0}) == gain(name)
    assert gain(name, **{parameter: 2.0}) != pytest.approx(gain(name), rel=1e-3)


def test_elu_celu_and_softplus_with_parameters_are_those_of_mpmath():
    exact = {
        ("elu", "alpha", 0.3): lambda z: elu(z, mp.mpf("0.3")),
        ("celu", "alpha", 0.3): lambda z: z if z > 0 else mp.mpf("0.3") * mp.expm1(z / mp.mpf("0.3")),
        ("softplus", "beta", 3.0): lambda z: mp.log1p(mp.exp(3 * z)) / 3,
        ("softshrink", "threshold", 1.0): lambda z: mp.sign(z) * max(abs(z) - 1, 0),
    }
    for (name, parameter, value), function in exact.items():
        assert gain(name, **{parameter: value}) == pytest.approx(float(by_mpmath(function)), rel=1e-12)


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases(alias):
    assert gain(alias) == gain(ALIASES[alias])


@pytest.mark.parametrize("where", [0.0, 0.1234567, -2.71828, 3.3])
def test_kinks_and_jumps_are_found_wherever_they_are(where):
    share = 0.5 * math.erfc(where / math.sqrt(2))
    assert gain(lambda z: np.where(z > where, 1.0, 0.0)) == pytest.approx(share**-0.5, rel=1e-10)
    density = math.exp(-where * where / 2) / math.sqrt(2 * math.pi)
    moment = (1 + where**2) * share - where * density  # E[max(z - where, 0)^2]
    assert gain(lambda z: np.maximum(z - where, 0.0)) == pytest.approx(moment**-0.5, rel=1e-9)


def test_functions_of_numbers_are_accepted():
    assert gain(math.tanh) == pytest.approx(gain("tanh"), rel=1e-13)
    assert gain(lambda z: z if z > 0 else 0) == pytest.approx(math.sqrt(2), rel=1e-13)
    assert gain(lambda z: 2.0) == pytest.approx(0.5, rel=1e-13)
    assert gain(lambda z, slope: z * slope, slope=4.0) == pytest.approx(0.25, rel=1e-13)


def test_a_function_may_write_into_its_argument():
    def rectified(z):
        z[z < 0] = 0.0
        return z

    assert gain(rectified) == pytest.approx(math.sqrt(2), rel=1e-13)


def test_an_error_of_the_function_itself_is_raised():
    with pytest.raises(ZeroDivisionError):
        gain(lambda z: z / 0 if isinstance(z, float) else [1 / 0])


@pytest.mark.parametrize("scale", [1e-150, 1e-3, 1e150])
def test_the_gain_scales_with_the_function(scale):
    assert gain(lambda z: scale * np.maximum(z, 0)) == pytest.approx(math.sqrt(2) / scale, rel=1e-12)


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (lambda z: z * np.nan, "not finite at"),
        (lambda z: np.where(z > 7, np.inf, z), "not finite at 7"),
        (lambda z: z * 0.0, "zero everywhere"),
        (lambda z: np.exp(z * z / 4), "infinite"),
        (lambda z: 1.0 / z, "infinite"),
        ("relu7", "activation must be one of .*relu6.*'relu7'"),
        ("ReLU", "activation must be one of"),
    ],
)
def test_bad_activations(activation, message):
    with pytest.raises(ValueError, match=message):
        gain(activation)


GENERATOR = np.random.default_rng(0)


def noise(z):
    return GENERATOR.normal(size=np.shape(z))


def softmax(z):
    powers = np.exp(z - np.max(z, axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("measure", [gain, backward_gain])
@pytest.mark.parametrize(
    ("activation", "error", "message"),
    [
        (lambda z: z + 0.1 * noise(z), ValueError, "must be a function of z alone, got other values for"),
        (lambda z: z * (noise(z) > -1), ValueError, "must be a function of z alone"),  # dropout
        (lambda z: z + 1e-6 * noise(z), ValueError, "must be a function of z"),
        pytest.param(
            *(lambda z: math.tanh(z) + random.gauss(0, 1e-5), ValueError, "must be a function of z"),
            marks=pytest.mark.long,  # a million calls of it
        ),
        (lambda z: np.sin(1e9 * z), ValueError, "changes too fast with z"),
        (lambda z: np.modf(np.sin(z * 12.9898) * 43758.5453)[0], ValueError, "changes too fast with z"),
        (softmax, ValueError, "must be a function of z alone"),
        (lambda z: z - np.mean(z, axis=0) if np.ndim(z) else z, ValueError, "must be a function of z alone"),
        (np.sum, ValueError, "must act elementwise|must be a function of z alone"),
        (lambda z: z[:, :3] if np.ndim(z) else z, ValueError, "changes the shape"),
        (lambda z: np.ones(3), ValueError, "changes the shape"),
        (lambda z: z + 1j, TypeError, "must be a number, not complex"),
        (lambda z: None, TypeError, "must be a number, not NoneType"),
        (lambda z: "1.0", TypeError, "must be a number, not str"),
        (lambda z: object(), TypeError, "must be a number, not object"),
        (lambda z: np.exp(z * z), ValueError, "infinite"),
        (lambda z: math.exp(z**4), ValueError, "is not finite at -1"),
        (lambda z: 10**400 if z > 0 else 1, ValueError, "range of float64|not finite"),
    ],
)
def test_what_has_no_gain_is_said_in_little_time_and_memory(measure, activation, error, message):
    begin = time.process_time()
    with pytest.raises(error, match=message):
        measure(activation)
    assert time.process_time() - begin < 5


def test_what_has_one_has_it_still():
    assert gain(lambda z: np.sin(1e4 * z)) == pytest.approx(math.sqrt(2), rel=1e-10)
    assert gain(lambda z: np.rint(z).astype(int)) == pytest.approx(0.960768927696, rel=1e-10)
    assert gain(lambda z: z > 0.5) == pytest.approx((0.5 * math.erfc(0.5 / math.sqrt(2))) ** -0.5, rel=1e-10)
    grid = np.linspace(-8, 8, 2**22 + 1)
    density = np.exp(-grid * grid / 2) / math.sqrt(2 * math.pi)
    exact = (np.sum((np.round(grid * 256) / 256) ** 2 * density) * (grid[1] - grid[0])) ** -0.5
    assert gain(lambda z: np.round(z * 256) / 256) == pytest.approx(exact, rel=1e-6)  # thousands of jumps
    assert gain(np.frompyfunc(math.tanh, 1, 1)) == pytest.approx(gain("tanh"), rel=1e-13)


@pytest.mark.parametrize("name", ["relu", "hardtanh", "tanh", "gelu", "silu", "leaky_relu"])
def test_the_slopes_of_functions_are_those_of_the_names(name):
    function = ACTIVATIONS[name]
    assert backward_gain(function) == pytest.approx(backward_gain(name), rel=1e-5)
    assert backward_gain(math.tanh) == pytest.approx(backward_gain("tanh"), rel=1e-6)
    assert backward_gain(lambda z, size: size * z, size=4.0) == pytest.approx(0.25, rel=1e-6)


def test_bad_arguments_backward():
    with pytest.raises(TypeError, match="a name or a function, not 5"):
        backward_gain(5)
    with pytest.raises(TypeError, match=r"expected parameters of relu \(none\), got negative_slope"):
        backward_gain("relu", negative_slope=0.1)
    for measure in (gain, backward_gain):
        with pytest.raises(TypeError, match="negative_slope must be a number, not str"):
            measure("leaky_relu", negative_slope="0.1")
        with pytest.raises(TypeError, match="negative_slope must be a number, not list"):
            measure("leaky_relu", negative_slope=[0.1])
        with pytest.raises(ValueError, match="negative_slope must be within the range of float64"):
            measure("leaky_relu", negative_slope=10**5000)


def test_bad_arguments():
    with pytest.raises(TypeError, match="a name or a function, not 3"):
        gain(3)
    with pytest.raises(TypeError, match=r"expected parameters of relu \(none\), got alpha"):
        gain("relu", alpha=1.0)
    with pytest.raises(TypeError, match=r"expected parameters of leaky_relu \(negative_slope\), got alpha"):
        gain("leaky_relu", alpha=1.0)
    with pytest.raises(TypeError, match=r"expected parameters of tanh \(none\), got out"):
        gain("tanh", out=1.0)
    with pytest.raises(ValueError, match="negative_slope must be finite"):
        gain("leaky_relu", negative_slope=math.nan)


@pytest.mark.parametrize("name", ["tanh", "gelu", "selu", "relu", "silu"])
def test_functions_that_compute_in_float32(name):
    """As those of JAX do, whatever they are given."""

    def single(z):
        return ACTIVATIONS[name](np.asarray(z, np.float32).astype(float)).astype(np.float32)

    assert gain(single) == pytest.approx(gain(name), rel=1e-6)
    with pytest.raises(ValueError, match="computes in float32, which is too coarse for a slope"):
        backward_gain(single)


def test_few_values_are_no_sign_of_float32():
    assert gain(lambda z: (z > 0.3) * 1.0) == pytest.approx((0.5 * math.erfc(0.3 / math.sqrt(2))) ** -0.5, rel=1e-12)
