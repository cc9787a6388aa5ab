"""Models that others wrote: every timm model, every transformers configuration that constructs by itself.

    zoo = {architecture.name: architecture for architecture in timm_zoo()}
    model = zoo["timm/resnet18"].build()

Nothing is downloaded: every model is built from its configuration.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
os.environ.update(OFFLINE)

import torch  # noqa: E402
from torch import nn  # noqa: E402

# Where `make` puts timm and torchvision. transformers imports any torchvision that it finds, and fails with one whose
# operators do not load, as beside a torch for another device: so only who calls load_timm() finds it.
ASIDE = Path(sys.prefix, "zoo")


@dataclass(frozen=True)
class Architecture:
    """A model that somebody wrote.

    Parameters
    ----------
    name : str
        "timm/resnet18", or "transformers/bert/BertForMaskedLM": library, configuration, class.
    build : callable
        Builds it at its default size, as its author initializes it.
    smaller : callable, optional
        Gives what builds the same scheme with fewer layers, rows and experts; None where that cannot be built.
    """

    name: str
    build: Callable[[], nn.Module]
    smaller: Callable[[], Callable[[], nn.Module] | None] = lambda: None


# timm


@functools.cache
def load_timm() -> Any:
    """The module timm, with a torchvision whose operators may be declarations.

    Raises
    ------
    ModuleNotFoundError
        If one of the two is not installed.
    """
    if importlib.util.find_spec("timm") is None and ASIDE.is_dir():
        sys.path.insert(0, str(ASIDE))
        importlib.invalidate_caches()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _load_torchvision()
        return importlib.import_module("timm")


_declared: list[torch.library.Library] = []  # a library that is collected takes its operators along


def _load_torchvision() -> None:
    """Imports torchvision; operators that its own library cannot add are declared, and stay without code."""
    extension = importlib.util.find_spec("torchvision")
    if extension is None:
        raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
    if "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        importlib.import_module("torchvision")


def timm_zoo() -> Iterator[Architecture]:
    """Every model of timm, at its own size."""
    timm = load_timm()
    for name in timm.list_models():
        yield Architecture(f"timm/{name}", functools.partial(_timm_model, name), functools.partial(_smaller_timm, name))


def _timm_model(name: str, **options: Any) -> nn.Module:
    return _quiet(lambda: load_timm().create_model(name, pretrained=False, **options))


def _smaller_timm(name: str) -> Callable[[], nn.Module] | None:
    """With few classes and, where the model's family has an argument for it, few layers."""
    for layers in ({"depth": 2}, {"depths": (1, 1, 1, 1)}, {"layers": (1, 1, 1, 1)}, {}):
        build = functools.partial(_timm_model, name, num_classes=10, **layers)
        with contextlib.suppress(Exception):
            if size_on_meta(build) <= 2 * SMALL:
                return build
    return None


# transformers

# Heads in the order in which one is taken beside the bare model.
HEADS = (
    "PRETRAINING",
    "CAUSAL_LM",
    "MASKED_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "IMAGE_TEXT_TO_TEXT",
    "MULTIMODAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "CTC",
    "IMAGE_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "OBJECT_DETECTION",
    "ZERO_SHOT_OBJECT_DETECTION",
    "SEMANTIC_SEGMENTATION",
    "UNIVERSAL_SEGMENTATION",
    "IMAGE_SEGMENTATION",
    "DEPTH_ESTIMATION",
    "MASK_GENERATION",
    "AUDIO_CLASSIFICATION",
    "TEXT_TO_WAVEFORM",
    "TEXT_TO_SPECTROGRAM",
    "TIME_SERIES_PREDICTION",
    "TOKEN_CLASSIFICATION",
)
# Attributes of configurations that say how many layers, rows, experts or classes there are.
COUNTS = {
    "num_hidden_layers": 2,
    "num_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "depth": 2,
    "vocab_size": 500,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
}
WIDTHS = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "d_model": 128,
    "d_ff": 192,
    "encoder_ffn_dim": 192,
    "decoder_ffn_dim": 192,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_heads": 4,
    "n_embd": 128,
    "n_head": 4,
    "moe_intermediate_size": 64,
    "embed_dim": 128,
}


