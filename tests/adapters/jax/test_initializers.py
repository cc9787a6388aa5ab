"""fastinit.adapters.jax, name by name beside jax.nn.initializers."""

import contextlib
import inspect
import math
import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import fastinit
from fastinit import Key
from fastinit.adapters import jax as ours
from fastinit.adapters import numpy as numpy_adapter
from fastinit.adapters.jax import fills, own
from fastinit.dtypes import DTYPES

theirs = jax.nn.initializers
KEY = jax.random.key(7)
CORE = Key.from_words(0, 7)  # what the words of KEY say

# Factories of JAX with arguments, the core's words for the same, and a shape
FACTORIES = {
    "uniform": ((0.5,), fastinit.Uniform(0.0, 0.5), (31, 7)),
    "normal": ((0.5,), fastinit.Normal(0.0, 0.5), (31, 7)),
    "truncated_normal": ((0.5,), fastinit.TruncatedNormal(0.0, 0.5), (31, 7)),
    "variance_scaling": (
        (0.3, "fan_geo_avg", "uniform"),
        fastinit.VarianceScaling(0.3, "fan_geo_avg", "uniform"),
        (3, 3, 5, 7),
    ),
    "glorot_uniform": ((), fastinit.glorot_uniform(), (31, 7)),
    "glorot_normal": ((), fastinit.glorot_truncated_normal(), (3, 3, 5, 7)),
    "he_uniform": ((), fastinit.he_uniform(), (31, 7)),
    "he_normal": ((), fastinit.he_truncated_normal(), (31, 7)),
    "lecun_uniform": ((), fastinit.lecun_uniform(), (31, 7)),
    "lecun_normal": ((), fastinit.lecun_truncated_normal(), (31, 7)),
    "xavier_uniform": ((), fastinit.glorot_uniform(), (31, 7)),
    "xavier_normal": ((), fastinit.glorot_truncated_normal(), (31, 7)),
    "kaiming_uniform": ((), fastinit.he_uniform(), (31, 7)),
    "kaiming_normal": ((), fastinit.he_truncated_normal(), (31, 7)),
    "orthogonal": ((1.5,), fastinit.Orthogonal(1.5), (31, 7)),
    "delta_orthogonal": ((1.5,), fastinit.DeltaOrthogonal(1.5), (3, 3, 5, 7)),
}
EXTRA = {
    "glorot_untruncated_normal": ((), fastinit.glorot_normal(), (31, 7)),
    "he_untruncated_normal": ((), fastinit.he_normal(), (31, 7)),
    "lecun_untruncated_normal": ((), fastinit.lecun_normal(), (31, 7)),
    "initializer": ((fastinit.Sparse(0.5),), fastinit.Sparse(0.5), (31, 7)),
    "dirac": ((2,), fastinit.Dirac(2), (3, 3, 4, 8)),
    "icnr": ((fastinit.he_normal(),), fastinit.ICNR(fastinit.he_normal()), (3, 3, 5, 8)),
    "identity": ((0.5,), fastinit.Identity(0.5), (31, 7)),
    "sparse": ((0.9, 0.1, 1), fastinit.Sparse(0.9, 0.1, 1), (31, 7)),
    "zero_init": ((), fastinit.ZerO(), (7, 31)),
    "zero": ((), fastinit.ZerO(), (7, 31)),
}


def bits(array):
    return np.ascontiguousarray(np.asarray(array)).reshape(-1).view(np.uint8)


def expected(initializer, shape, dtype="float32", key=CORE):
    memory = np.empty(shape, f"u{DTYPES[dtype].itemsize}")
    return fastinit.fill(memory, initializer, key, dtype=dtype).reshape(-1).view(np.uint8)


def made(name):
    return getattr(ours, name)(*(FACTORIES | EXTRA)[name][0])


def refusal(function, *arguments, **named):
    try:
        function(*arguments, **named)
    except Exception as error:
        return error
    raise AssertionError(f"{arguments} {named} was not refused")


