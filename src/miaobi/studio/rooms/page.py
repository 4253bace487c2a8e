"""The studio's page: one Gradio application per language, built of the rooms in the registry.

Importing Gradio takes seconds, so this module is imported when somebody first comes
(door.py). Nothing on the page comes from outside this server: fonts are the system's,
analytics are off, and the door's content policy lets nothing else through.
"""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from miaobi.provenance.label import NOTICE
from miaobi.serve.services import Services
from miaobi.studio.rooms import rooms
from miaobi.studio.rooms.keeping import folder_of

UPLOAD = "64mb"
FORGET = (3600, 24 * 3600)
"""Seconds: how often files that rooms made are looked through, and from what age they
are deleted.
"""
AT_ONCE = 64
"""Visitors' clicks that are worked on at the same time; what runs models waits in the
server's own queue.
"""
WAITING = 256
FONTS = [
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "sans-serif",
]
MONO = [
    "ui-monospace",
    "SF Mono",
    "Cascadia Mono",
    "Menlo",
    "Consolas",
    "Noto Sans Mono CJK SC",
    "monospace",
]
PAGES = [
    ("chat", ("Chat", "对话")),
    ("models", ("Models", "模型")),
    ("jobs", ("Jobs", "任务")),
]
LABEL = (NOTICE, "由AI生成 / AI-generated")


def prepare(folder: Path) -> None:
    """What Gradio reads from the environment when it is imported: no messages home, no
    other server, its files in ours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_SSR_MODE="False",
        GRADIO_RUN_HISTORY="False",
        GRADIO_TEMP_DIR=str(folder),
        GRADIO_ANALYTICS_CACHE_FREQUENCY=str(10**9),
    )  # it reckons up its own figures after every click otherwise


def build(
    app: ASGIApp, services: Services, language: str, path: str
) -> tuple[FastAPI, AbstractAsyncContextManager[Any]]:
    """The page in one language, to answer under `path`, and the life it needs while it
    is open. Slow: call in a thread.
    """
    prepare(folder_of(services.settings.folder))
    import gradio as gr

    from miaobi.studio.rooms.room import Desk, Room, room_asked
    from miaobi.studio.rooms.theme import theme

    found: list[Room] = sorted(
        (rooms.get(name) for name in rooms.names()), key=lambda room: room.ORDER
    )
    chinese = language == "zh"
    with gr.Blocks(
        title="妙笔 miaobi",
        analytics_enabled=False,
        delete_cache=FORGET,
        fill_width=True,
    ) as page:
        gr.HTML(_header(chinese, path), elem_id="top", padding=False)
        with gr.Tabs(elem_id="rooms") as tabs:
            desk = None
            for room in found:
                with gr.Tab(room.TITLE[chinese], id=room.TITLE[0].lower()) as tab:
                    desk = (
                        replace(desk, tab=tab)
                        if desk
                        else Desk(
                            app,
                            services.settings,
                            services.sessions,
                            language,
                            tab,
                            page,
                        )
                    )
                    room.build(desk)
        page.load(room_asked(rooms.names()), None, tabs, api_visibility="private")
        if desk:  # a page that was closed before it listened for its answer is noticed by its heartbeat only
            page.unload(desk.leave)
        gr.HTML(
            f'<p role="note">{LABEL[chinese]}<span>{_caution(chinese)}</span></p>',
            elem_id="label",
            padding=False,
        )
    page.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE, api_open=False)
    shell = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        shell,
        page,
        path,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,
        max_file_size=UPLOAD,
        allowed_paths=[],
        blocked_paths=[str(services.settings.files)],
        enable_monitoring=False,
        mcp_server=False,
        theme=theme(FONTS, MONO),
        css=_read("look.css"),
        head=f"<script>{_read('page.js')}</script>",
    )
    return shell, shell.router.lifespan_context(shell)


def _read(name: str) -> str:
    return files("miaobi.studio.rooms").joinpath(name).read_text(encoding="utf-8")


def _caution(chinese: bool) -> str:
    return (
        "模型会出错，重要内容请核实。"
        if chinese
        else "Models make mistakes: check what matters."
    )


def _header(chinese: bool, path: str) -> str:
    other, name = ("en", "English") if chinese else ("zh", "中文")
    home = f"/studio/{'zh' if chinese else 'en'}"
    same = escape(path.replace(home, f"/studio/{other}", 1))
    scheme = "浅色与深色" if chinese else "Light or dark"
    pages = "".join(
        f'<a href="{home}/{page}">{title[chinese]}</a>' for page, title in PAGES
    )
    return (
        f'<header><a class="brand" href="{home}/" aria-label="妙笔 miaobi">'
        '<b aria-hidden="true">妙</b><span>妙笔<i>miaobi</i></span></a>'
        f'<nav aria-label="{"页面" if chinese else "Pages"}">{pages}'
        f'<a href="{same}/" hreflang="{other}" lang="{other}">{name}</a>'
        f'<button type="button" id="scheme" aria-label="{scheme}" title="{scheme}">'
        "◐</button></nav></header>"
    )
