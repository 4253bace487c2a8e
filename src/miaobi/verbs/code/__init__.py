"""Work on a source file with a model: `miaobi code complete|explain|refactor FILE`."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from miaobi.core.config import checked
from miaobi.core.errors import ContextExceeded, MiaobiError, Unsupported
from miaobi.core.language import in_each, say
from miaobi.core.requests import TextRequest
from miaobi.engines.load import load
from miaobi.engines.model import Model
from miaobi.verbs.code.source import Part, Source, read, syntax_error

MARKER = "<cursor>"
BLOCK = re.compile(r"```[\w+-]*[ \t]*\n(.*?)(?:\n```|\Z)", re.S)
"""Code between fences in an answer; the last may be unfinished."""
OVERHEAD = 8
"""Tokens of a fill's prompt beside its texts: the special ones, and where texts are cut."""
INSTRUCTION = "Make this code simpler and easier to read without changing what it does."
Tokens = Annotated[int, Field(ge=1, le=100_000)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


class UnusableAnswer(MiaobiError):
    """The model answered with something that is no code for this file."""

    code, exit_code = "unusable_answer", 65


@dataclass(frozen=True)
class Written:
    """What a model wrote for a file."""

    model: str
    file: Path
    text: str
    """The fill, the words, or the diff."""
    applied: bool = False
    parses: bool | None = None
    """Whether the file parses with it; None for other languages than Python."""

    def __str__(self) -> str:
        return self.text


@checked
def complete(
    file: Path,
    *,
    model: str,
    at: str = "",
    marker: str = MARKER,
    max_new_tokens: Tokens = 64,
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.0,
    seed: Seed = 0,
    apply: bool = False,
    engine: str = "auto",
) -> Written:
    """Write what stands at a position of a file, from what stands before and behind it.

    Args:
        file: A source file, finished or not.
        model: A model that was trained to fill in (recipes/text/code_completion.yaml,
            Qwen2.5-Coder, StarCoder2, DeepSeek-Coder); any model that writes at the end of a file.
        at: Line and column, both from 1 (12:5); by default where the marker stands, or
            the end of the file.
        marker: What marks the position in the file.
        max_new_tokens: Stop after this many tokens.
        temperature: 0 for the likeliest, above for others.
        seed: Of the draws.
        apply: Write it into the file, in the marker's place.
        engine: native, llamacpp, remote, or auto.
    """
    source = read(file)
    before, behind = source.offset(at, marker)
    fills = bool(behind.strip())
    with load(model, engine=engine, needs=["suffix"] if fills else []) as opened:
        prompt, suffix = fitted(opened, before, behind, max_new_tokens)
        [answer] = opened.generate(
            prompt,
            raw=opened.chats,
            suffix=suffix if fills else None,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )
        name = opened.name
    new = Source(file, before + answer.text + behind)
    if apply:
        new.write()
    parses = syntax_error(new.text) is None if source.is_python else None
    return Written(name, file, answer.text, apply, parses)


@checked
def explain(
    file: Path,
    *,
    model: str,
    lines: str = "",
    max_new_tokens: Tokens = 400,
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.2,
    seed: Seed = 0,
    engine: str = "auto",
) -> Written:
    """Say in words what a file, or some lines of it, does.

    Args:
        file: A source file; Python must parse.
        model: A model that chats (smollm2).
        lines: Only these lines, such as 10-30.
        max_new_tokens: Stop after this many tokens.
        temperature: Below 1 safer, above 1 wilder.
        seed: Of the draws.
        engine: native, openvino, llamacpp, remote, or auto.
    """
    part = checked_part(file, lines)
    question = say(
        "Explain what this code does, step by step, in a few sentences.",
        "请用几句话逐步说明这段代码的作用。",
    )
    controls = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    with load(model, engine=engine) as opened:
        text = ask(opened, question, part, seed, controls)
        return Written(opened.name, file, text.strip())


@checked
def refactor(
    file: Path,
    *,
    model: str,
    instruction: str = INSTRUCTION,
    lines: str = "",
    apply: bool = False,
    attempts: Annotated[int, Field(ge=1, le=100)] = 3,
    max_new_tokens: Tokens = 1024,
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.2,
    seed: Seed = 0,
    engine: str = "auto",
) -> Written:
    """Show a diff that rewrites a file, or some lines of it, and apply it on request.

    Args:
        file: A source file; Python must parse, and parses with every diff that is shown.
        model: A model that chats (smollm2); a small one does well to get few lines.
        instruction: What to do with the code.
        lines: Only these lines, such as 10-30.
        apply: Write the file: beside it, then renamed.
        attempts: Answers to ask for until one parses.
        max_new_tokens: Stop after this many tokens.
        temperature: Below 1 safer, above 1 wilder.
        seed: Of the draws.
        engine: native, openvino, llamacpp, remote, or auto.
    """
    part = checked_part(file, lines)
    controls = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    question = f"{instruction} Answer with the whole new code in one block."
    with load(model, engine=engine) as opened:
        new = rewritten(opened, question, part, range(seed, seed + attempts), controls)
        name = opened.name
    diff = part.source.diff(new)
    if not diff:
        unchanged = say("The code stays as it is.", "代码保持不变。")
        return Written(name, file, unchanged)
    if apply:
        new.write()
    else:
        print(
            say("Nothing is written yet; --apply does.", "尚未写入；--apply 会写入。"),
            file=sys.stderr,
        )
    return Written(name, file, diff, apply, new.is_python or None)


def checked_part(file: Path, lines: str) -> Part:
    """Return the lines of a file that parses. Raises BadInput, NotFound."""
    source = read(file)
    source.check()
    return source.part(lines)


def rewritten(
    model: Model,
    question: str,
    part: Part,
    seeds: range,
    controls: Mapping[str, Any],
) -> Source:
    """Return the file with the first answer's code that parses in it.

    Raises UnusableAnswer where none does; it names what is wrong with the last.
    """
    reason = ""
    for seed in seeds:
        answer = ask(model, question, part, seed, controls)
        code = code_of(answer)
        if not code.strip():
            reason = say("it holds no code", "其中没有代码")
            continue
        new = part.replaced(code)
        error = syntax_error(new.text) if new.is_python else None
        if error is None:
            return new
        reason = say(
            f"line {error.lineno}: {error.msg}", f"第 {error.lineno} 行：{error.msg}"
        )
    raise UnusableAnswer(
        in_each(
            lambda: say(
                f"No answer of {model.name} parses in {part.source.path} ({reason}).",
                f"{model.name} 的回答放入 {part.source.path} 后都无法解析（{reason}）。",
            )
        ),
        say(
            "Nothing was changed. Give fewer --lines, another --seed, or a larger model.",
            "文件未改动。请缩小 --lines 的范围，换一个 --seed，或选用更大的模型。",
        ),
    )


def ask(
    model: Model,
    question: str,
    part: Part,
    seed: int,
    controls: Mapping[str, Any],
) -> str:
    """Return a chat model's answer to a question on some code. Raises Unsupported."""
    if not model.chats:
        raise Unsupported(
            say(
                f"{model.name} has no chat template, so it cannot be asked about code.",
                f"{model.name} 没有对话模板，无法就代码提问。",
            ),
            say(
                "Choose a model that chats, such as smollm2.",
                "请选用能对话的模型，例如 smollm2。",
            ),
        )
    language = "python" if part.source.is_python else part.source.path.suffix[1:]
    message = f"{question}\n\n```{language}\n{part.text.rstrip()}\n```"
    messages = [{"role": "user", "content": message}]
    [answer] = model.generate(messages, seed=seed, **controls)
    text: str = answer.text
    return text


def code_of(answer: str) -> str:
    """Return the longest block of code in an answer; all of it where there is none."""
    blocks = BLOCK.findall(answer)
    return max(blocks, key=len) if blocks else answer


def fitted(
    model: Model, before: str, behind: str, max_new_tokens: int
) -> tuple[str, str]:
    """Return as much of what stands before and behind as the context holds: the nearest
    lines, a third of them behind.

    Raises ContextExceeded where not even one line fits.
    """
    room = model.context_length - max_new_tokens
    lines_before = before.splitlines(keepends=True)
    lines_behind = behind.splitlines(keepends=True)
    while True:
        near_before, near_behind = "".join(lines_before), "".join(lines_behind)
        request = TextRequest(prompt=near_before + near_behind)
        tokens = len(model.tokenizer.tokenize(request)) + OVERHEAD
        if tokens <= room:
            return near_before, near_behind
        if len(lines_before) <= 1 and len(lines_behind) <= 1:
            raise ContextExceeded(
                say(
                    f"The line takes {tokens} tokens; {room} are left beside an answer of {max_new_tokens}.",
                    f"该行需要 {tokens} 个词元；除去 {max_new_tokens} 个词元的回答，只剩 {room} 个。",
                ),
                say(
                    "Lower --max-new-tokens, or choose a model with a longer context.",
                    "请调小 --max-new-tokens，或选用上下文更长的模型。",
                ),
            )
        if len(lines_behind) > max(1, len(lines_before) // 2):
            lines_behind = lines_behind[: -(-len(lines_behind) // 2)]
        else:
            lines_before = lines_before[len(lines_before) // 2 :]
