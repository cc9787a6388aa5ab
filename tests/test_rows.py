"""New rows: the old ones keep every bit, the new ones are the whole tensor's, or follow exactly from the old ones."""

import hashlib
import math

import numpy as np
import pytest

import fastinit
from fastinit import Blocks, Key, NewRows, Normal, Orthogonal, VarianceScaling, ZeroRow, fill, fill_rows, reference
from fastinit.dtypes import DTYPES
from fastinit.extending import Shard, buffer_of, check_rows, compare_rows, fill_rows_of
from fastinit.rows import BLOCK

KEY = Key("rows")
WAYS = ("mean", "mean_covariance")


def table(old, new, width, dtype="float32", std=0.1, mean=0.3):
    """Old rows, and bits of 1 in the place of the new ones."""
    out = np.full((old + new, width), 1, DTYPES[dtype].raw)
    fill(out[:old], Normal(mean, std), KEY.fold_in("old"), dtype=dtype)
    return out


def numbers(bits, dtype):
    return np.array([DTYPES[dtype].value(int(one)) for one in bits.ravel()]).reshape(bits.shape)


# What an initializer gives


@pytest.mark.parametrize(
    "initializer",
    [Normal(0.1, 0.02), ZeroRow(fastinit.Uniform(-1, 1), 3), Orthogonal(), Blocks(Normal(), 2), VarianceScaling()],
    ids=lambda one: type(one).__name__,
)
def test_the_new_rows_are_those_of_the_whole_tensor(initializer, dtype):
    whole = fill(np.empty((40, 6), DTYPES[dtype].raw), initializer, KEY, dtype=dtype)
    out = table(29, 11, 6, dtype)
    before = out.copy()
    assert fill_rows(out, NewRows(29, initializer), KEY, dtype=dtype) is out
    assert (out[:29] == before[:29]).all() and (out[29:] == whole[29:]).all()


def test_a_row_does_not_depend_on_how_many_there_are():
    at_once = fill_rows(table(29, 50, 6), NewRows(29, Normal()), KEY, dtype="float32")
    for size in (1, 7):
        assert (
            fill_rows(table(29, size, 6), NewRows(29, Normal()), KEY, dtype="float32") == at_once[: 29 + size]
        ).all()
    twice = fill_rows(at_once.copy(), NewRows(40, Normal()), KEY, dtype="float32")
    assert (twice == at_once).all()


