"""A conversation as the page shows it: each turn with its HTML, its facts, what went
wrong and what one can do about it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from miaobi.core.language import say
from miaobi.serve.records import Conversation, Turn
from miaobi.studio.pages.chat.answers import Answer
from miaobi.studio.pages.chat.asking import calls_of, text_of
from miaobi.studio.pages.chat.markdown import code, indented, rendered
from miaobi.studio.pages.chat.sheet import BLAMED, DEFAULTS
from miaobi.studio.pages.chat.tree import Step

DAY = 86_400
Running = Callable[[str], Answer | None]
"""From a turn's id to its answer, while that is being written."""


@dataclass(frozen=True)
class Call:
    """A call of a tool that the model made."""

    id: str
    name: str
    html: Markup


@dataclass(frozen=True)
class Reply:
    """An answer, as it stands."""

    turn: Turn
    running: Answer | None

    @property
    def id(self) -> str:
        return self.turn.id

    @property
    def model(self) -> str:
        return self.turn.model or ""

    @property
    def details(self) -> dict[str, Any]:
        return self.running.details if self.running else self.turn.details

    @property
    def is_code(self) -> bool:
        return bool(self.turn.details.get("settings", {}).get("schema", "").strip())

    @property
    def text(self) -> str:
        return text_of(self.turn)

    @property
    def blocks(self) -> Markup:
        """The HTML of what is finished."""
        if self.running:
            return Markup("".join(self.running.blocks))
        if not self.text:
            return Markup("")
        if self.is_code:
            return Markup(code(indented(self.text)))
        return Markup(rendered(self.text))

    @property
    def tail(self) -> Markup:
        """The HTML of what is being written."""
        return Markup(self.running.tail if self.running else "")

    @property
    def calls(self) -> list[Call]:
        return [
            Call(
                item["call_id"],
                item["name"],
                Markup(code(indented(item["arguments"]))),
            )
            for item in calls_of(self.turn)
        ]

    @property
    def facts(self) -> str:
        """How it was written: tokens, their speed, the seed."""
        details = self.details
        tokens = details.get("tokens")
        if not tokens:
            return ""
        parts = [say(f"{tokens:,} tokens", f"{tokens:,} 个词元"), self.speed]
        if details.get("seed") is not None:
            parts.append(say(f"seed {details['seed']}", f"种子 {details['seed']}"))
        return " · ".join(filter(None, parts))

    @property
    def speed(self) -> str:
        tokens, seconds = self.details.get("tokens"), self.details.get("seconds")
        if not tokens or not seconds:
            return ""
        rate = f"{tokens / seconds:.0f}" if tokens >= seconds else "< 1"
        return say(f"{rate} tokens/s", f"{rate} 词元/秒")

    @property
    def label(self) -> str:
        """What is said of an answer that a person has worded."""
        if "original" in self.turn.details:
            return say("worded by a person", "已由人修改")
        return ""

    @property
    def ending(self) -> str:
        """Why it is not whole, where that is no error; empty for a whole one."""
        if self.running:
            return ""
        tokens = self.details.get("tokens", 0)
        status = self.details.get("status")
        if status == "stopped":
            return say(
                f"Stopped at {tokens:,} tokens.", f"已停在第 {tokens:,} 个词元。"
            )
        if status == "running":
            return say(
                "The server stopped in the middle of this answer.",
                "服务器在回答中途停止了。",
            )
        if self.details.get("finish") == "length":
            return say(
                f"It ended at its limit, after {tokens:,} tokens.",
                f"已达到长度上限，共 {tokens:,} 个词元。",
            )
        return ""

    @property
    def can_go_on(self) -> bool:
        return bool(self.ending and self.text and not self.is_code and not self.calls)

    @property
    def error(self) -> dict[str, Any] | None:
        error: dict[str, Any] | None = self.details.get("error")
        return None if self.running else error

    @property
    def blames_setting(self) -> bool:
        """Whether its error is about a setting."""
        first = str((self.error or {}).get("param") or "").split(".")[0]
        return BLAMED.get(first, first) in DEFAULTS

    @property
    def is_too_long(self) -> bool:
        """Whether the conversation has outgrown the model's context."""
        return (self.error or {}).get("code") == "context_length_exceeded"

    @property
    def thumb(self) -> bool | None:
        """True for liked, False for disliked."""
        thumb: dict[str, Any] = self.turn.details.get("thumb") or {}
        return thumb.get("label")


@dataclass(frozen=True)
class Entry:
    """A turn of the branch that is looked at."""

    step: Step
    reply: Reply
    variants: list[Reply]
    is_last: bool
    before: Entry | None

    @property
    def id(self) -> str:
        return self.step.turn.id

    @property
    def text(self) -> str:
        """What the person typed."""
        parts = self._parts()
        typed = parts[: len(parts) - len(self.files)]
        return "".join(part.get("text", "") for part in typed)

    @property
    def files(self) -> list[dict[str, Any]]:
        files: list[dict[str, Any]] = self.step.turn.details.get("files", [])
        return files

    @property
    def pictures(self) -> list[str]:
        """As data: URLs."""
        return [
            part["image_url"] for part in self._parts() if part["type"] == "input_image"
        ]

    @property
    def results(self) -> list[Call]:
        """What calls came to, as the person typed it."""
        calls = self.before.reply.calls if self.before else []
        names = {call.id: call.name for call in calls}
        return [
            Call(
                item["call_id"],
                names.get(item["call_id"], ""),
                Markup(code(str(item["output"]))),
            )
            for item in self.step.turn.input
            if item["type"] == "function_call_output"
        ]

    def _parts(self) -> list[dict[str, Any]]:
        parts = list[dict[str, Any]]()
        for item in self.step.turn.input:
            if item["type"] == "message":
                parts += item["content"]
        return parts


def entries_of(steps: Sequence[Step], running: Running) -> list[Entry]:
    """Return the turns of a branch as the page shows them."""
    entries = list[Entry]()
    for step in steps:
        entries.append(
            Entry(
                step,
                Reply(step.turn, running(step.turn.id)),
                [Reply(turn, running(turn.id)) for turn in step.variants],
                step is steps[-1],
                entries[-1] if entries else None,
            )
        )
    return entries


def by_day(rows: Sequence[Conversation]) -> list[tuple[str, list[Conversation]]]:
    """Return conversations under "Today" and so on, newest first."""
    midnight = time.mktime((*time.localtime()[:3], 0, 0, 0, 0, 0, -1))
    groups = dict[str, list[Conversation]]()
    for row in rows:
        days = (midnight - row.updated) / DAY
        groups.setdefault(_day(days), []).append(row)
    return list(groups.items())


def _day(days: float) -> str:
    """`days` before the last midnight."""
    if days <= 0:
        return say("Today", "今天")
    if days <= 1:
        return say("Yesterday", "昨天")
    if days <= 7:
        return say("Last week", "最近一周")
    return say("Earlier", "更早")
