"""Tiny random bases of the real architectures, each with a byte-level tokenizer, as
folders that `open_base` reads.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from miaobi.core.engine import Weights
from miaobi.models.base import Base

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def tokenizer(chats: bool = False) -> PreTrainedTokenizerFast:
    """A token for each byte; what it reads it writes again exactly."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = Tokenizer(
        BPE({token: number for number, token in enumerate([*SPECIAL, *letters])}, [])
    )
    model.pre_tokenizer, model.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    model.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|im_end|>" if chats else "</s>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHATML if chats else None
    return fast


def base(
    folder: Path,
    kind: str = "llama",
    chats: bool = False,
    seed: int = 0,
    layers: int = 2,
) -> Base:
    """kind: llama, gpt2 (causal), t5, bart (encoder-decoder)."""
    torch.manual_seed(seed)
    own_tokenizer = tokenizer(chats)
    ids = {
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": own_tokenizer.eos_token_id,
    }
    size = len(own_tokenizer)
    net = {
        "llama": lambda: LlamaForCausalLM(
            LlamaConfig(
                vocab_size=size,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=256,
                **ids,
            )
        ),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(
                vocab_size=size,
                n_embd=32,
                n_layer=layers,
                n_head=4,
                n_positions=256,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                **ids,
            )
        ),
        "t5": lambda: T5ForConditionalGeneration(
            T5Config(
                vocab_size=size,
                d_model=32,
                d_kv=8,
                d_ff=64,
                num_layers=layers,
                num_heads=4,
                dropout_rate=0.0,
                decoder_start_token_id=0,
                **ids,
            )
        ),
        "bart": lambda: BartForConditionalGeneration(
            BartConfig(
                vocab_size=size,
                d_model=32,
                encoder_layers=layers,
                decoder_layers=layers,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                max_position_embeddings=256,
                dropout=0.0,
                decoder_start_token_id=2,
                forced_eos_token_id=None,
                **ids,
            )
        ),
    }[kind]()
    net.save_pretrained(folder)
    own_tokenizer.save_pretrained(folder)
    return Base(Weights("transformers", str(folder), folder.name), folder)
