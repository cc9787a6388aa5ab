"""fastinit.adapters.jax.fills: compiled fills on several devices, each device its own piece, and exported functions."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import fastinit
from fastinit import Key
from fastinit.adapters import jax as ours
from fastinit.adapters.jax import fills, own

theirs = jax.nn.initializers
KEY = jax.random.key(7)
KEYS = jax.random.split(KEY, 8)
SHAPE = (16, 24)
SPECS = [P("rows", "columns"), P("columns", "rows"), P(("rows", "columns")), P(None, "columns"), P("rows"), P()]


def meshes(count=8):
    """Meshes of the first devices, with either kind of axes, and one whose devices are in another order."""
    devices = jax.devices()[:count]
    shape = (count // 2, 2) if count > 1 else (1, 1)
    for kind in (AxisType.Auto, AxisType.Explicit):
        yield jax.make_mesh(shape, ("rows", "columns"), devices=devices, axis_types=(kind, kind))
    yield Mesh(np.array(devices[::-1]).reshape(shape), ("rows", "columns"))


def init(key):
    return ours.he_normal()(key, SHAPE, jnp.float32)


@pytest.fixture
def sizes(monkeypatch):
    """The shapes of the memory that the host has filled."""
    found = []
    original = fills.new_memory
    monkeypatch.setattr(fills, "new_memory", lambda shape, dtype: found.append(shape) or original(shape, dtype))
    return found


@pytest.fixture
def unsaid(monkeypatch):
    """Nothing has been said yet."""
    monkeypatch.setattr(own.notices, "said", set())


def test_each_device_fills_what_out_shardings_give_it(sizes):
    for name, shape in [("he_normal", SHAPE), ("orthogonal", (16, 4, 8)), ("delta_orthogonal", (3, 8, 16))]:
        init = getattr(ours, name)()
        whole = np.asarray(init(KEY, shape))
        for mesh in meshes() if name == "he_normal" else [next(meshes())]:
            for spec in SPECS if name == "he_normal" else [P(None, "columns", "rows")]:
                sizes.clear()
                sharding = NamedSharding(mesh, spec)
                found = jax.jit(init, static_argnums=1, out_shardings=sharding)(KEY, shape)
                assert found.sharding == sharding
                assert np.array_equal(found, whole), (name, spec)
                assert sizes == [sharding.shard_shape(shape)] * mesh.size


def test_one_two_and_four_devices(sizes):
    whole = np.asarray(init(KEY))
    for count in (1, 2, 4):
        for mesh in meshes(count):
            sizes.clear()
            sharding = NamedSharding(mesh, P("columns", "rows"))
            assert np.array_equal(jax.jit(init, out_shardings=sharding)(KEY), whole)
            assert sizes == [sharding.shard_shape(SHAPE)] * count


def test_every_dtype_in_pieces():
    sharding = NamedSharding(next(meshes()), P("rows", "columns"))
    for dtype in fills.DTYPES:
        place = jax.jit(ours.normal(0.5), static_argnums=(1, 2), out_shardings=sharding)
        found = np.asarray(place(KEY, SHAPE, dtype)).reshape(-1).view(np.uint8)
        assert np.array_equal(found, np.asarray(ours.normal(0.5)(KEY, SHAPE, dtype)).reshape(-1).view(np.uint8))


def test_the_compiler_sets_nothing_aside():
    sharding = NamedSharding(next(meshes(4)), P("rows", "columns"))
    temporaries = [
        jax.jit(factory(), static_argnums=(1, 2), out_shardings=sharding)
        .lower(KEY, (4096, 4096), jnp.float32)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for factory in (ours.he_normal, ours.orthogonal, theirs.he_normal)
    ]
    assert max(temporaries[:2]) < 2**12 < temporaries[2], temporaries


def test_shardings_from_elsewhere(sizes):
    """Those that constraints, operands, consumers and several meshes of one program give."""
    whole = np.asarray(init(KEY))
    auto, explicit, other = meshes()
    sizes.clear()
    rows = NamedSharding(auto, P("rows"))
    constrained = jax.jit(lambda key: jax.lax.with_sharding_constraint(init(key), rows))(KEY)
    assert np.array_equal(constrained, whole)
    assert set(sizes) == {(4, 24)}
    with jax.set_mesh(explicit):
        resharded = jax.jit(lambda key: jax.sharding.reshard(init(key), P("rows")))(KEY)
    assert np.array_equal(resharded, whole)
    operand = jax.device_put(np.zeros(8, np.float32), rows)
    assert np.array_equal(jax.jit(lambda key, x: init(key) + x.sum())(KEY, operand), whole)
    line = Mesh(np.array(jax.devices()), ("line",))
    two = jax.jit(
        lambda key: jax.lax.with_sharding_constraint(init(key), rows),
        out_shardings=NamedSharding(line, P(None, "line")),
    )(KEY)
    assert np.array_equal(two, whole)
    assert np.array_equal(jax.jit(init, out_shardings=SingleDeviceSharding(jax.devices()[2]))(KEY), whole)
    shardings = [NamedSharding(other, spec) for spec in SPECS]
    many = jax.jit(lambda key: [init(key)] * len(SPECS), out_shardings=shardings)(KEY)
    assert all(np.array_equal(found, whole) for found in many)
    assert [found.sharding for found in many] == shardings


def test_axes_that_cannot_be_cut_evenly():
    sharding = NamedSharding(next(meshes()), P("rows"))
    for shape in ((15, 8), (9, 8), (17, 8)):
        whole = np.asarray(ours.normal()(KEY, shape))
        assert np.array_equal(
            jax.jit(lambda key, s=shape: jnp.pad(ours.normal()(key, s), ((0, 7), (0, 0)))[:8], out_shardings=sharding)(
                KEY
            ),
            whole[:8],
        )


def test_batches_of_keys_in_pieces(sizes):
    batch = np.stack([np.asarray(init(key)) for key in KEYS])
    for mesh in meshes():
        for spec in (P("rows", None, "columns"), P(None, "columns", "rows"), P(("rows", "columns"))):
            sizes.clear()
            sharding = NamedSharding(mesh, spec)
            assert np.array_equal(jax.jit(jax.vmap(init), out_shardings=sharding)(KEYS), batch)
            assert sizes == [sharding.shard_shape(batch.shape)] * 8
        dealt = jax.device_put(KEYS, NamedSharding(mesh, P("rows")))
        for mapped in (jax.vmap(init), jax.jit(jax.vmap(init))):
            sizes.clear()
            found = mapped(dealt)
            assert np.array_equal(found, batch)
            assert found.sharding.is_equivalent_to(NamedSharding(mesh, P("rows")), 3)
            assert set(sizes) == {(2, *SHAPE)}
    nested = jax.jit(
        jax.vmap(jax.vmap(init)), out_shardings=NamedSharding(next(meshes()), P("columns", None, None, "rows"))
    )(KEYS.reshape(2, 4))
    assert np.array_equal(nested, batch.reshape(2, 4, *SHAPE))
    scalars = jax.jit(
        jax.vmap(lambda key: ours.normal()(key, ())), out_shardings=NamedSharding(next(meshes()), P("rows"))
    )(KEYS)
    assert np.array_equal(scalars, [ours.normal()(key, ()) for key in KEYS])


def test_pieces_within_control_flow():
    sharding = NamedSharding(next(meshes()), P("rows", "columns"))
    whole = np.asarray(init(KEY))
    cond = jax.jit(
        lambda key, yes: jax.lax.cond(yes, init, lambda _: jnp.zeros(SHAPE, jnp.float32), key), out_shardings=sharding
    )
    assert np.array_equal(cond(KEY, True), whole)
    assert not np.any(cond(KEY, False))
    scanned = jax.jit(
        lambda keys: jax.lax.scan(lambda carry, key: (carry, init(key)), 0, keys)[1],
        out_shardings=NamedSharding(sharding.mesh, P(None, "rows", "columns")),
    )(KEYS)
    assert np.array_equal(scanned, np.stack([np.asarray(init(key)) for key in KEYS]))

    def loss(x, key):
        return jax.lax.fori_loop(0, 3, lambda step, c: c + (x * init(jax.random.fold_in(key, step))).sum(), 0.0)

    value, gradient = jax.jit(jax.value_and_grad(jax.checkpoint(lambda x, key: (x * init(key)).sum())))(2.0, KEY)
    assert np.isclose(value, 2 * gradient)
    assert np.isclose(jax.jit(jax.jvp, static_argnums=0)(lambda x: loss(x, KEY), (2.0,), (2.0,))[1], loss(2.0, KEY))


def test_shard_map_that_checks_what_varies():
    with jax.set_mesh(next(meshes())):
        each = jax.jit(jax.shard_map(lambda keys: init(keys[0]), in_specs=P("rows"), out_specs=P("rows")))(KEYS[:4])
        same = jax.jit(jax.shard_map(init, in_specs=P(), out_specs=P()))(KEY)
    assert np.array_equal(each, np.concatenate([np.asarray(init(key)) for key in KEYS[:4]]))
    assert np.array_equal(same, init(KEY))


def test_the_older_partitioner():
    whole = np.asarray(init(KEY))
    before = jax.config.jax_use_shardy_partitioner
    jax.config.update("jax_use_shardy_partitioner", False)
    try:
        for spec in (P("rows", "columns"), P(None, "rows")):
            found = jax.jit(init, out_shardings=NamedSharding(next(meshes()), spec))(KEY)
            assert np.array_equal(found, whole), spec
        dealt = jax.device_put(KEYS, NamedSharding(next(meshes()), P("rows")))
        assert np.array_equal(jax.jit(jax.vmap(init))(dealt), np.stack([np.asarray(init(key)) for key in KEYS]))
    finally:
        jax.config.update("jax_use_shardy_partitioner", before)


def test_programs_are_compiled_once(sizes):
    init = jax.vmap(lambda key: ours.normal(0.25)(key, (3, 5)))
    init(KEYS)
    with jax.log_compiles(False):
        before = fills._compiled._cache_size()
        jax.vmap(lambda key: ours.normal(0.25)(key, (3, 5)))(KEYS)
        assert fills._compiled._cache_size() == before
        assert np.array_equal(jax.vmap(lambda key: ours.normal(0.5)(key, (3, 5)))(KEYS), 2 * init(KEYS))
        assert fills._compiled._cache_size() == before + 1
    signs = [
        np.signbit(jax.vmap(lambda key, z=zero: ours.initializer(fastinit.Constant(z))(key, (3,)))(KEYS)).all()
        for zero in (0.0, -0.0)
    ]
    assert signs == [False, True]


@pytest.mark.filterwarnings("ignore:fastinit")
def test_exported_functions_draw_jaxs_numbers(unsaid):
    raw = jax.random.PRNGKey(7)
    for key, name, shape in [(KEY, "he_normal", SHAPE), (raw, "uniform", (5,)), (KEY, "orthogonal", (4, 4))]:
        made = export.export(jax.jit(lambda k, n=name, s=shape: getattr(ours, n)()(k, s)))(key)
        found = export.deserialize(made.serialize(vjp_order=1)).call(key)
        assert np.array_equal(found, jax.jit(getattr(theirs, name)(), static_argnums=1)(key, shape)), name
    both = export.export(jax.jit(init), platforms=["cpu", "cuda", "tpu"])(KEY)
    assert np.array_equal(both.call(KEY), theirs.he_normal()(KEY, SHAPE, jnp.float32))
    batch = export.export(jax.jit(jax.vmap(init)))(KEYS)
    assert np.array_equal(batch.call(KEYS), jax.vmap(lambda k: theirs.he_normal()(k, SHAPE, jnp.float32))(KEYS))
    traced = export.export(jax.jit(lambda std: ours.normal(std)(KEY, SHAPE)))(2.0).call(2.0)
    assert np.array_equal(traced, theirs.normal(2.0)(KEY, SHAPE))
    mesh = next(meshes())
    sharding = NamedSharding(mesh, P("rows", "columns"))
    pieces = export.export(jax.jit(lambda k: ours.he_normal()(k, SHAPE, jnp.float32, sharding)))(KEY)
    found = jax.jit(pieces.call, in_shardings=NamedSharding(mesh, P()))(KEY)
    assert np.allclose(found, theirs.he_normal()(KEY, SHAPE, jnp.float32))  # which is compiled in another way
    assert np.array_equal(jax.jit(init)(KEY), ours.he_normal()(KEY, SHAPE, jnp.float32))  # only what is exported


def test_exporting_says_so_once(unsaid):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            export.export(jax.jit(lambda key: ours.he_normal()(key, SHAPE)))(KEY)
    (warning,) = (entry for entry in said if "fastinit" in str(entry.message))
    assert "JAX's own numbers" in str(warning.message)
    assert warning.filename == __file__


def test_what_jax_does_not_have_cannot_be_exported():
    for made in (ours.sparse(0.5), ours.initializer(fastinit.he_normal()), ours.he_normal(groups=2)):
        with pytest.raises(ValueError, match=r"cannot be exported.*Pass the initialized array"):
            export.export(jax.jit(lambda key, made=made: made(key, SHAPE)))(KEY)


@pytest.mark.filterwarnings("ignore:fastinit")
def test_a_key_of_fastinit_is_exported_as_one_of_jax():
    made = export.export(jax.jit(lambda: init(Key(3))))()
    words = jax.random.wrap_key_data(jnp.array(Key(3).words, jnp.uint32), impl="rbg")
    assert np.array_equal(made.call(), jax.jit(lambda: theirs.he_normal()(words, SHAPE, jnp.float32))())


@pytest.mark.filterwarnings("ignore:fastinit")
def test_equal_draws_that_are_other_ones_of_jax_are_exported_as_these():
    """Ours are equal: a standard deviation has no sign, and the kinds of keys have the same words."""
    rbg = jax.random.key(1, impl="rbg")
    other = jax.random.wrap_key_data(jax.random.key_data(rbg), impl="unsafe_rbg")

    def draws(place, first, second):
        keys = [jax.random.fold_in(key, 3) for key in (first, second)]
        return [place.normal(std)(key, SHAPE) for key in (first, second, *keys) for std in (0.5, -0.5)]

    found = export.export(jax.jit(lambda *keys: draws(ours, *keys)))(rbg, other).call(rbg, other)
    wanted = jax.jit(lambda *keys: draws(theirs, *keys))(rbg, other)
    assert all(np.array_equal(*pair) for pair in zip(found, wanted, strict=True))


@pytest.mark.filterwarnings("ignore:fastinit")
def test_exported_functions_of_shapes_with_unknown_sizes():
    unknown = jax.ShapeDtypeStruct(export.symbolic_shape("b, 6"), np.float32)
    for name, shape in [("normal", (4, 6)), ("he_normal", (4, 6)), ("uniform", (4, 6))]:
        made = export.export(jax.jit(lambda x, n=name: getattr(ours, n)()(KEY, x.shape) + x))(unknown)
        found = made.call(np.zeros(shape, np.float32))
        assert np.allclose(found, getattr(theirs, name)()(KEY, shape)), name
    with pytest.raises(TypeError, match="shape must be a sequence of integers"):
        export.export(jax.jit(lambda x: ours.sparse(0.5)(KEY, x.shape) + x))(unknown)


def test_with_jit_disabled():
    batch = np.stack([np.asarray(init(key)) for key in KEYS])
    with jax.disable_jit():
        assert np.array_equal(jax.jit(init)(KEY), init(KEY))
        assert np.array_equal(jax.vmap(init)(KEYS), batch)
        assert np.array_equal(jax.lax.scan(lambda carry, key: (carry, init(key)), 0, KEYS)[1], batch)
