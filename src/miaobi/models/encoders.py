"""The encoders of texts that starter packs carry, each written once as a Transformers
folder under $MIAOBI_HOME/converted.

A name is that of the pack, `e5-small`; after a colon may stand the languages that its
vocabulary is pruned to, `e5-small:en+zh`. The folder's name has the hashes of the package
and of the code that converts it, so that another of either is converted anew.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from miaobi.core.engine import Weights
from miaobi.core.errors import BadInput
from miaobi.core.files import home, write_beside, write_text
from miaobi.core.language import say
from miaobi.data import packs
from miaobi.data.cache import locked_folder

FORMAT = "base"
"""The catalogue's name of such packs."""
CONVERTERS = {
    "e5-small": ("miaobi.models.e5",),
    "use-multilingual": (
        "miaobi.models.use",
        "miaobi.data.text.tokenizer.sentencepiece",
    ),
}
"""By pack, the module that converts it, and those that it converts with."""
RECORD = "converted.json"
"""In the folder: what it was made of."""


class Converter(Protocol):
    """A module that converts the main file or folder of a pack."""

    LANGUAGES: Sequence[str]
    """Those that its vocabulary may be pruned to."""

    def convert(self, source: Path, target: Path, languages: Sequence[str]) -> None:
        """Write the Transformers folder `target`, which is not there yet."""
        ...


class Name(NamedTuple):
    """The parts of an encoder's name."""

    pack: str
    languages: tuple[str, ...]
    """In order, each once; none for the whole vocabulary."""

    def __str__(self) -> str:
        return (
            f"{self.pack}:{'+'.join(self.languages)}" if self.languages else self.pack
        )


def parse(name: str) -> Name | None:
    """Return the parts of an encoder's name; None for any other name."""
    pack, colon, languages = name.partition(":")
    if pack not in CONVERTERS:
        return None
    if not colon:
        return Name(pack, ())
    return Name(pack, tuple(sorted(set(languages.split("+")))))


def weights_of(name: Name) -> Weights:
    """Return the weights of an encoder, whose pack is fetched. Raises BadInput for a
    language that its vocabulary cannot be pruned to.
    """
    _check(name)
    path = packs.path(name.pack)
    return Weights(FORMAT, str(path), str(name), "", str(name), "embedding")


def folder(name: Name) -> Path:
    """Return the Transformers folder of an encoder, converted on first use.

    Raises BadInput for a language that its vocabulary cannot be pruned to, and what
    `packs.path` raises.
    """
    _check(name)
    source = packs.path(name.pack)
    package = packs.get(name.pack).content
    converter = _converter_hash(name.pack)
    parts = [name.pack, package[:16], converter[:16], *name.languages]
    root = home() / "converted"
    root.mkdir(parents=True, exist_ok=True)
    with locked_folder(root, "-".join(parts)) as target:
        if target.exists():
            return target
        print(
            say(f"Unpacking {name}, once ...", f"正在解包 {name}（仅此一次）..."),
            file=sys.stderr,
        )
        record = {
            "pack": name.pack,
            "package": package,
            "converter": converter,
            "languages": name.languages,
        }
        with write_beside(target) as draft:
            draft.mkdir()
            _module(name.pack).convert(source, draft, name.languages)
            write_text(draft / RECORD, json.dumps(record, indent=1))
    return target


def _module(pack: str) -> Converter:
    return cast(Converter, import_module(CONVERTERS[pack][0]))


def _converter_hash(pack: str) -> str:
    """Return the SHA-256 of the code that converts a pack."""
    digest = hashlib.sha256()
    for module in CONVERTERS[pack]:
        spec = find_spec(module)
        assert spec is not None and spec.origin is not None
        digest.update(Path(spec.origin).read_bytes())
    return digest.hexdigest()


def _check(name: Name) -> None:
    """Raise BadInput for a language that the vocabulary cannot be pruned to."""
    if not name.languages:
        return
    possible = _module(name.pack).LANGUAGES
    unknown = [language for language in name.languages if language not in possible]
    if not unknown:
        return
    if not possible:
        raise BadInput(
            say(
                f"{name.pack} has one vocabulary for all languages.",
                f"{name.pack} 的词表不能按语言精简。",
            ),
            say(f"Name it {name.pack}.", f"请写 {name.pack}。"),
        )
    raise BadInput(
        say(
            f"{name.pack} cannot be pruned to the language {unknown[0]!r}.",
            f"{name.pack} 的词表无法按语言 {unknown[0]!r} 精简。",
        ),
        say(
            f"One or several of {', '.join(possible)}, as in {name.pack}:en+zh.",
            f"可选一种或多种：{'、'.join(possible)}，例如 {name.pack}:en+zh。",
        ),
    )
