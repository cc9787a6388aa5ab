"""diffusers: layers that begin as nothing (adaLN-Zero, zero convolutions), and tables that are no noise."""

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers")
from comparing import differences, seeded  # noqa: E402

TRANSFORMER = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "sample_size": 8}
BLOCKS = {
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "norm_num_groups": 8,
    "attention_head_dim": 4,
}
MODELS = {
    "DiT": lambda: diffusers.DiTTransformer2DModel(
        **TRANSFORMER, in_channels=4, out_channels=8, num_embeds_ada_norm=10
    ),
    "Transformer2D": lambda: diffusers.Transformer2DModel(
        2, 16, in_channels=4, patch_size=2, sample_size=8, norm_type="ada_norm_zero", num_embeds_ada_norm=10
    ),
    "PixArt": lambda: diffusers.PixArtTransformer2DModel(**TRANSFORMER, cross_attention_dim=32, caption_channels=24),
    "ControlNet": lambda: diffusers.ControlNetModel(**BLOCKS, conditioning_embedding_out_channels=(8, 16)),
    "U-Net": lambda: diffusers.UNet2DConditionModel(
        **BLOCKS, sample_size=16, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")
    ),
    "SD3": lambda: diffusers.SD3Transformer2DModel(
        sample_size=16, num_layers=2, attention_head_dim=8, num_attention_heads=4, joint_attention_dim=32,
        caption_projection_dim=32, pooled_projection_dim=64, pos_embed_max_size=16,
    ),
    "Flux": lambda: diffusers.FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    ),
    "VAE": lambda: diffusers.AutoencoderKL(block_out_channels=(32,), norm_num_groups=8),
}  # fmt: skip


# ControlNet has the blocks of the U-Net
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name == "U-Net")) for name in MODELS])
def test_a_model_is_its_authors(name, own):
    authors = [seeded(MODELS[name], seed) for seed in (1, 2, 3)]
    models = [own(MODELS[name], seed) for seed in (0, 1)]
    assert list(map(str, differences(authors, models))) == []


def test_zero_convolutions_are_zero(own):
    model = own(MODELS["ControlNet"], 0)
    zero = [*model.controlnet_down_blocks.parameters(), *model.controlnet_mid_block.parameters()]
    zero += model.controlnet_cond_embedding.conv_out.parameters()
    assert len(zero) > 8 and not any(tensor.any() for tensor in zero)
    assert model.conv_in.weight.any()
