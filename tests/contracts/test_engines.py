"""One suite over every registered engine that writes text: what `core/engine.py`
promises, each of them keeps.

All run one small model that learnt a Chinese poem in the test: as a bundle in native,
as GGUF in the others. `remote` asks a real server over a real socket.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.engines.server import CompletionServer
from tests.engines.small import CONTEXT, small_bundle, small_gguf, small_tokenizer

from miaobi.core.artifacts import Facts
from miaobi.core.engine import Chunk, Engine, Weights
from miaobi.core.errors import BadInput, MiaobiError, Unsupported
from miaobi.core.requests import (
    EmbeddingRequest,
    ImageRequest,
    SpeechRequest,
    TextRequest,
    requests,
)
from miaobi.engines import engines
from miaobi.engines.collected import Collected
from miaobi.engines.load import open_engine


def writes(name: str) -> bool:
    """Whether an engine writes token after token."""
    module = engines.get(name)
    offers_length = "max_new_tokens" in module.ABILITIES.controls
    return module.TAKES is TextRequest and offers_length


TEXT_ENGINES = [name for name in engines.names() if writes(name)]
PROMPT = "春江潮水连海平，海上明月共潮生。"


@dataclass
class Case:
    """An engine with a small model."""

    name: str
    engine: Engine


@contextmanager
def native(folder: Path) -> Iterator[Engine]:
    path = small_bundle(folder / "bundle")
    weights = Weights("bundle", str(path), "small", family="gpt")
    engine = open_engine(weights, "native", 4, {})
    yield engine
    engine.close()


@contextmanager
def from_gguf(name: str, folder: Path) -> Iterator[Engine]:
    weights = Weights("gguf", str(small_gguf(folder)), "small")
    engine = open_engine(weights, name, 4, {})
    yield engine
    engine.close()


@contextmanager
def remote(folder: Path) -> Iterator[Engine]:
    """A real server that runs llama.cpp's answers."""
    with from_gguf("llamacpp", folder) as behind, CompletionServer(behind) as server:
        weights = Weights("url", server.url, "small")
        engine = open_engine(weights, "remote", 4, {"context_length": CONTEXT})
        yield engine
        engine.close()


CASES: dict[str, Callable[[Path], AbstractContextManager[Engine]]] = {
    "native": native,
    "openvino": lambda folder: from_gguf("openvino", folder),
    "llamacpp": lambda folder: from_gguf("llamacpp", folder),
    "remote": remote,
}
"""How to open the small model with each engine."""


def open_case(name: str, folder: Path) -> AbstractContextManager[Engine]:
    if name not in CASES:
        pytest.fail(
            f"The engine {name} takes TextRequest and has no toy case: add a function "
            "that opens the small model with it to CASES in tests/contracts/test_engines.py."
        )
    return CASES[name](folder)


SUITES = {
    TextRequest: "tests/contracts/test_engines.py, or tests/engines/test_tuned.py",
    SpeechRequest: "tests/contracts/test_speech_engines.py",
    ImageRequest: "tests/contracts/test_image_engines.py",
    EmbeddingRequest: "tests/serve/test_embeddings.py",
}
"""Which suite runs over the engines that take a kind of request."""


@pytest.mark.parametrize("name", engines.names())
def test_declares_itself(name: str) -> None:
    module = engines.get(name)
    assert module.TAKES in [requests.get(kind) for kind in requests.names()]
    if module.TAKES not in SUITES:
        pytest.fail(
            f"The engine {name} takes {module.TAKES.__name__}, for which there is no "
            "suite: write one beside tests/contracts/test_engines.py and name it in SUITES."
        )
    fields = set(module.TAKES.__dataclass_fields__)
    assert module.ABILITIES.controls <= fields, "a control is a field of the request"
    assert module.ABILITIES.by_model <= module.ABILITIES.controls


@pytest.fixture(scope="module", params=TEXT_ENGINES)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    """Every engine on the same small model."""
    with open_case(request.param, tmp_path_factory.mktemp(request.param)) as engine:
        yield Case(request.param, engine)


def need(case: Case, *controls: str) -> None:
    """Skip where the engine does not declare these controls."""
    for name in controls:
        if name not in case.engine.abilities.controls:
            pytest.skip(f"{name} is not offered")


def ask(**controls: Any) -> TextRequest:
    return TextRequest(**{"prompt": PROMPT, "max_new_tokens": 24, "seed": 3} | controls)


