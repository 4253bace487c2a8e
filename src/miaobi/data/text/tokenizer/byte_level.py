"""The tokenizer of every language model here: a byte-level BPE in GPT-2's alphabet."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Backend

from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.data.text.documents import TURN_END, TURN_START, Special

END_OF_TEXT = "<|endoftext|>"
SPECIALS = (END_OF_TEXT, TURN_START, TURN_END)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""Qwen2's rule for words."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
UNICODE = 0x110000
"""Code points there are."""
SLICE = 1 << 15
"""Characters tokenised at once."""
NEW_LINE = re.compile(r"\n(?=\S)")
UNKNOWN = -1


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes: printable ones represent themselves, the rest
    follow from U+0100.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    for number, byte in enumerate(others):
        alphabet[chr(256 + number)] = byte
    return alphabet


BYTES = _byte_alphabet()
LETTERS = {byte: letter for letter, byte in BYTES.items()}


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to token numbers and back."""

    backend: Backend
    name: str
    """In reports: "char", "bpe" or the pretrained one's name."""
    end_id: int
    """Precedes the first document and follows each: bos, eos and separator in one."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """Special tokens that a family has beside it, by Transformers' names: mask_token; ""
    for one that it does not have.
    """

    @property
    def vocab_size(self) -> int:
        return int(self.backend.get_vocab_size())

    def encode(self, pieces: Sequence[str]) -> list[int]:
        """Return the token numbers of a document's pieces. Only Special pieces become
        special tokens.
        """
        ids: list[int] = self.encode_batch([pieces])[0].tolist()
        return ids

    def encode_batch(self, documents: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Return the token numbers, int64 [tokens], of each document; on all cores."""
        plain = [
            piece
            for pieces in documents
            for piece in pieces
            if not isinstance(piece, Special)
        ]
        encoded = iter(self._encode_plain(plain))
        batch = list[np.ndarray]()
        for pieces in documents:
            parts = list[np.ndarray]()
            for piece in pieces:
                is_special = isinstance(piece, Special)
                parts.append(self._special(piece) if is_special else next(encoded))
            batch.append(np.concatenate(parts))
        return batch

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token numbers, special tokens as they are written."""
        numbers = [int(token) for token in ids]
        return str(self.backend.decode(numbers, skip_special_tokens=False))

    def save(self, folder: Path) -> None:
        """Write the files from which Transformers' AutoTokenizer, our exporters and
        `load` read it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        end = self.backend.id_to_token(self.end_id)
        roles = ("bos_token", "eos_token", "pad_token", "unk_token")
        named = {**dict.fromkeys(roles, end), **self.roles}
        specials = {role: token for role, token in named.items() if token}
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "miaobi_name": self.name,
            **specials,
            "add_bos_token": False,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
        }
        _write_json(folder / "tokenizer_config.json", config)
        _write_json(folder / "special_tokens_map.json", specials)
        if self.backend.token_to_id(TURN_START) is not None:
            (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")

    def _special(self, piece: str) -> np.ndarray:
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

    def _encode_plain(self, texts: Sequence[str]) -> list[np.ndarray]:
        if self._table is None:
            return self._by_merging(texts)
        return self._by_table(texts, self._table)

    def _by_merging(self, texts: Sequence[str]) -> list[np.ndarray]:
        # "<|im_end|>" typed by somebody stays plain text.
        self.backend.encode_special_tokens = True
        sliced = [list(slices(text)) for text in texts]
        flat = [part for parts in sliced for part in parts]
        encoded = self.backend.encode_batch_fast(flat, add_special_tokens=False)
        ids = iter(np.array(part.ids, dtype=np.int64) for part in encoded)
        return [np.concatenate([next(ids) for _ in parts]) for parts in sliced]

    def _by_table(self, texts: Sequence[str], table: np.ndarray) -> list[np.ndarray]:
        """What merging gives for a character vocabulary, some fifty times faster: one
        look-up per character.
        """
        codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
        tokens = table[codes]
        ends = np.cumsum([len(text) for text in texts])
        unknown = np.flatnonzero(tokens == UNKNOWN)
        if len(unknown):
            tokens, ends = self._spell(codes, tokens, unknown, ends)
        return np.split(tokens, ends[:-1])

    def _spell(
        self,
        codes: np.ndarray,
        tokens: np.ndarray,
        unknown: np.ndarray,
        ends: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Replace unknown characters by the tokens of their bytes.

        Args:
            codes: code points, uint32 [characters]
            tokens: their tokens, int64 [characters], UNKNOWN for some
            unknown: positions of those, int64 [unknown]
            ends: where each text ends in `codes`, int64 [texts]

        Returns:
            The tokens, int64 [tokens], and where each text ends in them.
        """
        spelled = {
            code: self._by_merging([chr(code)])[0]
            for code in set(codes[unknown].tolist())
        }
        lengths = np.ones(len(codes), dtype=np.int64)
        lengths[unknown] = [len(spelled[code]) for code in codes[unknown].tolist()]
        stops = np.cumsum(lengths)
        tokens = np.repeat(tokens, lengths)
        for position in unknown:
            stop = stops[position]
            start = stop - lengths[position]
            tokens[start:stop] = spelled[int(codes[position])]
        return tokens, np.concatenate([[0], stops])[ends]

    @cached_property
    def _table(self) -> np.ndarray | None:
        """For a character vocabulary: the token of each code point, UNKNOWN where a
        character takes several.
        """
        if self.name != "char":
            return None
        table = np.full(UNICODE, UNKNOWN, dtype=np.int64)
        for text, token in self.backend.get_vocab(with_added_tokens=False).items():
            if text in SPECIALS:
                continue
            raw = bytes(BYTES[letter] for letter in text)
            if is_character(raw):
                table[ord(raw.decode())] = token
        return table


def _write_json(file: Path, content: object) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=1)
    file.write_text(text, encoding="utf-8")


def slices(text: str) -> Iterator[str]:
    """Yield a long text in parts, because `tokenizers` takes some hundred bytes of
    memory for each word of a text at once.

    Parts begin where a line does, without white space: no word rule joins what is on
    the two sides.
    """
    start = 0
    while len(text) - start > SLICE:
        lines = list(NEW_LINE.finditer(text, start + SLICE // 2, start + SLICE))
        end = lines[-1].end() if lines else start + SLICE
        yield text[start:end]
        start = end
    yield text[start:]


def is_character(raw: bytes) -> bool:
    """Return whether these bytes are one character in UTF-8."""
    try:
        return len(raw.decode()) == 1
    except UnicodeDecodeError:
        return False


def word_splitter(rule: str = QWEN2) -> pre_tokenizers.PreTokenizer:
    """Return the pre-tokenizer that cuts words by a regular expression."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rule), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def with_end_of_text(
    backend: Backend, name: str, eos_token: str | None, path: Path
) -> Tokenizer:
    """Return the tokenizer of a vocabulary that ends documents with <|endoftext|>, or
    with `eos_token` where there is no such token: a chat model's eos only ends a turn.

    Raises Unsupported where neither is in the vocabulary; the error names `path`.
    """
    end = backend.token_to_id(END_OF_TEXT)
    if end is None and eos_token:
        end = backend.token_to_id(eos_token)
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
