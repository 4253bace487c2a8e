"""/v1/rerank: documents by their relevance to a query, in the shape of Jina's and
Cohere's APIs, which vLLM and others share.

A model tuned for `reranker` reads query and document together; an encoder (e5-small)
compares their vectors.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import numpy as np
from fastapi import APIRouter
from pydantic import Field

from miaobi.core.artifacts import Embedding
from miaobi.core.engine import Weights
from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.core.requests import EmbeddingRequest, TextRequest
from miaobi.engines.model import Model
from miaobi.models.tuned import FAMILY, open_tuned
from miaobi.provenance.label import NOTICE
from miaobi.serve.admission import Slot
from miaobi.serve.callers import CurrentCaller
from miaobi.serve.errors import ApiError
from miaobi.serve.services import Serving
from miaobi.serve.text.fields import Closed, GenerationFields, Name, within

router = APIRouter(tags=["text"])
BATCH = ("/v1/rerank",)
TASK = "reranker"


class Document(Closed):
    """A document as an object."""

    text: str


class Rerank(GenerationFields):
    """A query, and the documents to order by their relevance to it. `top_n`: how many
    come back, all unless given; `return_documents`: their texts too.
    """

    model: Name
    query: str
    documents: list[str | Document]
    top_n: int | None = Field(None, ge=1, le=1_000_000)
    return_documents: bool = True
    user: str | None = Field(None, max_length=512)


@router.post("/v1/rerank")
@router.post("/v2/rerank", include_in_schema=False)
@router.post("/rerank", include_in_schema=False)
async def create(
    fields: Rerank, services: Serving, caller: CurrentCaller
) -> dict[str, Any]:
    """The documents' indices and relevance, the most relevant first. Cohere's clients
    ask /v2/rerank, vLLM's /rerank too.
    """
    documents = [
        item if isinstance(item, str) else item.text for item in fields.documents
    ]
    within("documents", len(documents), services.settings.limits.texts)
    _check_texts(fields.query, documents)
    weights = services.pool.find(fields.model)
    is_encoder = weights.modality == EmbeddingRequest.makes or _task(weights) == (
        "embedding"
    )
    if not is_encoder and _task(weights) != TASK:
        raise _ranks_nothing(fields.model, weights)
    kind = EmbeddingRequest if is_encoder else TextRequest
    async with (
        services.admission.slot(caller, fields.model) as slot,
        services.pool.lease(fields.model, kind) as model,
    ):
        score = _cosines if is_encoder else _relevance
        scores = await score(model, fields.query, documents, slot)
        label = {"notice": NOTICE, "model": model.weights.label}
    order = np.argsort(-scores, kind="stable")[: fields.top_n]
    results = list[dict[str, Any]]()
    for index in order.tolist():
        result = {"index": index, "relevance_score": round(float(scores[index]), 6)}
        if fields.return_documents:
            result["document"] = {"text": documents[index]}
        results.append(result)
    tokens = int(slot.amounts.get("prompt_tokens", 0))
    return {
        "id": f"rerank-{uuid.uuid4().hex}",
        "object": "list",
        "model": fields.model,
        "results": results,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "miaobi": label,
    }


def _check_texts(query: str, documents: list[str]) -> None:
    """Raise ApiError 400 for an empty query, no document, or an empty one."""
    if not query.strip():
        raise ApiError(400, say("query is empty.", "query 为空。"), param="query")
    if not documents:
        raise ApiError(
            400, say("documents is empty.", "documents 为空。"), param="documents"
        )
    for index, document in enumerate(documents):
        if not document.strip():
            raise ApiError(
                400,
                say(f"Document {index} is empty.", f"第 {index} 篇文档为空。"),
                param="documents",
            )


def _task(weights: Weights) -> str:
    """Return the task that a model was tuned for; "" for others."""
    return open_tuned(weights).task_name if weights.family == FAMILY else ""


def _ranks_nothing(name: str, weights: Weights) -> Unsupported:
    return Unsupported(
        say(
            f"{name} does not rank documents: it was neither tuned for {TASK} nor makes vectors.",
            f"{name} 不能给文档排序：它既未按 {TASK} 任务微调，也不生成向量。",
        ),
        say(
            f"Use e5-small, or a model of `miaobi finetune --task {TASK}`.",
            f"请用 e5-small，或由 `miaobi finetune --task {TASK}` 得到的模型。",
        ),
        field="model",
    )


async def _cosines(
    model: Model, query: str, documents: list[str], slot: Slot
) -> np.ndarray:
    """Return the cosine of each document's vector with the query's, [documents]."""
    queries = await _vectors(model, [query], "query", slot)
    passages = await _vectors(model, documents, "passage", slot)
    cosines: np.ndarray = passages @ queries[0]
    return cosines


async def _vectors(model: Model, texts: list[str], kind: str, slot: Slot) -> np.ndarray:
    engine = model.engine
    prompts = "input_type" in engine.abilities.controls
    request = model.request(
        texts, input_type=kind if prompts else "", too_long="truncate"
    )
    vectors = np.empty((0, 0), np.float32)
    async for chunk in engine.generate(request):
        slot.add("prompt_tokens", chunk.prompt_tokens)
        if isinstance(chunk.artifact, Embedding):
            vectors = chunk.artifact.vectors
    return vectors


async def _relevance(
    model: Model, query: str, documents: list[str], slot: Slot
) -> np.ndarray:
    """Return the relevance of each document in [0, 1], [documents]."""
    question = {"query": query, "passages": documents}
    prompt = json.dumps(question, ensure_ascii=False)
    answer = ""
    async for chunk in model.engine.generate(model.request(prompt)):
        slot.add("prompt_tokens", chunk.prompt_tokens)
        answer += chunk.text
    return np.array(json.loads(answer)["scores"])
