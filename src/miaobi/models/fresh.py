"""A base that knows nothing: a tokenizer made of the texts at hand and random weights, so
that a task's head is trained from scratch and what a pretrained base is worth can be
measured.

It is a Transformers folder under $MIAOBI_HOME/converted, the same for the same texts,
sizes and seed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from miaobi.core.engine import Weights
from miaobi.core.errors import BadInput
from miaobi.core.files import home, write_beside
from miaobi.core.language import say

if TYPE_CHECKING:
    from miaobi.data.text.tokenizer import Tokenizer
    from miaobi.models.base import Base

NEW = "new"
"""What a recipe names as its base."""
SPECIALS = ("[PAD]", "[CLS]", "[SEP]")
ROLES = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
CONTEXT = 512
"""Tokens of a text."""


@dataclass(frozen=True)
class NewConfig:
    """The base that `base: new` makes."""

    body: Literal["transformer", "lstm"] = "transformer"
    """transformer: an encoder in BERT's layout. lstm: a bidirectional LSTM."""
    num_layers: Annotated[int, Field(ge=1, le=1000)] = 2
    """Blocks, or stacked LSTMs."""
    hidden_size: Annotated[int, Field(ge=2, le=1_000_000, multiple_of=2)] = 128
    """Width of a token's vector."""
    tokenizer: Literal["bpe", "char"] = "bpe"
    """Made of the training texts: bpe, or char for little Chinese."""
    vocab_size: Annotated[int, Field(ge=260, le=1_000_000)] = 4096
    """Tokens of a bpe."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """Of the random weights."""


def fresh_base(config: NewConfig, texts: Sequence[str]) -> Base:
    """Return a base with a tokenizer of these texts and random weights.

    Raises BadInput where there is no text.
    """
    from miaobi.models.base import Base

    if not any(text.strip() for text in texts):
        raise BadInput(
            say(
                "base: new makes its tokenizer of the training texts, and there are none.",
                "base: new 用训练文本制作分词器，但没有文本。",
            ),
            say(
                "Give texts, or a pretrained base.",
                "请提供文本，或选用预训练基础模型。",
            ),
        )
    described = json.dumps([asdict(config), list(texts)], ensure_ascii=False)
    digest = hashlib.sha256(described.encode()).hexdigest()[:24]
    folder = home() / "converted" / digest / NEW
    if not folder.exists():
        with write_beside(folder) as draft:
            _write(config, texts, draft)
    return Base(Weights("transformers", str(folder), NEW), folder)


def _write(config: NewConfig, texts: Sequence[str], folder: Path) -> None:
    import torch

    tokenizer = _tokenizer(config, texts)
    tokenizer.save(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    sizes = {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": config.hidden_size,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": tokenizer.backend.token_to_id("[PAD]"),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        _body(config, sizes).save_pretrained(folder)


def _tokenizer(config: NewConfig, texts: Sequence[str]) -> Tokenizer:
    from miaobi.data.text.tokenizer import characters, train_bpe, with_specials

    if config.tokenizer == "char":
        plain = characters(Counter("".join(texts)), 1)
    else:
        plain = train_bpe(texts, config.vocab_size)
    return with_specials(
        plain,
        SPECIALS,
        ROLES,
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
    )


def _body(config: NewConfig, sizes: Mapping[str, Any]) -> Any:
    if config.body == "lstm":
        from miaobi.models.recurrent import RecurrentConfig, RecurrentModel

        return RecurrentModel(RecurrentConfig(layers=config.num_layers, **sizes))
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertModel

    return BertModel(
        BertConfig(
            num_hidden_layers=config.num_layers,
            num_attention_heads=max(1, config.hidden_size // 64),
            intermediate_size=4 * config.hidden_size,
            **sizes,
        )
    )
