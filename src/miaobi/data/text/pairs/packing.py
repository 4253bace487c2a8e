"""Preparation of pairs: read, split, make a vocabulary, tokenise."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from miaobi.core import storage
from miaobi.core.errors import BadInput
from miaobi.core.files import explain_refusal, home, write_beside, write_text
from miaobi.core.language import say
from miaobi.data import packs
from miaobi.data.cache import content_hash, locked_folder
from miaobi.data.labelled import gettext
from miaobi.data.progress import bar
from miaobi.data.splitting import (
    DROPPED,
    TEST,
    TRAIN,
    VALIDATION,
    assign_groups,
    check_shares,
)
from miaobi.data.survey import counted
from miaobi.data.text import tokenizer
from miaobi.data.text.config import SPLITS
from miaobi.data.text.files import files_in
from miaobi.data.text.pairs.config import MANIFEST, PAD, Config
from miaobi.data.text.pairs.languages import language_token
from miaobi.data.text.pairs.reading import Example, Read, pack_names, source_of
from miaobi.data.text.tokenizer import Tokenizer

FORMAT = 1
VOCABULARY_TEXTS = 200_000
"""Texts that a vocabulary is trained on at most, evenly spread."""
NAMED_GROUPS = 20
"""Groups of a split that are kept by name."""
LATER_SETTINGS = {"path", "pack", "source", "tokenizer"}
"""Settings that count by their content."""


def prepare_folder(
    config: Config, cache: Path | None = None, progress: bool = True
) -> Path:
    """Return the folder of the prepared pairs, made now or by an earlier run."""
    check_shares(config.validation, config.test)
    _check_languages(config)
    root = cache or home() / "prepared"
    root.mkdir(parents=True, exist_ok=True)
    with locked_folder(root, _fingerprint(config, root)) as folder:
        if not (folder / MANIFEST).exists():
            with bar(progress) as show, explain_refusal(folder):
                show(say("Reading pairs", "读取文本对"), 0, 0)
                read = Read.of(config)
                show(say("Training the tokenizer", "训练分词器"), 0, 0)
                _write(config, read, folder)
    return folder


def _check_languages(config: Config) -> None:
    if len(set(config.languages)) != len(config.languages) or len(
        config.languages
    ) not in (0, *range(2, 1000)):
        named = ", ".join(config.languages)
        raise BadInput(
            say(
                f"data.languages is [{named}]; a translation has two or more.",
                f"data.languages 为 [{named}]；翻译需要两种或更多语言。",
            ),
            say("Name the columns, such as [zh, en].", "请写出列名，例如 [zh, en]。"),
        )


def _fingerprint(config: Config, root: Path) -> str:
    """Return 16 hexadecimal digits of the content, the settings and the format."""
    packs.check_one(config.path, config.pack, "pairs.jsonl", "django-zh-en")
    settings = {
        key: value for key, value in asdict(config).items() if key not in LATER_SETTINGS
    }
    sources = [packs.get(name).identity for name in pack_names(config)]
    if config.path:
        path = storage.location(config.path)
        reader = source_of(config)
        is_catalogue = reader == "gettext"
        local = storage.local(config.path)
        files = gettext.catalogues(local) if is_catalogue else files_in(path)
        sources.append(f"{reader}:{content_hash(path, files, root)}")
    vocabulary = config.tokenizer
    if vocabulary != "bpe":
        file = _tokenizer_file(vocabulary)
        vocabulary = content_hash(file, [file], root)
    text = json.dumps([FORMAT, settings, vocabulary, sources], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _tokenizer_file(name: str) -> Path:
    path = storage.local(name)
    return path / "tokenizer.json" if path.is_dir() else path


def _splits(examples: Sequence[Example], config: Config) -> np.ndarray:
    """The split of each example, uint8 [examples]; DROPPED for what a held-out split asks."""
    named = dict.fromkeys(config.validation_groups, VALIDATION)
    named |= dict.fromkeys(config.test_groups, TEST)
    missing = named.keys() - {example.group for example in examples}
    if missing:
        groups = Counter(example.group for example in examples)
        raise BadInput(
            say(
                f"There is no group {', '.join(sorted(missing))} to hold out.",
                f"没有可留出的组 {'、'.join(sorted(missing))}。",
            ),
            say(
                f"In the column {config.group!r} there are: {counted(groups, 20)}.",
                f"{config.group!r} 列中有：{counted(groups, 20)}。",
            ),
        )
    keys = [
        example.group or min(example.source, example.target) for example in examples
    ]
    digests = np.array([_digest(key) for key in keys], dtype=np.uint64)
    _, groups_of = np.unique(digests, return_inverse=True)
    given = np.array(
        [named.get(example.group, DROPPED) for example in examples], dtype=np.uint8
    )
    validation = 0.0 if config.validation_groups else config.validation
    test = 0.0 if config.test_groups else config.test
    splits = assign_groups(digests, groups_of, given, validation, test)
    for held_out in (TEST, VALIDATION):
        asked = {
            examples[row].source.casefold()
            for row in np.flatnonzero(splits == held_out).tolist()
        }
        others = splits == TRAIN if held_out == VALIDATION else splits != TEST
        for row in np.flatnonzero(others).tolist():
            if examples[row].source.casefold() in asked:
                splits[row] = DROPPED
    return splits


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _write(config: Config, read: Read, folder: Path) -> None:
    """Tokenise the examples and write the folder."""
    splits = _splits(read.examples, config)
    tokenizer = _tokenizer(config, read.examples, splits)
    pad = tokenizer.backend.token_to_id(PAD)
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    sources = tokenizer.encode_batch([[item.source] for item in read.examples])
    targets = tokenizer.encode_batch([[item.target] for item in read.examples])
    counts = {split: {"examples": 0, "too_long": 0} for split in SPLITS}
    with write_beside(folder) as draft:
        draft.mkdir(exist_ok=True)
        for number, split in enumerate(SPLITS):
            tokens = list[np.ndarray]()
            bounds = [0]
            for row in np.flatnonzero(splits == number).tolist():
                source, target = sources[row], targets[row]
                language = read.examples[row].language
                if language:
                    tag = tokenizer.backend.token_to_id(language_token(language))
                    source = np.concatenate([[tag], source])
                is_long = (
                    len(source) >= config.source_length
                    or len(target) >= config.target_length
                )
                counts[split]["too_long"] += is_long
                counts[split]["examples"] += not is_long
                if not is_long:
                    tokens += [source, target]
                    bounds += [bounds[-1] + len(source)]
                    bounds += [bounds[-1] + len(target)]
            packed = np.concatenate(tokens) if tokens else np.empty(0, dtype)
            np.save(draft / f"{split}.npy", packed.astype(dtype))
            np.save(draft / f"{split}_bounds.npy", np.array(bounds))
        tokenizer.save(draft / "tokenizer")
        (draft / "tokenizer" / "chat_template.jinja").unlink(missing_ok=True)
        if not counts["train"]["examples"]:
            raise BadInput(
                say("There is no pair to train on.", "没有可用于训练的文本对。"),
                say(
                    "Give more pairs, longer data.source_length and data.target_length, or smaller shares to hold out.",
                    "请增加文本对、调大 data.source_length 与 data.target_length，或减小留出比例。",
                ),
            )
        content = {
            "format": FORMAT,
            "tokenizer": tokenizer.name,
            "vocab_size": tokenizer.vocab_size,
            "pad_id": pad,
            "end_id": tokenizer.end_id,
            "splits": counts,
            "groups": _groups(read.examples, splits),
            "duplicates": read.duplicates,
            "asked_in_held_out": int((splits == DROPPED).sum()),
            "problems": {"count": read.problem_count, "first": read.problems},
            "config": asdict(config),
        }
        text = json.dumps(content, ensure_ascii=False, indent=1)
        write_text(draft / MANIFEST, text)


def _groups(examples: Sequence[Example], splits: np.ndarray) -> dict[str, list[str]]:
    """The first groups of each held-out split, for the record."""
    groups = {split: set[str]() for split in SPLITS[1:]}
    for example, number in zip(examples, splits.tolist(), strict=True):
        if number in (VALIDATION, TEST) and example.group:
            groups[SPLITS[number]].add(example.group)
    return {split: sorted(names)[:NAMED_GROUPS] for split, names in groups.items()}


def _tokenizer(
    config: Config, examples: Sequence[Example], splits: np.ndarray
) -> Tokenizer:
    if config.tokenizer == "bpe":
        rows = np.flatnonzero(splits == TRAIN)
        stride = -(-2 * len(rows) // VOCABULARY_TEXTS) or 1
        texts = (
            text
            for row in rows[::stride].tolist()
            for text in (examples[row].source, examples[row].target)
        )
        plain = tokenizer.train_bpe(
            texts, config.vocab_size - 1 - len(config.languages)
        )
    else:
        plain = tokenizer.load(_tokenizer_file(config.tokenizer))
    end = plain.backend.id_to_token(plain.end_id)
    return tokenizer.with_specials(
        plain,
        [PAD, *map(language_token, config.languages)],
        {"pad_token": PAD, "bos_token": ""},
        single=f"$A {end}",
        pair=f"$A $B {end}",
    )
