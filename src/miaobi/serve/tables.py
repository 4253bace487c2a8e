"""Tables in the server's database, by the package that brings them: the server's own,
and those of other packages.

A module declares them on `records.Table`, and their history is a folder of Alembic
versions beside it. Each history is its own: revisions of two packages may have the same
number, and when a package goes, its tables stay as they are and hinder nobody.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from miaobi.core.registry import Registry


class TableModule(Protocol):
    MIGRATIONS: Path
    """The folder of versions; the first of them has down_revision None."""


OWN = "server"

tables: Registry[TableModule] = Registry("tables", {OWN: "miaobi.serve.records"})
