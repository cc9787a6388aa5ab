"""Published models as tables of parameters: name, shape, kind, fans and the published initializer.

Each table is generated from the hyper-parameters in the paper and carries the names and the axis order of the
published checkpoint; each initializer is the one its authors' code applies, not the one we would choose. Buffers that
are not trained (attention masks, running averages) are not listed.

>>> sum(parameter.size for parameter in parameters("gpt2"))
124439808
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod, sqrt

from fastinit import (
    Initializer,
    Normal,
    Ones,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    Zeros,
    torch_default_uniform,
)

__all__ = ["MODELS", "Model", "Parameter", "parameters"]


@dataclass(frozen=True)
class Parameter:
    """One trained tensor of a model.

    `layout` names the axes for `fastinit.fans`; it is None where there are no fans: biases, norms, class tokens.
    `groups` is that of a grouped convolution; `blocks` counts the matrices packed side by side along the output axis,
    as in a fused query-key-value projection.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    initializer: Initializer
    layout: str | None = None
    groups: int = 1
    blocks: int = 1

    @property
    def size(self) -> int:
        return prod(self.shape)


Table = Iterator[Parameter]


def _norm(scale: str, shift: str, width: int) -> Table:
    yield Parameter(scale, (width,), "norm scale", Ones())
    yield Parameter(shift, (width,), "norm shift", Zeros())


def _torch_norm(name: str, width: int) -> Table:
    return _norm(f"{name}.weight", f"{name}.bias", width)


def _torch_dense(
    name: str,
    fan_in: int,
    fan_out: int,
    kind: str,
    weight: Initializer,
    *,
    bias: Initializer | None = None,
    blocks: int = 1,
) -> Table:
    """`torch.nn.Linear`: (out, in), then its bias if it has one."""
    yield Parameter(f"{name}.weight", (fan_out, fan_in), kind, weight, "OI", blocks=blocks)
    if bias is not None:
        yield Parameter(f"{name}.bias", (fan_out,), "bias", bias)


def gpt2(layers: int, width: int, vocabulary: int = 50257, context: int = 1024) -> Table:
    """GPT-2 (Radford et al. 2019, table 2), as in huggingface/transformers.

    Recipe: `GPT2PreTrainedModel._init_weights` in modeling_gpt2.py. Everything N(0, 0.02), positions too (openai/gpt-2,
    src/model.py, draws positions with 0.01); the projections that end a residual branch are divided by the square root
    of the number of branches, 2 per layer (section 2.3 of the paper). Weights are stored (in, out) by `Conv1D`.
    """
    weight, residual = Normal(0.0, 0.02), Normal(0.0, 0.02 / sqrt(2 * layers))

    def conv1d(name: str, fan_in: int, fan_out: int, kind: str, rule: Initializer, *, blocks: int = 1) -> Table:
        yield Parameter(f"{name}.weight", (fan_in, fan_out), kind, rule, "IO", blocks=blocks)
        yield Parameter(f"{name}.bias", (fan_out,), "bias", Zeros())

    yield Parameter("wte.weight", (vocabulary, width), "token embedding", weight, "VD")
    yield Parameter("wpe.weight", (context, width), "position embedding", weight, "VD")
    for layer in range(layers):
        yield from _torch_norm(f"h.{layer}.ln_1", width)
        yield from conv1d(f"h.{layer}.attn.c_attn", width, 3 * width, "attention qkv", weight, blocks=3)
        yield from conv1d(f"h.{layer}.attn.c_proj", width, width, "attention output", residual)
        yield from _torch_norm(f"h.{layer}.ln_2", width)
        yield from conv1d(f"h.{layer}.mlp.c_fc", width, 4 * width, "mlp up", weight)
        yield from conv1d(f"h.{layer}.mlp.c_proj", 4 * width, width, "mlp down", residual)
    yield from _torch_norm("ln_f", width)


def bert(layers: int, width: int, vocabulary: int = 30522, context: int = 512) -> Table:
    """BERT (Devlin et al. 2019) with its pooler, as in google-research/bert.

    Recipe: `create_initializer` in modeling.py, `tf.truncated_normal_initializer(0.02)`, which cuts at two sigma and
    does not widen to make up for it: the weights have a standard deviation of 0.0176.
    """
    weight = TruncatedNormal(0.0, 0.02)

    def dense(name: str, fan_in: int, fan_out: int, kind: str) -> Table:
        yield Parameter(f"{name}/kernel", (fan_in, fan_out), kind, weight, "IO")
        yield Parameter(f"{name}/bias", (fan_out,), "bias", Zeros())

    def norm(name: str) -> Table:
        return _norm(f"{name}/LayerNorm/gamma", f"{name}/LayerNorm/beta", width)

    yield Parameter("bert/embeddings/word_embeddings", (vocabulary, width), "token embedding", weight, "VD")
    yield Parameter("bert/embeddings/position_embeddings", (context, width), "position embedding", weight, "VD")
    yield Parameter("bert/embeddings/token_type_embeddings", (2, width), "segment embedding", weight, "VD")
    yield from norm("bert/embeddings")
    for layer in range(layers):
        block = f"bert/encoder/layer_{layer}"
        for role in ("query", "key", "value"):
            yield from dense(f"{block}/attention/self/{role}", width, width, f"attention {role}")
        yield from dense(f"{block}/attention/output/dense", width, width, "attention output")
        yield from norm(f"{block}/attention/output")
        yield from dense(f"{block}/intermediate/dense", width, 4 * width, "mlp up")
        yield from dense(f"{block}/output/dense", 4 * width, width, "mlp down")
        yield from norm(f"{block}/output")
    yield from dense("bert/pooler/dense", width, width, "pooler")


