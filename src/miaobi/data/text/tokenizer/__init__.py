"""Tokenizers: characters, byte-level BPE trained here, or a pretrained one's. All
lossless, all one format.

Every tokenizer is a byte-level BPE in GPT-2's byte alphabet, because Transformers,
llama.cpp and OpenVINO all read that. A character vocabulary is the BPE whose merges
build exactly the known characters: for one of the bytes b1 b2 b3 the merges (b1, b2)
and (b1b2, b3). Merges never cross characters, so every engine sees one token per known
character, and the bytes of an unknown one.

Words are cut by Qwen2's rule, the one that both llama.cpp and OpenVINO GenAI know by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from miaobi.core.errors import BadInput, Damaged, NotFound, Unsupported
from miaobi.core.language import say
from miaobi.data.text.documents import TURN_END, TURN_START, Special

END_OF_TEXT = "<|endoftext|>"
SPECIALS = (END_OF_TEXT, TURN_START, TURN_END)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
UNICODE = 0x110000
SLICE = 1 << 15
LINE_START = re.compile(r"\n(?=\S)")


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to token numbers and back."""

    backend: Backend
    name: str
    """What reports call it: "char", "bpe" or the pretrained one's name."""
    end_id: int
    """Stands before the first document and after each: begin, end and separator in one."""

    @property
    def vocab_size(self) -> int:
        return int(self.backend.get_vocab_size())

    def encode(self, pieces: Sequence[str]) -> list[int]:
        """Token numbers of a document's pieces. Only Special pieces become special tokens."""
        return list(self.encode_batch([pieces])[0].tolist())

    def encode_batch(self, documents: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Token numbers, int64 [tokens], of each document; on all cores."""
        plain = [
            piece
            for pieces in documents
            for piece in pieces
            if not isinstance(piece, Special)
        ]
        encoded = iter(
            self._by_merging(plain)
            if self._table is None
            else self._by_table(plain, self._table)
        )
        return [
            np.concatenate(
                [
                    self._special(piece)
                    if isinstance(piece, Special)
                    else next(encoded)
                    for piece in pieces
                ]
            )
            for pieces in documents
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token numbers, special tokens included as they are written."""
        return str(
            self.backend.decode(
                [int(token) for token in ids], skip_special_tokens=False
            )
        )

    def save(self, folder: Path) -> None:
        """Write the files from which Transformers' AutoTokenizer, our exporters and
        `load` read it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        specials = dict.fromkeys(
            ("bos_token", "eos_token", "pad_token", "unk_token"),
            self.backend.id_to_token(self.end_id),
        )
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "miaobi_name": self.name,
            **specials,
            "add_bos_token": False,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
        }
        for file, content in (
            ("tokenizer_config.json", config),
            ("special_tokens_map.json", specials),
        ):
            (folder / file).write_text(
                json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8"
            )
        if self.backend.token_to_id(TURN_START) is not None:
            (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")

    def _special(self, piece: Special) -> np.ndarray:
        token = self.backend.token_to_id(str(piece))
        if token is None:
            raise Unsupported(
                say(
                    f"The tokenizer {self.name} has no token {piece}, which conversations need.",
                    f"分词器 {self.name} 没有对话所需的词元 {piece}。",
                ),
                say(
                    "Use tokenizer: char or bpe, or train on plain text.",
                    "请使用 tokenizer: char 或 bpe，或改用纯文本训练。",
                ),
            )
        return np.array([token])

    def _by_merging(self, texts: Sequence[str]) -> list[np.ndarray]:
        self.backend.encode_special_tokens = (
            True  # "<|im_end|>" typed by somebody stays plain text
        )
        sliced = [list(slices(text)) for text in texts]
        encoded = iter(
            self.backend.encode_batch_fast(
                [part for parts in sliced for part in parts], add_special_tokens=False
            )
        )
        return [
            np.concatenate([np.array(next(encoded).ids, dtype=np.int64) for _ in parts])
            for parts in sliced
        ]

    def _by_table(self, texts: Sequence[str], table: np.ndarray) -> list[np.ndarray]:
        """What merging gives for a character vocabulary, some fifty times faster: one
        look-up per character.
        """
        codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
        tokens, ends = table[codes], np.cumsum([len(text) for text in texts])
        unknown = np.flatnonzero(tokens < 0)
        if len(unknown):
            spelled = {
                code: self._by_merging([chr(code)])[0]
                for code in set(codes[unknown].tolist())
            }
            lengths = np.ones(len(codes), dtype=np.int64)
            lengths[unknown] = [len(spelled[code]) for code in codes[unknown].tolist()]
            after = np.cumsum(lengths)
            tokens = np.repeat(tokens, lengths)
            for place in unknown:
                tokens[after[place] - lengths[place] : after[place]] = spelled[
                    int(codes[place])
                ]
            ends = np.concatenate([[0], after])[ends]
        return np.split(tokens, ends[:-1])

    @cached_property
    def _table(self) -> np.ndarray | None:
        """For a character vocabulary: the token of each code point, -1 where a
        character takes several.
        """
        if self.name != "char":
            return None
        table = np.full(UNICODE, -1, dtype=np.int64)
        for text, token in self.backend.get_vocab(with_added_tokens=False).items():
            raw = (
                bytes(BYTES[letter] for letter in text) if text not in SPECIALS else b""
            )
            if is_character(raw):
                table[ord(raw.decode())] = token
        return table


def slices(text: str) -> Iterator[str]:
    """A long text in parts, for `tokenizers` takes some hundred bytes of memory for
    each word of a text at once.

    Parts begin where a line does, without white space: no word rule joins what stands
    on the two sides.
    """
    start = 0
    while len(text) - start > SLICE:
        breaks = list(LINE_START.finditer(text, start + SLICE // 2, start + SLICE))
        end = breaks[-1].end() if breaks else start + SLICE
        yield text[start:end]
        start = end
    yield text[start:]


def byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes: printable ones stand for themselves, the rest
    follow from U+0100.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


BYTES = byte_alphabet()
LETTERS = {byte: letter for letter, byte in BYTES.items()}


def is_character(raw: bytes) -> bool:
    try:
        return len(raw.decode()) == 1
    except UnicodeDecodeError:
        return False


def characters(counts: Mapping[str, int], min_frequency: int) -> Tokenizer:
    """The character tokenizer of a text with these character counts. Rarer characters
    are spelled in bytes.
    """
    known = sorted(
        char
        for char, count in counts.items()
        if count >= min_frequency and ord(char) > 0x7F
    )
    vocab = {
        token: place
        for place, token in enumerate(
            [*SPECIALS, *(LETTERS[byte] for byte in range(256))]
        )
    }
    merges = list[tuple[str, str]]()
    for char in known:
        letters = [LETTERS[byte] for byte in char.encode()]
        for end in range(1, len(letters)):
            left, right = "".join(letters[:end]), letters[end]
            if left + right not in vocab:
                vocab[left + right] = len(vocab)
                merges.append((left, right))
    return _finished(Backend(models.BPE(vocab=vocab, merges=merges)), "char")


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909) with `vocab_size` tokens,
    or fewer for a small text.
    """
    if vocab_size < 256 + len(SPECIALS):
        raise BadInput(
            say(
                f"vocab_size is {vocab_size}; the 256 bytes and "
                f"{len(SPECIALS)} special tokens need {256 + len(SPECIALS)}.",
                f"vocab_size 为 {vocab_size}；256 个字节加 {len(SPECIALS)} 个特殊词元至少需要 {256 + len(SPECIALS)}。",
            ),
            say("Give 1000 to 50000.", "请给出 1000 到 50000 之间的值。"),
        )
    backend = Backend(models.BPE())
    backend.pre_tokenizer = _words()
    backend.train_from_iterator(
        (part for text in texts for part in slices(text)),
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=list(SPECIALS),
            show_progress=False,
            initial_alphabet=[LETTERS[byte] for byte in range(256)],
        ),
    )
    return _finished(backend, "bpe")


