"""The `gettext` reader: catalogues of translated messages, as programs ship them.

A .po file is text for translators, a .mo file what programs read (GNU gettext manual,
sections "The Format of PO Files" and "The Format of GNU MO Files"). Each message is a
record of its text by language, with the package that it belongs to:

    {"en": "Open file", "zh": "打开文件", "package": "gedit-common"}
"""

from __future__ import annotations

import ast
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from miaobi.core import storage
from miaobi.core.errors import BadInput, Damaged, NotFound
from miaobi.core.language import say
from miaobi.data.encoding import Problem, Report
from miaobi.data.labelled import STRICT, ReadOptions

ENDINGS = (".po", ".mo")
ORIGINAL = "en"
"""The language that programs are written in."""
LITTLE, BIG = b"\xde\x12\x04\x95", b"\x95\x04\x12\xde"
"""How a .mo file begins, by the order of its bytes."""
CHARSET = re.compile(r"charset=([\w-]+)")
LANGUAGE = re.compile(r"^Language: *([\w@-]+)", re.M)
KEYWORD = re.compile(r'(msgctxt|msgid_plural|msgid|msgstr(?:\[\d+\])?)\s*(".*)')
CONTEXT_END = "\x04"
ACCELERATORS = "_&~"
"""Marks of the letter that a menu's entry is called by: GTK's, Qt's, LibreOffice's."""
TRADITIONAL = {"tw", "hk", "mo", "hant"}


class Message(NamedTuple):
    """One message of a catalogue."""

    line: int
    """From 1; its number in a .mo file."""
    original: str
    translation: str


