"""fastinit.adapters.torch.init: which numbers, from which key, with which fans."""

import concurrent.futures
import math

import numpy as np
import pytest
from scipy import stats

import fastinit
from fastinit import Key

torch = pytest.importorskip("torch", reason="needs torch")
from torch import nn  # noqa: E402
from torch.nn import init as torch_init  # noqa: E402

from fastinit.adapters.torch import init, tensors  # noqa: E402

DTYPES = list(tensors.DTYPES)
try:
    EYE_OF_ONE_BYTE = bool(torch.eye(2, dtype=torch.float8_e4m3fn).numel())
except RuntimeError:  # not implemented in an older torch
    EYE_OF_ONE_BYTE = False
RANDOM = {
    "uniform_": (), "normal_": (), "trunc_normal_": (), "xavier_uniform_": (), "xavier_normal_": (),
    "kaiming_uniform_": (), "kaiming_normal_": (), "orthogonal_": (), "sparse_": (0.25,), "variance_scaling_": (),
    "lecun_uniform_": (), "lecun_normal_": (), "lecun_truncated_normal_": (), "xavier_truncated_normal_": (),
    "kaiming_truncated_normal_": (), "delta_orthogonal_": (), "icnr_": (),
}  # fmt: skip
every_random = pytest.mark.parametrize("name", RANDOM)


def filled(name, *arguments, shape=None, dtype=torch.float32, **options):
    if shape is None:
        shape = (16, 12, 3, 3) if name in ("delta_orthogonal_", "icnr_") else (16, 12)
    tensor = torch.full(shape, 7.0).to(dtype)
    assert getattr(init, name)(tensor, *(arguments or RANDOM[name]), **options) is tensor
    return tensor


def bits(tensor):
    return tensor.contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize])


# The same bytes as everywhere

OI = {"layout": "OI..."}
MEANINGS = [
    ("uniform_", (), {}, fastinit.Uniform()),
    ("uniform_", (-0.5, 0.25), {}, fastinit.Uniform(-0.5, 0.25)),
    ("normal_", (1.0, 0.02), {}, fastinit.Normal(1.0, 0.02)),
    ("trunc_normal_", (), {}, fastinit.TruncatedNormal()),
    ("trunc_normal_", (0.1, 0.5, -1.0, 3.0), {}, fastinit.TruncatedNormal(0.1, 0.5, -1.0, 3.0, "absolute")),
    ("trunc_normal_", (0.0, 1.0, 1.5, 7.0), {}, fastinit.TruncatedNormal(0.0, 1.0, 1.5, 7.0, "absolute")),
    ("xavier_uniform_", (), {}, fastinit.glorot_uniform(**OI)),
    ("xavier_normal_", (), {}, fastinit.glorot_normal(**OI)),
    ("xavier_truncated_normal_", (), {}, fastinit.glorot_truncated_normal(**OI)),
    ("xavier_normal_", (5 / 3,), {}, fastinit.VarianceScaling((5 / 3) * (5 / 3), "fan_avg", "normal", **OI)),
    ("kaiming_uniform_", (), {}, fastinit.he_uniform(**OI)),
    ("kaiming_normal_", (), {}, fastinit.he_normal(**OI)),
    ("kaiming_normal_", (), {"nonlinearity": "relu"}, fastinit.he_normal(**OI)),
    ("kaiming_normal_", (0.2,), {"nonlinearity": "relu"}, fastinit.he_normal(**OI)),
    ("kaiming_normal_", (0.2,), {}, fastinit.he_normal(negative_slope=0.2, **OI)),
    ("kaiming_normal_", (None,), {}, fastinit.he_normal(negative_slope=0.01, **OI)),
    ("kaiming_truncated_normal_", (0.2,), {}, fastinit.he_truncated_normal(negative_slope=0.2, **OI)),
    ("kaiming_uniform_", (math.sqrt(5),), {}, fastinit.he_uniform(negative_slope=math.sqrt(5), **OI)),
    ("kaiming_normal_", (), {"mode": "FAN_OUT"}, fastinit.VarianceScaling(2.0, "fan_out", "normal", **OI)),
    ("kaiming_normal_", (), {"nonlinearity": "selu"}, fastinit.VarianceScaling(0.5625, "fan_in", "normal", **OI)),
    ("kaiming_normal_", (), {"nonlinearity": "linear"}, fastinit.lecun_normal(**OI)),
    ("lecun_uniform_", (), {}, fastinit.lecun_uniform(**OI)),
    ("lecun_normal_", (), {}, fastinit.lecun_normal(**OI)),
    ("lecun_truncated_normal_", (), {}, fastinit.lecun_truncated_normal(**OI)),
    ("variance_scaling_", (), {}, fastinit.VarianceScaling(**OI)),
    ("variance_scaling_", (2, "fan_geo_avg", "normal"), {}, fastinit.VarianceScaling(2, "fan_geo_avg", "normal", **OI)),
    ("orthogonal_", (-0.5,), {}, fastinit.Orthogonal(-0.5, 0)),
    ("sparse_", (0.25, 0.1), {}, fastinit.Sparse(0.25, 0.1)),
    ("delta_orthogonal_", (2.0,), {}, fastinit.DeltaOrthogonal(2.0, **OI)),
    ("icnr_", (), {}, fastinit.ICNR(fastinit.he_normal(**OI), 2, **OI)),
    ("icnr_", (4, fastinit.Normal()), {}, fastinit.ICNR(fastinit.Normal(), 4, **OI)),
    ("zero_init_", (), {}, fastinit.ZerO(**OI)),
    ("eye_", (), {}, fastinit.Identity()),
    ("dirac_", (2,), {}, fastinit.Dirac(2, **OI)),
]
KEYLESS = ("zero_init_", "eye_", "dirac_")
CONVOLUTIONS = ("delta_orthogonal_", "icnr_", "dirac_")


