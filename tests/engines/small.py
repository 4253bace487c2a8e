"""A small model for engine tests: a gpt of a few hundred thousand weights that learnt
one poem, as bundle and as GGUF.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import torch
from torch.nn import functional as F

from miaobi.core import bundle
from miaobi.core.bundle import Manifest
from miaobi.data.text import tokenizer
from miaobi.data.text.tokens import TokenSpec
from miaobi.families import gpt, lstm
from miaobi.models.convert import to_gguf

CONTEXT = 256
POEM = (
    "春江潮水连海平，海上明月共潮生。滟滟随波千万里，"
    "何处春江无月明！江流宛转绕芳甸，月照花林皆似霰；空里流霜不觉飞，"
    "汀上白沙看不见。"
    "江天一色无纤尘，皎皎空中孤月轮。江畔何人初见月？江月何年初照人？人生代代无"
    "穷已，江月年年望相似。不知江月待何人，但见长江送流水。"
    "The moon 🌙 rises over the river in spring, a flower by the sea."
)


@cache
def small_tokenizer() -> tokenizer.Tokenizer:
    return tokenizer.characters(Counter(POEM), 1)


def spec() -> TokenSpec:
    end = small_tokenizer().end_id
    return TokenSpec(small_tokenizer().vocab_size, CONTEXT, end, end, end, "char")


@cache
def trained(family: str) -> torch.nn.Module:
    """Trained here for a second or two, the same every time; not to the end, so that
    its choices stay open.
    """
    torch.manual_seed(0)
    module = {"gpt": gpt, "lstm": lstm}[family]
    config = (
        gpt.Config(num_layers=2, hidden_size=64)
        if family == "gpt"
        else lstm.Config(hidden_size=96, num_layers=1, embedding_size=64)
    )
    objective = module.build(config, spec())
    ids = torch.tensor(
        [
            small_tokenizer().end_id,
            *small_tokenizer().encode([POEM]),
            small_tokenizer().end_id,
        ]
        * 3
    )
    optimiser = torch.optim.AdamW(objective.parameters(), lr=4e-3)
    for _ in range(200):
        starts = torch.randint(0, len(ids) - 65, (12,))
        batch = torch.stack([ids[start : start + 65] for start in starts.tolist()])
        loss = F.cross_entropy(
            objective.net(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss < 1.3:
            break
    return objective.eval()


def small_bundle(folder: Path, family: str = "gpt", chat: bool = False) -> Path:
    def save(draft: Path) -> None:
        {"gpt": gpt, "lstm": lstm}[family].save(trained(family), draft)
        small_tokenizer().save(draft)
        if not chat:
            (draft / "chat_template.jinja").unlink(missing_ok=True)

    return bundle.write(folder, Manifest(family, "text"), save)


def small_gguf(folder: Path, chat: bool = False) -> Path:
    bundle = small_bundle(folder / "for-gguf", chat=chat)
    return to_gguf(bundle, folder / "small.gguf", "f16")
