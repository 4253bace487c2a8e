"""Python sources as text: by package, with their licences, and only what parses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from miaobi.core.errors import BadInput, NotFound
from miaobi.data.text import python_sources, tokens
from miaobi.data.text.config import SPLITS, Config
from miaobi.data.text.python_sources import ENVIRONMENT, read

FUNCTION = '''def {name}(value):
    """Return {name} of a value, {number} times."""
    total = 0
    for index in range({number}):
        total += value * index
    return total


'''


def module(name: str, functions: int = 5) -> str:
    return "".join(
        FUNCTION.format(name=f"{name}_{number}", number=number)
        for number in range(functions)
    )


def packages(folder: Path, count: int = 12) -> Path:
    for package in range(count):
        for file in range(3):
            path = folder / f"package_{package}" / f"module_{file}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(module(f"p{package}f{file}"), encoding="utf-8")
    return folder


def test_files_of_a_package_stay_together(tmp_path: Path) -> None:
    folder = packages(tmp_path / "sources")
    data = tokens.prepare(
        Config(source="python", path=str(folder), validation=0.2, test=0.2),
        cache=tmp_path,
        progress=False,
    )
    by_split = {
        split: {text.split("_")[0].split("f")[1] for text in data.documents(split)}
        for split in SPLITS
    }
    packages_of = {
        split: {
            text.removeprefix("def ").split("f")[0] for text in data.documents(split)
        }
        for split in SPLITS
    }
    assert all(by_split.values())
    assert sum(map(len, packages_of.values())) == 12, "no package is in two splits"
    counts = data.meta["splits"]
    assert sum(counts[split]["documents"] for split in SPLITS) == 36
    data.save(tmp_path / "bundle")
    works = json.loads((tmp_path / "bundle" / "works.json").read_text())
    assert {work["name"] for work in works} == {f"package_{at}" for at in range(12)}
    assert all(work["characters"] > 0 for work in works)


def test_only_what_somebody_wrote_and_python_parses_is_read(tmp_path: Path) -> None:
    folder = packages(tmp_path, 1) / "package_0"
    (folder / "broken.py").write_text(module("broken") + "def (:\n")
    (folder / "wide.py").write_text(module("wide") + f"x = '{'y' * 300}'\n")
    (folder / "bytes.py").write_bytes(module("bytes").encode() + b"# \xff\xfe\n")
    (folder / "short.py").write_text("x = 1\n")
    (folder / "tests").mkdir()
    (folder / "tests" / "test_it.py").write_text(module("tested"))
    names = {str(document.meta["file"]) for document in read(str(tmp_path))}
    assert names == {f"module_{file}.py" for file in range(3)}


def test_the_environment_names_packages_with_licences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(python_sources, "MOST_OF_ONE", 3_000)
    works = {document.work for document in read(ENVIRONMENT)}
    by_name = {work.name: work for work in works if work is not None}
    assert by_name["Python"].licence == "PSF-2.0"
    assert "BSD" in by_name["numpy"].licence and by_name["numpy"].version


def test_the_content_of_a_folder_is_its_identity(tmp_path: Path) -> None:
    folder = packages(tmp_path / "sources", 2)
    first = read.identity(str(folder), tmp_path)
    assert read.identity(str(folder), tmp_path) == first
    (folder / "package_0" / "module_0.py").write_text(module("other"))
    assert read.identity(str(folder), tmp_path) != first


def test_a_folder_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no Python files"):
        list(read(str(tmp_path)))
    with pytest.raises(NotFound, match="nowhere"):
        list(read(str(tmp_path / "nowhere")))