def test_every_random_function_has_a_meaning():
    assert {name for name, *_ in MEANINGS} == set(RANDOM) | set(KEYLESS)
    assert set(RANDOM) == {name for name in init.__all__ if "key" in (getattr(init, name).__kwdefaults__ or {})}


@pytest.mark.parametrize(("name", "arguments", "options", "initializer"), MEANINGS)
def test_a_key_gives_the_bytes_of_fill(name, arguments, options, initializer):
    shape = (32, 12, 3, 3) if name in CONVOLUTIONS else (16, 12)
    for dtype in DTYPES:
        if name == "eye_" and dtype.itemsize == 1 and not EYE_OF_ONE_BYTE:
            continue  # torch's own function, which raises
        key = Key(3).fold_in(str(dtype))
        given = {} if name in KEYLESS else {"key": key}
        tensor = torch.zeros(shape, dtype=dtype)
        getattr(init, name)(tensor, *arguments, **options, **given)
        raw = np.zeros(shape, f"u{dtype.itemsize}")
        fastinit.fill(raw, initializer, key, dtype=tensors.DTYPES[dtype])
        assert bits(tensor).numpy().view(raw.dtype).tolist() == raw.tolist(), dtype


def test_an_int_is_the_seed_of_a_key():
    assert torch.equal(filled("normal_", key=7), filled("normal_", key=Key(7)))
    assert torch.equal(filled("normal_", key=7), filled("normal_", key=np.int64(7)))
    assert not torch.equal(filled("normal_", key=7), filled("normal_", key=8))


@every_random
def test_what_is_no_key(name):
    for wrong in (True, 1.5, "7", b"7", torch.tensor(7)):
        with pytest.raises(TypeError, match=r"key must be a fastinit\.Key or an int"):
            filled(name, key=wrong)
    with pytest.raises(TypeError, match="from a key or from a generator, got both"):
        filled(name, key=1, generator=torch.Generator())
    tensor = torch.zeros(4, 4, 1)
    with pytest.raises(TypeError, match="key"):
        init.normal_(tensor.to(torch.complex64), key="7")
    with pytest.raises(TypeError, match="key"):
        init.normal_(tensor[:0], key="7")


# Generators


@every_random
def test_the_default_generator_governs(name):
    torch.manual_seed(5)
    first, second = filled(name), filled(name)
    torch.manual_seed(5)
    again = filled(name)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@every_random
