from __future__ import annotations

import importlib.util
import json
import shutil
import socket

import pytest

from miaobi import cli
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
