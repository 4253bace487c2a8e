"""Talk with a model: `miaobi chat smollm2`. Ctrl-C stops the answer, not the chat."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from miaobi.core.artifacts import Text
from miaobi.core.config import flat
from miaobi.core.errors import BadInput, MiaobiError
from miaobi.core.language import say
from miaobi.core.requests import TextRequest
from miaobi.engines.collected import Collected
from miaobi.engines.load import load
from miaobi.engines.model import Model
from miaobi.provenance.label import NOTICE
from miaobi.provenance.publish import publish


@dataclass(frozen=True)
class Controls:
    """The controls of a conversation."""

    max_new_tokens: int = 512
    """Length of an answer at most."""
    temperature: float = 0.3
    """Below 1 safer, above 1 wilder, 0 always the likeliest token."""
    top_p: float = 0.95
    """Draw from the likeliest tokens that together hold this probability."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that were seen less likely."""


@dataclass(frozen=True)
class Farewell:
    answers: int

    def __str__(self) -> str:
        return ""


@dataclass
class Conversation:
    model: Model
    controls: Controls
    system: str = ""
    history: list[dict[str, str]] = field(default_factory=list)
    answers: list[Text] = field(default_factory=list)

    def answer(self, words: str) -> None:
        """Ask, and show the answer as it comes. Ctrl-C ends the answer; what came of it
        stays in the history.
        """
        system = [{"role": "system", "content": self.system}] if self.system else []
        asked = [*self.history, {"role": "user", "content": words}]
        request = self.model.request([*system, *asked], **self.controls.__dict__)
        collected = Collected(request)
        try:
            for chunk in self.model.stream(request):
                collected.add(chunk)
                print(chunk.text, end="", flush=True)
        except KeyboardInterrupt:
            print(say(" [stopped]", " [已停止]"), end="")
        print()
        answer = collected.texts(self.model.facts(request))[0]
        self.answers.append(replace(answer, text=f"> {words}\n\n{answer.text.strip()}"))
        self.history = [*asked, {"role": "assistant", "content": answer.text}]


def chat(
    model: str,
    *,
    controls: Annotated[Controls, flat],
    system: str = "",
    engine: str = "auto",
) -> Farewell:
    """Talk with a model.

    Args:
        model: A name in the store, a starter pack (smollm2), a GGUF file, a model
            folder, a URL or a hub id.
        system: How the model should behave, said before the conversation.
        engine: native, openvino, llamacpp, remote, or auto for what was measured to be quickest.
    """
    TextRequest(
        prompt="", **controls.__dict__
    )  # refuses wrong values before the model is opened
    with load(model, engine=engine) as opened:
        if not opened.chats:
            raise BadInput(
                say(
                    f"{opened.name} has no chat template: it continues texts, it does not answer.",
                    f"{opened.name} 没有对话模板：它只会续写，不会回答。",
                ),
                f'miaobi generate text --model {model} --prompt "..."',
            )
        talk = Conversation(opened, controls, system)
        interactive = sys.stdin.isatty()
        if interactive:
            print(
                say(
                    f"{opened.name} · {opened.engine_name} · {NOTICE}. /help "
                    "lists the commands; Ctrl-C stops an answer, Ctrl-D ends.",
                    f"{opened.name} · {opened.engine_name} · {NOTICE}。/help 查看命令；Ctrl-C 停止回答，Ctrl-D 结束。",
                )
            )
        while (words := _listen(interactive)) is not None:
            if not _turn(talk, words):
                break
        if not interactive:
            print(NOTICE, file=sys.stderr)
    return Farewell(len(talk.answers))


def _listen(interactive: bool) -> str | None:
    """The next line; None at the end of the input."""
    try:
        if interactive:
            import readline  # noqa: F401 - line editing and history for input()

            return input("› ")
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    except EOFError:
        print()
        return None
    except KeyboardInterrupt:
        print()
        return ""


def _turn(talk: Conversation, words: str) -> bool:
    """One line from the person; False to end. A mistake is told and the chat goes on."""
    words = words.strip()
    try:
        if words.startswith("/"):
            return _command(talk, words)
        if words:
            talk.answer(words)
    except MiaobiError as error:
        print(f"✗ {error}", file=sys.stderr)
    return True


def _command(talk: Conversation, words: str) -> bool:
    name, _, rest = words.partition(" ")
    if name in ("/exit", "/quit"):
        return False
    if name not in COMMANDS:
        raise BadInput(
            say(f"There is no command {name}.", f"没有命令 {name}。"),
            ", ".join([*COMMANDS, "/exit"]),
        )
    COMMANDS[name][0](talk, rest.strip())
    return True


def _help(talk: Conversation, rest: str) -> None:
    for name, (_, english, chinese) in COMMANDS.items():
        print(f"  {name:<8} {say(english, chinese)}")
    print(f"  /exit    {say('end the chat', '结束对话')}")


def _reset(talk: Conversation, rest: str) -> None:
    talk.history.clear()
    print(say("Forgotten; a new conversation begins.", "已清空，重新开始对话。"))


def _system(talk: Conversation, rest: str) -> None:
    talk.system = rest
    print(
        say(
            f"From now on: {rest}" if rest else "No instruction any more.",
            f"从现在起：{rest}" if rest else "已去掉系统指令。",
        )
    )


def _save(talk: Conversation, rest: str) -> None:
    if not talk.answers:
        raise BadInput(
            say("There is nothing to save yet.", "还没有可保存的内容。"),
            say("Ask something first.", "请先提问。"),
        )
    print(publish(talk.answers, Path(rest or "chat.md")))


COMMANDS: dict[str, tuple[Callable[[Conversation, str], None], str, str]] = {
    "/help": (_help, "these commands", "显示命令"),
    "/reset": (_reset, "forget the conversation so far", "清空当前对话"),
    "/system": (
        _system,
        "how the model should behave, from here on",
        "设定模型的行为方式",
    ),
    "/save": (
        _save,
        "write the conversation, labelled, to a .md, .txt, .json or .jsonl file",
        "把带标识的对话保存到文件",
    ),
}
