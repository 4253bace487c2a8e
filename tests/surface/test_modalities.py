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
    "verbs/evaluate/__init__.py",
}
EXCEPTIONS = {
    "engines/collected.py": "texts are joined, anything else comes whole",
    "engines/diffusers/engine.py": "pipelines by what they begin with: words, an image",
    "engines/model.py": "only models that write have a context and chat",
    "models/pipelines/__init__.py": "pipelines by what they begin with: words, an image",
    "models/weights.py": "Diffusers' folders are for images",
    "serve/names.py": "a base gives vectors",
    "serve/opening.py": "an engine of its own for vectors; estimates of memory",
    "serve/pool.py": "OpenAI's names of the methods that a model can be asked by",
    "serve/routes/fine_tuning.py": "OpenAI's endpoint tunes models that write",
    "studio/rooms/train.py": "waits for the studio's new foundation",
    "train/tracking.py": "trackers show texts and images; all samples lie in files",
    "verbs/finetune/__init__.py": "tuning of images has no learner of its own yet",
    "verbs/finetune/outcome.py": "answers before and after are read, pictures seen",
    "verbs/latent/lab.py": "latent spaces of images",
    "verbs/search/plan.py": "searches sizes of text models",
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
