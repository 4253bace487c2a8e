"""Recipes that come in packages: miaobi's own, and those of other packages.

A folder of them has a name in the registry: NAME/x.yaml is its recipe x where the user
has no such file.
"""

from __future__ import annotations

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


def command_of_recipe(name: str) -> str:
    """Return the command that makes the model of a packaged recipe of this name, with
    "-" for "_" as models are called; "" where no recipe is called so.
    """
    stem = name.partition("@")[0].replace("-", "_").lower()
    folders = {key: recipes.get(key).path for key in recipes.names()}
    for key, folder in folders.items():
        if (folder / f"{stem}.yaml").is_file():
            place = f"recipes/{key}" if folder.parent == OWN else key
            return f"miaobi train {place}/{stem}.yaml"
    if (OWN / "tune" / f"{stem}.yaml").is_file():
        return f"miaobi finetune recipes/tune/{stem}.yaml"
    return ""