def test_a_generator_governs_and_the_default_one_rests(name):
    before = torch.get_rng_state()
    first, second = (filled(name, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert torch.equal(first, filled(name, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@every_random
def test_a_call_draws_64_bits_once_whatever_the_size(name):
    states = []
    for shape in ((8, 8, 3), (96, 64, 3)):
        generator = torch.Generator().manual_seed(9)
        tensor = torch.zeros(shape)
        if name == "sparse_":
            tensor = tensor[:, :, 0]
        getattr(init, name)(tensor, *RANDOM[name], generator=generator)
        states.append(generator.get_state())
    one = torch.Generator().manual_seed(9)
    key = tensors.drawn_key(torch.empty(()), one)
    assert all(torch.equal(state, one.get_state()) for state in states)
    by_key = getattr(init, name)(torch.zeros_like(tensor), *RANDOM[name], key=key)
    assert torch.equal(by_key, tensor)


def test_an_explicit_key_draws_nothing():
    before = torch.get_rng_state()
    for name in RANDOM:
        filled(name, key=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_share_the_default_generator():
    torch.manual_seed(0)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda _: filled("normal_"), range(200)))
    torch.manual_seed(0)
    one_by_one = [filled("normal_") for _ in range(200)]

    def values(tensors):
        return sorted(tensor.flatten().tolist() for tensor in tensors)

    assert values(together) == values(one_by_one)
    assert len({tensor[0, 0].item() for tensor in together}) == 200


# Sane numbers

LARGE = (400, 300)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("name", "arguments", "distribution"),
    [
        ("uniform_", (-1.0, 3.0), stats.uniform(-1, 4)),
        ("normal_", (0.5, 2.0), stats.norm(0.5, 2)),
        ("trunc_normal_", (), stats.truncnorm(-2, 2)),
        ("trunc_normal_", (0.0, 1.0, 1.0, 3.0), stats.truncnorm(1, 3)),
        ("xavier_uniform_", (2.0,), stats.uniform(-2 * math.sqrt(6 / 700), 4 * math.sqrt(6 / 700))),
        ("xavier_normal_", (2.0,), stats.norm(0, 2 * math.sqrt(2 / 700))),
        ("kaiming_uniform_", (math.sqrt(5),), stats.uniform(-1 / math.sqrt(300), 2 / math.sqrt(300))),
        ("kaiming_normal_", (0, "fan_out", "tanh"), stats.norm(0, 5 / 3 / math.sqrt(400))),
        ("lecun_normal_", (), stats.norm(0, 1 / math.sqrt(300))),
    ],
)
def test_the_distribution_is_torchs(name, arguments, distribution, dtype):
    tensor = torch.empty(LARGE, dtype=dtype)
    getattr(init, name)(tensor, *arguments, key=11)
    values = tensor.double().flatten()
    low, high = distribution.support()
    assert low - 1e-2 * abs(low) <= values.min() and values.max() <= high + 1e-2 * abs(high)
    error = distribution.std() / math.sqrt(values.numel())
    assert abs(values.mean() - distribution.mean()) < 5 * error + 1e-4
    assert values.std().item() == pytest.approx(distribution.std(), rel=0.02)
    if dtype in (torch.float32, torch.float64):
        assert stats.kstest(values[::12].numpy(), distribution.cdf).pvalue > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (16, 8, 3, 3), (40, 2, 3)])
def test_orthogonal(shape, dtype):
    matrix = filled("orthogonal_", 2.0, shape=shape, dtype=dtype).double().flatten(1) / 2
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    assert torch.allclose(
        gram, torch.eye(len(gram), dtype=torch.float64), atol=0.03 if dtype == torch.bfloat16 else 1e-5
    )


@pytest.mark.parametrize("sparsity", [0, 0.1, 0.3, 1 / 3, 0.29, 0.57, 0.9999, 1, 1.5, -0.25, 3, np.float32(0.3)])
def test_sparse_zeros_as_many_as_torch(sparsity):
    for rows in (1, 3, 7, 10, 100):
        theirs = torch_init.sparse_(torch.ones(rows, 5), sparsity)
        ours = init.sparse_(torch.ones(rows, 5), sparsity, key=rows)
        assert ((ours == 0).sum(0) == (theirs == 0).sum(0)).all()


