"""ZIP archives of pictures: what is taken from them, and what is refused whole."""

from __future__ import annotations

import io
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaobi.core.errors import BadInput, Damaged
from miaobi.data.archives import unpack_package, unpack_pictures


def packed(path: Path, *entries: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def names(folder: Path) -> list[str]:
    return sorted(
        str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()
    )


def test_pictures_and_their_metadata_are_unpacked_and_nothing_else(
    tmp_path: Path,
) -> None:
    archive = packed(
        tmp_path / "a.zip",
        ("mine/cats/1.PNG", b"1"),
        ("mine/metadata.csv", b"file_name,text\n"),
        ("mine/cats/1.txt", b"a cat"),
        ("mine/run.sh", b"rm"),
        ("__MACOSX/mine/._1.png", b"x"),
        ("mine/.hidden.png", b"x"),
        ("mine/dogs/", b""),
    )
    assert unpack_pictures(archive, tmp_path / "out", 1000) == tmp_path / "out" / "mine"
    assert names(tmp_path / "out") == [
        "mine/cats/1.PNG",
        "mine/cats/1.txt",
        "mine/metadata.csv",
    ]
    assert (
        unpack_pictures(
            packed(tmp_path / "b.zip", ("other.png", b"2")), tmp_path / "out", 1000
        )
        == tmp_path / "out" / "mine"
    )
    assert (
        unpack_pictures(
            packed(tmp_path / "c.zip", ("one.png", b"2")), tmp_path / "flat", 1000
        )
        == tmp_path / "flat"
    )


def linked(path: Path) -> Path:
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    return path


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("../x.png", b"1")], "points outside"),
        ([("/x.png", b"1")], "points outside"),
        ([("a/../../x.png", b"1")], "points outside"),
        ([("C:x.png", b"1")], "points outside"),
        ([("..\\x.png", b"1")], "points outside"),
        ([("x.txt", b"1")], "no pictures"),
        ([], "no pictures"),
        ([("x.png", b"0" * 10_001)], "more than 10,000 bytes"),
        ([("x.png", b"0" * 6000), ("y.png", b"0" * 6000)], "more than 10,000 bytes"),
        ([(f"{number}.png", b"") for number in range(11)], "11 entries"),
    ],
)
def test_what_is_refused_leaves_nothing(
    tmp_path: Path, entries: list[tuple[str, bytes]], message: str
) -> None:
    archive = packed(tmp_path / "a.zip", *entries)
    with pytest.raises(BadInput, match=message):
        unpack_pictures(archive, tmp_path / "out", 10_000, 10)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.zip"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no pictures"):
        unpack_pictures(linked(tmp_path / "a.zip"), tmp_path / "out", 10_000)


TELLING = (0, 12, 14, 255)
"""Values that a byte is damaged to: of lengths and positions, the smallest and the
largest; of methods, bzip2 and LZMA.
"""


def test_each_byte_damaged_is_refused_or_read_whole(tmp_path: Path) -> None:
    """Every place of the directory and of the entries, so that no fault of a reader
    waits for luck: a directory that points before the file's start among them.
    """
    archive = packed(tmp_path / "a.zip", ("1.png", b"one" * 40))
    content = archive.read_bytes()
    refused = 0
    for at in range(len(content)):
        for value in TELLING:
            archive.write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
            try:
                unpack_pictures(archive, tmp_path / "out", 10_000)
            except BadInput:
                refused += 1
                assert [item.name for item in tmp_path.iterdir()] == ["a.zip"]
            else:
                assert set(names(tmp_path)) - {"a.zip"}
                shutil.rmtree(tmp_path / "out")
    assert refused > len(content)


def test_a_directory_that_points_before_the_start_is_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", ("1.png", b"one"))
    content = bytearray(archive.read_bytes())
    content[-6:-2] = (len(content) + 7).to_bytes(4, "little")
    archive.write_bytes(content)
    with pytest.raises(BadInput, match="points before its start"):
        unpack_pictures(archive, tmp_path / "out", 10_000)


def test_a_name_that_no_disk_takes_is_refused(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", ("长" * 90 + ".png", b"1"))
    with pytest.raises(BadInput, match="too long"):
        unpack_pictures(archive, tmp_path / "out", 10_000)


@pytest.mark.parametrize("ending", ["whl", "tgz"])
def test_each_byte_of_a_package_damaged(tmp_path: Path, ending: str) -> None:
    """A package that the client brought without a checksum of ours, as apt does."""
    archive = tmp_path / f"a.{ending}"
    if ending == "whl":
        packed(archive, ("a.txt", b"one" * 40))
    else:
        with tarfile.open(archive, "w:gz") as ball:
            info = tarfile.TarInfo("a.txt")
            info.size = 120
            ball.addfile(info, io.BytesIO(b"one" * 40))
    content = archive.read_bytes()
    refused = 0
    for at in range(len(content)):
        for value in TELLING:
            archive.write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
            try:
                unpack_package(archive, ("*",), tmp_path / "out")
            except Damaged:
                refused += 1
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert refused > len(content)


@given(cut=st.integers(0, 400), at=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_damaged_archive_is_refused_or_read_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int, at: int, byte: int
) -> None:
    folder = tmp_path_factory.mktemp("zip")
    archive = packed(
        folder / "a.zip", ("a/1.png", b"one" * 40), ("a/2.png", b"two" * 40)
    )
    content = bytearray(archive.read_bytes())
    content[at % len(content)] = byte
    archive.write_bytes(content[: len(content) - cut % len(content)])
    try:
        unpack_pictures(archive, folder / "out", 10_000)
    except BadInput:
        assert [item.name for item in folder.iterdir()] == ["a.zip"]
    else:
        assert set(names(folder)) - {"a.zip"}
