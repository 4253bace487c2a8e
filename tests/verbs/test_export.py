"""`miaobi export`: files that answer as the model does, and what cannot be exported."""

from __future__ import annotations

import _ctypes
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from tests.engines.small import small_bundle, small_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

import miaobi
from miaobi.core import gguf
from miaobi.core.artifacts import Facts, Text, TokenLogprob
from miaobi.core.errors import Conflict, Damaged, NotFound, Unsupported
from miaobi.core.store import Store
from miaobi.models.convert import quantise
from miaobi.models.convert.quantise import Dtype
from miaobi.verbs.export import export
from miaobi.verbs.export.parity import agreement

LOSS: dict[Dtype, float] = {
    "f32": 1e-4,
    "f16": 1e-3,
    "q8_0": 0.01,
    "q5_k_m": 0.05,
    "q4_k_m": 0.1,
}
"""Share by which a number format may change the perplexity."""


@pytest.fixture
def poet(tmp_path: Path) -> str:
    """The name of a small model in the store."""
    return str(Store().add(small_bundle(tmp_path / "bundle"), "poet"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("dtype", ["f16", "f32", "q8_0", "q5_k_m", "q4_k_m"])
def test_a_gguf_is_written_and_compared(poet: str, dtype: Dtype, here: Path) -> None:
    """It has the size that was reported, and answers as the native engine does."""
    exported = export("poet", to="gguf", dtype=dtype)
    assert exported.path == Path(f"exports/poet-1.{dtype}.gguf")
    assert exported.path.stat().st_size == exported.bytes
    parity = exported.parity
    assert parity is not None
    assert parity.tokens > 20
    assert parity.largest <= parity.tolerance
    assert exported.perplexity is not None
    assert exported.perplexity.tokens > 1000
    ratio = exported.perplexity.exported / exported.perplexity.original
    assert ratio == pytest.approx(1, abs=LOSS[dtype])
    text = str(exported)
    assert "perplexity" in text
    assert "miaobi generate text --model exports/poet-1" in text
    assert "MB" in text


def test_a_folder_for_transformers(poet: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    exported = export(poet, to="transformers")
    model = AutoModelForCausalLM.from_pretrained(exported.path)
    tokenizer = AutoTokenizer.from_pretrained(exported.path)
    logits = model(**tokenizer("春江", return_tensors="pt")).logits
    assert logits.shape[1] == 2
    assert exported.parity is None
    assert "vllm serve" in str(exported)


def test_a_file_is_only_overwritten_on_request(poet: str) -> None:
    first = export(poet, to="transformers", out=Path("mine"))
    with pytest.raises(Conflict, match="mine"):
        export(poet, to="transformers", out=Path("mine"))
    second = export(poet, to="transformers", out=Path("mine"), overwrite=True)
    assert second.bytes == first.bytes


def test_a_file_that_answers_otherwise_is_removed(
    poet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "miaobi.models.convert.rotary_order", lambda weight, key, shape: weight
    )
    with pytest.raises(Damaged, match="does not answer"):
        export(poet, to="gguf")
    assert not list(Path("exports").iterdir())


def test_without_llamacpp_it_says_that_nothing_was_compared(
    poet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miaobi.engines.llamacpp.installed", lambda: "pip install")
    assert "not compared" in str(export(poet))


@pytest.mark.parametrize("to", ["gguf", "transformers"])
def test_a_family_without_that_format_is_refused(
    to: Literal["gguf", "transformers"], tmp_path: Path
) -> None:
    Store().add(small_bundle(tmp_path / "bundle", "lstm"), "reader")
    with pytest.raises(Unsupported):
        export("reader", to=to)


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(NotFound, match="raeder"):
        export("raeder")


def answer(text: str, *logprobs: float, top: str = "") -> Text:
    """A text whose tokens are its characters.

    `top` are the most probable tokens at its end, the first as probable as the last
    token and each next one 0.1 nats less.
    """
    tokens = [
        TokenLogprob(token, logprob)
        for token, logprob in zip(text, logprobs, strict=True)
    ]
    if top:
        last = tokens[-1]
        top_logprobs = tuple(
            TokenLogprob(token, last.logprob - 0.1 * rank)
            for rank, token in enumerate(top)
        )
        tokens[-1] = replace(last, top_logprobs=top_logprobs)
    return Text(text, Facts("m"), logprobs=tuple(tokens))


def test_agreement_measures_the_largest_difference() -> None:
    ours = answer("ab", -0.5, -1.0)
    theirs = answer("ab", -0.6, -1.0)
    assert agreement(ours, theirs, 0.2) == (2, pytest.approx(0.1))


@pytest.mark.parametrize(
    ("token", "tie", "tokens"), [("c", 0.2, 1), ("c", 0.05, -1), ("z", 9, -1)]
)
def test_agreement_allows_near_ties_only(token: str, tie: float, tokens: int) -> None:
    ours = answer("ab", -0.5, -1.0, top="bc")
    theirs = answer(f"a{token}", -0.5, -1.0)
    assert agreement(ours, theirs, tie)[0] == tokens


def test_agreement_stops_at_a_character_of_several_tokens() -> None:
    ours = answer("a\ufffd\ufffdb", -0.5, -0.3, -0.1, -1.0)
    theirs = answer("a编b", -0.5, -0.1, -1.0)
    assert agreement(ours, theirs, 0.2) == (1, 0.0)


@pytest.fixture
def padded(tmp_path: Path) -> Path:
    """A base whose embeddings have many rows that no token belongs to, all likely."""
    folder = tmp_path / "padded"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4 * small_tokenizer().vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    small_tokenizer().save(folder)
    return folder


def test_embeddings_with_more_rows_than_tokens(padded: Path) -> None:
    exported = export(str(padded))
    metadata = gguf.read(exported.path).metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == 4 * small_tokenizer().vocab_size
    assert exported.parity is not None
    with miaobi.load(exported.path, engine="llamacpp") as model:
        assert isinstance(model.generate("The ", raw=True, max_new_tokens=8)[0], Text)


def test_a_failed_export_leaves_no_file_and_keeps_the_old_one(
    padded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr("miaobi.verbs.export.gguf.measure", fail)
    with pytest.raises(IndexError):
        export(str(padded))
    assert not list(Path("exports").iterdir())
    Path("old.gguf").write_text("old")
    with pytest.raises(IndexError):
        export(str(padded), out=Path("old.gguf"), overwrite=True)
    assert Path("old.gguf").read_text() == "old"


def shrink_tokens(folder: Path) -> None:
    """Leave the embeddings fewer rows than the tokenizer has tokens."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "vocab_size": 40}))


def shrink_table(folder: Path) -> None:
    """Give config.json another vocab_size than the embeddings have."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "vocab_size": config["vocab_size"] - 1}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [(shrink_tokens, "token number"), (shrink_table, "rows, and config.json")],
)
@pytest.mark.parametrize("to", ["gguf", "transformers"])
def test_a_tokenizer_that_does_not_fit_is_found_at_the_start(
    padded: Path,
    change: Callable[[Path], None],
    reason: str,
    to: Literal["gguf", "transformers"],
) -> None:
    change(padded)
    with pytest.raises(Damaged, match=reason):
        export(str(padded), to=to)
    assert not Path("exports").exists()


def test_k_quants_without_the_function_are_refused_with_the_remedy(
    poet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise, "library", lambda: Path(_ctypes.__file__))
    quantise.ggml_quantize.cache_clear()
    with pytest.raises(Unsupported, match="llama-quantize"):
        export(poet, dtype="q4_k_m")
    quantise.ggml_quantize.cache_clear()
    assert not Path("exports").exists()
