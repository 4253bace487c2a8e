"""A decoder-only Transformer in the layout of LlamaForCausalLM, so that llama.cpp,
OpenVINO, vLLM and PEFT load what is trained here.

    x ← x + W_o · attention(rms(x)),   x ← x + W_down (silu(W_gate h) ⊙ W_up h),  h = rms(x)
    attention (nn/attention.py) is causal, its q and k rotated by their positions

RMSNorm: Zhang & Sennrich 2019 (arXiv:1910.07467). SwiGLU: Shazeer 2020
(arXiv:2002.05202). Layout: Touvron et al. 2023 (arXiv:2302.13971).

What a block adds starts at zero (W_o = W_down = 0), as does the output layer: the
untrained model predicts every token alike. The heads of the first layer start by looking
1, 2, 3 ... positions back (`look_back`), which training would have to learn first.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.data.text.tokens import TokenSpec
from miaobi.families.config import GPTConfig as Config
from miaobi.nn.attention import Attention, frequencies, rotary
from miaobi.nn.language import LanguageModel
from miaobi.nn.language import sample_texts as sample
from miaobi.nn.sample import TextSample as Sample

__all__ = [
    "DATA",
    "MODALITY",
    "NAME",
    "Config",
    "Sample",
    "build",
    "load",
    "sample",
    "save",
]

NAME, MODALITY, DATA = "gpt", "text", "tokens"


class FeedForward(nn.Module):
    """x [B, T, C] -> [B, T, C]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.inner, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.inner, bias=False)
        self.down_proj = nn.Linear(config.inner, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(self.gate_proj(x)) * self.up_proj(x)
        output: Tensor = self.down_proj(hidden)
        return output


class Block(nn.Module):
    """x [B, T, C] -> [B, T, C]; cos, sin [T, head width]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self_attn = Attention(config.hidden_size, config.heads, config.kv_heads)
        self.mlp = FeedForward(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.dropout = config.dropout

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        attention = self.self_attn(
            self.input_layernorm(x), causal=True, rotation=(cos, sin)
        )
        x = x + F.dropout(attention, self.dropout, self.training)
        update = self.mlp(self.post_attention_layernorm(x))
        return x + F.dropout(update, self.dropout, self.training)


class Trunk(nn.Module):
    """ids [B, T] -> [B, T, C]; cos, sin [T, head width]."""

    def __init__(self, config: Config, spec: TokenSpec) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(spec.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.norm_eps)

    def forward(self, ids: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        for block in self.layers:
            x = block(x, cos, sin)
        normed: Tensor = self.norm(x)
        return normed


class GPT(nn.Module):
    """ids [B, T] -> logits [B, T, V]. Names of parameters are LlamaForCausalLM's."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: Config, spec: TokenSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.model = Trunk(config, spec)
        self.lm_head = nn.Linear(config.hidden_size, spec.vocab_size, bias=False)
        width = config.hidden_size // config.heads
        cos, sin = rotary(spec.context_length, width, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Set matrices to a standard deviation of 1/√inputs, and to 0 where a block ends.

        So every layer keeps its input's scale.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                zero = name.endswith(("o_proj", "down_proj", "lm_head"))
                std = 0.0 if zero else module.in_features**-0.5
                nn.init.normal_(module.weight, std=std)
        embedding = self.model.embed_tokens
        if self.config.tie_embeddings:
            nn.init.normal_(embedding.weight, std=0.02)
            self.lm_head.weight = embedding.weight
        else:
            first = self.model.layers[0]
            assert isinstance(first, Block)
            look_back(embedding.weight, first.self_attn, self.config)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.size(1)
        hidden = self.model(ids, self.cos[:length], self.sin[:length])
        logits: Tensor = self.lm_head(hidden)
        return logits


def look_back(
    embedding: Tensor,
    attention: Attention,
    config: Config,
    constant: float = 3.0,
    gain: float = 2.5,
    pairs: int = 3,
) -> None:
    """Give head h of a layer a score that peaks h + 1 positions back, whatever the text.

    Coordinate 0 of every embedding is one constant c, so that column 0 of W_q and W_k
    acts as a bias. Over the fastest pairs i, with R a rotation,

        k_i = c · gain · (1, 0),   q_i = R(-(h+1) ω_i) k_i

    so the score at positions t, s is (c · gain)² Σ_i cos(ω_i (t - s - h - 1)), largest at
    s = t - h - 1. Our own; measured in bench/shakespeare.

    Args:
        embedding: [V, C], changed in place.
        attention: of the layer, changed in place.
        config: the model's.
        constant: c.
        gain: of queries and keys.
        pairs: how many rotary pairs take part.
    """
    width = config.hidden_size // config.heads
    half = width // 2
    pair = torch.arange(min(pairs, half))
    radians = frequencies(width, config.rope_theta)[:pairs]
    embedding[:, 0] = constant
    queries = attention.q_proj.weight[:, 0].view(config.heads, width)
    keys = attention.k_proj.weight[:, 0].view(config.kv_heads, width)
    for head in range(config.heads):
        angle = -(head + 1) * radians
        queries[head, pair] = gain * angle.cos()
        queries[head, pair + half] = gain * angle.sin()
    keys[:, pair] = gain
    keys[:, pair + half] = 0.0


def build(config: Config, spec: TokenSpec) -> LanguageModel:
    return LanguageModel(GPT(config, spec))


def save(objective: LanguageModel, folder: Path) -> None:
    """Write a Transformers folder: config.json, generation_config.json, model.safetensors."""
    net: GPT = objective.net  # type: ignore[assignment]
    weights = {
        name: value.detach().cpu().contiguous()
        for name, value in net.state_dict().items()
    }
    if net.config.tie_embeddings:
        del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    ids: dict[str, object] = {
        "bos_token_id": net.spec.bos_id,
        "eos_token_id": net.spec.eos_id,
        "pad_token_id": net.spec.pad_id,
    }
    _write(folder / "config.json", llama_config(net.config, net.spec) | ids)
    _write(folder / "generation_config.json", {"do_sample": True, **ids})


def _write(path: Path, settings: dict[str, object]) -> None:
    path.write_text(json.dumps(settings, indent=1), encoding="utf-8")


def llama_config(config: Config, spec: TokenSpec) -> dict[str, object]:
    """Return the config.json of this model."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": spec.vocab_size,
        "max_position_embeddings": spec.context_length,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.inner,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.hidden_size // config.heads,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rope_theta": config.rope_theta,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "dtype": "float32",
    }


def load(folder: Path) -> nn.Module:
    """Return Transformers' own LlamaForCausalLM, with its key–value cache."""
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    net: nn.Module = LlamaForCausalLM.from_pretrained(
        folder, use_safetensors=True, attn_implementation="sdpa"
    )
    return net.eval()
