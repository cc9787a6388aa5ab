"""Small configurations for tests: the same model with few layers, rows and experts, and narrow ones.

A configuration does not say how its numbers depend on each other. So they are changed together, by what kind of number
each is, in ways that keep sums, products and equalities between them, and a change is kept only where the model then
builds and runs on the meta device.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import json
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import torch
from torch import nn

from fastinit.adapters.torch.inputs import example_inputs
from fastinit.adapters.torch.internals import compute_plainly

__all__ = ["tiny_config"]

Path = tuple[str, ...]
Table = dict[str, Any]
Changes = dict[Path, Any]

LAYERS: Final = 2
ROWS: Final = 512
EXPERTS: Final = 4
WIDTH: Final = 32
FEW: Final = 8
HEAD: Final = 16
PATCHES: Final = 2
ALIGNED: Final = 8
"""Grouped products of matrices, which compute experts, want rows of a multiple of 16 bytes."""
LARGEST: Final = 50_000_000
"""Parameters, without those of vocabularies, of a model that is not tiny any more."""


def tiny_config(config: Any, build: Callable[[Any], nn.Module]) -> tuple[Any, list[str]]:
    """A small configuration of the same model, and what was changed.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        The configuration. It stays as it is.
    build : callable
        Gives the model of a configuration.

    Returns
    -------
    config, notes
        The new configuration, which is equal for equal arguments, and a line for each change.

    Raises
    ------
    ValueError
        If the model does not build with the given configuration, or stays large whatever is changed.

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config, notes = tiny_config(LlamaConfig(), LlamaForCausalLM._from_config)
    >>> config.num_hidden_layers, config.hidden_size, config.vocab_size
    (2, 32, 512)
    >>> notes[0]
    'vocab_size: 32000 -> 512'
    """
    trial = _Trial(config, build)
    for step in (_fewer_layers, _fewer_rows, _fewer_experts, _narrower, _smaller_images):
        trial.take(step)
    if trial.size > LARGEST:
        raise ValueError(
            f"no rule makes {type(config).__name__} small: of what was tried, the smallest that builds has "
            f"{trial.size:,} parameters beside its vocabulary"
        )
    return trial.config(), trial.notes()


class _Trial:
    """A configuration that is changed as long as its model builds, and runs if it did so before."""

    def __init__(self, config: Any, build: Callable[[Any], nn.Module]) -> None:
        self._type, self._build = type(config), build
        self._first: Table = config.to_dict()
        self.table = copy.deepcopy(self._first)
        self._variants: dict[str, int] = {}
        self._in_memory: bool | None = None
        try:
            model = self._model(self.table)
        except Exception as problem:
            raise ValueError(f"{type(config).__name__} does not build: {_line(problem)}") from problem
        self.size = _size(model, self.table)
        for method in _METHODS:
            for number, _ in enumerate(_inputs(model, method)):
                if self._runs(model, {method: number}):
                    self._variants[method] = number
                    break

    def config(self) -> Any:
        """The configuration as it is now."""
        with _quiet():
            return self._config(self.table)

    def _config(self, table: Table) -> Any:
        """A configuration as its file is read: what is written beside the checkpoint is what was tried."""
        made = self._type.from_dict(copy.deepcopy(table))
        return self._type.from_dict(json.loads(json.dumps(made.to_diff_dict())))

    def _model(self, table: Table, device: str = "meta") -> nn.Module:
        with _quiet(), torch.device(device):
            config = self._config(table)
            if device == "meta":  # where faster ways to compute the same do not run
                compute_plainly(config)
            return self._build(config).eval()

    def _runs(self, model: nn.Module, variants: dict[str, int]) -> bool:
        with _quiet(), torch.no_grad(), torch.device("meta"):
            return all(_succeeds(model, one, _inputs(model, one)[number]) for one, number in variants.items())

    def take(self, step: Callable[[Table], Iterable[Changes]]) -> None:
        """Makes the first of some alternatives that works; else the first that does so but for one attribute."""
        alternatives = [changes for changes in step(self.table) if changes]
        repaired = [one for changes in alternatives[:_REPAIRED] for one in _all_but_one(changes)]
        proofs = self._proofs()
        for proof in proofs:
            if any(self._accept(changes, proof) for changes in (*alternatives, *repaired)):
                return
        for changes in alternatives[:1]:
            for part in _parts(changes):
                self._accept(part, proofs[-1])

    def _proofs(self) -> tuple[bool, ...]:
        """Whether a change is to be proved: what does not run on meta may do so in memory, once it is small."""
        if "forward" not in self._variants and self._in_memory is None and self.size <= _QUICK:
            self._in_memory = self._runs_in_memory(self.table)
        if "forward" in self._variants or self._in_memory:
            return (True,)
        return (True, False) if self._in_memory is None else (False,)

    def _accept(self, changes: Changes, proof: bool) -> bool:
        """Makes changes, if the model then builds and is smaller; with `proof` only if it runs."""
        table = _changed(self.table, changes)
        try:
            model = self._model(table)
        except Exception:
            return False
        size = _size(model, table)
        if size > self.size or not self._runs(model, self._variants) or (proof and not self._is_proved(table, size)):
            return False
        self.table, self.size = table, size
        return True

    def _is_proved(self, table: Table, size: int) -> bool:
        if "forward" in self._variants or size > _QUICK:
            return "forward" in self._variants
        proved = self._runs_in_memory(table)
        self._in_memory = self._in_memory or proved or None
        return proved

    def _runs_in_memory(self, table: Table) -> bool:
        model = self._model(table, "cpu")
        with _quiet(), torch.no_grad():
            return any(_succeeds(model, "forward", inputs) for inputs in _inputs(model, "forward", "cpu"))

    def notes(self) -> list[str]:
        """What is different now."""
        return [
            f"{'.'.join(path)}: {_short(_at(self._first, path))} -> {_short(value)}"
            for path, value in _leaves(self.table)
            if _at(self._first, path) != value
        ]


_QUICK: Final = 20_000_000
"""Parameters of a model that runs in memory within a moment."""


_METHODS: Final = ("forward", "get_image_features", "get_audio_features")
"""What is to run: text alone, which a forward pass may be content with, does not need what reads images and sound."""


def _succeeds(model: nn.Module, method: str, inputs: dict[str, Any]) -> bool:
    try:
        (model if method == "forward" else getattr(model, method))(**inputs)
    except Exception:
        return False
    return True


def _inputs(model: nn.Module, method: str, device: str = "meta") -> list[dict[str, Any]]:
    try:
        return example_inputs(model, device, method) if hasattr(model, method) else []
    except Exception:
        return []


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences warnings about configurations that are only tried."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _size(model: nn.Module, table: Table) -> int:
    """Parameters, tied ones once, without tables that have a row for each word of a vocabulary."""
    rows = {value for path, value in _leaves(table) if _is(path, _VOCABULARY) and type(value) is int}
    return sum(one.numel() for one in model.parameters() if not rows.intersection(one.shape))


def _line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:300]


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:40]} ... {text[-16:]}"


# Trees of configurations


def _tables(table: Table, path: Path = ()) -> Iterator[tuple[Path, Table]]:
    """The configuration, and those inside it."""
    yield path, table
    for name, value in table.items():
        if _is_table(value):
            yield from _tables(value, (*path, name))


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and "model_type" in value


def _own(table: Table, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The values of one configuration, those in plain dictionaries too."""
    for name, value in table.items():
        if isinstance(value, dict) and not _is_table(value):
            if all(isinstance(key, str) for key in value) and name not in _NAMES:
                yield from _own(value, (*path, name))
        elif not isinstance(value, dict):
            yield (*path, name), value


