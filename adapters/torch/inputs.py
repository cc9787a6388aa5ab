"""Inputs that a model of transformers accepts, made from its configuration and the signature of its forward pass.

model(**example_inputs(model)[0])
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from fastinit.adapters.torch.internals import is_convolution

__all__ = ["example_inputs"]

_LENGTH: Final = 8


def example_inputs(model: Any, device: str | torch.device = "cpu", method: str = "forward") -> list[dict[str, Any]]:
    """Inputs of a forward pass of a model of transformers, without its tokenizer or processor: the likeliest first.

    A configuration does not say in which order a model wants the axes of a spectrogram, so there may be several. Their
    values are the same for the same configuration. The last of them also turn the cache off, with which some models
    of text do not run.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model. What it cannot do without is asked of the signature of its ``forward``.
    device : str or torch.device
        Where the inputs are made.
    method : str
        The method that is given them, such as ``"get_image_features"``.

    Returns
    -------
    list of dict
        Empty where the model needs an input that is none of the usual ones.

    Examples
    --------
    >>> from transformers import ViTConfig, ViTModel
    >>> model = ViTModel(ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
    >>> {name: tuple(value.shape) for name, value in example_inputs(model)[0].items()}
    {'pixel_values': (1, 3, 224, 224)}
    """
    config = _Facts(model)
    found: list[dict[str, Any]] = []
    for names in dict.fromkeys(_names(model, method)):
        if not names or any(name not in _INPUTS for name in names):
            continue
        choices = {name: list(_INPUTS[name](config)) for name in names}
        for variant in range(max(map(len, choices.values()))):
            found.append(
                {name: _to(some[min(variant, len(some) - 1)], device, model) for name, some in choices.items()}
            )
    without = [{**made, "use_cache": False} for made in found] if config("use_cache") and method == "forward" else []
    return found + without


def _to(value: Tensor, device: str | torch.device, model: Any) -> Tensor:
    return value.to(device, model.dtype if value.is_floating_point() else value.dtype)


def _names(model: Any, method: str) -> Iterator[tuple[str, ...]]:
    """What the forward pass may need: the main input with what has no default; all usual ones; text alone.

    Some models have several main inputs, and some that decode begin by themselves.
    """
    signature = inspect.signature(getattr(model, method)).parameters
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [name for name, one in signature.items() if one.default is one.empty and one.kind not in kinds]
    main = [model.main_input_name] if isinstance(model.main_input_name, str) else list(model.main_input_name)
    decodes = bool(getattr(model.config, "is_encoder_decoder", False))
    if method != "forward":
        for more in (_MEDIA, [*_MEDIA, *_GRIDS]):
            yield tuple(dict.fromkeys(name for name in [*more, *needed] if name in signature))
        return
    for begin in (["decoder_input_ids"], []) if decodes else ([],):
        for more in (main, [*main, *_MEDIA], ["input_ids"], ["input_ids", *main, *_BESIDE]):
            yield tuple(dict.fromkeys(name for name in [*more, *needed, *begin] if name in signature))


class _Facts:
    """Numbers of a model's configuration, or of the first configuration inside it that has them."""

    def __init__(self, model: Any) -> None:
        self._configs = [model.config]
        self.first: nn.Module | None = next(filter(_is_first, model.modules()), None)
        """The first linear map, which says how wide its inputs are."""
        for one in self._configs:  # it grows: those inside follow, breadth first
            self._configs += [value for value in vars(one).values() if hasattr(value, "model_type")]

    def __call__(self, *names: str, default: Any = None) -> Any:
        for config in self._configs:
            for name in names:
                value = getattr(config, name, None)
                if value is not None:
                    return value
        return default


def _is_first(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or is_convolution(module)


def _random(*shape: int) -> Tensor:
    """Values in [-1, 1] that depend on the shape alone."""
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float32, device="cpu") * 0.7 + 0.3).reshape(shape)


