"""nanoGPT's published CPU recipe for character-level Shakespeare, written afresh: the
yardstick of bench/shakespeare.

    python train.py config/train_shakespeare_char.py --device=cpu --compile=False
    --eval_iters=20 --log_interval=1
      --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128
      --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0

A GPT-2 decoder: learned positions, pre-LayerNorm without biases, GELU, 4x feed-forward,
tied embeddings; N(0, 0.02) with the residual projections divided by sqrt(2 L).
AdamW(0.9, 0.99), weight decay 0.1 on matrices, clip 1, 100 warm-up steps, cosine 1e-3
-> 1e-4. Characters; first 90 % train, last 10 % validation. Source:
github.com/karpathy/nanoGPT (README, "I only have a macbook").

It leaves out nanoGPT's loss estimates and its 2,000 log lines, which only slow it, and
scores the whole validation text once.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONTEXT, LAYERS, HEADS, WIDTH, BATCH = 64, 4, 4, 128, 12


class LayerNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = LayerNorm(), LayerNorm()
        self.c_attn, self.attn_c_proj = (
            nn.Linear(WIDTH, 3 * WIDTH, bias=False),
            nn.Linear(WIDTH, WIDTH, bias=False),
        )
        self.c_fc, self.mlp_c_proj = (
            nn.Linear(WIDTH, 4 * WIDTH, bias=False),
            nn.Linear(4 * WIDTH, WIDTH, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            part.view(batch, length, HEADS, -1).transpose(1, 2)
            for part in self.c_attn(self.ln_1(x)).split(WIDTH, dim=2)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_c_proj(
            mixed.transpose(1, 2).contiguous().view(batch, length, WIDTH)
        )
        return x + self.mlp_c_proj(F.gelu(self.c_fc(self.ln_2(x))))


class GPT2(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.wte, self.wpe = (
            nn.Embedding(vocabulary, WIDTH),
            nn.Embedding(CONTEXT, WIDTH),
        )
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.ln_f = LayerNorm()
        self.lm_head = nn.Linear(WIDTH, vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(
                    parameter,
                    std=0.02 / math.sqrt(2 * LAYERS)
                    if name.endswith("c_proj.weight")
                    else 0.02,
                )

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def learning_rate(
    step: int, steps: int, warmup: int = 100, peak: float = 1e-3, floor: float = 1e-4
) -> float:
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return floor + 0.5 * (
        1 + math.cos(math.pi * (step - warmup) / (steps - warmup))
    ) * (peak - floor)


@torch.no_grad()
def whole_loss(model: nn.Module, ids: Tensor) -> float:
    """Mean nats over non-overlapping windows; every character but the first is a
    target, the short last window included.
    """
    full = (len(ids) - 1) // CONTEXT * CONTEXT
    x, y = ids[:full].view(-1, CONTEXT), ids[1 : full + 1].view(-1, CONTEXT)
    batches = [
        *zip(x.split(128), y.split(128)),
        (ids[None, full:-1], ids[None, full + 1 :]),
    ]
    total = sum(
        F.cross_entropy(
            model(ids_BT).flatten(0, 1), targets.flatten(), reduction="sum"
        ).item()
        for ids_BT, targets in batches
        if targets.numel()
    )
    return total / (len(ids) - 1)


def train(corpus: Path, seed: int, steps: int) -> float:
    text = corpus.read_text(encoding="utf-8")
    index = {character: place for place, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([index[character] for character in text])
    known, held = ids[: int(0.9 * len(ids))], ids[int(0.9 * len(ids)) :]
    torch.manual_seed(seed)
    model = GPT2(len(index))
    groups = [
        {
            "params": [item for item in model.parameters() if item.ndim == 2],
            "weight_decay": 0.1,
        },
        {
            "params": [item for item in model.parameters() if item.ndim == 1],
            "weight_decay": 0.0,
        },
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        starts = torch.randint(len(known) - CONTEXT, (BATCH,))
        x = torch.stack([known[at : at + CONTEXT] for at in starts])
        y = torch.stack([known[at + 1 : at + 1 + CONTEXT] for at in starts])
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return whole_loss(model, held)
