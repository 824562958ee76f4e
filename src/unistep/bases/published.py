"""The published configurations of the bases, from which a plan builds them where there are no files."""

from typing import Any

SD3_TRANSFORMER: dict[str, Any] = {
    "attention_head_dim": 64, "caption_projection_dim": 1536, "in_channels": 16, "joint_attention_dim": 4096,
    "num_attention_heads": 24, "num_layers": 24, "out_channels": 16, "patch_size": 2,
    "pooled_projection_dim": 2048, "pos_embed_max_size": 192, "sample_size": 128,
}  # fmt: skip
"""SD3-medium (Esser et al. 2024, arXiv 2403.03206)."""
SD3_WORDS = ((333, 4096), (2048,))
"""Shapes of a prompt's embeddings: 77 tokens of CLIP and 256 of T5; pooled."""
SD21_UNET: dict[str, Any] = {
    "attention_head_dim": [5, 10, 20, 20], "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 1024, "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "in_channels": 4, "layers_per_block": 2, "out_channels": 4, "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "use_linear_projection": True,
}  # fmt: skip
"""Stable Diffusion 2 and 2.1 (Rombach et al. 2022, arXiv 2112.10752)."""
SD21_WORDS = (77, 1024)
"""Shape of a prompt's embedding."""
SD21_VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "sample_size": 512,
    "scaling_factor": 0.18215, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
SD3_VAE: dict[str, Any] = {
    **SD21_VAE, "latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
SDXL_UNET: dict[str, Any] = {
    "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2, "layers_per_block": 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"], "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
"""SDXL (Podell et al. 2023, arXiv 2307.01952)."""
SDXL_VAE: dict[str, Any] = {**SD21_VAE, "sample_size": 1024, "scaling_factor": 0.13025}
SWIN: dict[str, Any] = {
    "model_channels": 160, "channel_mult": (1, 2, 2, 4), "num_res_blocks": (2, 2, 2, 2), "channels": 3,
    "image_size": 64, "lq_size": 64, "window_size": 8, "swin_embed_dim": 192, "swin_depth": 2, "heads": 6,
    "mlp_ratio": 4,
}  # fmt: skip
"""ResShift x4 (Yue et al. 2023, arXiv 2307.12348)."""
SWIN_FACES = {**SWIN, "channels": 8, "lq_size": 512}
VQ_F4: dict[str, Any] = {
    "ch": 128, "ch_mult": (1, 2, 4), "num_res_blocks": (2, 2, 2), "z_channels": 3, "embed_dim": 3,
    "n_embed": 8192,
}  # fmt: skip
VQ_FACES: dict[str, Any] = {
    "ch": 64, "ch_mult": (1, 2, 4, 8), "num_res_blocks": (1, 2, 3, 4), "z_channels": 8, "embed_dim": 8,
    "n_embed": 4096,
}  # fmt: skip