def test_every_public_name_of_jax_is_here_with_its_parameters():
    public = {name for name in dir(theirs) if not name.startswith("_")}
    assert public <= set(ours.__all__), public - set(ours.__all__)
    for name in public - {"Initializer"}:
        own, original = (inspect.signature(getattr(place, name)).parameters for place in (ours, theirs))
        shared = [(p.name, p.default) for p in own.values() if p.kind is not p.KEYWORD_ONLY]
        assert shared == [(p.name, p.default) for p in original.values()], name
    for name in FACTORIES:
        own, original = (getattr(place, name)(*FACTORIES[name][0]) for place in (ours, theirs))
        assert isinstance(own, theirs.Initializer)
        assert list(inspect.signature(own).parameters) == list(inspect.signature(original).parameters), name


def test_the_factories_that_jax_does_not_have():
    found = [str(p) for p in inspect.signature(ours.sparse).parameters.values()]
    assert [text.split(":")[0] for text in found[:3]] == ["sparsity", "std", "axis"]
    assert found[3:] == ["dtype: 'Any' = None"]
    assert ours.identity(gain=2.0, dtype="bfloat16")(KEY, (3, 3)).dtype == jnp.bfloat16
    for wrong, kind in [
        (lambda: ours.sparse(2.0), ValueError),
        (ours.sparse, TypeError),
        (lambda: ours.icnr(3), TypeError),
        (lambda: ours.identity()(KEY, (3,)), ValueError),
        (lambda: ours.he_normal(rows=3), TypeError),
    ]:
        assert type(refusal(wrong)) is kind


def test_the_values_are_those_of_the_core_in_every_dtype():
    for name, (_, initializer, shape) in (FACTORIES | EXTRA).items():
        for dtype in DTYPES:
            found = made(name)(KEY, shape, dtype)
            assert found.dtype.name == dtype
            assert found.shape == shape
            assert (bits(found) == expected(initializer, shape, dtype)).all(), (name, dtype)


def test_the_values_are_those_of_the_numpy_adapter():
    found = ours.he_normal()(Key(5), (64, 16), jnp.bfloat16)
    assert (bits(found) == bits(numpy_adapter.he_truncated_normal((64, 16), key=5, dtype="bfloat16"))).all()
    assert len(np.unique(np.asarray(ours.normal(1.0)(KEY, (2**18,), jnp.bfloat16)).view(np.uint16))) > 2500


def test_the_distributions_are_those_of_jax():
    for name, (arguments, _, shape) in FACTORIES.items():
        if "orthogonal" in name:
            continue
        shape = (*shape[:-1], shape[-1] * 1000)  # noqa: PLW2901
        own, original = (
            np.asarray(getattr(place, name)(*arguments)(KEY, shape, jnp.float32)) for place in (ours, theirs)
        )
        assert abs(own.std() / original.std() - 1) < 0.02, name
        tails = np.quantile([own.ravel(), original.ravel()], (0.002, 0.998), axis=1)
        assert abs(tails[:, 0] - tails[:, 1]).max() < 0.15 * original.std(), name


def test_the_fans_are_those_of_jax():
    for shape, axes in [
        ((5, 7), {}),
        ((3, 4, 5, 7), {}),
        ((7, 5, 3), {"in_axis": 1, "out_axis": 0}),
        ((4, 5, 6), {"in_axis": (0, 1), "out_axis": 2}),
        ((9, 5, 7), {"batch_axis": 0}),
        ((9, 5), {"out_axis": 0}),
        ((5,), {"in_axis": 0, "out_axis": ()}),
        ((5,), {"in_axis": (), "out_axis": 0}),
        ((), {"in_axis": (), "out_axis": ()}),
    ]:
        if len(shape) < 2 and jax.__version_info__ < (0, 9):
            continue  # JAX had no fans for fewer than two axes
        # JAX tells its fans to nobody, but a uniform draw is the draw from (-1, 1) times a factor that shows them
        original = np.asarray(jax.random.uniform(KEY, shape, jnp.float32, -1.0))
        own = fastinit.fill(np.empty(shape, np.float32), fastinit.Uniform(-1.0, 1.0), CORE)
        for mode in ("fan_in", "fan_out", "fan_avg", "fan_geo_avg"):
            factors = [
                np.asarray(place.variance_scaling(1.7, mode, "uniform", **axes)(KEY, shape, jnp.float32)) / unit
                for place, unit in ((ours, own), (theirs, original))
            ]
            assert np.allclose(factors, factors[0].flat[0], rtol=1e-6, atol=0), (shape, axes, mode)


