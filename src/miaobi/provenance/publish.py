"""Everything that was generated is written by `publish`, labelled.

Texts: .txt, .md, .json, .jsonl (text.py). Pictures: .png, .jpg, .webp, .gif (image.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from miaobi.core.artifacts import Artifact, Image, Text, Video
from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.provenance import text


def publish(artifact: Artifact | Sequence[Artifact], path: Path) -> Path:
    """Write one artifact, or several answers to the same request, to `path`.

    The ending decides the format. Several pictures become one sheet (.png, .jpg,
    .webp), an animation (.gif), or numbered files beside index.jsonl where `path` is a
    folder or has no ending. A file of that name is replaced; in a folder nothing is
    replaced, the numbers go on. Each file is written whole or not at all.

    Raises Unsupported for an ending or a kind of artifact that has no writer.
    """
    artifacts = list(artifact) if isinstance(artifact, Sequence) else [artifact]
    pictures = [item for item in artifacts if isinstance(item, Image)]
    if isinstance(artifact, Video) or (pictures and len(pictures) == len(artifacts)):
        from miaobi.provenance import image  # needs Pillow, which texts do without

        return image.write(artifact if isinstance(artifact, Video) else pictures, path)
    others = [item for item in artifacts if not isinstance(item, Text)]
    if others:
        kind = type(others[0]).__name__
        raise Unsupported(
            say(
                f"There is no writer for {kind} here; texts, or pictures, or one animation can be written.",
                f"此处无法写出 {kind}；可写出文本、图片或一段动画。",
            ),
            say("Publish each kind by itself.", "请按种类分别写出。"),
        )
    return text.write([item for item in artifacts if isinstance(item, Text)], path)
