"""Storage: the same calls on plain paths, file:// and a file system of fsspec."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from miaobi.core import storage
from miaobi.core.errors import BadInput, Damaged, MissingPart, NotFound
from miaobi.core.storage import Location, Url


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("MIAOBI_HOME", str(folder))
    monkeypatch.delenv("MIAOBI_STORAGE", raising=False)
    return folder


@pytest.fixture(params=["plain", "file", "memory", "folders"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A folder that is not there yet; `folders` is a file system without objects."""
    pytest.importorskip("fsspec")
    texts = {
        "plain": str(tmp_path / "place"),
        "file": f"file://{tmp_path}/place",
        "memory": f"memory://{uuid.uuid4().hex}/place",
        "folders": f"local://{tmp_path}/place",
    }
    return storage.location(texts[request.param])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    (folder / "inner" / "b.txt").write_text("two")
    return folder


def test_a_location_is_a_path_unless_it_names_a_file_system() -> None:
    assert storage.location("a/b") == Path("a/b")
    assert storage.location("~/b") == Path.home() / "b"
    assert storage.location("file:///a%20b") == Path("/a b")
    assert storage.location("s3://bucket/a/") == Url("s3://bucket/a")


def test_a_url_has_the_parts_of_a_path() -> None:
    url = Url("s3://bucket/texts/a.jsonl.gz")
    assert url.name == "a.jsonl.gz"
    assert url.suffix == ".gz"
    assert url.parent == Url("s3://bucket/texts")
    assert url.with_suffix("") == Url("s3://bucket/texts/a.jsonl")
    assert str(url.relative_to(Url("s3://bucket"))) == "texts/a.jsonl.gz"


def test_what_is_written_is_read(folder: Location) -> None:
    file = folder / "inner" / "a.bin"
    assert not storage.exists(file)
    storage.write(file, b"one")
    storage.write(file, b"two!")
    assert storage.read(file) == b"two!"
    assert storage.state(file)[0] == 4
    assert storage.exists(file)
    assert not storage.is_folder(file)
    assert storage.is_folder(folder)
    with storage.open_read(file) as handle:
        handle.seek(2)
        assert handle.read() == b"o!"


def test_a_state_changes_with_the_content(folder: Location) -> None:
    file = folder / "a"
    storage.write(file, b"one")
    before = storage.state(file)
    assert storage.state(file) == before
    storage.write(file, b"two")
    assert storage.state(file) != before


def test_what_is_missing_is_a_missing_file(folder: Location) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read(folder / "a")
    with pytest.raises(FileNotFoundError), storage.open_read(folder / "a"):
        pass
    assert storage.names(folder) == []
    assert storage.files(folder) == []
    storage.delete(folder / "a")
    assert storage.age(_written(folder / "b")) >= 0


def _written(file: Location) -> Location:
    storage.write(file, b"here")
    return file


def test_names_are_those_directly_inside(folder: Location) -> None:
    for name in ("b", "a", "inner/c"):
        storage.write(folder / name, b"x")
    assert storage.names(folder) == ["a", "b", "inner"]
    assert storage.files(folder) == [folder / "a", folder / "b", folder / "inner/c"]


def test_only_one_creates(folder: Location) -> None:
    file = folder / "claimed"
    assert storage.create(file, b"first")
    assert not storage.create(file, b"second")
    assert storage.read(file) == b"first"


def test_delete_takes_files_and_trees(folder: Location, tree: Path) -> None:
    storage.write(folder / "a", b"x")
    storage.delete(folder / "a")
    assert not storage.exists(folder / "a")
    storage.copy_tree(tree, folder / "tree")
    storage.delete(folder / "tree")
    assert not storage.is_complete(folder / "tree")
    assert not storage.exists(folder / "tree" / "a.txt")


def test_a_tree_goes_there_and_back(
    folder: Location, tree: Path, tmp_path: Path
) -> None:
    target = folder / "models" / "1"
    assert not storage.is_complete(target)
    storage.copy_tree(tree, target)
    assert storage.is_complete(target)
    copy = storage.local(target)
    assert (copy / "a.txt").read_text() == "one"
    assert (copy / "inner" / "b.txt").read_text() == "two"
    assert copy.name == "1"


def test_a_tree_on_a_disk_has_no_marker(tmp_path: Path, tree: Path) -> None:
    storage.copy_tree(tree, tmp_path / "copy")
    assert not (tmp_path / "copy" / storage.MARKER).exists()