def test_true_fans_on_request():
    for options, shape, fan_in in [
        ({"groups": 4}, (3, 3, 2, 8), 18),
        ({"transposed": True, "stride": (2, 2), "in_axis": -1, "out_axis": -2}, (3, 3, 8, 6), 6 * 9 / 4),
    ]:
        found = ours.he_uniform(**options)(KEY, shape)
        assert math.isclose(float(jnp.abs(found).max()), math.sqrt(6 / fan_in), rel_tol=0.05), options


def test_keys():
    raw, rbg = jax.random.PRNGKey(7), jax.random.key(7, impl="rbg")
    shape, normal = (6, 5), fastinit.Normal(0.0, 0.5)
    for key in (KEY, raw, np.asarray(raw), CORE):
        assert (bits(ours.normal(0.5)(key, shape, jnp.float32)) == expected(normal, shape)).all()
    words = [int(word) for word in jax.random.key_data(rbg)]
    for key in (rbg, jax.random.key_data(rbg)):
        found = bits(ours.normal(0.5)(key, shape, jnp.float32))
        assert (found == expected(normal, shape, key=Key.from_words(*words))).all()
    own = Key("name").fold_in("layer")
    assert (bits(ours.normal(0.5)(own, shape, jnp.float32)) == expected(normal, shape, key=own)).all()
    first, second = jax.random.split(KEY)
    assert (
        bits(ours.normal(0.5)(first, shape, jnp.float32)) != bits(ours.normal(0.5)(second, shape, jnp.float32))
    ).any()
    for wrong, kind in [
        (3, TypeError),
        (None, TypeError),
        ("key", TypeError),
        (jnp.zeros(3, jnp.uint32), TypeError),
        (jnp.zeros(2, jnp.float32), TypeError),
        (jnp.zeros((2, 2), jnp.uint32), TypeError),
        (jax.random.split(KEY), ValueError),
    ]:
        assert type(refusal(ours.normal(), wrong, shape)) is kind, wrong
        assert type(refusal(theirs.normal(), wrong, shape)) is kind or isinstance(wrong, (str, jax.Array)), wrong


def test_what_draws_nothing_needs_no_key():
    for made, shape in [
        (ours.identity(), (3, 4)),
        (ours.dirac(), (3, 4, 4)),
        (ours.zero_init(), (3, 4)),
        (ours.initializer(fastinit.Ones()), (3,)),
        (ours.initializer(fastinit.Constant(0.5)), ()),
    ]:
        assert np.array_equal(made(None, shape), made(KEY, shape))
        assert np.array_equal(jax.jit(lambda m=made, s=shape: m(None, s))(), made(KEY, shape))
    for made in (ours.sparse(0.5), ours.initializer(fastinit.Normal()), ours.uniform(0.0)):
        assert type(refusal(made, None, (3, 4))) is TypeError


def test_traced_functions_give_the_same_bytes():
    for name, (_, initializer, shape) in (FACTORIES | EXTRA).items():
        for dtype in ("float32", "bfloat16", "float64"):
            for key in (KEY, jax.random.PRNGKey(7), CORE) if name == "he_normal" else (KEY,):
                operands = () if isinstance(key, Key) else (key,)
                call = jax.jit(lambda *given, d=dtype, n=name, s=shape, k=key: made(n)(*(given or (k,)), s, d))
                found = call(*operands)
                assert found.dtype.name == dtype
                assert (bits(found) == expected(initializer, shape, dtype)).all(), (name, dtype)
    jaxpr = str(jax.make_jaxpr(lambda: ours.normal()(CORE, (512, 512)))())
    assert "fastinit_fill" in jaxpr  # a concrete key becomes a call, too, and not a constant of a megabyte
    assert len(jaxpr) < 2000


def test_vmap_eval_shape_and_scan():
    keys = jax.random.split(KEY, 5)
    init = ours.he_normal()
    wanted = np.stack([np.asarray(init(key, (6, 5))) for key in keys])
    assert np.array_equal(jax.vmap(lambda key: init(key, (6, 5)))(keys), wanted)
    assert np.array_equal(jax.jit(jax.vmap(lambda key: init(key, (6, 5))))(keys), wanted)
    found = jax.lax.scan(lambda carry, key: (carry, init(key, (6, 5))), 0, keys)[1]
    assert np.array_equal(found, wanted)
    shape = jax.eval_shape(lambda key: init(key, (2**20, 2**20), jnp.bfloat16), KEY)  # which no memory holds
    assert (shape.shape, shape.dtype) == ((2**20, 2**20), jnp.bfloat16)
    value, gradient = jax.value_and_grad(lambda x: (x * init(KEY, (6, 5))).sum())(2.0)
    assert np.isclose(value, 2 * gradient)
    assert type(refusal(jax.jit(lambda n: init(KEY, (n, 3))), 3)) is type(
        refusal(jax.jit(lambda n: theirs.he_normal()(KEY, (n, 3))), 3)
    )


