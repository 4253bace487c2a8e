"""What was prepared, in one line before a training, and what a user should know of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from miaobi.core.language import in_each, joined, say
from miaobi.data.image.files import Range
from miaobi.data.image.first_pass import FirstPass
from miaobi.data.image.listing import readable

FEW = 50
"""With fewer distinct pictures a model learns them by heart."""
NOTICEABLE = 0.01
"""A smaller share that is cut off is not worth a word."""


def summary(source: str, meta: Mapping[str, Any]) -> list[str]:
    """Return what a preparation holds: a line of counts, remarks, and a warning where
    there are few distinct pictures.

    Args:
        source: path or pack
        meta: the manifest (`Pictures.meta`), of this version or an earlier one
    """
    splits = " / ".join(
        f"{name} {split['count']:,}" for name, split in meta["splits"].items()
    )
    problems = meta["problems"]["count"]
    used = sum(split["count"] for split in meta["splits"].values())
    classes = len(meta["classes"])
    copies = meta["duplicates"]
    count = meta.get("pictures", used)
    remarks = list(meta.get("remarks", []))
    if meta["left_out_of_train"]:
        remarks.append(
            say(
                f"left out of training, since they look like held-out ones: {meta['left_out_of_train']:,}",
                f"因与留出图片相似而不用于训练：{meta['left_out_of_train']:,}",
            )
        )
    first = say(
        f"{readable(source)}: {count:,} pictures, {classes} classes, {copies:,} copies, "
        f"{meta['near_duplicates']:,} that look alike; {splits}; problems: {problems:,}",
        f"{readable(source)}：{count:,} 张图片，{classes} 个类别，{copies:,} 张重复，"
        f"{meta['near_duplicates']:,} 张近似；{splits}；问题：{problems:,}",
    )
    texts = [first]
    if remarks:
        texts[0] += say("; ", "；") + joined(remarks, say("; ", "；"))
    if problems:
        example = meta["problems"]["first"][0]
        texts.append(
            say(
                f"  `miaobi data inspect` names each problem. The first: {example}",
                f"  `miaobi data inspect` 会逐一列出问题。第一处：{example}",
            )
        )
    warning = few(meta.get("distinct", count - copies - meta["near_duplicates"]))
    return [*texts, "  " + warning] if warning else texts


def few(distinct: int) -> str:
    """Return a warning where so many distinct pictures are too few; "" elsewhere."""
    if distinct >= FEW:
        return ""
    return say(
        f"Only {distinct} distinct pictures: a model learns fewer than {FEW} by heart. "
        "A few hundred are enough to see it learn; --data.augment flip helps where left and right do not matter.",
        f"只有 {distinct} 张不同的图片：少于 {FEW} 张时模型只会把它们背下来。"
        "有几百张才能看出学习效果；左右无关时可加 --data.augment flip。",
    )


def pixel_remarks(survey: FirstPass, fit: str) -> list[str]:
    """Return how pixels were read: the range of deep pictures, the share that is cut
    off, and pictures of one colour.
    """
    remarks = [
        _range(depth, survey.values[depth], limits)
        for depth, limits in survey.ranges.items()
    ]
    mean = float(np.mean(survey.cropped)) if survey.cropped else 0.0
    if fit == "crop" and mean >= NOTICEABLE:
        most = max(survey.cropped)
        remarks.append(
            say(
                f"cutting to shape takes {mean:.0%} off the pictures, {most:.0%} off the most "
                "(fit: pad keeps all)",
                f"裁剪平均去掉图片的 {mean:.0%}，最多 {most:.0%}（fit: pad 可全部保留）",
            )
        )
    names = {"black": say("all black", "全黑"), "white": say("all white", "全白")}
    for colour, count in sorted(survey.blank.items()):
        remarks.append(names[colour] + f": {count:,}")
    return remarks


def _range(depth: str, values: Range, limits: Range) -> str:
    kinds = {
        "16-bit": say("16-bit", "16 位"),
        "32-bit": say("32-bit", "32 位"),
        "float": say("float", "浮点"),
    }
    return in_each(
        lambda: say(
            f"{kinds[depth]} values are read from {limits.low:g} to {limits.high:g} "
            f"(the set has {values.low:g} to {values.high:g})",
            f"{kinds[depth]}值按 {limits.low:g} 至 {limits.high:g} 读取"
            f"（数据为 {values.low:g} 至 {values.high:g}）",
        )
    )
