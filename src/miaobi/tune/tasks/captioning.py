"""Image captioning: a sentence for a picture.

    L = -Σ_t log p(y_t | y_<t, picture)

Bases: BLIP, GIT, and any VisionEncoderDecoder (a ViT before a GPT-2 or BERT). They
    differ in where a caption begins and where the logits of its tokens stand; the loss
    over them is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import say
from miaobi.data.labelled.images import picture_columns, picture_of
from miaobi.data.text.shapes import Unusable
from miaobi.models.base import Base
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.image.input import check_augmentations, preparation
from miaobi.tune.image.learner import PictureLearner, side_of
from miaobi.tune.image.metrics import shares
from miaobi.tune.learner import Evaluation, Example, Features, Metric, Piece, padded
from miaobi.tune.text import overlap

NAME = "image-captioning"
SUMMARY = "a sentence for each picture", "为每张图片写一句描述"
MODALITY, READER, MAKES = "image", "pictures", "labels"
EXAMPLE = '{"image": "photos/a.jpg", "caption": "a red fox in the snow"}'
NOTHING = -100
"""Marks where there is no token to learn."""
KINDS = {
    "vision-encoder-decoder": "VisionEncoderDecoderModel",
    "blip": "BlipForConditionalGeneration",
    "git": "GitForCausalLM",
}


@dataclass(frozen=True)
class Config:
    augment: list[str] = field(default_factory=list)
    """Changes drawn anew for every training picture; not those that make a caption
    wrong (a flip turns left to right).
    """
    label_smoothing: float = 0.0
    """Share of certainty that is spread over all tokens."""
    max_new_tokens: int = 32
    """Longest caption when it is judged."""


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    picture, caption = (
        picture_of(record, EXAMPLE),
        record.get("caption") or record.get("text"),
    )
    if not isinstance(caption, str) or not caption.strip():
        raise Unusable(
            say(
                f"no caption; the columns are: {', '.join(map(str, record))}.",
                f"缺少 caption；现有的列：{'、'.join(map(str, record))}。",
            ),
            say(
                f"Name the column with data.columns.caption, or write {EXAMPLE}",
                f"请用 data.columns.caption 指定列名，或写成 {EXAMPLE}",
            ),
        )
    return {**picture, "caption": caption.strip()}


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return picture_columns(columns)


group = question


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    captions = {example.columns["caption"] for example in examples}
    if len(captions) < 2:
        raise BadInput(
            say(
                f"Every picture has the caption {next(iter(captions))!r}.",
                f"所有图片的描述都是 {next(iter(captions))!r}。",
            ),
            say("Give captions that tell pictures apart.", "请提供能区分图片的描述。"),
        )
    check_augmentations(config.augment)
    return {"captions": len(captions), "side": side_of(examples)}


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    """Any caption fits."""


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Captioner:
    import transformers

    kind = base.config.get("model_type")
    if kind not in KINDS:
        raise Unsupported(
            say(
                f"{base.name} is of the kind {kind or base.weights.format}, which writes no captions.",
                f"{base.name} 的类型为 {kind or base.weights.format}，不能写图片描述。",
            ),
            say(
                f"Take a Transformers model of one of these kinds: {', '.join(KINDS)}.",
                f"请用以下类型的 Transformers 模型：{'、'.join(KINDS)}。",
            ),
        )
    return Captioner(base.model(getattr(transformers, KINDS[kind])), base, spec, config)


class Captioner(PictureLearner):
    """Batches: ids [B, L] with the token that begins a caption and the one that ends
    it, mask [B, L].
    """

    def __init__(
        self, net: Any, base: Base, spec: Mapping[str, Any], config: Config
    ) -> None:
        super().__init__(
            net,
            preparation(base, 0, spec["side"], stretch=False),
            [],
            config.augment,
            base,
        )
        self.config, self.tokenizer, self.kind = (
            config,
            base.tokenizer,
            str(base.config["model_type"]),
        )
        self.begin, self.end = _marks(net.config, self.kind, self.tokenizer)
        self.pad = (
            self.tokenizer.pad_token_id
            if self.tokenizer.pad_token_id is not None
            else self.end
        )

    def _ids(self, caption: str) -> list[int]:
        return [
            self.begin,
            *self.tokenizer(caption, add_special_tokens=False).input_ids,
            self.end,
        ]

    def length(self, columns: Mapping[str, Any]) -> int:
        return len(self._ids(columns["caption"]))

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        ids = self._ids(columns["caption"]) if "caption" in columns else [self.begin]
        return {
            **super().encode(columns, max_length),
            "ids": np.array(ids[: max_length or None]),
        }

    def collate(self, features: Sequence[Features]) -> Batch:
        rows = [item["ids"] for item in features]
        return {
            **super().collate(features),
            "ids": padded(rows, self.pad),
            "mask": padded([np.ones(len(row)) for row in rows], 0),
        }

    def prepare(self, batch: Batch) -> Batch:
        mask = batch["mask"]  # of tokens, not of pixels
        return {
            **super().prepare(
                {name: value for name, value in batch.items() if name != "mask"}
            ),
            "mask": mask.to(self.device),
        }

    def nats(self, batch: Batch, smoothing: float = 0.0) -> Tensor:
        """-log p of every token after the first, 0 where there is none: [B, L - 1]."""
        ids, mask = batch["ids"], batch["mask"]
        wanted = ids[:, 1:].masked_fill(mask[:, 1:] == 0, NOTHING)
        if self.kind == "vision-encoder-decoder":
            logits = self.net(
                pixel_values=batch["input"],
                decoder_input_ids=ids[:, :-1],
                decoder_attention_mask=mask[:, :-1],
            ).logits
        else:
            # GIT's places of the picture stand before those of the text.
            logits = self.net(
                pixel_values=batch["input"], input_ids=ids, attention_mask=mask
            ).logits[:, -ids.shape[1] :][:, :-1]
        return F.cross_entropy(
            logits.float().transpose(1, 2),
            wanted,
            reduction="none",
            label_smoothing=smoothing,
        )

    def loss(self, batch: Batch) -> Loss:
        batch = self.prepare(batch)
        return Loss(
            self.nats(batch, self.config.label_smoothing).sum(),
            int(batch["mask"][:, 1:].sum()),
        )

    unit = "tokens"

    def metrics(self) -> Sequence[Metric]:
        return [
            overlap.METRICS["chrf"],
            overlap.METRICS["bleu"],
            overlap.METRICS["rouge_l"],
            Metric(
                "loss",
                shares,
                "lower",
                ("Loss", "损失"),
                say("nats/token", "奈特/词元"),
            ),
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        batch = self.prepare(batch)
        nats, counts = (
            self.nats(batch).sum(1).tolist(),
            batch["mask"][:, 1:].sum(1).tolist(),
        )
        judged = list[Evaluation]()
        for said, row, total, count in zip(
            self.write(batch["input"]), batch["ids"], nats, counts, strict=True
        ):
            reference = self.tokenizer.decode(
                row[1:count], skip_special_tokens=True
            ).strip()
            judged.append(
                Evaluation(
                    total / max(count, 1),
                    {
                        **overlap.counts(said, reference),
                        "loss": np.array([total, count], np.float64),
                    },
                    said,
                )
            )
        return judged

    @torch.no_grad()
    def write(self, pixels: Tensor) -> list[str]:
        """Captions of prepared pictures, greedily."""
        settings = {
            "max_new_tokens": self.config.max_new_tokens,
            "num_beams": 1,
            "do_sample": False,
        }
        if self.kind != "blip":  # which sets its own
            settings |= {"pad_token_id": self.pad, "eos_token_id": self.end}
        first = torch.full((len(pixels), 1), self.begin, device=pixels.device)
        if self.kind == "vision-encoder-decoder":
            made = self.net.generate(
                pixel_values=pixels, decoder_start_token_id=self.begin, **settings
            )
        elif self.kind == "git":
            made = self.net.generate(pixel_values=pixels, input_ids=first, **settings)
        else:
            made = self.net.generate(pixel_values=pixels, **settings)
        return [
            text.strip()
            for text in self.tokenizer.batch_decode(made, skip_special_tokens=True)
        ]

    def answer(self, columns: Mapping[str, Any]) -> str:
        return self.write(
            self.prepare(self.collate([self.encode(columns, 0)]))["input"]
        )[0]

    def preview(self, features: Features) -> list[Piece]:
        first, *rest = features["ids"].tolist()
        return [
            Piece(self.tokenizer.decode([first]), False),
            Piece(self.tokenizer.decode(rest), True),
        ]

    def save(self, folder: Path) -> None:
        self.preparation.save(folder, self.base.folder)
        self.tokenizer.save_pretrained(folder)


def _marks(config: Any, kind: str, tokenizer: Any) -> tuple[int, int]:
    """The tokens that begin and end a caption, as the base's own generation has them.
    Raises Unsupported where it names none.
    """
    if kind == "blip":
        return config.text_config.bos_token_id, config.text_config.sep_token_id
    if kind == "git":
        return config.bos_token_id, config.eos_token_id
    begin = next(
        (
            value
            for value in (
                config.decoder_start_token_id,
                tokenizer.cls_token_id,
                tokenizer.bos_token_id,
            )
            if value is not None
        ),
        None,
    )
    end = next(
        (
            value
            for value in (tokenizer.sep_token_id, tokenizer.eos_token_id)
            if value is not None
        ),
        None,
    )
    if begin is None or end is None:
        raise Unsupported(
            say(
                "The base does not say which tokens begin and end a caption.",
                "该基础模型没有说明描述的起止词元。",
            ),
            say(
                "Set decoder_start_token_id in its config.json, and an end token in its tokenizer.",
                "请在 config.json 中设置 decoder_start_token_id，并为分词器设置结束词元。",
            ),
        )
    return begin, end