def transformers_zoo(every_class: bool = False) -> Iterator[Architecture]:
    """Every configuration with its bare model and one with a head, or with all of its classes.

    Whether a configuration constructs by itself is found only by building it: see `NotByItself`.
    """
    with contextlib.suppress(ModuleNotFoundError):
        load_timm()  # some models have a backbone of timm
    for kind, classes in _transformers_classes().items():
        for name in classes if every_class else classes[:2]:
            yield Architecture(
                f"transformers/{kind}/{name}",
                functools.partial(_transformers_model, kind, name),
                functools.partial(_smaller_transformers, kind, name),
            )


class NotByItself(Exception):
    """A configuration does not construct without more information, with the author's own code and no other."""


@functools.cache
def _transformers_classes() -> dict[str, list[str]]:
    """For every kind of configuration its classes: the bare model, then by `HEADS`, then the rest."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    first = ["MODEL_MAPPING_NAMES", *(f"MODEL_FOR_{head}_MAPPING_NAMES" for head in HEADS)]
    rest = [name for name in dir(auto) if name.startswith("MODEL_FOR_") and name.endswith("_MAPPING_NAMES")]
    found: dict[str, dict[str, None]] = {}
    for mapping in [*first, *(name for name in sorted(rest) if name not in first)]:
        for kind, names in getattr(auto, mapping).items():
            for name in [names] if isinstance(names, str) else names:
                found.setdefault(kind, {})[name] = None
    return {kind: list(names) for kind, names in sorted(found.items())}


def _configuration(kind: str, **options: Any) -> Any:
    import transformers

    return transformers.CONFIG_MAPPING[kind](**options)


def _transformers_model(kind: str, name: str) -> nn.Module:
    import transformers

    transformers.logging.set_verbosity_error()
    try:
        configuration = _quiet(lambda: _configuration(kind))
        made = _class(kind, name)
    except Exception as error:
        raise NotByItself(f"{type(error).__name__}: {error}") from error
    return _quiet(lambda: made(configuration))


def _class(kind: str, name: str) -> type[nn.Module]:
    """A class of transformers, which the package itself may not have under its name."""
    import transformers
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    if hasattr(transformers, name):
        found: type[nn.Module] = getattr(transformers, name)
        return found
    folder = importlib.import_module(f"transformers.models.{model_type_to_module_name(kind)}")
    found = getattr(folder, name)
    return found


def _smaller_transformers(kind: str, name: str) -> Callable[[], nn.Module] | None:
    """With fewer layers and rows; with narrower ones where that is not enough, or where the first cannot be built.

    Some name a padding row, so their rows have to stay.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    narrow = COUNTS | WIDTHS
    rows = {name: size for name, size in narrow.items() if name != "vocab_size"}
    for sizes, most in ((COUNTS, SMALL), (narrow, 2 * SMALL), (rows, 3 * SMALL)):
        with contextlib.suppress(Exception):
            configuration = _quiet(lambda sizes=sizes: _configuration(kind, **_reduced(_configuration(kind), sizes)))
            build = functools.partial(_build, _class(kind, name), configuration)
            if size_on_meta(build) <= most:
                return build
    return None


def _build(made: type[nn.Module], configuration: Any) -> nn.Module:
    """Of a configuration of its own, which a constructor may change."""
    return _quiet(lambda: made(copy.deepcopy(configuration)))


SMALL = 30_000_000  # parameters of a model that is compared within a second or two


def _reduced(configuration: Any, sizes: dict[str, int]) -> dict[str, Any]:
    """Arguments of a configuration's class, that make it and the configurations in it smaller."""
    arguments: dict[str, Any] = {}
    for name, value in vars(configuration).items():
        if name in sizes and type(value) is int and value > sizes[name]:
            arguments[name] = sizes[name]
        elif hasattr(value, "model_type") and hasattr(value, "to_dict"):
            inner = _reduced(value, sizes)
            if inner:
                arguments[name] = {"model_type": value.model_type, **inner}
    return arguments


# Both


def size_on_meta(build: Callable[[], nn.Module]) -> int:
    """How many parameters, tied ones once, from a construction on the meta device."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in _quiet(build).parameters())


def _quiet(call: Callable[[], Any]) -> Any:
    """Authors' warnings of their own configurations are no concern of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


def shuffled(zoo: Iterable[Architecture], seed: int) -> list[Architecture]:
    """All of them in an order that is the same for the same seed, whatever else the zoo has."""
    return sorted(zoo, key=lambda one: hashlib.sha256(f"{seed} {one.name}".encode()).digest())
