"""Captions: the loss is the base's own, captions that can be learned are learned, and
what is saved says the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tune.picture_sets import base_of, captioned, class_folders, examples_of
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    GitConfig,
    GitForCausalLM,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTModel,
)

from miaobi.core.errors import BadInput, Unsupported
from miaobi.data.labelled.images import pictures
from miaobi.data.text.shapes import Unusable
from miaobi.nn.objective import prepared
from miaobi.tune.tasks import captioning
from miaobi.tune.tasks.captioning import Captioner, Config

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "red",
    "green",
    "blue",
    "field",
]
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
SEEN = {**SMALL, "image_size": 32, "patch_size": 8}
MARKS = {
    "vocab_size": len(WORDS),
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 0,
    "sep_token_id": 3,
}


def encoder_decoder() -> Any:
    decoder = BertLMHeadModel(
        BertConfig(
            **SMALL,
            vocab_size=len(WORDS),
            is_decoder=True,
            add_cross_attention=True,
            pad_token_id=0,
        )
    )
    net = VisionEncoderDecoderModel(
        encoder=ViTModel(ViTConfig(**SEEN), add_pooling_layer=False), decoder=decoder
    )
    net.config.decoder_start_token_id, net.config.pad_token_id = 2, 0
    return net


def blip() -> Any:
    return BlipForConditionalGeneration(
        BlipConfig(
            text_config={**SMALL, **MARKS, "encoder_hidden_size": 32},
            vision_config=SEEN,
        )
    )


def git() -> Any:
    return GitForCausalLM(
        GitConfig(vision_config={**SEEN, "num_channels": 3}, **SMALL, **MARKS)
    )


MADE: dict[str, Callable[[], Any]] = {
    "vision-encoder-decoder": encoder_decoder,
    "blip": blip,
    "git": git,
}


def written(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    MADE[kind]().save_pretrained(folder)
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    return folder


def opened(kind: str, folder: Path) -> Captioner:
    return captioning.learner(
        base_of(written(kind, folder / "base")), {"side": 40}, Config(max_new_tokens=6)
    )


@pytest.mark.parametrize("kind", list(MADE))
def test_the_loss_is_that_of_the_model_itself(tmp_path: Path, kind: str) -> None:
    learner = opened(kind, tmp_path)
    learner.eval()
    examples = examples_of(captioning, pictures, captioned(tmp_path / "set"), Config())
    batch = prepared(
        learner,
        learner.collate([learner.encode(example.columns, 0) for example in examples]),
    )
    labels = batch["ids"].masked_fill(batch["mask"] == 0, -100)
    with torch.no_grad():
        ours = learner.loss(batch)
        if kind == "vision-encoder-decoder":
            theirs = learner.net(pixel_values=batch["input"], labels=labels[:, 1:]).loss
        elif kind == "blip":
            decoder = learner.net.text_decoder
            seen = learner.net.vision_model(pixel_values=batch["input"])[0]
            logits = decoder(
                input_ids=batch["ids"],
                attention_mask=batch["mask"],
                encoder_hidden_states=seen,
            ).logits
            theirs = torch.nn.functional.cross_entropy(
                logits[:, :-1].transpose(1, 2), labels[:, 1:]
            )
        else:
            theirs = learner.net(
                pixel_values=batch["input"],
                input_ids=batch["ids"],
                attention_mask=batch["mask"],
                labels=labels,
            ).loss
    assert ours.count == 6 * 4
    torch.testing.assert_close(ours.total / ours.count, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", list(MADE))
def test_captions_are_learned_and_said_again(tmp_path: Path, kind: str) -> None:
    learner = opened(kind, tmp_path)
    examples = examples_of(captioning, pictures, captioned(tmp_path / "set"), Config())
    batch = learner.collate(
        [learner.encode(example.columns, 0) for example in examples]
    )
    optimizer = torch.optim.AdamW(learner.net.parameters(), 3e-3)
    learner.train()
    for _ in range(60):
        optimizer.zero_grad()
        loss = learner.loss(prepared(learner, batch))
        (loss.total / loss.count).backward()
        optimizer.step()
    learner.eval()
    said = [item.answer for item in learner.evaluate(prepared(learner, batch))]
    assert said == ["a red field", "a green field", "a blue field"] * 2
    learner.net.save_pretrained(tmp_path / "tuned")
    learner.save(tmp_path / "tuned")
    again = captioning.learner(
        base_of(tmp_path / "tuned"), {"side": 40}, Config(max_new_tokens=6)
    )
    again.eval()
    assert [
        again.answer({"image": example.columns["image"]}) for example in examples
    ] == said


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="writes no captions"):
        captioning.learner(base_of(tmp_path), {}, Config())
    with pytest.raises(Unusable, match="no caption"):
        examples_of(captioning, pictures, class_folders(tmp_path / "set", 1), Config())
    same = examples_of(captioning, pictures, captioned(tmp_path / "one", 1), Config())
    with pytest.raises(BadInput, match="a red field"):
        captioning.survey(same, Config())