def test_the_memory_is_taken_over():
    for dtype in DTYPES:
        kept = []
        original = fills.new_memory
        fills.new_memory = lambda *given: kept.append(original(*given)) or kept[-1]  # noqa: B023
        try:
            array = ours.normal()(KEY, (512, 512), dtype)
        finally:
            fills.new_memory = original
        assert array.unsafe_buffer_pointer() == kept[0].ctypes.data, dtype
    assert array.devices() == {jax.devices()[0]}
    with jax.default_device(jax.devices()[3]):
        assert ours.normal()(KEY, (8, 8)).devices() == {jax.devices()[3]}


def meshes():
    for kind in (AxisType.Explicit, AxisType.Auto):
        yield jax.make_mesh((4, 2), ("rows", "columns"), axis_types=(kind, kind))


SPECS = [P("rows", "columns"), P("columns", "rows"), P(("rows", "columns"), None), P(None, "columns"), P(), P("rows")]


def test_sharded_arrays_equal_the_whole():
    for mesh in meshes():
        for spec in SPECS:
            for name in ("he_normal", "orthogonal"):
                shape = (16, 24)
                whole = np.asarray(made(name)(KEY, shape))
                sharding = NamedSharding(mesh, spec)
                found = made(name)(KEY, shape, out_sharding=sharding)
                assert found.sharding == sharding
                assert np.array_equal(found, whole), (spec, name)
                with jax.set_mesh(mesh):
                    jitted = jax.jit(lambda key, n=name, s=spec: made(n)(key, (16, 24), out_sharding=s))(KEY)
                assert np.array_equal(jitted, whole), (spec, name)
                assert jitted.sharding.is_equivalent_to(sharding, 2)


@pytest.mark.skipif(not hasattr(jax.sharding, "get_mesh"), reason="needs a JAX that has jax.sharding.get_mesh")
def test_a_spec_by_itself_means_the_mesh_that_was_entered():
    for mesh in meshes():
        for spec in SPECS:
            for name in ("he_normal", "orthogonal"):
                with jax.set_mesh(mesh):
                    found = made(name)(KEY, (16, 24), out_sharding=spec)
                assert found.sharding == NamedSharding(mesh, spec)
                assert np.array_equal(found, made(name)(KEY, (16, 24))), (spec, name)


def test_a_spec_by_itself_where_jax_does_not_tell_the_mesh(monkeypatch):
    monkeypatch.delattr(jax.sharding, "get_mesh", raising=False)
    with jax.set_mesh(next(meshes())), pytest.raises(ValueError, match="pass a NamedSharding, call it within"):
        ours.he_normal()(KEY, (16, 24), out_sharding=P("rows"))


def test_each_device_fills_its_own_piece_only():
    sizes = []
    original = fills.new_memory
    fills.new_memory = lambda shape, dtype: sizes.append(shape) or original(shape, dtype)
    try:
        for mesh in meshes():
            for spec, count in ((P("rows", "columns"), 8), (P("rows"), 4), (P(), 1)):
                sizes.clear()
                sharding = NamedSharding(mesh, spec)
                ours.he_normal()(KEY, (16, 24), out_sharding=sharding)
                assert sizes == [sharding.shard_shape((16, 24))] * count  # replicas once
            sizes.clear()
            with jax.set_mesh(mesh):
                jax.block_until_ready(jax.jit(lambda key: ours.he_normal()(key, (16, 24), out_sharding=P("rows")))(KEY))
            assert set(sizes) == {(4, 24)}
    finally:
        fills.new_memory = original


