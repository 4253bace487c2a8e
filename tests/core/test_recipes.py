"""Recipes of packages: found by the name of their folder, of the modality it states."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from miaobi.core.config import read_recipe, read_yaml
from miaobi.core.errors import NotFound
from miaobi.core.recipes import OWN, RecipeFolder, recipes
from miaobi.families import families

beep: RecipeFolder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package's folder, registered as "beep", with a recipe."""
    path = tmp_path / "package"
    path.mkdir()
    (path / "tones.yaml").write_text("family: tones\n")
    monkeypatch.setattr(
        f"{__name__}.beep", RecipeFolder(path, "beep", (".notes",)), raising=False
    )
    entry = EntryPoint("beep", f"{__name__}:beep", recipes.group)
    monkeypatch.setitem(recipes._entries, "beep", entry)
    monkeypatch.chdir(tmp_path)
    return path


def test_a_recipe_of_a_package_has_its_name_in_front(folder: Path) -> None:
    assert read_recipe("beep/tones.yaml") == {"family": "tones"}
    with pytest.raises(NotFound, match="beep/none"):
        read_recipe("beep/none.yaml")


def test_a_file_of_the_users_own_comes_first(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "beep").mkdir()
    (tmp_path / "beep" / "tones.yaml").write_text("family: mine\n")
    assert read_recipe("beep/tones.yaml") == {"family": "mine"}


@pytest.mark.parametrize("path", ["text/poet_gpt.yaml", "recipes/text/poet_gpt.yaml"])
def test_those_of_miaobi(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_recipe(path) == read_yaml(OWN / "text" / "poet_gpt.yaml")


@pytest.mark.parametrize("name", recipes.names())
def test_the_modality_is_the_families_own(name: str) -> None:
    folder = recipes.get(name)
    assert folder.files()
    for path in folder.files():
        assert families.get(read_yaml(path)["family"]).MODALITY == folder.modality
