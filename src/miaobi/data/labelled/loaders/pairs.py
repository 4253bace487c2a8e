"""Pairs of texts made from the files of starter packs: translations, summaries, better
and worse answers.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from miaobi.data.text.documents import Document

HEADING = re.compile(r"^.+\n[=-]{4,}\s*$", re.M)
SHORTEST, LONGEST = 80, 600
"""Characters of a description that is summarised."""
DOCTEST = ">>>"


def django_locale(folder: Path) -> Iterator[Document]:
    """Sentences of Django's interface in English and simplified Chinese, as its
    translators wrote them; unsure ones are left out, of plural forms the plural is
    taken, and what stands there twice comes once.
    """
    met = set[tuple[str, str]]()
    for file in sorted(folder.rglob("zh_Hans/LC_MESSAGES/*.po")):
        for entry in _entries(file.read_text(encoding="utf-8")):
            english, chinese = (
                entry.get("msgid_plural", entry["msgid"]).strip(),
                entry.get("msgstr", entry.get("msgstr[0]", "")).strip(),
            )
            if (
                english
                and chinese
                and english != chinese
                and (english, chinese) not in met
            ):
                met.add((english, chinese))
                yield Document(
                    f"{chinese}\n{english}", meta={"zh": chinese, "en": english}
                )


def _entries(text: str) -> Iterator[dict[str, str]]:
    """The entries of a gettext catalogue by keyword, without those marked fuzzy (GNU
    gettext manual, The Format of PO Files).
    """
    for block in re.split(r"\n\s*\n", text):
        entry, key = dict[str, str](), ""
        if re.search(r"^#,.*\bfuzzy\b", block, re.M):
            continue
        for line in block.splitlines():
            if line.startswith('"'):
                entry[key] += ast.literal_eval(line)
            elif line.startswith("msg"):
                key, _, written = line.partition(" ")
                entry[key] = ast.literal_eval(written)
        if "msgid" in entry:
            yield entry


def cedict(folder: Path) -> Iterator[Document]:
    """Words and phrases of CC-CEDICT, simplified, with the first meaning of each;
    remarks in brackets stay, references to other entries (variant of, see) are left
    out.
    """
    text = (folder / "package/data/all.js").read_text(encoding="utf-8")
    for _, word, pinyin, meanings, *_ in json.loads(
        text[text.index("{") : text.rindex("}") + 1]
    )["all"]:
        meaning = meanings if isinstance(meanings, str) else next(iter(meanings), "")
        if (
            meaning
            and not re.match(
                r"(?:\(?\w+\)? )?(?:variant of|see|used in|abbr\. for) |surname ",
                meaning,
            )
            and "|" not in meaning
        ):
            yield Document(
                f"{word}\n{meaning}", meta={"zh": word, "en": meaning, "pinyin": pinyin}
            )


def docstring_summaries(folder: Path) -> Iterator[Document]:
    """What a function's or class's documentation explains, in prose, and the one line
    its author put above it.
    """
    met = set[str]()
    for file in sorted(
        file for file in folder.rglob("*.py") if "tests" not in file.parts
    ):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            summary, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
            text = _prose(rest)
            if (
                "\n" not in summary
                and 20 <= len(summary) <= 120
                and text
                and text not in met
            ):
                met.add(text)
                yield Document(
                    f"{text}\n{summary}",
                    meta={"text": text, "summary": summary, "name": node.name},
                )


def _prose(rest: str) -> str:
    """The paragraphs before the first heading, or of the section Explanation; cut
    between paragraphs to at most LONGEST characters.
    """
    rest = re.sub(r"\AExplanation\n=+\n", "", rest.strip())
    kept = ""
    for paragraph in HEADING.split(rest)[0].split("\n\n"):
        flat = " ".join(paragraph.split())
        if DOCTEST in paragraph or len(kept) + len(flat) > LONGEST:
            break
        kept += f" {flat}"
    return kept.strip() if len(kept) > SHORTEST else ""


def mismatched_answers(folder: Path) -> Iterator[Document]:
    """Questions of the ChatterBot corpus in English: chosen is the answer that stands
    there, rejected the answer to another question of the same topic. No person compared
    the two: what is told apart is whether an answer belongs to its question.
    """
    import yaml

    met = set[str]()
    for file in sorted((folder / "chatterbot_corpus/data/english").glob("*.yml")):
        asked = dict[str, str]()
        for turns in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]:
            question, answer = (
                (" ".join(str(turn).split()) for turn in turns[:2])
                if len(turns) >= 2
                else ("", "")
            )
            if question and answer and question.casefold() not in met:
                met.add(question.casefold())
                asked[question] = answer
        for question, answer in asked.items():
            others = sorted(
                {
                    other
                    for other in asked.values()
                    if other.casefold() != answer.casefold()
                }
            )
            if others:
                drawn = int.from_bytes(
                    hashlib.blake2b(question.encode(), digest_size=8).digest(), "big"
                )
                rejected = others[drawn % len(others)]
                yield Document(
                    f"{question}\n{answer}\n{rejected}",
                    meta={
                        "prompt": question,
                        "chosen": answer,
                        "rejected": rejected,
                        "topic": file.stem,
                    },
                )
