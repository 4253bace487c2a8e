"""Control tokens in people's texts: text, on every tokenizer and in every template."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from miaobi.core import gguf
from miaobi.models.chat import ChatTemplate, from_folder, from_gguf
from miaobi.models.control_tokens import ControlTokens, Prompt, tokens_of_gguf
from miaobi.tune.text.turns import CHATML

MARKS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "</s>")
CONTROL = ControlTokens.among(dict.fromkeys(MARKS, True) | {"<think>": False})
CHAT = ChatTemplate(CHATML, control_tokens=CONTROL)
ZEPHYR = ChatTemplate(
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}",
    control_tokens=CONTROL,
)


def byte_level() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate([*alphabet, "<|", "im"])}
    backend = Tokenizer(models.BPE(vocabulary, [("<", "|"), ("i", "m")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return with_marks(backend)


def with_prefix_spaces() -> Tokenizer:
    """As SentencePiece: a space stands before whatever is tokenised."""
    characters = sorted(set("▁abcdefghijklmnopqrstuvwxyz<>/|_'"))
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme="first", split=False
    )
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Metaspace()]
    )
    return with_marks(backend)


def unigram() -> Tokenizer:
    """Its control tokens are pieces as well, as in T5's vocabulary."""
    characters = sorted(set("▁abcdefghijklmnopqrstuvwxyz<>/|_'\n"))
    pieces = [("<unk>", 0.0), *((mark, 0.0) for mark in MARKS)]
    pieces += [(character, -3.0) for character in characters]
    backend = Tokenizer(models.Unigram(pieces, 0, byte_fallback=False))
    backend.decoder = decoders.Fuse()
    return with_marks(backend)


def with_marks(backend: Tokenizer) -> Tokenizer:
    backend.add_special_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    return backend


TOKENIZERS = {
    "byte_level": byte_level(),
    "with_prefix_spaces": with_prefix_spaces(),
    "unigram": unigram(),
}
kinds = st.sampled_from(sorted(TOKENIZERS))
pieces = st.sampled_from(
    [*MARKS, "<|", "<", "im_", "end|>", "|>", "s>", " ", "\n", "a"]
)
people = st.lists(pieces, max_size=8).map("".join)
ordinary = st.text("abz<>|_/' \n春🙂\U00100000\ufdd0", max_size=20).filter(
    lambda text: not any(mark in text for mark in MARKS)
)
templates = st.sampled_from([CHAT, ZEPHYR])


def asked(*contents: str) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(contents)
    return [
        {"role": role, "content": content}
        for role, content in zip(roles, contents, strict=False)
    ]


def encode(kind: str, prompt: Prompt) -> list[int]:
    backend = TOKENIZERS[kind]
    return prompt.encode(lambda text: backend.encode(text).ids)


def control_ids(kind: str, ids: list[int]) -> list[str]:
    pieces = [TOKENIZERS[kind].id_to_token(number) for number in ids]
    return [piece for piece in pieces if piece in MARKS]


@given(kinds, templates, ordinary, ordinary)
def test_without_control_tokens_the_ids_are_those_of_the_whole_text(
    kind: str, template: ChatTemplate, question: str, answer: str
) -> None:
    prompt = template.render(asked(question, answer))
    assert not prompt.cuts
    assert question in prompt.text
    assert encode(kind, prompt) == TOKENIZERS[kind].encode(prompt.text).ids


@given(kinds, templates, people, people)
def test_only_the_template_writes_control_tokens(
    kind: str, template: ChatTemplate, question: str, answer: str
) -> None:
    prompt = template.render(asked(question, answer))
    assert question in prompt.text
    plain = template.render(asked("a", "b"))
    ids = encode(kind, prompt)
    assert control_ids(kind, ids) == control_ids(kind, encode(kind, plain))


@given(templates, people, people)
def test_every_letter_is_read(
    template: ChatTemplate, question: str, answer: str
) -> None:
    """Spaces that a tokenizer puts before a text are put before none of its parts."""
    prompt = template.render(asked(question, answer))
    for kind in ("byte_level", "with_prefix_spaces"):
        text = TOKENIZERS[kind].decode(encode(kind, prompt), skip_special_tokens=False)
        # Between the template's control tokens, white space is the tokenizer's affair.
        assert text.replace(" ", "") == prompt.text.replace(" ", "")
    assert (
        TOKENIZERS["byte_level"].decode(
            encode("byte_level", prompt), skip_special_tokens=False
        )
        == prompt.text
    )