def llama3(layers: int, width: int, key_value_width: int, hidden: int, vocabulary: int = 128256) -> Table:
    """Llama 3 (Grattafiori et al. 2024, table 3), as in huggingface/transformers.

    Recipe: N(0, `initializer_range` = 0.02) for every matrix, `LlamaPreTrainedModel._init_weights`; the paper does not
    give its own. Grouped-query attention: keys and values are narrower than queries. No biases.
    """
    weight = Normal(0.0, 0.02)
    yield Parameter("model.embed_tokens.weight", (vocabulary, width), "token embedding", weight, "VD")
    for layer in range(layers):
        block = f"model.layers.{layer}"
        for role, fan_out in (("q", width), ("k", key_value_width), ("v", key_value_width)):
            yield from _torch_dense(f"{block}.self_attn.{role}_proj", width, fan_out, f"attention {role}", weight)
        yield from _torch_dense(f"{block}.self_attn.o_proj", width, width, "attention output", weight)
        yield from _torch_dense(f"{block}.mlp.gate_proj", width, hidden, "mlp gate", weight)
        yield from _torch_dense(f"{block}.mlp.up_proj", width, hidden, "mlp up", weight)
        yield from _torch_dense(f"{block}.mlp.down_proj", hidden, width, "mlp down", weight)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield Parameter(f"{block}.{norm}.weight", (width,), "norm scale", Ones())
    yield Parameter("model.norm.weight", (width,), "norm scale", Ones())
    yield from _torch_dense("lm_head", width, vocabulary, "output", weight)


