"""What the users of a version bring: texts, pictures, chats, reviews, tiny random bases to tune, recipes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 40
HALF = STEPS // 2
"""Of the runs and of the job that are killed: the step of their only checkpoint."""
COUPLETS = (
    "床前明月光，疑是地上霜。",
    "春眠不觉晓，处处闻啼鸟。",
    "白日依山尽，黄河入海流。",
    "The moon is bright before my bed.",
    "In spring I sleep and hear the birds.",
    "The white sun sets behind the hills.",
)
MOODS = {"good": ("nice", "fine", "great"), "bad": ("awful", "poor", "broken")}
THINGS = ("room", "price", "staff", "food", "book", "phone")
LETTER_MARKS = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
WORD_MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
CHAT_TEMPLATE = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}\
{{ message['content'] + '<|im_end|>' + '\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def write(root: Path) -> None:
    """Data and bases, in `root`/data and `root`/bases."""
    data = root / "data"
    data.mkdir()
    write_lines(data / "verses.jsonl", verses(240))
    write_lines(data / "sayings.jsonl", verses(60)[::-1])
    write_lines(data / "chats.jsonl", chats(60))
    write_lines(data / "reviews.jsonl", reviews(72))
    write_shapes(data / "shapes")
    write_llama(root / "bases" / "llama")
    write_bert(root / "bases" / "bert")


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def verses(count: int) -> list[dict[str, Any]]:
    return [
        {"text": f"{COUPLETS[number % len(COUPLETS)]}{number}"}
        for number in range(count)
    ]


def chats(count: int) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {number}?"},
                {"role": "assistant", "content": f"{number} is a number."},
            ]
        }
        for number in range(count)
    ]


def reviews(count: int) -> list[dict[str, Any]]:
    labels = sorted(MOODS)
    rows = []
    for number in range(count):
        label = labels[number % 2]
        mood = MOODS[label][number // 2 % 3]
        thing = THINGS[number // 6 % 6]
        rows.append({"text": f"the {thing} is {mood} {number}", "label": label})
    return rows


def write_shapes(folder: Path) -> None:
    """Grey pictures of 8 × 8 pixels of two classes, squares and bars, as MNIST has them."""
    folder.mkdir()
    pictures = np.zeros((96, 8, 8), np.uint8)
    labels = np.arange(96, dtype=np.uint8) % 2
    for number, picture in enumerate(pictures):
        place = number // 2 % 6
        width = 8 if labels[number] else 2 + number // 12 % 3
        picture[place : place + 2, :width] = 120 + number
    write_idx(folder / "train-images-idx3-ubyte", pictures)
    write_idx(folder / "train-labels-idx1-ubyte", labels)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def write_llama(folder: Path) -> None:
    """A causal model that chats, with a token for each byte."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokens = [*LETTER_MARKS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    letters = Tokenizer(models.BPE(vocabulary, []))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    letters.add_special_tokens(list(LETTER_MARKS))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letters,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|im_end|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=4,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)


def write_bert(folder: Path) -> None:
    """An encoder of the words of the reviews, and of digits."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    moods = [mood for words in MOODS.values() for mood in words]
    digits = [*"0123456789", *(f"##{digit}" for digit in range(10))]
    tokens = [*WORD_MARKS, "the", "is", *THINGS, *moods, *digits]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    pieces = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)


Recipe = Mapping[str, Any]
TRAIN = {
    "max_steps": STEPS,
    "batch_size": 8,
    "learning_rate": 0.01,
    "device": "cpu",
    "trackers": [],
}
STOPPED = {
    "accumulation": 2,
    "checkpoint_every": HALF,
    "validate_every": 10,
    "log_every": 5,
}
"""Of the runs that are killed."""


def train_recipes(root: Path) -> dict[str, Recipe]:
    """What a user writes; every other key has its default."""
    text = {
        "path": str(root / "data" / "verses.jsonl"),
        "context_length": 32,
        "min_frequency": 1,
        "validation": 0.1,
    }
    sample = {"prompts": ["春"], "max_new_tokens": 8}
    gpt = {"num_layers": 2, "hidden_size": 16}
    muon = {**TRAIN, "optimizer": "muon", "matrix_learning_rate": 0.03}
    verse = {
        "family": "gpt",
        "data": text,
        "model": gpt,
        "train": {**muon, "max_steps": 120, "accumulation": 2, "seed": 1},
        "sample": sample,
    }
    verse_lstm = {
        "family": "lstm",
        "data": text,
        "model": {"hidden_size": 16, "num_layers": 1, "embedding_size": 16},
        "train": {**TRAIN, "max_steps": 300, "learning_rate": 0.03},
        "sample": sample,
    }
    shapes = {
        "family": "vae",
        "data": {"path": str(root / "data" / "shapes"), "validation": 0.2},
        "model": {"latent_size": 4, "width": 4, "conditional": True},
        "train": {**TRAIN, "max_steps": 60, "ema": 0.1},
        "sample": {"pictures": 4},
    }
    half_train = {
        "family": "gpt",
        "data": text,
        "model": {**gpt, "dropout": 0.1},
        "train": {**muon, **STOPPED, "ema": 0.1},
        "sample": sample,
    }
    return {
        "verse": verse,
        "verse-lstm": verse_lstm,
        "shapes": shapes,
        "half-train": half_train,
    }


def tune_recipes(root: Path) -> dict[str, Recipe]:
    report = {"limit": 4, "answers": 1, "forgetting": False, "memorisation": False}
    lora = {"method": "lora", "lora_rank": 4}
    helper = {
        "task": "causal",
        "base": "verse@1",
        "data": {"path": str(root / "data" / "sayings.jsonl")},
        "tune": lora,
        "train": TRAIN,
        "report": report,
    }
    mood = {
        "task": "text-classification",
        "base": str(root / "bases" / "bert"),
        "data": {"path": str(root / "data" / "reviews.jsonl")},
        "tune": lora,
        "train": {**TRAIN, "max_steps": 150, "batch_size": 16, "learning_rate": 0.003},
        "report": report,
    }
    half_tune = {
        "task": "chat",
        "base": str(root / "bases" / "llama"),
        "data": {"path": str(root / "data" / "chats.jsonl")},
        "tune": {**lora, "lora_dropout": 0.1},
        "train": {**TRAIN, **STOPPED, "batch_size": 2},
        "report": report,
    }
    return {"helper": helper, "mood": mood, "half-tune": half_tune}
