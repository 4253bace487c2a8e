"""What a person should know of the labels before a run: those that may be one, none or
several. They are learned as they are written; nobody but the person can say.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from unicodedata import normalize

from miaobi.core.language import say
from miaobi.data.survey import counted

NO_LABEL = frozenset(
    (
        *("n/a", "na", "nan", "none", "null", "nil", "unknown", "undefined"),
        *("missing", "tbd", "todo", "?", "??", "-", "--", "."),
        *("未知", "未标注", "不详", "无"),
    )
)
"""What people write for a label that they do not have, in small letters."""
SEPARATORS = re.compile(r"\s*[,;|/、，；]\s*")
LISTED = 10


def remarks(counts: Mapping[str, int]) -> list[str]:
    """Return a line for each doubt about the labels; `counts` has their examples."""
    lines = list[str]()
    alike = [" / ".join(map(repr, group)) for group in _alike(counts)]
    if alike:
        listed = ", ".join(alike[:LISTED])
        lines.append(
            say(
                f"labels that differ only in how they are written, and stay apart: {listed}. "
                "Write them alike if they are one.",
                f"仅写法不同、仍按不同标签处理：{listed}。若是同一标签，请统一写法。",
            )
        )
    absent = [label for label in counts if _form(label) in NO_LABEL]
    if absent:
        listed = _listed(absent, counts)
        lines.append(
            say(
                f"labels that may stand for none, and are learned: {listed}. "
                "Leave the label empty where there is none.",
                f"可能表示“无标签”、仍会被学习：{listed}。没有标签时请留空。",
            )
        )
    several = [label for label in counts if _is_several(label, counts)]
    if several:
        listed = _listed(several, counts)
        lines.append(
            say(
                f"labels that look like several, and are learned as one: {listed}. "
                "For several labels a text write a list, with --head.problem multi.",
                f"看起来包含多个标签、按一个标签学习：{listed}。"
                "一段文本有多个标签时请写成列表，并设 --head.problem multi。",
            )
        )
    single = [label for label, count in counts.items() if count == 1]
    if single and len(single) < len(counts):
        listed = _listed(single, counts)
        lines.append(
            say(
                f"labels with a single example to learn from: {listed}.",
                f"只有一个训练样本的标签：{listed}。",
            )
        )
    return lines


def _listed(labels: Iterable[str], counts: Mapping[str, int]) -> str:
    return counted({repr(label): counts[label] for label in labels}, LISTED)


def _form(label: str) -> str:
    """A label without what differs between ways to write it: case, width, separators."""
    return re.sub(r"[\s_-]+", " ", normalize("NFKC", label).casefold()).strip() or label


def _alike(labels: Iterable[str]) -> list[list[str]]:
    groups = defaultdict[str, list[str]](list)
    for label in labels:
        groups[_form(label)].append(label)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def _is_several(label: str, labels: Iterable[str]) -> bool:
    """Whether a label is made of others that stand alone elsewhere."""
    parts = SEPARATORS.split(label)
    return len(parts) > 1 and set(parts) <= set(labels)
