"""Elementwise initializers: each preset against its published formula, each parameter against what it promises."""

import copy
import inspect
import itertools
import math
import pickle
import pydoc
import re

import numpy as np
import pytest

import fastinit
from fastinit import (
    Axes,
    Constant,
    Key,
    Normal,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    fill,
)
from fastinit.presets import ALIASES, PRESETS

# Weights and their true fans, counted by hand: (shape, description of the weight, fan_in, fan_out).
WEIGHTS = {
    "dense": ((300, 200), {}, 300, 200),
    "dense torch": ((200, 300), {"layout": "OI"}, 300, 200),
    "conv": ((3, 5, 8, 32), {}, 3 * 5 * 8, 3 * 5 * 32),
    "conv torch": ((32, 8, 3, 5), {"layout": "OI..."}, 3 * 5 * 8, 3 * 5 * 32),
    "groups": ((32, 4, 3, 3), {"layout": "OI...", "groups": 4}, 36, 72),
    "depthwise": ((3, 3, 16, 2), {"layout": "...IM"}, 9, 18),
    "depthwise torch": ((32, 1, 3, 3), {"layout": "OI...", "groups": 16}, 9, 18),
    "transposed": ((16, 8, 4, 4), {"layout": "IO...", "transposed": True, "stride": 2}, 64, 128),
    "packed": ((64, 192), {"blocks": 3}, 64, 64),
    "experts": ((4, 30, 50), {"layout": "EIO"}, 30, 50),
    "embedding": ((100, 24), {"layout": "VD"}, 1, 24),
    "heads": ((64, 4, 16), {"layout": Axes(in_axis=0, out_axis=(1, 2))}, 64, 64),
}
# The published standard deviations of the presets, by the fans.
FORMULAS = {
    "glorot": lambda n_in, n_out: math.sqrt(2 / (n_in + n_out)),  # Glorot and Bengio 2010, equations 12 and 16
    "he": lambda n_in, n_out: math.sqrt(2 / n_in),  # He et al. 2015, equation 10
    "lecun": lambda n_in, n_out: math.sqrt(1 / n_in),  # LeCun et al. 1998, section 4.6
}
LIMITS = {  # uniform presets, by their bounds
    "glorot_uniform": lambda n_in, n_out: math.sqrt(6) / math.sqrt(n_in + n_out),
    "he_uniform": lambda n_in, n_out: math.sqrt(6 / n_in),
    "lecun_uniform": lambda n_in, n_out: math.sqrt(3 / n_in),
    "torch_default_uniform": lambda n_in, n_out: 1 / math.sqrt(n_in),
}


@pytest.fixture(params=WEIGHTS)
def weight(request):
    return WEIGHTS[request.param]


def close(a, b, tolerance=1e-12):
    return math.isclose(a, b, rel_tol=tolerance)


# The presets


@pytest.mark.parametrize("shape", ["normal", "truncated_normal", "uniform"])
@pytest.mark.parametrize("family", FORMULAS)
def test_a_preset_has_its_published_standard_deviation(family, shape, weight):
    size, description, *fans = weight
    initializer = getattr(fastinit, f"{family}_{shape}")(**description)
    sampling = initializer.sampling(size)
    assert sampling.distribution == shape
    assert close(sampling.expected_std, FORMULAS[family](*fans))
    assert sampling.expected_mean == 0.0
    if shape == "truncated_normal":
        assert (sampling.low_sigma, sampling.high_sigma) == (-2.0, 2.0)
        assert close(sampling.std, FORMULAS[family](*fans) / 0.87962566103423978)  # the constant of Keras and JAX
        assert close(sampling.high, 2 * sampling.std) and sampling.low == -sampling.high


@pytest.mark.parametrize("name", LIMITS)
def test_a_uniform_preset_has_its_published_limit(name, weight):
    size, description, *fans = weight
    sampling = getattr(fastinit, name)(**description).sampling(size)
    assert sampling.distribution == "uniform"
    assert close(sampling.high, LIMITS[name](*fans)) and sampling.low == -sampling.high