def test_elements_of_sharded_arrays_are_as_defined():
    mesh = next(meshes())
    sharding = NamedSharding(mesh, P("rows", "columns"))
    shape = (2**13, 2**12)
    found = np.asarray(ours.normal(1.0)(KEY, shape, jnp.bfloat16, out_sharding=sharding))
    chooser = np.random.default_rng(0)
    for row, column in zip(chooser.integers(0, shape[0], 50), chooser.integers(0, shape[1], 50), strict=True):
        wanted = fastinit.sample(CORE, int(row) * shape[1] + int(column), fastinit.Normal(), dtype="bfloat16")
        assert float(found[row, column]) == wanted


def test_wrong_shardings():
    mesh = next(meshes())
    shape = (16, 24)
    for wrong, kind in [(3, TypeError), ("rows", TypeError), (P("rows"), ValueError)]:
        for place in (ours, theirs):
            assert type(refusal(place.he_normal(), KEY, shape, out_sharding=wrong)) is kind, (wrong, place)
    uneven = NamedSharding(mesh, P("rows"))
    assert isinstance(refusal(ours.he_normal(), KEY, (15, 24), out_sharding=uneven), ValueError)
    long = NamedSharding(mesh, P("rows", "columns"))
    assert type(refusal(ours.normal(), KEY, (16,), out_sharding=long)) is ValueError


def test_shard_map():
    mesh = next(meshes())
    piece = jax.shard_map(
        lambda key: ours.normal()(key, (3, 4)), mesh=mesh, in_specs=P(), out_specs=P("rows", "columns"), check_vma=False
    )
    whole = np.asarray(ours.normal()(KEY, (3, 4)))
    assert np.array_equal(piece(KEY), np.tile(whole, (4, 2)))


def test_what_jax_refuses_is_refused_in_the_same_way():
    shape = (4, 6)
    for build, given in [
        (lambda place: place.variance_scaling(1.0, "fan", "normal"), shape),
        (lambda place: place.variance_scaling(1.0, "fan_in", "cauchy"), shape),
        (lambda place: place.he_normal(), (4,)),
        (lambda place: place.he_normal(), ()),
        (lambda place: place.he_normal(in_axis=5), shape),
        (lambda place: place.he_normal(in_axis=0, out_axis=-3), shape),
        (lambda place: place.orthogonal(), (4,)),
        (lambda place: place.orthogonal(column_axis=2), shape),
        (lambda place: place.delta_orthogonal(), shape),
        (lambda place: place.delta_orthogonal(), (3, 6, 4)),
        (lambda place: place.delta_orthogonal(), (3, 3, 3, 3, 3, 3)),
        (lambda place: place.he_normal(), (-1, 3)),
        (lambda place: place.normal(), (2.5, 3)),
        (lambda place: place.normal(), (None, 3)),
        (lambda place: place.normal("x"), shape),
    ]:
        own, original = (refusal(lambda p=place: build(p)(KEY, given)) for place in (ours, theirs))  # noqa: B023
        assert type(own) is type(original), (given, own, original)
        if not isinstance(own, TypeError):  # those of shapes say what came in our own words
            assert str(own) == str(original), given
    for name in FACTORIES:
        for dtype in (jnp.int32, jnp.uint8, bool, "float99", "int64"):
            own, original = (
                refusal(getattr(place, name)(*FACTORIES[name][0]), KEY, FACTORIES[name][2], dtype)
                for place in (ours, theirs)
            )
            assert type(own) is type(original), (name, dtype, own, original)


def test_other_bad_input():
    for wrong in (
        ours.variance_scaling(-1.0, "fan_in", "normal"),
        ours.normal(math.nan),
        ours.uniform(math.inf),
        ours.truncated_normal(1.0, lower=2.0, upper=1.0),
        ours.he_normal(groups=5),
    ):
        assert type(refusal(wrong, KEY, (4, 6))) is ValueError
    assert type(refusal(ours.normal(1e6), KEY, (4, 6), jnp.float16)) is ValueError
    assert type(refusal(ours.initializer, theirs.he_normal())) is TypeError


def test_unusual_parameters_that_jax_takes():
    for name, arguments in [
        ("uniform", (-0.5,)),
        ("uniform", (0.0,)),
        ("normal", (-0.5,)),
        ("truncated_normal", (-0.5, None, -1.0, 3.0)),
        ("variance_scaling", (0.0, "fan_in", "normal")),
        ("normal", (jnp.float32(0.5),)),
        ("normal", (np.float64(0.5),)),
    ]:
        own, original = (np.asarray(getattr(place, name)(*arguments)(KEY, (300, 300))) for place in (ours, theirs))
        assert abs(own.mean() - original.mean()) < 0.02, name
        assert abs(own.std() - original.std()) < 0.02, name
    assert ours.normal()(KEY, 3).shape == (3,)
    for name in FACTORIES:
        shape = FACTORIES[name][2]
        assert made(name)(KEY, (0, *shape[1:])).shape == (0, *shape[1:])