@given(kinds, templates, people)
def test_offsets_are_those_of_the_whole_text(
    kind: str, template: ChatTemplate, question: str
) -> None:
    def tokens(text: str) -> list[tuple[int, int, int]]:
        encoded = TOKENIZERS[kind].encode(text)
        return [
            (number, *offsets)
            for number, offsets in zip(encoded.ids, encoded.offsets, strict=True)
        ]

    prompt = template.render(asked(question, "b"))
    located = prompt.encode_with_offsets(tokens)
    assert [number for number, _, _ in located] == encode(kind, prompt)
    for number, start, end in located:
        piece = TOKENIZERS[kind].id_to_token(number)
        if piece in MARKS:
            assert prompt.text[start:end] == piece


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "text", "text": "<|im_"}, {"type": "text", "text": "end|>"}]},
        {"role": "user<|im_end|>", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"type": "function", "function": {"name": "a", "arguments": '{"<|im_end|>": ["<|im_end|>"]}'}}
        ]},
    ],
)  # fmt: skip
def test_every_text_of_a_message_is_peoples(message: dict) -> None:
    prompt = CHAT.render([message])
    ids = encode("byte_level", prompt)
    assert control_ids("byte_level", ids) == [
        "<|im_start|>",
        "<|im_end|>",
        "<|im_start|>",
    ]


def test_tools_are_texts_too_also_where_json_is_ascii() -> None:
    tool = {"function": {"name": "a", "description": "ends <|im_end|> ü"}}
    source = (
        "{{ tools | tojson(ensure_ascii=True) }}<|im_end|>{{ messages[0].content }}"
    )
    prompt = ChatTemplate(source, control_tokens=CONTROL).render(
        asked("x"), tools=[tool]
    )
    assert "ends <|im_end|> \\u00fc" in prompt.text
    ids = encode("byte_level", prompt)
    assert control_ids("byte_level", ids) == ["<|im_end|>"]


def test_two_texts_make_no_control_token_together() -> None:
    template = ChatTemplate(
        "{{ messages[0].content }}{{ messages[1].content }}", control_tokens=CONTROL
    )
    prompt = template.render(asked("a <|im", "_end|>"))
    assert prompt.text == "a <|im_end|>"
    assert not control_ids("byte_level", encode("byte_level", prompt))


def test_what_is_marked_as_the_assistants_is_not_what_people_mark() -> None:
    template = ChatTemplate(
        "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }};{% endgeneration %}{% else %}{{ m.content }};"
        "{% endif %}{% endfor %}"
    )
    prompt = template.render(asked("\ufdd0\U00100000q\U00100001\ufdd1", "a"))
    assert [prompt.text[start:end] for start, end in prompt.turns] == ["a;"]
    assert "\U00100000q\U00100001" in prompt.text


def test_a_slice_keeps_its_cuts() -> None:
    prompt = CHAT.render(asked("a<|im_end|>b"))
    start = prompt.text.index("a<")
    part = prompt[start : start + 8]
    assert part == Prompt("a<|im_en", (2,))
    assert prompt[:start].cuts == ()
    assert Prompt("</s>hi", (1,)).without_first("</s>") == Prompt("</s>hi", (1,))
    assert Prompt("</s>hi").without_first("</s>") == Prompt("hi")


def test_which_tokens_are_control_tokens(tmp_path: Path) -> None:
    added = {"<s>": True, "<tool_call>": False, "<｜User｜>": False, "<|end|>": False}
    assert ControlTokens.among(added | {"§": True}).tokens == {
        "<s>",
        "<｜User｜>",
        "<|end|>",
    }
    byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    template = from_folder(tmp_path)
    assert template is not None
    assert template.control_tokens.tokens == set(MARKS)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text(
        '{"added_tokens_decoder": {"7": {"content": "<s>", "special": true}}}'
    )
    template = from_folder(tmp_path)
    assert template is not None
    assert template.control_tokens.tokens == {"<s>"}
    metadata = {
        "tokenizer.ggml.tokens": ["a", "<unk>", "<s>", "<|eot|>", "<think>"],
        "tokenizer.ggml.token_type": [1, 2, 3, 4, 4],
    }
    assert tokens_of_gguf(metadata).tokens == {"<unk>", "<s>", "<|eot|>"}


def test_the_packaged_chat_model(smollm2: Path) -> None:
    metadata = gguf.read(smollm2).metadata
    template = from_gguf(metadata)
    assert template is not None
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} <= (
        template.control_tokens.tokens
    )
