from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys

import pytest

from miaobi import cli
from miaobi.core import machine
from miaobi.verbs import doctor


def test_healthy_and_offline(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: object,
) -> None:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path))

    def refuse(*_: object) -> None:
        raise AssertionError("doctor reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "engine llamacpp" in out
    assert "miaobi data fetch smollm2" in out
    assert cli.main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert all(item["mend"] for item in findings if item["state"] != "ok")


def test_every_missing_part_names_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: (
            None if name in ("torch", "gguf", "wandb") else find_spec(name, *rest)
        ),
    )
    by_name = {item.name: item for item in doctor._parts()}
    assert by_name["torch"].state == "missing"
    assert "miaobi[train]" in by_name["torch"].mend
    assert "miaobi[wandb]" in by_name["wandb"].mend


def test_a_full_disk_and_little_memory_are_problems(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import psutil

    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda path: shutil._ntuple_diskusage(10**10, 10**10 - 5, 5),
    )
    monkeypatch.setattr(
        psutil,
        "virtual_memory",
        lambda: type("Memory", (), {"available": 1e8, "total": 1e9}),
    )
    assert doctor._disk().state == doctor._memory().state == "problem"
    assert not doctor.Report((doctor._disk(),)).healthy
    assert "MIAOBI_HOME" in doctor._disk().mend


def test_a_busy_machine_is_noticed_and_no_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The program that computed between the two looks is named first."""
    looks = iter([{(1, "init"): 5.0, (7, "ffmpeg"): 9.0}, {(1, "init"): 5.0, (7, "ffmpeg"): 9.4}])  # fmt: skip
    monkeypatch.setattr(doctor, "_processor_seconds", lambda: next(looks))
    monkeypatch.setattr(machine, "busy_percent", lambda: 85.0)
    finding = doctor._load()
    assert finding.state == "notice"
    assert "85 % of the cores" in finding.what
    assert finding.what.endswith("most by ffmpeg (7), init (1)")
    assert "takes longer" in finding.mend
    assert doctor.Report((finding,)).healthy
    assert str(finding).startswith("! load")


def test_an_idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "busy_percent", lambda: 2.0)
    assert doctor._load().state == "ok"


def test_all_other_processes_are_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as other:
        assert other.pid in {pid for pid, _ in doctor._processor_seconds()}
        assert os.getpid() not in {pid for pid, _ in doctor._processor_seconds()}
        other.communicate(b"\n")


def test_what_is_gpl_inside_packages_is_said() -> None:
    findings = doctor._copyleft()
    assert len(findings) == 1
    assert "av (x264, x265)" in findings[0].what
    assert "passed on under the GPL" in findings[0].what


def test_without_such_packages_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = {"pyyaml": {"libx264": "x264"}, "no-such-package": {"a": "a"}}
    monkeypatch.setattr(doctor, "GPL_LIBRARIES", packages)
    assert doctor._copyleft() == []
