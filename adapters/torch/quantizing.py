"""Quantized checkpoints: which weights of a model are quantized, and what its configuration says of that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, Final

from torch import Tensor, nn

from fastinit import canonical_name
from fastinit.adapters.torch.experts import mixtures
from fastinit.adapters.torch.internals import kept_in_float32
from fastinit.checkpoints import Filled, Plan, Quantized, quantized
from fastinit.checkpoints import Tensor as Planned

__all__ = ["quantized_plan"]

# Of compressed-tensors: the format of the file, the weights, and the activations where they are quantized, too.
_COMPRESSED: Final[dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]]] = {
    "float8_tensor": (
        "float-quantized",
        {"num_bits": 8, "strategy": "tensor"},
        {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True, "dynamic": True},
    ),
    "mxfp4": (
        "mxfp4-pack-quantized",
        {"num_bits": 4, "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"},
        None,
    ),
    "nvfp4": (
        "nvfp4-pack-quantized",
        {"num_bits": 4, "strategy": "tensor_group", "group_size": 16, "scale_dtype": "torch.float8_e4m3fn"},
        None,
    ),
}


def quantized_plan(model: nn.Module, made: Plan, scheme: str) -> tuple[Plan, dict[str, Any], list[str]]:
    """The plan of a model with its linear maps quantized.

    These are the weights of ``nn.Linear`` and those of packed experts. Embeddings, output heads and routers stay as
    they are, and so do weights whose shape does not suit the scheme. In MXFP4 packed experts have the layout of
    gpt-oss, and then they alone are quantized, as its readers expect.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model.
    made : Plan
        Of its tensors, with the names that the checkpoint has.
    scheme : str
        ``"float8_block"``, ``"float8_tensor"``, ``"mxfp4"`` or ``"nvfp4"``.

    Returns
    -------
    Plan
        With several tensors for each quantized weight.
    dict
        The configuration's ``quantization_config``.
    list of str
        Notes for the user.

    Raises
    ------
    ValueError
        If there is nothing to quantize.
    """
    names = {id(own): canonical_name(name) for name, own in model.named_parameters()}
    found = mixtures(model)
    routers = {id(one.weight) for one in found}
    # a weight that is computed from others has no name
    wanted = {names[id(weight)] for weight in _linear_weights(model, routers) if id(weight) in names}
    packed = {names[id(weight)]: one.is_transposed for one in found for weight in one.packed}
    is_packed = any(_is_packed(tensor, packed) for tensor in made)
    if scheme == "mxfp4" and is_packed:
        scheme, wanted = "mxfp4_blocks", set()
    apart = {
        canonical_name(name): names[id(weight)]
        for name, weight in _linear_and_routers(model, routers)
        if names[id(weight)] not in wanted
    }
    kept = set(apart)
    tensors: list[Planned] = []
    left: Counter[str] = Counter()
    count = 0
    for tensor in made:
        source = tensor.source
        if not isinstance(source, Filled) or source.entry.name not in wanted | packed.keys():
            if source.entry is not None and source.entry.name in apart.values():
                kept.add(_module_of(tensor))
            tensors.append(tensor)
            continue
        of = replace(source, entry=replace(source.entry, dtype="float32"))
        try:
            if _is_packed(tensor, packed):
                if scheme != "mxfp4_blocks":
                    raise ValueError(f"no reader knows {scheme} of experts in one tensor")
                of = _transposed(of) if packed[source.entry.name] else of
            parts = quantized(tensor.name, of, scheme)
        except ValueError as problem:
            left[str(problem)] += 1
            kept.add(_module_of(tensor))
            tensors.append(tensor)
            continue
        count += 1
        tensors.extend(Planned(name, part) for name, part in parts.items())
    if not count:
        raise ValueError(f"no weight of {type(model).__name__} can be quantized as {scheme}: {' '.join(left)}")
    notes = [f"quantized as {scheme}: {count:,} of {len(made):,} tensors"]
    notes += [f"not quantized: {number:,} tensors: {problem}" for problem, number in left.items()]
    cut = sum(scheme == "float8_block" and _has_cut_blocks(tensor) for tensor in tensors)
    if cut:
        notes.append(
            f"{cut:,} tensors have sides beyond 128 that are not multiples of it: their last blocks are smaller, which "
            "transformers does not expect where it dequantizes, without a GPU"
        )
    return replace(made, tensors=tuple(tensors)), _configuration(scheme, sorted(kept)), notes


def _linear_weights(model: Any, routers: Collection[int]) -> list[Tensor]:
    """The weights of a model's linear layers, without heads, routers, and what transformers keeps in float32."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    exact = kept_in_float32(model)
    return [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module is not head
        and "." in name  # what the model itself holds is a head
        and id(module.weight) not in embeddings
        and id(module.weight) not in routers
        and not any(part in exact for part in name.split("."))
    ]


def _linear_and_routers(model: nn.Module, routers: Collection[int]) -> Iterator[tuple[str, nn.Parameter]]:
    """The linear layers and routers of a model by their names, and their weights."""
    for name, module in model.named_modules():
        for own in module.parameters(recurse=False):
            if (isinstance(module, nn.Linear) and own is module.weight) or id(own) in routers:
                yield name, own


def _module_of(tensor: Planned) -> str:
    """The name of the module that a tensor of the checkpoint is of."""
    return tensor.name.rpartition(".")[0]


def _has_cut_blocks(tensor: Planned) -> bool:
    """Whether the last blocks of 128 are smaller than others beside them."""
    is_values = isinstance(tensor.source, Quantized) and tensor.source.part == "values"
    return is_values and any(size > 128 and size % 128 for size in tensor.shape[-2:])


def _is_packed(tensor: Planned, packed: Collection[str]) -> bool:
    """Whether a tensor of the checkpoint holds the weights of all experts."""
    return isinstance(tensor.source, Filled) and tensor.source.entry.name in packed and len(tensor.shape) == 3


def _transposed(of: Filled) -> Filled:
    """The same with its last two axes exchanged."""
    assert of.axes is not None
    own = [axis for axis in of.axes if axis not in of.dropped]
    return replace(of, axes=(*own[:-2], own[-1], own[-2], *of.dropped))


def _configuration(scheme: str, kept: list[str]) -> dict[str, Any]:
    """What readers need to know: the scheme, and the modules that are not quantized."""
    if scheme == "float8_block":
        return {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
            "modules_to_not_convert": kept,
        }
    if scheme == "mxfp4_blocks":
        return {"quant_method": "mxfp4", "modules_to_not_convert": kept}
    format, weights, activations = _COMPRESSED[scheme]
    group = {
        "targets": ["Linear"],
        "weights": {"type": "float", "symmetric": True, "dynamic": False, **weights},
        "input_activations": activations,
        "output_activations": None,
        "format": format,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": kept,
    }
