"""What is installed, what each missing part would give, whether memory and disk
suffice, and the command that mends it.

Touches no network.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from miaobi.core.files import home
from miaobi.core.language import say
from miaobi.core.store import Store
from miaobi.engines import engines

State = Literal["ok", "missing", "problem"]
MARKS: dict[str, str] = {"ok": "✓", "missing": "·", "problem": "✗"}
SMALLEST_MEMORY, SMALLEST_DISK = (
    3e9,
    5e9,
)  # what the quickstart needs, with room to spare


@dataclass(frozen=True)
class Finding:
    name: str
    state: State
    what: str
    mend: str = ""

    def __str__(self) -> str:
        line = f"{MARKS[self.state]} {self.name:<14} {self.what}"
        return f"{line}\n    → {self.mend}" if self.mend else line


@dataclass(frozen=True)
class Report:
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        return all(item.state != "problem" for item in self.findings)

    def __str__(self) -> str:
        verdict = (
            say(
                "All is well: everything that is needed is here.",
                "一切正常：所需的都已就绪。",
            )
            if self.healthy
            else say(
                "Some things need mending; the commands are above.",
                "有些问题需要修复，命令见上。",
            )
        )
        return "\n".join([*map(str, self.findings), "", verdict])


def doctor() -> Report:
    """Look over this machine and this installation."""
    return Report(
        (
            _python(),
            *_parts(),
            *_engines(),
            *_clients(),
            _memory(),
            _disk(),
            _models(),
            _accelerator(),
        )
    )


def _python() -> Finding:
    return Finding(
        "Python",
        "ok",
        f"{platform.python_version()}, {os.cpu_count()} {say('cores', '核')}, {platform.machine()}",
    )


def _parts() -> list[Finding]:
    """The optional parts: package, the extra that brings it, what it gives."""
    parts = [
        (
            "torch",
            "train",
            say(
                "training, and running what was trained here",
                "训练，以及运行在此训练的模型",
            ),
        ),
        (
            "transformers",
            "train",
            say("any Transformers checkpoint", "任意 Transformers 模型"),
        ),
        (
            "tensorboard",
            "train",
            say(
                "curves while training: tensorboard --logdir runs",
                "训练曲线：tensorboard --logdir runs",
            ),
        ),
        ("pyarrow", "train", say("Parquet files", "Parquet 文件")),
        ("gguf", "train", say("export to GGUF", "导出 GGUF")),
        ("wandb", "wandb", say("Weights & Biases tracking", "Weights & Biases 记录")),
    ]
    return [_part(*part) for part in parts]


def _part(package: str, extra: str, gives: str) -> Finding:
    if importlib.util.find_spec(package):
        return Finding(package, "ok", f"{version(package)}: {gives}")
    return Finding(
        package,
        "missing",
        say(f"not installed; would give {gives}", f"未安装；安装后可用：{gives}"),
        f"{Path(sys.executable).name} -m pip install 'miaobi[{extra}]'",
    )


def _engines() -> list[Finding]:
    found = []
    for name in engines.names():
        mend = engines.get(name).installed()
        formats = ", ".join(engines.get(name).FORMATS)
        found.append(
            Finding(
                say(f"engine {name}", f"引擎 {name}"),
                "missing" if mend else "ok",
                say(f"reads {formats}", f"可读取 {formats}"),
                mend or "",
            )
        )
    return found


def _clients() -> list[Finding]:
    rows = []
    for client, gives in (
        (
            "npm",
            say(
                "starter packs from npm, such as all Tang poems",
                "来自 npm 的数据包，例如全唐诗",
            ),
        ),
        ("apt-get", say("starter packs from Debian", "来自 Debian 的数据包")),
    ):
        there = shutil.which(client)
        rows.append(
            Finding(
                client,
                "ok" if there else "missing",
                gives
                if there
                else say(
                    f"not found; would give {gives}", f"未找到；安装后可用：{gives}"
                ),
                ""
                if there
                else {
                    "npm": say(
                        "install Node.js (nodejs.org or your system's packages)",
                        "安装 Node.js（nodejs.org 或系统软件包）",
                    )
                }.get(client, ""),
            )
        )
    return rows


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    what = say(
        f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free",
        f"共 {memory.total / 1e9:.1f} GB，可用 {memory.available / 1e9:.1f} GB",
    )
    if memory.available < SMALLEST_MEMORY:
        return Finding(
            say("memory", "内存"),
            "problem",
            what,
            say(
                "close other programs: the quickstart needs 3 GB",
                "请关闭其他程序：快速开始需要 3 GB",
            ),
        )
    return Finding(say("memory", "内存"), "ok", what)


def _disk() -> Finding:
    place = home()
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    name, what = (
        say("disk", "磁盘"),
        say(
            f"{free / 1e9:.1f} GB free at {place}", f"{place} 剩余 {free / 1e9:.1f} GB"
        ),
    )
    if not os.access(existing, os.W_OK):
        return Finding(
            name,
            "problem",
            say(f"{existing} cannot be written", f"{existing} 不可写"),
            "export MIAOBI_HOME=~/miaobi",
        )
    if free < SMALLEST_DISK:
        return Finding(
            name,
            "problem",
            what,
            say(
                "free some space, or: export MIAOBI_HOME=/another/disk",
                "请清理空间，或：export MIAOBI_HOME=/另一块盘",
            ),
        )
    return Finding(name, "ok", what)


def _models() -> Finding:
    names = Store().names()
    if names:
        return Finding(say("models", "模型"), "ok", ", ".join(names))
    return Finding(
        say("models", "模型"),
        "missing",
        say("none in the store yet", "模型库为空"),
        "miaobi data fetch smollm2",
    )


def _accelerator() -> Finding:
    """Asked without importing torch, which alone takes seconds."""
    if shutil.which("nvidia-smi"):
        return Finding(
            say("accelerator", "加速器"),
            "ok",
            say("an NVIDIA driver is here", "已安装 NVIDIA 驱动"),
        )
    return Finding(
        say("accelerator", "加速器"),
        "ok",
        say("none: everything runs on the CPU", "无：全部在 CPU 上运行"),
    )
