"""/v1/embeddings: vectors of texts, in OpenAI's shapes. Each has length one, so their
products are cosines.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import Field

from miaobi.core.artifacts import Embedding
from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.core.requests import EmbeddingRequest
from miaobi.engines.model import Model
from miaobi.provenance.label import NOTICE
from miaobi.serve.admission import Slot
from miaobi.serve.callers import CurrentCaller
from miaobi.serve.errors import ApiError
from miaobi.serve.services import Serving
from miaobi.serve.text.fields import GenerationFields, Ids, Name, several, within

router = APIRouter(prefix="/v1/embeddings", tags=["text"])
BATCH = ("/v1/embeddings",)


class Embed(GenerationFields):
    """Texts to make vectors of, as texts or as token ids of the model's own vocabulary
    (/tokenize). `dimensions`: only for models whose vectors may be cut
    short; others take their own number. `input_type`: query or passage, for models that
    were trained with words before them (e5-small); passage unless given.
    """

    model: Name
    input: str | list[str] | Ids | list[Ids]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, le=65_536)
    input_type: Literal["query", "passage"] | None = None
    user: str | None = Field(None, max_length=512)


@router.post("")
async def create(
    fields: Embed, services: Serving, caller: CurrentCaller
) -> dict[str, Any]:
    """The vectors of one text or of several, in their order."""
    texts = several(fields.input)
    within("input", len(texts), services.settings.limits.texts)
    if not texts or not all(texts):
        raise ApiError(
            400,
            say("input is empty.", "input 为空。")
            if not texts
            else say("input holds an empty text.", "input 中有空文本。"),
            param="input",
        )
    async with (
        services.admission.slot(caller, fields.model) as slot,
        services.pool.lease(fields.model, EmbeddingRequest) as model,
    ):
        vectors = await _embed(model, texts, fields.input_type or "", slot)
        label = {"notice": NOTICE, "model": model.weights.label}
    if fields.dimensions not in (None, vectors.shape[1]):
        raise Unsupported(
            say(
                f"dimensions is {fields.dimensions}; {fields.model} gives "
                f"{vectors.shape[1]}, and was not trained so that fewer suffice.",
                f"dimensions 为 {fields.dimensions}；{fields.model} 输出 {vectors.shape[1]} 维，且未经可截断训练。",
            ),
            say("Leave dimensions out.", "请去掉 dimensions。"),
            field="dimensions",
        )
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _encoded(vector, fields.encoding_format),
        }
        for index, vector in enumerate(vectors)
    ]
    tokens = int(slot.amounts.get("prompt_tokens", 0))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {
        "object": "list",
        "model": fields.model,
        "data": data,
        "usage": usage,
        "miaobi": label,
    }


async def _embed(
    model: Model, texts: Sequence[str | list[int]], input_type: str, slot: Slot
) -> np.ndarray:
    """float32 [texts, D]. Token ids are the text that they spell."""
    spelled = [
        text if isinstance(text, str) else model.tokenizer.detokenize(text)
        for text in texts
    ]
    request = model.request(spelled, input_type=input_type)
    vectors = np.empty((0, 0), np.float32)
    async for chunk in model.engine.generate(request):
        slot.add("prompt_tokens", chunk.prompt_tokens)
        if isinstance(chunk.artifact, Embedding):
            vectors = chunk.artifact.vectors
    return vectors


def _encoded(vector: np.ndarray, form: str | None) -> Any:
    """Numbers, or the bytes of little-endian float32 as base64."""
    return (
        base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
        if form == "base64"
        else vector.tolist()
    )