def vit(layers: int, width: int, patch: int = 16, image: int = 224, classes: int = 1000) -> Table:
    """Vision Transformer (Dosovitskiy et al. 2021, table 1), as in timm (huggingface/pytorch-image-models).

    Recipe: `init_weights_vit_timm` in timm/models/vision_transformer.py. Dense weights and positions truncated normal
    0.02, whose bounds are the absolute -2 and 2: a hundred sigma, so nothing is ever cut. The patch embedding keeps
    the default of `torch.nn.Conv2d`, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), for its weight and its bias.
    """
    weight = TruncatedNormal(0.0, 0.02, -2.0, 2.0, bounds="absolute")
    bound = 1.0 / sqrt(3 * patch * patch)
    dense = partial(_torch_dense, weight=weight, bias=Zeros())
    yield Parameter("cls_token", (1, 1, width), "class token", Normal(0.0, 1e-6))
    yield Parameter("pos_embed", (1, (image // patch) ** 2 + 1, width), "position embedding", weight, "EVD")
    yield Parameter(
        "patch_embed.proj.weight",
        (width, 3, patch, patch),
        "patch embedding",
        torch_default_uniform(layout="OI..."),
        "OI...",
    )
    yield Parameter("patch_embed.proj.bias", (width,), "patch bias", Uniform(-bound, bound))
    for layer in range(layers):
        block = f"blocks.{layer}"
        yield from _torch_norm(f"{block}.norm1", width)
        yield from dense(f"{block}.attn.qkv", width, 3 * width, "attention qkv", blocks=3)
        yield from dense(f"{block}.attn.proj", width, width, "attention output")
        yield from _torch_norm(f"{block}.norm2", width)
        yield from dense(f"{block}.mlp.fc1", width, 4 * width, "mlp up")
        yield from dense(f"{block}.mlp.fc2", 4 * width, width, "mlp down")
    yield from _torch_norm("norm", width)
    yield from dense("head", width, classes, "classifier")


def _conv(name: str, channels_in: int, channels_out: int, side: int, kind: str, *, norm: str, groups: int = 1) -> Table:
    """A convolution without bias, (out, in / groups, side, side), He et al. (2015) by fan_out; then its batch norm."""
    weight = VarianceScaling(2.0, "fan_out", "normal", layout="OI...", groups=groups)
    shape = (channels_out, channels_in // groups, side, side)
    yield Parameter(f"{name}.weight", shape, kind, weight, "OI...", groups)
    yield from _torch_norm(norm, channels_out)


def resnet(depths: tuple[int, ...], classes: int = 1000) -> Table:
    """ResNet with bottleneck blocks (He et al. 2016, table 1), as in torchvision.

    Recipe: torchvision/models/resnet.py. Convolutions `kaiming_normal_(mode="fan_out", nonlinearity="relu")`; the
    classifier keeps the default of `torch.nn.Linear`, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), for its weight and bias.
    """
    yield from _conv("conv1", 3, 64, 7, "stem 7x7", norm="bn1")
    channels = 64
    for stage, depth in enumerate(depths):
        width = 64 << stage
        for index in range(depth):
            block = f"layer{stage + 1}.{index}"
            yield from _conv(f"{block}.conv1", channels, width, 1, "reduce 1x1", norm=f"{block}.bn1")
            yield from _conv(f"{block}.conv2", width, width, 3, "conv 3x3", norm=f"{block}.bn2")
            yield from _conv(f"{block}.conv3", width, 4 * width, 1, "expand 1x1", norm=f"{block}.bn3")
            if index == 0:
                yield from _conv(
                    f"{block}.downsample.0", channels, 4 * width, 1, "shortcut 1x1", norm=f"{block}.downsample.1"
                )
            channels = 4 * width
    bound = 1.0 / sqrt(channels)
    yield from _torch_dense(
        "fc", channels, classes, "classifier", torch_default_uniform(layout="OI..."), bias=Uniform(-bound, bound)
    )


def mobilenet_v2(classes: int = 1000) -> Table:
    """MobileNetV2 (Sandler et al. 2018, table 2), as `mobilenetv2_100` in timm.

    Recipe: `_init_weight_goog` in timm/models/_efficientnet_builder.py, after the TensorFlow original: convolutions
    N(0, 2 / fan_out) with the true fan_out of a depthwise kernel (torch's own rule forgets to divide by the groups);
    classifier U(-1/sqrt(classes), 1/sqrt(classes)), its bias zero.
    """
    #        (expansion, channels, repeats) of table 2
    stages = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
    yield from _conv("conv_stem", 3, 32, 3, "stem 3x3", norm="bn1")
    channels = 32
    for stage, (expansion, width, repeats) in enumerate(stages):
        for index in range(repeats):
            block, hidden = f"blocks.{stage}.{index}", expansion * channels
            norms = iter(f"{block}.bn{number}" for number in (1, 2, 3))
            project = "conv_pwl" if expansion > 1 else "conv_pw"
            if expansion > 1:
                yield from _conv(f"{block}.conv_pw", channels, hidden, 1, "expand 1x1", norm=next(norms))
            yield from _conv(f"{block}.conv_dw", hidden, hidden, 3, "depthwise 3x3", norm=next(norms), groups=hidden)
            yield from _conv(f"{block}.{project}", hidden, width, 1, "project 1x1", norm=next(norms))
            channels = width
    yield from _conv("conv_head", channels, 1280, 1, "head 1x1", norm="bn2")
    bound = 1.0 / sqrt(classes)
    yield from _torch_dense("classifier", 1280, classes, "classifier", Uniform(-bound, bound), bias=Zeros())


@dataclass(frozen=True)
class Model:
    """A published model: its title, where the recipe comes from, and the generator of its table."""

    title: str
    recipe: str
    table: Callable[[], Table]


_GPT2 = "Radford et al. 2019; huggingface/transformers, modeling_gpt2.py"

MODELS: dict[str, Model] = {
    "gpt2": Model("GPT-2 small", _GPT2, partial(gpt2, 12, 768)),
    "gpt2-medium": Model("GPT-2 medium", _GPT2, partial(gpt2, 24, 1024)),
    "gpt2-large": Model("GPT-2 large", _GPT2, partial(gpt2, 36, 1280)),
    "gpt2-xl": Model("GPT-2 XL", _GPT2, partial(gpt2, 48, 1600)),
    "bert-base": Model("BERT base", "Devlin et al. 2019; google-research/bert, modeling.py", partial(bert, 12, 768)),
    "llama-3-8b": Model(
        "Llama 3 8B",
        "Grattafiori et al. 2024; huggingface/transformers, modeling_llama.py",
        partial(llama3, 32, 4096, 1024, 14336),
    ),
    "resnet-50": Model("ResNet-50", "He et al. 2016; pytorch/vision, resnet.py", partial(resnet, (3, 4, 6, 3))),
    "vit-b-16": Model("ViT-B/16", "Dosovitskiy et al. 2021; timm, vision_transformer.py", partial(vit, 12, 768)),
    "mobilenet-v2": Model("MobileNetV2", "Sandler et al. 2018; timm, _efficientnet_builder.py", mobilenet_v2),
}


def parameters(model: str) -> list[Parameter]:
    """The table of one of `MODELS`, in the order of the published checkpoint's module.

    Raises
    ------
    KeyError
        `model` is not a key of `MODELS`.
    """
    return list(MODELS[model].table())
