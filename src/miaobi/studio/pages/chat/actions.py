"""What a person does in a conversation: send, stop, answer again, go on, edit, branch,
type in what a tool returned, and say what they think of an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.serve.conversations import Conversations, path_to
from miaobi.serve.errors import ApiError
from miaobi.serve.records import Turn
from miaobi.serve.responses.items import input_text, messages_of
from miaobi.studio.pages.chat.answers import answers_of
from miaobi.studio.pages.chat.asking import (
    answer_items,
    calls_of,
    items_of,
    message_item,
    question,
    result_item,
    text_of,
)
from miaobi.studio.pages.chat.attachments import attachments
from miaobi.studio.pages.chat.sheet import DEFAULTS, Sheet
from miaobi.studio.pages.chat.talkers import Talker, talkers
from miaobi.studio.pages.chat.tree import turn_of
from miaobi.studio.pages.chat.view import ORIGIN, page, sheet_of, view_of
from miaobi.studio.visit import Visit

SENT = {"hx-trigger": "chat:sent"}
"""Tells the browser that the composer can be emptied."""
FAULTY = {"hx-trigger-after-settle": "chat:settings"}
"""Tells the browser to open the settings at what is wrong, after htmx has put the focus
where the page wants it (autofocus).
"""
TITLE = 80
"""Characters of a message that name its conversation."""
Form = Mapping[str, Any]


class Opened:
    """A conversation that something is done to, of the visitor's key."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.answers = answers_of(visit)
        self.key_id = visit.caller.key_id
        self.id = visit.path["conversation"]

    @property
    def conversations(self) -> Conversations:
        return self.answers.conversations

    async def turns(self) -> list[Turn]:
        return await asyncio.to_thread(self.conversations.turns, self.key_id, self.id)

    async def turn(self) -> Turn:
        """Return the turn of the address. Raise NotFound."""
        return turn_of(await self.turns(), self.visit.path["turn"])

    async def sheet(self) -> Sheet:
        """Return the settings of this conversation."""
        conversation = await asyncio.to_thread(
            self.conversations.find, self.key_id, self.id
        )
        return sheet_of(conversation)

    def demand_quiet(self) -> None:
        """Raise ApiError 409 while an answer is being written here."""
        if not self.answers.within(self.key_id, self.id):
            return
        raise ApiError(
            409,
            say(
                "An answer is being written here. Wait for its end, or stop it.",
                "此对话正在生成回答。请等待其结束，或先停止。",
            ),
        )

    async def add(
        self,
        talker: Talker,
        sheet: Sheet,
        said: Sequence[Mapping[str, Any]],
        parent_id: str | None,
        files: Sequence[Mapping[str, Any]] = (),
    ) -> Turn:
        """Store a turn and begin to write its answer."""
        details = {"status": "running", "settings": sheet.values, "files": list(files)}
        turn = await asyncio.to_thread(
            self.conversations.add,
            self.key_id,
            said,
            parent_id=parent_id,
            conversation_id=self.id,
            model=talker.name,
            details=details,
            origin=ORIGIN,
        )
        await self.write(talker, sheet, turn)
        return turn

    async def write(self, talker: Talker, sheet: Sheet, turn: Turn) -> None:
        """Begin to write the answer of a turn, or go on with it."""
        before = path_to(turn, await self.turns())[:-1]
        request = question(talker, sheet, items_of(before), turn.input, text_of(turn))
        is_code = bool(sheet.values["schema"].strip())
        self.answers.begin(self.visit, turn, request, is_code)

    async def show(self, turn_id: str, headers: Mapping[str, str] = {}) -> Response:
        """Answer with the branch through a turn."""
        view = await view_of(self.visit, self.id, turn_id)
        return page(self.visit, view, {"hx-push-url": view.at(turn=turn_id), **headers})


