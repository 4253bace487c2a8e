"""/v1/moderations: what is wrong with texts and pictures, in OpenAI's categories.

Texts are rated by rules and, where `miaobi finetune recipes/tune/text_safety.yaml` put
a classifier into the store, by that; pictures by the packaged open_nsfw, which detects
nakedness in photographs only. The answer says which of them decided. Error rates:
docs/guides/moderation.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import Discriminator, Field, Tag

from miaobi.core.errors import BadInput, MiaobiError, NotFound, nearest
from miaobi.core.language import say
from miaobi.engines.model import Model
from miaobi.engines.moderation.images import THRESHOLD
from miaobi.engines.moderation.nsfw import unsafe_probability
from miaobi.engines.moderation.texts import (
    CATEGORIES,
    CLASSIFIER,
    Verdict,
    classify,
    moderate,
)
from miaobi.serve.callers import CurrentCaller
from miaobi.serve.errors import ApiError
from miaobi.serve.image.incoming import of_data_url, read
from miaobi.serve.records import new_id
from miaobi.serve.services import Services, Serving
from miaobi.serve.text.fields import Closed

router = APIRouter(prefix="/v1/moderations", tags=["moderations"])
BATCH = ("/v1/moderations",)
NAME = "miaobi-moderation"
NAMES = (
    NAME,
    "omni-moderation-latest",
    "omni-moderation-2024-09-26",
    "text-moderation-latest",
    "text-moderation-stable",
)
"""OpenAI's names mean ours, so that programs need no change; the answer says which it was."""
LONGEST = 100_000
"""Characters of one text."""
PICTURES = 16
SEEN = "sexual"
"""The one category of which pictures are judged."""


class TextPart(Closed):
    type: Literal["text"]
    text: str = Field(max_length=LONGEST)


class Url(Closed):
    url: str = Field(
        description="A data: URL of a PNG, JPEG or WebP picture; nothing is fetched."
    )


class PicturePart(Closed):
    type: Literal["image_url"]
    image_url: Url


Part = Annotated[TextPart | PicturePart, Field(discriminator="type")]
LongText = Annotated[str, Field(max_length=LONGEST)]