async def collect(
    engine: Engine, request: TextRequest
) -> tuple[list[list[Chunk]], list[str]]:
    pieces: list[list[Chunk]] = [[] for _ in range(request.n)]
    async for chunk in engine.generate(request):
        pieces[chunk.index].append(chunk)
    return pieces, ["".join(chunk.text for chunk in row) for row in pieces]


def texts(case: Case, **controls: Any) -> list[str]:
    return asyncio.run(collect(case.engine, ask(**controls)))[1]


def test_chunks_are_whole_characters_and_end_once(case: Case) -> None:
    request = ask(n=2, max_new_tokens=40, temperature=0.3)
    answers, joined = asyncio.run(collect(case.engine, request))
    for *before, last in answers:
        assert last.finish in ("stop", "length")
        assert all(chunk.finish is None for chunk in before)
        for chunk in [*before, last]:
            chunk.text.encode("utf-8")
    assert all(len(text) > 0 for text in joined)


def test_it_streams(case: Case) -> None:
    pieces, _ = asyncio.run(collect(case.engine, ask(max_new_tokens=30, temperature=0)))
    assert len([chunk for chunk in pieces[0] if chunk.text]) > 3


def test_tokens_are_counted(case: Case) -> None:
    pieces, _ = asyncio.run(collect(case.engine, ask(max_new_tokens=17, temperature=0)))
    assert pieces[0][-1].finish == "length"
    assert sum(chunk.tokens for chunk in pieces[0]) == 17


def test_tokens_of_the_prompt_are_counted_once(case: Case) -> None:
    def counts(**controls: Any) -> list[int]:
        request = ask(max_new_tokens=4, **controls)
        answers, _ = asyncio.run(collect(case.engine, request))
        chunks = [chunk for answer in answers for chunk in answer]
        return [chunk.prompt_tokens for chunk in chunks if chunk.prompt_tokens]

    (short,) = counts(prompt=PROMPT[:3])
    (long,) = counts(prompt=PROMPT[:9])
    (several,) = counts(prompt=PROMPT[:9], n=6)
    assert long - short == 6
    assert several == long


def test_an_empty_prompt_is_no_error(case: Case) -> None:
    pieces, _ = asyncio.run(collect(case.engine, ask(prompt="", max_new_tokens=4)))
    assert pieces[0][-1].finish in ("stop", "length")


def test_token_ids_are_the_text_that_they_spell(case: Case) -> None:
    need(case, "prompt_ids")
    ids = small_tokenizer().encode([PROMPT])
    of_ids = texts(case, prompt=None, prompt_ids=tuple(ids), temperature=0)
    assert of_ids == texts(case, temperature=0)


def test_tokens_are_shown(case: Case) -> None:
    if not case.engine.abilities.tokenize:
        pytest.skip("it shows no tokens")
    engine: Any = case.engine
    ids = small_tokenizer().encode([PROMPT])
    assert engine.tokenize(TextRequest(prompt=PROMPT)) == ids
    assert engine.tokenize(TextRequest(prompt_ids=tuple(ids))) == ids
    assert engine.detokenize(ids) == PROMPT
    assert engine.eos_token == "<|endoftext|>"
    unknown = TextRequest(prompt_ids=(10**6,))
    with pytest.raises(BadInput, match="1000000"):
        asyncio.run(collect(case.engine, unknown))
    with pytest.raises(BadInput, match="1000000"):
        engine.detokenize([10**6])


def test_seeds_reproduce(case: Case) -> None:
    first, again, other = (
        texts(case, seed=seed, n=2, temperature=2.0) for seed in (11, 11, 12)
    )
    assert first == again
    assert first != other
    assert first[0] != first[1], "answers of one request differ"


def test_greedy_needs_no_seed(case: Case) -> None:
    assert texts(case, temperature=0, seed=1) == texts(case, temperature=0, seed=2)


def test_stop_strings_cut_across_pieces(case: Case) -> None:
    whole = texts(case, temperature=0, max_new_tokens=40)[0]
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    assert len(stop) == 3
    cut = texts(case, temperature=0, max_new_tokens=40, stop=(stop, "never there"))[0]
    assert cut == whole[: whole.index(stop)]


def test_max_new_tokens(case: Case) -> None:
    pieces, one = asyncio.run(
        collect(case.engine, ask(max_new_tokens=1, temperature=0))
    )
    more = texts(case, max_new_tokens=12, temperature=0)[0]
    assert more.startswith(one[0].rstrip("\ufffd"))
    assert len(more) > len(one[0])
    assert pieces[0][-1].finish in ("length", "stop")


