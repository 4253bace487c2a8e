"""The list of conversations, and what is done to whole ones: search, rename, export,
delete.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from miaobi.studio.pages.chat.answers import Answers, answers_of
from miaobi.studio.pages.chat.view import ORIGIN, Past, page, past, view_of
from miaobi.studio.visit import Visit

LONGEST_QUERY = 200


async def show(visit: Visit) -> Response:
    """The list, or those of it that hold what is searched; `after`: the next part."""
    query = visit.query.get("search", "")[:LONGEST_QUERY]
    rows = await asyncio.to_thread(
        past,
        answers_of(visit),
        visit.caller.key_id,
        query,
        visit.query.get("after"),
    )
    listed = Past(rows, visit.query.get("current", ""), query)
    return visit.html("chat/list.html", past=listed)


async def rename(visit: Visit) -> Response:
    id = visit.path["conversation"]
    form = await visit.form()
    conversations = answers_of(visit).conversations
    await asyncio.to_thread(
        conversations.rename, visit.caller.key_id, id, str(form.get("title", ""))
    )
    turn = str(form.get("turn") or "") or None
    view = await view_of(visit, id, turn)
    return page(visit, view, {"hx-push-url": view.at(turn=turn)})


async def delete(visit: Visit) -> Response:
    """Delete a conversation; an answer that is being written in it ends."""
    id = visit.path["conversation"]
    answers = answers_of(visit)
    for answer in answers.within(visit.caller.key_id, id):
        await answer.stop()
    await asyncio.to_thread(answers.conversations.delete, visit.caller.key_id, id)
    return visit.go("chat")


async def delete_all(visit: Visit) -> Response:
    """Delete the conversations of this page; the API's own stay."""
    conversations = answers_of(visit).conversations
    await asyncio.to_thread(conversations.delete_all, visit.caller.key_id, ORIGIN)
    return visit.go("chat")


async def export_markdown(visit: Visit) -> Response:
    id = visit.path["conversation"]
    key_id = visit.caller.key_id
    conversations = answers_of(visit).conversations
    conversation = await asyncio.to_thread(conversations.find, key_id, id)
    text = await asyncio.to_thread(
        conversations.as_markdown, key_id, id, visit.query.get("turn")
    )
    return _file(f"{conversation.title}.md", text, "text/markdown")


async def export_json(visit: Visit) -> Response:
    id = visit.path["conversation"]
    key_id = visit.caller.key_id
    conversations = answers_of(visit).conversations
    exported = await asyncio.to_thread(conversations.as_json, key_id, id)
    return _json_file(f"{exported['title']}.json", exported)


async def export_all(visit: Visit) -> Response:
    """All conversations of this page, as JSON."""
    exported = await asyncio.to_thread(
        _export,
        answers_of(visit),
        visit.caller.key_id,
    )
    listed = {"object": "list", "data": exported}
    return _json_file("conversations.json", listed)


def _export(answers: Answers, key_id: str) -> list[dict[str, Any]]:
    """Return all conversations of this page and a key. It blocks."""
    exported = list[dict[str, Any]]()
    rows = past(answers, key_id)
    while rows:
        for row in rows:
            content = answers.conversations.as_json(key_id, row.id)
            exported.append(content)
        rows = past(answers, key_id, after=rows[-1].id)
    return exported


def _json_file(name: str, content: Any) -> Response:
    text = json.dumps(content, ensure_ascii=False, indent=2)
    return _file(name, text + "\n", "application/json")


def _file(name: str, text: str, kind: str) -> Response:
    """A file to download, under a name that every system takes."""
    safe = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "-", name)[-100:]
    disposition = f"attachment; filename*=UTF-8''{quote(safe)}"
    return Response(
        text,
        media_type=f"{kind}; charset=utf-8",
        headers={"content-disposition": disposition},
    )