def _shape(value: Any) -> str | None:
    """Which of the shapes was meant, so that an error is about that one."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "texts" if not value or isinstance(value[0], str) else "parts"
    return None


SHAPES = Discriminator(
    _shape,
    custom_error_type="input",
    custom_error_message="give a text, a list of texts, or a list of parts (text, image_url).",
)


class ModerationFields(Closed):
    input: Annotated[
        Annotated[LongText, Tag("text")]
        | Annotated[list[LongText], Field(min_length=1), Tag("texts")]
        | Annotated[list[Part], Field(min_length=1), Tag("parts")],
        SHAPES,
    ]
    model: str | None = Field(None, max_length=255)


@dataclass(frozen=True)
class Moderation:
    """One result: a text, a picture, or several of them together."""

    scores: dict[str, float]
    flagged: frozenset[str]
    kinds: dict[str, list[str]]
    """By category, the kinds of input that were classified for it."""
    ruled: list[str]

    @property
    def body(self) -> dict[str, Any]:
        return {
            "flagged": bool(self.flagged),
            "categories": {name: name in self.flagged for name in CATEGORIES},
            "category_scores": self.scores,
            "category_applied_input_types": self.kinds,
            "miaobi": {"by_rule": self.ruled},
        }


@router.post("")
async def create(
    fields: ModerationFields, services: Serving, caller: CurrentCaller
) -> dict[str, Any]:
    """A result for each text; for parts (texts and pictures), one for all of them together."""
    if fields.model not in (None, *NAMES):
        raise NotFound(
            say(
                f"There is no moderation model named {str(fields.model)[:80]!r}.",
                f"没有名为 {str(fields.model)[:80]!r} 的审核模型。",
            ),
            nearest(str(fields.model), NAMES),
        )
    parts = [fields.input] if isinstance(fields.input, str) else fields.input
    texts = [
        part if isinstance(part, str) else part.text
        for part in parts
        if not isinstance(part, PicturePart)
    ]
    urls = [part.image_url.url for part in parts if isinstance(part, PicturePart)]
    most = services.settings.limits.texts
    for name, count, limit in (
        ("texts", len(texts), most),
        ("pictures", len(urls), PICTURES),
    ):
        if count > limit:
            raise BadInput(
                say(
                    f"input holds {count} {name}; at most {limit} are classified at a time.",
                    f"input 包含 {count} 项 {name}，一次最多 {limit} 项。",
                ),
                say("Send several requests.", "请分多次请求。"),
            )
    async with services.admission.slot(caller, NAME):
        verdicts, moderators = await _texts(services, texts)
        pictures = [
            await _picture(url, services.settings.limits.pixels) for url in urls
        ]
    together = not isinstance(parts[0], str)
    results = (
        [_joined(verdicts, pictures)]
        if together
        else [_joined([verdict], []) for verdict in verdicts]
    )
    note = (
        {}
        if not texts or len(moderators) > 1
        else {
            "note": say(
                "Texts were classified by rules alone: the store has no "
                "classifier. `miaobi finetune recipes/tune/text_safety.yaml` "
                "makes one.",
                "文本仅按规则判断：模型库中没有分类器。可用 `miaobi finetune recipes/tune/text_safety.yaml` 训练一个。",
            )
        }
    )
    return {
        "id": new_id("modr"),
        "model": NAME,
        "results": [result.body for result in results],
        "miaobi": {
            "judged_by": [
                *(moderators if texts else ()),
                *(["opennsfw"] if urls else ()),
            ],
            **note,
        },
    }


async def _texts(
    services: Services, texts: Sequence[str]
) -> tuple[list[Verdict], list[str]]:
    """The verdicts, and who gave them."""
    if not texts:
        return [], []
    try:
        services.pool.find(CLASSIFIER)
    except NotFound:
        return [await asyncio.to_thread(moderate, text) for text in texts], ["rules"]
    async with services.pool.lease(CLASSIFIER) as model:
        return [await _learnt(model, text) for text in texts], [
            "rules",
            model.weights.label,
        ]


async def _learnt(model: Model, text: str) -> Verdict:
    return await asyncio.to_thread(moderate, text, await classify(model, text))


async def _picture(url: str, most_pixels: int) -> float:
    """The probability that a picture is unsafe. Raises ApiError 503 where the model
    that knows cannot be had.
    """
    raw = of_data_url(url, "input")
    picture = await asyncio.to_thread(read, raw, "image_url", most_pixels)
    try:
        return round(await asyncio.to_thread(unsafe_probability, picture.pixels), 4)
    except (MiaobiError, ImportError):
        raise ApiError(
            503,
            say(
                "Pictures cannot be classified here: the pack opennsfw is missing. "
                "`miaobi data fetch opennsfw` on the server brings it.",
                "此处无法判断图片：缺少资源包 opennsfw。请在服务器上运行 `miaobi data fetch opennsfw`。",
            ),
            code="missing_part",
        ) from None


def _joined(verdicts: Sequence[Verdict], pictures: Sequence[float]) -> Moderation:
    """The worst of each category."""
    scores = {
        name: max((verdict.scores[name] for verdict in verdicts), default=0.0)
        for name in CATEGORIES
    }
    flagged = {name for verdict in verdicts for name in verdict.flagged}
    kinds = {name: ["text"] if verdicts else [] for name in CATEGORIES}
    if pictures:
        kinds[SEEN].append("image")
        scores[SEEN] = max(scores[SEEN], *pictures)
        flagged |= {SEEN} if max(pictures) >= THRESHOLD else set()
    return Moderation(
        scores,
        frozenset(flagged),
        kinds,
        sorted({name for verdict in verdicts for name in verdict.by_rule}),
    )
