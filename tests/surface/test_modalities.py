"""A modality is known in its own files and to the registries, and nowhere else.

What decides by a modality's name is a comparison (`modality == "image"`, or by the class
of its requests and artifacts), a name handed on, or a table of several.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "miaobi"

NAMES = {"text", "image", "embedding", "audio", "video"}
OWN = NAMES | {"images", "embeddings", "labelled"}
"""Folders and files of a modality."""
CLASSES = {
    "TextRequest",
    "ImageRequest",
    "EmbeddingRequest",
    "Text",
    "Image",
    "Embedding",
}
SUBJECTS = ("modality", "makes", "takes")
REGISTRIES = {
    "core/recipes.py",
    "core/requests/__init__.py",
    "provenance/__init__.py",
    "studio/uses.py",
    "verbs/evaluate/__init__.py",
}
OWN_PACKAGES = (
    "engines/diffusers/",
    "models/formats/diffusers.py",
    "models/pipelines/",
    "serve/routes/rerank.py",
    "verbs/embed.py",
    "verbs/latent/",
)
"""What belongs to one modality: Diffusers' pipelines, vectors of texts, latent spaces."""
EXCEPTIONS = {
    "verbs/finetune/settings.py": "base: new has bodies for texts alone",
    "studio/rooms/train.py": "is Gradio's still, and goes with it",
}
"""Files that decide by a modality although they belong to none, and why."""


def decisions(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what decides by the name of a modality."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            subjects = ast.unparse(node).lower()
            if strings_in(node) & NAMES and any(word in subjects for word in SUBJECTS):
                yield node
        elif isinstance(node, ast.keyword):
            if node.arg == "modality" and strings_in(node.value) & NAMES:
                yield node
        elif isinstance(node, ast.Dict):
            keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
            if len(keys & NAMES) > 1:
                yield node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names = {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}
            if node.func.id in ("isinstance", "issubclass") and names & CLASSES:
                yield node


def strings_in(node: ast.AST) -> set[str]:
    return {
        item.value
        for item in ast.walk(node)
        if isinstance(item, ast.Constant) and isinstance(item.value, str)
    }


def test_modalities_are_known_in_their_own_files_and_to_the_registries() -> None:
    deciding = dict[str, list[str]]()
    for path in sorted(SOURCE.rglob("*.py")):
        relative = path.relative_to(SOURCE)
        if OWN & set(relative.with_suffix("").parts):
            continue
        if relative.as_posix().startswith(OWN_PACKAGES):
            continue
        lines = [
            f"{relative}:{node.lineno} {ast.unparse(node)[:80]}"  # type: ignore[attr-defined]
            for node in decisions(ast.parse(path.read_text(encoding="utf-8")))
        ]
        if lines:
            deciding[relative.as_posix()] = lines
    unknown = {
        path: lines
        for path, lines in deciding.items()
        if path not in REGISTRIES | EXCEPTIONS.keys()
    }
    assert not unknown
    assert EXCEPTIONS.keys() <= deciding.keys(), "these exceptions are needed no more"
