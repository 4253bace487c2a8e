"""The one door out: whatever was generated leaves through `publish`, labelled.

For text: .txt with a notice that people see, .md with the facts as front matter, .json
    and .jsonl with everything.
For pictures: .png, .jpg, .webp and .gif with the facts inside (see pictures.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from miaobi.core.artifacts import Artifact, Facts, Image, Text, Video
from miaobi.core.errors import Unsupported
from miaobi.core.files import write_text
from miaobi.core.language import say

NOTICE = "AI-generated / 由AI生成"


def publish(artifact: Artifact | Sequence[Artifact], path: Path) -> Path:
    """Write one artifact, or several answers to the same request, to `path`; the ending
    decides the format.

    Several pictures become one sheet (.png, .jpg, .webp), an animation (.gif), or
    numbered files beside index.jsonl where `path` is a folder or has no ending. A file
    of that name is replaced; in a folder nothing is, the numbers go on.

    Each file is written whole or not at all. Raises Unsupported for an ending or a kind
    of artifact that has no writer.
    """
    artifacts = list(artifact) if isinstance(artifact, Sequence) else [artifact]
    pictures = [item for item in artifacts if isinstance(item, Image)]
    if (pictures and len(pictures) == len(artifacts)) or isinstance(artifact, Video):
        from miaobi.provenance.image import write

        return write(artifact if isinstance(artifact, Video) else pictures, path)
    texts = [item for item in artifacts if isinstance(item, Text)]
    if len(texts) < len(artifacts):
        other = next(
            type(item).__name__ for item in artifacts if not isinstance(item, Text)
        )
        raise Unsupported(
            say(
                f"There is no writer for {other} here; texts, or pictures, or one animation can be written.",
                f"此处无法写出 {other}；可写出文本、图片或一段动画。",
            ),
            say("Publish each kind by itself.", "请按种类分别写出。"),
        )
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise Unsupported(
            say(
                f"Text cannot be written as {path.suffix or 'a file without an ending'} ({path}).",
                f"文本不能写成 {path.suffix or '没有扩展名的文件'}（{path}）。",
            ),
            say(
                f"Choose one of {', '.join(WRITERS)}.", f"请选用 {'、'.join(WRITERS)}。"
            ),
        )
    write_text(path, writer(texts))
    return path


def record(text: Text) -> dict[str, Any]:
    """A text with its facts and notice, as JSON has it."""
    return {
        "text": text.text,
        "finish": text.finish,
        "notice": NOTICE,
        **facts_of(text.facts),
    }


def facts_of(facts: Facts) -> dict[str, Any]:
    return {
        key: value for key, value in asdict(facts).items() if value not in ("", None)
    }


def _txt(texts: list[Text]) -> str:
    facts = texts[0].facts
    made = (
        f"{NOTICE} · {facts.model}{'@' + facts.version if facts.version else ''} · "
        f"{facts.created} · {facts.request_id}"
    )
    return "\n\n".join(text.text for text in texts) + f"\n\n{made}\n"


def _md(texts: list[Text]) -> str:
    front = {"notice": NOTICE, **facts_of(texts[0].facts)}
    head = "\n".join(
        f"{key}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in front.items()
    )
    return (
        f"---\n{head}\n---\n\n"
        + "\n\n---\n\n".join(text.text for text in texts)
        + f"\n\n*{NOTICE}*\n"
    )


def _json(texts: list[Text]) -> str:
    records = [record(text) for text in texts]
    return (
        json.dumps(
            records if len(records) > 1 else records[0], ensure_ascii=False, indent=1
        )
        + "\n"
    )


def _jsonl(texts: list[Text]) -> str:
    return "".join(
        json.dumps(record(text), ensure_ascii=False) + "\n" for text in texts
    )


WRITERS: dict[str, Callable[[list[Text]], str]] = {
    ".txt": _txt,
    ".md": _md,
    ".json": _json,
    ".jsonl": _jsonl,
}