def _text(config: _Facts) -> Iterator[Tensor]:
    rows = config("vocab_size", "text_vocab_size", "src_vocab_size", default=100)
    avoided = [config(name) for name in ("pad_token_id", "eos_token_id", "bos_token_id", "image_token_id")]
    usual = [row for row in range(3, min(500, rows)) if row not in avoided][: _length(config)]
    text = torch.tensor([usual], device="cpu")
    yield text
    books = config("num_codebooks", "n_codebooks", "num_code_groups")
    if books:
        yield text[..., None].expand(1, len(usual), books).contiguous()
        yield text.expand(books, len(usual)).contiguous()


def _length(config: _Facts) -> int:
    """Length of a text, plus the places of one image if the configuration gives images places in the text."""
    return int(_LENGTH + config("latent_query_num", default=0))


def _places(config: _Facts) -> Iterator[Tensor]:
    yield torch.arange(_length(config), device="cpu")[None] < config("latent_query_num", default=0)


def _size(config: _Facts) -> tuple[int, int]:
    size = config("image_size", "img_size", "input_size", "max_img_size", default=224)
    if isinstance(size, Mapping):
        size = [size.get("height", 224), size.get("width", 224)]
    if isinstance(size, list | tuple):
        return (size[0], size[1]) if len(size) == 2 else (size[-1], size[-1])
    return (size, size)


def _channels(config: _Facts) -> int:
    found = config("num_channels", "in_channels", "in_chans", "num_input_channels", default=3)
    return int(found)


def _fitting(config: _Facts) -> Iterator[Tensor]:
    """What the first linear map of the model takes."""
    first: Any = config.first
    if isinstance(first, nn.Linear):
        yield _random(1, 128, first.in_features)
        yield _random(16, first.in_features)
    elif first is not None:
        yield _random(1, first.in_channels, *(_size(config) if len(first.kernel_size) == 2 else [128]))


def _image(config: _Facts) -> Iterator[Tensor]:
    yield _random(1, _channels(config), *_size(config))
    yield _random(1, config("num_frames", default=2), _channels(config), *_size(config))
    yield from itertools.islice(_patches(config), 2)
    for height in (48, 96):  # a line of text
        yield _random(1, _channels(config), height, 320)
    yield from _fitting(config)


def _sizes(config: _Facts) -> Iterator[Tensor]:
    yield torch.tensor([_size(config)], device="cpu")


def _video(config: _Facts) -> Iterator[Tensor]:
    frames = config("num_frames", "frames_per_clip", default=8)
    yield _random(1, frames, _channels(config), *_size(config))


def _spectrogram(config: _Facts) -> Iterator[Tensor]:
    bins = config("num_mel_bins", "n_mels", "feature_size", "input_dim", "input_feat_size", default=80)
    bins = config("feature_projection_input_dim", "input_feat_per_channel", default=bins)
    frames = config("max_length", "max_source_positions", "spec_size", default=128)
    yield _random(1, bins, 2 * frames)
    yield _random(1, 128, bins)
    yield _random(1, frames, bins)
    yield _random(1, 1, frames, bins)
    yield from _fitting(config)


def _sound(config: _Facts) -> Iterator[Tensor]:
    yield _random(1, 8000)
    yield _random(1, config("audio_channels", default=1), 8000)
    yield _random(1, config("max_length", default=1024), config("num_mel_bins", default=128))
    yield _random(1, 1, config("spec_size", default=256), config("num_mel_bins", default=64))


def _patches(config: _Facts) -> Iterator[Tensor]:
    """An image of four times four patches, with the values of each patch in a row."""
    side = config("patch_size", default=14)
    side = side[-1] if isinstance(side, list | tuple) else side
    frames = config("temporal_patch_size", default=1)
    yield _random(16, _channels(config) * frames * side * side)
    yield _random(16, _channels(config) * side * side)
    yield _random(1, 16, _channels(config) * side * side)
    yield _random(16, config("hidden_size", "embed_dim", default=1))
    yield from _fitting(config)


