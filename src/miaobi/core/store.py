"""The store: every model by name and version under $MIAOBI_HOME/models, with aliases
that move atomically.

    models/poet/1/            a bundle (see core/bundle.py), never altered once written
    models/poet/2/
    models/poet/aliases.json  {"production": [1, 2]}   the last entry is in force, those before it are its history

"poet" means the production version if one was promoted, else the newest; "poet@2",
"poet@latest" and "poet@production" say it outright.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from miaobi.core import bundle
from miaobi.core.errors import BadInput, Conflict, NotFound, nearest
from miaobi.core.files import home, locked, write_beside, write_text
from miaobi.core.language import say

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Version:
    name: str
    number: int
    path: Path

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


class Store:
    def __init__(self, root: Path | None = None) -> None:
        self.root = root or home() / "models"

    def names(self) -> list[str]:
        return sorted(
            item.name
            for item in self.root.glob("*")
            if item.is_dir() and self.versions(item.name)
        )

    def versions(self, name: str) -> list[Version]:
        """Oldest first; empty for an unknown name."""
        numbers = sorted(
            int(item.name)
            for item in (self.root / name).glob("*")
            if item.name.isdigit()
        )
        return [
            Version(name, number, self.root / name / str(number)) for number in numbers
        ]

    def production(self, name: str) -> list[int]:
        """The versions that were promoted, in order; the last is in force."""
        path = self.root / name / "aliases.json"
        return (
            list(json.loads(path.read_text(encoding="utf-8"))["production"])
            if path.exists()
            else []
        )

    def resolve(self, reference: str) -> Version:
        """The version that "poet", "poet@2", "poet@latest" or "poet@production" means.
        Raises NotFound.
        """
        name, _, wanted = reference.partition("@")
        versions = self.versions(name) if NAME.fullmatch(name) else []
        if not versions:
            raise NotFound(
                say(
                    f"There is no model named {name!r} in the store.",
                    f"模型库中没有名为 {name!r} 的模型。",
                ),
                nearest(name, self.names()),
            )
        if wanted == "latest":
            return versions[-1]
        if wanted in ("", "production"):
            promoted = self.production(name)
            if not promoted and wanted:
                raise NotFound(
                    say(
                        f"No version of {name} was promoted yet.",
                        f"{name} 还没有设定正式版。",
                    ),
                    f"miaobi models promote {versions[-1]}",
                )
            return (
                next(item for item in versions if item.number == promoted[-1])
                if promoted
                else versions[-1]
            )
        found = [item for item in versions if str(item.number) == wanted]
        if not found:
            raise NotFound(
                say(
                    f"{name} has no version {wanted!r}.",
                    f"{name} 没有版本 {wanted!r}。",
                ),
                nearest(wanted, [str(item.number) for item in versions]),
            )
        return found[0]

    def add(self, source: Path, name: str) -> Version:
        """Copy a bundle in as the next version of `name`."""
        check_name(name)
        bundle.read(source)
        with self._locked(name):
            number = (
                max(
                    self._last_removed(name),
                    *(item.number for item in self.versions(name)),
                    0,
                )
                + 1
            )
            with write_beside(self.root / name / str(number)) as draft:
                shutil.copytree(source, draft)
            return Version(name, number, self.root / name / str(number))

    def promote(self, reference: str) -> Version:
        """Put a version into production."""
        version = self.resolve(reference if "@" in reference else f"{reference}@latest")
        with self._locked(version.name):
            history = self.production(version.name)
            if history[-1:] != [version.number]:
                self._write_production(version.name, [*history, version.number])
        return version

    def rollback(self, name: str) -> Version:
        """Back to the version that was in production before. Raises Conflict when there is none."""
        self.resolve(name)
        with self._locked(name):
            history = self.production(name)
            if len(history) < 2:
                raise Conflict(
                    say(
                        f"{name} has no earlier production version to go back to.",
                        f"{name} 没有更早的正式版可退回。",
                    ),
                    say(
                        f"Promote one: miaobi models promote {name}@N.",
                        f"请先设定：miaobi models promote {name}@N。",
                    ),
                )
            self._write_production(name, history[:-1])
        return self.resolve(f"{name}@production")

    def remove(self, reference: str) -> list[Version]:
        """Remove one version ("poet@1"), or all of a name ("poet"). Raises Conflict for
        the version in production.
        """
        name, _, wanted = reference.partition("@")
        gone = (
            [self.resolve(reference)]
            if wanted
            else self.versions(self.resolve(name).name)
        )
        with self._locked(name):
            history = self.production(name)
            if wanted and history[-1:] == [gone[0].number]:
                raise Conflict(
                    say(f"{gone[0]} is in production.", f"{gone[0]} 正在使用中。"),
                    say(
                        f"Promote another version first, or roll back: miaobi models rollback {name}.",
                        f"请先设定其他正式版，或退回：miaobi models rollback {name}。",
                    ),
                )
            for version in gone:
                # Renamed first: a version is there whole or not at all, even while its
                # files are going.
                trash = version.path.with_name(f".{version.number}.removed")
                version.path.rename(trash)
                shutil.rmtree(trash)
            (self.root / name / ".last").write_text(
                str(max(self._last_removed(name), *(item.number for item in gone)))
            )
            kept = [
                number
                for number in history
                if number not in {item.number for item in gone}
            ]
            if kept:
                self._write_production(
                    name,
                    [
                        item
                        for at, item in enumerate(kept)
                        if kept[at - 1 : at] != [item]
                    ],
                )
            else:
                (self.root / name / "aliases.json").unlink(missing_ok=True)
        return gone

    def _write_production(self, name: str, history: list[int]) -> None:
        write_text(
            self.root / name / "aliases.json", json.dumps({"production": history})
        )

    def _last_removed(self, name: str) -> int:
        """The highest number ever removed: numbers are never given twice."""
        path = self.root / name / ".last"
        return int(path.read_text()) if path.exists() else 0

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One writer at a time per name, across processes."""
        (self.root / name).mkdir(parents=True, exist_ok=True)
        with locked(self.root / name / ".lock"):
            yield


def check_name(name: str) -> str:
    """Raise BadInput unless `name` can name a model."""
    if not NAME.fullmatch(name):
        raise BadInput(
            say(f"{name!r} cannot name a model.", f"{name!r} 不能用作模型名。"),
            say(
                "Use lower-case letters, digits, '.', '_' and '-', at most 64.",
                "请使用小写字母、数字、'.'、'_' 和 '-'，最多 64 个字符。",
            ),
        )
    return name
