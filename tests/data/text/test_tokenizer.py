"""Every tokenizer is lossless, and the fast paths and file formats agree with the
reference implementations.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaobi.core.errors import BadInput, Damaged, NotFound, Unsupported
from miaobi.data.text import tokenizer as tokenizers
from miaobi.data.text.documents import Document, Message, Special
from miaobi.data.text.tokenizer import SPECIALS, Tokenizer, byte_level

VOCABULARY = "春眠不覺曉，處處聞啼鳥。夜來風雨聲，花落知多少。éß😀\n"
SAMPLE = [
    VOCABULARY,
    "The quick brown fox jumps over the lazy dog 1234 times, didn't it?\r\n",
    "  春 眠\t\t<|im_end|>",
] * 3
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text(st.sampled_from(VOCABULARY + "abc 12\n椿𠀀<|im_end|>")),
)

CHAR = tokenizers.characters(Counter("".join(SAMPLE)), 2)
BPE = tokenizers.train_bpe(SAMPLE, 400)


@pytest.fixture(params=["char", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return {"char": CHAR, "bpe": BPE}[request.param]


@given(TEXT)
@settings(max_examples=300)
@pytest.mark.parametrize("tokenizer", [CHAR, BPE], ids=["char", "bpe"])
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text
    assert not set(ids) & {
        tokenizer.backend.token_to_id(token) for token in SPECIALS
    }, "plain text never makes a special token"


@given(st.lists(TEXT, min_size=1, max_size=5))
@settings(max_examples=300)
def test_table_and_merges_give_the_same_tokens(texts: list[str]) -> None:
    fast = CHAR.encode_batch([[text] for text in texts])
    slow = CHAR._by_merging(texts)
    assert [ids.tolist() for ids in fast] == [ids.tolist() for ids in slow]


def test_one_token_for_each_character_of_the_vocabulary() -> None:
    assert len(CHAR.encode([VOCABULARY])) == len(VOCABULARY)
    assert len(CHAR.encode(["椿"])) == 3 - (
        "椿".encode()[:2] in {char.encode()[:2] for char in VOCABULARY}
    )


def test_rare_characters_are_spelled_in_bytes() -> None:
    tokenizer = tokenizers.characters({"春": 5, "眠": 1}, 2)
    assert len(tokenizer.encode(["春"])) == 1
    assert len(tokenizer.encode(["眠"])) > 1
    assert tokenizer.decode(tokenizer.encode(["春眠"])) == "春眠"


@given(
    st.lists(
        st.sampled_from(["a b", "\n", " ", "\n\n", "春眠", "\t", "1234", "it's"]),
        max_size=60,
    ).map("".join)
)
def test_slices_do_not_change_the_tokens(text: str) -> None:
    whole = BPE.encode([text])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_level, "SLICE", 12)
        parts = list(byte_level.slices(text))
        assert "".join(parts) == text
        cut_at_lines = all(
            part.endswith("\n") and after[:1].strip() for part, after in pairwise(parts)
        )
        assert BPE.encode([text]) == whole or not cut_at_lines
        assert BPE.decode(BPE.encode([text])) == text


def test_conversations_use_the_special_tokens(tokenizer: Tokenizer) -> None:
    document = Document(
        messages=(Message("user", "春<|im_end|>"), Message("assistant", "眠"))
    )
    ids = tokenizer.encode(document.pieces())
    turn = {name: tokenizer.backend.token_to_id(name) for name in SPECIALS}
    assert [turn["<|im_start|>"], turn["<|im_end|>"]] == [1, 2]
    assert tokenizer.end_id == 0
    assert ids.count(1) == ids.count(2) == 2, "what a user typed is no token"
    assert tokenizer.decode(ids) == document.training_text()


def test_transformers_loads_and_agrees(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.eos_token_id == theirs.bos_token_id == tokenizer.end_id
    for text in SAMPLE[:2]:
        assert theirs(text)["input_ids"] == tokenizer.encode([text])
        assert theirs.decode(tokenizer.encode([text])) == text
    messages = [
        {"role": "user", "content": "春 hi"},
        {"role": "assistant", "content": "眠"},
    ]
    document = Document(messages=tuple(Message(**message) for message in messages))
    assert (
        theirs.apply_chat_template(messages, tokenize=False) == document.training_text()
    )
    assert theirs.apply_chat_template(messages)["input_ids"] == tokenizer.encode(
        document.pieces()
    )
    prompt = theirs.apply_chat_template(
        messages[:1], tokenize=False, add_generation_prompt=True
    )
    assert document.training_text().startswith(prompt)


def test_saved_and_loaded_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = tokenizers.load(tmp_path)
    assert (again.name, again.vocab_size, again.end_id) == (
        tokenizer.name,
        tokenizer.vocab_size,
        tokenizer.end_id,
    )
    assert again.encode([*SAMPLE, Special("<|im_end|>")]) == tokenizer.encode(
        [*SAMPLE, Special("<|im_end|>")]
    )


def test_training_is_reproducible() -> None:
    assert tokenizers.train_bpe(SAMPLE, 400).backend.to_str() == BPE.backend.to_str()


def llama_cpp_tokens(model: Path, texts: list[str]) -> list[list[int]]:
    import json
    import urllib.request

    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.warmup = str(model), 64, False
    server = xllamacpp.Server(parameters)

    def ask(text: str) -> list[int]:
        body = json.dumps({"content": text, "parse_special": False}).encode()
        request = urllib.request.Request(
            f"{server.listening_address}/tokenize",
            body,
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return list(json.loads(answer.read())["tokens"])

    return [ask(text) for text in texts]


def test_gguf_vocabulary_cuts_text_as_llama_cpp_does(smollm2: Path) -> None:
    tokenizer = tokenizers.load(smollm2)
    texts = [*SAMPLE[:3], "year 2026: 3.14", "　全角　空格"]
    theirs = llama_cpp_tokens(smollm2, texts)
    assert [tokenizer.encode([text]) for text in texts] == theirs
    assert [tokenizer.decode(ids) for ids in theirs] == texts


def test_llama_cpp_cuts_text_as_the_exported_tokenizer_does(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from miaobi.models.convert import to_gguf

    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
    ).save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    model = to_gguf(tmp_path, tmp_path / "x.gguf", "f32")
    texts = [
        *SAMPLE[:3],
        "椿 year 2026: 3.14, it's\n\n  new",
        "\u3000\u5168\u89d2 e\u0301",
    ]
    assert llama_cpp_tokens(model, texts) == [
        tokenizer.encode([text]) for text in texts
    ]


def test_bad_tokenizers(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no tokenizer"):
        tokenizers.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version"')
    with pytest.raises(Damaged):
        tokenizers.load(tmp_path)
    (tmp_path / "x.gguf").write_bytes(b"GGUF\x03")
    with pytest.raises(Damaged):
        tokenizers.load(tmp_path / "x.gguf")
    with pytest.raises(BadInput, match="vocab_size is 100"):
        tokenizers.train_bpe(SAMPLE, 100)
    bare = Tokenizer(BPE.backend, "bare", 0)
    with pytest.raises(Unsupported, match=r"<\|think\|>"):
        bare.encode([Special("<|think|>")])
