"""/v1/feedback: what people thought of answers, and the tuning set that it makes. A key
sees its own only.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from miaobi.core.language import say
from miaobi.serve import feedback
from miaobi.serve.callers import CurrentCaller
from miaobi.serve.errors import ApiError
from miaobi.serve.pages import page
from miaobi.serve.records import Feedback
from miaobi.serve.services import Serving

router = APIRouter(prefix="/v1/feedback", tags=["feedback"])
Text = Annotated[str, Field(min_length=1, max_length=1_000_000)]
Name = Annotated[str, Field(min_length=1, max_length=255)]


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=1_000_000)]


class FeedbackFields(BaseModel):
    """A thumb: `chosen` is the answer, `label` whether it was liked. An edit: `chosen`
    is the better wording, `rejected` the model's.
    A vote: `model` gave the chosen answer and `other` the rejected one; with `label`
        null both were found alike."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["thumb", "edit", "vote"]
    model: Name
    other: Name | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=2048)]
    chosen: Text
    rejected: Text | None = None
    label: bool | None = None

    @model_validator(mode="after")
    def whole(self) -> FeedbackFields:
        needed = {
            "thumb": ("label",),
            "edit": ("rejected",),
            "vote": ("other", "rejected"),
        }[self.kind]
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(
                    say(f"a {self.kind} needs {name}.", f"{self.kind} 需要 {name}。")
                )
        return self


@router.post("")
def create(
    fields: FeedbackFields, services: Serving, caller: CurrentCaller
) -> dict[str, Any]:
    """Store an opinion of an answer."""
    return to_object(
        feedback.add(services.records, caller.key_id, **fields.model_dump())
    )


@router.get("")
def list_feedback(
    services: Serving,
    caller: CurrentCaller,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """The caller's feedback, newest first, and how much there is of each kind."""
    objects = [
        to_object(row)
        for row in feedback.listed(services.records, caller.key_id, after, limit)
    ]
    return {
        **page(objects, limit),
        "counts": feedback.counts(services.records, caller.key_id),
    }


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/jsonl": {"schema": {"type": "string"}}}}},
)
def export(
    services: Serving, caller: CurrentCaller, shape: feedback.Shape = "pairs"
) -> StreamingResponse:
    """A tuning set: one JSON object a line, as `miaobi finetune --task preference` reads it."""
    rows = feedback.export(services.records, caller.key_id, shape)
    return StreamingResponse(
        rows,
        media_type="application/jsonl",
        headers={"Content-Disposition": f'attachment; filename="{shape}.jsonl"'},
    )


@router.delete("/{feedback_id}")
def remove(
    feedback_id: str, services: Serving, caller: CurrentCaller
) -> dict[str, Any]:
    """Forget one."""
    if not feedback.remove(services.records, caller.key_id, feedback_id):
        raise ApiError(
            404,
            say(
                f"There is no feedback {feedback_id[:64]!r}.",
                f"没有反馈 {feedback_id[:64]!r}。",
            ),
            code="not_found",
        )
    return {"id": feedback_id, "object": "feedback.deleted", "deleted": True}


def to_object(row: Feedback) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "feedback",
        "created_at": row.created,
        "kind": row.kind,
        "model": row.model,
        "other": row.other,
        "messages": row.messages,
        "chosen": row.chosen,
        "rejected": row.rejected,
        "label": row.label,
    }
