"""Image captioning: a sentence for an image.

    L = -Σ_t log p(y_t | y_<t, image)

Bases: BLIP, GIT, and any VisionEncoderDecoder (a ViT before a GPT-2 or BERT). They
differ in where a caption begins and where the logits of its tokens stand; the loss over
them is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from miaobi.nn.language import MASKED
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.heads import CaptioningHead as Config
from miaobi.tune.image.input import check_augmentations, preparation
from miaobi.tune.image.learner import PictureLearner, side_of
from miaobi.tune.image.metrics import shares
from miaobi.tune.learner import Evaluation, Example, Features, Metric, Piece, padded
from miaobi.tune.text import overlap

NAME = "image-captioning"
SUMMARY = "a sentence for each picture", "为每张图片写一句描述"
MODALITY = "image"
READER = "labelled/images"
MAKES = "labels"
ASK = "--image photo.png"
EXAMPLE = '{"image": "photos/a.jpg", "caption": "a red fox in the snow"}'
KINDS = {
    "vision-encoder-decoder": "VisionEncoderDecoderModel",
    "blip": "BlipForConditionalGeneration",
    "git": "GitForCausalLM",
}


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    image = picture_of(record, EXAMPLE)
    caption = record.get("caption") or record.get("text")
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
    return {**image, "caption": caption.strip()}


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
            say("Give captions that distinguish pictures.", "请提供能区分图片的描述。"),
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
    """A net that writes captions.

    Batches have ids [B, L], from the token that begins a caption to the one that ends
    it, and mask [B, L].
    """

    unit = "tokens"

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
        self.config = config
        self.tokenizer = base.tokenizer
        self.kind = str(base.config["model_type"])
        self.bos_id, self.eos_id = _bos_and_eos(net.config, self.kind, self.tokenizer)
        pad_id = self.tokenizer.pad_token_id
        self.pad_id = self.eos_id if pad_id is None else pad_id

    def _ids(self, caption: str) -> list[int]:
        tokens = self.tokenizer(caption, add_special_tokens=False).input_ids
        return [self.bos_id, *tokens, self.eos_id]

    def length(self, columns: Mapping[str, Any]) -> int:
        return len(self._ids(columns["caption"]))

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        ids = self._ids(columns["caption"]) if "caption" in columns else [self.bos_id]
        return {
            **super().encode(columns, max_length),
            "ids": np.array(ids[: max_length or None]),
        }

    def collate(self, features: Sequence[Features]) -> Batch:
        rows = [item["ids"] for item in features]
        return {
            **super().collate(features),
            "ids": padded(rows, self.pad_id),
            "mask": padded([np.ones(len(row)) for row in rows], 0),
        }

    def prepare(self, batch: Batch) -> Batch:
        # The mask is of tokens; augmentations would take it for one of pixels.
        others = {name: value for name, value in batch.items() if name != "mask"}
        return {**super().prepare(others), "mask": batch["mask"]}

    def nats(self, batch: Batch, smoothing: float = 0.0) -> Tensor:
        """Return -log p of every token after the first, [B, L - 1]; 0 for padding."""
        ids = batch["ids"]
        mask = batch["mask"]
        targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, MASKED)
        if self.kind == "vision-encoder-decoder":
            logits = self.net(
                pixel_values=batch["input"],
                decoder_input_ids=ids[:, :-1],
                decoder_attention_mask=mask[:, :-1],
            ).logits
        else:
            # GIT's positions of the image stand before those of the text.
            logits = self.net(
                pixel_values=batch["input"], input_ids=ids, attention_mask=mask
            ).logits[:, -ids.shape[1] :][:, :-1]
        return F.cross_entropy(
            logits.float().transpose(1, 2),
            targets,
            reduction="none",
            label_smoothing=smoothing,
        )

    def loss(self, batch: Batch) -> Loss:
        nats = self.nats(batch, self.config.label_smoothing)
        return Loss(nats.sum(), int(batch["mask"][:, 1:].sum()))

    def metrics(self) -> Sequence[Metric]:
        unit = say("nats/token", "奈特/词元")
        return [
            overlap.METRICS["chrf"],
            overlap.METRICS["bleu"],
            overlap.METRICS["rouge_l"],
            Metric("loss", shares, "lower", ("Loss", "损失"), unit),
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        totals = self.nats(batch).sum(1).tolist()
        counts = batch["mask"][:, 1:].sum(1).tolist()
        captions = self.write(batch["input"])
        evaluations = list[Evaluation]()
        for caption, ids, total, count in zip(
            captions, batch["ids"], totals, counts, strict=True
        ):
            reference = self.tokenizer.decode(ids[1:count], skip_special_tokens=True)
            sums = {
                **overlap.counts(caption, reference.strip()),
                "loss": np.array([total, count], np.float64),
            }
            evaluations.append(Evaluation(total / max(count, 1), sums, caption))
        return evaluations

    @torch.no_grad()
    def write(self, pixels: Tensor) -> list[str]:
        """Return captions of prepared images, by greedy search."""
        net: Any = self.net
        settings: dict[str, Any] = {
            "max_new_tokens": self.config.max_new_tokens,
            "num_beams": 1,
            "do_sample": False,
        }
        if self.kind != "blip":  # which sets its own
            settings |= {"pad_token_id": self.pad_id, "eos_token_id": self.eos_id}
        if self.kind == "vision-encoder-decoder":
            settings["decoder_start_token_id"] = self.bos_id
        if self.kind == "git":
            shape = (len(pixels), 1)
            settings["input_ids"] = torch.full(shape, self.bos_id, device=pixels.device)
        output = net.generate(pixel_values=pixels, **settings)
        texts = self.tokenizer.batch_decode(output, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def answer(self, columns: Mapping[str, Any]) -> str:
        return self.write(self.batch_of(columns)["input"])[0]

    def preview(self, features: Features) -> list[Piece]:
        first, *rest = features["ids"].tolist()
        return [
            Piece(self.tokenizer.decode([first]), False),
            Piece(self.tokenizer.decode(rest), True),
        ]

    def save(self, folder: Path) -> None:
        self.preparation.save(folder, self.base.folder)
        self.tokenizer.save_pretrained(folder)


def _bos_and_eos(config: Any, kind: str, tokenizer: Any) -> tuple[int, int]:
    """Return the tokens that begin and end a caption, as the base generates it.

    Raises Unsupported where the base names none.
    """
    if kind == "blip":
        return config.text_config.bos_token_id, config.text_config.sep_token_id
    if kind == "git":
        return config.bos_token_id, config.eos_token_id
    bos_id = _first_id(
        config.decoder_start_token_id, tokenizer.cls_token_id, tokenizer.bos_token_id
    )
    eos_id = _first_id(tokenizer.sep_token_id, tokenizer.eos_token_id)
    if bos_id is None or eos_id is None:
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
    return bos_id, eos_id


def _first_id(*ids: int | None) -> int | None:
    return next((number for number in ids if number is not None), None)
