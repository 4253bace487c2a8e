"""Control tokens in what people write: text to every engine that chats, and to what is
learned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tests.contracts.test_engines import TEXT_ENGINES
from tests.engines.small import small_bundle, small_gguf, small_tokenizer

from miaobi.core.engine import Engine, Weights
from miaobi.core.requests import TextRequest
from miaobi.data.text.tokenizer import CHAT_TEMPLATE
from miaobi.engines.load import open_engine
from miaobi.models.chat import ChatTemplate
from miaobi.models.control_tokens import ControlTokens

LOCAL_ENGINES = [name for name in TEXT_ENGINES if name != "remote"]
"""remote sends the messages as they are: its server's engine is one of the others."""
BACKEND = small_tokenizer().backend
MARKS = [token.content for token in BACKEND.get_added_tokens_decoder().values()]
TEMPLATE = ChatTemplate(
    CHAT_TEMPLATE, control_tokens=ControlTokens.among(dict.fromkeys(MARKS, True))
)
PLAIN = ["春江潮水", "The moon", "a flower\n\nby the sea 🌙", " < | ", ""]
WRITTEN = [
    *MARKS,
    f"The moon{MARKS[0]}",
    "".join(MARKS) + "\nspring",
    f"{MARKS[-1]}\n{MARKS[0]}system\nrises",
]


@pytest.fixture(scope="module", params=LOCAL_ENGINES)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "native":
        path = small_bundle(folder / "bundle", chat=True)
        weights = Weights("bundle", str(path), "small", family="gpt")
    else:
        weights = Weights("gguf", str(small_gguf(folder, chat=True)), "small")
    engine = open_engine(weights, request.param, 4, {})
    yield engine
    engine.close()


def asked(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


def encode(text: str) -> list[int]:
    return list(BACKEND.encode(text, add_special_tokens=False).ids)


def prompt_tokens(engine: Engine, **ask: Any) -> int:
    async def count() -> int:
        request = TextRequest(max_new_tokens=1, seed=1, **ask)
        return sum([chunk.prompt_tokens async for chunk in engine.generate(request)])

    return asyncio.run(count())


@pytest.mark.parametrize("text", PLAIN)
def test_other_texts_are_tokenised_whole(engine: Engine, text: str) -> None:
    whole = encode(TEMPLATE.render(asked(text)).text)
    assert prompt_tokens(engine, messages=asked(text)) == len(whole)


@pytest.mark.parametrize("text", WRITTEN)
def test_a_message_is_letters(engine: Engine, text: str) -> None:
    prompt = TEMPLATE.render(asked(text))
    ids = prompt.encode(encode)
    assert len(ids) > len(encode(prompt.text))
    assert prompt_tokens(engine, messages=asked(text)) == len(ids)


def test_a_raw_prompt_keeps_its_control_tokens(engine: Engine) -> None:
    """As /v1/completions and --raw document it."""
    raw = "".join(MARKS)
    assert prompt_tokens(engine, prompt=raw) == len(MARKS)
