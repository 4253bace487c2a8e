"""`miaobi export`: writes where it says, proves it, refuses what it cannot."""

from pathlib import Path

import pytest
from tests.engines.small import small_bundle

from miaobi.core.artifacts import Facts, Text, TokenLogprob
from miaobi.core.errors import Conflict, Damaged, MissingPart, NotFound, Unsupported
from miaobi.core.store import Store
from miaobi.verbs import export as verb
from miaobi.verbs.export import agreement, export


@pytest.fixture
def poet(tmp_path: Path) -> str:
    return str(Store().add(small_bundle(tmp_path / "bundle"), "poet"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("dtype", ["f16", "f32", "q8_0"])
def test_a_gguf_is_written_and_compared(poet: str, dtype: str, here: Path) -> None:
    found = export("poet", to="gguf", dtype=dtype)  # type: ignore[arg-type]
    assert (
        found.path == Path(f"exports/poet-1.{dtype}.gguf")
        and found.path.stat().st_size == found.bytes
    )
    assert (
        found.parity
        and found.parity.tokens > 20
        and found.parity.largest <= found.parity.tolerance
    )
    assert "miaobi generate text --model exports/poet-1" in str(found) and "MB" in str(
        found
    )


def test_a_folder_for_transformers(poet: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = export(poet, to="transformers")
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(found.path),
        AutoTokenizer.from_pretrained(found.path),
    )
    assert model(**tokenizer("春江", return_tensors="pt")).logits.shape[1] == 2
    assert found.parity is None and "vllm serve" in str(found)


def test_nothing_is_overwritten_unasked(poet: str) -> None:
    first = export(poet, to="transformers", out=Path("mine"))
    with pytest.raises(Conflict, match="mine"):
        export(poet, to="transformers", out=Path("mine"))
    assert (
        export(poet, to="transformers", out=Path("mine"), overwrite=True).bytes
        == first.bytes
    )


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


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    Store().add(small_bundle(tmp_path / "bundle", "lstm"), "reader")
    for form in ("gguf", "transformers"):
        with pytest.raises(Unsupported):
            export("reader", to=form)  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="raeder"):
        export("raeder")


def answer(*tokens: tuple[str, float, tuple[tuple[str, float], ...]]) -> Text:
    return Text(
        "".join(token for token, _, _ in tokens),
        Facts("m"),
        logprobs=tuple(TokenLogprob(*item) for item in tokens),
    )


def test_agreement_allows_near_ties_only() -> None:
    ours = answer(("a", -0.5, ()), ("b", -1.0, (("b", -1.0), ("c", -1.1))))
    assert agreement(ours, answer(("a", -0.6, ()), ("b", -1.0, ())), 0.2) == (
        2,
        pytest.approx(0.1),
    )
    assert agreement(ours, answer(("a", -0.5, ()), ("c", -1.0, ())), 0.2)[0] == 1
    assert agreement(ours, answer(("a", -0.5, ()), ("c", -1.0, ())), 0.05)[0] == -1
    assert agreement(ours, answer(("a", -0.5, ()), ("z", -1.0, ())), 9)[0] == -1
    parts = answer(
        ("a", -0.5, ()), ("\ufffd", -0.3, ()), ("\ufffd", -0.1, ()), ("b", -1.0, ())
    )
    assert agreement(
        parts, answer(("a", -0.5, ()), ("编", -0.1, ()), ("b", -1.0, ())), 0.2
    ) == (1, 0.0), "up to a character of several tokens"
