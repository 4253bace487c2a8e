"""Sentences through a few numbers: a variational autoencoder whose encoder and decoder
are LSTMs.

    log p(x) ≥ E_q[Σ_t log p(x_t | x_<t, z)] - KL(q(z|x) ‖ N(0, I)),   q(z|x) = N(μ(x), diag σ²(x))
    μ, log σ² = W [h→_n ; h←_1]                      the last states of both directions
    h_0 = tanh(W_0 z),   p(x_t | x_<t, z) = softmax(E P h_t),   h_t = LSTM([e_{t-1} ; z], h_{t-1})

Bowman et al. 2016 (arXiv:1511.06349). A decoder that sees the words before can do
without z, and then z stays empty. Three remedies, all theirs or named: the KL term's
weight rises from 0 (annealing); each dimension has nats that cost nothing (free bits,
Kingma et al. 2016, arXiv:1606.04934); the decoder sees some words blank (word dropout),
so that it must ask z. How many dimensions carry something is measured by active units,
and the likelihood by the importance-weighted bound (Burda et al. 2016,
arXiv:1509.00519), as in families/vae.py.

Shapes: ids [B, T] begin with the token that begins a text; z, μ, log σ² [B, D].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from miaobi.core.artifacts import Artifact, Facts, Text
from miaobi.data.text.tokens import TokenSpec
from miaobi.families.config import TextVAEConfig as Config
from miaobi.families.folder import read_net, write_net
from miaobi.nn.language import MASKED
from miaobi.nn.objective import Batch, Loss, Objective, Phase
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

NAME, MODALITY, DATA = "text_vae", "text", "sentences"
State = tuple[Tensor, Tensor, Tensor]
"""(h, c, z): of the decoder, each [1, B, width]."""
AT_ONCE = 64
"""Sentences in one batch through the network when a bound is estimated."""


class TextVAE(nn.Module):
    """Encoder, latent space, decoder."""

    def __init__(self, config: Config, spec: TokenSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.latent_shape = (config.latent_size,)
        width, embedding = config.hidden_size, config.embedding_size
        self.embed = nn.Embedding(spec.vocab_size, embedding)
        self.blank = nn.Parameter(torch.zeros(embedding))
        self.encoder = nn.LSTM(embedding, width, batch_first=True, bidirectional=True)
        self.to_latent = nn.Linear(2 * width, 2 * config.latent_size)
        self.from_latent = nn.Linear(config.latent_size, width)
        self.decoder = nn.LSTM(embedding + config.latent_size, width, batch_first=True)
        self.project = nn.Linear(width, embedding)
        self.drop = nn.Dropout(config.dropout)
        nn.init.normal_(self.embed.weight, std=embedding**-0.5)

    def posterior(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return μ, log σ² of q(z|x), from the tokens behind the first.

        Args:
            ids: [B, T].
            lengths: tokens of each row, the first included, int64 [B]; at least 2.
        """
        packed = pack_padded_sequence(
            self.drop(self.embed(ids[:, 1:])),
            (lengths - 1).cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        _, (last, _) = self.encoder(packed)
        both = torch.cat([last[0], last[1]], dim=1)
        mean, log_variance = self.to_latent(self.drop(both)).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 4)

    def initial(self, z: Tensor) -> State:
        """Return the decoder's state before the first token, for points z [B, D]."""
        hidden = torch.tanh(self.from_latent(z))[None]
        return hidden, torch.zeros_like(hidden), z[None]

    def step(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the logits [B, T, V] of some more tokens, and the state after them.

        Without a state, z is the middle of the latent space.
        """
        if state is None:
            state = self.initial(self.embed.weight.new_zeros(len(ids), self.size))
        return self._decode(self.embed(ids), state)

    def _decode(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, cell, z = state
        z_BTD = z[0][:, None].expand(-1, inputs.size(1), -1)
        joined = torch.cat([self.drop(inputs), z_BTD], dim=2)
        output, (hidden, cell) = self.decoder(joined, (hidden, cell))
        logits = self.project(self.drop(output)) @ self.embed.weight.T
        return logits, (hidden, cell, z)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits [B, T, V] of every token at the middle of the latent space."""
        logits, _ = self.step(ids)
        return logits

    def output(self, ids: Tensor, z: Tensor) -> Tensor:
        """Return the logits [B, T, V] of the tokens that follow; in training, some of
        the decoder's inputs are blank.
        """
        inputs = self.embed(ids)
        if self.training and self.config.word_dropout:
            blank = torch.rand(ids.shape, device=ids.device) < self.config.word_dropout
            blank[:, 0] = False
            inputs = torch.where(blank[..., None], self.blank, inputs)
        logits, _ = self._decode(inputs, self.initial(z))
        return logits

    @property
    def size(self) -> int:
        return self.config.latent_size

    def draw(self, seeds: Sequence[int]) -> Tensor:
        """Return a draw of p(z) for each seed, [B, D]."""
        rows = [
            torch.randn(self.size, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
        return torch.stack(rows).to(self.embed.weight.device)

    @torch.no_grad()
    def encode(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Return the means of q(z|x), [B, D], of texts as token ids without first and
        end token.
        """
        ids, targets = self.rows(texts)
        mean, _ = self.posterior(ids, lengths_of(targets))
        return mean

    @torch.no_grad()
    def decode(self, z: Tensor) -> list[list[int]]:
        """Return the likeliest words, one after the other, at each point [B, D].

        Token ids without first and end token.
        """
        ids = torch.full((len(z), 1), self.spec.bos_id, device=z.device)
        state = self.initial(z)
        columns = list[Tensor]()
        for _ in range(self.spec.context_length - 1):
            logits, state = self.step(ids, state)
            ids = logits[:, -1:].argmax(2)
            columns.append(ids)
        texts = torch.cat(columns, dim=1).tolist()
        return [_until(text, self.spec.eos_id) for text in texts]

    def rows(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return ids and targets [B, T] of texts, as the `sentences` data set has them."""
        width = max(map(len, texts)) + 1
        device = self.embed.weight.device
        ids = torch.full((len(texts), width), self.spec.pad_id, device=device)
        targets = torch.full((len(texts), width), MASKED, device=device)
        for row, text in enumerate(texts):
            tokens = torch.tensor(text, dtype=torch.long, device=device)
            ids[row, 0] = self.spec.bos_id
            ids[row, 1 : len(text) + 1] = tokens
            targets[row, : len(text)] = tokens
            targets[row, len(text)] = self.spec.eos_id
        return ids, targets

    @torch.no_grad()
    def bound(
        self,
        texts: Sequence[Sequence[int]],
        samples: int = 200,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return log 1/K Σ_k p(x, z_k) / q(z_k|x) in nats, [B], with K = `samples`.

        The end token is read, and not predicted: what is bounded is the probability
        that a text begins so, as where a language model scores the words of a text.

        Args:
            texts: token ids without first and end token, each at least one.
            samples: draws of q(z|x) for each text.
            generator: of the draws.
        """
        bounds = [
            self._bound(texts[first : first + AT_ONCE], samples, generator)
            for first in range(0, len(texts), AT_ONCE)
        ]
        return torch.cat(bounds)

    def _bound(
        self,
        texts: Sequence[Sequence[int]],
        samples: int,
        generator: torch.Generator | None,
    ) -> Tensor:
        ids, targets = self.rows(texts)
        mean, log_variance = self.posterior(ids, lengths_of(targets))
        targets = targets.masked_fill(targets == self.spec.eos_id, MASKED)
        log_weights = list[Tensor]()
        for _ in range(samples):
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            z = mean + noise * (0.5 * log_variance).exp()
            # log p(z) - log q(z|x)
            log_ratio = 0.5 * (noise.square() + log_variance - z.square()).sum(1)
            log_p = log_likelihood(self.output(ids, z), targets)
            log_weights.append(log_p + log_ratio)
        return torch.stack(log_weights).logsumexp(0) - math.log(samples)


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


def lengths_of(targets: Tensor) -> Tensor:
    """Return the tokens of each row that have a target, int64 [B]."""
    return (targets != MASKED).sum(1)


def log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """Return Σ_t log p(x_t | x_<t, z) in nats, [B], from logits [B, T, V]."""
    losses = F.cross_entropy(
        logits.transpose(1, 2).float(),
        targets,
        ignore_index=MASKED,
        reduction="none",
    )
    return -losses.sum(1)


class SentenceVariational(Objective):
    """Maximises the bound. Metrics: reconstruction and kl, nats a sentence."""

    unit = "sentences"

    def __init__(self, net: TextVAE) -> None:
        super().__init__()
        self.net = net

    def phases(self) -> list[Phase]:
        return [Phase("model", self.net, self.loss)]

    def loss(self, batch: Batch) -> Loss:
        config = self.net.config
        weight = 1.0
        if config.kl_warmup:
            weight = min(1.0, self.progress / config.kl_warmup)
        return self._bound(batch, config.beta * weight, config.free_bits)

    def validate(self, batch: Batch) -> Loss:
        """Return the plain bound, whatever weights training uses."""
        return self._bound(batch, 1.0, 0.0)

    def _bound(self, batch: Batch, kl_weight: float, free_bits: float) -> Loss:
        is_text = lengths_of(batch["targets"]) > 1
        ids, targets = batch["ids"][is_text], batch["targets"][is_text]
        mean, log_variance = self.net.posterior(ids, lengths_of(targets))
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        error = -log_likelihood(self.net.output(ids, z), targets).sum()
        kl_BD = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        kl_D = kl_BD.sum(0)
        paid_D = kl_D.clamp(min=free_bits * len(ids))
        metrics = {"reconstruction": error, "kl": kl_D.sum()}
        return Loss(error + kl_weight * paid_D.sum(), len(ids), metrics)


def build(config: Config, spec: TokenSpec) -> SentenceVariational:
    return SentenceVariational(TextVAE(config, spec))


@torch.no_grad()
def sample(
    objective: SentenceVariational, dataset: Any, config: Sample
) -> list[Artifact]:
    """Return each of config.prompts with what the model makes of it, passed through z;
    without prompts, sentences at points drawn from the prior.
    """
    net = objective.net
    tokenizer = dataset.tokenizer
    if not config.prompts:
        written = net.decode(net.draw(range(4)))
        return [Text(tokenizer.decode(ids), Facts("")) for ids in written]
    texts = list[Artifact]()
    for prompt in config.prompts:
        [ids] = net.decode(net.encode([tokenizer.encode([prompt])]))
        restored = tokenizer.decode(ids[: config.max_new_tokens])
        texts.append(Text(f"{prompt} → {restored}", Facts("")))
    return texts


def save(objective: SentenceVariational, folder: Path) -> None:
    write_net(objective.net, NAME, folder)


def load(folder: Path) -> TextVAE:
    return read_net(TextVAE, Config, folder)