def _leaves(table: Table) -> Iterator[tuple[Path, Any]]:
    for path, one in _tables(table):
        for own, value in _own(one):
            yield (*path, *own), value


_NAMES: Final = ("id2label", "label2id", "quantization_config", "task_specific_params")
"""Dictionaries whose keys are not attributes."""


def _at(table: Any, path: Path) -> Any:
    for name in path:
        if not isinstance(table, dict) or name not in table:
            return None
        table = table[name]
    return table


_DROPPED: Final = object()
"""A value that the configuration's class is to work out again."""


def _changed(table: Table, changes: Changes) -> Table:
    made = copy.deepcopy(table)
    for path, value in changes.items():
        holder = _at(made, path[:-1])
        if value is _DROPPED:
            del holder[path[-1]]
        else:
            holder[path[-1]] = value
    return made


_REPAIRED: Final = 2
"""Alternatives that are tried without one of their changes."""


def _all_but_one(changes: Changes) -> Iterator[Changes]:
    """The changes of all attributes but one."""
    names = sorted({path[-1] for path in changes})
    for name in names if len(names) > 1 else ():
        yield {path: value for path, value in changes.items() if path[-1] != name}


def _parts(changes: Changes) -> Iterator[Changes]:
    """The changes of each configuration, then those of each attribute."""
    places = sorted({path[:-1] for path in changes})
    for place in places if len(places) > 1 else ():
        yield {path: value for path, value in changes.items() if path[:-1] == place}
    for name in sorted({path[-1] for path in changes}):
        yield {path: value for path, value in changes.items() if path[-1] == name}