def read(
    path: str, pack: str, options: ReadOptions = STRICT
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield (location, record) of the catalogues at `path`, a file or a folder.

    Raises NotFound, Damaged; BadInput for a pack, whose loader reads it.
    """
    if pack:
        raise BadInput(
            say(
                f"The gettext reader reads a path, not the pack {pack}.",
                f"gettext 读取器读取路径，而不是资源包 {pack}。",
            ),
            say("Leave data.source out.", "请去掉 data.source。"),
        )
    folder = storage.local(path)
    for file in catalogues(folder):
        language = language_of(file)
        for message in messages(file, options.report):
            original, translation = without_accelerators(message)
            record = {
                ORIGINAL: original,
                language: translation,
                "package": file.stem,
            }
            yield f"{file}:{message.line}", record


def catalogues(path: Path) -> list[Path]:
    """Return the catalogues at a path. Raises NotFound where there is none."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = [file for file in files if file.suffix in ENDINGS and file.is_file()]
    if not found:
        raise NotFound(
            say(
                f"There is no .po or .mo file at {path}.",
                f"{path} 处没有 .po 或 .mo 文件。",
            ),
            say(
                "Give a catalogue of gettext, or a folder of them.",
                "请给出 gettext 目录文件，或含有它们的文件夹。",
            ),
        )
    return found


def messages(file: Path, report: Report) -> Iterator[Message]:
    """Yield the translated messages of a catalogue, without those marked fuzzy.

    Of a message in several numbers the plural is taken. Left out is what says the same
    in both languages. Raises Damaged.
    """
    read_messages = _read_mo if file.suffix == ".mo" else _read_po
    for message in read_messages(file, report):
        original = message.original.rpartition(CONTEXT_END)[2].strip()
        translation = message.translation.strip()
        if original and translation and original != translation:
            yield Message(message.line, original, translation)


def language_of(file: Path) -> str:
    """Return the language of a catalogue: "zh", "zh-hant", "fr".

    By the folder above LC_MESSAGES (zh_CN/LC_MESSAGES/gedit.mo), or else by its header,
    or else by its name (po/zh_CN.po).
    """
    name = file.stem
    if file.parent.name == "LC_MESSAGES":
        name = file.parent.parent.name
    elif file.suffix == ".po":
        head = file.read_bytes()[:4000].decode("latin-1").replace("\\n", "\n")
        header = LANGUAGE.search(head.replace('"', ""))
        name = header[1] if header else name
    language, *rest = re.split(r"[_@.-]", name.lower())
    is_traditional = language == "zh" and TRADITIONAL & set(rest)
    return "zh-hant" if is_traditional else language


def without_accelerators(message: Message) -> tuple[str, str]:
    """Return original and translation without the mark of a letter that calls them.

    "_Open" and "打开(_O)" are "Open" and "打开", and so is "_Open" where the translation
    has no mark; file_name and _name stay.
    """
    original, translation = message.original, message.translation
    for mark in ACCELERATORS:
        bracket = re.compile(rf"\s?\({mark}\w\)")
        letter = re.compile(rf"{mark}(?=\w)")
        begins_word = re.compile(rf"(?<!\w){mark}(?=\w)")
        before_capital = re.compile(rf"(?<!\w){mark}(?=[A-Z])")
        in_translation = bracket.search(translation) or (
            begins_word.search(original) and translation.count(mark) == 1
        )
        calls = in_translation or before_capital.search(original)
        if original.count(mark) == 1 and calls:
            original = letter.sub("", original)
            translation = letter.sub("", bracket.sub("", translation))
    return original, translation


@dataclass
class _Entry:
    """A message of a .po file while it is read."""

    line: int
    parts: dict[str, str] = field(default_factory=dict)
    """Text by keyword."""
    fuzzy: bool = False

    def message(self) -> Message | None:
        if self.fuzzy or "msgid" not in self.parts:
            return None
        original = self.parts.get("msgid_plural", self.parts["msgid"])
        forms = [key for key in self.parts if key.startswith("msgstr")]
        translation = self.parts[max(forms)] if forms else ""
        return Message(self.line, original, translation)


def _read_po(file: Path, report: Report) -> Iterator[Message]:
    text = _decoded(file, file.read_bytes())
    entry = _Entry(1)
    keyword = ""
    fuzzy = False
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("#"):
            fuzzy = fuzzy or (line.startswith("#,") and "fuzzy" in line)
            continue
        match = KEYWORD.fullmatch(line)
        if match:
            keyword = match[1]
            line = match[2]
            begins = keyword in ("msgctxt", "msgid")
            if begins and any(key.startswith("msgstr") for key in entry.parts):
                if message := entry.message():
                    yield message
                entry = _Entry(number)
            if begins:
                entry.fuzzy = entry.fuzzy or fuzzy
                fuzzy = False
        if not line:
            continue
        try:
            part = str(ast.literal_eval(line))
        except (SyntaxError, ValueError):
            report(_broken(file, number, line))
            continue
        entry.parts[keyword] = entry.parts.get(keyword, "") + part
    if message := entry.message():
        yield message


def _broken(file: Path, number: int, line: str) -> Problem:
    return Problem(
        file,
        number,
        say(f"not a line of a catalogue: {line!r}.", f"不是目录文件的一行：{line!r}。"),
        say(
            'Write msgid "..." and msgstr "..."; msgfmt --check names what else is wrong.',
            '请写成 msgid "..." 与 msgstr "..."；msgfmt --check 可指出其他问题。',
        ),
    )


def _read_mo(file: Path, report: Report) -> Iterator[Message]:
    content = file.read_bytes()
    order = {LITTLE: "<", BIG: ">"}.get(content[:4])
    if order is None:
        raise _damaged(file)
    try:
        _, count, originals, translations = struct.unpack(order + "4I", content[4:20])
        table = [
            struct.unpack_from(f"{order}{2 * count}I", content, offset)
            for offset in (originals, translations)
        ]
    except struct.error:
        raise _damaged(file) from None
    for number in range(count):
        original, translation = (
            _strings(file, content, offsets[2 * number : 2 * number + 2])
            for offsets in table
        )
        yield Message(number + 1, original[-1], translation[-1])


def _strings(file: Path, content: bytes, entry: tuple[int, ...]) -> list[str]:
    """The forms of one string of a .mo file: singular and plurals."""
    length, start = entry
    raw = content[start : start + length]
    if len(raw) != length:
        raise _damaged(file)
    return _decoded(file, raw, content).split("\0")


def _decoded(file: Path, raw: bytes, head: bytes | None = None) -> str:
    """Text in the character set that the catalogue's header names."""
    declared = CHARSET.search((head or raw).decode("latin-1"))
    try:
        return raw.decode(declared[1] if declared else "utf-8")
    except (LookupError, UnicodeDecodeError):
        raise _damaged(file) from None


def _damaged(file: Path) -> Damaged:
    return Damaged(
        say(
            f"{file} is not a whole catalogue of gettext.",
            f"{file} 不是完整的 gettext 目录文件。",
        ),
        say("Copy it again.", "请重新复制。"),
    )
