"""fastinit: weight initialization for neural networks as a pure function, ``value[i] = sample(key, i)``.

``i`` is the row-major index of an element in the global tensor. A value depends on the key, the initializer and ``i``
only: not on the number of threads, the instruction set, the memory layout or the sharding. ``docs/stream-v1.md``
defines every bit.

>>> import numpy as np, fastinit
>>> weight = np.empty((1024, 4096), np.float32)  # (in, out), as in Keras and JAX; layout="OI" is torch's (out, in)
>>> weight = fastinit.fill(weight, fastinit.he_normal(layout="IO"), fastinit.Key(0).fold_in("mlp.up"))

``fastinit.adapters.numpy`` offers every initializer as a function that returns an array.

Map of the package. Each line depends only on the lines below it.

adapters      NumPy, torch, Keras, JAX, Numba: translate a framework's arguments
checkpoints   files on disk: plans, safetensors files, writing and verifying
reports       HTML pages and pictures of findings
audits        checks: values, scales, the signal through a stack of layers
models        whole models: rules, recipes, records
advice        choosing an initializer: gains, recommendations
programs      the author's own initialization of a parameter, in canonical form
rows          new rows of a tensor that already holds others
presets, composites, structured, initializers    the initializers
filling, comparing, shards, buffers, threads     assigns elements to memory and to threads
sampling, truncation, layouts, dtypes, keys      stream v1; ``reference`` is the same in plain NumPy
checks, files, installation                      argument checks, atomic file writes, installation errors
_core, kernels                                   the compiled core
"""

__distribution__ = "fastinit-weights"
__version__ = "0.1.0"

try:
    from fastinit import _core as _core
except ImportError as error:
    from fastinit.installation import explained

    raise explained(error) from None

from fastinit import installation as _installation
from fastinit import targets
from fastinit.advice.gains import backward_gain, gain
from fastinit.advice.recommending import Recommendation, recommend
from fastinit.audits.judging import Audit, Finding
from fastinit.audits.propagation import Propagation, propagate
from fastinit.comparing import Comparison, compare
from fastinit.composites import Blocks, Composite, ZeroRow
from fastinit.filling import fill, sample, words
from fastinit.initializers import (
    Constant,
    ElementwiseInitializer,
    Initializer,
    Normal,
    Ones,
    Part,
    StructuredInitializer,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    Zeros,
    expected_std,
)
from fastinit.keys import Key, canonical_name
from fastinit.layouts import Axes, Fans, fans
from fastinit.models.configs import initializer_config, initializer_from_config
from fastinit.models.digests import digest
from fastinit.models.recipes import AUTO, FANS, OWN, RECIPES, TORCH, assigned, recipe_named
from fastinit.models.records import Entry, Record
from fastinit.models.rules import Parameter, Recipe, Rule, UnmatchedParameter
from fastinit.models.selecting import Selection, selected
from fastinit.models.verifying import Verification, Verified
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
    orthogonal,
    torch_default_uniform,
    xavier_normal,
    xavier_truncated_normal,
    xavier_uniform,
)
from fastinit.programs import Box, Keep, Painted, Program, Replayed
from fastinit.rows import NewRows, fill_rows
from fastinit.sampling import STREAM_VERSION, Sampling
from fastinit.structured import ICNR, DeltaOrthogonal, Dirac, Identity, Orthogonal, Sparse, ZerO
from fastinit.threads import default_num_threads

__all__ = [
    "AUTO",
    "FANS",
    "ICNR",
    "OWN",
    "PRESETS",
    "RECIPES",
    "STREAM_VERSION",
    "TORCH",
    "Audit",
    "Axes",
    "Blocks",
    "Box",
    "Comparison",
    "Composite",
    "Constant",
    "DeltaOrthogonal",
    "Dirac",
    "ElementwiseInitializer",
    "Entry",
    "Fans",
    "Finding",
    "Identity",
    "Initializer",
    "Keep",
    "Key",
    "NewRows",
    "Normal",
    "Ones",
    "Orthogonal",
    "Painted",
    "Parameter",
    "Part",
    "Preset",
    "Program",
    "Propagation",
    "Recipe",
    "Recommendation",
    "Record",
    "Replayed",
    "Rule",
    "Sampling",
    "Selection",
    "Sparse",
    "StructuredInitializer",
    "TruncatedNormal",
    "Uniform",
    "UnmatchedParameter",
    "VarianceScaling",
    "Verification",
    "Verified",
    "ZerO",
    "ZeroRow",
    "Zeros",
    "assigned",
    "backward_gain",
    "canonical_name",
    "compare",
    "default_num_threads",
    "digest",
    "expected_std",
    "fan_in_normal",
    "fans",
    "fill",
    "fill_rows",
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
    "orthogonal",
    "propagate",
    "recipe_named",
    "recommend",
    "sample",
    "selected",
    "targets",
    "torch_default_uniform",
    "words",
    "xavier_normal",
    "xavier_truncated_normal",
    "xavier_uniform",
]

_installation.warn_of_unrelated()