def _is(path: Path, kind: re.Pattern[str]) -> bool:
    return kind.search(path[-1]) is not None


def _each(value: Any, change: Callable[[int], int]) -> Any:
    """An integer, or the integers of a list, changed."""
    if isinstance(value, list | tuple):
        return [_each(one, change) for one in value]
    return change(value) if type(value) is int else value


def _numbers(value: Any) -> list[int]:
    """The integers of a list, or one alone; nothing where there is something else."""
    if type(value) is int:
        return [value]
    if isinstance(value, list | tuple):
        found = [_numbers(one) for one in value]
        return [one for some in found for one in some] if all(found) else []
    return []


def _differing(table: Table, changes: Changes) -> Changes:
    return {path: value for path, value in changes.items() if _at(table, path) != value}


# Layers

_LAYERS: Final = re.compile(r"(^|_)(layers?|depths?|blocks|num_blocks|repeats)(_per_stage)?$")
_NO_LAYERS: Final = re.compile(r"max_depth|min_depth|_type|_ids?$")
_INDICES: Final = re.compile(r"(indices|indexes|idxs|indexs|ids|layers|layer|idx|attention_blocks)$")
_BOUNDS: Final = re.compile(r"first_k|max_window_layers|shared_layers|dense_layers|layer_index|full_attention_layers")
_FEATURES: Final = re.compile(r"feature_layers?$")
_PER_LAYER: Final = re.compile(r"layer|block|type|pattern|depth|per_stage|heads?$")
_FEW_LAYERS: Final = 4
"""As many elements may have a list that has nothing to do with layers, such as the mean of each color."""


def _fewer_layers(table: Table) -> Iterator[Changes]:
    """The first layer of each kind; then also every layer that another part of the model refers to by its number."""
    for keep_indexed in (False, True):
        for least in (1, 2):
            changes: Changes = {}
            for path, own in _tables(table):
                changes |= _cut(path, own, keep_indexed, least)
            yield _differing(table, changes)


def _cut(path: Path, table: Table, keep_indexed: bool, least: int) -> Changes:
    leaves = [(own, value) for own, value in _own(table) if value is not None]
    counts = {value for own, value in leaves if _counts_layers(own) and type(value) is int}
    found: Changes = {}
    largest = max(counts, default=0)
    for count in sorted(one for one in counts if one > LAYERS):
        has_stages = len(table.get("stage_names") or ()) == count + 1
        kept = _kept(leaves, count, count == largest, keep_indexed, has_stages)
        for own, value in leaves:
            where = (*path, *own)
            if _counts_layers(own) and type(value) is int and value == count:
                found[where] = len(kept)
            elif _is_per_layer(own, value, count):
                chosen = [value[layer] for layer in kept]
                found[where] = _each(chosen, lambda one: min(one, least)) if _is(own, _LAYERS) else chosen
            elif count == largest and type(value) is int and _is(own, _BOUNDS) and value >= 0:
                found[where] = _bound(value, count, len(kept))
            elif count == largest and (numbers := _indices(own, value, count)):
                found[where] = _renumbered(numbers, kept)
        if has_stages:
            found |= _stages(path, table, kept)
    for own, value in leaves:
        where = (*path, *own)
        is_list = isinstance(value, list | tuple) and bool(_numbers(value))
        if _is(own, _FEATURES):
            found[where] = _each(value, lambda one: max(-LAYERS, min(one, LAYERS)))
        elif where not in found and is_list and _is(own, _LAYERS) and not _indices(own, value, largest):
            found[where] = _each(value, lambda one: min(one, least))
    return found


