"""The store: every model by name and version under $MIAOBI_HOME/models (or
$MIAOBI_STORAGE/models, which may be a URL), with aliases that move atomically.

    models/poet/1/            a bundle (see core/bundle.py), never altered once written
    models/poet/2/
    models/poet/aliases.json  {"production": [1, 2]}   the last entry is in force, those before it are its history
    models/poet/2.scores.json its scores with their intervals, by the newest evaluation

"poet" means the production version if one was promoted, else the newest; "poet@2",
"poet@latest" and "poet@production" say it outright.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from miaobi.core import bundle, storage
from miaobi.core.errors import BadInput, Conflict, NotFound, nearest
from miaobi.core.language import say
from miaobi.core.storage import Location

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Version:
    """One version of a model: a bundle of the store."""

    name: str
    number: int
    location: Location

    @property
    def path(self) -> Path:
        """The bundle's folder on this machine; from a URL it is fetched once."""
        return storage.local(self.location)

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


class Store:
    """The models under `root`."""

    def __init__(self, root: Location | None = None) -> None:
        self.root = root or storage.root() / "models"

    def names(self) -> list[str]:
        return [name for name in storage.names(self.root) if self.versions(name)]

    def versions(self, name: str) -> list[Version]:
        """Return the versions of a model, oldest first; none for an unknown name."""
        entries = storage.names(self.root / name)
        numbers = sorted(int(entry) for entry in entries if entry.isdigit())
        versions = [self._version(name, number) for number in numbers]
        return [item for item in versions if storage.is_complete(item.location)]

    def state(self, name: str) -> Any:
        """Return what changes with the versions and aliases of a name; None for an
        unknown one.
        """
        folder = self.root / name
        if isinstance(folder, Path):
            return folder.stat().st_mtime_ns if folder.exists() else None
        versions = [version.number for version in self.versions(name)]
        return (versions, self.production(name)) if versions else None

    def _version(self, name: str, number: int) -> Version:
        return Version(name, number, self.root / name / str(number))

    def production(self, name: str) -> list[int]:
        """Return the numbers that were promoted, in order; the last is in force."""
        try:
            content = storage.read(self.root / name / "aliases.json")
        except FileNotFoundError:
            return []
        return list(json.loads(content)["production"])

    def resolve(self, reference: str) -> Version:
        """Return the version that "poet", "poet@2", "poet@latest" or "poet@production"
        means. Raises NotFound.
        """
        name, _, selector = reference.partition("@")
        versions = self.versions(name) if NAME.fullmatch(name) else []
        if not versions:
            raise NotFound(
                say(
                    f"There is no model named {name!r} in the store.",
                    f"模型库中没有名为 {name!r} 的模型。",
                ),
                nearest(name, self.names()),
            )
        by_number = {str(version.number): version for version in versions}
        if selector in ("", "production"):
            promoted = self.production(name)
            if promoted:
                return by_number[str(promoted[-1])]
            if selector == "production":
                raise NotFound(
                    say(
                        f"No version of {name} was promoted yet.",
                        f"{name} 还没有设定正式版。",
                    ),
                    f"miaobi models promote {versions[-1]}",
                )
        if selector in ("", "latest"):
            return versions[-1]
        if selector not in by_number:
            raise NotFound(
                say(
                    f"{name} has no version {selector!r}.",
                    f"{name} 没有版本 {selector!r}。",
                ),
                nearest(selector, by_number),
            )
        return by_number[selector]

    def add(self, source: Path, name: str) -> Version:
        """Copy a bundle in as the next version of `name`."""
        check_name(name)
        bundle.read(source)
        with self._locked(name):
            numbers = [version.number for version in self.versions(name)]
            number = max(self._last_removed(name), 0, *numbers) + 1
            version = self._version(name, number)
            if isinstance(version.location, Path):
                storage.copy_tree(source, version.location)
                return version
            # An upload takes long: others may write meanwhile, under later numbers.
            self._write_last(name, number)
        storage.copy_tree(source, version.location)
        return version

    def promote(self, reference: str) -> Version:
        """Put a version into production."""
        version = self.resolve(reference if "@" in reference else f"{reference}@latest")
        with self._locked(version.name):
            history = self.production(version.name)
            if history[-1:] != [version.number]:
                self._write_production(version.name, [*history, version.number])
        return version

    def rollback(self, name: str) -> Version:
        """Put the version into production that was there before.

        Raises Conflict when there is none.
        """
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
        name, _, selector = reference.partition("@")
        version = self.resolve(reference)
        versions = [version] if selector else self.versions(name)
        with self._locked(name):
            history = self.production(name)
            if selector and history[-1:] == [versions[0].number]:
                raise Conflict(
                    say(
                        f"{versions[0]} is in production.",
                        f"{versions[0]} 正在使用中。",
                    ),
                    say(
                        f"Promote another version first, or roll back: miaobi models rollback {name}.",
                        f"请先设定其他正式版，或退回：miaobi models rollback {name}。",
                    ),
                )
            for version in versions:
                storage.delete(version.location)
                storage.delete(self._scores(version))
            numbers = {version.number for version in versions}
            self._write_last(name, max(self._last_removed(name), *numbers))
            self._write_production(
                name, [number for number in history if number not in numbers]
            )
        return versions

    def scores(self, version: Version) -> list[dict[str, Any]]:
        """Return a version's scores, as they were recorded; none where it was not
        evaluated.
        """
        try:
            return list(json.loads(storage.read(self._scores(version))))
        except FileNotFoundError:
            return []

    def record_scores(
        self, version: Version, scores: Sequence[Mapping[str, Any]]
    ) -> None:
        """Store what an evaluation of a version came to; scores of the same name are
        replaced.
        """
        with self._locked(version.name):
            named = {row["name"]: dict(row) for row in (*self.scores(version), *scores)}
            content = json.dumps(list(named.values()), ensure_ascii=False)
            storage.write(self._scores(version), content.encode())

    def _scores(self, version: Version) -> Location:
        return self.root / version.name / f"{version.number}.scores.json"

    def _write_production(self, name: str, history: list[int]) -> None:
        """Write the promoted numbers, each run of equal ones as one; none: no file."""
        path = self.root / name / "aliases.json"
        distinct = [number for number, _ in groupby(history)]
        if distinct:
            storage.write(path, json.dumps({"production": distinct}).encode())
        else:
            storage.delete(path)

    def _last_removed(self, name: str) -> int:
        """The highest number ever removed (at a URL: ever taken): numbers are never
        used twice.
        """
        try:
            return int(storage.read(self.root / name / ".last"))
        except FileNotFoundError:
            return 0

    def _write_last(self, name: str, number: int) -> None:
        storage.write(self.root / name / ".last", str(number).encode())

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One writer at a time per name, across processes."""
        folder = self.root / name
        if isinstance(folder, Path):
            folder.mkdir(parents=True, exist_ok=True)
        with storage.locked(folder / ".lock"):
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
