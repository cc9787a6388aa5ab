"""The examples' parameter tables against what was published, and their expectations against independent values."""

import sys
from concurrent.futures import ThreadPoolExecutor
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from fastinit import Normal, Zeros

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))  # a script's imports are those of its folder

from architectures import MODELS, Parameter, parameters
from expectations import decode, fans_of, moments, plain
from measuring import Job, observe


@pytest.fixture(scope="module")
def tables():
    return {model: parameters(model) for model in MODELS}


# Trained parameters: of the published checkpoints (GPT-2, Llama; BERT without its pre-training heads), of torchvision's
# `num_params` (ResNet-50), and of the timm models (ViT, MobileNetV2).
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "bert-base": 109_482_240,
    "llama-3-8b": 8_030_261_248,
    "resnet-50": 25_557_032,
    "vit-b-16": 86_567_656,
    "mobilenet-v2": 3_504_872,
}


def test_every_model_has_a_published_total(tables):
    assert tables.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("model", PUBLISHED)
def test_total(tables, model):
    assert sum(p.size for p in tables[model]) == PUBLISHED[model]


@pytest.mark.parametrize("model", PUBLISHED)
def test_names_are_unique(tables, model):
    names = [p.name for p in tables[model]]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "model, name, shape",
    [
        ("gpt2", "h.0.attn.c_attn.weight", (768, 2304)),
        ("gpt2-xl", "h.47.mlp.c_proj.weight", (6400, 1600)),
        ("bert-base", "bert/encoder/layer_11/attention/self/query/kernel", (768, 768)),
        ("bert-base", "bert/embeddings/LayerNorm/gamma", (768,)),
        ("llama-3-8b", "model.layers.31.self_attn.k_proj.weight", (1024, 4096)),
        ("llama-3-8b", "model.layers.0.mlp.down_proj.weight", (4096, 14336)),
        ("resnet-50", "layer4.0.downsample.0.weight", (2048, 1024, 1, 1)),
        ("resnet-50", "layer3.5.conv2.weight", (256, 256, 3, 3)),
        ("vit-b-16", "pos_embed", (1, 197, 768)),
        ("vit-b-16", "patch_embed.proj.weight", (768, 3, 16, 16)),
        ("mobilenet-v2", "blocks.0.0.conv_pw.weight", (16, 32, 1, 1)),
        ("mobilenet-v2", "blocks.6.0.conv_dw.weight", (960, 1, 3, 3)),
    ],
)
def test_checkpoint_shapes(tables, model, name, shape):
    assert {p.name: p.shape for p in tables[model]}[name] == shape


@pytest.mark.parametrize("model", PUBLISHED)
def test_layouts_fit(tables, model):
    for p in tables[model]:
        assert (fans_of(p) is None) == (p.layout is None)


@pytest.mark.parametrize(
    "model, name, std",
    [
        ("gpt2", "wte.weight", 0.02),
        ("gpt2", "h.3.mlp.c_proj.weight", 0.02 / sqrt(24)),
        ("gpt2-xl", "h.3.attn.c_proj.weight", 0.02 / sqrt(96)),
        ("bert-base", "bert/pooler/dense/kernel", 0.02 * 0.87962566103423978),
        ("llama-3-8b", "lm_head.weight", 0.02),
        ("resnet-50", "conv1.weight", sqrt(2 / (64 * 49))),
        ("resnet-50", "fc.weight", 1 / sqrt(3 * 2048)),
        ("resnet-50", "fc.bias", 1 / sqrt(3 * 2048)),
        ("vit-b-16", "head.weight", 0.02),
        ("vit-b-16", "patch_embed.proj.weight", 1 / sqrt(3 * 768)),
        ("mobilenet-v2", "blocks.0.0.conv_dw.weight", sqrt(2 / 9)),
        ("mobilenet-v2", "classifier.weight", 1 / sqrt(3 * 1000)),
        ("mobilenet-v2", "bn1.weight", 0.0),
    ],
)
def test_expected_std(tables, model, name, std):
    parameter = {p.name: p for p in tables[model]}[name]
    assert moments(plain(parameter), "float32").std == pytest.approx(std, rel=1e-12)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "bfloat16"])
def test_decoding(dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    raw = np.arange(256, dtype=np.uint8) if dtype.startswith("float8") else np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):  # signalling NaNs are among the bit patterns
        expected = raw.view(getattr(ml_dtypes, dtype)).astype(np.float64)
        decoded = decode(raw, dtype)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(decoded[finite], expected[finite])
    assert not np.isfinite(decoded[~finite]).any()


def test_coarse_moments():
    """Rounding to eight bits widens a distribution as Sheppard's correction says, about a twelfth of a step squared."""
    step = 2.0**-9  # the subnormals of e4m3fn, below 2^-6
    std = moments(Normal(0.0, step), "float8_e4m3fn").std
    assert std == pytest.approx(sqrt(step**2 + step**2 / 12), rel=1e-4)


@pytest.mark.parametrize("spoil", [lambda x: x * 1.02, lambda x: x + 3e-4], ids=["std", "mean"])
def test_a_wrong_tensor_is_noticed(spoil):
    weight = Parameter("weight", (500, 800), "weight", Normal(0.0, 0.02))
    bias = Parameter("bias", (9,), "bias", Zeros())
    job = Job([weight, bias], "float32", seed=0, threads=1)
    with ThreadPoolExecutor(1) as pool:
        assert observe(job, weight, job.fill(weight), pool).deviation < 6
        assert observe(job, weight, spoil(job.view(weight)), pool).deviation > 6
        assert observe(job, bias, job.fill(bias), pool).deviation == 0
        job.view(bias)[4] = 1e-30
        assert observe(job, bias, job.view(bias), pool).deviation == np.inf
