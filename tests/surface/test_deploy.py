"""What lies in deploy/: units and images that their own tools accept, that stay closed,
and that name what exists.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT, IMAGE = ROOT / "deploy" / "miaobi.service", ROOT / "deploy" / "Containerfile"


def unit() -> dict[str, list[str]]:
    """Every key of the unit, with its values."""
    found = dict[str, list[str]]()
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_is_whole_and_closed() -> None:
    service = unit()
    assert service["ExecStart"] == ["/opt/miaobi/bin/miaobi serve"] and service[
        "KillSignal"
    ] == ["SIGTERM"]
    assert int(service["TimeoutStopSec"][0]) > 30 + 5, (
        "systemd would kill before the drain's end"
    )
    for key in (
        "NoNewPrivileges",
        "DynamicUser",
        "PrivateTmp",
        "PrivateDevices",
        "ProtectHome",
        "RestrictNamespaces",
        "LockPersonality",
    ):
        assert service[key] == ["yes"]
    assert (
        service["ProtectSystem"] == ["strict"]
        and service["CapabilityBoundingSet"] == [""]
        and service["UMask"] == ["0077"]
    )
    assert "MIAOBI_HOST=127.0.0.1" in service["Environment"]


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="apt-get install systemd"
)
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / "miaobi.service"
    copy.write_text(
        UNIT.read_text().replace(
            "/opt/miaobi/bin/miaobi", shutil.which("true") or "/bin/true"
        )
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
    )
    told = [line for line in done.stderr.splitlines() if "miaobi.service" in line]
    assert done.returncode == 0 and not told, done.stderr


def test_the_image_copies_what_exists_installs_what_is_offered_and_runs_as_nobody() -> (
    None
):
    text = IMAGE.read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists(), name
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]["optional-dependencies"]
    installed = re.search(r"'\.\[([a-z,]+)\]'", text)
    assert installed and set(installed[1].split(",")) <= set(extras)
    users = re.findall(r"^USER (\w+)$", text, re.MULTILINE)
    assert (
        users == ["miaobi"]
        and "MIAOBI_HOST=0.0.0.0" in text
        and "STOPSIGNAL SIGTERM" in text
    )
    known = {
        "FROM",
        "WORKDIR",
        "RUN",
        "COPY",
        "ENV",
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    }
    assert {
        line.split()[0]
        for line in text.splitlines()
        if line and not line.startswith("#")
    } <= known


def test_no_secret_is_in_what_is_deployed() -> None:
    for path in (UNIT, IMAGE):
        assert not re.search(
            r"mb-[A-Za-z0-9_-]{20,}|(?:API_KEY|PASSWORD)=\S",
            path.read_text(encoding="utf-8"),
        )


def test_the_image_leaves_out_what_is_gpl() -> None:
    """PyAV's wheel (x264, x265) and espeak-ng come with extras that are not installed."""
    extras = re.search(r"'\.\[([a-z,]+)\]'", IMAGE.read_text(encoding="utf-8"))
    assert extras is not None
    assert not {"audio", "espeak", "all"} & set(extras[1].split(","))
