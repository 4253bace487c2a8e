"""Inspect data before training on it, and fetch the starter packs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaobi.core import storage
from miaobi.core.errors import BadInput, NotFound, nearest
from miaobi.core.files import write_beside
from miaobi.core.language import in_each, say, spoken
from miaobi.data import datasets, packs
from miaobi.data.audio.sample import sounds
from miaobi.data.encoding import encoding_option
from miaobi.data.survey import Survey
from miaobi.data.text.sample import files as text_files

if TYPE_CHECKING:
    from miaobi.data.dataset import DatasetModule


@dataclass(frozen=True)
class Catalogue:
    """The starter packs."""

    packs: tuple[Mapping[str, Any], ...]

    def __str__(self) -> str:
        lines = list[str]()
        for row in self.packs:
            state = say("here", "已有")
            if not row["path"]:
                state = f"{row['megabytes']:.1f} MB, {row['client']}"
            lines.append(
                f"{row['name']:<18} {row['kind']:<6} {state:<14} {row['licence']}"
            )
            lines.append(f"{'':<18} {row['summary']}")
        remedy = say(
            "Fetch one with: miaobi data fetch NAME",
            "获取：miaobi data fetch 名称",
        )
        return "\n".join([*lines, "", remedy])


@dataclass(frozen=True)
class Fetched:
    """A starter pack that is here."""

    name: str
    path: Path
    licence: str
    credit: str

    def __str__(self) -> str:
        return say(
            f"{self.name} is at {self.path}\n  licence: {self.licence}\n  from:    {self.credit}",
            f"{self.name} 位于 {self.path}\n  许可：{self.licence}\n  来源：{self.credit}",
        )


@dataclass(frozen=True)
class Samples:
    """Sample files in a folder."""

    folder: Path
    files: tuple[str, ...]
    """Names of the files that were written; those that were there stay as they are."""
    with_pictures: bool

    def __str__(self) -> str:
        written = say(
            f"{len(self.files)} sample files written to {self.folder}",
            f"已在 {self.folder} 中写入 {len(self.files)} 个示例文件",
        )
        lines = [written]
        for name in sorted({Path(file).parts[0] for file in self.files}):
            lines.append(f"  {self.folder / name}")
        if not self.with_pictures:
            lines.append(
                say(
                    "Pictures need Pillow: pip install 'miaobi[images]'",
                    "图片需要 Pillow：pip install 'miaobi[images]'",
                )
            )
        return "\n".join(lines)


def list_packs() -> Catalogue:
    """List the starter packs: models and data that package clients fetch."""
    rows = list[Mapping[str, Any]]()
    for pack in packs.catalogue().values():
        is_here = packs.installed(pack.name)
        rows.append(
            {
                "name": pack.name,
                "kind": pack.kind,
                "summary": say(*pack.summary),
                "client": pack.client,
                "megabytes": pack.megabytes,
                "licence": spoken(pack.licence),
                "credit": pack.credit,
                "path": str(packs.path(pack.name, fetch=False)) if is_here else None,
            }
        )
    return Catalogue(tuple(rows))


def fetch(name: str) -> Fetched:
    """Fetch a starter pack, check it and unpack it under $MIAOBI_HOME/packs.

    A pack that is there already is not fetched again.

    Args:
        name: a name from `miaobi data list`
    """
    pack = packs.get(name)
    return Fetched(name, packs.path(name), spoken(pack.licence), pack.credit)


def sample(folder: str | Path = Path("samples")) -> Samples:
    """Write sample files to try the commands with: a text, chats, preferences, requests,
    recordings, photos in two classes, a drawing. All are computed; files that are there are left.

    Args:
        folder: where to write them
    """
    folder = Path(folder)
    written = list[str]()
    for name, content in text_files().items():
        path = folder / name
        if not path.exists():
            with write_beside(path) as draft:
                draft.write_text(content, encoding="utf-8")
            written.append(name)
    for name, sound in sounds():
        path = folder / name
        if not path.exists():
            with write_beside(path) as draft:
                draft.write_bytes(sound)
            written.append(name)
    with_pictures = find_spec("PIL") is not None
    if with_pictures:
        written += _write_pictures(folder)
    return Samples(folder, tuple(written), with_pictures)


FORMATS = {".jpg": "JPEG", ".png": "PNG"}


def _write_pictures(folder: Path) -> list[str]:
    from miaobi.data.image.sample import pictures

    written = list[str]()
    for name, picture in pictures():
        path = folder / name
        if path.exists():
            continue
        with write_beside(path) as draft:
            picture.save(draft, format=FORMATS[path.suffix])
        written.append(name)
    return written


def inspect(
    path: str | Path,
    *,
    strict: bool = False,
    text_column: str | None = None,
    separator: str | None = None,
    encoding: str | None = None,
) -> Survey:
    """Read text, pictures or recordings as training would, and report their content and problems.

    Args:
        path: plain text, JSONL, JSON, CSV or Parquet, each also gzip; pictures as files, Parquet, Arrow or IDX;
            sound files and tables of them; or a folder of these
        strict: stop with an error at the first problem
        text_column: the column or key that holds the text, or the caption
        separator: what separates the documents of a plain text file, such as \\n\\n
        encoding: of text that is not UTF-8, such as cp1252 or big5, where it cannot be told
    """
    path = storage.local(path)
    _check_exists(path)
    name, module = _holder(path)
    options = {
        "text_column": text_column,
        "separator": separator,
        "encoding": encoding,
    }
    applied = {key: value for key, value in options.items() if value is not None}
    for option in applied:
        if option not in signature(module.inspect).parameters:
            raise BadInput(
                say(
                    f"{option} does not apply to the data set {name}, which reads {path}.",
                    f"{option} 不适用于数据集 {name}，而 {path} 由它读取。",
                ),
                say(f"Leave {option} out.", f"请去掉 {option}。"),
            )
    with encoding_option("encoding"):
        return module.inspect(path, strict=strict, **applied)


def _check_exists(path: Path) -> None:
    if path.exists():
        return
    siblings = list[str]()
    if path.parent.is_dir():
        siblings = [item.name for item in path.parent.iterdir()]
    raise NotFound(
        say(f"There is no file or folder {path}.", f"{path} 不存在。"),
        nearest(path.name, siblings) or say("Check the path.", "请检查路径。"),
    )


def _holder(path: Path) -> tuple[str, DatasetModule]:
    """Return the name and the module of the first data set that holds `path`.

    Those of other packages are asked first, since each knows one thing; then the
    built-in ones, from special to general.
    """
    names = [*datasets.added(), *datasets.built_in()]
    modules = {name: datasets.get(name) for name in names}
    for name, module in modules.items():
        if module.holds(path):
            return name, module
    contents = "\n".join(
        f"  {say(*module.CONTENT)} ({name})" for name, module in modules.items()
    )
    raise BadInput(
        say(
            f"{path} holds no data that a data set reads.",
            f"{path} 中没有任何数据集能读取的数据。",
        ),
        in_each(
            lambda: say(
                f"Give one of these:\n{contents}", f"请给出以下之一：\n{contents}"
            )
        ),
    )
