"""What a server answers for: names in the store, fetched packs, aliases; never a path,
a URL or a hub id.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from miaobi.core import bundle
from miaobi.core.bundle import Manifest
from miaobi.core.errors import BadInput, Damaged, NotFound
from miaobi.core.store import Store
from miaobi.serve.names import Names
from miaobi.serve.settings import Settings


def add(name: str, path: Path, **more: Any) -> None:
    """A model without weights, one version more of it."""
    folder = bundle.write(
        path / f"{name}{len(Store().versions(name))}",
        Manifest(**{"family": "gpt", "modality": "text", **more}),
        lambda draft: (draft / "config.json").write_text("{}") and None,
    )
    Store().add(folder, name)


def test_names_in_the_store_follow_promotions_at_once(tmp_path: Path) -> None:
    add("poet", tmp_path)
    names = Names(Settings())
    assert names.names() == ["poet"] and names.find("poet").label == "poet@1"
    add("poet", tmp_path)
    assert (
        names.find("poet").label == "poet@2"
        and names.find("poet@1").label == "poet@1"
        and names.find("poet@latest").version == "2"
    )
    Store().promote("poet@1")
    assert (
        names.find("poet").label == "poet@1"
        and names.find("poet@production").version == "1"
    )
    Store().remove("poet@2")
    with pytest.raises(NotFound) as raised:
        names.find("poet@2")
    assert raised.value.field == "model"


@pytest.mark.parametrize(
    "name",
    [
        "../poet",
        "/etc/passwd",
        "./poet",
        "http://127.0.0.1/v1",
        "org/model",
        "poet@../1",
        "poet@9",
        "POET",
        "",
        "a" * 300,
        "poet\n",
        "~/poet",
        "poet@",
        "models--x",
        ".",
        "..",
        "@1",
    ],
)
def test_a_name_is_no_path_no_url_and_no_hub_id(name: str, tmp_path: Path) -> None:
    add("poet", tmp_path)
    if name == "poet@":
        assert Names(Settings()).find(name).label == "poet@1"
        return
    with pytest.raises(NotFound):
        Names(Settings()).find(name)


def test_only_what_was_named_is_served_and_what_was_tuned_from_it(
    tmp_path: Path,
) -> None:
    for name, parents in (("poet", ()), ("cook", ()), ("bard", ("poet@1",))):
        add(name, tmp_path, parents=parents)
    names = Names(Settings(models=("poet",)))
    assert names.names() == ["bard", "poet"]
    with pytest.raises(NotFound, match="cook"):
        names.find("cook")


def test_an_alias_leads_to_a_path_that_no_request_can_name(tmp_path: Path) -> None:
    folder = bundle.write(
        tmp_path / "made",
        Manifest("gpt", "text"),
        lambda draft: (draft / "config.json").write_text("{}") and None,
    )
    names = Names(Settings(models=(f"mine={folder}",)))
    names.fetch()
    assert (
        names.names() == ["mine"]
        and names.find("mine").path == folder
        and names.find("mine").label == "mine"
    )
    with pytest.raises(NotFound):
        names.find(str(folder))
    with pytest.raises(BadInput):
        Names(Settings(models=(f"My Model={folder}",))).fetch()
    with pytest.raises(NotFound):
        Names(Settings(models=("mine=/nowhere/at/all",))).fetch()


def test_a_missing_pack_names_the_command_that_fetches_it() -> None:
    with pytest.raises(NotFound) as caught:
        Names(Settings()).find("smollm2")
    assert "miaobi data fetch smollm2" in caught.value.remedy


def test_facts(tmp_path: Path) -> None:
    add("poet", tmp_path, parents=("smollm2",))
    facts = Names(Settings()).facts("poet")
    assert (
        facts["id"],
        facts["object"],
        facts["owned_by"],
        facts["modality"],
        facts["parents"],
    ) == ("poet", "model", "local", "text", ["smollm2"])
    assert facts["created"] > 1_700_000_000 and str(tmp_path) not in json.dumps(facts)


def test_a_damaged_model_is_told_at_the_start(tmp_path: Path) -> None:
    add("poet", tmp_path)
    add("whole", tmp_path)
    version = Store().resolve("poet")
    assert isinstance(version.location, Path)
    (version.location / "miaobi.json").write_text("{", encoding="utf-8")
    names = Names(Settings())
    assert names.names() == ["whole"]
    [problem] = names.damaged()
    assert problem.startswith("poet: ")
    assert "miaobi.json" in problem
    with pytest.raises(Damaged):
        names.find("poet")
