"""Talk with a model: `miaobi chat smollm2`. Ctrl-C stops the answer, not the chat."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

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


def _control(name: str, default: float) -> Any:
    """A field with the bounds that it has in requests."""
    of_requests = {item.name: item.metadata for item in fields(TextRequest)}
    return field(default=default, metadata=of_requests[name])


@dataclass(frozen=True)
class Controls:
    """The sampling controls of a conversation."""

    max_new_tokens: int = _control("max_new_tokens", 512)
    """Longest answer, in tokens."""
    temperature: float = _control("temperature", 0.3)
    """Below 1 safer, above 1 wilder, 0 always the most probable token."""
    top_p: float = _control("top_p", 0.95)
    """Sample from the most probable tokens that together have this probability."""
    repetition_penalty: float = _control("repetition_penalty", 1.0)
    """Above 1 makes tokens that already occurred less probable."""


@dataclass(frozen=True)
class Farewell:
    """What a chat returns; it prints nothing, since everything was printed before."""

    answers: int

    def __str__(self) -> str:
        return ""


@dataclass
class Conversation:
    """The messages so far, and the model that answers them."""

    model: Model
    controls: Controls
    system: str = ""
    history: list[dict[str, str]] = field(default_factory=list)
    answers: list[Text] = field(default_factory=list)

    def answer(self, prompt: str) -> None:
        """Answer a message and print the answer as it comes.

        Ctrl-C stops the answer; the part that was printed stays in the history.
        """
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*self.history, {"role": "user", "content": prompt}]
        request = self.model.request([*system, *messages], **asdict(self.controls))
        collected = Collected(request)
        try:
            for chunk in self.model.stream(request):
                collected.add(chunk)
                print(chunk.text, end="", flush=True)
        except KeyboardInterrupt:
            print(say(" [stopped]", " [已停止]"), end="")
        print()
        answer = cast(Text, collected.artifacts(self.model.facts(request))[0])
        transcript = f"> {prompt}\n\n{answer.text.strip()}"
        self.answers.append(replace(answer, text=transcript))
        self.history = [*messages, {"role": "assistant", "content": answer.text}]


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
        system: How the model should behave: the system message of the conversation.
        engine: native, openvino, llamacpp, remote, or auto for the one that was measured to be fastest.
    """
    # Wrong values are refused before the model is opened.
    TextRequest(prompt="", **asdict(controls))
    with load(model, engine=engine) as opened:
        if not opened.chats:
            raise BadInput(
                say(
                    f"{opened.name} has no chat template: it continues texts, it does not answer.",
                    f"{opened.name} 没有对话模板：它只会续写，不会回答。",
                ),
                f'miaobi generate text --model {model} --prompt "..."',
            )
        conversation = Conversation(opened, controls, system)
        interactive = sys.stdin.isatty()
        if interactive:
            title = f"{opened.name} · {opened.engine_name} · {NOTICE}"
            print(
                say(
                    f"{title}. /help lists the commands; Ctrl-C stops an answer, Ctrl-D ends.",
                    f"{title}。/help 查看命令；Ctrl-C 停止回答，Ctrl-D 结束。",
                )
            )
        while (line := _read_input(interactive)) is not None:
            if not _turn(conversation, line):
                break
        if not interactive:
            print(NOTICE, file=sys.stderr)
    return Farewell(len(conversation.answers))


def _read_input(interactive: bool) -> str | None:
    """Return the next line of input; None at its end."""
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


def _turn(conversation: Conversation, line: str) -> bool:
    """Answer a message or run a command; return False to end.

    An error is printed and the chat continues.
    """
    line = line.strip()
    try:
        if line.startswith("/"):
            return _run_command(conversation, line)
        if line:
            conversation.answer(line)
    except MiaobiError as error:
        print(f"✗ {error}", file=sys.stderr)
    return True


def _run_command(conversation: Conversation, line: str) -> bool:
    """Run a command such as "/system Be brief."; return False to end."""
    name, _, argument = line.partition(" ")
    if name in ("/exit", "/quit"):
        return False
    if name not in COMMANDS:
        raise BadInput(
            say(f"There is no command {name}.", f"没有命令 {name}。"),
            ", ".join([*COMMANDS, "/exit"]),
        )
    COMMANDS[name].run(conversation, argument.strip())
    return True


def _help(conversation: Conversation, argument: str) -> None:
    for name, command in COMMANDS.items():
        print(f"  {name:<8} {say(command.english, command.chinese)}")
    print(f"  /exit    {say('end the chat', '结束对话')}")


def _reset(conversation: Conversation, argument: str) -> None:
    conversation.history.clear()
    print(say("Forgotten; a new conversation begins.", "已清空，重新开始对话。"))


def _system(conversation: Conversation, argument: str) -> None:
    conversation.system = argument
    if argument:
        print(say(f"From now on: {argument}", f"从现在起：{argument}"))
    else:
        print(say("No system message any more.", "已去掉系统指令。"))


def _save(conversation: Conversation, argument: str) -> None:
    if not conversation.answers:
        raise BadInput(
            say("There is nothing to save yet.", "还没有可保存的内容。"),
            say("Ask something first.", "请先提问。"),
        )
    print(publish(conversation.answers, Path(argument or "chat.md")))


class Command(NamedTuple):
    """A command of the chat, and what /help says of it."""

    run: Callable[[Conversation, str], None]
    english: str
    chinese: str


COMMANDS = {
    "/help": Command(_help, "these commands", "显示命令"),
    "/reset": Command(_reset, "forget the conversation so far", "清空当前对话"),
    "/system": Command(
        _system,
        "how the model should behave, from here on",
        "设定模型的行为方式",
    ),
    "/save": Command(
        _save,
        "write the conversation, labelled, to a .md, .txt, .json or .jsonl file",
        "把带标识的对话保存到文件",
    ),
}
