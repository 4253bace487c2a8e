"""Processes of the code under test: commands, a session of several steps, a server."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil
from tests.upgrade.api import SECONDS, wait_until

import miaobi

KERNELS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "ATEN_CPU_CAPABILITY": "default",
}
"""One thread, and of each library the kernels that every x86 processor runs: the same order of sums everywhere."""
LIBRARIES = ("torch", "transformers", "peft")
SESSION = Path(__file__).with_name("session.py")


def versions() -> dict[str, str]:
    """On what the bits of the weights depend beside the code."""
    libraries = {name: version(name) for name in LIBRARIES}
    return {"machine": platform.machine(), **libraries}


def environment(root: Path) -> dict[str, str]:
    """For a process whose models, data and database lie in `root`/home."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MIAOBI_")
    }
    paths = [str(Path(miaobi.__file__).parents[1]), inherited.get("PYTHONPATH", "")]
    own = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),  # wherever it starts
        "MIAOBI_HOME": str(root / "home"),
        "MIAOBI_LANG": "en",
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    return {**inherited, **KERNELS, **own}


def start(root: Path, *argv: str) -> subprocess.Popen[str]:
    """`miaobi ARGV`, in the folder `root`."""
    return subprocess.Popen(
        [sys.executable, "-m", "miaobi.cli", *argv],
        cwd=root,
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(root: Path, *argv: str) -> str:
    """What `miaobi ARGV` prints. Raises RuntimeError with its errors when it fails."""
    process = start(root, *argv)
    out, err = process.communicate(timeout=SECONDS)
    if process.returncode:
        raise RuntimeError(f"miaobi {' '.join(argv)}: {process.returncode}\n{err}")
    return out


def run_session(root: Path, steps: dict[str, Any]) -> dict[str, Any]:
    """What came of each step (session.py), in one process."""
    questions = root / "steps.json"
    answers = root / "results.json"
    questions.write_text(json.dumps(steps))
    done = subprocess.run(
        [sys.executable, "-P", str(SESSION), str(questions), str(answers)],
        cwd=root,
        env=environment(root),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the session ended with {done.returncode}\n{done.stderr}")
    results: dict[str, Any] = json.loads(answers.read_text())
    return results


DATABASE = Path("home") / "server" / "records.sqlite"


def migration(root: Path) -> str:
    """The revision of the server's tables."""
    with closing(sqlite3.connect(root / DATABASE)) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0])


class Server:
    """`miaobi serve` on a free port. Its log is `root`/serve.log."""

    def __init__(self, root: Path, workers: int) -> None:
        self.log = root / "serve.log"
        self._clients: dict[str, httpx.Client] = {}
        options = (
            "--port",
            "0",
            "--no-studio",
            "--streams",
            "1",
            "--drain-seconds",
            "1",
        )
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "miaobi.cli", "serve", *options),
                    *("--workers", str(workers), "--log-level", "warning"),
                ],
                cwd=root,
                env=environment(root),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        greeting = self.process.stdout.readline()
        if not greeting:
            raise RuntimeError(f"the server did not start\n{self.log.read_text()}")
        self.address = greeting.split()[-1].removesuffix("/v1")
        try:
            wait_until(self._ready)
        except TimeoutError:
            self.kill()
            raise

    def _ready(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.address}/ready", timeout=5).status_code == 200
        return False

    def client(self, key: str) -> httpx.Client:
        """The client with this key, open as long as the server is."""
        if key not in self._clients:
            self._clients[key] = httpx.Client(
                base_url=self.address,
                headers={"authorization": f"Bearer {key}"},
                timeout=SECONDS,
            )
        return self._clients[key]

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *raised: object) -> None:
        """Nothing that was started here goes on."""
        if self.process.poll() is None:
            self.kill()

    def jobs(self) -> list[psutil.Process]:
        """The processes of the jobs that run, the oldest first."""
        children = psutil.Process(self.process.pid).children()
        return sorted(children, key=lambda child: child.create_time())

    def stop(self) -> None:
        """As an operator does: jobs that run write a checkpoint and go back to the queue."""
        self.process.terminate()
        self._wait()

    def kill(self) -> None:
        """As a power cut does, with the processes of its jobs."""
        jobs = self.jobs() if self.process.poll() is None else []
        self.process.kill()
        for job in jobs:
            with suppress(psutil.NoSuchProcess):
                job.kill()
        psutil.wait_procs(jobs, timeout=SECONDS)
        self._wait()

    def _wait(self) -> None:
        for client in self._clients.values():
            client.close()
        self.process.wait(SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