def test_concurrent_requests_give_what_each_gives_alone(case: Case) -> None:
    requests = [
        ask(prompt=PROMPT[:size], temperature=0, max_new_tokens=16)
        for size in (2, 5, 9, 16)
    ]

    async def together() -> list[Any]:
        return await asyncio.gather(
            *(collect(case.engine, request) for request in requests)
        )

    alone = [asyncio.run(collect(case.engine, request))[1] for request in requests]
    assert [joined for _, joined in asyncio.run(together())] == alone


def test_leaving_frees_the_slots(case: Case) -> None:
    """More answers are left than any engine has slots; how soon a slot is free is
    measured in bench/cancel.py.
    """

    async def scenario() -> list[str]:
        for _ in range(3):
            running: list[AsyncIterator[Chunk]] = []
            for _ in range(6):
                answers = case.engine.generate(ask(max_new_tokens=200))
                await anext(answers)
                running.append(answers)
            for answers in running:
                await answers.aclose()  # type: ignore[attr-defined]
        return (await collect(case.engine, ask(max_new_tokens=3, temperature=0)))[1]

    undisturbed = texts(case, max_new_tokens=3, temperature=0)
    assert asyncio.run(scenario()) == undisturbed


def test_task_cancellation_is_clean(case: Case) -> None:
    async def scenario() -> list[str]:
        begun = asyncio.Event()

        async def long() -> None:
            async for _ in case.engine.generate(ask(max_new_tokens=200, n=8)):
                begun.set()

        task = asyncio.create_task(long())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return (await collect(case.engine, ask(max_new_tokens=3, temperature=0)))[1]

    assert asyncio.run(scenario())[0]


def test_logprobs(case: Case) -> None:
    need(case, "logprobs")
    pieces, joined = asyncio.run(
        collect(case.engine, ask(logprobs=0, max_new_tokens=8, temperature=0))
    )
    entries = [entry for chunk in pieces[0] for entry in chunk.logprobs]
    assert 7 <= len(entries) <= 8
    assert all(entry.logprob <= 0 for entry in entries)
    spelled = "".join(entry.token for entry in entries)
    assert len(spelled) >= len(joined[0].rstrip("\ufffd")) // 2


def test_every_control_it_does_not_offer_is_refused(case: Case) -> None:
    settings = {
        "min_new_tokens": 2,
        "top_k": 3,
        "min_p": 0.1,
        "typical_p": 0.5,
        "repetition_penalty": 1.3,
        "presence_penalty": 1,
        "frequency_penalty": 1,
        "no_repeat_ngram_size": 2,
        "num_beams": 2,
        "logit_bias": {1: 2.0},
        "logprobs": 1,
        "json_schema": {"type": "object"},
    }
    for name in set(settings) - case.engine.abilities.controls:
        with pytest.raises(Unsupported, match=name) as caught:
            texts(case, **{name: settings[name]})
        assert caught.value.field == name


def test_other_kinds_of_requests_are_refused(case: Case) -> None:
    async def scenario() -> None:
        async for _ in case.engine.generate(ImageRequest(prompt="x")):
            pass

    with pytest.raises(Unsupported):
        asyncio.run(scenario())


WILD = {"temperature": 3.0}
GREEDY = {"temperature": 0.0}
BEAMS = {"temperature": 0.0, "num_beams": 2}
ACTS: dict[str, tuple[dict[str, Any], Any]] = {
    "temperature": (GREEDY, 3.0),
    "top_k": (WILD, 1),
    "top_p": (WILD, 0.0001),
    "min_p": (WILD, 0.999),
    "typical_p": (WILD, 0.0001),
    "repetition_penalty": (GREEDY, 10.0),
    "presence_penalty": (GREEDY, 2.0),
    "frequency_penalty": (GREEDY, 2.0),
    "no_repeat_ngram_size": (BEAMS, 1),
    "num_beams": (GREEDY, 4),
}
"""Settings, and a value of the control that changes the answer beside them."""


@pytest.mark.parametrize("control", ACTS)
def test_each_claimed_control_acts(case: Case, control: str) -> None:
    need(case, control)
    settings, value = ACTS[control]
    without = texts(case, max_new_tokens=48, **settings)
    changed_settings = settings | {control: value}
    assert without != texts(case, max_new_tokens=48, **changed_settings)


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_the_tightest_cut_is_greedy(case: Case, cut: dict[str, Any]) -> None:
    need(case, *cut)
    assert texts(case, temperature=1.5, **cut) == texts(case, temperature=0)


