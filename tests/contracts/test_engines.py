"""One suite over every registered engine that writes: what `core/engine.py` promises,
each of them keeps.

All run one small model that learnt a Chinese poem in the test: as a bundle in native,
as GGUF in the others. `remote` asks a real server over a real socket.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.engines.server import CompletionServer
from tests.engines.small import small_bundle, small_gguf, words

from miaobi.core.engine import Chunk, Engine, Weights
from miaobi.core.errors import BadInput, MiaobiError, Unsupported
from miaobi.core.requests import ImageRequest, TextRequest
from miaobi.engines import engines
from miaobi.engines.collected import Collected
from miaobi.engines.load import open_engine

WRITERS = [
    name
    for name in engines.names()
    if "max_new_tokens" in engines.get(name).ABILITIES.controls
]
PROMPT = "春江潮水连海平，海上明月共潮生。"


@dataclass
class Case:
    name: str
    engine: Engine


def small_weights(name: str, place: Path) -> Weights:
    if name == "native":
        return Weights(
            "bundle", str(small_bundle(place / "bundle")), "small", family="gpt"
        )
    return Weights("gguf", str(small_gguf(place)), "small")


@pytest.fixture(scope="module", params=WRITERS)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    """Every engine on the same small model; `remote` asks a real server that runs
    llama.cpp's answers.
    """
    place = tmp_path_factory.mktemp(request.param)
    if request.param == "remote":
        behind = open_engine(small_weights("llamacpp", place), "llamacpp", 4, {})
        with CompletionServer(behind) as server:
            engine = open_engine(
                Weights("url", server.url, "small"),
                "remote",
                4,
                {"context_length": 256},
            )
            yield Case("remote", engine)
            engine.close()
        behind.close()
        return
    engine = open_engine(small_weights(request.param, place), request.param, 4, {})
    yield Case(request.param, engine)
    engine.close()


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


def test_pieces_are_whole_characters_and_end_once(case: Case) -> None:
    pieces, joined = asyncio.run(
        collect(case.engine, ask(n=2, max_new_tokens=40, temperature=0.3))
    )
    for row in pieces:
        assert [chunk.finish is not None for chunk in row] == [False] * (
            len(row) - 1
        ) + [True]
        assert row[-1].finish in ("stop", "length")
    assert all(len(text) > 0 for text in joined)
    for row in pieces:
        for chunk in row:
            chunk.text.encode("utf-8")


def test_it_streams(case: Case) -> None:
    pieces, _ = asyncio.run(collect(case.engine, ask(max_new_tokens=30, temperature=0)))
    assert len([chunk for chunk in pieces[0] if chunk.text]) > 3


def test_tokens_are_counted(case: Case) -> None:
    pieces, _ = asyncio.run(collect(case.engine, ask(max_new_tokens=17, temperature=0)))
    assert pieces[0][-1].finish == "length"
    assert sum(chunk.tokens for chunk in pieces[0]) == 17


def test_tokens_of_the_prompt_are_told_once(case: Case) -> None:
    def told(**controls: Any) -> list[int]:
        pieces, _ = asyncio.run(collect(case.engine, ask(max_new_tokens=4, **controls)))
        return [
            chunk.prompt_tokens
            for row in pieces
            for chunk in row
            if chunk.prompt_tokens
        ]

    (short,), (long,), (several,) = (
        told(prompt=PROMPT[:3]),
        told(prompt=PROMPT[:9]),
        told(prompt=PROMPT[:9], n=6),
    )
    assert long - short == 6 and several == long


def test_an_empty_prompt_is_no_error(case: Case) -> None:
    pieces, _ = asyncio.run(collect(case.engine, ask(prompt="", max_new_tokens=4)))
    assert pieces[0][-1].finish in ("stop", "length")


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


def test_cancel_frees_the_place_at_once(case: Case) -> None:
    """Fill every place with long answers, leave them all, and a short one must not wait
    for any to end.
    """

    async def scenario() -> float:
        running: list[AsyncIterator[Chunk]] = []
        for _ in range(6):
            answers = case.engine.generate(ask(max_new_tokens=200))
            await anext(answers)
            running.append(answers)
        for answers in running:
            await answers.aclose()  # type: ignore[attr-defined]
        start = time.perf_counter()
        async for _ in case.engine.generate(ask(max_new_tokens=1)):
            pass
        return time.perf_counter() - start

    start = time.perf_counter()
    asyncio.run(collect(case.engine, ask(max_new_tokens=200, temperature=0)))
    whole = time.perf_counter() - start
    # Six answers that were not cancelled would hold a language model here for about ten
    # seconds.
    assert asyncio.run(scenario()) < max(1.5, whole / 2)


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
    if "logprobs" not in case.engine.abilities.controls:
        pytest.skip("not offered")
    pieces, joined = asyncio.run(
        collect(case.engine, ask(logprobs=0, max_new_tokens=8, temperature=0))
    )
    found = [entry for chunk in pieces[0] for entry in chunk.logprobs]
    assert 7 <= len(found) <= 8
    assert all(entry.logprob <= 0 for entry in found)
    spelled = "".join(entry.token for entry in found)
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
        with pytest.raises(Unsupported, match=name):
            texts(case, **{name: settings[name]})


def test_other_kinds_of_requests_are_refused(case: Case) -> None:
    async def scenario() -> None:
        async for _ in case.engine.generate(ImageRequest(prompt="x")):
            pass

    with pytest.raises(Unsupported):
        asyncio.run(scenario())


ACTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "temperature": ({"temperature": 0.0}, {"temperature": 3.0}),
    "top_k": ({"temperature": 3.0}, {"temperature": 3.0, "top_k": 1}),
    "top_p": ({"temperature": 3.0}, {"temperature": 3.0, "top_p": 0.0001}),
    "min_p": ({"temperature": 3.0}, {"temperature": 3.0, "min_p": 0.999}),
    "typical_p": ({"temperature": 3.0}, {"temperature": 3.0, "typical_p": 0.0001}),
    "repetition_penalty": (
        {"temperature": 0},
        {"temperature": 0, "repetition_penalty": 10.0},
    ),
    "presence_penalty": (
        {"temperature": 0},
        {"temperature": 0, "presence_penalty": 2.0},
    ),
    "frequency_penalty": (
        {"temperature": 0},
        {"temperature": 0, "frequency_penalty": 2.0},
    ),
    "no_repeat_ngram_size": (
        {"num_beams": 2, "temperature": 0},
        {"num_beams": 2, "temperature": 0, "no_repeat_ngram_size": 1},
    ),
    "num_beams": ({"temperature": 0}, {"temperature": 0, "num_beams": 4}),
}


@pytest.mark.parametrize("control", ACTS)
def test_each_claimed_control_acts(case: Case, control: str) -> None:
    if control not in case.engine.abilities.controls:
        pytest.skip("not offered")
    without, with_it = ACTS[control]
    assert texts(case, max_new_tokens=48, **without) != texts(
        case, max_new_tokens=48, **with_it
    )


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_the_tightest_cut_is_greedy(case: Case, cut: dict[str, Any]) -> None:
    if not set(cut) <= case.engine.abilities.controls:
        pytest.skip("not offered")
    assert texts(case, temperature=1.5, **cut) == texts(case, temperature=0)


def test_logit_bias_bans(case: Case) -> None:
    if "logit_bias" not in case.engine.abilities.controls:
        pytest.skip("not offered")
    usual = texts(case, temperature=0, max_new_tokens=1)[0]
    first = words().encode([usual])[0]
    assert (
        texts(case, temperature=0, max_new_tokens=1, logit_bias={first: -100})[0]
        != usual
    )
    assert (
        texts(
            case,
            temperature=0,
            max_new_tokens=3,
            logit_bias={words().encode(["a"])[0]: 100},
        )[0]
        == "aaa"
    )


def test_min_new_tokens_bans_the_end(case: Case) -> None:
    if "min_new_tokens" not in case.engine.abilities.controls:
        pytest.skip("not offered")
    for seed in range(3):
        pieces, _ = asyncio.run(
            collect(
                case.engine,
                ask(seed=seed, temperature=2.0, min_new_tokens=30, max_new_tokens=30),
            )
        )
        assert pieces[0][-1].finish == "length"
        assert sum(chunk.tokens for chunk in pieces[0]) == 30


def test_n_beyond_the_places_there_are(case: Case) -> None:
    pieces, joined = asyncio.run(collect(case.engine, ask(n=9, max_new_tokens=6)))
    assert all(row[-1].finish for row in pieces)
    assert len(set(joined)) > 4


def test_a_prompt_beyond_the_context_names_both_numbers(case: Case) -> None:
    limit = 256
    with pytest.raises(BadInput) as caught:
        texts(case, prompt="明月" * 300)
    assert str(limit) in str(caught.value)
    numbers = [
        int(word)
        for word in "".join(
            c if c.isdigit() else " " for c in str(caught.value)
        ).split()
    ]
    assert max(numbers) > limit


def test_an_answer_ends_where_the_context_ends(case: Case) -> None:
    if case.name == "remote":
        pytest.skip("the server's own business")
    pieces, _ = asyncio.run(
        collect(
            case.engine, ask(prompt="月" * 120, max_new_tokens=5000, temperature=1.2)
        )
    )
    assert pieces[0][-1].finish in ("length", "stop")
    assert sum(chunk.tokens for chunk in pieces[0]) <= 256


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
    if "json_schema" not in case.engine.abilities.controls:
        pytest.skip("not offered")
    for seed in range(4):
        text = texts(case, json_schema=SCHEMA, max_new_tokens=200, seed=seed)[0]
        value = json.loads(text)
        assert set(value) <= set(SCHEMA["properties"])
        assert isinstance(value["name"], str)
        assert len(value["name"]) <= 12
        assert isinstance(value["age"], int)
        assert value.get("mood", "calm") in ("calm", "开心")
        assert "\n" not in text
    with pytest.raises(MiaobiError, match="pattern"):
        texts(case, json_schema={"type": "string", "pattern": "^a+$"})


def test_any_json_object(case: Case) -> None:
    if "json_schema" not in case.engine.abilities.controls:
        pytest.skip("not offered")
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


def test_closed_engines_leave_no_thread(tmp_path: Path) -> None:
    import threading

    before = {thread.name for thread in threading.enumerate()}
    for name in ("native", "llamacpp", "openvino"):
        engine = open_engine(small_weights(name, tmp_path / name), name, 1, {})
        asyncio.run(collect(engine, ask(max_new_tokens=2)))
        engine.close()
    assert not [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("miaobi-")
        and thread.name not in before | {"miaobi-loop"}
    ]


def test_collected_marks_what_was_cut_off() -> None:
    collected = Collected(TextRequest(prompt="", n=2))
    collected.add(Chunk(1, "x", finish="length"))
    assert collected._finish == ["cancelled", "length"]
