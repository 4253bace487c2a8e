"""Filling in: every form's prompt, people's control tokens as text, fills that end, and a
clear refusal for models that were not trained so.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from tests.engines.small import small_bundle
from torch.nn import functional as F

from miaobi.core import bundle
from miaobi.core.bundle import Manifest
from miaobi.core.engine import Engine, Weights
from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.requests import TextRequest
from miaobi.data.text.filling import FILL_TOKENS, for_filling
from miaobi.data.text.tokenizer import Tokenizer, characters
from miaobi.data.text.tokens import TokenSpec
from miaobi.engines.load import open_engine
from miaobi.engines.model import Model
from miaobi.engines.text.filling import FORMS, form_of
from miaobi.families import gpt
from miaobi.models.control_tokens import ControlTokens
from miaobi.models.convert import to_gguf
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.pool import Pool
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings

BEFORE, FILL, BEHIND = "def area(r):\n    return ", "3 * r ** 2", "\n\nprint(area(2))\n"


@cache
def tokenizer() -> Tokenizer:
    return for_filling(characters(Counter(BEFORE + FILL + BEHIND), 1))


def numbers(*texts: str) -> list[int]:
    """Token ids of a fill's prompt: the special tokens between the texts."""
    ids = list[int]()
    for token, text in zip(FILL_TOKENS, [*texts, ""], strict=True):
        ids.append(tokenizer().backend.token_to_id(token))
        ids += tokenizer().encode([text])
    return ids


@cache
def coder() -> Any:
    """A gpt that learnt one fill by heart."""
    torch.manual_seed(0)
    end = tokenizer().end_id
    spec = TokenSpec(tokenizer().vocab_size, 128, end, end, end, "char")
    objective = gpt.build(gpt.Config(num_layers=2, hidden_size=64), spec)
    prompt = numbers(BEFORE, BEHIND)
    ids = torch.tensor([[*prompt, *tokenizer().encode([FILL]), end]])
    optimiser = torch.optim.AdamW(objective.parameters(), lr=4e-3)
    for _ in range(150):
        logits = objective.net(ids[:, :-1])[0, len(prompt) - 1 :]
        loss = F.cross_entropy(logits, ids[0, len(prompt) :])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss < 0.01:
            break
    return objective.eval()


def coder_bundle(folder: Path) -> Path:
    def save(draft: Path) -> None:
        gpt.save(coder(), draft)
        tokenizer().save(draft)
        (draft / "chat_template.jinja").unlink()

    return bundle.write(folder, Manifest("gpt", "text"), save)


@pytest.fixture(scope="module", params=["native", "llamacpp"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("coder")
    path = coder_bundle(folder / "bundle")
    weights = Weights("bundle", str(path), "coder", family="gpt")
    if request.param == "llamacpp":
        file = to_gguf(path, folder / "coder.gguf", "f16")
        weights = Weights("gguf", str(file), "coder")
    opened = open_engine(weights, request.param, 2, {})
    yield opened
    opened.close()


def write(engine: Engine, **fields: Any) -> tuple[str, str | None]:
    async def run() -> tuple[str, str | None]:
        text, finish = "", None
        async for chunk in engine.generate(TextRequest(temperature=0, **fields)):
            text += chunk.text
            finish = chunk.finish or finish
        return text, finish

    return asyncio.run(run())


def test_a_fill_ends_where_it_ends(engine: Engine) -> None:
    answer = write(engine, prompt=BEFORE, suffix=BEHIND, max_new_tokens=60)
    assert answer == (FILL, "stop")


def test_the_prompt_is_prefix_suffix_middle(engine: Any) -> None:
    request = TextRequest(prompt=BEFORE, suffix=BEHIND)
    assert engine.tokenize(request) == numbers(BEFORE, BEHIND)
    assert engine.tokenize(TextRequest(prompt="", suffix="")) == numbers("", "")


@pytest.mark.parametrize("token", [*FILL_TOKENS, "<|endoftext|>"])
def test_control_tokens_in_peoples_sources_are_text(engine: Any, token: str) -> None:
    before, behind = f"x = '{token}'\n", f"{token}{token}\n# {token[:-1]}"
    ids = engine.tokenize(TextRequest(prompt=before, suffix=behind))
    assert ids == numbers(before, behind)


@pytest.mark.parametrize("name", ["native", "llamacpp"])
def test_a_model_not_trained_so_refuses(name: str, tmp_path: Path) -> None:
    path = small_bundle(tmp_path / "bundle")
    engine = open_engine(
        Weights("bundle", str(path), "poet", family="gpt"), name, 1, {}
    )
    with pytest.raises(Unsupported, match="poet was not trained to fill in"):
        write(engine, prompt="x", suffix="y")
    engine.close()


def test_a_suffix_needs_a_prompt() -> None:
    messages = ({"role": "user", "content": "x"},)
    for asks in ({"messages": messages}, {"prompt_ids": (1, 2)}):
        with pytest.raises(BadInput, match="suffix"):
            TextRequest(suffix="y", **asks)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.prefix)
def test_models_from_elsewhere_are_known_by_their_tokens(form: Any) -> None:
    vocabulary = {"a", "b", *form.tokens, *form.ends}
    assert form_of(vocabulary) == form
    assert form_of(vocabulary - {form.middle}) is None
    control = ControlTokens.among(dict.fromkeys(form.tokens, True))
    prompt = form.prompt("before", f"a{form.middle}", control)
    assert prompt.text == f"{form.prefix}before{form.suffix}a{form.middle}{form.middle}"
    [cut] = prompt.cuts
    assert prompt.text[cut - 1 :].startswith(form.middle)


def test_editors_fill_in_over_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path / "home"))
    path = coder_bundle(tmp_path / "bundle")
    weights = Weights("bundle", str(path), "coder", family="gpt")
    model = Model(weights, "native", open_engine(weights, "native", 1, {}))
    settings = Settings(hosts=("testserver",), studio=False)
    pool = Pool(settings, lambda name: weights, lambda: ["coder"], lambda _: model)
    app = create_app(Services(settings, pool, Admission(settings)))
    body = {"model": "coder", "prompt": BEFORE, "temperature": 0, "max_tokens": 40}
    with TestClient(app) as client:
        answer = client.post("/v1/completions", json={**body, "suffix": BEHIND}).json()
        [choice] = answer["choices"]
        assert (choice["text"], choice["finish_reason"]) == (FILL, "stop")
        for wrong, named in (
            ({"echo": True}, "echo"),
            ({"prompt": [1, 2]}, "suffix"),
        ):
            fields = {**body, "suffix": BEHIND, **wrong}
            refused = client.post("/v1/completions", json=fields)
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == named
