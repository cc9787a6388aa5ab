"""Checks that JAX still has each internal that the adapter uses; run by test_jax.py."""

import dataclasses

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

CHANGED = "JAX has changed what fastinit uses of its internals: "


def test_what_is_traced():
    assert hasattr(jax.core, "Tracer"), f"{CHANGED}jax.core.Tracer is gone"
    from fastinit.adapters.jax import internals

    found = []

    def see(value):
        found.append(internals.is_traced(value))
        return value

    jax.jit(see)(jnp.ones(2))
    jax.vmap(see)(jnp.ones(2))
    jax.grad(see)(1.0)
    jax.eval_shape(see, jnp.ones(3))  # of another shape: the function of two is known already
    assert found == [True] * 4, f"{CHANGED}jax.core.Tracer is not the class of all traced values: {found}"
    for value in (jnp.ones(2), np.ones(2), 1.0):
        assert not internals.is_traced(value), value


def test_what_fills_are_lowered_with():
    from fastinit.adapters.jax import internals

    seen = []

    def exported(work):
        seen.append("exported")
        return lambda words: jnp.zeros(work.shape, work.dtype)

    def program(work, call, devices):
        seen.append(len(devices))
        return lambda words: call(words, shape=work.shape, dtype=work.dtype)

    @dataclasses.dataclass(frozen=True)
    class Work:
        shape: tuple = (3,)
        dtype: np.dtype = np.dtype("float32")  # noqa: RUF009

    bind = internals.primitive(
        "fastinit_test",
        shape=lambda words, work: work.shape,
        eager=lambda words, work: jax.jit(lambda words: bind(words, work=work))(words),
        batched=None,
        host=lambda work: lambda words: (np.full(work.shape, words[0], work.dtype),),
        program=program,
        elsewhere=None,
        exported=exported,
    )
    words = jnp.array([5, 6], jnp.uint32)
    found = bind(words, work=Work())
    assert seen == [1], f"{CHANGED}a primitive is lowered in another way: {seen}"
    assert found.tolist() == [5.0] * 3, f"{CHANGED}a call of the host by its index gives {found}"
    made = jax.export.export(jax.jit(lambda words: bind(words, work=Work())))(words)
    assert seen == [1, "exported"], f"{CHANGED}lowering_parameters.for_export does not tell exporting: {seen}"
    assert made.call(words).tolist() == [0.0] * 3
    assert jax.jvp(lambda x: x * bind(words, work=Work()).sum(), (2.0,), (1.0,))[1] == 15.0
