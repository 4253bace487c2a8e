"""A tuned model answers the same natively with its adapter, and merged into one GGUF in
llama.cpp and in OpenVINO.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engines.small import small_bundle
from tests.tune.tuned import tuned, tuned_task

import miaobi
from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.store import Store
from miaobi.engines import auto
from miaobi.models import converted
from miaobi.models.base import open_base
from miaobi.models.weights import find
from miaobi.tune.learner import Example
from miaobi.verbs.export import TOLERANCE, agreement, export

pytest.importorskip("xllamacpp")
pytest.importorskip("openvino_genai")
PROMPTS = ("The moon", "春江潮水", "江畔何人")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tuned")
    return tuned(place / "helpdesk", small_bundle(place / "poet", chat=True), 3, 0.05)


@pytest.fixture
def helpdesk(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """In the store, and a folder of its own to stand in."""
    monkeypatch.chdir(tmp_path)
    return str(Store().add(folder, "helpdesk"))


@pytest.mark.parametrize("engine", ["llamacpp", "openvino"])
def test_merged_it_answers_alike(
    folder: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        miaobi.load(folder, engine="native") as native,
        miaobi.load(folder, engine=engine) as other,
    ):
        assert other.chats and native.chats
        for prompt in PROMPTS:
            ours, theirs = (
                one.generate(
                    prompt,
                    raw=True,
                    temperature=0.0,
                    max_new_tokens=16,
                    logprobs=top_count,
                    seed=0,
                )[0]
                for one, top_count in (
                    (native, 2),
                    (other, 0 if engine == "openvino" else 2),
                )
            )
            tokens, apart = agreement(ours, theirs, TOLERANCE["f16"])
            assert tokens > 4 and apart < TOLERANCE["f16"]
        messages = [{"role": "user", "content": "The moon"}]
        assert (
            native.generate(messages, temperature=0.0, max_new_tokens=8)[0].text
            == other.generate(messages, temperature=0.0, max_new_tokens=8)[0].text
        )


def test_auto_takes_the_merged_copy_once_it_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = find(
        str(tuned(tmp_path / "fresh", small_bundle(tmp_path / "poet"), 9, 0.1))
    )
    assert converted.pending(weights) and auto.choose(weights) == "native"
    assert "--engine llamacpp" in auto.why(weights, "native")
    made = converted.gguf_of(weights)
    assert "Merging fresh" in capsys.readouterr().err
    assert made.exists() and [item.name for item in made.parent.iterdir()] == [
        made.name
    ], "what it was made of is gone"
    assert not converted.pending(weights) and auto.choose(weights) == "llamacpp"
    assert not auto.why(weights, "llamacpp") and not auto.why(weights, "native")
    assert converted.gguf_of(weights) == made and not capsys.readouterr().err


def test_exported_whole(helpdesk: str) -> None:
    found = export("helpdesk", merge=True, to="gguf")
    assert (
        found.parity
        and found.parity.tokens > 20
        and found.parity.largest <= found.parity.tolerance
    )
    assert [item.name for item in found.path.parent.iterdir()] == [
        "helpdesk-1.f16.gguf"
    ]
    from transformers import AutoModelForCausalLM

    merged = export("helpdesk", merge=True, to="transformers")
    assert (
        merged.parity is None
        and "AutoModelForCausalLM" in str(merged)
        and "vllm serve" in str(merged)
    )
    assert (
        AutoModelForCausalLM.from_pretrained(merged.path).config.model_type == "llama"
    )
    assert not (merged.path / "adapter_config.json").exists()
    assert (
        export("helpdesk", merge=True, to="transformers", overwrite=True).bytes
        == merged.bytes
    )


def test_exported_as_it_is(helpdesk: str) -> None:
    from peft import PeftConfig

    found = export("helpdesk", to="transformers")
    assert (
        found.format == "peft"
        and "PeftModel.from_pretrained" in str(found)
        and "--lora-modules" in str(found)
    )
    assert PeftConfig.from_pretrained(found.path).peft_type == "LORA"
    with pytest.raises(Unsupported, match="whole weights") as caught:
        export("helpdesk", to="gguf")
    assert caught.value.remedy == "miaobi export helpdesk@1 --merge --to gguf"


def test_whole_weights_have_nothing_to_merge(helpdesk: str, tmp_path: Path) -> None:
    Store().add(
        tuned(tmp_path / "full", small_bundle(tmp_path / "poet"), 3, method="full"),
        "whole",
    )
    for name in ("whole", str(tmp_path / "poet")):
        with pytest.raises(BadInput, match="no adapter to merge"):
            export(name, merge=True)
    assert export("whole", to="gguf").parity


def test_what_has_a_form_of_its_own_is_no_gguf(tmp_path: Path) -> None:
    pair = Example({"source": "cat", "target": "猫"}, "", {"source": "cat"})
    folder, _ = tuned_task(
        tmp_path / "translator",
        open_base(str(small_bundle(tmp_path / "poet"))),
        "seq2seq",
        [pair],
        "text",
        method="lora",
    )
    with pytest.raises(Unsupported, match="tuned for seq2seq"):
        export(str(folder), merge=True, to="gguf", out=tmp_path / "x.gguf")
    with pytest.raises(
        Unsupported, match="llamacpp engine does not run translator.*seq2seq, LORA"
    ):
        miaobi.load(folder, engine="llamacpp")
    with pytest.raises(Unsupported, match="PROMPT_TUNING"):
        miaobi.load(
            tuned(tmp_path / "prompted", tmp_path / "poet", method="prompt"),
            engine="llamacpp",
        )