LAYOUTS = {
    "transposed": np.asfortranarray,
    "every second": lambda out: np.repeat(np.repeat(out, 2, 0), 2, 1)[::2, ::2],
    "reversed columns": lambda out: np.ascontiguousarray(out[:, ::-1])[:, ::-1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("way", [*WAYS, Normal(), Orthogonal()], ids=str)
def test_the_layout_does_not_matter(layout, way):
    expected = fill_rows(table(29, 11, 6), NewRows(29, way), KEY, dtype="float32")
    out = LAYOUTS[layout](table(29, 11, 6))
    assert (fill_rows(out, NewRows(29, way), KEY, dtype="float32") == expected).all()


SHARDS = {
    "columns": ((slice(None), slice(2, 5)), {"offsets": (0, 2)}),
    "rows, some of them new": ((slice(25, 33), slice(None)), {"offsets": (25, 0)}),
    "old rows": ((slice(3, 20), slice(None)), {"offsets": (3, 0)}),
    "new rows": ((slice(30, 33), slice(1, 3)), {"offsets": (30, 1)}),
    "dealt rows": ((np.r_[5:9, 27:31, 36:38],), {"ranges": ((range(5, 9), range(27, 31), range(36, 38)), (range(6),))}),
    "every third row": ((np.r_[1:40:3],), {"ranges": ((range(1, 40, 3),), (range(6),))}),
    "no row": ((slice(40, 40),), {"offsets": (40, 0)}),
}


@pytest.mark.parametrize("name", SHARDS)
@pytest.mark.parametrize("initializer", [Normal(), Orthogonal(), ZeroRow(Normal(), 31)], ids=str)
def test_shards_of_rows_and_columns(name, initializer):
    index, where = SHARDS[name]
    expected = fill_rows(table(29, 11, 6), NewRows(29, initializer), KEY, dtype="float32")[index]
    local = table(29, 11, 6)[index].copy()
    shard = Shard.of(local.shape, (40, 6), **where)
    buffer = buffer_of(local, "float32")
    fill_rows_of(buffer, NewRows(29, initializer), KEY, shard)
    assert (local == expected).all()
    found = compare_rows(buffer, NewRows(29, initializer), KEY, shard)
    assert found.is_equal and found.size == (np.r_[:40][index[0]] >= 29).sum() * local.shape[1]


@pytest.mark.parametrize(("start", "size"), [(0, 240), (170, 20), (20, 30), (175, 1), (173, 1), (190, 50)])
def test_flat_ranges(start, size):
    expected = fill_rows(table(29, 11, 6), NewRows(29, Normal()), KEY, dtype="float32").ravel()
    local = table(29, 11, 6).ravel()[start : start + size].copy()
    fill_rows_of(buffer_of(local, "float32"), NewRows(29, Normal()), KEY, Shard((40, 6), None, start))
    assert (local == expected[start : start + size]).all()


# What follows from the old rows


def defined(old, count, key, scale):
    """The definition, with Python's integers and floats, one operation after the other."""
    (number, width), normals = old.shape, key.fold_in("new rows")
    made = np.empty((count, width))
    for column in range(width):
        values = [float(one) for one in old[:, column]]
        total = 0.0
        for one in values:
            total += one
        mean = total / number
        exponent = math.frexp(max(max(values) - mean, mean - min(values)))[1]
        integers = [round((one - mean) * 2.0 ** (24 - exponent)) for one in values]
        for row in range(count):
            found = 0.0
            for begin in range(0, number, 4096):
                some = range(begin, min(begin + 4096, number))
                draws = reference.normal(normals.words, np.array([row * number + k for k in some], np.uint64))
                drawn = [round(float(one) * 2**13) for one in draws]
                found += float(sum(draw * integers[k] for draw, k in zip(drawn, some, strict=True)))
            made[row, column] = mean + found * 2.0 ** (exponent - 37) * math.sqrt(scale / number)
    return made


@pytest.mark.parametrize("old", [1, 2, 700, BLOCK + 3])
@pytest.mark.parametrize("scale", [0.0, 1e-5, 1.0])
def test_the_values_are_as_defined(old, scale, dtype):
    out = table(old, 3, 2, dtype)
    expected = defined(numbers(out[:old], dtype), 3, KEY, scale)
    fill_rows(out, NewRows(old, "mean_covariance", scale), KEY, dtype=dtype)
    work = expected.astype(DTYPES[dtype].working)
    assert (numbers(out[old:], dtype) == [[DTYPES[dtype].nearest(float(one)) for one in row] for row in work]).all()
    if not scale:
        assert (fill_rows(table(old, 3, 2, dtype), NewRows(old, "mean"), KEY, dtype=dtype) == out).all()


def test_a_row_that_follows_from_others_does_not_depend_on_how_many_there_are():
    rows = NewRows(900, "mean_covariance", 1.0)
    many = fill_rows(table(900, 1500, 5), rows, KEY, dtype="float32")  # more than are made at a time
    assert (fill_rows(table(900, 4, 5), rows, KEY, dtype="float32") == many[:904]).all()
    assert len(np.unique(many[900:], axis=0)) == 1500
    assert (fill_rows(table(900, 4, 5), rows, KEY, dtype="float32", num_threads=1) == many[:904]).all()


def test_the_bytes_of_the_stream_do_not_change(dtype):
    """As docs/stream-v1-structured.md defines them: frozen with the rest of stream v1."""
    golden = {
        "float32": "2b56d8ff7952b16af70c09a4a0580e8c",
        "float64": "f15165c519750d2c38859effbdf80177",
        "float16": "61e52c1535dd2b7fa9a9913768bcac06",
        "bfloat16": "bff0ff899df4f921fe5556a0ce67a4c2",
        "float8_e4m3fn": "c724dda80d217a831979492705758572",
        "float8_e5m2": "6f86c03c4c1532bd4d7a57e47d45dc37",
    }
    out = table(5000, 40, 7, dtype)
    fill_rows(out, NewRows(5000, "mean_covariance", 0.25), KEY, dtype=dtype)
    assert hashlib.sha256(out[5000:]).hexdigest()[:32] == golden[dtype]


def test_no_sum_of_integers_leaves_float64(monkeypatch):
    """The largest factors that there can be, of one sign: the bounds of which the module's text speaks."""
    seen = []
    product = fastinit.rows._exact_product
    monkeypatch.setattr(
        fastinit.rows, "_exact_product", lambda *pair: seen.append([abs(one).max() for one in pair]) or product(*pair)
    )
    out = table(BLOCK, 3, 2, "float64").view(np.float64)
    out[0, 0] = 1e300
    fill_rows(out, NewRows(BLOCK, "mean_covariance", 1.0), KEY)
    ((draws, distances),) = seen
    assert draws < 8 * 2**13 and 2**23 <= distances <= 2**24
    assert BLOCK * 8 * 2**13 * 2**24 < 2**53  # a normal in float32 is below 8


DIGEST = """
import hashlib, numpy as np, fastinit
table = fastinit.fill(np.empty((9000, 70), np.float32), fastinit.Normal(0.1), fastinit.Key(3))
fastinit.fill_rows(table, fastinit.NewRows(8200, "mean_covariance", 0.5), fastinit.Key(4))
print(hashlib.sha256(table).hexdigest())
"""


# A product without fastinit: on some processors NumPy 2.5.5 dies in it, with the kernels of OpenBLAS for Haswell.
PRODUCT = "import numpy as np; a = np.ones((1000, 64)); b = np.ones((1000, 70)); a.T @ a, b.T @ b, b.T @ a"


def test_the_bytes_do_not_depend_on_how_numpy_multiplies(run_python):
    """OpenBLAS with kernels for other processors, with and without fused operations, on one thread and on three."""
    out = fill(np.empty((9000, 70), np.float32), Normal(0.1), Key(3))
    own = hashlib.sha256(fill_rows(out, NewRows(8200, "mean_covariance", 0.5), Key(4))).hexdigest()
    compared = 0
    for core, threads in (("Prescott", "1"), ("Sandybridge", "3"), ("Haswell", "2")):
        blas = {"OPENBLAS_CORETYPE": core, "OPENBLAS_NUM_THREADS": threads}
        done = run_python(DIGEST, **blas)
        if done.returncode < 0 and run_python(PRODUCT, **blas).returncode < 0:
            continue
        assert done.stdout.strip() == own, (core, done.stderr)
        compared += 1
    assert compared >= 2


@pytest.mark.parametrize("mean", [0.0, 50.0])
def test_the_moments_are_those_of_the_old_rows(mean):
    """Rows with correlated columns, of which the new ones have the mean and the covariance."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(8, 8))
    old = rng.standard_t(5, size=(3000, 8)) @ mixing + mean
    out = np.concatenate([old, np.zeros((40_000, 8))])
    fill_rows(out, NewRows(3000, "mean_covariance", 1.0), KEY)
    new, covariance = out[3000:], np.cov(old.T, bias=True)
    error = np.sqrt(np.diag(covariance) / 40_000)
    assert (abs(new.mean(0) - old.mean(0)) < 5 * error).all()
    spread = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / math.sqrt(40_000)
    assert (abs(np.cov(new.T) - covariance) < 5 * spread).all()
    standard = np.linalg.solve(np.linalg.cholesky(covariance), (new - old.mean(0)).T)
    assert abs((standard**4).mean() - 3) < 0.05  # normal, though the old rows have heavy tails
    assert abs((standard[:, 1:] * standard[:, :-1]).mean(1)).max() < 5 / math.sqrt(40_000)  # one row knows no other


def test_few_old_rows_span_all_that_is_drawn():
    """Fewer rows than columns, whose covariance has no inverse and no Cholesky factor."""
    out = table(3, 50, 20, "float64").view(np.float64)
    fill_rows(out, NewRows(3, "mean_covariance", 1.0), KEY)
    assert np.linalg.matrix_rank(out[3:] - out[:3].mean(0), tol=1e-5) == 2


def test_a_constant_column_stays_constant():
    out = table(50, 9, 3).view(np.float32)
    out[:50, 1] = 0.7
    out[:50, 2] = 0
    fill_rows(out, NewRows(50, "mean_covariance", 1.0), KEY)
    assert abs(out[50:, 1] - np.float32(0.7)).max() < 1e-7 and not out[50:, 2].any()
    assert len(np.unique(out[50:, 0])) == 9


def test_vectors_and_kernels_have_rows():
    bias = np.arange(12, dtype=np.float32)
    fill_rows(bias, NewRows(9, "mean"), KEY)
    assert bias[9:].tolist() == [4.0] * 3
    kernel = np.arange(48, dtype=np.float32).reshape(4, 3, 2, 2)
    fill_rows(kernel, NewRows(2, "mean"), KEY)
    assert (kernel[2:] == kernel[:2].mean(0)).all()


def test_columns_need_no_other_columns():
    whole = fill_rows(table(29, 11, 6), NewRows(29, "mean_covariance", 1.0), KEY, dtype="float32")
    local = table(29, 11, 6)[:, 2:5].copy()
    fill_rows_of(
        buffer_of(local, "float32"),
        NewRows(29, "mean_covariance", 1.0),
        KEY,
        Shard.of(local.shape, (40, 6), offsets=(0, 2)),
    )
    assert (local == whole[:, 2:5]).all()


def test_extremes_stay_finite(dtype):
    """Draws beyond the dtype are its largest value."""
    largest = DTYPES[dtype].max / (4 if dtype == "float64" else 1)  # whose sum is to be finite
    out = table(4, 60, 2, dtype)
    fill(out[:2], fastinit.Constant(largest), KEY, dtype=dtype)
    fill(out[2:4], fastinit.Constant(-largest), KEY, dtype=dtype)
    fill_rows(out, NewRows(4, "mean_covariance", 9.0), KEY, dtype=dtype)
    assert np.isfinite(numbers(out, dtype)).all() and (numbers(out[4:], dtype) == DTYPES[dtype].max).any()


# Comparing


@pytest.mark.parametrize("way", [*WAYS, Normal()], ids=str)
def test_new_rows_are_compared_and_old_ones_are_not(way, dtype):
    rows = NewRows(29, way, 0.5)
    out = fill_rows(table(29, 11, 6, dtype), rows, KEY, dtype=dtype)
    found = compare_rows(buffer_of(out, dtype), rows, KEY)
    assert found.is_equal and found.size == 66
    out[30:31, 2] ^= 1  # slices: a single uint64 of NumPy 1 has no exclusive or with an int
    out[39:40, 5] ^= 1
    found = compare_rows(buffer_of(out, dtype), rows, KEY)
    assert (found.different, found.first, found.last) == (2, 30 * 6 + 2, 39 * 6 + 5) and found.change > 0
    if not isinstance(way, str):
        out[:29] = 0
        assert compare_rows(buffer_of(out, dtype), rows, KEY).different == 2


def test_old_rows_that_are_no_longer_finite_are_told():
    rows = NewRows(29, "mean_covariance")
    out = fill_rows(table(29, 11, 6).view(np.float32), rows, KEY)
    out[3, 2] = np.nan
    found = compare_rows(buffer_of(out, None), rows, KEY)
    assert found.different == 11 and math.isnan(found.change)


# What is refused


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: NewRows(0), ValueError, "first must be at least 1, got 0"),
        (lambda: NewRows(True), TypeError, "first: expected an integer"),
        (lambda: NewRows(3, "median"), ValueError, "initializer of NewRows must be one of own, mean, mean_covariance"),
        (lambda: NewRows(3, None), TypeError, "initializer must be an Initializer"),
        (lambda: NewRows(3, NewRows(2, "mean")), TypeError, "cannot be part of another initializer"),
        (lambda: NewRows(3, "mean", -1), ValueError, "scale must be at least 0"),
        (lambda: NewRows(3, "mean", math.nan), ValueError, "scale must be finite"),
        (lambda: Blocks(NewRows(3, "mean"), 2), TypeError, "cannot be part of another initializer"),
        (lambda: ZeroRow(NewRows(3, Normal()), 2), TypeError, "cannot be part of another initializer"),
    ],
)
def test_what_is_no_new_rows(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("shape", "rows", "error", "message"),
    [
        ((5, 2), NewRows(5, "mean"), ValueError, r"must be one of the 5 of shape \(5, 2\), got 5"),
        ((0, 2), NewRows(1, "mean"), ValueError, "must be one of the 0"),
        ((), NewRows(1, "mean"), ValueError, "need a tensor with at least 1 axis"),
        ((5, 2), NewRows(3), ValueError, "'own' needs a model's recipe"),
        ((5, 2), NewRows(3, Normal(0, 1e39)), ValueError, "float32"),
        ((5,), NewRows(3, Orthogonal()), ValueError, "at least 2 axes"),
        ((5, 2), NewRows(3, "mean"), ValueError, "the mean of the 3 old rows is not finite"),
        ((5, 2), NewRows(3, "mean_covariance"), ValueError, "the mean of the 3 old rows is not finite"),
        ((5, 2), "mean", TypeError, "rows must be a NewRows, got 'mean'"),
        ((5, 2), 3, TypeError, "rows must be a NewRows, got 3"),
    ],
)
def test_nothing_is_written_where_it_cannot_be(shape, rows, error, message):
    out = np.full(shape, np.inf, np.float32)
    with pytest.raises(error, match=message):
        check_rows(buffer_of(out, None), rows)
    with pytest.raises(error, match=message):
        fill_rows(out, rows, KEY)
    assert np.isinf(out).all()


@pytest.mark.parametrize("where", [{"offsets": (20, 0)}, {"offsets": (0, 0)}, {"start": 100}])
@pytest.mark.parametrize("way", WAYS)
def test_a_part_of_the_rows_has_no_mean(where, way):
    local = table(29, 11, 6)[:20].copy()
    local = local.ravel() if "start" in where else local
    before = local.copy()
    with pytest.raises(ValueError, match="needs all 40 rows, got a part of them"):
        fill_rows_of(buffer_of(local, "float32"), NewRows(29, way), KEY, Shard.of(local.shape, (40, 6), **where))
    assert (local == before).all()


def test_a_fill_does_not_take_it():
    out = np.ones((5, 2), np.float32)
    with pytest.raises(TypeError, match="reads the tensor's present values: use fill_rows"):
        fill(out, NewRows(3, Normal()), KEY)
    with pytest.raises(TypeError, match="reads the tensor's present values: use fill_rows"):
        fastinit.compare(out, NewRows(3, Normal()), KEY)
    assert (out == 1).all()
