"""The writer of texts: files that say where they came from.

.txt ends with a notice that people see, .md has the facts as front matter, .json and
.jsonl hold everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from miaobi.core.artifacts import Text
from miaobi.provenance.label import NOTICE, facts_of

ARTIFACT = Text
ENDINGS = {
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
}
NUMBERED = False


def encode(texts: Sequence[Text], ending: str) -> bytes:
    """Return the file of one text or of several."""
    return FORMATS[ending](texts).encode()


def record(text: Text) -> dict[str, Any]:
    """A text with its facts and notice, as JSON."""
    return {
        "text": text.text,
        "finish": text.finish,
        "notice": NOTICE,
        **facts_of(text.facts),
    }


def _txt(texts: Sequence[Text]) -> str:
    facts = texts[0].facts
    model = f"{facts.model}@{facts.version}" if facts.version else facts.model
    body = "\n\n".join(text.text for text in texts)
    notice = f"{NOTICE} · {model} · {facts.created} · {facts.request_id}"
    return f"{body}\n\n{notice}\n"


def _md(texts: Sequence[Text]) -> str:
    front = {"notice": NOTICE, **facts_of(texts[0].facts)}
    head = "\n".join(
        f"{name}: {json.dumps(value, ensure_ascii=False)}"
        for name, value in front.items()
    )
    body = "\n\n---\n\n".join(text.text for text in texts)
    return f"---\n{head}\n---\n\n{body}\n\n*{NOTICE}*\n"


def _json(texts: Sequence[Text]) -> str:
    records = [record(text) for text in texts]
    value = records if len(records) > 1 else records[0]
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _jsonl(texts: Sequence[Text]) -> str:
    lines = [json.dumps(record(text), ensure_ascii=False) for text in texts]
    return "".join(f"{line}\n" for line in lines)


FORMATS: dict[str, Callable[[Sequence[Text]], str]] = {
    ".txt": _txt,
    ".md": _md,
    ".json": _json,
    ".jsonl": _jsonl,
}
"""What makes a file's content, by ending."""