def test_the_fan_free_presets():
    assert fastinit.naive_uniform() == Uniform(-0.1, 0.1)
    assert fastinit.naive_normal() == Normal(0.0, 0.1)
    assert close(fastinit.fan_in_normal().sampling((50, 7)).std, math.sqrt(1 / 50))


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.2, -0.3, 1.0, math.sqrt(5)])
@pytest.mark.parametrize("name", ["he_uniform", "he_normal", "he_truncated_normal"])
def test_the_negative_slope_of_he(name, slope):
    sampling = getattr(fastinit, name)(negative_slope=slope).sampling((40, 9))
    assert close(sampling.expected_std, math.sqrt(2 / ((1 + slope**2) * 40)))  # He et al. 2015, equation 15


def test_torch_default_is_kaiming_uniform_with_a_slope_of_sqrt_5():
    ours = fastinit.torch_default_uniform().sampling((40, 9))
    same = fastinit.kaiming_uniform(negative_slope=math.sqrt(5)).sampling((40, 9))
    assert close(ours.high, same.high)


def test_every_preset_is_a_row_and_every_alias_is_its_preset():
    weight = {"layout": "OI...", "groups": 2}
    for name, row in PRESETS.items():
        assert row.name == name
        assert row() == VarianceScaling(row.scale, row.mode, row.distribution)
        assert getattr(fastinit, name)(**weight) == row(**weight)
        assert row.distribution == name.rpartition("_")[2] or name.endswith(row.distribution)
        assert row.source
    for alias, name in ALIASES.items():
        assert getattr(fastinit, alias)(**weight) == PRESETS[name](**weight)
    expected = {f"{a}_{d}" for a in ("glorot", "he", "lecun") for d in ("uniform", "normal", "truncated_normal")}
    assert set(PRESETS) == expected | {"torch_default_uniform"}
    assert len(ALIASES) == 7


@pytest.mark.parametrize("name", [*PRESETS, *ALIASES])
def test_the_help_of_a_preset(name):
    row = PRESETS[ALIASES.get(name, name)]
    function = getattr(fastinit, name)
    text = pydoc.plain(pydoc.render_doc(function))
    slope = ["negative_slope"] if row.takes_slope else []
    weight = ["layout", "groups", "transposed", "stride", "blocks"]
    assert list(inspect.signature(function).parameters) == [*slope, *weight]
    assert text.startswith(f"Python Library Documentation: function {name} in module fastinit.presets")
    for part in ("Var(W) = ", *slope, *weight, "Raises", "Notes", f">>> initializer = fastinit.{name}("):
        assert part in text, part
    assert row.source.split()[0] in text
    assert (f"Another name of :func:`{row.name}`" in text) == (name in ALIASES)


def test_the_formula_in_the_help_of_a_preset_is_its_own(weight):
    size, description, fan_in, fan_out = weight
    for name, row in PRESETS.items():
        formula = re.search(r"Var\(W\) = (.*)\.\n", getattr(fastinit, name).__doc__)[1]
        given = {"fan_in": float(fan_in), "fan_out": float(fan_out), "negative_slope": 0.3}
        slope = {"negative_slope": 0.3} if row.takes_slope else {}
        variance = eval(re.sub(r"([0-9)]) (?=fan)", r"\1 * ", formula).replace("^", "**"), given)
        assert close(row(**slope, **description).sampling(size).expected_std, math.sqrt(variance))


def test_presets_are_pickled_copied_and_compared():
    for name in [*PRESETS, *ALIASES]:
        function, row = getattr(fastinit, name), PRESETS[ALIASES.get(name, name)]
        assert pickle.loads(pickle.dumps(function)) is function and copy.deepcopy(function) is function
        assert pickle.loads(pickle.dumps(row)) == row == copy.deepcopy(row) and hash(row) == hash(copy.copy(row))
        assert pickle.loads(pickle.dumps(function())) == function()


