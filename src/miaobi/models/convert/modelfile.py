"""A Modelfile: what Ollama makes a model of a GGUF from.

Ollama writes dialogues by a Go template. A chat template is Jinja, a program; here the
text that it writes around each kind of message is found by rendering two dialogues, and
the Go template made of it is checked against a third. One that does not write messages
one after the other (it numbers them, say) is left to Ollama, which knows the usual ones.
Format: github.com/ollama/ollama/blob/main/docs/modelfile.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaobi.core import gguf
from miaobi.core.errors import MiaobiError
from miaobi.models.chat import ChatTemplate, from_gguf
from miaobi.models.convert.tokenizer import CONTROL

ROLES = ("system", "user", "assistant")
CONTENTS = {role: f"\ue000{role}\ue000" for role in ROLES}
"""Texts that no template writes by itself."""


@dataclass(frozen=True)
class Frame:
    """What a template writes around messages."""

    begin: str
    """Before the first message."""
    before: Mapping[str, str]
    after: Mapping[str, str]
    prompt: str
    """What an answer follows."""
    system: str = ""
    """What stands for a system message where there is none."""

    def render(self, messages: list[dict[str, str]]) -> str:
        """Return the prompt of a dialogue, as the Go template would write it."""
        if self.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        text = self.begin
        for message in messages:
            role = message["role"]
            text += self.before[role] + message["content"] + self.after[role]
        return text + self.prompt


def modelfile(path: Path, source: str = "") -> str:
    """Return the Modelfile of a GGUF.

    Args:
        path: of the GGUF, for its template and the tokens that end an answer.
        source: what FROM names; the file beside the Modelfile by default.
    """
    header = gguf.read(path)
    directives = [f"FROM {source or './' + path.name}"]
    template = from_gguf(header.metadata)
    if template is None:
        directives.append('TEMPLATE """{{ .Prompt }}"""')
    else:
        frame = frame_of(template)
        if frame is None:
            directives.append(
                "# TEMPLATE: left to Ollama, from the file's chat template."
            )
        else:
            directives += _template_directives(frame, header.metadata)
    context = header.of_model("context_length")
    return "\n".join([*directives, f"PARAMETER num_ctx {context}", ""])


def _template_directives(frame: Frame, metadata: Mapping[str, Any]) -> list[str]:
    branches = list[str]()
    for number, role in enumerate(ROLES):
        keyword = "else if" if number else "if"
        before, after = _literal(frame.before[role]), _literal(frame.after[role])
        condition = f'{{{{ {keyword} eq .Role "{role}" }}}}'
        branches.append(f"{condition}{before}{{{{ .Content }}}}{after}")
    messages = "".join(branches) + "{{ end }}"
    begin = frame.begin
    if metadata.get("tokenizer.ggml.add_bos_token"):
        # Ollama puts it there itself.
        begin = begin.removeprefix(_special_token(metadata, "bos"))
    begin, prompt = _literal(begin), _literal(frame.prompt)
    template = f"{begin}{{{{ range .Messages }}}}{messages}{{{{ end }}}}{prompt}"
    directives = [f'TEMPLATE """{template}"""']
    if frame.system:
        directives.append(f'SYSTEM """{frame.system}"""')
    stop = _stop(frame.after["assistant"].strip(), metadata)
    if stop:
        directives.append(f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}")
    return directives


def _stop(ending: str, metadata: Mapping[str, Any]) -> str:
    """Return what ends an answer: the control token that its ending begins with."""
    tokens = metadata.get("tokenizer.ggml.tokens", ())
    types = metadata.get("tokenizer.ggml.token_type", ())
    control = [
        token
        for token, kind in zip(tokens, types)
        if kind == CONTROL and ending.startswith(token)
    ]
    return max(control, key=len, default=ending)


def _special_token(metadata: Mapping[str, Any], role: str) -> str:
    """Return the text of a special token; empty where there is none."""
    number = metadata.get(f"tokenizer.ggml.{role}_token_id")
    if number is None:
        return ""
    return str(metadata["tokenizer.ggml.tokens"][number])


def _literal(text: str) -> str:
    """Return text as an action of Go's templates, with its line breaks escaped."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def frame_of(template: ChatTemplate) -> Frame | None:
    """Return what a template writes around messages; None where it is not so simple."""
    try:
        frame = _derived(template)
        if frame is not None and _holds(frame, template):
            return frame
    except MiaobiError:  # it refuses a system message, say
        return None
    return None


def _derived(template: ChatTemplate) -> Frame | None:
    """Return the frame of a dialogue with a system message."""
    dialogue = [_message(role) for role in (*ROLES, "user")]
    text = template.render(dialogue, add_generation_prompt=False).text
    prompted = template.render(dialogue).text
    if not prompted.startswith(text):
        return None
    pieces = list[str]()
    rest = text
    for message in dialogue:
        piece, separator, rest = rest.partition(message["content"])
        if not separator:
            return None
        pieces.append(piece)
    # pieces: begin + before system, after system + before user, after user + before
    # assistant, after assistant + before user; rest: after user
    head, system_user, user_assistant, assistant_user = pieces
    after_user = rest
    if not user_assistant.startswith(after_user):
        return None
    before_user = _common_suffix(system_user, assistant_user)
    before = {
        "system": head,
        "user": before_user,
        "assistant": user_assistant.removeprefix(after_user),
    }
    after = {
        "system": system_user.removesuffix(before_user),
        "user": after_user,
        "assistant": assistant_user.removesuffix(before_user),
    }
    # Both may begin alike (a line break after each message): that is of the ending.
    shared = _common_prefix(before_user, after_user) if not after["system"] else ""
    if shared:
        before["user"] = before_user.removeprefix(shared)
        after["system"] += shared
        after["assistant"] += shared
    begin, system = _without_system(template, before, after)
    if begin:
        before["system"] = before["system"].removeprefix(begin)
    return Frame(begin, before, after, prompted.removeprefix(text), system)


def _without_system(
    template: ChatTemplate, before: Mapping[str, str], after: Mapping[str, str]
) -> tuple[str, str]:
    """Return (what begins every dialogue, the system message that stands for none)."""
    text = template.render([_message("user")], add_generation_prompt=False).text
    head = text.partition(CONTENTS["user"])[0].removesuffix(before["user"])
    if not head or before["system"].startswith(head):
        return head, ""
    system = head.removeprefix(before["system"]).removesuffix(after["system"])
    return "", system


def _message(role: str) -> dict[str, str]:
    return {"role": role, "content": CONTENTS[role]}


def _common_suffix(first: str, second: str) -> str:
    return _common_prefix(first[::-1], second[::-1])[::-1]


def _common_prefix(first: str, second: str) -> str:
    length = 0
    for one, other in zip(first, second):
        if one != other:
            break
        length += 1
    return first[:length]


def _holds(frame: Frame, template: ChatTemplate) -> bool:
    """Return whether a frame writes other dialogues as the template does."""
    roles = ("user", "assistant", "user", "assistant", "user")
    turns = [
        {"role": role, "content": f"{role} says {number}."}
        for number, role in enumerate(roles)
    ]
    system = {"role": "system", "content": "Be kind."}
    dialogues = (turns[:1], turns, [system, *turns[:1]], [system, *turns])
    return all(
        frame.render(dialogue) == template.render(dialogue).text
        for dialogue in dialogues
    )
