"""Databases for tests: SQLite in a folder, and a PostgreSQL that the test run starts
for itself, as a user without rights.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

INSTALL = "apt-get install postgresql"


def _programs() -> Path | None:
    """The folder of PostgreSQL's programs: Debian keeps them off the PATH."""
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"),
        key=lambda path: int(path.parts[4]),
    )
    on_path = shutil.which("pg_ctl")
    return (
        installed[-1].parent if installed else Path(on_path).parent if on_path else None
    )


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server, started on a free port of this machine and
    stopped at the end.
    """
    programs = _programs()
    if programs is None:
        pytest.skip(INSTALL)
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(
        tempfile.mkdtemp(prefix="miaobi-pg-", dir="/tmp")
    )  # a socket's path may have 107 characters
    if user:
        shutil.chown(folder, user)

    def run(*argv: str) -> None:
        subprocess.run(
            argv,
            user=user,
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            extra_groups=[] if user else None,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C"},
        )

    data = str(folder / "data")
    run(
        str(programs / "initdb"),
        "-D",
        data,
        "-U",
        "miaobi",
        "--auth=trust",
        "--encoding=UTF8",
        "--no-sync",
    )
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c shared_buffers=16MB -c max_connections=60"
    run(
        str(programs / "pg_ctl"),
        "-D",
        data,
        "-o",
        options,
        "-l",
        str(folder / "log"),
        "-w",
        "start",
    )
    try:
        yield f"postgresql://miaobi@127.0.0.1:{port}/postgres"
    finally:
        run(str(programs / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'records.sqlite'}"
    import psycopg

    url: str = request.getfixturevalue("postgres")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return url