def _numbered_patches(config: _Facts) -> Iterator[Tensor]:
    """Patches with their row and column before their values."""
    places = torch.cartesian_prod(torch.arange(1.0, 5.0, device="cpu"), torch.arange(1.0, 5.0, device="cpu"))[None]
    patches = next(_patches(config))
    yield torch.cat([places, _random(1, 16, config("patch_embed_hidden_size", default=patches.shape[-1]))], -1)


def _series(config: _Facts) -> Iterator[Tensor]:
    length = config("context_length", default=64)
    yield _random(1, length)
    yield _random(1, length, config("num_input_channels", "input_size", default=1))


def _regions(name: str) -> Callable[[_Facts], Iterator[Tensor]]:
    """Four regions of an image, each with as many numbers as an attribute says."""

    def made(config: _Facts) -> Iterator[Tensor]:
        yield _random(1, 4, config(name, default=4))

    return made


def _mel(config: _Facts) -> Iterator[Tensor]:
    yield _random(1, 128, config("input_feat_size", "num_mel_bins", default=80))


def _nothing_masked(config: _Facts) -> Iterator[Tensor]:
    yield torch.zeros(1, 128, dtype=torch.bool, device="cpu")


def _grid(config: _Facts) -> Iterator[Tensor]:
    yield torch.tensor([[1, 4, 4]], device="cpu")


def _steps(size: Callable[[_Facts], int]) -> Callable[[_Facts], Iterator[Tensor]]:
    def made(config: _Facts) -> Iterator[Tensor]:
        yield _random(1, _LENGTH, size(config))

    return made


def _positions(config: _Facts) -> Iterator[Tensor]:
    yield torch.arange(_LENGTH, device="cpu")[None]


def _ones(config: _Facts) -> Iterator[Tensor]:
    yield torch.ones(1, _length(config), dtype=torch.int64, device="cpu")


def _ones_of_images(config: _Facts) -> Iterator[Tensor]:
    yield torch.ones(1, _length(config), config("num_frames", default=2), dtype=torch.int64, device="cpu")


def _boxes(config: _Facts) -> Iterator[Tensor]:
    yield torch.tensor([[[0, 0, 10, 10]]], device="cpu").expand(1, _LENGTH, 4).contiguous()


_INPUTS: Final[dict[str, Callable[[_Facts], Iterator[Tensor]]]] = {
    "input_ids": _text,
    "decoder_input_ids": _text,
    "qformer_input_ids": _text,
    "attention_mask": _ones,
    "pixel_values": _image,
    "image_sizes": _sizes,
    "pixel_values_videos": _video,
    "input_features": _spectrogram,
    "input_values": _sound,
    "image_attention_mask": _ones_of_images,
    "bbox": _boxes,
    "image_embeds_position_mask": _places,
    "hidden_states": _patches,
    "latents": _fitting,
    "flattened_patches": _numbered_patches,
    "visual_feats": _regions("visual_feat_dim"),
    "visual_pos": _regions("visual_pos_dim"),
    "audio_mel": _mel,
    "audio_mel_mask": _nothing_masked,
    "past_values": _series,
    "grid_thw": _grid,
    "image_grid_thw": _grid,
    "states": _steps(lambda config: config("state_dim", default=1)),
    "actions": _steps(lambda config: config("act_dim", default=1)),
    "rewards": _steps(lambda config: 1),
    "returns_to_go": _steps(lambda config: 1),
    "timesteps": _positions,
}
_MEDIA: Final = ("pixel_values", "input_features", "input_values")
"""What comes beside a text, where text alone is not enough."""
_GRIDS: Final = ("image_grid_thw",)
_STEPS: Final = ("actions", "rewards", "returns_to_go", "timesteps")
_OF_IMAGES: Final = ("image_attention_mask", "image_embeds_position_mask", "visual_feats", "visual_pos")
_BESIDE: Final = (*_MEDIA, *_STEPS, "attention_mask", "bbox", *_OF_IMAGES)
