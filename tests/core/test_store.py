from __future__ import annotations

import json
import multiprocessing
import uuid
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from miaobi.core import bundle, storage
from miaobi.core.errors import BadInput, Conflict, Damaged, DoesNotFit, NotFound
from miaobi.core.files import write_beside, write_text
from miaobi.core.storage import Location, Url
from miaobi.core.store import Store


def make(folder: Path, **changes: object) -> Path:
    import numpy as np

    def save(draft: Path) -> None:
        save_file({"w": np.arange(6.0)}, draft / "model.safetensors")
        (draft / "tokenizer.json").write_text("{}")

    return bundle.write(folder, bundle.Manifest("gpt", "text", **changes), save)  # type: ignore[arg-type]


@pytest.fixture(params=["plain", "memory"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Store:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path / "home"))
    if request.param == "plain":
        return Store(tmp_path / "models")
    return Store(storage.location(f"memory://{uuid.uuid4().hex}/models"))


def test_versions_aliases_and_rollback(store: Store, tmp_path: Path) -> None:
    source = make(tmp_path / "source")
    versions = [str(store.add(source, "poet")) for _ in range(3)]
    assert versions == ["poet@1", "poet@2", "poet@3"]
    assert str(store.resolve("poet")) == "poet@3"
    store.promote("poet@1")
    store.promote("poet@2")
    assert str(store.resolve("poet")) == "poet@2"
    assert str(store.resolve("poet@production")) == "poet@2"
    assert str(store.resolve("poet@latest")) == "poet@3"
    assert str(store.rollback("poet")) == "poet@1"
    with pytest.raises(Conflict, match="no earlier"):
        store.rollback("poet")
    with pytest.raises(Conflict, match="in production"):
        store.remove("poet@1")
    store.remove("poet@3")
    assert str(store.add(source, "poet")) == "poet@4", "a number is never used twice"
    assert len(store.remove("poet")) == 3
    assert store.names() == []


def test_scores_stand_beside_a_version(store: Store, tmp_path: Path) -> None:
    """The newest of each name; gone with the version."""
    version = store.add(make(tmp_path / "source"), "poet")
    assert store.scores(version) == []
    store.record_scores(version, [{"name": "a", "value": 1}, {"name": "b", "value": 2}])
    store.record_scores(version, [{"name": "a", "value": 3}])
    assert {row["name"]: row["value"] for row in store.scores(version)} == {
        "a": 3,
        "b": 2,
    }
    assert [item.number for item in store.versions("poet")] == [1]
    store.remove("poet")
    assert store.scores(version) == []


def test_unknown_names(store: Store, tmp_path: Path) -> None:
    store.add(make(tmp_path / "source"), "poet")
    with pytest.raises(NotFound, match="poat") as caught:
        store.resolve("poat")
    assert "poet" in caught.value.remedy
    with pytest.raises(NotFound, match="no version '9'"):
        store.resolve("poet@9")
    for name in ("../evil", "Poet", "", "a/b", "."):
        with pytest.raises(BadInput):
            store.add(tmp_path / "source", name)


def test_damage_is_detected(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    assert bundle.read(folder).family == "gpt"
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for cut in (4, 20, len(whole) - 1):
        weights.write_bytes(whole[:cut])
        with pytest.raises(Damaged, match="cut short"):
            bundle.read(folder)
    weights.write_bytes(whole)
    (folder / "tokenizer.json").write_text("{ }")
    with pytest.raises(Damaged, match="tokenizer.json"):
        bundle.read(folder)
    manifest = folder / bundle.MANIFEST
    changes = {"format": 99, "hashes": {}, "something_new": 1}
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))
    with pytest.raises(Damaged, match="newer miaobi"):
        bundle.read(folder)
    with pytest.raises(NotFound, match="not a miaobi bundle"):
        bundle.read(tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_half_written_stays(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "file.txt"
    write_text(target, "before")
    with pytest.raises(error), write_beside(target) as draft:
        draft.write_text("half")
        raise error
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_full_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(DoesNotFit, match="disk is full") as caught,
        write_beside(tmp_path / "x") as draft,
    ):
        draft.write_text("part")
        with open("/dev/full", "w") as full:
            full.write("x")
    assert "MIAOBI_HOME" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def _add(root: str, source: str) -> None:
    Store(Path(root)).add(Path(source), "poet")


def test_two_writers_never_share_a_number(tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    source = make(tmp_path / "source")
    workers = [
        multiprocessing.get_context("spawn").Process(
            target=_add, args=(str(store.root), str(source))
        )
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [version.number for version in store.versions("poet")] == [1, 2, 3]
    assert all(bundle.read(version.path) for version in store.versions("poet"))


def test_an_upload_under_way_has_its_number_and_is_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(Url(f"memory://{uuid.uuid4().hex}/models"))
    source = make(tmp_path / "source")
    copy_tree = storage.copy_tree

    def with_another(source: Path, target: Location) -> None:
        monkeypatch.setattr(storage, "copy_tree", copy_tree)
        assert store.versions("poet") == []
        assert str(store.add(source, "poet")) == "poet@2"
        copy_tree(source, target)

    monkeypatch.setattr(storage, "copy_tree", with_another)
    assert str(store.add(source, "poet")) == "poet@1"
    assert [version.number for version in store.versions("poet")] == [1, 2]


def test_a_version_elsewhere_is_fetched_whole_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MIAOBI_STORAGE", f"memory://{uuid.uuid4().hex}/shared")
    source = make(tmp_path / "source")
    version = Store().add(source, "poet")
    assert bundle.read(version.location).family == "gpt"
    assert storage.size(version.location) == storage.size(source)
    assert not (tmp_path / "home" / "fetched").exists()
    path = version.path
    assert bundle.read(path).hashes == bundle.read(source).hashes
    assert path.is_relative_to(tmp_path / "home" / "fetched")
    assert Store().resolve("poet@1").path == path


def test_the_state_of_a_name_changes_with_its_versions_and_aliases(
    store: Store, tmp_path: Path
) -> None:
    source = make(tmp_path / "source")
    assert store.state("poet") is None
    states = list[object]()
    for change in (
        lambda: store.add(source, "poet"),
        lambda: store.add(source, "poet"),
        lambda: store.promote("poet@1"),
        lambda: store.remove("poet@2"),
    ):
        change()
        assert store.state("poet") == store.state("poet")
        assert store.state("poet") not in states
        states.append(store.state("poet"))