def _bound(value: int, count: int, kept: int) -> int:
    """As large a share of the remaining layers; where there were layers on both sides of it, there still are."""
    share = value * kept // count
    return min(max(share, 1), kept - 1) if 0 < value < count else share


def _counts_layers(own: Path) -> bool:
    return _is(own, _LAYERS) and not _is(own, _NO_LAYERS) and not _is(own, _BOUNDS)


def _is_per_layer(own: Path, value: Any, count: int) -> bool:
    """Whether a value is a list with an element for each layer, which one that has the number of each is not."""
    fits = isinstance(value, list | tuple) and len(value) == count and own[-1] != "stage_names"
    fits = fits and not _indices(own, value, count)
    return fits and (count > _FEW_LAYERS or _is(own, _PER_LAYER))


def _indices(own: Path, value: Any, count: int) -> list[int]:
    """Numbers of layers, if a value is a list of such."""
    numbers = _numbers(value) if isinstance(value, list | tuple) else []
    ascending = all(one < other for one, other in itertools.pairwise(numbers))
    fits = bool(numbers) and ascending and -count <= numbers[0] and numbers[-1] <= count
    return numbers if fits and _is(own, _INDICES) and own[-1] != "return_idx" else []


def _kept(
    leaves: list[tuple[Path, Any]], count: int, is_largest: bool, keep_indexed: bool, has_stages: bool
) -> list[int]:
    """The first layer of each kind: layers differ in their elements of lists, and in whether an index names them."""
    lists = [value for own, value in leaves if _is_per_layer(own, value, count)]
    indices = []
    for own, value in leaves if is_largest else ():
        before = 1 if has_stages and own[-1].endswith("out_indices") else 0  # the stem is the first of the stages
        indices.append({one - before for one in _indices(own, value, count)})
    seen: list[list[Any]] = []
    kept: list[int] = []
    for layer in range(count):
        kind = [one[layer] for one in lists] + [layer in one for one in indices]
        if kind not in seen or (keep_indexed and any(layer in one for one in indices)):
            seen.append(kind)
            kept.append(layer)
    more = (layer for layer in range(count) if layer not in kept)
    while len(kept) < LAYERS:
        kept.append(next(more))
    return sorted(kept)


def _renumbered(numbers: list[int], kept: list[int]) -> list[int]:
    """The numbers that layers now have; counted from the end, as far as there are layers."""
    positions = {layer: position for position, layer in enumerate(kept)}
    if numbers[0] < 0:
        return [max(one, -len(kept)) for one in numbers]
    return [positions[one] for one in numbers if one in positions]


def _stages(path: Path, table: Table, kept: list[int]) -> Changes:
    """Changes for a backbone whose stages are its layers: as many features as before, from the remaining layers."""
    found: Changes = {
        (*path, name): _DROPPED for name in ("stage_names", "_out_features", "out_features") if name in table
    }
    for name in ("_out_indices", "out_indices"):
        numbers = _numbers(table.get(name) or [])
        if numbers:
            positions = {layer + 1: position + 1 for position, layer in enumerate(kept)}
            found[*path, name] = sorted({positions.get(one, len(kept)) for one in numbers})
    return found


# Rows of vocabularies

_VOCABULARY: Final = re.compile(r"vocab_size$")
_TOKEN: Final = re.compile(r"(token_id|token_index|token_ids|_id|_ids|_index)$")


