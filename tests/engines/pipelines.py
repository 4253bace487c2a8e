"""Tiny random Diffusers checkpoints, written the way published ones are: Stable
Diffusion 1.5, XL and 3, FLUX, and CogVideoX.

Their tokenizers are made here, letter by letter, so that nothing is fetched. Pictures
are 32 or 64 pixels wide; a call takes a tenth of a second.
"""

from __future__ import annotations

import string
import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    ControlNetModel,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

LETTERS = string.ascii_lowercase + string.digits
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WIDE = 32
"""Numbers for each word of the prompt, and for the prompt as a whole."""


def clip_tokenizer() -> CLIPTokenizer:
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), BOS, EOS]
    return CLIPTokenizer(
        vocab={piece: at for at, piece in enumerate(pieces)},
        merges=[],
        model_max_length=77,
    )


def clip_encoder(kind: type = CLIPTextModel) -> Any:
    size = len(clip_tokenizer())
    return kind(
        CLIPTextConfig(
            vocab_size=size,
            bos_token_id=size - 2,
            eos_token_id=size - 1,
            pad_token_id=size - 1,
            hidden_size=WIDE,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=WIDE,
        )
    )


def t5_tokenizer() -> T5TokenizerFast:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]
    return T5TokenizerFast(
        vocab=[(piece, -float(at > 2)) for at, piece in enumerate(pieces)],
        extra_ids=0,
        model_max_length=64,
    )


def t5_encoder() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer()),
            d_model=WIDE,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
        )
    )


def picture_vae(channels: int, depth: int = 2, **settings: Any) -> AutoencoderKL:
    """Halves a picture `depth - 1` times."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=channels,
        block_out_channels=(8,) * depth,
        layers_per_block=1,
        norm_num_groups=2,
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        **settings,
    )


def unet(**settings: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **{"in_channels": 4, "attention_head_dim": 4, "cross_attention_dim": WIDE}
        | settings,
    )


def stable_diffusion() -> DiffusionPipeline:
    return StableDiffusionPipeline(
        vae=picture_vae(4),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        unet=unet(),
        safety_checker=None,
        feature_extractor=None,
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
        ),
        requires_safety_checker=False,
    )


def stable_diffusion_xl() -> DiffusionPipeline:
    return StableDiffusionXLPipeline(
        vae=picture_vae(4),
        text_encoder=clip_encoder(),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        add_watermarker=False,
        unet=unet(
            cross_attention_dim=2 * WIDE,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDE,
            transformer_layers_per_block=1,
            use_linear_projection=True,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
    )


def stable_diffusion_3() -> DiffusionPipeline:
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=2 * WIDE,
            caption_projection_dim=WIDE,
            pooled_projection_dim=2 * WIDE,
        ),
        vae=picture_vae(
            16,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.06,
            scaling_factor=1.5,
        ),
        text_encoder=clip_encoder(CLIPTextModelWithProjection),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection),
        text_encoder_3=T5EncoderModel(
            T5Config(
                vocab_size=len(t5_tokenizer()),
                d_model=2 * WIDE,
                d_kv=8,
                d_ff=48,
                num_layers=2,
                num_heads=4,
            )
        ),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def flux() -> DiffusionPipeline:
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDE,
            pooled_projection_dim=WIDE,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ),
        vae=picture_vae(
            4,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.06,
            scaling_factor=1.5,
        ),
        text_encoder=clip_encoder(),
        text_encoder_2=t5_encoder(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def cogvideox() -> DiffusionPipeline:
    return CogVideoXPipeline(
        transformer=CogVideoXTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=8,
            in_channels=4,
            out_channels=4,
            time_embed_dim=4,
            text_embed_dim=WIDE,
            num_layers=1,
            sample_width=4,
            sample_height=4,
            sample_frames=9,
            patch_size=2,
            temporal_compression_ratio=4,
            max_text_seq_length=226,
        ),
        vae=AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(8,) * 4,
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
        ),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
        scheduler=CogVideoXDDIMScheduler(),
    )


MAKERS = {
    "sd15": stable_diffusion,
    "sdxl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
    "flux": flux,
    "cogvideox": cogvideox,
}


def write(name: str, folder: Path) -> Path:
    """The pipeline of that name, with the same random weights every time, as a
    Diffusers folder of safetensors.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        MAKERS[name]().save_pretrained(folder)
    return folder


def write_controlnet(folder: Path) -> Path:
    """A ControlNet for `sd15` that has an effect: published ones begin at zero and
    learn, this one is random throughout.
    """
    torch.manual_seed(1)
    net = ControlNetModel.from_unet(unet(), conditioning_embedding_out_channels=(8, 16))
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    net.save_pretrained(folder)
    return folder