def test_a_sparsity_may_be_a_fraction():
    from fractions import Fraction

    matrix = fastinit.fill(np.empty((10, 4), np.float32), fastinit.Sparse(Fraction(1, 3)), Key(0))
    assert ((matrix == 0).sum(0) == 4).all()
    assert fastinit.Sparse(Fraction(1, 3)) == fastinit.Sparse(Fraction(2, 6))
    assert fastinit.Sparse(Fraction(1, 10)) == fastinit.Sparse(0.1) != fastinit.Sparse(Fraction(0.1))
    assert hash(fastinit.Sparse(Fraction(1, 10))) == hash(fastinit.Sparse(0.1))
    assert fastinit.Sparse(0.1) not in (fastinit.Sparse(0.1, 0.02), fastinit.Sparse(0.1, axis=1), 0.1)
    for wrong in (Fraction(4, 3), Fraction(-1, 3)):
        with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\]"):
            fastinit.Sparse(wrong)


def test_dirac_and_eye_are_torchs():
    for shape in ((6, 4, 3), (4, 6, 3, 2), (8, 2, 1, 2, 3)):
        for groups in (1, 2):
            for dtype in DTYPES:
                theirs = torch_init.dirac_(torch.empty(shape, dtype=dtype), groups)
                assert torch.equal(bits(init.dirac_(torch.empty(shape, dtype=dtype), groups)), bits(theirs))
    assert torch.equal(init.eye_(torch.empty(3, 5)), torch.eye(3, 5))


# True fans

FANNED = ["xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_truncated_normal_",
          "kaiming_truncated_normal_", "lecun_uniform_", "lecun_normal_", "lecun_truncated_normal_",
          "variance_scaling_"]  # fmt: skip


def test_the_fan_based_functions():
    found = {name for name in init.__all__ if "groups" in (getattr(init, name).__kwdefaults__ or {})}
    assert found == set(FANNED)


@pytest.mark.parametrize("name", FANNED)
def test_true_fans_on_request(name):
    layer = nn.Conv2d(64, 128, 3, groups=32)
    upward = nn.ConvTranspose2d(64, 128, 4, stride=2, groups=2)
    mode = "fan_avg" if "xavier" in name else "fan_in"
    scale = 2.0 if "kaiming" in name else 1.0
    distribution = "uniform" if "uniform" in name else "normal"
    if "truncated" in name or name == "variance_scaling_":
        distribution = "truncated_normal"
    for weight, options in (
        (layer.weight, {"groups": 32}),
        (upward.weight, {"groups": 2, "transposed": True}),
        (upward.weight, {"groups": 2, "transposed": True, "stride": (2, 2)}),
        (upward.weight, {"groups": 2, "transposed": True, "stride": [2, 2]}),
        (layer.weight, {}),
    ):
        getattr(init, name)(weight, key=1, **options)
        layout = "IO..." if "transposed" in options else "OI..."
        true = fastinit.VarianceScaling(scale, mode, distribution, layout, **options)
        expected = fastinit.fill(np.empty(tuple(weight.shape), np.float32), true, Key(1))
        assert np.array_equal(weight.detach().numpy(), expected)


@pytest.mark.parametrize("name", FANNED)
def test_wrong_descriptions_of_a_weight(name):
    function = getattr(init, name)
    for dtype in (torch.float32, torch.complex64):
        weight = torch.zeros(6, 4, 3, dtype=dtype)
        for error, options in (
            (ValueError, {"groups": 5}),
            (ValueError, {"groups": 0}),
            (ValueError, {"groups": -2}),
            (TypeError, {"groups": 1.5}),
            (TypeError, {"groups": None}),
            (TypeError, {"transposed": "yes"}),
            (ValueError, {"stride": 2}),
            (ValueError, {"transposed": True, "stride": (2, 2)}),
            (TypeError, {"transposed": True, "stride": 1.5}),
        ):
            with pytest.raises(error):
                function(weight, **options)
            assert not weight.any()
    with pytest.raises(ValueError):
        function(torch.zeros(5), groups=2)
