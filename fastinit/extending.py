"""API for adapter authors: everything that an adapter may use beyond the public names of ``fastinit``.

These names are stable between minor versions. An adapter imports from ``fastinit`` and from this module only; a test
enforces it for the adapters of this repository.

memory      `Buffer`, `buffer_of`, `new_memory`, `row_major_strides`: memory layouts
formats     `DTYPES`, `NATIVE`, `DType`, `dtype_named`: floating-point formats
samplers    `KINDS`, `coefficients`, `window`: constants of the samplers, for adapters that compile them again
shards      `Shard`, `lattices`, `tiles`, `dealt`, `joined`: the elements of the global tensor that a buffer holds
filling     `plan`, `fill_memory`, `fill_buffer`, `check_fill`, `compare_buffer`, `for_each`: writing and comparing;
            `shortcut`: small fills with a framework's generator in one call
new rows    `fill_rows_of`, `check_rows`, `compare_rows`: new rows of a tensor that already holds others
exactness   `in_stream_environment`, `remembered`, `recalled`: independence of the caller's environment
checks      `at_least`, `checked_shape`, `checked_key`, `checked_initializer`, `shown`: argument checks;
            `changed`: copy of a value with some fields replaced, unchecked
warnings    `Notices`: warnings given once, at the caller's line; `progress_bar`: the progress of long work
facts       `PRELU_SLOPE`, `GATES`: facts about layers of all frameworks
models      `recipe_for`, `meant`, `planned`, `program_keys`, `Keyed`, `with_origins`, `check_entry`, `read_record`,
            `recorded_entries`, `compare_digests`: entries of records
verifying   `judged_memory`, `judged_kept`, `verify_each`: comparing tensors with a record
names       `Rename`, `renaming`, `check_prefixes`, `renamed_program`: parameter names in parts of a model
explaining  `explained`, `Explanation`: predicted effect of the recipes
programs    `runs_graphs`, `apart`, `disjoint`, `times`, `over`, `plus`, `clamped`, `inverse_erf`, `InverseErf`,
            `is_random`, `finished`, `of_elements`, `painted`, `renumbered`, `box_of`: folding an author's steps
audits      `Held`, `judge_parameters`, `is_linear_map`: values of parameters
running     `AUDIT_KEY`, `noise`, `shares`, `called`, `check_finite`: one run of a model
layers      `Measured`, `measured`, `is_normed`, `is_closed`, `differentiated`, `numbered`, `judge_chain`:
            measurements of layers
scaling     `UnitVariance`, `Unscalable`: scaling weights until a layer's output has unit variance
"""

from fastinit import coefficients
from fastinit import installation as _installation  # noqa: F401 (first: detects an unrelated package in the same place)
from fastinit.advice.activations import PRELU_SLOPE
from fastinit.audits.judging import judge_chain, judge_parameters
from fastinit.audits.measuring import (
    AUDIT_KEY,
    Measured,
    UnitVariance,
    Unscalable,
    called,
    check_finite,
    differentiated,
    is_closed,
    is_normed,
    measured,
    noise,
    numbered,
    shares,
)
from fastinit.audits.scales import is_linear_map
from fastinit.audits.values import Held
from fastinit.buffers import NATIVE, Buffer, buffer_of, new_memory, row_major_strides
from fastinit.checks import at_least, changed, checked_shape, shown
from fastinit.comparing import compare_buffer
from fastinit.dtypes import DTYPES, DType, dtype_named
from fastinit.exact import in_stream_environment, recalled, remembered
from fastinit.filling import check_fill, fill_buffer, fill_memory, shortcut
from fastinit.folding import (
    InverseErf,
    box_of,
    clamped,
    finished,
    inverse_erf,
    is_random,
    of_elements,
    over,
    painted,
    plus,
    renumbered,
    times,
)
from fastinit.initializers import checked_initializer, plan
from fastinit.keys import WRAPPER_COMPONENTS, checked_key
from fastinit.models.explaining import Explanation, explained
from fastinit.models.keying import Keyed, program_keys, renamed_program, with_origins
from fastinit.models.planning import check_entry, compare_digests, planned, read_record, recorded_entries
from fastinit.models.recipes import recipe_for
from fastinit.models.renaming import Rename, check_prefixes, renaming
from fastinit.models.rules import GATES
from fastinit.models.selecting import meant
from fastinit.models.verifying import judged_kept, judged_memory, verify_each
from fastinit.notices import Notices
from fastinit.programs import apart, disjoint, runs_graphs
from fastinit.progress import progress_bar
from fastinit.rows import check_rows, compare_rows, fill_rows_of
from fastinit.sampling import KINDS
from fastinit.shards import Ranges, Shard, check_distinct, dealt, joined, lattices, tiles
from fastinit.threads import for_each
from fastinit.truncation import window

__all__ = [
    "AUDIT_KEY",
    "DTYPES",
    "GATES",
    "KINDS",
    "NATIVE",
    "PRELU_SLOPE",
    "WRAPPER_COMPONENTS",
    "Buffer",
    "DType",
    "Explanation",
    "Held",
    "InverseErf",
    "Keyed",
    "Measured",
    "Notices",
    "Ranges",
    "Rename",
    "Shard",
    "UnitVariance",
    "Unscalable",
    "apart",
    "at_least",
    "box_of",
    "buffer_of",
    "called",
    "changed",
    "check_distinct",
    "check_entry",
    "check_fill",
    "check_finite",
    "check_prefixes",
    "check_rows",
    "checked_initializer",
    "checked_key",
    "checked_shape",
    "clamped",
    "coefficients",
    "compare_buffer",
    "compare_digests",
    "compare_rows",
    "dealt",
    "differentiated",
    "disjoint",
    "dtype_named",
    "explained",
    "fill_buffer",
    "fill_memory",
    "fill_rows_of",
    "finished",
    "for_each",
    "in_stream_environment",
    "inverse_erf",
    "is_closed",
    "is_linear_map",
    "is_normed",
    "is_random",
    "joined",
    "judge_chain",
    "judge_parameters",
    "judged_kept",
    "judged_memory",
    "lattices",
    "meant",
    "measured",
    "new_memory",
    "noise",
    "numbered",
    "of_elements",
    "over",
    "painted",
    "plan",
    "planned",
    "plus",
    "program_keys",
    "progress_bar",
    "read_record",
    "recalled",
    "recipe_for",
    "recorded_entries",
    "remembered",
    "renamed_program",
    "renaming",
    "renumbered",
    "row_major_strides",
    "runs_graphs",
    "shares",
    "shortcut",
    "shown",
    "tiles",
    "times",
    "verify_each",
    "window",
    "with_origins",
]
