"""A tuned model answers the same natively with its adapter, and merged into one GGUF in
llama.cpp and in OpenVINO.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engines.small import small_bundle
from tests.tune.tuned import tuned, tuned_task

import miaobi
from miaobi.core.errors import BadInput, Damaged, Unsupported
from miaobi.core.store import Store
from miaobi.engines import auto
from miaobi.models import converted
from miaobi.models.base import open_base
from miaobi.models.weights import find
from miaobi.tune.learner import Example
from miaobi.verbs.export import export
from miaobi.verbs.export.parity import TOLERANCE, agreement

pytest.importorskip("xllamacpp")
pytest.importorskip("openvino_genai")
PROMPTS = ("The moon", "春江潮水", "江畔何人")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("tuned")
    base = small_bundle(parent / "poet", chat=True)
    return tuned(parent / "helpdesk", base, 3, 0.05)


@pytest.fixture
def helpdesk(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """In the store, with an empty working directory."""
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
        assert native.chats
        assert other.chats
        settings = {"temperature": 0.0, "max_new_tokens": 16, "seed": 0, "raw": True}
        top_count = 0 if engine == "openvino" else 2
        for prompt in PROMPTS:
            ours = native.generate(prompt, logprobs=2, **settings)[0]
            theirs = other.generate(prompt, logprobs=top_count, **settings)[0]
            tokens, difference = agreement(ours, theirs, TOLERANCE["f16"])
            assert tokens > 4
            assert difference < TOLERANCE["f16"]
        messages = [{"role": "user", "content": "The moon"}]
        answers = [
            model.generate(messages, temperature=0.0, max_new_tokens=8)[0].text
            for model in (native, other)
        ]
        assert answers[0] == answers[1]


def test_auto_takes_the_merged_copy_once_it_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tuned(tmp_path / "fresh", small_bundle(tmp_path / "poet"), 9, 0.1)
    weights = find(str(folder))
    assert converted.pending(weights)
    assert auto.choose(weights) == "native"
    assert "--engine llamacpp" in auto.why(weights, "native")
    path = converted.gguf_of(weights)
    assert "Merging fresh" in capsys.readouterr().err
    assert path.exists()
    assert list(path.parent.iterdir()) == [path], "intermediate files are gone"
    assert not converted.pending(weights)
    assert auto.choose(weights) == "llamacpp"
    assert not auto.why(weights, "llamacpp")
    assert not auto.why(weights, "native")
    assert converted.gguf_of(weights) == path
    assert not capsys.readouterr().err


def test_exported_whole(helpdesk: str) -> None:
    exported = export("helpdesk", merge=True, to="gguf")
    parity = exported.parity
    assert parity
    assert parity.tokens > 20
    assert parity.largest <= parity.tolerance
    names = [item.name for item in exported.path.parent.iterdir()]
    assert sorted(names) == ["helpdesk-1.f16.Modelfile", "helpdesk-1.f16.gguf"]
    from transformers import AutoModelForCausalLM

    merged = export("helpdesk", merge=True, to="transformers")
    assert merged.parity is None
    assert "AutoModelForCausalLM" in str(merged)
    assert "vllm serve" in str(merged)
    model = AutoModelForCausalLM.from_pretrained(merged.path)
    assert model.config.model_type == "llama"
    assert not (merged.path / "adapter_config.json").exists()
    again = export("helpdesk", merge=True, to="transformers", overwrite=True)
    assert again.bytes == merged.bytes


def test_exported_as_it_is(helpdesk: str) -> None:
    from peft import PeftConfig

    exported = export("helpdesk", to="transformers")
    assert exported.format == "peft"
    assert "PeftModel.from_pretrained" in str(exported)
    assert "--lora-modules" in str(exported)
    assert PeftConfig.from_pretrained(exported.path).peft_type == "LORA"


def test_its_lora_is_a_gguf_that_llamacpp_puts_on_the_base(helpdesk: str) -> None:
    exported = export("helpdesk", to="gguf")
    assert exported.path.name == "helpdesk-1.lora.gguf"
    assert exported.format == "gguf-lora"
    assert exported.parity is not None
    assert exported.parity.tokens > 20
    assert "--lora" in str(exported)
    assert exported.modelfile is not None
    assert "ADAPTER ./helpdesk-1.lora.gguf" in exported.modelfile.read_text()


def test_without_it_the_base_answers_otherwise(
    helpdesk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison notices an adapter whose rows are in another order."""
    monkeypatch.setattr(
        "miaobi.models.convert.lora.rotary_order", lambda rows, key, shape: -rows
    )
    with pytest.raises(Damaged, match="does not answer"):
        export("helpdesk", to="gguf")
    assert not list(Path("exports").iterdir())


def test_whole_weights_have_nothing_to_merge(helpdesk: str, tmp_path: Path) -> None:
    base = small_bundle(tmp_path / "poet")
    Store().add(tuned(tmp_path / "full", base, 3, method="full"), "whole")
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
    prompted = tuned(tmp_path / "prompted", tmp_path / "poet", method="prompt")
    with pytest.raises(Unsupported, match="PROMPT_TUNING"):
        miaobi.load(prompted, engine="llamacpp")
