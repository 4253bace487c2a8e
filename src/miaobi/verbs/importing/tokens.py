"""New tokens of the vocabulary, as both programs name them.

Their special tokens are read wherever a text spells them, which here is
`tune.add_tokens`. Those of the form <|...|> are an exception: the messages of a chat
cannot spell them, only its template writes them (`tune.add_special_tokens`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from miaobi.core.config import read_yaml
from miaobi.core.errors import NotFound
from miaobi.core.language import joined, say
from miaobi.models.control_tokens import ControlTokens
from miaobi.verbs.importing.translation import Translation, located

SPECIAL = ("new_special_tokens_config", "add_special_tokens", "new_special_tokens")
"""Keys of special tokens; of several the first is used, as LLaMA-Factory does."""
TABLES = {"embed_tokens", "lm_head"}
"""Names of the tables whose rows tokens have, in `additional_target` and
`modules_to_save`.
"""


def take_tokens(translation: Translation, folder: Path) -> None:
    """Take the new tokens of a YAML file in `folder`.

    Raises NotFound for a file of tokens that is not there.
    """
    _take(translation, "add_tokens", _names(translation.get("add_tokens")))
    present = [key for key in SPECIAL if translation.get(key)]
    for key in present[:1]:
        _take(translation, key, _special(translation.get(key), folder))
    for key in present[1:]:
        translation.refuse(key, f"{present[0]} decides", f"以 {present[0]} 为准")
    if translation.get("init_special_tokens"):
        translation.refuse(
            "init_special_tokens",
            "new rows begin as the mean of all",
            "新词元的行以所有行的均值开始",
        )
    if translation.get("resize_vocab"):
        translation.note(
            "resize_vocab",
            "taken: the tables grow with the tokens",
            "已采用：词表随新词元扩大",
        )
    for key in ("additional_target", "modules_to_save"):
        names = _names(translation.get(key))
        if names and set(names) <= TABLES:
            translation.note(
                key,
                "taken for new tokens: their rows are trained, the others stay",
                "对新词元已采用：只训练其所在的行，其余不变",
            )


def _take(translation: Translation, key: str, tokens: list[str]) -> None:
    """Take tokens as those that texts spell, or as those that a template writes."""
    if not tokens:
        return
    control = ControlTokens.among(dict.fromkeys(tokens, False)).tokens
    if translation.recipe.get("task") == "causal":
        control = frozenset()
    spelled = [token for token in tokens if token not in control]
    written = [token for token in tokens if token in control]
    notes = list[str]()
    for name, values in (("add_tokens", spelled), ("add_special_tokens", written)):
        if not values:
            continue
        before = translation.recipe.get("tune", {}).get(name, [])
        translation.take(key, f"tune.{name}", [*dict.fromkeys([*before, *values])])
        notes.append(translation.notes[key])
    if written:
        notes.append(
            say(
                "the messages of a chat cannot spell these: rename those that your records hold",
                "对话消息中不会编码为词元；若记录中含有它们，请换一种写法",
            )
        )
    translation.notes[key] = joined(notes, "; ")


def _special(value: Any, folder: Path) -> list[str]:
    """Return the tokens of a list, of a text with commas, or of the files that it names."""
    tokens = list[str]()
    for name in _names(value):
        ending = Path(name).suffix
        if ending == ".txt":
            content = _file(name, folder).read_text(encoding="utf-8")
            tokens += filter(None, map(str.strip, content.splitlines()))
        elif ending in (".yaml", ".yml"):
            tokens += map(str, read_yaml(_file(name, folder)))
        else:
            tokens.append(name)
    return tokens


def _file(name: str, folder: Path) -> Path:
    path = located(name, folder)
    if path is None:
        raise NotFound(
            say(f"There is no file {name}.", f"没有文件 {name}。"),
            say("Mend its path, or write the tokens.", "请修正路径，或直接写出词元。"),
        )
    return path


def _names(value: Any) -> list[str]:
    """Return the names of a list, or of a text with commas between them."""
    parts: Iterable[Any] = value or ()
    if isinstance(value, str):
        parts = value.split(",")
    return [str(part).strip() for part in parts]
