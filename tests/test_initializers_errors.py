"""Parameters that make no sense, do not fit a dtype, or do not fit a shape: refused before a byte is written."""

import math

import numpy as np
import pytest

import fastinit
from fastinit import (
    ICNR,
    Constant,
    DeltaOrthogonal,
    Dirac,
    Identity,
    Key,
    Normal,
    Orthogonal,
    Sparse,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    ZerO,
    fill,
)

KEY = Key(0)
inf, nan = math.inf, math.nan


def refused(message, initializer, shape, storage="float32", dtype=None):
    """Asserts that a fill of a new array raises, and leaves every byte as it was."""
    out = np.empty(shape, storage)
    out.reshape(-1).view(np.uint8)[...] = 0xA5
    with pytest.raises(ValueError, match=message):
        fill(out, initializer, KEY, dtype=dtype)
    assert out.tobytes() == b"\xa5" * out.nbytes


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Normal(std=-0.1), "std must be at least 0, got -0.1"),
        (lambda: Normal(std=nan), "std must be finite, got nan"),
        (lambda: Normal(std=inf), "std must be finite, got inf"),
        (lambda: Normal(mean=nan), "mean must be finite, got nan"),
        (lambda: Normal(mean=-inf), "mean must be finite, got -inf"),
        (lambda: Normal(std=10**400), "std must be within the range of float64, got an integer of 1329 bits"),
        (lambda: Uniform(1, 1), "needs low < high, got low=1.0, high=1.0"),
        (lambda: Uniform(2, 1), "needs low < high, got low=2.0, high=1.0"),
        (lambda: Uniform(nan, 1), "low must be finite, got nan"),
        (lambda: Uniform(0, inf), "high must be finite, got inf"),
        (lambda: Uniform(-1.7e308, 1.7e308), "high - low must be finite"),
        (lambda: TruncatedNormal(std=-1), r"std must be at least 0, got -1\.0"),
        (lambda: TruncatedNormal(std=nan), "std must be finite, got nan"),
        (lambda: TruncatedNormal(mean=inf), "mean must be finite, got inf"),
        (lambda: TruncatedNormal(low=2, high=-2), "needs low < high, got low=2.0, high=-2.0"),
        (lambda: TruncatedNormal(low=1, high=1), "needs low < high, got low=1.0, high=1.0"),
        (lambda: TruncatedNormal(low=nan), "needs low < high, got low=nan, high=2.0"),
        (lambda: TruncatedNormal(low=inf, high=inf), "needs low < high, got low=inf"),
        (lambda: TruncatedNormal(bounds="relative"), "bounds must be one of sigma, absolute; got 'relative'"),
        (lambda: TruncatedNormal(5, 0, -1, 1, "absolute"), r"with std=0 the mean 5.0 must lie in \[-1.0, 1.0\]"),
        (
            lambda: TruncatedNormal(0, 9, -1, 1, "absolute", True),
            r"no normal truncated to \[-1.0, 1.0\] has a standard deviation of 9.0",
        ),
        (lambda: TruncatedNormal(low=0, high=5e-324, correct_variance=True), "no normal truncated to"),
        (lambda: VarianceScaling(0.0), "scale must be positive, got 0.0"),
        (lambda: VarianceScaling(-1.0), "scale must be positive, got -1.0"),
        (lambda: VarianceScaling(nan), "scale must be finite, got nan"),
        (
            lambda: VarianceScaling(mode="fan_max"),
            "mode must be one of fan_in, fan_out, fan_avg, fan_geo_avg; got 'fan_max'",
        ),
        (lambda: VarianceScaling(distribution="gauss"), "distribution must be one of uniform, .*; got 'gauss'"),
        (lambda: Identity(gain=nan), "gain must be finite, got nan"),
        (lambda: Orthogonal(gain=inf), "gain must be finite, got inf"),
        (lambda: DeltaOrthogonal(gain=inf), "gain must be finite, got inf"),
        (lambda: Dirac(groups=0), "groups must be at least 1, got 0"),
        (lambda: Dirac(gain=nan), "gain must be finite, got nan"),
        (lambda: Sparse(1.1), r"sparsity must be in \[0, 1\], got 1.1"),
        (lambda: Sparse(-0.1), r"sparsity must be in \[0, 1\], got -0.1"),
        (lambda: Sparse(nan), "sparsity must be finite, got nan"),
        (lambda: Sparse(0.1, std=-1), "std must be at least 0, got -1.0"),
        (lambda: Sparse(0.1, axis=2), "axis must be 0 or 1, got 2"),
        (lambda: ICNR(Normal(), 0), "factor must be at least 1, got 0"),
        (lambda: ICNR(Normal(), order="pixel"), "order must be one of channel, subpixel; got 'pixel'"),
    ],
)
def test_values_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Normal(std="0.5"), r"std must be a number, not str \('0.5'\)"),
        (lambda: Normal(std=None), "std must be a number, not NoneType"),
        (lambda: Normal(mean=1j), "mean must be a number, not complex"),
        (lambda: Normal(mean=np.ones(1)), "mean must be a number, not ndarray"),
        (lambda: Uniform([0], 1), "low must be a number, not list"),
        (lambda: TruncatedNormal(low="-2"), "low must be a number, not str"),
        (lambda: TruncatedNormal(high=None), "high must be a number, not NoneType"),
        (lambda: Constant("1"), "value must be a number, not str"),
        (lambda: Constant(np.zeros(3)), "value must be a number, not ndarray"),
        (lambda: VarianceScaling("2"), "scale must be a number, not str"),
        (lambda: VarianceScaling(layout=["I", "O"]), "layout must be a str or Axes, got "),
        (lambda: VarianceScaling(groups=2.0), "groups: expected an integer, got 2.0"),
        (lambda: VarianceScaling(groups=True), "groups: expected an integer, got True"),
        (lambda: VarianceScaling(blocks="3"), "blocks: expected an integer, got '3'"),
        (lambda: VarianceScaling(stride=(2, 2.5)), "stride: expected an integer, got 2.5"),
        (lambda: VarianceScaling(transposed=1), "transposed must be a bool, got 1"),
        (lambda: Identity(gain="2"), "gain must be a number, not str"),
        (lambda: Dirac(groups=1.5), "groups: expected an integer, got 1.5"),
        (lambda: Dirac(layout=3), "layout must be a str or Axes, got 3"),
        (lambda: ZerO(layout=None), "layout must be a str or Axes, got None"),
        (lambda: Orthogonal(column_axis=1.0), "column_axis: expected an integer, got 1.0"),
        (lambda: Sparse("half"), "sparsity must be a number, not str"),
        (lambda: Sparse(0.5, axis=1.0), "axis: expected an integer, got 1.0"),
        (
            lambda: ICNR(fastinit.he_normal),
            "initializer must be an Initializer .*, not <function he_normal",
        ),
        (lambda: ICNR(Normal(), 2.0), "factor: expected an integer, got 2.0"),
        (Constant, "value"),
        (Sparse, "sparsity"),
    ],
)
def test_values_of_the_wrong_type(make, message):
    with pytest.raises(TypeError, match=message):
        make()


