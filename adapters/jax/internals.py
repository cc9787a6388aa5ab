"""JAX's internals, used here alone; read in JAX 0.10.

``tests/adapters/jax/test_internals.py`` names the one that a new release has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

__all__ = ["TARGETS", "is_traced", "primitive", "without_mesh"]

# The custom calls that JAX makes of callbacks, by platform: of a function of the host, by its number in the executable.
TARGETS = {
    "cpu": "xla_ffi_python_cpu_callback",
    "cuda": "xla_ffi_python_gpu_callback",
    "rocm": "xla_ffi_python_gpu_callback",
}


def is_traced(value: Any) -> bool:
    """Whether a value stands for one that a compiled function will have when it runs.

    ``jax.core.Tracer``, of a module that is not documented as public as a whole. Without it a fill within ``jit``,
    ``vmap`` or ``eval_shape`` could not be told from an eager one, and would ask for numbers that are not there.
    """
    return isinstance(value, jax.core.Tracer)


def _result(shape: tuple[int, ...], dtype: Any, leader: Any) -> Any:
    """The type of a result whose first axes are those of an operand, all but the last: split over a mesh as they are.

    Within ``shard_map`` it differs between the devices that the operand differs between.
    """
    lead = leader.sharding.spec[: leader.ndim - 1]
    spec = PartitionSpec(*lead, *[None] * (len(shape) - len(lead)))  # type: ignore[no-untyped-call]
    mesh = jax.sharding.get_abstract_mesh() if leader.sharding.mesh.empty else leader.sharding.mesh
    return leader.update(shape=shape, dtype=dtype, weak_type=False, sharding=NamedSharding(mesh, spec))


_NO_MESH = AbstractMesh((), ())

# The call of a function of the host, which stands at `index` in the list that a program has of them.
_call: Any = Primitive("fastinit_call")
_call.def_abstract_eval(lambda leader, *_, index, shape, dtype: _result(shape, dtype, leader))


def _lower_call(context: Any, *operands: Any, index: int, shape: tuple[int, ...], dtype: Any) -> Any:
    """The custom call that JAX makes of a callback, whose list JAX passes to the compiler."""
    target = TARGETS[context.module_context.platforms[0]]
    return jax.ffi.ffi_lowering(target)(context, *operands, index=np.uint64(index))


mlir.register_lowering(_call, _lower_call)


# The identity, whose result is spread over no mesh.
_bare: Any = Primitive("fastinit_bare")
_bare.def_abstract_eval(
    lambda value: value.update(sharding=NamedSharding(_NO_MESH, PartitionSpec(*[None] * value.ndim)))  # type: ignore[no-untyped-call]
)
mlir.register_lowering(_bare, lambda context, value: [value])


def without_mesh(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of traced values, traced as if no mesh were entered: the program of one device.

    ``custom_partitioning`` traces that program with the mesh of ``jax.set_mesh``. Without this, JAX before 0.10 asks in
    it for shardings over that mesh, which the compiler refuses.
    """

    def bare(*values: Any) -> Any:
        with jax.sharding.use_abstract_mesh(_NO_MESH):
            return function(*map(_bare.bind, values))

    return bare


def primitive(
    name: str,
    *,
    shape: Callable[..., tuple[int, ...]],
    eager: Callable[..., Any],
    batched: Callable[..., Any],
    host: Callable[[Any], Callable[..., Any]],
    program: Callable[..., Callable[..., Any]],
    elsewhere: Callable[[Any], Callable[..., Any]],
    exported: Callable[[Any], Callable[..., Any]],
) -> Callable[..., Any]:
    """A primitive of JAX whose one parameter is `work`, a value with a dtype: ``bind(*operands, work=work)``.

    ``jax.pure_callback`` is made of the same parts. A primitive is needed where it does not suffice: it cannot be split
    over the devices of a mesh, nor be exported.

    shape(*operands, work) : shape of the result, from the shapes of the operands
    eager(*operands, work) : the result for operands that are known
    batched(operands, axes, work) : the result for operands with an axis more, and that axis
    host(work) : the function on the host, from NumPy's arrays to a tuple of one
    program(work, call, devices) : the traced function, in which ``call(*operands, shape=..., dtype=...)`` calls the
        host. For ``custom_partitioning`` the program has these devices, in this order; none if it is for one already.
    elsewhere(work) : the traced function on platforms that are not among `TARGETS`
    exported(work) : the traced function in a program that must run without this process
    """
    own: Any = Primitive(name)
    own.def_impl(eager)

    def result(*operands: Any, work: Any) -> Any:
        return _result(shape(*(operand.shape for operand in operands), work=work), work.dtype, operands[0])

    own.def_abstract_eval(result)
    batching.primitive_batchers[own] = lambda operands, axes, work: batched(operands, axes, work=work)
    # drawn from integers: no derivative
    ad.primitive_jvps[own] = lambda primals, tangents, work: (
        (value := own.bind(*primals, work=work)),
        ad.Zero(jax.typeof(value).to_tangent_aval()),
    )

    def lower(context: Any, *operands: Any, work: Any) -> Any:
        module, devices = context.module_context, ()
        if isinstance(module.axis_context, mlir.ShardingContext):
            # JAX names its devices only to primitives whose programs have one mesh at most. For the partitioning any
            # others will do: their places in the list count.
            count = module.axis_context.num_devices
            devices = tuple(jax.devices(module.platforms[0])[:count])
            module = module.replace(axis_context=mlir.ShardingContext(count, devices))
            context = context.replace(module_context=module)
        if module.lowering_parameters.for_export:
            function = exported(work)
        elif module.platforms[0] not in TARGETS:
            function = elsewhere(work)
        else:
            module.add_host_callback(host(work))
            index = len(module.host_callbacks) - 1
            function = program(work, lambda *given, **result: _call.bind(*given, index=index, **result), devices)
        return mlir.lower_fun(function, multiple_results=False)(context, *operands)

    mlir.register_lowering(own, lower)
    bind: Callable[..., Any] = own.bind
    return bind
