"""The starter packs that are models: smollm2, e5-small, e5-small:en+zh."""

from __future__ import annotations

from miaobi.core.engine import Weights
from miaobi.core.errors import Unsupported, nearest
from miaobi.core.language import say
from miaobi.data import packs
from miaobi.models import encoders
from miaobi.models.weights import of_path


def resolve(name: str) -> Weights | None:
    """Return a packaged model, of the catalogue's format or its file's.

    Raises Unsupported for one that makes nothing by itself.
    """
    encoder = encoders.parse(name)
    if encoder is not None:
        return encoders.weights_of(encoder)
    if name not in names():
        return None
    pack = packs.get(name)
    if pack.format == "part":
        models = [
            other
            for other in names()
            if packs.get(other).format not in ("part", encoders.FORMAT)
        ]
        raise Unsupported(
            say(
                f"{name} evaluates pictures and generates nothing.",
                f"{name} 只用于评估图片，不能生成内容。",
            ),
            nearest("", models),
        )
    path = packs.path(name)
    if pack.format:
        return Weights(pack.format, str(path), name, modality=pack.modality)
    return of_path(path, name)


def names() -> list[str]:
    return [name for name, pack in packs.catalogue().items() if pack.kind == "model"]