# Parameters that only some dtypes have


@pytest.mark.parametrize(
    "initializer, dtype, message",
    [
        (
            Normal(std=1e4),
            "float16",
            "a normal with mean=0.0, std=10000.0 reaches 67637.1, beyond the largest finite float16 value 65504",
        ),
        (Normal(mean=6.5e4, std=100.0), "float16", "reaches 65676.4, beyond"),
        (Normal(std=100.0), "float8_e4m3fn", "beyond the largest finite float8_e4m3fn value 448"),
        (Normal(std=1e38), "float32", "beyond the largest finite float32 value"),
        (Normal(std=1e308), "float64", "beyond the largest finite float64 value"),
        (TruncatedNormal(std=1e5), "float16", "a truncated_normal with mean=0.0, std=100000.0 reaches 200000, beyond"),
        (TruncatedNormal(std=1e4, high=inf), "float16", None),  # no draw goes beyond 6.34 deviations
        (TruncatedNormal(std=1.1e4, high=inf), "float16", "reaches 69717.5, beyond the largest finite float16"),
        (TruncatedNormal(std=1.1e4, low=-inf), "float16", "reaches 69717.5, beyond the largest finite float16"),
        (
            Uniform(-1e5, 1e5),
            "float16",
            "a uniform with low=-100000.0, high=100000.0 reaches 100000, beyond the largest finite float16",
        ),
        (Uniform(0, 500), "float8_e4m3fn", "reaches 500, beyond the largest finite float8_e4m3fn value 448"),
        (Uniform(-3e38, 3.3e38), "float32", None),  # drawn in float64
        (Uniform(0, 65520), "float16", None),  # every value below rounds to 65504 or less
        (VarianceScaling(1e200, distribution="uniform"), "float32", "beyond the largest finite float32"),
        (
            VarianceScaling(1e308, distribution="uniform", layout="VD"),
            "float64",
            "reaches inf, beyond the largest finite float64",
        ),
        (VarianceScaling(1e200, distribution="normal"), "float32", "beyond the largest finite float32"),
        (Constant(1e39), "float32", "1e\\+39 has no finite float32 value: the largest is 3.4028"),
        (Constant(65520.0), "float16", "65520.0 has no finite float16 value: the largest is 65504"),
        (Constant(-500.0), "float8_e4m3fn", "-500.0 has no finite float8_e4m3fn value: the largest is 448"),
        (Constant(inf), "float8_e4m3fn", "inf has no finite float8_e4m3fn value"),
        (
            Uniform(1.0000001, 1.0000002),
            "float16",
            "no float16 value lies in the interval of a uniform with low=1.0000001",
        ),
        (Uniform(1.0, 1.0 + 1e-9), "float64", None),
        (Uniform(1 + 1e-9, 1 + 2e-9), "float32", "no float32 value lies in the interval"),
        (Uniform(-1e-9, 1e-9), "float16", None),  # holds 0
        (TruncatedNormal(0.1, 1e-12), "float32", "no float32 value lies in the interval of a truncated_normal"),
        (TruncatedNormal(1e10, 1, 0, 1e-8, "absolute"), "float32", "must differ in standard deviations"),
        (
            Identity(1e39),
            "float32",
            r"Identity\(gain=1e\+39\) reaches 1e\+39, beyond the largest finite float32 value 3.40282e\+38",
        ),
        (Orthogonal(-1e39), "float32", "Orthogonal.* reaches 1e.39, beyond the largest finite float32 value"),
        (
            Identity(1e5),
            "float16",
            r"Identity\(gain=100000.0\) reaches 100000, beyond the largest finite float16 value 65504",
        ),
        (Sparse(0.5, std=1e38), "float32", "beyond the largest finite float32"),
        (Orthogonal(1e6), "float8_e5m2", "beyond the largest finite float8_e5m2 value 57344"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_what_a_dtype_cannot_hold(initializer, dtype, message):
    storage = dtype if dtype in ("float32", "float64", "float16") else "u1"
    if message is None:
        fill(np.empty((6, 6), storage), initializer, KEY, dtype=dtype)
        return
    refused(message, initializer, (6, 6), storage, dtype)
    if not isinstance(initializer, fastinit.StructuredInitializer):
        with pytest.raises(ValueError, match=message):
            fastinit.sample(KEY, 0, initializer, dtype=dtype, shape=(6, 6))


def test_normals_at_the_edge_of_a_dtype_stay_finite():
    out = fill(np.empty(10**6, np.float16), Normal(std=9684.0), KEY)
    assert np.isfinite(out).all()
    refused("beyond", Normal(std=9688.0), 9, "float16")


# Shapes


@pytest.mark.parametrize("shape", [(), (5,), (0,)])
def test_fans_of_scalars_and_vectors(shape):
    message = rf"fans need a shape with an input and an output axis, got .*: {len(shape)}-d"
    refused(message, fastinit.he_normal(), shape)


@pytest.mark.parametrize(
    "initializer, shape, message",
    [
        (fastinit.he_normal(layout="OI"), (3, 4, 5), "layout 'OI' needs 2 axes, got shape"),
        (fastinit.he_normal(layout="XY"), (3, 4), "layout must name its axes by I and O"),
        (fastinit.he_normal(layout="oi"), (3, 4), "layout must be capital letters"),
        (fastinit.he_normal(groups=3), (3, 4), "groups .* must divide the output features"),
        (fastinit.he_normal(groups=0), (3, 4), "groups must be >= 1, got 0"),
        (fastinit.he_normal(stride=2), (3, 3, 4, 4), "a stride needs transposed=True"),
        (fastinit.he_normal(blocks=3), (3, 4), "must divide the output features"),
        (Identity(), (3,), r"an identity needs 2 axes, got shape \(3,\)"),
        (Identity(), (3, 3, 3), "an identity needs 2 axes"),
        (Dirac(), (3, 3), "a dirac needs the 3 to 5 axes of a convolution, got shape"),
        (Dirac(), (1,) * 6, "3 to 5 axes"),
        (Dirac(groups=3), (3, 4, 4), "3 groups do not divide the 4 output channels"),
        (Dirac(layout="OIHW"), (3, 4, 4), "layout 'OIHW' needs 4 axes"),
        (Dirac(layout="EIO"), (3, 4, 4), "the layout of a dirac needs one O, one I and spatial axes, got 'EIO'"),
        (Dirac(layout="...IM"), (3, 4, 4), "needs one O, one I"),
        (DeltaOrthogonal(layout="OOI"), (3, 4, 4), "needs one O, one I"),
        (Orthogonal(), (3,), r"an orthogonal matrix needs at least 2 axes, got shape \(3,\)"),
        (Orthogonal(column_axis=2), (3, 4), r"column_axis 2 is out of range for shape \(3, 4\)"),
        (Orthogonal(column_axis=-3), (3, 4), "column_axis -3 is out of range"),
        (DeltaOrthogonal(), (3, 4), "3 to 5 axes"),
        (DeltaOrthogonal(), (3, 5, 4), "needs at least as many output as input channels, got 4 < 5"),
        (Sparse(0.5), (3,), r"a sparse matrix needs 2 axes, got shape \(3,\)"),
        (ICNR(Normal()), (3, 3, 4, 6), r"4 sub-pixels do not divide the 6 output channels of shape"),
        (ICNR(Normal()), (3, 4), "3 to 5 axes"),
        (ICNR(fastinit.he_normal(layout="IO")), (3, 3, 4, 8), "layout 'IO' needs 2 axes"),
        (ICNR(Identity()), (3, 3, 4, 8), "an identity needs 2 axes"),
        (ZerO(), (3,), "ZerO needs 2 to 5 axes"),
        (ZerO("OIO"), (3, 3, 3), "needs one O, one I"),
    ],
    ids=repr,
)
def test_shapes_that_an_initializer_does_not_fit(initializer, shape, message):
    refused(message, initializer, shape)
