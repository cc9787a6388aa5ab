"""fastinit: weight initialization for neural networks as a pure function, ``value[i] = sample(key, i)``.

``i`` is the row-major index of an element in the global tensor, so the values depend on nothing else: not on the number
of threads, the instruction set, the layout, or which shard of the tensor is asked for. ``docs/stream-v1.md`` defines
every bit.

>>> import numpy as np, fastinit
>>> weight = np.empty((1024, 4096), np.float32)
>>> weight = fastinit.fill(weight, fastinit.he_normal(), fastinit.Key(0).fold_in("mlp.up"))

``fastinit.adapters.numpy`` has every initializer as a function that returns an array.
"""

from fastinit import targets
from fastinit.advice import Recommendation, recommend
from fastinit.audits import Audit, Finding
from fastinit.composites import Blocks, Composite, ZeroRow
from fastinit.fans import Axes, Fans, fans
from fastinit.filling import fill, sample, words
from fastinit.gains import backward_gain, gain
from fastinit.initializers import (
    Constant,
    Initializer,
    Normal,
    Ones,
    Part,
    StructuredInitializer,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    Zeros,
)
from fastinit.keys import Key, canonical_name
from fastinit.presets import (
    PRESETS,
    Preset,
    fan_in_normal,
    glorot_normal,
    glorot_truncated_normal,
    glorot_uniform,
    he_normal,
    he_truncated_normal,
    he_uniform,
    kaiming_normal,
    kaiming_truncated_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_truncated_normal,
    lecun_uniform,
    naive_normal,
    naive_uniform,
    torch_default_uniform,
    xavier_normal,
    xavier_truncated_normal,
    xavier_uniform,
)
from fastinit.propagation import Propagation, propagate
from fastinit.recipes import AUTO, RECIPES, TORCH, assigned, recipe_named
from fastinit.records import (
    STREAM_VERSION,
    Entry,
    Record,
    digest,
    expected_std,
    initializer_config,
    initializer_from_config,
)
from fastinit.rules import Parameter, Recipe, Rule, UnmatchedParameter
from fastinit.sampling import Sampling
from fastinit.structured import ICNR, DeltaOrthogonal, Dirac, Identity, Orthogonal, Sparse, ZerO
from fastinit.threads import default_num_threads

__version__ = "0.1.0"

__all__ = [
    "AUTO",
    "ICNR",
    "PRESETS",
    "RECIPES",
    "STREAM_VERSION",
    "TORCH",
    "Audit",
    "Axes",
    "Blocks",
    "Composite",
    "Constant",
    "DeltaOrthogonal",
    "Dirac",
    "Entry",
    "Fans",
    "Finding",
    "Identity",
    "Initializer",
    "Key",
    "Normal",
    "Ones",
    "Orthogonal",
    "Parameter",
    "Part",
    "Preset",
    "Propagation",
    "Recipe",
    "Recommendation",
    "Record",
    "Rule",
    "Sampling",
    "Sparse",
    "StructuredInitializer",
    "TruncatedNormal",
    "Uniform",
    "UnmatchedParameter",
    "VarianceScaling",
    "ZerO",
    "ZeroRow",
    "Zeros",
    "assigned",
    "backward_gain",
    "canonical_name",
    "default_num_threads",
    "digest",
    "expected_std",
    "fan_in_normal",
    "fans",
    "fill",
    "gain",
    "glorot_normal",
    "glorot_truncated_normal",
    "glorot_uniform",
    "he_normal",
    "he_truncated_normal",
    "he_uniform",
    "initializer_config",
    "initializer_from_config",
    "kaiming_normal",
    "kaiming_truncated_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_truncated_normal",
    "lecun_uniform",
    "naive_normal",
    "naive_uniform",
    "propagate",
    "recipe_named",
    "recommend",
    "sample",
    "targets",
    "torch_default_uniform",
    "words",
    "xavier_normal",
    "xavier_truncated_normal",
    "xavier_uniform",
]