async def send(visit: Visit) -> Response:
    """Say something, in this conversation or a new one."""
    form = await visit.form()
    talker = await _talker(visit, form)
    sheet = Sheet.of(_settings(form))
    if not talker.chats:
        sheet.refuse_texts(talker.name)
    text = str(form.get("message", "")).replace("\r\n", "\n").replace("\x00", "")
    try:
        added = await attachments(
            [file for file in form.getlist("files") if isinstance(file, UploadFile)],
            talker,
            visit.services.settings.limits.pixels,
        )
        if not text.strip() and not added:
            raise BadInput(say("Write a message first.", "请先写一条消息。"), "")
    except BadInput as error:
        return await _refused(visit, form, sheet, error.sentence)
    if sheet.faults:
        return await _refused(visit, form, sheet)
    parts = [input_text(text)] if text.strip() else []
    said = [message_item([*parts, *(file.part for file in added)])]
    title = " ".join(text.split()) or added[0].name
    opened = await _open(visit, sheet, title[:TITLE])
    turn = await opened.add(
        talker,
        sheet,
        said,
        str(form.get("parent") or "") or None,
        [file.note for file in added],
    )
    return await opened.show(turn.id, SENT)


async def _open(visit: Visit, sheet: Sheet, title: str) -> Opened:
    """Return the conversation of the address with these settings; without one, a new
    one of this title.
    """
    answers, key_id = answers_of(visit), visit.caller.key_id
    notes = {"settings": sheet.values}
    if "conversation" in visit.path:
        opened = Opened(visit)
        opened.demand_quiet()
        await asyncio.to_thread(answers.conversations.note, key_id, opened.id, notes)
        return opened
    started = await asyncio.to_thread(
        answers.conversations.start, key_id, ORIGIN, title, notes
    )
    visit.request.path_params["conversation"] = started.id
    return Opened(visit)


async def _refused(visit: Visit, form: Form, sheet: Sheet, fault: str = "") -> Response:
    """Answer with the page as it was, and what is wrong at its place."""
    turn = str(form.get("parent") or "") or None
    view = await view_of(visit, visit.path.get("conversation"), turn, sheet)
    view.fault = fault
    return page(visit, view, FAULTY if sheet.faults and not fault else {})


async def settle(visit: Visit) -> Response:
    """Keep the settings, where nothing is wrong with them."""
    form = await visit.form()
    sheet = Sheet.of(_settings(form))
    id = visit.path.get("conversation")
    if id is not None and not sheet.faults:
        opened = Opened(visit)
        notes = {"settings": sheet.values}
        await asyncio.to_thread(opened.conversations.note, opened.key_id, id, notes)
    action = visit.address(f"chat/{id}/settings" if id else "chat/settings")
    return visit.html("chat/sheet.html", sheet=sheet, action=action, is_late=False)


async def stop(visit: Visit) -> Response:
    """Stop what is being written in this conversation."""
    opened = Opened(visit)
    writing = opened.answers.within(opened.key_id, opened.id)
    for answer in writing:
        await answer.stop()
    turns = await opened.turns()
    return await opened.show(writing[-1].id if writing else turns[-1].id)


async def edit(visit: Visit) -> Response:
    """Ask anew, in other words: a branch. Files stay."""
    form = await visit.form()
    opened = Opened(visit)
    opened.demand_quiet()
    turn = await opened.turn()
    text = str(form.get("message", "")).replace("\r\n", "\n").replace("\x00", "")
    if not text.strip():
        raise ApiError(400, say("Write a message first.", "请先写一条消息。"))
    parts = [part for item in turn.input for part in item.get("content", ())]
    files = turn.details.get("files", [])
    attached = parts[len(parts) - len(files) :] if files else []
    said = [message_item([input_text(text), *attached])]
    added_turn = await opened.add(
        await _talker(visit, form), await opened.sheet(), said, turn.parent_id, files
    )
    return await opened.show(added_turn.id)


async def again(visit: Visit) -> Response:
    """Answer the same once more: a variant."""
    form = await visit.form()
    opened = Opened(visit)
    opened.demand_quiet()
    turn = await opened.turn()
    added_turn = await opened.add(
        await _talker(visit, form),
        await opened.sheet(),
        turn.input,
        turn.parent_id,
        turn.details.get("files", []),
    )
    return await opened.show(added_turn.id)


async def go_on(visit: Visit) -> Response:
    """Go on with an answer that was stopped, in the same turn."""
    opened = Opened(visit)
    opened.demand_quiet()
    turn = await opened.turn()
    talker = await _named(visit, turn.model or "")
    await opened.write(talker, await opened.sheet(), turn)
    return await opened.show(turn.id)