def test_the_default_dtype_is_jaxs():
    assert ours.normal()(KEY, (3,)).dtype == theirs.normal()(KEY, (3,)).dtype == jnp.zeros(()).dtype
    assert ours.normal(dtype=jnp.bfloat16)(KEY, (3,)).dtype == jnp.bfloat16
    assert ours.he_normal(dtype=ml_dtypes.bfloat16)(KEY, (3, 3), jnp.float16).dtype == jnp.float16


def test_refused_while_tracing_in_jaxs_words():
    for build, shape in [
        (lambda place: place.orthogonal(), (5,)),
        (lambda place: place.orthogonal(column_axis=2), (5, 4)),
        (lambda place: place.delta_orthogonal(), (3, 3, 8, 4)),
        (lambda place: place.delta_orthogonal(), (3, 4)),
        (lambda place: place.he_normal(), (5,)),
        (lambda place: place.variance_scaling(1.0, "fan_avg", "truncated_normal"), (5,)),
        (lambda place: place.variance_scaling(1.0, "fan_sum", "normal"), (5, 4)),
    ]:
        for trace in (jax.eval_shape, lambda function, key: jax.jit(function).lower(key)):
            own, original = (refusal(trace, lambda k, p=place: build(p)(k, shape), KEY) for place in (ours, theirs))  # noqa: B023
            assert (type(own), str(own)) == (type(original), str(original)), shape
    for init, shape in [(ours.dirac(), (3,)), (ours.identity(), (3,)), (ours.icnr(fastinit.Ones()), (3, 3, 5, 7))]:
        assert type(refusal(jax.eval_shape, lambda k, i=init, s=shape: i(k, s), KEY)) is ValueError
    assert type(refusal(jax.eval_shape, lambda k: ours.normal(1e6)(k, (3,), jnp.float16), KEY)) is ValueError


def test_dtypes_that_fastinit_does_not_fill_are_jaxs(monkeypatch):
    monkeypatch.setattr(own.notices, "said", set())
    for dtype in ("complex64", "float8_e3m4"):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for name, key in (("he_normal", KEY), ("normal", jax.random.PRNGKey(7))):
                found, wanted = (getattr(place, name)()(key, (3, 4), dtype) for place in (ours, theirs))
                assert (bits(found) == bits(wanted)).all(), name
            traced = jax.jit(made("he_normal"), static_argnums=(1, 2))(KEY, (3, 4), dtype)
            assert traced.dtype == dtype
            assert made("he_normal")(CORE, (3, 4), dtype).dtype == dtype
        (warning,) = (entry for entry in said if "fastinit" in str(entry.message))
        assert f"does not fill {dtype}" in str(warning.message)
        assert warning.filename == __file__
    for dtype in ("complex64", "int32"):
        for name in ("uniform", "truncated_normal"):
            own_words, words = (refusal(getattr(place, name)(), KEY, (3,), dtype) for place in (ours, theirs))
            assert (type(own_words), str(own_words)) == (type(words), str(words))
    for init in (ours.sparse(0.5), ours.he_normal(groups=2)):
        assert type(refusal(init, KEY, (4, 4), "complex64")) is ValueError