def test_a_half_copied_tree_does_not_count(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Url(f"memory://{uuid.uuid4().hex}/tree")
    put = storage.put

    def fail_at_second(source: Path, where: Url) -> None:
        if source.name == "b.txt":
            raise ConnectionError
        put(source, where)

    monkeypatch.setattr(storage, "put", fail_at_second)
    with pytest.raises(ConnectionError):
        storage.copy_tree(tree, target)
    assert storage.exists(target / "a.txt")
    assert not storage.is_complete(target)
    monkeypatch.undo()
    storage.copy_tree(tree, target)
    assert storage.is_complete(target)


def test_a_tree_that_lost_bytes_is_damaged(tree: Path, tmp_path: Path) -> None:
    target = Url(f"memory://{uuid.uuid4().hex}/tree")
    storage.copy_tree(tree, target)
    storage.write(target / "a.txt", b"longer than before")
    with pytest.raises(Damaged, match=r"a\.txt"):
        storage.fetch_tree(target, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_plain_path_is_its_own_local_file(tmp_path: Path) -> None:
    assert storage.local(tmp_path / "a") == tmp_path / "a"
    assert storage.local(str(tmp_path)) == tmp_path


def test_a_file_is_fetched_once_for_each_version(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = Url(f"memory://{uuid.uuid4().hex}/weights.gguf")
    storage.write(url, b"first")
    first = storage.local(url)
    assert first.name == "weights.gguf"
    assert first.is_relative_to(home / "fetched")
    written = first.stat().st_mtime_ns
    assert storage.local(str(url)) == first
    assert first.stat().st_mtime_ns == written
    storage.write(url, b"second")
    second = storage.local(url)
    assert second.read_bytes() == b"second"
    assert first.read_bytes() == b"first"


def test_a_folder_without_a_marker_is_fetched_by_what_is_listed(
    folder: Location,
) -> None:
    storage.write(folder / "a" / "x.png", b"1")
    storage.write(folder / "b" / "y.png", b"22")
    copy = storage.local(folder)
    assert (copy / "a" / "x.png").read_bytes() == b"1"
    storage.write(folder / "b" / "z.png", b"333")
    assert (storage.local(folder) / "b" / "z.png").read_bytes() == b"333"


def test_a_pattern_takes_what_fits() -> None:
    base = Url(f"memory://{uuid.uuid4().hex}/texts")
    for name in ("a.jsonl", "b.jsonl", "c.txt", "deep/d.jsonl"):
        storage.write(base / name, name.encode())
    pattern = base / "*.jsonl"
    assert storage.files(pattern) == [base / "a.jsonl", base / "b.jsonl"]
    assert storage.folder_of(pattern) == base
    assert storage.files(base / "**" / "*.jsonl")[-1] == base / "deep/d.jsonl"
    assert sorted(file.name for file in storage.local(pattern).iterdir()) == [
        "a.jsonl",
        "b.jsonl",
    ]


def test_nothing_to_fetch_is_a_missing_file(folder: Location) -> None:
    if isinstance(folder, Url):
        with pytest.raises(NotFound, match="nothing at"):
            storage.local(folder)


def test_a_lock_is_held_by_one(folder: Location) -> None:
    storage.write(folder / "here", b"")
    order = list[str]()

    def wait_and_enter() -> None:
        with storage.locked(folder / ".lock"):
            order.append("second")

    with storage.locked(folder / ".lock"):
        waiting = threading.Thread(target=wait_and_enter)
        waiting.start()
        waiting.join(2 * storage.POLL_SECONDS)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_a_lock_left_behind_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Url(f"memory://{uuid.uuid4().hex}/.lock")
    storage.create(lock)
    monkeypatch.setattr(storage, "age", lambda where: storage.LOCK_SECONDS + 1)
    with storage.locked(lock):
        assert storage.exists(lock)
    assert not storage.exists(lock)


def test_the_storage_is_the_home_unless_it_is_set(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert storage.root() == home
    monkeypatch.setenv("MIAOBI_STORAGE", "s3://bucket/miaobi")
    assert storage.root() == Url("s3://bucket/miaobi")


def test_a_home_elsewhere_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIAOBI_HOME", "s3://bucket/miaobi")
    with pytest.raises(BadInput, match="MIAOBI_HOME") as refused:
        storage.root()
    assert "MIAOBI_STORAGE" in refused.value.remedy


def test_an_unknown_file_system_is_named() -> None:
    with pytest.raises(BadInput, match="nowhere://a"):
        storage.read(Url("nowhere://a"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(MissingPart, match="s3fs") as refused:
        storage.read(Url("s3://bucket/a"))
    assert refused.value.remedy == "pip install 'miaobi[remote]' s3fs"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPart, match="fsspec"):
        storage.read(Url("s3://bucket/a"))


def test_plain_paths_do_without_fsspec(tmp_path: Path) -> None:
    code = f"""
import sys
from miaobi.core import storage
file = storage.location({str(tmp_path / "a" / "b")!r})
storage.write(file, b"x")
storage.read(storage.location("file://" + str(file)))
storage.local(file)
assert storage.create(file.with_name("c"))
storage.names(file.parent), storage.files(file.parent)
storage.delete(file.parent)
assert "fsspec" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