def test_orthogonal_is_a_function_and_no_module(run_python):
    assert fastinit.orthogonal() == fastinit.Orthogonal()
    assert fastinit.orthogonal(2.0, column_axis=0) == fastinit.Orthogonal(2.0, 0)
    with pytest.raises(TypeError, match="gain"):
        fastinit.orthogonal("wide")
    # importing any module of the package must not put a module in the place of a function
    program = (
        "import fastinit, pkgutil, importlib\n"
        "for name in (found.name for found in pkgutil.walk_packages(fastinit.__path__, 'fastinit.')):\n"
        "    if not name.startswith('fastinit.adapters') and '__main__' not in name: importlib.import_module(name)\n"
        "print(fastinit.orthogonal())"
    )
    assert run_python(program).stdout == "Orthogonal(gain=1.0, column_axis=-1)\n"


def test_the_normal_presets_say_whether_they_are_truncated():
    truncated = {name for name, row in PRESETS.items() if row.distribution == "truncated_normal"}
    assert truncated == {name for name in PRESETS if "truncated" in name}


def test_presets_refuse_what_they_do_not_take():
    with pytest.raises(TypeError, match=r"glorot_uniform\(\) got .* 'negative_slope'"):
        fastinit.glorot_uniform(negative_slope=0.1)
    with pytest.raises(TypeError, match=r"he_normal\(\) got .* 'gain'"):
        fastinit.he_normal(gain=2.0)
    with pytest.raises(ValueError, match="negative_slope must be finite, got inf"):
        fastinit.he_normal(negative_slope=math.inf)


# Against torch and Keras, by their own numbers


@pytest.mark.parametrize("shape", [(200, 300), (32, 8, 3, 5), (6, 5, 7)])
def test_scales_against_torch(shape):
    torch = pytest.importorskip("torch")
    tensor = torch.empty(shape)
    pairs = [
        (fastinit.xavier_normal, torch.nn.init.xavier_normal_, {}),
        (fastinit.kaiming_normal, torch.nn.init.kaiming_normal_, {"nonlinearity": "relu"}),
        (fastinit.kaiming_normal, torch.nn.init.kaiming_normal_, {"a": 0.3, "nonlinearity": "leaky_relu"}),
        (fastinit.xavier_uniform, torch.nn.init.xavier_uniform_, {}),
        (fastinit.kaiming_uniform, torch.nn.init.kaiming_uniform_, {"a": 0.3}),
        (fastinit.torch_default_uniform, torch.nn.init.kaiming_uniform_, {"a": math.sqrt(5)}),
    ]
    for ours, theirs, options in pairs:
        torch.manual_seed(0)
        parameters = torch_parameters(torch, theirs, tensor, options)
        slope = {"negative_slope": options["a"]} if options.get("a") == 0.3 else {}
        sampling = ours(layout="OI...", **slope).sampling(shape)
        assert close(sampling.high if "uniform" in theirs.__name__ else sampling.std, parameters)


def torch_parameters(torch, function, tensor, options):
    """The standard deviation or the bound that a function of torch.nn.init draws with."""
    init, name = torch.nn.init, function.__name__
    if "kaiming" in name:
        gain = init.calculate_gain(options.get("nonlinearity", "leaky_relu"), options.get("a", 0))
        std = gain / math.sqrt(init._calculate_correct_fan(tensor, "fan_in"))
    else:
        std = math.sqrt(2 / sum(init._calculate_fan_in_and_fan_out(tensor)))
    bound = std * math.sqrt(3)
    drawn = function(tensor, **options)  # so that neither this nor torch is misread
    if "uniform" in name:
        assert 0.9 * bound < drawn.abs().max() <= bound
        return bound
    assert abs(drawn.std() / std - 1) < 6 / math.sqrt(2 * drawn.numel())
    return std


# (name, shape, parameter of the draw) worked out from the rules of Keras 3's VarianceScaling: the stddev before
# truncation is sqrt(scale / n) / .87962566103423978, the limit sqrt(3 scale / n).
KERAS = [
    ("glorot_truncated_normal", (3, 3, 16, 32), 0.0773526566562144),
    ("he_truncated_normal", (3, 3, 16, 32), 0.13397873142899422),
    ("lecun_truncated_normal", (784, 128), 0.040601686940662726),
    ("glorot_uniform", (784, 128), 0.08111071056538127),
    ("he_uniform", (784, 128), 0.08748177652797066),
    ("lecun_uniform", (3, 3, 16, 32), 0.14433756729740643),
]


