"""Pairs read from the files of packs: what is taken, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path

from miaobi.data.labelled.loaders.pairs import (
    cedict,
    django_locale,
    docstring_summaries,
    mismatched_answers,
)

PO = r"""# Translators
msgid ""
msgstr ""
"Language: zh_CN\n"

msgid "Save"
msgstr "保存"

#, python-format
msgid ""
"Are you sure you want to delete "
"\"%(name)s\"?"
msgstr "确定要删除“%(name)s”吗？"

#, fuzzy
msgid "Unsure"
msgstr "不确定"

#, python-format
msgid "%(n)d day"
msgid_plural "%(n)d days"
msgstr[0] "%(n)d 天"

msgid "N"
msgstr ""

msgid "SRID"
msgstr "SRID"

#~ msgid "Gone"
#~ msgstr "没有了"
"""


def written(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def test_translations_of_an_interface(tmp_path: Path) -> None:
    written(tmp_path, "django/a/locale/zh_Hans/LC_MESSAGES/django.po", PO)
    written(
        tmp_path,
        "django/b/locale/zh_Hans/LC_MESSAGES/django.po",
        'msgid "Save"\nmsgstr "保存"\n',
    )
    assert [dict(document.meta) for document in django_locale(tmp_path)] == [
        {"zh": "保存", "en": "Save"},
        {
            "zh": "确定要删除“%(name)s”吗？",
            "en": 'Are you sure you want to delete "%(name)s"?',
        },
        {"zh": "%(n)d 天", "en": "%(n)d days"},
    ]


def test_a_dictionary(tmp_path: Path) -> None:
    entries = [
        ["茶", "茶", "cha2", ["tea", "tea plant"], [], []],
        ["臺", "台", "tai2", "variant of 台[tai2]", [], []],
        ["空", "空", "kong1", [], [], []],
        ["王", "王", "Wang2", "surname Wang", [], []],
        ["老", "老", "lao3", "(coll.) old man", [], []],
    ]
    written(
        tmp_path,
        "package/data/all.js",
        f"export default {json.dumps({'all': entries}, ensure_ascii=False)};\n",
    )
    assert [
        (document.meta["zh"], document.meta["en"]) for document in cedict(tmp_path)
    ] == [("茶", "tea"), ("老", "(coll.) old man")]


def test_descriptions_with_their_summary(tmp_path: Path) -> None:
    prose = (
        "Two pure quaternions are called parallel when their vector product is "
        "commutative,\n    which implies the same direction."
    )
    written(
        tmp_path,
        "sympy/a.py",
        f'''
def parallel():
    """Returns True if two pure quaternions are parallel.

    Explanation
    ===========

    {prose}

    Examples
    ========

    >>> 1
    """

class Short:
    """A class that says little.

    Too short.
    """
''',
    )
    written(
        tmp_path,
        "sympy/tests/test_a.py",
        f'def other():\n    """A function that tests what it tests.\n\n    {prose}\n    """\n',
    )
    assert [dict(document.meta) for document in docstring_summaries(tmp_path)] == [
        {
            "name": "parallel",
            "summary": "Returns True if two pure quaternions are parallel.",
            "text": " ".join(prose.split()),
        }
    ]


def test_answers_to_other_questions(tmp_path: Path) -> None:
    written(
        tmp_path,
        "chatterbot_corpus/data/english/ai.yml",
        json.dumps(
            {
                "conversations": [
                    ["What is AI?", "A field."],
                    ["what is ai?", "Again."],
                    ["Who are you?", "A bot."],
                    ["Are you real?", "a BOT."],
                    ["Alone"],
                ]
            }
        ),
    )
    pairs = [dict(document.meta) for document in mismatched_answers(tmp_path)]
    assert [(pair["prompt"], pair["chosen"]) for pair in pairs] == [
        ("What is AI?", "A field."),
        ("Who are you?", "A bot."),
        ("Are you real?", "a BOT."),
    ]
    assert [pair["rejected"] for pair in pairs[1:]] == [
        "A field.",
        "A field.",
    ] and pairs[0]["rejected"] in ("A bot.", "a BOT.")
    assert pairs == [dict(document.meta) for document in mismatched_answers(tmp_path)]