async def results(visit: Visit) -> Response:
    """Answer the calls of tools with what a person typed."""
    form = await visit.form()
    opened = Opened(visit)
    opened.demand_quiet()
    turn = await opened.turn()
    said = [
        result_item(call["call_id"], str(form.get(f"result-{call['call_id']}", "")))
        for call in calls_of(turn)
    ]
    added_turn = await opened.add(
        await _talker(visit, form), await opened.sheet(), said, turn.id
    )
    return await opened.show(added_turn.id)


async def branch_off(visit: Visit) -> Response:
    """Go as far as this turn in a conversation of its own."""
    opened = Opened(visit)
    turn = await opened.turn()
    copy = await asyncio.to_thread(opened.conversations.fork, opened.key_id, turn.id)
    view = await view_of(visit, copy.id, None)
    return page(visit, view, {"hx-push-url": view.at()})


async def thumb(visit: Visit) -> Response:
    """Like or dislike an answer; the same once more takes it back."""
    form = await visit.form()
    opened = Opened(visit)
    turn = await opened.turn()
    liked = form.get("liked") == "yes"
    before: dict[str, Any] = turn.details.get("thumb") or {}
    if before:
        await visit.call("DELETE", f"/v1/feedback/{before['id']}")
    opinion: dict[str, Any] = {}
    if before.get("label") is not liked:
        stored = await _opinion(opened, turn, "thumb", text_of(turn), label=liked)
        opinion = {"id": stored["id"], "label": liked}
    await _note(opened, turn, {"thumb": opinion})
    said = (
        say("Kept as feedback.", "已记为反馈。")
        if opinion
        else say("Taken back.", "已撤回。")
    )
    view = await view_of(visit, opened.id, turn.id)
    return visit.toast(said, visit.text("chat/reply.html", view=view, id=turn.id))


async def wording(visit: Visit) -> Response:
    """Keep a better wording of an answer, as feedback and in the conversation."""
    form = await visit.form()
    opened = Opened(visit)
    turn = await opened.turn()
    better = str(form.get("message", "")).replace("\r\n", "\n").replace("\x00", "")
    written = text_of(turn)
    if better.strip() and better != written:
        await _opinion(opened, turn, "edit", better, rejected=written)
        turn.output = [*answer_items(better, ()), *calls_of(turn)]
        original = turn.details.get("original", written)
        await _note(opened, turn, {"original": original})
    view = await view_of(visit, opened.id, turn.id)
    content = visit.text("chat/part.html", view=view)
    answer = visit.toast(say("Kept as feedback.", "已记为反馈。"), content)
    answer.headers["hx-push-url"] = view.at(turn=turn.id)
    return answer


async def _note(opened: Opened, turn: Turn, details: Mapping[str, Any]) -> None:
    """Store a turn with these details beside its others."""
    await asyncio.to_thread(
        opened.conversations.answer,
        opened.key_id,
        turn.id,
        turn.output,
        turn.model,
        {**turn.details, **details},
    )


async def _opinion(
    opened: Opened, turn: Turn, kind: str, chosen: str, **fields: Any
) -> Any:
    """Store what a person thinks of an answer. Return the feedback."""
    path = path_to(turn, await opened.turns())
    said = [*items_of(path[:-1]), *turn.input]
    messages = [
        {
            "role": "user" if message["role"] == "tool" else message["role"],
            "content": _text_of(message["content"]),
        }
        for message in messages_of(said)
    ]
    system = str(turn.details.get("settings", {}).get("system", "")).strip()
    if system:
        messages.insert(0, {"role": "system", "content": system})
    body = {
        "kind": kind,
        "model": turn.model,
        "messages": messages,
        "chosen": chosen,
        **fields,
    }
    return await opened.visit.call("POST", "/v1/feedback", json=body)


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def _settings(form: FormData) -> dict[str, str]:
    return {name: str(form[name]) for name in DEFAULTS if name in form}


async def _talker(visit: Visit, form: FormData) -> Talker:
    return await _named(visit, str(form.get("model", "")))


async def _named(visit: Visit, name: str) -> Talker:
    """Return a model that one can talk with. Raise ApiError 404."""
    for talker in await talkers(visit):
        if talker.name == name:
            return talker
    raise ApiError(
        404,
        say(
            f"There is no model {name[:100]!r} to talk with. Choose one below the message.",
            f"没有可对话的模型 {name[:100]!r}。请在消息框下方选择一个。",
        ),
    )