def _fewer_rows(table: Table) -> Iterator[Changes]:
    """Vocabularies of few words, but where a special token is one of the others."""
    tokens = [one for path, value in _leaves(table) if _is(path, _TOKEN) for one in _numbers(value)]
    changes: Changes = {}
    for path, value in _leaves(table):
        if _is(path, _VOCABULARY):
            for rows in _numbers(value):
                if rows > ROWS and not any(ROWS <= token <= rows for token in tokens):
                    changes[path] = _each(value, lambda one: min(one, ROWS))
    yield changes


# Experts

_EXPERTS: Final = re.compile(r"(^|_)(num|n)_(routed_|local_|moe_)?experts?$|moe_num_experts$|^num_moe_experts$")
_CHOSEN: Final = re.compile(
    r"experts?_per_tok(en)?$|top_?k_experts?$|moe_top_?k$|^moe_k$|num_selected_experts$|^top_k$"
)
_GROUPS_OF_EXPERTS: Final = re.compile(r"^n_groups?$|num_expert_groups?$")
_GROUPS_CHOSEN: Final = re.compile(r"topk_groups?$")


def _has_experts(table: Table) -> bool:
    return any(_is(one, _EXPERTS) for one, value in _own(table) if _numbers(value))


def _fewer_experts(table: Table) -> Iterator[Changes]:
    for count in (EXPERTS, 2 * EXPERTS):
        changes: Changes = {}
        for path, own in _tables(table):
            leaves = list(_own(own))
            if not _has_experts(own):
                continue
            for kind, most in ((_EXPERTS, count), (_CHOSEN, 2), (_GROUPS_OF_EXPERTS, 2), (_GROUPS_CHOSEN, 1)):
                for one, value in leaves:
                    if _is(one, kind) and _numbers(value):
                        changes[*path, *one] = _each(value, functools.partial(min, most))
        yield _differing(table, changes)


# Widths

_HEADS: Final = re.compile(r"(^|_)heads?(_per_(stage|layer))?$")
_SHARED_HEADS: Final = re.compile(r"key_value|kv")
_HEAD_WIDTH: Final = re.compile(
    r"head_?dim|^d_kv$|d_head$|kv_channels$|head_size$|dim_head$|rotary_dim$|mrope_section$|^key_dim$"
)
_WIDTH: Final = re.compile(
    r"(^|_)(sizes?|dims?|channels?|rank|width|units|features?|feats|filters|planes|embd|ffn|d_model|d_ff|d_inner|dff"
    r"|inner|latents)(_per_(stage|layer|head))?$|(^|_)(dim|hidden|channels|filters)_"
)
_NO_WIDTH: Final = re.compile(
    r"image|img|patch|kernel|window|vocab|chunk|block|batch|pool|crop|codebook_size|grid|cache|sampl|frame|merge|stride"
    r"|context|segment|position|index|indices|bins|length|tubelet|mel|max_|input_(size|dim|feat|chan)|feature_sizes?$"
    r"|step|bias|cost|loss|token|num_(latents|.*features|dynamic|static|time)|^features?$|layers?$|shape|^size"
    r"|temperature|out_features"
)
_MAIN: Final = re.compile(
    r"(^|_)(hidden_sizes?|d_model|embed_dims?|n_embd|hidden_dim|emb_dim|model_dim)(_per_stage)?$|^dim$"
)
_INNER: Final = re.compile(r"ffn|mlp|moe|expert")
_GROUPS: Final = re.compile(r"(^|_)groups?$")


def _is_width(path: Path) -> bool:
    return _is(path, _WIDTH) and not _is(path, _NO_WIDTH) and not _is(path, _HEAD_WIDTH) and not _is(path, _HEADS)


def _mains(table: Table) -> list[int]:
    """The widths that the others of a configuration follow."""
    found = [
        one
        for path, value in _own(table)
        if _is(path, _MAIN) and _is_width(path) and not _is(path, _INNER)
        for one in _numbers(value)
    ]
    return [one for one in found if one > HEAD]


