"""Chat: a conversation with a model, kept or not, in branches.

    /studio/en/chat                             a new one
    /studio/en/chat/CONVERSATION?turn=TURN      the branch through a turn
        &model=NAME      the model that answers next
        &edit=TURN       a message of one's own is being worded anew
        &word=TURN       an answer is
        &side=TURN       the variants of an answer stand side by side
        &rename=yes      the title is being written

Whatever is done answers with the page's main part, which htmx puts in by morphing:
nothing moves that has not changed. An answer that is being written comes as a stream
(stream.py) and goes on without one (answers.py).
"""

from __future__ import annotations

from starlette.responses import Response

from miaobi.studio.page import get, post
from miaobi.studio.pages.chat import actions, listing, stream
from miaobi.studio.pages.chat.view import page, view_of
from miaobi.studio.visit import Visit

TITLE = ("Chat", "对话")
GROUP = "create"
ORDER = 10


async def show(visit: Visit) -> Response:
    view = await view_of(visit, visit.path.get("conversation"), visit.query.get("turn"))
    return page(visit, view)


ROUTES = [
    get("", show),
    post("", actions.send),
    get("/list", listing.show),
    post("/settings", actions.settle),
    get("/export.json", listing.export_all),
    post("/delete-all", listing.delete_all),
    get("/{conversation}", show),
    post("/{conversation}", actions.send),
    post("/{conversation}/settings", actions.settle),
    post("/{conversation}/stop", actions.stop),
    post("/{conversation}/rename", listing.rename),
    post("/{conversation}/delete", listing.delete),
    get("/{conversation}/export.md", listing.export_markdown),
    get("/{conversation}/export.json", listing.export_json),
    get("/{conversation}/{turn}/stream", stream.follow),
    post("/{conversation}/{turn}/edit", actions.edit),
    post("/{conversation}/{turn}/again", actions.again),
    post("/{conversation}/{turn}/go-on", actions.go_on),
    post("/{conversation}/{turn}/results", actions.results),
    post("/{conversation}/{turn}/branch", actions.branch_off),
    post("/{conversation}/{turn}/thumb", actions.thumb),
    post("/{conversation}/{turn}/wording", actions.wording),
]
