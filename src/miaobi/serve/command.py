"""`miaobi serve`: the store's models behind OpenAI's API, and the studio. Imports
nothing heavy before it is called.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from miaobi.core.config import checked
from miaobi.core.errors import BadInput, NotFound
from miaobi.core.language import say

if TYPE_CHECKING:
    from miaobi.serve.names import Names
    from miaobi.serve.settings import Settings

ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?",
    re.IGNORECASE,
)
"""RFC 6454, 6.2."""
LEVELS = ("debug", "info", "warning", "error")


@checked
def serve(
    *,
    model: tuple[str, ...] = (),
    host: str = "",
    port: Annotated[int, Field(ge=0, le=65_535)] | None = None,
    api_key_file: Path | None = None,
    allow_host: tuple[str, ...] = (),
    allow_origin: tuple[str, ...] = (),
    memory_gb: Annotated[float, Field(ge=0)] = 0,
    streams: Annotated[int, Field(ge=1)] = 16,
    queue: Annotated[int, Field(ge=0)] = 64,
    workers: Annotated[int, Field(ge=0)] = 1,
    drain_seconds: Annotated[float, Field(ge=0)] = 30,
    no_studio: bool = False,
    no_conversations: bool = False,
    conversation_days: Annotated[int, Field(ge=0)] = 30,
    log_prompts: bool = False,
    log_level: str = "",
) -> None:
    """Serve models over HTTP, in OpenAI's shapes, until Ctrl-C or SIGTERM.

    Args:
        model: serve this one, opened at the start; may be given several times, also as
            ALIAS=PATH; without it, every model in the store and every fetched pack,
            each opened by the first request for it
        host: address to listen on, by default MIAOBI_HOST or 127.0.0.1; any other
            needs a key
        port: by default MIAOBI_PORT or 8000; 0 for a free one
        api_key_file: file with one key a line, beside MIAOBI_API_KEY and those of
            `miaobi keys create`
        allow_host: another name of this server beside its address, as behind a proxy;
            may be given several times
        allow_origin: a page of your own that may ask this server from a browser, as
            https://app.example.org; may be given several times
        memory_gb: memory for opened models together, 0 for half of what is free
        streams: answers of one model made at the same time
        queue: requests that may wait for a slot; the next one is refused with
            Retry-After
        workers: jobs (fine-tuning, batches) that run at the same time, each in its own
            process; 0 for none here
        drain_seconds: how long running answers may take to end when the server is
            stopped
        no_studio: without the page at /studio
        no_conversations: store none, whatever a request says
        conversation_days: a stored conversation is deleted so long after its last turn;
            0 for never
        log_prompts: write prompts into the log
        log_level: debug, info, warning or error, by default MIAOBI_LOG_LEVEL or info
    """
    from miaobi.serve.names import Names
    from miaobi.serve.settings import Settings

    settings = Settings(
        host=host or os.environ.get("MIAOBI_HOST") or "127.0.0.1",
        port=_port(port),
        models=model,
        api_keys=keys_of(api_key_file),
        hosts=allow_host,
        origins=tuple(map(_origin, allow_origin)),
        memory_bytes=int(memory_gb * 1e9),
        streams=streams,
        queue=queue,
        workers=workers,
        drain_seconds=drain_seconds,
        studio=not no_studio,
        keep_conversations=not no_conversations,
        conversation_days=conversation_days,
        log_prompts=log_prompts,
        log_level=_level(log_level),
    )
    demand_key(settings)
    names = Names(settings)
    names.fetch()
    run(settings, names)


def run(settings: Settings, names: Names) -> None:
    """Listen until Ctrl-C or SIGTERM."""
    from miaobi.serve import listening, logs
    from miaobi.serve.admission import Admission
    from miaobi.serve.opening import build_pool
    from miaobi.serve.services import Services

    # Its advice about packages does not belong in the log.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    at = listening.bind(settings)
    logs.configure(settings.log_level)
    print(greeting(settings, at.getsockname()[1], names.names()), flush=True)
    for problem in names.damaged():
        logging.getLogger("miaobi.serve").error("%s", problem)
    listening.listen(
        Services(settings, build_pool(settings, names), Admission(settings)), at
    )


def greeting(settings: Settings, port: int, names: list[str]) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{'127.0.0.1' if host in ('0.0.0.0', '[::]') else host}:{port}"
    listed_names = ", ".join(names[:12]) + (
        f" … ({len(names)})" if len(names) > 12 else ""
    )
    parts = [
        say(f"miaobi 妙笔 serves at {url}/v1", f"miaobi 妙笔 服务地址：{url}/v1"),
        say(
            f"  models  {listed_names or 'none yet: miaobi data fetch smollm2'}",
            f"  模型    {listed_names or '还没有：miaobi data fetch smollm2'}",
        ),
        *(
            [say(f"  studio  {url}/studio", f"  工作台  {url}/studio")]
            if settings.studio
            else []
        ),
        say(f"  docs    {url}/docs", f"  文档    {url}/docs"),
        say("  Ctrl-C stops it.", "  按 Ctrl-C 停止。"),
    ]
    return "\n".join(parts)


def keys_of(file: Path | None) -> tuple[str, ...]:
    """The keys in the file and in $MIAOBI_API_KEY. Raises NotFound, or BadInput for a
    file without any.
    """
    environment_keys = (
        [os.environ["MIAOBI_API_KEY"]] if os.environ.get("MIAOBI_API_KEY") else []
    )
    if file is None:
        return tuple(environment_keys)
    if not file.is_file():
        raise NotFound(
            say(f"There is no file {file}.", f"找不到文件 {file}。"),
            say(
                "Write one key a line into it, or leave --api-key-file out.",
                "请在其中每行写一个密钥，或去掉 --api-key-file。",
            ),
        )
    file_keys = [
        line.strip()
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    if not file_keys:
        raise BadInput(
            say(f"{file} holds no key.", f"{file} 中没有密钥。"),
            say("Write one key a line into it.", "请每行写一个密钥。"),
        )
    return (*environment_keys, *file_keys)


def demand_key(settings: Settings) -> None:
    """Raise BadInput for a server that others can reach without a key."""
    if settings.local or settings.api_keys:
        return
    from miaobi.serve.database import open_records
    from miaobi.serve.keyring import all_keys

    records = open_records(settings.database)
    try:
        active_keys = [row for row in all_keys(records) if row.revoked is None]
    finally:
        records.close()
    if not active_keys:
        raise BadInput(
            say(
                f"{settings.host} can be reached from other machines, and no key protects it.",
                f"{settings.host} 可从其他机器访问，但没有设置密钥。",
            ),
            say(
                "Make one: miaobi keys create NAME. Or give --api-key-file FILE, or MIAOBI_API_KEY.",
                "请创建密钥：miaobi keys create NAME；或给出 --api-key-file FILE 或 MIAOBI_API_KEY。",
            ),
        )


def _port(option: int | None) -> int:
    word = (
        str(option) if option is not None else os.environ.get("MIAOBI_PORT") or "8000"
    )
    if not word.isdigit() or int(word) > 65_535:
        raise BadInput(
            say(f"The port is {word!r}.", f"端口为 {word!r}。"),
            say(
                "It is a number from 0 to 65535 (--port, or MIAOBI_PORT).",
                "应为 0 到 65535 之间的数（--port 或 MIAOBI_PORT）。",
            ),
        )
    return int(word)


def _origin(option: str) -> str:
    """Return an origin as browsers send it: scheme, host and port, in lower case."""
    if not ORIGIN.fullmatch(option):
        raise BadInput(
            say(
                f"--allow-origin is {option!r}, which is no origin of a page.",
                f"--allow-origin 为 {option!r}，不是网页的来源。",
            ),
            say(
                "Give scheme, host and port as the browser shows them, such as "
                "https://app.example.org or http://localhost:5173. * would let every "
                "page that you visit ask this server.",
                "请按浏览器显示的形式给出协议、主机与端口，如 https://app.example.org 或 "
                "http://localhost:5173。* 会让您访问的任何网页都能使用此服务器。",
            ),
            field="allow_origin",
        )
    return option.lower()


def _level(option: str) -> str:
    level = (option or os.environ.get("MIAOBI_LOG_LEVEL") or "info").lower()
    if level not in LEVELS:
        raise BadInput(
            say(f"There is no log level {level!r}.", f"没有日志级别 {level!r}。"),
            ", ".join(LEVELS),
        )
    return level
