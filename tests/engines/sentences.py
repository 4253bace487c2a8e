"""A small model of sentences as a bundle: trained on a few, for a second or two."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import torch

from miaobi.core import bundle
from miaobi.core.bundle import Manifest
from miaobi.data.text.tokenizer import Tokenizer, characters
from miaobi.data.text.tokens import TokenSpec
from miaobi.families import text_vae
from miaobi.families.text_vae import SentenceVariational

TEXTS = ["she came", "she went", "he came in", "he went out", "we stayed", "好的"]


@cache
def tokenizer() -> Tokenizer:
    return characters(Counter("".join(TEXTS)), 1)


@cache
def trained() -> SentenceVariational:
    torch.manual_seed(0)
    end = tokenizer().end_id
    spec = TokenSpec(tokenizer().vocab_size, 24, end, end, end, "char")
    config = text_vae.Config(
        latent_size=4, hidden_size=48, embedding_size=24, dropout=0, kl_warmup=0
    )
    objective = text_vae.build(config, spec)
    ids, targets = objective.net.rows([tokenizer().encode([text]) for text in TEXTS])
    batch = {"ids": ids.repeat(4, 1), "targets": targets.repeat(4, 1)}
    optimiser = torch.optim.AdamW(objective.parameters(), lr=1e-2)
    for _ in range(150):
        loss = objective.loss(batch)
        optimiser.zero_grad()
        (loss.total / loss.count).backward()
        optimiser.step()
    return objective.eval()


def sentence_bundle(folder: Path) -> Path:
    def save(draft: Path) -> None:
        text_vae.save(trained(), draft)
        tokenizer().save(draft)
        (draft / "chat_template.jinja").unlink()

    return bundle.write(folder, Manifest("text_vae", "text"), save)
