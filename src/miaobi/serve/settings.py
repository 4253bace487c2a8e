"""The settings of one server. Everything else is in the store and in the database."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from miaobi.core import storage
from miaobi.core.files import home
from miaobi.core.storage import Location


@dataclass(frozen=True)
class Limits:
    """What one request may ask for. What goes beyond is refused by name, never cut silently."""

    body_bytes: int = 32 << 20
    upload_bytes: int = 2 << 30
    """Of one file in /v1/files; streamed to disk."""
    body_seconds: float = 30.0
    body_rate: int = 10_000
    """A body may take body_seconds, and a second more for every body_rate bytes of it that came."""
    header_bytes: int = 32 << 10
    header_count: int = 100
    json_depth: int = 32
    n: int = 16
    max_tokens: int = 32_768
    stop: int = 16
    messages: int = 2048
    schema_bytes: int = 8 << 10
    schema_depth: int = 200
    pixels: int = 4096 * 4096
    texts: int = 2048
    """Of one call to embeddings or moderations."""
    tools: int = 128
    speech_characters: int = 100_000
    """Of a text that is read aloud: about two hours of speech."""


@dataclass(frozen=True)
class Settings:
    host: str = "127.0.0.1"
    port: int = 8000
    models: tuple[str, ...] = ()
    """Served, and opened at the start; empty for every model in the store, each opened
    when first asked for.
    """
    api_keys: tuple[str, ...] = ()
    """Keys from a file or $MIAOBI_API_KEY, beside those in the database (miaobi keys create)."""
    hosts: tuple[str, ...] = ()
    """Names that this server is called by beside its own address, as behind a proxy."""
    origins: tuple[str, ...] = ()
    """Origins of pages, in lower case, that may ask this server from a browser."""
    database_url: str = ""
    """Empty: SQLite under $MIAOBI_HOME."""
    memory_bytes: int = 0
    """For opened models together, 0 for half of what is free at the start."""
    streams: int = 16
    """Answers of one text model that run at the same time."""
    queue: int = 64
    """Requests that may wait for a slot before the next one is refused."""
    wait_seconds: float = 120.0
    """The longest a request waits for its slot."""
    drain_seconds: float = 30.0
    """After SIGTERM, how long running answers may take to end."""
    picture_seconds: int = 3600
    """How long the URL of a generated picture is good for."""
    workers: int = 1
    """Jobs (fine-tuning, batches) that run at the same time, each in its own process; 0
    leaves them to another server.
    """
    job_memory_bytes: int = 0
    """What one job's process may hold before it is stopped; 0 for nine tenths of what
    is free as it starts.
    """
    keep_conversations: bool = True
    """Whether conversations may be stored; a request may always choose not to."""
    conversation_days: int = 30
    """Without a new turn, after which a conversation is deleted; 0 for never."""
    log_prompts: bool = False
    log_level: str = "info"
    studio: bool = True
    limits: Limits = field(default_factory=Limits)

    @property
    def folder(self) -> Path:
        """Where the server keeps its files and, by default, its database."""
        return home() / "server"

    @property
    def files(self) -> Location:
        """Where uploads and outputs lie: among the server's files, or at a URL."""
        return storage.root() / "server" / "files"

    @property
    def database(self) -> str:
        return (
            self.database_url
            or os.environ.get("MIAOBI_DATABASE_URL")
            or f"sqlite:///{self.folder / 'records.sqlite'}"
        )

    @property
    def local(self) -> bool:
        """Reachable from this machine only."""
        return self.host in ("127.0.0.1", "::1", "localhost")