def test_logit_bias_bans(case: Case) -> None:
    need(case, "logit_bias")
    settings = {"temperature": 0, "max_new_tokens": 3}
    usual = texts(case, **settings)[0]
    first, letter = (
        small_tokenizer().encode([usual[0]])[0],
        small_tokenizer().encode(["a"])[0],
    )
    assert texts(case, **settings, logit_bias={first: -100})[0][0] != usual[0]
    assert texts(case, **settings, logit_bias={letter: 100})[0] == "aaa"


def test_min_new_tokens_bans_the_end(case: Case) -> None:
    need(case, "min_new_tokens")
    for seed in range(3):
        pieces, _ = asyncio.run(
            collect(
                case.engine,
                ask(seed=seed, temperature=2.0, min_new_tokens=30, max_new_tokens=30),
            )
        )
        assert pieces[0][-1].finish == "length"
        assert sum(chunk.tokens for chunk in pieces[0]) == 30


def test_n_beyond_the_slots(case: Case) -> None:
    pieces, joined = asyncio.run(collect(case.engine, ask(n=9, max_new_tokens=6)))
    assert all(row[-1].finish for row in pieces)
    assert len(set(joined)) > 4


def test_a_prompt_beyond_the_context_names_both_numbers(case: Case) -> None:
    with pytest.raises(BadInput) as caught:
        texts(case, prompt="明月" * 300)
    numbers = [int(number) for number in re.findall(r"\d+", str(caught.value))]
    assert CONTEXT in numbers
    assert max(numbers) > CONTEXT


def test_an_answer_stops_where_the_context_stops(case: Case) -> None:
    request = ask(prompt="月" * 120, max_new_tokens=5000, temperature=1.2)
    answers, _ = asyncio.run(collect(case.engine, request))
    assert answers[0][-1].finish in ("length", "stop")
    assert sum(chunk.tokens for chunk in answers[0]) <= CONTEXT


def test_messages_without_a_template_are_refused(case: Case) -> None:
    with pytest.raises(MiaobiError, match="chat template"):
        asyncio.run(
            collect(
                case.engine, TextRequest(messages=({"role": "user", "content": "x"},))
            )
        )


SCHEMA = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer"},
        "mood": {"enum": ["calm", "开心"]},
        "tags": {
            "type": "array",
            "items": {"type": "string", "maxLength": 4},
            "maxItems": 2,
        },
    },
}


def test_json_schema(case: Case) -> None:
    need(case, "json_schema")
    for seed in range(4):
        text = texts(case, json_schema=SCHEMA, max_new_tokens=200, seed=seed)[0]
        value = json.loads(text)
        assert set(value) <= set(SCHEMA["properties"])
        assert isinstance(value["name"], str)
        assert len(value["name"]) <= 12
        assert isinstance(value["age"], int)
        assert value.get("mood", "calm") in ("calm", "开心")
        assert "\n" not in text
    with pytest.raises(MiaobiError, match="#/items/not"):
        texts(case, json_schema={"type": "array", "items": {"not": {}}})


def test_any_json_object(case: Case) -> None:
    need(case, "json_schema")
    pieces, joined = asyncio.run(
        collect(
            case.engine,
            ask(
                n=4,
                json_schema={"type": "object", "additionalProperties": True},
                max_new_tokens=120,
            ),
        )
    )
    for row, text in zip(pieces, joined, strict=True):
        assert text.startswith("{")
        if row[-1].finish == "stop":
            assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("name", TEXT_ENGINES)
def test_closed_engines_leave_no_thread(name: str, tmp_path: Path) -> None:
    before = {thread.name for thread in threading.enumerate()}
    with open_case(name, tmp_path) as engine:
        asyncio.run(collect(engine, ask(max_new_tokens=2)))
    after = {thread.name for thread in threading.enumerate()}
    left = after - before - {"miaobi-loop"}
    assert not [name for name in left if name.startswith("miaobi-")]


def test_collected_marks_what_was_cut_off() -> None:
    collected = Collected(TextRequest(prompt="", n=2))
    collected.add(Chunk(1, "x", finish="length"))
    answers = collected.artifacts(Facts("small"))
    assert [answer.finish for answer in answers] == ["cancelled", "length"]
    assert [answer.text for answer in answers] == ["", "x"]
