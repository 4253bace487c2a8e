"""`load`: every way to name a model, what an answer carries, and what is said when it cannot be."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engines.small import POEM, small_bundle, small_gguf, small_tokenizer

import miaobi
from miaobi.core.errors import BadInput, Damaged, NotFound, Unsupported
from miaobi.core.store import Store
from miaobi.engines import auto
from miaobi.engines.model import Model


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("load") / "poet")


@pytest.fixture(scope="module")
def poet(bundle_folder: Path) -> Iterator[Model]:
    with miaobi.load(bundle_folder, engine="native") as model:
        yield model


def test_answers_carry_their_facts(poet: Model) -> None:
    first, second = poet.generate(
        "春江", n=2, max_new_tokens=8, seed=4, temperature=0.7
    )
    assert first.facts == second.facts
    facts = first.facts
    assert (facts.model, facts.engine, facts.seed) == ("poet", "native", 4)
    assert facts.parameters == {"n": 2, "max_new_tokens": 8, "temperature": 0.7}
    assert len(facts.request_id) == 32
    drawn = poet.generate("春江", max_new_tokens=2)[0].facts.seed
    assert drawn is not None
    assert poet.generate("春江", max_new_tokens=2)[0].facts.seed != drawn


def test_a_drawn_seed_reproduces(poet: Model) -> None:
    text = poet.generate("春江", max_new_tokens=12, temperature=1.5)[0]
    assert (
        poet.generate("春江", max_new_tokens=12, temperature=1.5, seed=text.facts.seed)[
            0
        ].text
        == text.text
    )


def test_stream_joins_to_generate_and_may_be_left(poet: Model) -> None:
    whole = poet.generate("春江", max_new_tokens=20, seed=1)[0].text
    assert (
        "".join(chunk.text for chunk in poet.stream("春江", max_new_tokens=20, seed=1))
        == whole
    )
    for _ in poet.stream("春江", max_new_tokens=200, seed=1):
        break
    assert poet.generate("春江", max_new_tokens=20, seed=1)[0].text == whole


def test_score_equals_the_models_own_loss(poet: Model) -> None:
    import torch

    scores = poet.score(POEM[:30])
    ids = torch.tensor([small_tokenizer().encode([POEM[:30]])])
    output = poet.engine.checkpoint.decoder.model(input_ids=ids, labels=ids)  # type: ignore[attr-defined]
    assert len(scores) == ids.shape[1] - 1
    assert -sum(item.logprob for item in scores) / len(scores) == pytest.approx(
        output.loss.item(), rel=1e-5
    )
    assert scores[0].token == POEM[1]


def test_a_prompt_begins_a_document_unless_raw(poet: Model) -> None:
    assert poet.request("春").prompt == "<|endoftext|>春"
    assert poet.request("<|endoftext|>春").prompt == "<|endoftext|>春"
    assert poet.request("春", raw=True).prompt == "春"


def test_a_chat_model_gets_a_users_message_unless_raw(tmp_path: Path) -> None:
    with miaobi.load(
        small_bundle(tmp_path / "talker", chat=True), engine="native"
    ) as model:
        assert model.request("hi").messages == ({"role": "user", "content": "hi"},)
        assert model.request("hi", raw=True).prompt == "hi"


def test_lstm_runs_in_native_alone(tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "old", "lstm")
    with miaobi.load(folder) as model:
        assert model.engine_name == "native"
        texts = model.generate("春江", n=3, max_new_tokens=10, seed=1)
        assert (
            texts[1].text == model.generate("春江", max_new_tokens=10, seed=2)[0].text
        )
        assert model.generate("春江", num_beams=3, n=2, max_new_tokens=6)[0].text
        assert model.generate("海上", temperature=0, max_new_tokens=6)[0].text
    with pytest.raises(Unsupported):
        miaobi.load(folder, engine="llamacpp")


def test_store_names_versions_and_aliases(bundle_folder: Path) -> None:
    Store().add(bundle_folder, "poet")
    Store().add(bundle_folder, "poet")
    Store().promote("poet@1")
    for name, version in (
        ("poet", "1"),
        ("poet@2", "2"),
        ("poet@production", "1"),
        ("poet@latest", "2"),
    ):
        with miaobi.load(name, engine="native") as model:
            assert (model.name, model.weights.version) == ("poet", version)
    with pytest.raises(NotFound, match="poet"):
        miaobi.load("poett")


def test_the_same_bundle_in_every_engine_says_the_same(
    poet: Model, bundle_folder: Path
) -> None:
    """As far as the choice is clear: the others round weights to float16, and OpenVINO
    keeps its cache in int8.
    """
    native = poet.generate("海上明月", temperature=0, max_new_tokens=16, logprobs=2)[0]
    clear = next(
        (
            at
            for at, item in enumerate(native.logprobs)
            if item.top_logprobs[0].logprob - item.top_logprobs[1].logprob < 0.1
        ),
        16,
    )
    assert clear >= 6
    for engine in ("llamacpp", "openvino"):
        with miaobi.load(bundle_folder, engine=engine) as model:
            text = model.generate(
                "海上明月", temperature=0, max_new_tokens=clear, logprobs=0
            )[0]
            assert text.text == native.text[:clear]
            assert [item.logprob for item in text.logprobs] == pytest.approx(
                [item.logprob for item in native.logprobs[:clear]], abs=0.05
            )
    assert auto.choose(poet.weights) in ("native", "llamacpp", "openvino")


def test_a_transformers_folder_is_recognised_by_its_config(
    bundle_folder: Path, tmp_path: Path, poet: Model
) -> None:
    folder = shutil.copytree(
        bundle_folder, tmp_path / "plain", ignore=shutil.ignore_patterns("miaobi.json")
    )
    with miaobi.load(folder, engine="native") as model:
        assert model.weights.format == "transformers"
        assert (
            model.generate("春江", temperature=0, max_new_tokens=5)[0].text
            == poet.generate("春江", raw=True, temperature=0, max_new_tokens=5)[0].text
        )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}})
    )
    with pytest.raises(Unsupported, match="Python code of its own"):
        miaobi.load(folder)


def test_pickled_weights_are_not_read(bundle_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(
        bundle_folder,
        tmp_path / "old",
        ignore=shutil.ignore_patterns("miaobi.json", "*.safetensors"),
    )
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(Unsupported, match="safetensors"):
        miaobi.load(folder, engine="native")


def test_damaged_files_are_refused(bundle_folder: Path, tmp_path: Path) -> None:
    cut = shutil.copytree(bundle_folder, tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(Damaged, match="cut short"):
        miaobi.load(cut)
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(Damaged, match="empty"):
        miaobi.load(tmp_path / "empty.gguf")
    whole = small_gguf(tmp_path / "g")
    whole.write_bytes(whole.read_bytes()[:-2000])
    with pytest.raises(Damaged, match="cut short"):
        miaobi.load(whole)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("smollm", NotFound, "smollm2"),
        ("./no/such.gguf", NotFound, "no file or folder"),
        ("nobody/nothing", NotFound, "HF_HUB_OFFLINE"),
        ("http://127.0.0.1:9/v1", NotFound, "No answer"),
    ],
)
def test_unknown_names(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        miaobi.load(name)


def test_wrong_options_and_engines(
    bundle_folder: Path, poet: Model, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="device"):
        miaobi.load(bundle_folder, engine="native", devise="cpu")
    with pytest.raises(NotFound, match="llamacpp"):
        miaobi.load(bundle_folder, engine="llama")
    with pytest.raises(Unsupported, match="does not read"):
        miaobi.load(bundle_folder, engine="remote")
    with pytest.raises(BadInput, match="temperature"):
        poet.generate("x", temprature=1)
    with pytest.raises(BadInput, match="no model"):
        miaobi.load(tmp_path)


def test_auto_follows_the_measurements(miaobi_home: Path, tmp_path: Path) -> None:
    weights = __import__("miaobi.models.weights", fromlist=["of_path"]).of_path(
        small_gguf(tmp_path)
    )
    rows = [
        {"engine": name, "format": "gguf", "parameters": 1, "tokens_per_second": speeds}
        for name, speeds in (
            ("llamacpp", {"1": 90, "8": 100}),
            ("openvino", {"1": 50, "8": 300}),
            ("native", {"1": 10, "8": 20}),
        )
    ]
    (miaobi_home / "measurements.json").write_text(json.dumps({"rows": rows}))
    assert [auto.choose(weights, streams) for streams in (1, 2, 8, 64)] == [
        "llamacpp",
        "llamacpp",
        "openvino",
        "openvino",
    ]
    assert auto.choose(weights, 1, {"min_new_tokens"}) == "openvino", (
        "llamacpp does not offer it"
    )
    assert auto.choose(weights, 1, {"logit_bias", "num_beams"}) == "native"
    rows[2]["tokens_per_second"] = {"1": 1000}
    (miaobi_home / "measurements.json").write_text(json.dumps({"rows": rows}))
    assert auto.choose(weights) == "native"


def test_the_shipped_table_names_real_engines() -> None:
    from miaobi.engines import engines

    for row in auto.table():
        assert row.engine in engines
        assert all(
            math.isfinite(speed) and speed > 0
            for speed in row.tokens_per_second.values()
        )


def test_beam_search_equals_transformers(poet: Model) -> None:
    import torch

    decoder = poet.engine.checkpoint.decoder  # type: ignore[attr-defined]
    for prompt in ("春", "江畔", "月照"):
        ids = torch.tensor([small_tokenizer().encode([prompt])])
        theirs = decoder.model.generate(
            ids,
            num_beams=4,
            num_return_sequences=3,
            max_new_tokens=9,
            do_sample=False,
            early_stopping=False,
            length_penalty=1.0,
            pad_token_id=0,
        )
        expected = [
            small_tokenizer().backend.decode(
                row[ids.shape[1] :].tolist(), skip_special_tokens=True
            )
            for row in theirs
        ]
        ours = [
            text.text
            for text in poet.generate(
                prompt, raw=True, num_beams=4, n=3, max_new_tokens=9
            )
        ]
        assert ours == expected


def test_logprobs_are_the_models_own_whatever_the_controls(poet: Model) -> None:
    text = poet.generate(
        "春江", raw=True, max_new_tokens=6, temperature=2.0, top_k=3, logprobs=2, seed=3
    )[0]
    scores = poet.score("春江" + text.text)[-len(text.logprobs) :]
    assert [item.logprob for item in text.logprobs] == pytest.approx(
        [item.logprob for item in scores], abs=1e-4
    )
    assert all(len(item.top_logprobs) == 2 for item in text.logprobs)
