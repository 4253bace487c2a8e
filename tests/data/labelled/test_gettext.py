"""Catalogues of gettext: text and binary say the same, whatever their encoding, and
what is broken is named.
"""

from __future__ import annotations

import gettext as standard
import struct
from pathlib import Path

import pytest

from miaobi.core.errors import BadInput, Damaged, NotFound
from miaobi.data.labelled import ReadOptions, gettext
from miaobi.data.text import pairs

PO = r"""# 译者
msgid ""
msgstr ""
"Language: zh_CN\n"
"Content-Type: text/plain; charset=UTF-8\n"

#: menu.c:3
msgid "_Open"
msgstr "打开(_O)"

msgctxt "Script"
msgid "Arabic"
msgstr "阿拉伯文"

#, fuzzy
msgid "Unsure"
msgstr "不确定"

msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d 个文件"

msgid ""
"two\n"
"\"lines\""
msgstr "两行"

msgid "file_name"
msgstr "文件名 file_name 无效"

msgid "untranslated"
msgstr ""

msgid "OK"
msgstr "OK"

#~ msgid "obsolete"
#~ msgstr "过时"
"""
EXPECTED = [
    ("Open", "打开"),
    ("Arabic", "阿拉伯文"),
    ("%d files", "%d 个文件"),
    ('two\n"lines"', "两行"),
    ("file_name", "文件名 file_name 无效"),
]


def mo(entries: dict[str, str], charset: str = "utf-8", order: str = "<") -> bytes:
    """A .mo file, by the manual."""
    header = f"Content-Type: text/plain; charset={charset}\n"
    rows = sorted({"": header, **entries}.items())
    originals = [key.encode(charset) for key, _ in rows]
    translations = [value.encode(charset) for _, value in rows]
    count = len(rows)
    at = 28 + 16 * count
    tables, data = b"", b""
    for texts in (originals, translations):
        for text in texts:
            tables += struct.pack(f"{order}2I", len(text), at + len(data))
            data += text + b"\0"
    head = struct.pack(f"{order}7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, 0)
    return head + tables + data


def read(path: Path) -> list[tuple[str, str]]:
    records = [record for _, record in gettext.read(str(path), "")]
    assert all(set(record) == {"en", "zh", "package"} for record in records)
    return [(record["en"], record["zh"]) for record in records]


def test_text_catalogues(tmp_path: Path) -> None:
    path = tmp_path / "po" / "program.po"
    path.parent.mkdir()
    path.write_text(PO, encoding="utf-8")
    assert read(path) == EXPECTED
    locations = [location for location, _ in gettext.read(str(path), "")]
    assert locations[0] == f"{path}:8"


@pytest.mark.parametrize("charset", ["utf-8", "gb18030"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_binary_catalogues(tmp_path: Path, charset: str, order: str) -> None:
    folder = tmp_path / "zh_CN" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    entries = {
        "_Open": "打开(_O)",
        "Script\x04Arabic": "阿拉伯文",
        "%d file\0%d files": "%d 个文件",
    }
    path = folder / "program.mo"
    path.write_bytes(mo(entries, charset, order))
    with path.open("rb") as file:
        theirs = standard.GNUTranslations(file)
    assert theirs.gettext("_Open") == "打开(_O)"
    assert sorted(read(tmp_path)) == sorted(EXPECTED[:3])


@pytest.mark.parametrize(
    ("file", "language"),
    [
        ("zh_CN/LC_MESSAGES/a.mo", "zh"),
        ("zh_Hans/LC_MESSAGES/django.po", "zh"),
        ("zh_TW/LC_MESSAGES/a.mo", "zh-hant"),
        ("pt_BR/LC_MESSAGES/a.mo", "pt"),
        ("sr@latin/LC_MESSAGES/a.mo", "sr"),
        ("po/fr.po", "fr"),
        ("po/zh_HK.po", "zh-hant"),
    ],
)
def test_languages(tmp_path: Path, file: str, language: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text('msgid "a"\nmsgstr "b"\n', encoding="utf-8")
    assert gettext.language_of(path) == language


def test_accelerators_go_and_names_stay() -> None:
    def without(original: str, translation: str) -> tuple[str, str]:
        return gettext.without_accelerators(gettext.Message(1, original, translation))

    assert without("Save _As…", "另存为(_A)…") == ("Save As…", "另存为…")
    assert without("_Quitter", "_Quit") == ("Quitter", "Quit")
    assert without("E&xit", "退出 (&X)") == ("Exit", "退出")
    assert without("Save ~As", "另存为(~A)") == ("Save As", "另存为")
    assert without("_Open File", "打开文件") == ("Open File", "打开文件")
    assert without("a_b", "甲") == ("a_b", "甲")
    assert without("_name", "名称") == ("_name", "名称")


def test_broken_lines_are_named_or_left_out(tmp_path: Path) -> None:
    path = tmp_path / "zh.po"
    path.write_text('msgid "a"\nmsgstr "甲"\n\noops\n\nmsgid "b"\nmsgstr "乙"\n')
    with pytest.raises(BadInput, match=r"zh.po:4.*oops"):
        list(gettext.read(str(path), ""))
    problems: list[str] = []
    options = ReadOptions(report=lambda problem: problems.append(str(problem)))
    assert len(list(gettext.read(str(path), "", options))) == 2
    assert len(problems) == 1


@pytest.mark.parametrize("keep", [3, 40, 90])
def test_files_cut_short(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "zh.mo"
    path.write_bytes(mo({"Open": "打开"})[:keep])
    with pytest.raises(Damaged, match="not a whole catalogue"):
        list(gettext.read(str(path), ""))


def test_no_catalogue(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no .po or .mo"):
        list(gettext.read(str(tmp_path), ""))


def test_a_folder_of_catalogues_is_inspected_and_trained_on(tmp_path: Path) -> None:
    folder = tmp_path / "locale"
    for language, word in (("zh_CN", "打开"), ("fr", "Ouvrir")):
        (folder / language / "LC_MESSAGES").mkdir(parents=True)
        file = folder / language / "LC_MESSAGES" / "program.mo"
        file.write_bytes(mo({"Open": word, "Files": f"{word} 2"}))
    assert pairs.holds(folder)
    assert not pairs.holds(tmp_path / "locale" / "none.txt")
    survey = pairs.inspect(folder)
    assert dict(survey.languages) == {"en": 4, "fr": 2, "zh": 2}
    assert "Open" in str(survey)
    config = pairs.Config(
        path=str(folder),
        languages=["zh", "en", "fr"],
        group="package",
        vocab_size=300,
        validation=0.0,
        test=0.0,
    )
    data = pairs.prepare(config, cache=tmp_path / "cache", progress=False)
    assert (">>fr<<Open", "Ouvrir") in list(data.texts("train"))
