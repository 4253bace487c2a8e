"""Adapters in the native engine: merged into their base or beside it, they answer as
PEFT itself does, and each request by its own.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.engines.small import small_bundle
from tests.tune.tuned import tuned, tuned_net
from transformers import AutoModelForCausalLM

import miaobi
from miaobi.core.errors import BadInput, NotFound, Unsupported
from miaobi.core.requests import TextRequest
from miaobi.engines import auto
from miaobi.engines.collected import Collected
from miaobi.engines.model import Model
from miaobi.models.base import open_base
from miaobi.models.weights import find

PROMPTS = ("春江潮水", "The moon", "江畔何人初见月？江月")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("base") / "poet", chat=True)


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two LoRAs far from each other, of unlike rank and scaling."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "one": tuned(folder / "one", base, 1, 0.1),
        "two": tuned(folder / "two", base, 2, 0.1, lora_rank=4, lora_alpha=32.0),
    }


@pytest.fixture(scope="module")
def several(base: Path, adapters: dict[str, Path]) -> Iterator[Model]:
    with miaobi.load(base, adapters=[str(path) for path in adapters.values()]) as model:
        yield model


def reference(base: Path, folder: Path | None) -> Any:
    net = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    if folder is None:
        return net.eval()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        return PeftModel.from_pretrained(net, folder).eval()


def greedy(
    net: Any, model: Model, prompt: str, count: int = 16
) -> tuple[list[int], list[float]]:
    """Token by token without a cache: ids and log-probabilities."""
    engine: Any = model.engine
    prompt_ids = engine.tokenize(TextRequest(prompt=prompt))
    ids: list[int] = []
    log_probs: list[float] = []
    for _ in range(count):
        with torch.no_grad():
            logits = net(input_ids=torch.tensor([prompt_ids + ids])).logits
        row = logits[0, -1].log_softmax(0)
        ids.append(int(row.argmax()))
        log_probs.append(float(row.max()))
        if ids[-1] in engine.checkpoint.eos_ids:
            break
    return ids, log_probs


def check(model: Model, net: Any, **controls: Any) -> list[str]:
    """Greedy answers equal the reference's, log-probabilities within 1e-4 nats."""
    texts = []
    for prompt in PROMPTS:
        answer = model.generate(
            prompt, raw=True, temperature=0.0, max_new_tokens=16, logprobs=0, **controls
        )[0]
        ids, log_probs = greedy(net, model, prompt)
        count = len(answer.logprobs)
        assert [entry.logprob for entry in answer.logprobs] == pytest.approx(
            log_probs[:count], abs=1e-4
        )
        engine: Any = model.engine
        tokens = [engine.checkpoint.tokenizer.spell(token) for token in ids[:count]]
        assert [entry.bytes for entry in answer.logprobs] == tokens
        texts.append(answer.text)
    return texts


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "lora"},
        {"method": "rslora", "lora_rank": 2, "lora_alpha": 16.0},
        {"method": "dora"},
        {"method": "adalora"},
        {"method": "ia3"},
        {"method": "prompt"},
        {"method": "prefix"},
        {"method": "p-tuning"},
        {"method": "bottleneck"},
        {"method": "full"},
        {"method": "frozen", "freeze_layers": 1},
    ],
    ids=lambda settings: settings["method"],
)
def test_a_tuned_model_answers_as_the_net_that_was_tuned(
    base: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder, net = tuned_net(tmp_path / "helpdesk", base, 3, 0.2, **settings)
    assert auto.choose(find(str(folder))) == (
        "llamacpp" if settings["method"] in ("full", "frozen") else "native"
    )
    with miaobi.load(folder, engine="native") as model:
        assert model.chats
        answers = check(model, net)
        together = asyncio.run(
            _gathered(
                model,
                [
                    model.request(prompt, raw=True, temperature=0.0, max_new_tokens=16)
                    for prompt in PROMPTS
                ],
            )
        )
    assert together == answers, "taken in together as one by one"
    with miaobi.load(base, engine="native") as plain:
        assert answers != check(plain, reference(base, None)), "tuning moved it"


def test_each_request_is_answered_by_its_own_adapter(
    several: Model, base: Path, adapters: dict[str, Path]
) -> None:
    answers = [check(several, reference(base, None))]
    for path in adapters.values():
        answers.append(check(several, reference(base, path), adapter=str(path)))
    assert len({tuple(texts) for texts in answers}) == 3


def test_unlike_adapters_share_a_batch(
    several: Model, adapters: dict[str, Path]
) -> None:
    """Requests at the same time, in one worker, with unlike lengths: each as if alone."""
    combinations = [
        (prompt, name)
        for prompt in PROMPTS
        for name in (None, *map(str, adapters.values()))
    ]
    requests = [
        several.request(
            prompt, raw=True, adapter=name, temperature=0.9, seed=5, max_new_tokens=24
        )
        for prompt, name in combinations
    ]
    alone = [several.generate(request)[0].text for request in requests]

    async def together() -> list[str]:
        answers = await asyncio.gather(
            *(several.agenerate(request) for request in requests)
        )
        return [answer.text for (answer,) in answers]

    assert asyncio.run(together()) == alone
    several_ways = several.generate(
        PROMPTS[0],
        raw=True,
        adapter=str(adapters["one"]),
        n=3,
        seed=1,
        max_new_tokens=8,
    )
    assert len(several_ways) == 3 and several_ways[0].facts.parameters[
        "adapter"
    ] == str(adapters["one"])


def test_beams_keep_their_adapter(
    several: Model, base: Path, adapters: dict[str, Path]
) -> None:
    with miaobi.load(adapters["one"], engine="native") as alone:
        want = alone.generate(PROMPTS[0], raw=True, num_beams=3, max_new_tokens=12)[
            0
        ].text
    assert (
        several.generate(
            PROMPTS[0],
            raw=True,
            num_beams=3,
            max_new_tokens=12,
            adapter=str(adapters["one"]),
        )[0].text
        == want
    )


def test_scores_are_the_bases(several: Model, base: Path) -> None:
    with miaobi.load(base, engine="native") as plain:
        want = plain.score("春江潮水连海平")
    assert [
        entry.logprob for entry in several.score("春江潮水连海平")
    ] == pytest.approx([entry.logprob for entry in want], abs=1e-5)


def test_names_that_lead_nowhere(
    several: Model, base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match="'poet'"):
        several.generate("春", adapter="poet")
    with (
        miaobi.load(base, engine="native") as plain,
        pytest.raises(Unsupported, match="adapter"),
    ):
        plain.generate("春", adapter="one")
    other = small_bundle(tmp_path / "other", chat=True)
    from safetensors.torch import load_file, save_file

    save_file(
        {
            key: value * 1.01
            for key, value in load_file(other / "model.safetensors").items()
        },
        other / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(BadInput, match=open_base(str(base)).identity[:16]):
        miaobi.load(other, adapters=str(adapters["one"]))
    with pytest.raises(BadInput, match="no option 'adapters'"):
        miaobi.load(base, engine="llamacpp", adapters=["x"])


async def _gathered(model: Model, requests: list[Any]) -> list[str]:
    """Sent in one go, so that they are taken in together."""

    async def one(request: Any) -> str:
        collected = Collected(request)
        async for chunk in model.engine.generate(request):
            collected.add(chunk)
        return collected.artifacts(model.facts(request))[0].text

    return list(await asyncio.gather(*map(one, requests)))
