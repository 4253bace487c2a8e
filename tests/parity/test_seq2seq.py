"""The seq2seq family computes what Transformers' MarianMTModel computes, and the native
engine writes what its `generate` writes: greedily and by beams, one text or several
together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from miaobi.core import bundle
from miaobi.core.bundle import Manifest
from miaobi.core.engine import Weights
from miaobi.core.requests import TextRequest
from miaobi.data.text import tokenizer
from miaobi.data.text.pairs import PairSpec
from miaobi.engines import native
from miaobi.families import seq2seq

TEXTS = ("打开文件", "保存", "文件不存在，请检查路径", ">>zh<< Open the file", "取消")
LENGTHS = torch.tensor([20, 7, 13])


def spec_of(words: tokenizer.Tokenizer) -> PairSpec:
    pad = words.backend.token_to_id("[PAD]")
    return PairSpec(
        vocab_size=words.vocab_size,
        source_length=64,
        target_length=24,
        pad_id=pad,
        eos_id=words.end_id,
        languages=("zh", "en"),
        tokenizer="char",
    )


def small_tokenizer() -> tokenizer.Tokenizer:
    plain = tokenizer.characters(dict.fromkeys("".join(TEXTS), 5), 1)
    return tokenizer.with_specials(
        plain,
        ["[PAD]", ">>zh<<", ">>en<<"],
        {"pad_token": "[PAD]", "bos_token": ""},
        single="$A <|endoftext|>",
        pair="$A $B <|endoftext|>",
    )


@pytest.fixture(scope="module", params=["sinusoidal", "rotary"])
def objective(request: pytest.FixtureRequest) -> seq2seq.Translator:
    """Untrained, but with opinions."""
    torch.manual_seed(3)
    config = seq2seq.Config(num_layers=2, hidden_size=64, positions=request.param)
    built = seq2seq.build(config, spec_of(small_tokenizer()))
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.15)
    # So that some texts end and others do not.
    with torch.no_grad():
        built.net.shared.weight[built.net.spec.eos_id] *= 2
    return built.eval()


@pytest.fixture(scope="module")
def folder(
    objective: seq2seq.Translator, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    def save(draft: Path) -> None:
        seq2seq.save(objective, draft)
        small_tokenizer().save(draft)

    path = tmp_path_factory.mktemp("seq2seq") / "bundle"
    return bundle.write(path, Manifest("seq2seq", "text"), save)


@pytest.fixture
def engine(folder: Path):
    weights = Weights("bundle", str(folder), "zh-en", family="seq2seq")
    opened = native.open_engine(weights)
    yield opened
    opened.close()


def marian(folder: Path):
    from transformers import MarianMTModel

    model, loading = MarianMTModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())
    return model.eval()


def written(engine, requests: Sequence[TextRequest]) -> list[list[str]]:
    """The answers to requests that arrive together."""

    async def one(request: TextRequest) -> list[str]:
        texts = [""] * request.n
        async for chunk in engine.generate(request):
            texts[chunk.index] += chunk.text
        return texts

    async def every() -> list[list[str]]:
        return await asyncio.gather(*map(one, requests))

    return asyncio.run(every())


def whole(answers: list[list[str]]) -> list[list[str]]:
    """The same without halves of characters."""
    return [[text.replace("\ufffd", "") for text in texts] for texts in answers]


def is_marian(objective: seq2seq.Translator) -> bool:
    return objective.net.config.positions == "sinusoidal"


def test_logits_equal_marian(objective: seq2seq.Translator, folder: Path) -> None:
    if not is_marian(objective):
        pytest.skip("Transformers has no encoder–decoder of this kind with rotations")
    vocabulary = objective.net.spec.vocab_size
    sources = torch.randint(4, vocabulary - 3, (3, 20))
    targets = torch.randint(4, vocabulary - 3, (3, 9))
    present = (torch.arange(20) < LENGTHS[:, None]).long()
    expected = marian(folder)(
        sources, attention_mask=present, decoder_input_ids=targets
    ).logits
    logits = objective.net(sources, LENGTHS, targets)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_cross_attention_equals_marians(
    objective: seq2seq.Translator, folder: Path
) -> None:
    if not is_marian(objective):
        pytest.skip("Transformers has no encoder–decoder of this kind with rotations")
    theirs = marian(folder)
    theirs.set_attn_implementation("eager")
    sources = torch.randint(4, 30, (3, 20))
    targets = torch.randint(4, 30, (3, 9))
    present = (torch.arange(20) < LENGTHS[:, None]).long()
    expected = theirs(
        sources,
        attention_mask=present,
        decoder_input_ids=targets,
        output_attentions=True,
    ).cross_attentions
    maps = objective.net.cross_attention(sources, LENGTHS, targets)
    torch.testing.assert_close(maps, torch.stack(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))


def test_loads_what_it_saved(objective: seq2seq.Translator, folder: Path) -> None:
    loaded = seq2seq.load(folder)
    assert (loaded.config, loaded.spec) == (objective.net.config, objective.net.spec)
    sources, targets = torch.randint(4, 30, (3, 20)), torch.randint(4, 30, (3, 9))
    torch.testing.assert_close(
        loaded(sources, LENGTHS, targets), objective.net(sources, LENGTHS, targets)
    )


def test_tokens_one_by_one_give_the_same_logits(objective: seq2seq.Translator) -> None:
    net = objective.net
    sources, targets = torch.randint(4, 30, (3, 20)), torch.randint(4, 30, (3, 9))
    whole = net(sources, LENGTHS, targets)
    read = net.encode(sources, LENGTHS)
    past: list = []
    for position in range(9):
        decoded = net.decode(
            targets[:, position : position + 1], read, past, torch.tensor([position])
        )
        past = decoded.keys_values
        torch.testing.assert_close(
            decoded.logits[:, 0], whole[:, position], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("num_beams", [1, 4])
def test_writes_what_transformers_writes(
    objective: seq2seq.Translator,
    folder: Path,
    engine,
    num_beams: int,
    length_penalty: float,
) -> None:
    if not is_marian(objective):
        pytest.skip("Transformers has no encoder–decoder of this kind with rotations")
    if num_beams == 1 and length_penalty != 1:
        pytest.skip("a penalty is for beams")
    from transformers import AutoTokenizer

    theirs = marian(folder)
    words = AutoTokenizer.from_pretrained(folder)
    requests, expected = [], []
    for text in TEXTS:
        requests.append(
            TextRequest(
                prompt=text,
                temperature=0.0,
                num_beams=num_beams,
                n=num_beams,
                length_penalty=length_penalty,
                max_new_tokens=12,
            )
        )
        tagged = text.replace("<< ", "<<") if ">>" in text else ">>en<<" + text
        answers = theirs.generate(
            **words(tagged, return_tensors="pt"),
            num_beams=num_beams,
            num_return_sequences=num_beams,
            length_penalty=length_penalty,
            do_sample=False,
            max_new_tokens=12,
            max_length=None,
        )
        expected.append(words.batch_decode(answers, skip_special_tokens=True))
    # At its end a text here leaves out half a character; theirs has U+FFFD.
    assert whole(written(engine, requests)) == whole(expected)


def test_texts_together_are_written_as_alone(engine) -> None:
    """Rows of unlike source and age share each step; sampling has its own seeds."""
    requests = [
        TextRequest(prompt=text, seed=number, n=2, max_new_tokens=5 + 3 * number)
        for number, text in enumerate(TEXTS)
    ]
    requests.append(TextRequest(prompt=TEXTS[0], num_beams=3, max_new_tokens=9))
    alone = [written(engine, [request])[0] for request in requests]
    assert written(engine, requests) == alone
