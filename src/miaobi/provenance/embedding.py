"""The writer of vectors: JSON that holds them with their facts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from miaobi.core.artifacts import Embedding
from miaobi.provenance.label import record as label_record

ARTIFACT = Embedding
ENDINGS = {".json": "application/json", ".jsonl": "application/jsonl"}
NUMBERED = False


def encode(embeddings: Sequence[Embedding], ending: str) -> bytes:
    """Return one object, or a list of several; with .jsonl a line each."""
    records = [record(embedding) for embedding in embeddings]
    if ending == ".jsonl":
        return "".join(f"{_dumped(item)}\n" for item in records).encode()
    value = records if len(records) > 1 else records[0]
    return f"{_dumped(value)}\n".encode()


def record(embedding: Embedding) -> dict[str, Any]:
    """The vectors with their label, as JSON."""
    return {"vectors": embedding.vectors.tolist(), **label_record(embedding)}


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
