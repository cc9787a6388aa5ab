"""Checks that JAX still has each internal that the adapter uses; run by test_jax.py."""

import jax
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
