"""Plans that the tests of checkpoints share."""

import numpy as np

import fastinit
from fastinit.checkpoints import Filled, Plan, Tensor, Values


def entry(name, shape, initializer, dtype="float32", seed=0):
    return fastinit.Entry(name, shape, "given", initializer, fastinit.Key(seed).fold_in(name), dtype=dtype)


def small_plan(seed=0):
    """Every kind of source: elementwise, structured, painted, sliced and transposed, narrow dtypes, given values."""
    painted = fastinit.Painted(fastinit.Normal(std=0.02), (fastinit.Box((3, 0), (1, 24), fastinit.Zeros()),))
    experts = entry("experts", (4, 10, 6), fastinit.Normal(std=0.02), "bfloat16", seed)
    return Plan(
        (
            Tensor("up.weight", Filled(entry("up.weight", (37, 53), fastinit.he_normal(layout="OI"), "float32", seed))),
            Tensor("mix", Filled(entry("mix", (16, 16), fastinit.Orthogonal(), "float16", seed))),
            Tensor("embed", Filled(entry("embed", (40, 24), painted, "bfloat16", seed))),
            *(
                Tensor(f"experts.{number}", Filled(experts, (number, 2, 0), (1, 5, 6), (0, 2, 1), (0,)))
                for number in range(4)
            ),
            Tensor("table", Values("int64", (7, 11), np.arange(77).tobytes())),
            Tensor("flag", Values("bool", (), b"\1")),
            Tensor("none", Filled(entry("none", (0, 5), fastinit.Normal(), "float32", seed))),
            Tensor("eight", Filled(entry("eight", (9, 5), fastinit.Normal(std=0.5), "float8_e4m3fn", seed))),
        ),
        seed,
        "own",
        files={"config.json": "{}\n"},
    )
