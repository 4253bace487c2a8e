"""CONTRIBUTING.md, followed to the letter: its packages are written out, installed in an
environment of their own, and used.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
VERSES = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。\n\n" * 80
BEEP_FILES = (
    "pyproject.toml",
    "miaobi_beep/__init__.py",
    "miaobi_beep/beeps.py",
    "miaobi_beep/data.py",
    "miaobi_beep/engine.py",
    "miaobi_beep/family.py",
    "miaobi_beep/jobs.py",
    "miaobi_beep/metrics.py",
    "miaobi_beep/names.py",
    "miaobi_beep/periodic.py",
    "miaobi_beep/recipes/tune.yaml",
    "miaobi_beep/routes.py",
    "miaobi_beep/studio/__init__.py",
    "miaobi_beep/studio/page.html",
    "miaobi_beep/studio/page.py",
    "miaobi_beep/tables.py",
    "miaobi_beep/versions/0001_beeps.py",
    "miaobi_beep/writer.py",
)
BEEP_INPUTS = ("verses.songs", "requests.jsonl", "ask.py")
RUN_ALL = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from miaobi.cli import main

results = []
for argv in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(argv)
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""
"""Runs commands of miaobi in one process: most of their time goes into imports."""


@dataclass(frozen=True)
class Chapter:
    """A part of the page that builds a package."""

    text: str

    def block(self, name: str) -> str:
        """The first fenced block after the mention of a file."""
        match = re.search(
            rf"`{re.escape(name)}`:\n\n```\w+\n(.*?)```", self.text, re.DOTALL
        )
        assert match, f"CONTRIBUTING.md has no {name}"
        return match[1]

    def write(self, folder: Path, names: Sequence[str]) -> None:
        """Write the blocks of these files."""
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.block(name), encoding="utf-8")

    def commands(self) -> list[str]:
        """The commands, in their order, without their prompts."""
        blocks = re.findall(r"```console\n(.*?)```", self.text, re.DOTALL)
        return [line.removeprefix("$ ") for line in "".join(blocks).splitlines()]


_, _own, _modality = re.split(
    r"^## (?:A package of your own|A modality of your own)$", PAGE, flags=re.MULTILINE
)
PACKAGE, MODALITY = Chapter(_own), Chapter(_modality)


def executable(command: str, python: Path) -> list[str]:
    """A command of the page as it is run in the package's environment."""
    program, *arguments = command.split()
    if program == "miaobi":
        return [str(python), "-m", "miaobi.cli", *arguments]
    assert [program, *arguments][:2] == ["pip", "install"]
    return [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
        *arguments[1:],
    ]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh environment that sees this one's packages."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    site = next(home.glob("lib/python*/site-packages"))
    # A .pth line that begins with import also runs the editable install's own .pth
    # files.
    (site / "parent.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    )
    return home / "bin" / "python"


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Of processes with models and data of their own."""
    own = {
        "MIAOBI_HOME": str(tmp_path / "home"),
        "MIAOBI_LANG": "en",
        "OMP_NUM_THREADS": "1",
    }
    return {**os.environ, **own}


# A package of your own.


@pytest.fixture(scope="module")
def bigram(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the package."""
    folder = tmp_path_factory.mktemp("package")
    names = ("pyproject.toml", "miaobi_bigram/family.py", "miaobi_bigram/engine.py")
    PACKAGE.write(folder, (*names, "bigram.yaml"))
    (folder / "miaobi_bigram" / "__init__.py").touch()
    (folder / "verses.txt").write_text(VERSES, encoding="utf-8")
    return folder


def test_the_package_works_as_written(
    bigram: Path, python: Path, variables: dict[str, str]
) -> None:
    outputs = []
    for command in PACKAGE.commands():
        done = subprocess.run(
            executable(command, python),
            cwd=bigram,
            env=variables,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        outputs.append(done.stdout)
    _, trained, sampled, likeliest = outputs
    assert "bigram@1" in trained
    assert 0 < len(sampled.strip()) <= 8
    # The likeliest characters after 春.
    assert likeliest.strip().startswith("眠不觉晓，")


def test_names_collide_in_favour_of_what_is_built_in(
    bigram: Path, python: Path
) -> None:
    """Another package cannot replace `gpt` unseen; its own names are listed beside the
    built-in ones.
    """
    site = next((python.parents[1] / "lib").glob("python*/site-packages"))
    intruder = site / "intruder-1.dist-info"
    intruder.mkdir()
    (intruder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: intruder\nVersion: 1\n"
    )
    (intruder / "entry_points.txt").write_text("[miaobi.families]\ngpt = json\n")
    code = (
        "from miaobi.families import families; "
        "print(families.get('gpt').__name__, families.names().count('gpt'), "
        "'bigram' in families.names())"
    )
    done = subprocess.run(
        [str(python), "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=bigram,
    )
    assert done.stdout.strip() == "miaobi.families.gpt 1 True"


# A modality of your own.


@pytest.fixture
def beep(tmp_path: Path, python: Path) -> Path:
    """The folder of the package, which is installed."""
    folder = tmp_path / "beep"
    MODALITY.write(folder, (*BEEP_FILES, *BEEP_INPUTS))
    command = MODALITY.commands()[0]
    subprocess.run(executable(command, python), cwd=folder, check=True, timeout=240)
    return folder


@pytest.fixture
def server(
    beep: Path, python: Path, variables: dict[str, str], tmp_path: Path
) -> Iterator[str]:
    """The address of `miaobi serve`, once it has started."""
    options = ["--port", "0", "--workers", "2"]
    log = tmp_path / "serve.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*executable("miaobi serve", python), *options],
            cwd=beep,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    try:
        assert process.stdout is not None
        greeting = process.stdout.readline()
        assert greeting, log.read_text()
        yield greeting.split()[-1].removesuffix("/v1")
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_the_modality_works_as_written(
    beep: Path, python: Path, variables: dict[str, str], request: pytest.FixtureRequest
) -> None:
    _, *commands, serve, client = MODALITY.commands()
    done = subprocess.run(
        [str(python), "-c", RUN_ALL],
        input=json.dumps([command.split()[1:] for command in commands]),
        cwd=beep,
        env=variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    for command, (code, out, err) in zip(commands, results, strict=True):
        assert code == 0, f"{command}\n{out}\n{err}"
    outputs = [out for _, out, _ in results]
    inspected, trained, listed, _, _, evaluated, answered = outputs
    assert "8 songs, 80 notes" in inspected
    assert "tune@1" in trained and "tune@1" in listed and "beep/scale" in listed
    with wave.open(str(beep / "tune.wav")) as sound:
        assert sound.getnframes() == 8 * 2000
    assert b"AI-generated" in (beep / "tune.wav").read_bytes()
    assert '"notes": "cde"' in (beep / "scale.jsonl").read_text()
    assert "step " in evaluated and "notes " in evaluated
    assert "2 of 2 requests answered" in answered
    check_batch(beep / "answers.jsonl")

    assert [serve, client.split()[:2]] == ["miaobi serve", ["python", "ask.py"]]
    address = request.getfixturevalue("server")
    done = subprocess.run(
        [str(python), "ask.py", address],
        cwd=beep,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check_client(done.stdout.splitlines())
    check_page(address)
    metrics = httpx.get(f"{address}/metrics").text
    # Of this server alone: 14 notes of a quarter of a second.
    assert 'miaobi_beep_seconds_total{model="beep/scale"} 3.5' in metrics


def check_page(address: str) -> None:
    """The page in the studio plays a note, and shows what the API refuses."""
    with httpx.Client(base_url=f"{address}/studio", follow_redirects=True) as client:
        found = client.get("/zh/beeps").text
        assert "<h1>音符</h1>" in found
        token = re.findall(r'name="token" value="(\w+)"', found)[0]
        fields = {"length": "5", "token": token}
        assert "<li>cdefg</li>" in client.post("/zh/beeps/play", data=fields).text
        refused = client.post("/zh/beeps/play", data={**fields, "length": "100"})
        assert refused.status_code == 400
        assert "length" in refused.text


def check_batch(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    up, own = (row["response"]["body"]["notes"] for row in rows)
    assert up == "cdefgabC"
    assert len(own) == 8 and own[0] == "c"


def check_client(lines: list[str]) -> None:
    """What ask.py printed."""
    assert lines[:3] == ["played cd", "played cde", "played cdef"]
    album, trained, played, kept, *used = [line.split() for line in lines[3:]]
    assert album[:2] == ["album", "succeeded"] and album[2].startswith("file-")
    assert trained[:2] == ["trained", "succeeded"]
    own = trained[2]
    assert own.startswith("tune-") and len(played[1]) == 8
    # Periodic work forgot all but the last two.
    assert kept == ["kept", played[1], "cdef"]
    # A beep of the batch and three of the client; one of each trained model.
    assert sorted(used) == sorted(
        [
            ["used", "beep/scale", "4", "4.25"],
            ["used", "tune", "1", "2"],
            ["used", own, "1", "2"],
        ]
    )


def test_the_page_has_every_file_of_the_modality() -> None:
    named = re.findall(r"`([\w/.]+)`:\n\n```", MODALITY.text)
    assert sorted(named) == sorted((*BEEP_FILES, *BEEP_INPUTS))