def _narrower(table: Table) -> Iterator[Changes]:
    """All widths divided by one number, so that what was equal, a sum or a product stays so; then one a configuration.

    Heads become narrow; where they may not, few.
    """
    mains = [one for _, own in _tables(table) for one in _mains(own)]
    for head in (HEAD, None):
        for divisor in _promising(table, _divisors(mains), head):
            changes: Changes = {}
            for path, own in _tables(table):
                changes |= _divided(path, own, divisor, head, set(mains)) or {}
            yield _differing(table, changes)
    for head in (HEAD, None):
        separate: Changes = {}
        for path, own in _tables(table):
            for divisor in _promising(own, _divisors(_mains(own)), head)[:1]:
                separate |= _divided(path, own, divisor, head, set(_mains(own))) or {}
        yield _differing(table, separate)


_TRIES: Final = 4


def _divisors(widths: list[int]) -> list[int]:
    """What all widths can be divided by, so that the widest keeps :data:`WIDTH` and all keep :data:`FEW`."""
    common, widest = math.gcd(*widths), max(widths, default=0)
    narrowest = min((one for one in widths if one > WIDTH), default=0)
    most = min(widest // WIDTH, narrowest // FEW)
    return [one for one in range(min(common, most), 1, -1) if common % one == 0]


def _promising(table: Table, divisors: list[int], head: int | None) -> list[int]:
    """The first divisors that all configurations bear.

    First come those that keep rows of experts aligned; where heads may not become narrow, those before them that leave
    the heads of the widest configuration as they are.
    """
    tables = [own for _, own in _tables(table)]
    widest = max(tables, key=lambda own: max(_mains(own), default=0))
    experts = [main for own in tables if _has_experts(own) for main in _mains(own)]

    def order(divisor: int) -> tuple[bool, bool]:
        narrows = head is None and _shares(widest, divisor, head) != (divisor, 1)
        return narrows, any((main // divisor) % ALIGNED for main in experts)

    return sorted((one for one in divisors if all(_shares(own, one, head) for own in tables)), key=order)[:_TRIES]


def _is_related(path: Path, value: Any, mains: set[int]) -> bool:
    """Whether numbers without a known name are widths, because each of them is one."""
    return set(_numbers(value)) <= mains and not _is(path, _NO_WIDTH) and not _is(path, _GROUPS)


def _shares(table: Table, divisor: int, head: int | None) -> tuple[int, int] | None:
    """By which factors the heads of a configuration and their widths are divided; None where none fit.

    The factors' product is the divisor, unless a width of heads is given that with their number makes no other width.
    """
    leaves = [(own, value) for own, value in _own(table) if _numbers(value)]
    heads = [
        one for own, value in leaves if _is(own, _HEADS) and not _is(own, _SHARED_HEADS) for one in _numbers(value)
    ]
    widths = [one for own, value in leaves if _is(own, _HEAD_WIDTH) for one in _numbers(value) if one > 1]
    mains, own_width = _mains(table), table.get("head_dim")
    free = type(own_width) is int and bool(heads) and not any(one * own_width in mains for one in heads)
    implied = [] if free else [main // one for main in mains for one in heads if main % one == 0]
    if not heads and not widths + implied:
        return 1, divisor
    even = [value for own, value in leaves if _is(own, _HEAD_WIDTH) and type(value) is int and value > 1] + implied
    widest = max(widths + implied, default=max((main // one for main in mains for one in heads), default=HEAD))
    found = []
    for by_heads in _factors(heads, divisor):
        for by_width in _factors(widths + implied, divisor):
            if any((one // by_width) % 2 and one % 2 == 0 for one in even):
                continue
            if free or by_heads * by_width == divisor:
                distance = math.log(by_width if head is None else widest / by_width / head)
                halves = any(
                    (one // by_width) % 4 and one % 4 == 0 for one in even
                )  # positions in images want quarters
                product = abs(math.log(by_heads * by_width / divisor))
                found.append((halves, abs(distance), product, by_heads, by_width))
    return min(found)[3:] if found else None


def _factors(numbers: list[int], most: int) -> list[int]:
    """What all numbers can be divided by, up to a limit."""
    return [one for one in range(1, most + 1) if all(number % one == 0 for number in numbers)]


def _divided(path: Path, table: Table, divisor: int, head: int | None, mains: set[int]) -> Changes | None:
    """The widths of a configuration divided: by a part of the divisor the heads, by the other their widths."""
    shares = _shares(table, divisor, head)
    if shares is None:
        return None
    by_heads, by_width = shares
    leaves = [(own, value) for own, value in _own(table) if _numbers(value)]
    even = ALIGNED if _has_experts(table) else 2
    found: Changes = {}
    for own, value in leaves:
        where = (*path, *own)
        if _is(own, _HEADS):
            found[where] = _each(value, lambda one: max(1, one // by_heads))
        elif _is(own, _HEAD_WIDTH):
            found[where] = _each(value, lambda one: one // by_width if one % by_width == 0 else one)
        elif _is_width(own) or _is_related(own, value, mains):
            found[where] = _each(value, lambda one: _narrowed(one, divisor, 2 if one in mains else even))
    _cut_frequencies(path, table, by_width, found)
    _regroup(path, leaves, found)
    return found


def _quotient(value: int, divisor: int) -> int:
    return value // divisor


def _narrowed(value: int, divisor: int, multiple: int) -> int:
    """A width divided. Small ones stay; a quotient that is not whole is rounded up to an even number.

    So is one to a `multiple` that the width itself was one of.
    """
    if value % divisor == 0 and value // divisor > 1 and value > _CHANNELS:
        quotient = value // divisor
        return quotient if value % multiple or multiple == 2 else -(-quotient // multiple) * multiple
    if value <= 2 * WIDTH:
        return value
    return -(-value // (multiple * divisor)) * multiple


_CHANNELS: Final = 4
"""The most that the pixels of an image have."""


def _cut_frequencies(path: Path, table: Table, by_width: int, found: Changes) -> None:
    """Lists with a factor for each frequency of a rotary embedding are as long as half a head."""
    for own, value in _own(table):
        if len(own) > 1 and isinstance(value, list | tuple) and len(value) > HEAD // 2 and len(value) % by_width == 0:
            found[*path, *own] = list(value)[: len(value) // by_width]


def _regroup(path: Path, leaves: list[tuple[Path, Any]], found: Changes) -> None:
    """Groups still divide what they divided."""
    for own, value in leaves:
        if _is(own, _GROUPS) and type(value) is int and value > 1:
            number = value
            for other, old in leaves:
                new = found.get((*path, *other))
                if new is not None and (_is_width(other) or _is(other, _HEADS)):
                    for before, after in zip(_numbers(old), _numbers(new), strict=True):
                        if before % value == 0:
                            number = math.gcd(number, after)
            found[*path, *own] = number


# Images

_IMAGE: Final = re.compile(r"(image|img|image_embedding|feature)_sizes?$")
_PATCH: Final = re.compile(r"patch_size$")
_PLACES: Final = re.compile(r"image_seq_length$|image_tokens$|num_patches$")


def _smaller_images(table: Table) -> Iterator[Changes]:
    """All sizes of images divided by one number that leaves whole patches."""
    patches = [one for path, value in _leaves(table) if _is(path, _PATCH) for one in _numbers(value)]
    sizes = {path: value for path, value in _leaves(table) if _is(path, _IMAGE) and _numbers(value)}
    numbers = [one for value in sizes.values() for one in _numbers(value)]
    patch = max(patches, default=32)
    whole = all(one % patch == 0 for one in numbers)
    divisors = [
        divisor
        for divisor in range(max(numbers, default=0) // (PATCHES * patch), 1, -1)
        if all(one % divisor == 0 and (not whole or (one // divisor) % patch == 0) for one in numbers)
    ]
    squares = {(one // patch) ** 2: one // patch for one in numbers if whole}
    places = {path: value for path, value in _leaves(table) if _is(path, _PLACES) and type(value) is int}
    for divisor in divisors[:_TRIES]:
        changes: Changes = {
            path: _each(value, functools.partial(_quotient, divisor=divisor)) for path, value in sizes.items()
        }
        yield changes | {
            path: (squares[value] // divisor) ** 2
            for path, value in places.items()
            if value in squares and squares[value] % divisor == 0
        }
