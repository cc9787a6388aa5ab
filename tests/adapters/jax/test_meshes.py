"""fastinit.adapters.jax in compiled functions for several devices, on meshes, and for batches of keys."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import fastinit
from fastinit import Key
from fastinit.adapters import jax as ours
from fastinit.adapters.jax import fills

SHAPE = (16, 24)
KEY = jax.random.key(7)
KEYS = jax.random.split(KEY, 8)


def meshes():
    for kind in (AxisType.Explicit, AxisType.Auto):
        yield jax.make_mesh((4, 2), ("rows", "columns"), axis_types=(kind, kind))


def init(key):
    return ours.he_normal()(key, SHAPE, jnp.float32)


def wanted(key):
    """The values by the core itself."""
    words = jax.random.key_data(key).tolist()
    return fastinit.fill(np.empty(SHAPE, np.float32), fastinit.he_truncated_normal(), Key.from_words(*words))


def equal_and_usable(found, expected):
    assert np.array_equal(found, expected)
    # an array that only claims to be somewhere is refused by the next compiled function
    assert np.array_equal(jax.jit(lambda array: array * 2)(found), 2 * expected)
    assert np.array_equal(found + 1, expected + 1)


def test_all_implementations_of_keys():
    for name, count in [("threefry2x32", 2), ("rbg", 4), ("unsafe_rbg", 4)]:
        key = jax.random.key(3, impl=name)
        assert jax.random.key_data(key).shape == (count,)
        for found in (init(key), jax.jit(init)(key), jax.vmap(init)(key[None])[0]):
            assert np.array_equal(found, wanted(key)), name


def test_compiled_within_a_mesh():
    whole, batch = wanted(KEY), np.stack([wanted(key) for key in KEYS])
    for mesh in meshes():
        with jax.set_mesh(mesh):
            equal_and_usable(init(KEY), whole)
            equal_and_usable(jax.jit(init)(KEY), whole)
            equal_and_usable(jax.jit(lambda: init(KEY))(), whole)
            equal_and_usable(jax.jit(init)(jax.random.key_data(KEY)), whole)
            equal_and_usable(jax.vmap(init)(KEYS), batch)
            equal_and_usable(jax.jit(jax.vmap(init))(KEYS), batch)
            placed = jax.jit(init, out_shardings=P("rows", "columns"))(KEY)
            assert placed.sharding.is_equivalent_to(NamedSharding(mesh, P("rows", "columns")), 2)
            equal_and_usable(placed, whole)


def test_keys_that_are_on_several_devices():
    whole, batch = wanted(KEY), np.stack([wanted(key) for key in KEYS])
    for mesh in meshes():
        everywhere, dealt = NamedSharding(mesh, P()), NamedSharding(mesh, P("rows"))
        equal_and_usable(init(jax.device_put(KEY, everywhere)), whole)
        equal_and_usable(jax.jit(init)(jax.device_put(KEY, everywhere)), whole)
        for sharding in (everywhere, dealt):
            keys = jax.device_put(KEYS, sharding)
            equal_and_usable(jax.vmap(init)(keys), batch)
            equal_and_usable(jax.jit(jax.vmap(init))(keys), batch)
        other = jax.device_put(np.arange(8.0), dealt)
        equal_and_usable(jax.jit(lambda array: (array + 1, init(KEY)))(other)[1], whole)


def test_functions_mapped_over_some_axes_of_a_mesh():
    whole = wanted(KEY)
    for mesh in meshes():
        for spec in (None, P(None, "columns"), P("columns"), P()):
            mapped = jax.shard_map(
                lambda key, spec=spec: ours.he_normal()(key, SHAPE, jnp.float32, out_sharding=spec),
                mesh=mesh,
                in_specs=P(),
                out_specs=P(),
                axis_names={"rows"},
                check_vma=False,
            )
            equal_and_usable(jax.jit(mapped)(KEY), whole)
        each = jax.shard_map(
            jax.vmap(init), mesh=mesh, in_specs=P("rows"), out_specs=P("rows"), axis_names={"rows"}, check_vma=False
        )
        equal_and_usable(jax.jit(each)(KEYS), np.stack([wanted(key) for key in KEYS]))


def test_a_batch_of_keys_is_one_call():
    shapes = []
    original = fills.new_memory
    fills.new_memory = lambda shape, dtype: shapes.append(shape) or original(shape, dtype)
    try:
        found = jax.block_until_ready(jax.jit(jax.vmap(jax.vmap(init)))(KEYS.reshape(4, 2)))
    finally:
        fills.new_memory = original
    assert shapes == [(4, 2, *SHAPE)]
    assert np.array_equal(found, np.stack([wanted(key) for key in KEYS]).reshape(4, 2, *SHAPE))
    for shape in ((), (0, 3), (5,)):
        for dtype in (jnp.float32, jnp.bfloat16):
            each = np.stack([np.asarray(ours.normal()(key, shape, dtype)) for key in KEYS])
            assert np.array_equal(jax.vmap(lambda key, s=shape, d=dtype: ours.normal()(key, s, d))(KEYS), each)
    across = jax.vmap(init, in_axes=1, out_axes=2)(jax.random.key_data(KEYS).T)
    assert np.array_equal(across, np.stack([wanted(key) for key in KEYS], axis=2))


def test_a_batch_of_sharded_arrays():
    batch = np.stack([wanted(key) for key in KEYS]).reshape(4, 2, *SHAPE)
    for mesh in meshes():
        for spec in (P("rows", "columns"), P(None, "rows")):
            sharding = NamedSharding(mesh, spec)
            pieces = jax.vmap(jax.vmap(lambda key, s=sharding: ours.he_normal()(key, SHAPE, "float32", out_sharding=s)))
            assert np.array_equal(pieces(KEYS.reshape(4, 2)), batch)
            assert np.array_equal(jax.jit(pieces)(KEYS.reshape(4, 2)), batch)


def test_scalars_on_every_device():
    for mesh in meshes():
        sharding = NamedSharding(mesh, P())
        found = ours.normal(1.0)(KEY, (), jnp.float32, out_sharding=sharding)
        assert found.sharding == sharding
        assert float(found) == fastinit.sample(Key.from_words(0, 7), 0, fastinit.Normal())


def test_memory_that_is_given_away():
    """Donated arrays, and memory that the collector might take for free."""
    for mesh in meshes():
        for place in (None, NamedSharding(mesh, P()), NamedSharding(mesh, P("rows"))):
            array = ours.he_normal()(KEY, (512, 512), jnp.float32, out_sharding=place)
            before = np.array(array)
            after = jax.jit(lambda x: x * 2, donate_argnums=0)(array)
            for shard in after.addressable_shards:
                assert np.array_equal(shard.data, 2 * before[shard.index])
    arrays = [ours.he_normal()(key, (512, 512), jnp.float32) for key in KEYS]
    before = [np.array(array) for array in arrays]
    gc.collect()
    assert len([np.full((512, 512), 9.0, np.float32) for _ in range(32)]) == 32
    assert all(map(np.array_equal, arrays, before))