@pytest.mark.parametrize("name, shape, parameter", KERAS)
def test_scales_against_keras(name, shape, parameter):
    sampling = getattr(fastinit, name)().sampling(shape)
    assert close(sampling.high if "uniform" in name else sampling.std, parameter)


# VarianceScaling


@pytest.mark.parametrize("distribution", ["uniform", "normal", "truncated_normal"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg", "fan_geo_avg"])
@pytest.mark.parametrize("scale", [1.0, 2.0, 1e-4, 1e6])
def test_variance_scaling_scales_the_variance(scale, mode, distribution, weight):
    size, description, fan_in, fan_out = weight
    means = {
        "fan_in": fan_in,
        "fan_out": fan_out,
        "fan_avg": (fan_in + fan_out) / 2,
        "fan_geo_avg": math.sqrt(fan_in * fan_out),
    }
    sampling = VarianceScaling(scale, mode, distribution, **description).sampling(size)
    assert sampling.distribution == distribution
    assert close(sampling.expected_std, math.sqrt(scale / means[mode]))


def test_a_fractional_fan_is_exact():
    # torch ConvTranspose2d(6, 8, 3, stride=2, groups=2): 6/2 * 9 / 4 inputs to the mean output
    sampling = VarianceScaling(distribution="normal", layout="IO...", transposed=True, groups=2, stride=2).sampling(
        (6, 4, 3, 3)
    )
    assert close(sampling.std, math.sqrt(4 / 27))


def test_arguments_are_normalised_so_that_equal_weights_are_equal():
    one = VarianceScaling(1, layout="...IO", groups=np.int64(2), stride=[1, 1], blocks=1)
    assert one == VarianceScaling(1.0, groups=2, stride=(1, 1)) and hash(one) == hash(
        VarianceScaling(groups=2, stride=(1, 1))
    )
    assert type(one.groups) is int and one.stride == (1, 1)


def test_fans_are_available():
    assert fastinit.he_normal(layout="OI...", groups=4).fans((32, 4, 3, 3)) == fastinit.fans(
        (32, 4, 3, 3), "OI...", groups=4
    )


@pytest.mark.parametrize("distribution", ["uniform", "normal", "truncated_normal"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg", "fan_geo_avg"])
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (3, 3, 0, 2)])
def test_tensors_of_no_elements_are_no_error(shape, mode, distribution):
    out = np.empty(shape, np.float32)
    assert fill(out, VarianceScaling(1.0, mode, distribution), Key(0)) is out


# Moments of what is drawn


@pytest.mark.parametrize(
    "initializer",
    [
        Uniform(-0.1, 0.1),
        Uniform(2.0, 5.0),
        Normal(0.5, 0.02),
        TruncatedNormal(0.0, 0.02),
        TruncatedNormal(1.0, 0.5, -1.0, 3.0),
        TruncatedNormal(0.0, 0.02, correct_variance=True),
        TruncatedNormal(0.0, 1.0, 0.0, math.inf),
        TruncatedNormal(0.0, 1.0, 0.0, math.inf, correct_variance=True),
        TruncatedNormal(0.0, 1.0, 5.0, 8.0),
        TruncatedNormal(0.3, 0.5, -1.0, 1.0, bounds="absolute"),
        TruncatedNormal(0.3, 0.5, -1.0, 1.0, bounds="absolute", correct_variance=True),
        TruncatedNormal(-3.0, 0.2, -1.0, 1.0, bounds="absolute", correct_variance=True),
        TruncatedNormal(0.0, 0.57, -1.0, 1.0, bounds="absolute", correct_variance=True),  # the uniform has 0.577
        TruncatedNormal(2.0, 0.5, 2.0, math.inf, bounds="absolute", correct_variance=True),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_drawn_moments_are_the_expected_ones(initializer, dtype):
    n = 400_000
    sampling = initializer.sampling()
    values = fill(np.empty(n, dtype), initializer, Key("moments")).astype(np.float64)
    centred = values - values.mean()
    std = centred.std()
    standard_error = math.sqrt((np.mean(centred**4) - std**4) / n) / (2 * std)
    assert abs(std - sampling.expected_std) < 6 * standard_error
    assert abs(values.mean() - sampling.expected_mean) < 6 * std / math.sqrt(n)


@pytest.mark.parametrize("name", [*PRESETS, *ALIASES])
def test_presets_draw_what_they_say(name):
    values = fill(np.empty((400, 500), np.float32), getattr(fastinit, name)(), Key(name)).astype(np.float64)
    sampling = getattr(fastinit, name)().sampling((400, 500))
    assert abs(values.std() / sampling.expected_std - 1) < 6 * math.sqrt(0.5 / values.size)
    assert abs(values.mean()) < 6 * sampling.expected_std / math.sqrt(values.size)


# Constant


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, 0.1, -3.5, 65504.0, math.inf, -math.inf, 1e-7])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_constants_are_rounded_once(dtype, value):
    out = fill(np.empty(70, dtype), Constant(value), Key(0))
    assert out.tobytes() == np.full(70, value, dtype).tobytes()


def test_constant_nan():
    for dtype in ("float32", "float64", "float16"):
        assert np.isnan(fill(np.empty(9, dtype), Constant(math.nan), Key(0))).all()
    assert math.isnan(fastinit.sample(Key(0), 0, Constant(math.nan), dtype="float8_e4m3fn"))
    assert fastinit.sample(Key(0), 0, Constant(-math.inf), dtype="bfloat16") == -math.inf


def test_zeros_and_ones():
    assert fastinit.Zeros() == Constant(0.0) and fastinit.Ones() == Constant(1)
    assert not fill(np.ones(9, np.float32), fastinit.Zeros(), Key(0)).any()
    assert (fill(np.zeros(9, np.float32), fastinit.Ones(), Key(0)) == 1).all()


# Values: equality, hash, pickle, repr

VALUES = [
    Constant(0.5),
    Constant(0.0),
    Constant(-0.0),
    Constant(math.nan),
    Uniform(-1, 2),
    Normal(1, 2),
    Normal(2, 1),
    TruncatedNormal(),
    TruncatedNormal(bounds="absolute"),
    TruncatedNormal(low=-math.inf),
    TruncatedNormal(correct_variance=True),
    VarianceScaling(),
    VarianceScaling(2),
    VarianceScaling(layout=Axes(0, 1)),
    fastinit.he_normal(),
    fastinit.he_normal(groups=2),
    fastinit.he_normal(stride=(2, 2), transposed=True, layout="IO..."),
]


def test_initializers_differ_where_their_parameters_do():
    for a, b in itertools.product(range(len(VALUES)), repeat=2):
        assert (VALUES[a] == VALUES[b]) == (a == b)
    assert len(set(VALUES)) == len(VALUES)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_initializers_are_values(value):
    names = {name: getattr(fastinit, name) for name in dir(fastinit)} | {"nan": math.nan, "inf": math.inf}
    for other in (pickle.loads(pickle.dumps(value)), eval(repr(value), names)):
        assert other == value and hash(other) == hash(value) and type(other) is type(value)
    field = next(iter(inspect.signature(type(value)).parameters))
    with pytest.raises(AttributeError):
        setattr(value, field, 3.0)


def test_parameters_become_floats():
    assert Normal(np.float32(0.5), 1) == Normal(0.5, 1.0)
    assert type(Normal(np.float32(0.5), 1).std) is float
    assert Uniform(0, 1) == Uniform() and repr(Uniform(0, 1)) == "Uniform(low=0.0, high=1.0)"
    assert TruncatedNormal(0, 1, -2, 2) == TruncatedNormal()


def test_an_initializer_ignores_what_it_does_not_need():
    for value in (Constant(1.0), Uniform(), Normal(), TruncatedNormal()):
        assert value.sampling() == value.sampling((3, 4)) == value.sampling(None)


def test_a_class_of_ones_own_is_an_initializer():
    class Halves(fastinit.ElementwiseInitializer):
        def sampling(self, shape=None):
            return fastinit.Sampling("normal", std=0.5)

    ours = fill(np.empty(100, np.float32), Halves(), Key(0))
    assert np.array_equal(ours, fill(np.empty(100, np.float32), Normal(0.0, 0.5), Key(0)))