def _words() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _finished(backend: Backend, name: str) -> Tokenizer:
    backend.pre_tokenizer, backend.decoder = _words(), decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIALS]
    )
    return pretrained(backend, name, END_OF_TEXT, Path(name))


def load(path: Path) -> Tokenizer:
    """A pretrained tokenizer: a folder with tokenizer.json (or that file), or a GGUF file.

    Raises NotFound, Damaged, Unsupported for kinds that are not byte-level BPE.
    """
    if path.suffix == ".gguf":
        from miaobi.data.text.tokenizer.gguf import from_gguf

        return from_gguf(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise NotFound(
            say(f"There is no tokenizer at {path}.", f"{path} 处没有分词器。"),
            say(
                'Give "char", "bpe", a folder with tokenizer.json, or a GGUF file.',
                "请给出 char、bpe、含 tokenizer.json 的文件夹，或 GGUF 文件。",
            ),
        )
    try:
        backend = Backend.from_file(str(path))
        settings = json.loads(
            (path.parent / "tokenizer_config.json").read_text(encoding="utf-8")
        )
    except FileNotFoundError:
        settings = {}
    except Exception as error:  # tokenizers raises bare Exception
        raise Damaged(
            say(
                f"{path} is not a whole tokenizer: {error}.",
                f"{path} 不是完整的分词器：{error}。",
            ),
            say("Copy it again.", "请重新复制。"),
        ) from None
    return pretrained(
        backend,
        settings.get("miaobi_name", path.parent.name),
        _content(settings.get("eos_token")),
        path,
    )


def pretrained(backend: Backend, name: str, eos: str | None, path: Path) -> Tokenizer:
    """Documents end in <|endoftext|> where the vocabulary has it: a chat model's eos
    only ends a turn.
    """
    end = backend.token_to_id(END_OF_TEXT)
    end = backend.token_to_id(eos) if end is None and eos else end
    if end is None:
        raise Unsupported(
            say(
                f"{path} names no eos_token to put between documents.",
                f"{path} 没有指定用于分隔文档的 eos_token。",
            ),
            say(
                "Add eos_token to tokenizer_config.json.",
                "请在 tokenizer_config.json 中加入 eos_token。",
            ),
        )
    return Tokenizer(backend, name, end)


def _content(token: Any) -> str | None:
    return str(token["content"]) if isinstance(token, dict) else token
