"""Pairs of texts made from the files of starter packs: translations, summaries, better
and worse answers.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from miaobi.data.encoding import raise_problem
from miaobi.data.labelled import gettext
from miaobi.data.text.documents import Document

HEADING = re.compile(r"^.+\n[=-]{4,}\s*$", re.M)
REFERENCE = re.compile(
    r"(?:\(?\w+\)? )?(?:variant of|see|used in|abbr\. for) |surname "
)
"""How a meaning begins that only refers to another entry."""
SHORTEST, LONGEST = 80, 600
"""Characters of a description that is summarised."""
SHORTEST_SUMMARY, LONGEST_SUMMARY = 20, 120
DOCTEST = ">>>"


def django_locale(folder: Path) -> Iterator[Document]:
    """Yield sentences of Django's interface in English and simplified Chinese, as its
    translators wrote them.

    Unsure ones are left out; of plural forms the plural is taken; repeated pairs come
    once.
    """
    seen = set[tuple[str, str]]()
    for file in sorted(folder.rglob("zh_Hans/LC_MESSAGES/*.po")):
        for message in gettext.messages(file, raise_problem):
            pair = message.original, message.translation
            if pair not in seen:
                seen.add(pair)
                english, chinese = pair
                meta = {"zh": chinese, "en": english}
                yield Document(f"{chinese}\n{english}", meta=meta)


def debian_translations(folder: Path) -> Iterator[Document]:
    """Yield messages of Debian's programs in English and a further language.

    Each names its package, whose copyright file lies beside the catalogues. Letters
    that call a menu's entry are taken out; repeated pairs of a package come once.
    """
    for package in sorted(folder.glob("**/usr")):
        copyright_file = next(package.glob("share/doc/*/copyright"))
        name = copyright_file.parent.name
        seen = set[tuple[str, str]]()
        for file in gettext.catalogues(package):
            language = gettext.language_of(file)
            for message in gettext.messages(file, raise_problem):
                pair = gettext.without_accelerators(message)
                if pair not in seen:
                    seen.add(pair)
                    english, other = pair
                    meta = {language: other, "en": english, "package": name}
                    yield Document(f"{other}\n{english}", meta=meta)


def cedict(folder: Path) -> Iterator[Document]:
    """Yield words and phrases of CC-CEDICT, simplified, with the first meaning of each.

    Remarks in brackets stay; references to other entries (variant of, see) are left out.
    """
    text = (folder / "package/data/all.js").read_text(encoding="utf-8")
    table = json.loads(text[text.index("{") : text.rindex("}") + 1])
    for _, word, pinyin, meanings, *_ in table["all"]:
        meaning = meanings if isinstance(meanings, str) else next(iter(meanings), "")
        if not meaning or "|" in meaning or REFERENCE.match(meaning):
            continue
        meta = {"zh": word, "en": meaning, "pinyin": pinyin}
        yield Document(f"{word}\n{meaning}", meta=meta)


def docstring_summaries(folder: Path) -> Iterator[Document]:
    """Yield what a function's or class's documentation explains, in prose, and the one
    line its author put above it.
    """
    seen = set[str]()
    files = [file for file in folder.rglob("*.py") if "tests" not in file.parts]
    for file in sorted(files):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            docstring = ast.get_docstring(node) or ""
            summary, _, rest = docstring.partition("\n\n")
            if not _is_summary(summary):
                continue
            text = _prose(rest)
            if text and text not in seen:
                seen.add(text)
                meta = {"text": text, "summary": summary, "name": node.name}
                yield Document(f"{text}\n{summary}", meta=meta)


def _is_summary(text: str) -> bool:
    return "\n" not in text and SHORTEST_SUMMARY <= len(text) <= LONGEST_SUMMARY


def _prose(rest: str) -> str:
    """The paragraphs before the first heading, or of the section Explanation; cut
    between paragraphs to at most LONGEST characters.
    """
    rest = re.sub(r"\AExplanation\n=+\n", "", rest.strip())
    prose = ""
    for paragraph in HEADING.split(rest)[0].split("\n\n"):
        flat = " ".join(paragraph.split())
        if DOCTEST in paragraph or len(prose) + len(flat) > LONGEST:
            break
        prose += f" {flat}"
    return prose.strip() if len(prose) > SHORTEST else ""


def mismatched_answers(folder: Path) -> Iterator[Document]:
    """Yield questions of the ChatterBot corpus in English: chosen is the answer there,
    rejected the answer to another question of the same topic.

    No person compared the two: what they distinguish is whether an answer belongs to
    its question.
    """
    seen = set[str]()
    for file in sorted((folder / "chatterbot_corpus/data/english").glob("*.yml")):
        answers = _answers(file, seen)
        for question, answer in answers.items():
            others = sorted(
                {
                    other
                    for other in answers.values()
                    if other.casefold() != answer.casefold()
                }
            )
            if not others:
                continue
            digest = hashlib.blake2b(question.encode(), digest_size=8).digest()
            rejected = others[int.from_bytes(digest, "big") % len(others)]
            yield Document(
                f"{question}\n{answer}\n{rejected}",
                meta={
                    "prompt": question,
                    "chosen": answer,
                    "rejected": rejected,
                    "topic": file.stem,
                },
            )


def _answers(file: Path, seen: set[str]) -> Mapping[str, str]:
    """The first answer to each question of a topic; `seen` collects the questions."""
    import yaml

    answers = dict[str, str]()
    corpus = yaml.safe_load(file.read_text(encoding="utf-8"))
    for turns in corpus["conversations"]:
        if len(turns) < 2:
            continue
        question, answer = (" ".join(str(turn).split()) for turn in turns[:2])
        if question and answer and question.casefold() not in seen:
            seen.add(question.casefold())
            answers[question] = answer
    return answers
