"""A gpt that is told the last three characters through hashed tables: quicker to learn,
but in no layout that llama.cpp loads.

    x_0 = E[s_t] + E_2[h(s_{t-1}, s_t)] + E_3[h(s_{t-2}, s_{t-1}, s_t)],   h a hash into a fixed number of rows

Much of what a small character model learns is which letter follows the last two or
three; a table learns that in one look-up a token. Hashed n-gram embeddings: Huang et
al. 2025 (arXiv:2501.16975).
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.data.text import tokens
from miaobi.families import gpt
from miaobi.nn.language import LanguageModel
from miaobi.train import loop
from miaobi.train.config import TrainConfig

BIGRAMS, TRIGRAMS = 8192, 32768


class NgramGPT(gpt.GPT):
    def __init__(self, config: gpt.Config, spec: tokens.TokenSpec) -> None:
        super().__init__(config, spec)
        self.bigram, self.trigram = (
            nn.Embedding(BIGRAMS, config.hidden_size),
            nn.Embedding(TRIGRAMS, config.hidden_size),
        )
        nn.init.zeros_(self.bigram.weight)
        nn.init.zeros_(self.trigram.weight)

    def forward(self, ids: Tensor) -> Tensor:
        last, before = F.pad(ids, (1, 0))[:, :-1], F.pad(ids, (2, 0))[:, :-2]
        pair = last * 36_313 + ids * 27_191
        x = (
            self.model.embed_tokens(ids)
            + self.bigram(pair % BIGRAMS)
            + self.trigram((before * 55_433 + pair) % TRIGRAMS)
        )
        for block in self.model.layers:
            x = block(x, self.cos[: ids.size(1)], self.sin[: ids.size(1)])
        return self.lm_head(self.model.norm(x))


def train(corpus: Path, seed: int, steps: int) -> float:
    """The validation loss after `steps`, through the same data, optimisers and loop as
    every run.
    """
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    config = tokens.Config(
        path=str(corpus), min_frequency=1, context_length=64, validation=0.1
    )
    data = tokens.prepare(config, cache=Path(os.environ["MIAOBI_HOME"]), progress=False)
    objective = LanguageModel(
        NgramGPT(
            gpt.Config(
                num_layers=1, hidden_size=128, num_heads=4, intermediate_size=352
            ),
            data.spec,
        )
    )
    state = loop.start(
        objective,
        TrainConfig(
            max_steps=steps,
            batch_size=16,
            optimizer="muon",
            matrix_learning_rate=0.04,
            momentum=0.9,
            learning_rate=0.05,
            betas=(0.8, 0.95),
            weight_decay=0.0,
            schedule="linear",
            warmup=0.02,
            clip=0.0,
            seed=seed,
            device="cpu",
        ),
    )
    loop.run(state, data, [])
    return loop.validate(state, data)