def test_scales_that_are_traced():
    for name, arguments, shape in [
        ("normal", (), (31, 7)),
        ("uniform", (), (31, 7)),
        ("truncated_normal", (), (31, 7)),
        ("variance_scaling", ("fan_in", "truncated_normal"), (31, 7)),
        ("orthogonal", (), (31, 7)),
        ("delta_orthogonal", (), (3, 5, 7)),
    ]:

        def draw(scale, key=KEY, dtype=jnp.float32):
            return getattr(ours, name)(scale, *arguments)(key, shape, dtype)  # noqa: B023

        unit = np.asarray(draw(1.0))
        root, slope = (np.sqrt, 0.5 / np.sqrt(2.0)) if name == "variance_scaling" else (np.asarray, 1.0)
        scales = jnp.array([0.5, 3.0, 0.3], jnp.float32)
        assert np.array_equal(jax.jit(draw)(scales[1]), unit * root(scales[1])), name
        gradient = jax.grad(lambda scale: (draw(scale) * unit).sum())(2.0)  # noqa: B023
        assert np.isclose(gradient, slope * (unit.astype(float) ** 2).sum(), rtol=1e-5), name
        if name not in ("uniform", "variance_scaling"):
            continue
        # a number is folded into the distribution, a factor multiplies: the last bit may differ
        wanted = np.stack([np.asarray(draw(float(scale))) for scale in scales])
        assert np.allclose(jax.vmap(draw)(scales), wanted, rtol=1e-6), name
        assert np.allclose(jax.lax.scan(lambda c, s: (c, draw(s)), 0, scales)[1], wanted, rtol=1e-6), name
        keys = jax.random.split(KEY, 3)
        wanted = [draw(float(scale), key) for scale, key in zip(scales, keys, strict=True)]
        assert np.allclose(jax.vmap(draw)(scales, keys), wanted, rtol=1e-6)
        narrow = jax.jit(lambda scale: draw(scale, dtype=jnp.bfloat16))(scales[2])
        assert np.array_equal(narrow, (unit * root(scales[2])).astype(jnp.bfloat16)), name
    rows = jnp.array([1.0, 2.0, 3.0])
    assert np.array_equal(
        ours.normal(rows)(KEY, (2, 3), jnp.float32), ours.normal(1.0)(KEY, (2, 3), jnp.float32) * rows.astype("float32")
    )


def test_bounds_that_are_traced_are_jaxs(monkeypatch):
    monkeypatch.setattr(own.notices, "said", set())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found, wanted = (
            jax.jit(lambda low, p=place: p.truncated_normal(2.0, lower=low)(KEY, (31, 7)))(-1.0)
            for place in (ours, theirs)
        )
    assert np.array_equal(found, wanted)
    assert len([entry for entry in said if "JAX's own numbers" in str(entry.message)]) == 1


CONTEXTS = {
    "none": contextlib.nullcontext,
    "explicit": lambda: jax.set_mesh([*meshes()][0]),  # noqa: RUF015
    "automatic": lambda: jax.set_mesh([*meshes()][1]),
    "device": lambda: jax.default_device(jax.devices()[2]),
}


def test_an_array_is_where_jax_puts_it():
    explicit, auto = meshes()
    typed, raw = jax.random.key(7), jax.random.PRNGKey(7)
    keys = {
        "typed": typed,
        "raw": raw,
        "NumPy": np.array([0, 7], np.uint32),
        "raw, on 1": jax.device_put(raw, jax.devices()[1]),
    }
    for place in (jax.devices()[1], NamedSharding(auto, P()), NamedSharding(explicit, P())):
        keys[f"typed, on {place}"] = jax.device_put(typed, place)

    def eagerly(init, key):
        return init(key, (4, 6), jnp.float32)

    def mapped(init, key):  # over something else
        return jax.vmap(lambda x: x * init(key, (4, 6), jnp.float32))(jnp.ones(2, jnp.float32))

    seen = set()
    for context, enter in CONTEXTS.items():
        for name, key in keys.items():
            for call in (eagerly, mapped) if context == "automatic" else (eagerly,):
                with enter():
                    try:
                        wanted = call(theirs.normal(), key)
                    except ValueError as problem:
                        assert type(refusal(call, ours.normal(), key)) is type(problem), (context, name)
                        continue
                    found = call(ours.normal(), key)
                    assert (found.sharding, found.committed) == (wanted.sharding, wanted.committed), (context, name)
                    seen.add((str(found.sharding), found.committed))
        with enter():
            found, wanted = ours.normal(0.5)(CORE, (4, 6), jnp.float32), eagerly(theirs.normal(), raw)
            assert (found.sharding, found.committed) == (wanted.sharding, wanted.committed), context
            assert (bits(found) == expected(fastinit.Normal(0.0, 0.5), (4, 6))).all()
    assert len(seen) == 5, seen
    with jax.set_mesh(auto):  # which refuses an array that is somewhere else
        constrained = jax.lax.with_sharding_constraint(ours.normal()(jax.random.key(7), (8, 6)), P("rows"))
    assert constrained.sharding.spec == P("rows")
