"""`miaobi export`: files that answer as the model does, and what cannot be exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from tests.engines.small import small_bundle

from miaobi.core.artifacts import Facts, Text, TokenLogprob
from miaobi.core.errors import Conflict, Damaged, MissingPart, NotFound, Unsupported
from miaobi.core.store import Store
from miaobi.verbs import export as verb
from miaobi.verbs.export import DType, agreement, export


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


@pytest.mark.parametrize("dtype", ["f16", "f32", "q8_0"])
def test_a_gguf_is_written_and_compared(poet: str, dtype: DType, here: Path) -> None:
    """It has the size that was reported, and answers as the native engine does."""
    exported = export("poet", to="gguf", dtype=dtype)
    assert exported.path == Path(f"exports/poet-1.{dtype}.gguf")
    assert exported.path.stat().st_size == exported.bytes
    parity = exported.parity
    assert parity is not None
    assert parity.tokens > 20
    assert parity.largest <= parity.tolerance
    text = str(exported)
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
        "miaobi.models.convert._rotary_order", lambda weight, key, shape: weight
    )
    with pytest.raises(Damaged, match="does not answer"):
        export(poet, to="gguf")
    assert not Path("exports/poet-1.f16.gguf").exists()


def test_without_llamacpp_it_says_that_nothing_was_compared(
    poet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*arguments: object) -> None:
        raise MissingPart("not installed")

    monkeypatch.setattr(verb, "compare", missing)
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
            (token, last.logprob - 0.1 * rank) for rank, token in enumerate(top)
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
