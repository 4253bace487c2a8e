"""Names of models: which resolver is asked, and what another package's answers for."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
from tests.engines.small import small_bundle

from miaobi.core.engine import Weights
from miaobi.core.errors import BadInput, NotFound
from miaobi.core.store import Store
from miaobi.models.resolvers import resolvers
from miaobi.models.weights import find
from miaobi.serve.names import Names
from miaobi.serve.settings import Settings
from miaobi.verbs import models


@pytest.fixture
def support(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that answers for support/shop and fails for support/broken."""

    def resolve(name: str) -> Weights | None:
        if name == "support/broken":
            raise BadInput("its knowledge base is damaged.")
        if name != "support/shop":
            return None
        return Weights("support", "/nowhere", name)

    module = ModuleType("toy_support")
    module.resolve = resolve  # type: ignore[attr-defined]
    module.names = lambda: ["support/shop"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_support", module)
    entry = EntryPoint("support", "toy_support", resolvers.group)
    monkeypatch.setitem(resolvers._entries, "support", entry)


def test_the_order_of_the_built_in_ones() -> None:
    assert resolvers.built_in() == ["store", "packs", "path", "url", "hub"]


def test_the_store_comes_before_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_bundle(tmp_path / "poet")
    monkeypatch.chdir(tmp_path)
    assert find("poet").version == ""
    Store().add(folder, "poet")
    assert find("poet").version == "1"
    assert find("./poet").version == ""
    assert find("http://127.0.0.1:1/v1/").location == "http://127.0.0.1:1/v1"


@pytest.mark.usefixtures("support")
def test_another_package_answers_under_its_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find("support/shop").format == "support"
    with pytest.raises(BadInput, match="knowledge base is damaged"):
        find("support/broken")
    # Its names look like hub ids, but the hub is not asked for them.
    with pytest.raises(NotFound, match="no model named 'support/shopp'") as caught:
        find("support/shopp")
    assert "support/shop" in caught.value.remedy
    small_bundle(tmp_path / "support" / "shop")
    monkeypatch.chdir(tmp_path)
    assert find("support/shop").format == "bundle"


@pytest.mark.usefixtures("support")
def test_its_names_are_listed_and_served() -> None:
    (row,) = models.list_models().models
    assert (row["model"], row["family"]) == ("support/shop", "support")
    assert "support/shop" in str(models.list_models())
    names = Names(Settings())
    assert "support/shop" in names.names()
    assert names.find("support/shop").format == "support"
    with pytest.raises(NotFound):
        names.find("support/shopp")
    others = Names(Settings(models=["poet"]))
    assert "support/shop" not in others.names()
    with pytest.raises(NotFound):
        others.find("support/shop")
