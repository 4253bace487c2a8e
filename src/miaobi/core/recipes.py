"""Recipes that come in packages: miaobi's own, and those of other packages.

A folder of them has a name in the registry: NAME/x.yaml is its recipe x where the user
has no such file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from miaobi.core.registry import Registry

OWN = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True)
class RecipeFolder:
    """Recipes for one modality."""

    path: Path
    modality: str
    """Of the models that they make: "text", "image", ..."""
    suffixes: tuple[str, ...]
    """Of files that may be uploaded to be trained on."""

    def files(self) -> list[Path]:
        return sorted(self.path.glob("*.yaml"))


TEXT = RecipeFolder(
    OWN / "text",
    "text",
    (
        ".txt",
        ".jsonl",
        ".json",
        ".csv",
        ".parquet",
        ".txt.gz",
        ".jsonl.gz",
        ".json.gz",
        ".csv.gz",
    ),
)
IMAGE = RecipeFolder(OWN / "image", "image", (".zip", ".parquet"))

recipes: Registry[RecipeFolder] = Registry(
    "recipes",
    {
        "image": "miaobi.core.recipes:IMAGE",
        "text": "miaobi.core.recipes:TEXT",
    },
)


def packaged(path: Path) -> Path | None:
    """Return the packaged recipe that a path NAME/x.yaml means; None if there is none.

    miaobi's own are also called recipes/NAME/x.yaml, as in its repository.
    """
    parts = path.parts
    if parts[:1] == (OWN.name,):
        file = OWN.joinpath(*parts[1:])
    elif parts[:1] and parts[0] in recipes:
        file = recipes.get(parts[0]).path.joinpath(*parts[1:])
    else:
        return None
    return file if file.is_file() else None


def all_packaged() -> Iterator[tuple[str, Path]]:
    """Yield every packaged recipe: its path as a command names it, and its file."""
    for file in sorted(OWN.rglob("*.yaml")):
        yield f"{OWN.name}/{file.relative_to(OWN).as_posix()}", file
    for name in recipes.added():
        for file in recipes.get(name).files():
            yield f"{name}/{file.name}", file
