"""`miaobi generate text` and `miaobi chat` as a person uses them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.engines.small import small_bundle

from miaobi import cli


@pytest.fixture(scope="module")
def poet(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_bundle(tmp_path_factory.mktemp("generate") / "poet"))


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_bundle(tmp_path_factory.mktemp("generate") / "talker", chat=True))


def test_three_answers_and_a_labelled_file(poet: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "text", "--model", poet, "--engine", "native", "--prompt", "春", "--n", "3", "--max-new-tokens", "8",
             "--temperature", "0.8", "--top-p", "0.95", "--seed", "1", "--out", str(tmp_path / "poems.jsonl")]
    assert cli.main(words) == 0
    shown = capsys.readouterr()
    assert [line[:3] for line in shown.out.split("\n\n")] == ["[1]", "[2]", "[3]"]
    assert "AI-generated / 由AI生成" in shown.err
    assert len((tmp_path / "poems.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert cli.main(words) == 0
    assert capsys.readouterr().out == shown.out, "the same seed gives the same answers"


def test_json(poet: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "text", "--model", poet, "--engine", "native", "--prompt", "春", "--max-new-tokens", "4", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)["texts"][0]
    assert answer["facts"]["engine"] == "native"
    assert answer["facts"]["seed"] is not None


@pytest.mark.parametrize(("words", "said"), [
    (["--prompt", "x", "--num-beams", "2", "--top-k", "3"], "cannot be used together"),
    (["--prompt", "x", "--temperature", "99"], "temperature is 99"),
    (["--prompt", "x", "--min-new-tokens", "9", "--max-new-tokens", "3"], "is above max_new_tokens"),
    (["--prompt", "x", "--out", "a.pdf"], "no known ending"),
    (["--prompt", "x", "--tempreture", "1"], "temperature"),
    ([], "either prompt or messages"),
    (["--prompt", "月" * 400], "context holds 256"),
])
def test_mistakes_are_told(poet: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "text", "--model", poet, "--engine", "native", *words]) != 0
    shown = capsys.readouterr()
    assert said in shown.err
    assert not shown.out


def test_chat_works_through_a_pipe(talker: str, tmp_path: Path) -> None:
    saved = tmp_path / "talk.txt"
    lines = f"春江\n/system 说诗\n/wrong\n/help\n海上\n/save {saved}\n/reset\n/exit\nnever read\n"
    done = subprocess.run([sys.executable, "-m", "miaobi.cli", "chat", "--model", talker, "--engine", "native", "--max-new-tokens", "6"],
                          input=lines, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 0, done.stderr
    assert "There is no command /wrong" in done.stderr
    assert "/reset" in done.stdout
    text = saved.read_text(encoding="utf-8")
    assert text.startswith("> 春江\n")
    assert "> 海上" in text
    assert "AI-generated / 由AI生成" in text
    assert "never read" not in done.stdout


def test_chat_refuses_a_model_that_only_continues(poet: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["chat", "--model", poet, "--engine", "native"]) != 0
    assert "miaobi generate text" in capsys.readouterr().err


def test_ctrl_c_stops_the_answer_not_the_chat(smollm2: Path) -> None:
    """In a real terminal: a long answer is interrupted, then another question is answered."""
    import pty
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "miaobi.cli", "chat", "--model", str(smollm2), "--max-new-tokens", "1000", "--temperature", "0"]
    talk = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True)
    os.close(follower)
    seen = b""

    def until(words: bytes, seconds: float = 60) -> None:
        nonlocal seen
        end = time.monotonic() + seconds
        while words not in seen:
            assert time.monotonic() < end, seen.decode(errors="replace")
            seen += os.read(leader, 4096)
    until("› ".encode())
    seen = b""
    os.write(leader, b"Tell me a very long story about a river.\n")
    try:
        while len(seen) < 80:
            seen += os.read(leader, 4096)
        os.kill(talk.pid, signal.SIGINT)
        until("› ".encode())
        assert b"[stopped]" in seen
        os.write(leader, b"/exit\n")
        assert talk.wait(30) == 0
    finally:
        talk.kill()
        talk.wait()
        os.close(leader)
