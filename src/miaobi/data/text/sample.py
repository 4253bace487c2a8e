"""Texts to try every command with: stories, conversations of a shop, requests.

All are put together from a few lists, always in the same way, and have no author.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

ANIMALS = ("fox", "crow", "tortoise", "mouse", "goat", "heron", "bear", "hare")
REGIONS = ("river", "old mill", "hill", "garden", "forest", "frozen lake", "bridge")
WISHES = ("a warm den", "the red apple", "a friend", "a quiet night", "the honey")
OBSTACLES = ("the rain came", "the path was steep", "night fell", "the wind rose")
ENDINGS = (
    "and it learned that patience is quicker than haste",
    "and from that day on it shared what it had",
    "and it laughed, for what it sought was there all along",
    "and the others said that a kind word opens every door",
)
GOODS = ("kettle", "lamp", "chair", "radio", "jacket", "bicycle", "clock", "tent")
COLOURS = ("red", "blue", "green", "white", "black")
MATTERS = (
    (
        "delivery",
        "Where is my {item}?",
        "Your {item} is on its way. It arrives within three working days.",
        "It took a wrong turn. I can send you another one.",
    ),
    (
        "repair",
        "My {item} is broken. What can I do?",
        "I am sorry about that. Send the {item} back and we repair it for free.",
        "Please handle it with more care.",
    ),
    (
        "return",
        "Can I return the {item}?",
        "Yes. You can return the {item} within thirty days.",
        "No.",
    ),
    (
        "price",
        "How much is the {item}?",
        "The {item} costs 40 euros, delivery included.",
        "Look at the label.",
    ),
    (
        "stock",
        "Is the {item} in stock?",
        "Yes, the {item} is in stock and leaves today.",
        "Maybe.",
    ),
)
"""What a customer asks about, the question, a good answer, a poor one."""

DUTIES = ("return", "clean", "sell")
FACTS = ("is broken", "was cheap", "came today")
LLAMA_FACTORY = """\
model_name_or_path: smollm2
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: chats
dataset_dir: .
template: qwen
cutoff_len: 512
per_device_train_batch_size: 2
gradient_accumulation_steps: 4
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
output_dir: saves/helpdesk
"""
"""A file of LLaMA-Factory's, for `miaobi import`."""
DATASETS = {
    "chats": {
        "file_name": "chats.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    }
}


def files() -> dict[str, str]:
    """Return the content of every sample file by its name."""
    chats = list(_chats())
    questions = list(_questions())
    return {
        "my.txt": "\n\n".join(_stories(600)),
        "my.jsonl": _jsonl({"text": story} for story in _stories(120)),
        "chats.jsonl": _jsonl(chats[:120]),
        "new_chats.jsonl": _jsonl(chats[120:160]),
        "test.jsonl": _jsonl(chats[160:]),
        "pairs.jsonl": _jsonl(_preferences()),
        "requests.jsonl": _jsonl(_requests()),
        "notes.jsonl": _jsonl(_notes()),
        "questions.jsonl": _jsonl(questions[:140]),
        "test_questions.jsonl": _jsonl(questions[140:]),
        "llama_factory.yaml": LLAMA_FACTORY,
        "dataset_info.json": f"{json.dumps(DATASETS, indent=2)}\n",
    }


def _jsonl(records: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(record)}\n" for record in records)


def _stories(count: int) -> list[str]:
    """Different stories of three sentences."""
    every = list(itertools.product(ANIMALS, REGIONS, WISHES, OBSTACLES, ENDINGS))
    chosen = random.Random(0).sample(every, count)
    return [_story(*parts) for parts in chosen]


def _story(animal: str, region: str, wish: str, obstacle: str, ending: str) -> str:
    return (
        f"Once a {animal} lived by the {region} and wished for {wish}. "
        f"It set out early, but {obstacle}, and it had to wait. "
        f"In the morning it tried again, {ending}."
    )


def _notes() -> list[dict[str, str]]:
    """Sentences, each with its kind as a mark that vocabularies lack."""
    notes = list[dict[str, str]]()
    for colour, good in itertools.product(COLOURS, GOODS):
        item = f"{colour} {good}"
        for duty in DUTIES:
            prompt = f"I must {duty} the {item}."
            notes.append({"prompt": prompt, "completion": f"<todo> {duty} the {item}"})
        for fact in FACTS:
            text = f"the {item} {fact}"
            prompt = f"{text[0].upper()}{text[1:]}."
            notes.append({"prompt": prompt, "completion": f"<note> {text}"})
    random.Random(0).shuffle(notes)
    return notes[:160]


def _matters() -> list[tuple[str, str, str, str]]:
    """All questions with what they are about and their answers, shuffled."""
    matters = list[tuple[str, str, str, str]]()
    for colour, good in itertools.product(COLOURS, GOODS):
        item = f"{colour} {good}"
        for kind, question, right, poor in MATTERS:
            matters.append(
                (kind, question.format(item=item), right.format(item=item), poor)
            )
    random.Random(0).shuffle(matters)
    return matters


def _chats() -> Iterator[dict[str, Any]]:
    for _, question, answer, _ in _matters():
        user = {"role": "user", "content": question}
        assistant = {"role": "assistant", "content": answer}
        yield {"messages": [user, assistant]}


def _questions() -> Iterator[dict[str, Any]]:
    """Questions, each labelled with what it is about."""
    for kind, question, _, _ in _matters():
        yield {"text": question, "label": kind}


def _preferences() -> Iterator[dict[str, Any]]:
    for _, question, right, poor in _matters()[:80]:
        yield {"prompt": question, "chosen": right, "rejected": poor}


def _requests() -> Iterator[dict[str, Any]]:
    """Requests in the shape of OpenAI's batches."""
    for number, (_, question, _, _) in enumerate(_matters()[:4], 1):
        yield {
            "custom_id": f"request-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "smollm2",
                "messages": [{"role": "user", "content": question}],
                "max_tokens": 24,
            },
        }
