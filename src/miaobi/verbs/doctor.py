"""Check what is installed, what each missing part is for, whether memory and disk
suffice, and which command helps.

Uses no network, but for a PostgreSQL server that MIAOBI_DATABASE_URL names.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Literal

from miaobi.core import machine
from miaobi.core.files import home
from miaobi.core.language import say
from miaobi.core.registry import Registry
from miaobi.core.store import Store
from miaobi.engines import engines

State = Literal["ok", "missing", "notice", "problem"]
MARKS: dict[State, str] = {"ok": "✓", "missing": "·", "notice": "!", "problem": "✗"}
# What the quickstart needs, with a margin.
MIN_MEMORY = 3e9
MIN_DISK = 5e9
BUSIEST = 3
"""Programs that are named when the machine is busy."""


@dataclass(frozen=True)
class Finding:
    name: str
    state: State
    what: str
    mend: str = ""
    """The command or the sentence that helps."""

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
        if self.healthy:
            verdict = say(
                "All is well: everything that is needed is here.",
                "一切正常：所需的都已就绪。",
            )
        else:
            verdict = say(
                "There are problems; the commands that help are above.",
                "有些问题需要修复，命令见上。",
            )
        return "\n".join([*map(str, self.findings), "", verdict])


checks: Registry[Callable[[], Finding]] = Registry(
    "checks", {"database": "miaobi.serve.checks:check_database"}
)
"""What other packages have to say of this machine and of what lies on it."""


def doctor() -> Report:
    """Check this machine and this installation."""
    return Report(
        (
            _python(),
            *_parts(),
            *_copyleft(),
            *_engines(),
            _npm(),
            _apt(),
            _load(),
            _memory(),
            _disk(),
            _models(),
            *_registered(),
            _accelerator(),
        )
    )


def _python() -> Finding:
    cores = say("cores", "核")
    return Finding(
        "Python",
        "ok",
        f"{platform.python_version()}, {os.cpu_count()} {cores}, {platform.machine()}",
    )


def _parts() -> list[Finding]:
    """Return the optional parts: a package, the extra that installs it, its purpose."""
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
        (
            "av",
            "audio",
            say("sound files, read and written", "读写音频文件"),
        ),
        ("wandb", "wandb", say("Weights & Biases tracking", "Weights & Biases 记录")),
    ]
    return [_part(*part) for part in parts]


def _part(package: str, extra: str, purpose: str) -> Finding:
    if importlib.util.find_spec(package):
        return Finding(package, "ok", f"{version(package)}: {purpose}")
    return Finding(
        package,
        "missing",
        say(
            f"not installed; it is for {purpose}",
            f"未安装；安装后可用：{purpose}",
        ),
        f"{Path(sys.executable).name} -m pip install 'miaobi[{extra}]'",
    )


GPL_LIBRARIES = {
    "av": {"libx264": "x264", "libx265": "x265"},
    "espeakng-loader": {"libespeak-ng": "espeak-ng"},
    "piper-tts": {"espeakbridge": "espeak-ng"},
}
"""Files of a package that are under the GPL, by how their names begin."""


def _copyleft() -> list[Finding]:
    """Return what is under the GPL inside packages that are themselves not, or that stay
    in a process of their own.
    """
    found = {
        package: libraries
        for package, names in GPL_LIBRARIES.items()
        if (libraries := _libraries(package, names))
    }
    if not found:
        return []
    listed = "; ".join(
        f"{package} ({', '.join(libraries)})" for package, libraries in found.items()
    )
    return [
        Finding(
            say("GPL parts", "GPL 部分"),
            "ok",
            say(
                f"{listed}. Using them here is free; an image or installer that is passed on with them "
                "is passed on under the GPL, with their notices (docs/guides/serve.md)",
                f"{listed}。本机使用不受限制；若分发含有它们的镜像或安装包，须按 GPL 分发并附其声明"
                "（docs/guides/serve.md）",
            ),
        )
    ]


def _libraries(package: str, names: Mapping[str, str]) -> list[str]:
    """Those of these libraries that an installed package brings."""
    try:
        files = distribution(package).files or ()
    except PackageNotFoundError:
        return []
    present = {
        library
        for file in files
        for name, library in names.items()
        if file.name.startswith(name)
    }
    return sorted(present)


def _engines() -> list[Finding]:
    findings = list[Finding]()
    for name in engines.names():
        module = engines.get(name)
        mend = module.installed()
        formats = ", ".join(module.FORMATS)
        findings.append(
            Finding(
                say(f"engine {name}", f"引擎 {name}"),
                "missing" if mend else "ok",
                say(f"reads {formats}", f"可读取 {formats}"),
                mend or "",
            )
        )
    return findings


def _npm() -> Finding:
    purpose = say(
        "starter packs from npm, such as all Tang poems",
        "来自 npm 的数据包，例如全唐诗",
    )
    mend = say(
        "install Node.js (nodejs.org or your system's packages)",
        "安装 Node.js（nodejs.org 或系统软件包）",
    )
    return _client("npm", purpose, mend)


def _apt() -> Finding:
    purpose = say("starter packs from Debian", "来自 Debian 的数据包")
    return _client("apt-get", purpose, "")


def _client(name: str, purpose: str, mend: str) -> Finding:
    if shutil.which(name):
        return Finding(name, "ok", purpose)
    missing = say(
        f"not installed; it is for {purpose}", f"未找到；安装后可用：{purpose}"
    )
    return Finding(name, "missing", missing, mend)


def _load() -> Finding:
    """Say whether other programs use the cores, and which use most of them."""
    before = _processor_seconds()
    percent = machine.busy_percent()
    name = say("load", "负载")
    if percent <= machine.BUSY_PERCENT:
        what = say(
            f"idle: {percent:.0f} % of the cores in use",
            f"空闲：已用 {percent:.0f} %",
        )
        return Finding(name, "ok", what)
    used = {
        process: seconds - before[process]
        for process, seconds in _processor_seconds().items()
        if process in before
    }
    busiest = sorted(used, key=lambda process: used[process], reverse=True)[:BUSIEST]
    programs = ", ".join(f"{program} ({pid})" for pid, program in busiest)
    what = say(
        f"busy: {percent:.0f} % of the cores are in use by other programs, most by {programs}",
        f"繁忙：其他程序占用 {percent:.0f} % 的处理器，主要是 {programs}",
    )
    mend = say(
        "let them finish or stop them: until then everything takes longer than the recipes say",
        "请等待它们结束或停止它们：在此之前，一切都会比配方所述更慢",
    )
    return Finding(name, "notice", what, mend)


def _processor_seconds() -> dict[tuple[int, str], float]:
    """Return (process id, program) -> seconds of processor time, of all other processes."""
    import psutil

    seconds = dict[tuple[int, str], float]()
    for process in psutil.process_iter(["name", "cpu_times"]):
        times = process.info["cpu_times"]
        if times is not None and process.pid != os.getpid():
            key = (process.pid, process.info["name"])
            seconds[key] = times.user + times.system
    return seconds


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    name = say("memory", "内存")
    what = say(
        f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free",
        f"共 {memory.total / 1e9:.1f} GB，可用 {memory.available / 1e9:.1f} GB",
    )
    if memory.available >= MIN_MEMORY:
        return Finding(name, "ok", what)
    mend = say(
        "close other programs: the quickstart needs 3 GB",
        "请关闭其他程序：快速开始需要 3 GB",
    )
    return Finding(name, "problem", what, mend)


def _disk() -> Finding:
    folder = home()
    existing = next(item for item in (folder, *folder.parents) if item.exists())
    free = shutil.disk_usage(existing).free
    name = say("disk", "磁盘")
    what = say(
        f"{free / 1e9:.1f} GB free at {folder}", f"{folder} 剩余 {free / 1e9:.1f} GB"
    )
    if not os.access(existing, os.W_OK):
        what = say(f"{existing} cannot be written", f"{existing} 不可写")
        return Finding(name, "problem", what, "export MIAOBI_HOME=~/miaobi")
    if free >= MIN_DISK:
        return Finding(name, "ok", what)
    mend = say(
        "free some space, or: export MIAOBI_HOME=/another/disk",
        "请清理空间，或：export MIAOBI_HOME=/另一块盘",
    )
    return Finding(name, "problem", what, mend)


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


def _registered() -> list[Finding]:
    findings = []
    for name in checks.names():
        try:
            check = checks.get(name)
        except ModuleNotFoundError as error:
            finding = Finding(
                name,
                "missing",
                say(
                    f"not checked: the package {error.name} is not installed",
                    f"未检查：未安装 {error.name} 包",
                ),
                f"{Path(sys.executable).name} -m pip install 'miaobi[all]'",
            )
        else:
            finding = check()
        findings.append(finding)
    return findings


def _accelerator() -> Finding:
    """Look for a driver; importing torch alone takes seconds."""
    what = say("none: everything runs on the CPU", "无：全部在 CPU 上运行")
    if shutil.which("nvidia-smi"):
        what = say("an NVIDIA driver is here", "已安装 NVIDIA 驱动")
    return Finding(say("accelerator", "加速器"), "ok", what)
